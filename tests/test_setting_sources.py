"""An error about a setting says where the setting comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi
from liveavatar.cli._doctor import run_checks
from liveavatar.cli._errors import ConfigurationError
from liveavatar.cli._settings import load, open_client

INVALID_URLS = [
    "nowhere",
    "ftp://example.com",
    "http://example.com",
    "https://example.com/?a=1",
    "https://me:pw@x.org",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("LIVEAVATAR_BASE_URL", "LIVEAVATAR_API_KEY"):
        monkeypatch.setenv(name, "")  # restored after the test, also when .env has set it
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("cls", [LiveAvatarApi, AsyncLiveAvatarApi])
@pytest.mark.parametrize("url", INVALID_URLS)
def test_client(cls: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients name the argument or the variable."""
    with pytest.raises(ValueError, match=r"^the argument base_url must"):
        cls("a-key", base_url=url)
    monkeypatch.setenv("LIVEAVATAR_BASE_URL", url)
    with pytest.raises(ValueError, match=r"^base_url \(from LIVEAVATAR_BASE_URL\) must"):
        cls("a-key")
    with pytest.raises(ValueError, match=r"^the argument api_key "):
        cls("two words", base_url="https://example.com")
    monkeypatch.setenv("LIVEAVATAR_API_KEY", "two words")
    with pytest.raises(ValueError, match=r"^api_key \(from LIVEAVATAR_API_KEY\) "):
        cls(base_url="https://example.com")


@pytest.mark.parametrize("url", INVALID_URLS)
@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("option", "--base-url"),
        ("environment", "LIVEAVATAR_BASE_URL"),
        (".env", "LIVEAVATAR_BASE_URL (in the file .env)"),
    ],
)
def test_command_line(url: str, place: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line and its doctor name the option, the variable or the file."""
    (folder / ".env").write_text("LIVEAVATAR_API_KEY=a-key\n" + f"LIVEAVATAR_BASE_URL={url}\n" * (place == ".env"))
    if place == "environment":
        monkeypatch.setenv("LIVEAVATAR_BASE_URL", url)
    settings = load(url if place == "option" else None)
    with pytest.raises(ConfigurationError) as caught, open_client(settings):
        pass
    assert str(caught.value).startswith(f"{name} must ")
    *_, last = run_checks(settings, session=False)
    assert (last.state, last.name, last.message) == ("fail", "Base URL", str(caught.value))


def test_key_in_a_file(folder: Path) -> None:
    """An API key that cannot be sent is named with its file, and not shown."""
    (folder / ".env").write_text("LIVEAVATAR_API_KEY='two words'\n")
    with pytest.raises(ConfigurationError, match=r"^LIVEAVATAR_API_KEY \(in the file \.env\) ") as caught:
        open_client(load()).__enter__()
    assert "two words" not in str(caught.value)


def test_plain_http() -> None:
    """The error for http:// says why, and how to reach a mock server in another container."""
    with pytest.raises(ValueError, match="http:// would show the API key") as caught:
        LiveAvatarApi("a-key", base_url="http://mock:8080/v1")
    assert "network_mode: service:mock" in str(caught.value)
