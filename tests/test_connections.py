"""One pool for all sessions, the caller's own pool when there is one, and nothing but our requests through either."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import trustme
from liveavatar import LiveAvatarApiError, LiveAvatarConnectionError
from liveavatar import LiveAvatarNewSessionRequest as Request
from liveavatar.sandbox import SandboxService, running

from tests.clients import client
from tests.test_surface import Wire

LITE = Request(avatar_id="7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742")


def sessions_at_once(api: Any, number: int) -> None:
    """Open so many sessions at the same time, and close them at the same time."""
    if hasattr(api, "runner"):

        async def all_of_them() -> None:
            opened = await asyncio.gather(*(api.api.new_session(LITE) for _ in range(number)))
            await asyncio.gather(*(api.api.close_session(session.session_id) for session in opened))

        api.runner.run(all_of_them())
        return
    with ThreadPoolExecutor(number) as threads:
        opened = list(threads.map(api.new_session, [LITE] * number))
        list(threads.map(api.close_session, [session.session_id for session in opened]))


# ---- Our own pool ------------------------------------------------------------------------------------------


@pytest.fixture
def sandbox() -> Iterator[SandboxService]:
    with running() as sandbox:
        yield sandbox


def test_a_hundred_sessions_one_after_another_use_one_connection(flavour: str, sandbox: SandboxService) -> None:
    with client(flavour, sandbox.api_key, base_url=sandbox.base_url) as api:
        for _ in range(100):
            with api.session(LITE):
                pass
    assert sandbox.requests == {"token": 100, "start": 100, "stop": 100}
    assert sandbox.connections == 1


def test_sessions_at_once_use_no_more_connections_than_they_are_and_use_them_again(
    flavour: str, sandbox: SandboxService
) -> None:
    with client(flavour, sandbox.api_key, base_url=sandbox.base_url) as api:
        sessions_at_once(api, 8)
        assert 1 <= sandbox.connections <= 8
        before = sandbox.connections
        for _ in range(10):
            with api.session(LITE):
                pass
        assert sandbox.connections == before
        for _ in range(5):
            sessions_at_once(api, 8)
        assert sandbox.connections <= 8


def test_refused_requests_give_their_connection_back(flavour: str, sandbox: SandboxService) -> None:
    with client(flavour, sandbox.api_key, base_url=sandbox.base_url) as api:
        for _ in range(20):
            with pytest.raises(LiveAvatarApiError):
                api.stop_session("0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274")
    assert sandbox.connections == 1


# ---- A caller's pool ---------------------------------------------------------------------------------------


class Callers:
    """A caller's own httpx client or aiohttp session, with hooks that see each request."""

    def __init__(self, flavour: str, kind: str, tls: ssl.SSLContext | None = None) -> None:
        self.flavour = flavour
        self.kind = kind
        self.tls = tls
        self.seen: list[str] = []
        self.pool: Any = None

    def _make(self) -> Any:
        marks: dict[str, Any] = {"headers": {"x-mine": "1"}, "cookies": {"mine": "1"}}
        verify = self.tls or True
        if self.kind == "aiohttp session":
            traces = aiohttp.TraceConfig()
            traces.on_request_start.append(self._aiohttp_hook)
            connector = aiohttp.TCPConnector(ssl=verify)
            return aiohttp.ClientSession(trace_configs=[traces], connector=connector, **marks)
        if self.flavour == "async":
            return httpx.AsyncClient(event_hooks={"request": [self._async_hook]}, verify=verify, **marks)
        return httpx.Client(event_hooks={"request": [self._hook]}, verify=verify, **marks)

    def _hook(self, request: httpx.Request) -> None:
        self.seen.append(request.url.path)

    async def _async_hook(self, request: httpx.Request) -> None:
        self._hook(request)

    async def _aiohttp_hook(self, session: Any, context: Any, request: aiohttp.TraceRequestStartParams) -> None:
        self.seen.append(request.url.path)

    @contextlib.contextmanager
    def client(self, base_url: str) -> Iterator[Any]:
        """A client of ours over the caller's pool, which its owner closes afterwards."""
        argument = "session" if self.kind == "aiohttp session" else "http_client"
        if self.flavour == "blocking":
            with self._make() as self.pool:
                with client("blocking", "key", base_url=base_url, http_client=self.pool) as api:
                    yield api
                assert not self.pool.is_closed
            return
        with asyncio.Runner() as loop, contextlib.ExitStack() as stack:

            async def make() -> Any:
                return self._make()

            self.pool = loop.run(make())
            close = self.pool.close if argument == "session" else self.pool.aclose
            stack.callback(lambda: loop.run(close()))
            api = client("async", "key", base_url=base_url, **{argument: self.pool})
            api.runner.close()
            api.runner = loop
            loop.run(api.api.__aenter__())
            stack.callback(lambda: loop.run(api.api.__aexit__(None, None, None)))
            yield api
            api.close()
            assert not (self.pool.closed if argument == "session" else self.pool.is_closed)

    def state(self) -> tuple[Any, ...]:
        """What of the pool we must not change, but for its cookies."""
        hooks = self.pool.trace_configs if self.kind == "aiohttp session" else self.pool.event_hooks
        return dict(self.pool.headers), self.pool.timeout, repr(hooks)

    def cookies(self) -> list[str]:
        """Names of the cookies that the pool keeps."""
        jar = self.pool.cookie_jar if self.kind == "aiohttp session" else self.pool.cookies.jar
        return sorted(getattr(cookie, "key", None) or cookie.name for cookie in jar)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


CALLERS = [("blocking", "httpx client"), ("async", "httpx client"), ("async", "aiohttp session")]


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_a_callers_pool_carries_the_requests_and_is_neither_changed_nor_closed(
    flavour: str, kind: str, wire: Wire
) -> None:
    callers = Callers(flavour, kind)
    with callers.client(wire.url) as api:
        before = callers.state()
        for _ in range(5):
            with api.session(LITE):
                pass
        assert callers.state() == before
    assert callers.seen == ["/v1/sessions/token", "/v1/sessions/start", "/v1/sessions/stop"] * 5
    assert wire.connections == 1


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_cookies_of_the_service_do_not_get_into_a_callers_pool(flavour: str, kind: str, wire: Wire) -> None:
    callers = Callers(flavour, kind)
    wire.headers = {"Set-Cookie": "service=1; Path=/"}
    with callers.client(wire.url) as api:
        with api.session(LITE):
            pass
        assert callers.cookies() == ["mine"]


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_what_a_callers_pool_adds_to_requests_stays_out_of_ours(flavour: str, kind: str, wire: Wire) -> None:
    with Callers(flavour, kind).client(wire.url) as api, api.session(LITE):
        pass
    for request in wire.received:
        assert request.header("cookie") == request.header("x-mine") == []
        assert request.credential  # one, and only one


# ---- Nothing but our requests ------------------------------------------------------------------------------


def test_cookies_of_the_service_are_not_sent_back(flavour: str, wire: Wire) -> None:
    wire.headers = {"Set-Cookie": "service=1; Path=/"}
    with client(flavour, "key", base_url=wire.url) as api:
        for _ in range(2):
            with api.session(LITE):
                pass
    assert [request.header("cookie") for request in wire.received] == [[]] * 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error_and_the_other_host_sees_nothing(flavour: str, wire: Wire, status: int) -> None:
    with Wire() as other:
        wire.headers = {"Location": f"{other.url}/v1/sessions/token"}
        wire.answers["token"] = status, ""
        with client(flavour, "key", base_url=wire.url) as api, pytest.raises(LiveAvatarApiError) as caught:
            api.new_session(LITE)
        assert caught.value.status == status
        assert other.received == []
        assert wire.endpoints == ["token"]


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_a_callers_pool_that_follows_redirects_does_not_for_us(flavour: str, kind: str, wire: Wire) -> None:
    callers = Callers(flavour, kind)
    with Wire() as other, callers.client(wire.url) as api:
        if kind == "httpx client":  # aiohttp's sessions always do
            callers.pool.follow_redirects = True
        wire.headers = {"Location": f"{other.url}/v1/sessions/token"}
        wire.answers["token"] = 307, ""
        with pytest.raises(LiveAvatarApiError):
            api.new_session(LITE)
        assert other.received == []


# ---- Proxies -----------------------------------------------------------------------------------------------


class Proxy:
    """Notes where it is asked to connect to, and refuses."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.told: list[str] = []
        """The headers that came with it."""
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                proxy.asked.append(self.path)
                proxy.told.append(str(self.headers))
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Proxy() as proxy:
        yield proxy


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_the_environments_proxy_is_asked_for_a_tunnel(
    flavour: str, proxy: Proxy, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy.url)
    settings = {"base_url": "https://api.liveavatar.test", "max_retries": 0}
    with client(flavour, "the-api-key", **settings) as api, pytest.raises(LiveAvatarConnectionError) as caught:
        api.new_session(LITE)
    assert proxy.asked == ["api.liveavatar.test:443"]
    assert "the-api-key" not in proxy.told[0]
    assert caught.value.request_sent is False


def test_a_service_on_this_machine_is_not_asked_for_through_a_proxy(
    flavour: str, proxy: Proxy, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with client(flavour, "key", base_url=wire.url) as api, api.session(LITE):
        pass
    assert proxy.asked == []


def test_a_host_that_the_environment_excepts_is_reached_without_the_proxy(
    flavour: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", ".liveavatar.invalid")
    settings = {"base_url": "https://api.liveavatar.invalid", "max_retries": 0}
    with client(flavour, "key", **settings) as api, pytest.raises(LiveAvatarConnectionError):
        api.create_session_token(LITE)
    assert proxy.asked == []


# ---- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure_wire(authority: trustme.CA) -> Iterator[Wire]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Wire(context) as wire:
        yield wire


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_an_untrusted_certificate_is_refused_at_once(flavour: str, secure_wire: Wire) -> None:
    with client(flavour, "key", base_url=secure_wire.url) as api:
        with pytest.raises(LiveAvatarConnectionError, match="certificate") as caught:
            api.new_session(LITE)
        assert caught.value.attempts == 1
    assert secure_wire.received == []


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_a_callers_pool_may_trust_it(flavour: str, kind: str, secure_wire: Wire, trusting: ssl.SSLContext) -> None:
    with Callers(flavour, kind, trusting).client(secure_wire.url) as api, api.session(LITE):
        pass
    assert secure_wire.endpoints == ["token", "start", "stop"]


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every TLS context that is made from here on."""
    made: list[object] = []
    new = ssl.SSLContext.__new__

    def noted(cls: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(new(cls, *args, **kwargs))
        return made[-1]

    monkeypatch.setattr(ssl.SSLContext, "__new__", noted)
    return made


def test_sessions_share_one_tls_context_and_one_connection(
    flavour: str,
    secure_wire: Wire,
    authority: trustme.CA,
    contexts: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with client(flavour, "key", base_url=secure_wire.url) as api:
        for _ in range(20):
            with api.session(LITE):
                pass
    assert len(contexts) == 1
    assert secure_wire.connections == 1


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_no_tls_context_is_made_over_a_callers_pool(
    flavour: str, kind: str, secure_wire: Wire, trusting: ssl.SSLContext, contexts: list[object]
) -> None:
    with Callers(flavour, kind, trusting).client(secure_wire.url) as api:
        contexts.clear()
        for _ in range(5):
            with api.session(LITE):
                pass
        assert contexts == []
    assert secure_wire.connections == 1
