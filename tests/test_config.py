"""A client's settings: arguments, then the environment, then defaults; and the proxy of the environment."""

from __future__ import annotations

from typing import Any

import pytest
from liveavatar import LiveAvatarError, LiveAvatarNewSessionRequest
from liveavatar._config import Config, parse_credential
from liveavatar._constants import BASE_URL
from liveavatar._proxies import is_loopback, proxy_from_environment
from liveavatar.mock import mock_server

from tests.clients import client

AVATAR = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"


def config(**given: Any) -> Config:
    defaults = {"api_key": "key", "base_url": None, "timeout": 60.0, "max_retries": 2}
    return Config.from_arguments(**(defaults | given))


# ---- Credentials -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "  ", "\n"])
@pytest.mark.parametrize("variable", [None, "", " \n"])
def test_no_api_key(key: str | None, variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an API key, the error names the argument, the variable and the mock server."""
    if variable is not None:
        monkeypatch.setenv("LIVEAVATAR_API_KEY", variable)
    with pytest.raises(LiveAvatarError, match=r"api_key=.*LIVEAVATAR_API_KEY.*python -m liveavatar\.mock"):
        config(api_key=key)


@pytest.mark.parametrize("key", ["the-key", " the-key\n", "the-key\r\n", "\tthe-key"])
def test_api_key_stripped(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whitespace around a key is not a part of it, whether it is an argument or in the environment."""
    monkeypatch.setenv("LIVEAVATAR_API_KEY", "another")
    assert config(api_key=key).api_key.reveal() == "the-key"
    monkeypatch.setenv("LIVEAVATAR_API_KEY", key)
    for empty in (None, "", " "):
        assert config(api_key=empty).api_key.reveal() == "the-key"


INVALID_CHARACTERS = ["\r", "\n", "\0", " ", "\t", "\x7f", "\xa0", "é", "€", "\ud800", "\u200b"]


@pytest.mark.parametrize("character", INVALID_CHARACTERS)
def test_invalid_api_key(character: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with a character that no key has is refused, and not shown."""
    key = f"s3cret{character}s3cret"
    with pytest.raises(ValueError, match="api_key") as caught:
        config(api_key=key)
    assert "s3cret" not in repr(caught.value)
    if character not in "\0\ud800":  # which no environment variable has
        monkeypatch.setenv("LIVEAVATAR_API_KEY", key)
        with pytest.raises(ValueError, match="api_key") as caught:
            config(api_key=None)
        assert "s3cret" not in repr(caught.value)


@pytest.mark.parametrize("character", INVALID_CHARACTERS)
def test_invalid_session_token(character: str) -> None:
    """So is a session token."""
    with pytest.raises(ValueError, match="session_token") as caught:
        parse_credential(f"s3cret{character}s3cret", "session_token")
    assert "s3cret" not in repr(caught.value)


@pytest.mark.parametrize(("given", "cls"), [("", ValueError), (" \n", ValueError), (None, TypeError), (7, TypeError)])
def test_no_session_token(given: object, cls: type[Exception]) -> None:
    """A session token must be a string that is not empty."""
    with pytest.raises(cls, match="session_token"):
        parse_credential(given, "session_token")


def test_session_token_stripped() -> None:
    """Whitespace around a session token is not a part of it."""
    assert parse_credential(" a-token\n", "session_token").reveal() == "a-token"


def test_repr() -> None:
    """The API key is not in the repr of the settings."""
    assert "s3cret" not in repr(config(api_key="s3cret"))


# ---- The base URL ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "base_url"),
    [
        (None, BASE_URL),
        ("https://api.example.com", "https://api.example.com/v1"),
        ("https://api.example.com/", "https://api.example.com/v1"),
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("https://api.example.com:8443/proxy/v2", "https://api.example.com:8443/proxy/v2"),
        ("HTTPS://api.example.com", "https://api.example.com/v1"),
        ("https://API.Example.com:443/Proxy", "https://api.example.com/Proxy"),
        ("https://api.example.com:80", "https://api.example.com:80/v1"),
        ("http://LOCALHOST:80/v1", "http://localhost/v1"),
        ("http://[::1]:80", "http://[::1]/v1"),
        ("http://localhost:8080", "http://localhost:8080/v1"),
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"),
        ("http://127.1.2.3", "http://127.1.2.3/v1"),
        ("http://[::1]:8080", "http://[::1]:8080/v1"),
    ],
)
def test_base_url(given: str | None, base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base URL may be written in several ways, as an argument or in the environment."""
    assert config(base_url=given).base_url == base_url
    if given is not None:
        monkeypatch.setenv("LIVEAVATAR_BASE_URL", f" {given}\n")
        assert config(base_url=None).base_url == base_url


def test_default_base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable counts as absent, and a client's class may have another default."""
    monkeypatch.setenv("LIVEAVATAR_BASE_URL", " ")
    assert config(base_url=None).base_url == BASE_URL
    assert config(base_url=None, default_base_url="https://other.example/v3").base_url == "https://other.example/v3"


INVALID_BASE_URLS = [
    "",
    "  ",
    "api.liveavatar.com",
    "api.liveavatar.com/v1",
    "//api.liveavatar.com",
    "ftp://api.liveavatar.com",
    "file:///etc/passwd",
    "unix:///run/socket",
    "https://",
    "https:///v1",
    "https://:8080",
    "https://api.liveavatar.com:port",
    "https://api.liveavatar.com:0",
    "https://api.liveavatar.com:99999",
    "https://api.liveavatar.com:-1",
    "https://user:s3cret@api.liveavatar.com",
    "https://s3cret@api.liveavatar.com",
    "https://@api.liveavatar.com",
    "https://api.liveavatar.com?a=s3cret",
    "https://api.liveavatar.com/v1?",
    "https://api.liveavatar.com/v1#s3cret",
    "https://api.liveavatar.com/v1#",
    "https://api.liveavatar .com",
    "https://api.liveavatar.com\\@evil.example",
    "https://api.liveavatar.com/v1\r\nX: y",
    "https://api.liveavatar.com/v1\n",
    " https://api.liveavatar.com",
    "https://api.liveavatar.com/\xe9",
    "https://[::1",
    "https://api.liveavatar.com/v1/../v1",
    "https://api.liveavatar.com/./v1",
    "https://api.liveavatar.com/v1/%2e%2E/v1",
]
NOT_LOOPBACK = [
    "http://api.liveavatar.com",
    "http://10.0.0.1/v1",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "http://0.0.0.0",
    "http://[::]",
    "http://169.254.1.1",
    "http://2130706433.example",
]


@pytest.mark.parametrize("url", INVALID_BASE_URLS + NOT_LOOPBACK)
def test_invalid_base_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid base URL is refused, and its secrets are not shown."""
    with pytest.raises(ValueError, match="base_url") as caught:
        config(base_url=url)
    assert "s3cret" not in repr(caught.value)
    if url and url == url.strip():  # whitespace around a variable does no harm
        monkeypatch.setenv("LIVEAVATAR_BASE_URL", url)
        with pytest.raises(ValueError, match="base_url"):
            config(base_url=None)


@pytest.mark.parametrize("url", NOT_LOOPBACK)
def test_plain_http(url: str) -> None:
    """The error for http:// says that it is for loopback only."""
    with pytest.raises(ValueError, match=r"https://.*loopback"):
        config(base_url=url)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("128.0.0.1", False),
        ("0.0.0.0", False),
        ("localhost.example", False),
        ("", False),
        (None, False),
    ],
)
def test_is_loopback(host: str | None, loopback: bool) -> None:
    """Loopback is this machine, and nothing else."""
    assert is_loopback(host) is loopback


# ---- Other settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "cls", "message"),
    [
        ({"api_key": 7}, TypeError, "api_key must be a str, not int"),
        ({"api_key": b"key"}, TypeError, "api_key must be a str, not bytes"),
        ({"base_url": 7}, TypeError, "base_url must be a str, not int"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": float("inf")}, ValueError, "timeout"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"timeout": "60"}, TypeError, "timeout"),
        ({"timeout": None}, TypeError, "timeout"),
        ({"timeout": True}, TypeError, "timeout"),
        ({"max_retries": -1}, ValueError, "max_retries"),
        ({"max_retries": 1.5}, TypeError, "max_retries"),
        ({"max_retries": True}, TypeError, "max_retries"),
    ],
)
def test_invalid_setting(given: dict[str, Any], cls: type[Exception], message: str) -> None:
    """The error for an invalid setting names it."""
    with pytest.raises(cls, match=message):
        config(**given)


def test_valid_settings() -> None:
    """The settings are those that were given."""
    settings = config(timeout=5, max_retries=0)
    assert (settings.timeout, settings.max_retries) == (5.0, 0)
    assert isinstance(settings.timeout, float)


# ---- Proxies -----------------------------------------------------------------------------------------------

SERVICE = "https://api.liveavatar.com/v1"
PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        (SERVICE, {}, None),
        (SERVICE, {"HTTPS_PROXY": PROXY}, PROXY),
        (SERVICE, {"https_proxy": PROXY}, PROXY),
        (SERVICE, {"ALL_PROXY": PROXY}, PROXY),
        (SERVICE, {"HTTPS_PROXY": PROXY, "ALL_PROXY": "http://other.example"}, PROXY),
        (SERVICE, {"HTTP_PROXY": PROXY}, None),
        (SERVICE, {"HTTPS_PROXY": ""}, None),
        (SERVICE, {"HTTPS_PROXY": " proxy.example:3128 "}, PROXY),
        (SERVICE, {"HTTPS_PROXY": "https://proxy.example"}, "https://proxy.example"),
        (SERVICE, {"HTTPS_PROXY": "http://user:word@proxy.example"}, "http://user:word@proxy.example"),
        ("http://127.0.0.1:8080/v1", {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, None),
        ("http://localhost:8080/v1", {"HTTP_PROXY": PROXY}, None),
        ("http://[::1]:8080/v1", {"HTTP_PROXY": PROXY}, None),
    ],
)
def test_proxy(url: str, environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is that of the URL's scheme, then ALL_PROXY; loopback has none."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for required in (True, False):
        assert proxy_from_environment(url, required=required) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "url", "bypassed"),
    [
        ("*", SERVICE, True),
        ("api.liveavatar.com", SERVICE, True),
        ("API.LiveAvatar.com", SERVICE, True),
        ("liveavatar.com", SERVICE, True),
        (".liveavatar.com", SERVICE, True),
        ("*.liveavatar.com", SERVICE, True),
        ("avatar.com", SERVICE, False),
        ("other.example, api.liveavatar.com", SERVICE, True),
        ("other.example api.liveavatar.com", SERVICE, True),
        ("other.example,,", SERVICE, False),
        ("api.liveavatar.com:443", SERVICE, True),
        ("api.liveavatar.com:8443", SERVICE, False),
        ("api.liveavatar.com:8443", "https://api.liveavatar.com:8443/v1", True),
        ("10.0.0.0/8", "https://10.1.2.3/v1", True),
        ("10.0.0.0/8", "https://11.1.2.3/v1", False),
        ("10.1.2.3", "https://10.1.2.3/v1", True),
        ("10.1.2.3:443", "https://10.1.2.3/v1", True),
        ("fd00::/8", "https://[fd00::1]/v1", True),
        ("[fd00::1]", "https://[fd00::1]/v1", True),
        ("[fd00::1]:443", "https://[fd00::1]/v1", True),
        ("[fd00::1]:444", "https://[fd00::1]/v1", False),
        ("", SERVICE, False),
    ],
)
def test_no_proxy(no_proxy: str, url: str, bypassed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY is read as curl and requests read it: hosts, domains, ports and networks."""
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxy_from_environment(url, required=True) == (None if bypassed else PROXY)


@pytest.mark.parametrize(
    ("proxy", "cls"),
    [
        ("http://", ValueError),
        ("http://user:s3cret@", ValueError),
        ("http://s3cret:port", ValueError),
        ("http://user:s3cret@proxy.example:0", ValueError),
        ("http://user:s3cret@proxy .example", ValueError),
        ("http://[s3cret", ValueError),
        ("socks5://user:s3cret@proxy.example", LiveAvatarError),
        ("SOCKS4://user:s3cret@proxy.example", LiveAvatarError),
        ("ftp://user:s3cret@proxy.example", LiveAvatarError),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_invalid_proxy(proxy: str, cls: type[Exception], variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unusable proxy is an error that names the variable and not its value, unless no proxy is required."""
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(cls, match=variable) as caught:
        proxy_from_environment(SERVICE, required=True)
    assert "s3cret" not in repr(caught.value)
    assert proxy_from_environment(SERVICE, required=False) is None


def test_long_timeout(flavour: str) -> None:
    """A timeout that is longer than a socket can wait for works, too."""
    with mock_server() as server, client(flavour, server.api_key, base_url=server.base_url, timeout=1e300) as api:
        api.close_session(api.new_session(LiveAvatarNewSessionRequest(avatar_id=AVATAR)).session_id)
        assert server.running_sessions == []
