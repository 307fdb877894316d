"""H15. Proxies of the environment: passwords stay hidden, broken variables are named, NO_PROXY is honoured."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import httpx
import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi, LiveAvatarConnectionError, LiveAvatarError, _shutdown

from tests.clients import client
from tests.faults import server as fault
from tests.faults.canaries import leaks
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries
from tests.faults.pools import HOST, Tunnel, authority_file, outcome, server_context, started
from tests.faults.server import FaultServer

pytestmark = pytest.mark.row("H15")

CLIENTS: dict[str, Any] = {"blocking": LiveAvatarApi, "async": AsyncLiveAvatarApi}
VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without a proxy, whatever the machine's environment holds, and without many certificates to load."""
    monkeypatch.setenv("SSL_CERT_FILE", authority_file())
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy() -> Iterator[Tunnel]:
    """A proxy that notes where tunnels should lead, and refuses them."""
    with Tunnel(None) as tunnel:
        yield tunnel


# ---------------------------------------------------------------------------------------------------------------
# Passwords.

USER, PASSWORD = "CANARY-user", "%43ANARY-p%40ss"
"""In its URL the password is escaped: shown as it is or unescaped, it would be found."""


def with_password(url: str) -> str:
    return url.replace("http://", f"http://{USER}:{PASSWORD}@")


@pytest.mark.parametrize("answer", ["refused", "nothing", "403", "407", "502", "garbage", "closed"])
def test_password_of_a_proxy_that_fails(
    answer: str, flavour: str, proxy: Tunnel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However the proxy fails, its user name and password show in no error and no log line."""
    caplog.set_level("DEBUG", "liveavatar")
    proxy.answer = {
        "nothing": None,
        "garbage": b"\x00\x01 CANARY\r\n\r\n",
        "closed": b"",
    }.get(answer, f"HTTP/1.1 {answer} No\r\nContent-Length: 0\r\n\r\n".encode())
    if answer == "refused":
        proxy.__exit__()
    monkeypatch.setenv("HTTPS_PROXY", with_password(proxy.url))
    settings = {"base_url": f"https://{HOST}/v1", "max_retries": 1, "timeout": 0.5}
    with client(flavour, "key", **settings) as api, pytest.raises(LiveAvatarConnectionError) as caught:
        api.new_session(session_request())
    assert bool(proxy.heads) == (answer != "refused")
    assert leaks(*([] if answer == "garbage" else [caught.value, caplog])) == []
    assert USER not in str(caught.value)
    assert leaks(api) == []


def test_password_of_a_proxy_that_works(
    flavour: str, monkeypatch: pytest.MonkeyPatch, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """The password is sent to the proxy alone, and shows in no error, note or WARNING of a session."""
    caplog.set_level("DEBUG", "liveavatar")
    with FaultServer(server_context()) as server, Tunnel(server.port) as tunnel:
        server.is_calm_too.append(tunnel.is_calm)
        monkeypatch.setenv("HTTPS_PROXY", with_password(tunnel.url))
        with started(f"{flavour} own", f"https://{HOST}:{server.port}/v1") as api:
            server.on("start", fault.resets(), 1).on("stop", fault.resets(), 3)
            _, error = outcome(api.begin("new_session", session_request()))
            assert isinstance(error, LiveAvatarError)
            assert error.session_may_be_running is True
            assert leaks(error, caplog, api.api) == []
            server.settle()
            api.call("close_all_sessions")
        sent = base64.b64encode(b"CANARY-user:CANARY-p@ss").decode()
        assert any(f"Basic {sent}" in head for head in tunnel.heads)
        assert all("CANARY-api-key" not in head for head in tunnel.heads)
        assert all("proxy-authorization" not in request.headers for request in server.ledger.requests)
        assert server.running == set()


# ---------------------------------------------------------------------------------------------------------------
# Broken variables.

BROKEN = (
    "http://",
    "https://",
    "://127.0.0.1:8080",
    "http://:8080",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:port",
    "http://127.0.0.1:0",
    "http://[::1",
    "http://pro xy:8080",
    "http://pro\u00e9xy\x7f:8080",
    f"http://{USER}:{PASSWORD}@",
    f"{USER}:{PASSWORD}@:8080",
)


@pytest.mark.parametrize("value", BROKEN)
def test_broken_variable_is_named(value: str, flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is no URL of a proxy is a ValueError of the constructor that names it and hides its value."""
    for variable in VARIABLES if value == BROKEN[0] else VARIABLES[:1]:
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(ValueError, match=variable) as caught:
                CLIENTS[flavour]("key", base_url=f"https://{HOST}/v1")
            assert leaks(caught.value) == []
            # It does not matter where the proxy is not used.
            patch.setenv("NO_PROXY", HOST)
            CLIENTS[flavour]("key", base_url=f"https://{HOST}/v1")
            CLIENTS[flavour]("key", base_url="http://127.0.0.1:9/v1")


def test_broken_variable_does_not_matter_to_a_callers_client(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own client is used as it is."""
    make = httpx.Client if flavour == "blocking" else httpx.AsyncClient
    http = make(trust_env=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://")
    assert CLIENTS[flavour]("key", base_url=f"https://{HOST}/v1", http_client=http).open_sessions == ()
    http.close() if isinstance(http, httpx.Client) else asyncio.run(http.aclose())


@pytest.mark.parametrize("pool", ["blocking http_client", "async http_client", "async session"])
def test_broken_variable_and_a_closed_client(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop beside a caller's client that is closed fails to connect, and not because of the variable."""
    monkeypatch.setenv("HTTPS_PROXY", "http://")
    with started(pool, f"https://{HOST}/v1", max_retries=0) as api:
        api.call("adopt_session", "00000000-0000-4000-8000-00000000abcd")
        api.close_pool()
        with pytest.raises(LiveAvatarConnectionError):
            api.call("close_session", "00000000-0000-4000-8000-00000000abcd")
        api.call("release_session", "00000000-0000-4000-8000-00000000abcd")


def test_broken_variable_at_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that has become invalid for one client does not keep the sessions of another from being stopped."""
    with FaultServer() as server:
        other = CLIENTS["blocking"]("key", base_url=f"https://{HOST}/v1")
        other.adopt_session("00000000-0000-4000-8000-00000000abcd")
        api = CLIENTS["blocking"]("key", base_url=server.url)
        api.new_session(session_request())
        monkeypatch.setenv("HTTPS_PROXY", "http://")
        monkeypatch.setattr(_shutdown, "CLEANUP_TIMEOUT", 1.0)
        with mock.patch.object(_shutdown, "_exited", set()):
            _shutdown._on_exit()
        assert server.running == set()
        api.close()
        with pytest.raises(LiveAvatarError):
            other.close()


# ---------------------------------------------------------------------------------------------------------------
# NO_PROXY.

NAME = "api.example.invalid"
EXCLUDED = (
    (NAME, NAME, True),
    (NAME.upper(), NAME, True),
    ("example.invalid", NAME, True),
    (".example.invalid", NAME, True),
    ("*.example.invalid", NAME, True),
    ("*", NAME, True),
    (f"{NAME}:443", NAME, True),
    (f"{NAME}:8443", f"{NAME}:8443", True),
    ("*.example.invalid:443", NAME, True),
    (f" other.invalid , {NAME} ", NAME, True),
    (f"other.invalid {NAME}", NAME, True),
    ("10.0.0.0/8", "10.255.255.1", True),
    ("10.255.255.1", "10.255.255.1", True),
    ("fd00::/8", "[fd00::5]", True),
    ("[fd00::5]", "[fd00::5]", True),
    ("[fd00::5]:443", "[fd00::5]", True),
    ("", NAME, False),
    ("ample.invalid", NAME, False),
    ("*ample.invalid", "x-example.invalid", False),
    (f"{NAME}:8443", NAME, False),
    (f"{NAME}:443", f"{NAME}:8443", False),
    ("10.0.0.0/8", "11.1.2.3", False),
    ("10.0.0.0/99", "10.1.2.3", False),
    ("fd00::/8", "[fe00::5]", False),
    ("10.0.0.0/8", NAME, False),
    (f"x{NAME}", NAME, False),
)
"""NO_PROXY, the host of base_url, and whether the proxy is left out."""


@pytest.mark.parametrize(("no_proxy", "host", "excluded"), EXCLUDED)
def test_no_proxy(
    no_proxy: str, host: str, excluded: bool, flavour: str, proxy: Tunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY takes names, domains, ports, addresses and networks, as curl and requests do."""
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    settings = {"base_url": f"https://{host}/v1", "max_retries": 0, "timeout": 0.2 if excluded else 5.0}
    with client(flavour, "key", **settings) as api, pytest.raises(LiveAvatarError):
        api.create_session_token(session_request())
    port = "" if host.count(":") == 1 or "]:" in host else ":443"
    # httpcore writes an IPv6 address without its brackets.
    assert [re.sub(r"[\[\]]", "", target) for target in proxy.targets] == (
        [] if excluded else [re.sub(r"[\[\]]", "", f"{host}{port}")]
    )


def test_both_clients_read_the_environment_once(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set after the client was made does not change where its requests go."""
    with FaultServer() as server, started(f"{flavour} own", server.url) as api:
        monkeypatch.setitem(os.environ, "HTTP_PROXY", "http://127.0.0.1:9")
        api.call("close_session", api.call("new_session", session_request()).session_id)
        assert server.counts == (1, 1, 1)
