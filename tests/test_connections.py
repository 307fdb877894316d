"""One pool for all sessions, the caller's own pool when there is one, and nothing but our requests through either."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import http.server
import json
import re
import socket
import ssl
import threading
import time
import unittest.mock
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import trustme
from liveavatar import (
    AsyncLiveAvatarApi,
    InsufficientCreditsError,
    LiveAvatarApi,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    LiveAvatarTimeoutError,
)
from liveavatar import LiveAvatarNewSessionRequest as Request
from liveavatar.mock import MockServer, mock_server

from tests.clients import client, watch_aiohttp
from tests.test_surface import Wire, session_id

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


def tokens_at_once(api: Any, number: int) -> list[Any]:
    """Ask for so many tokens at the same time."""
    if hasattr(api, "runner"):

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*(api.api.create_session_token(LITE) for _ in range(number)))

        return api.runner.run(all_of_them())  # type: ignore[no-any-return]
    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(api.create_session_token, [LITE] * number))


# ---- Our own pool ------------------------------------------------------------------------------------------


@pytest.fixture
def mock() -> Iterator[MockServer]:
    with mock_server() as mock:
        yield mock


def test_a_hundred_sessions_one_after_another_use_one_connection(flavour: str, mock: MockServer) -> None:
    with client(flavour, mock.api_key, base_url=mock.base_url) as api:
        for _ in range(100):
            with api.session(LITE):
                pass
    assert mock.requests == {"token": 100, "start": 100, "stop": 100}
    assert mock.connections == 1


def test_sessions_at_once_use_no_more_connections_than_they_are_and_use_them_again(
    flavour: str, mock: MockServer
) -> None:
    with client(flavour, mock.api_key, base_url=mock.base_url) as api:
        sessions_at_once(api, 8)
        assert 1 <= mock.connections <= 8
        before = mock.connections
        for _ in range(10):
            with api.session(LITE):
                pass
        assert mock.connections == before
        for _ in range(5):
            sessions_at_once(api, 8)
        assert mock.connections <= 8


def test_refused_requests_give_their_connection_back(flavour: str, mock: MockServer) -> None:
    with client(flavour, mock.api_key, base_url=mock.base_url) as api:
        for _ in range(20):
            with pytest.raises(LiveAvatarApiError):
                api.stop_session("0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274")
    assert mock.connections == 1


class Gate:
    """A service that answers nobody before so many ask at the same time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.connections = 0
        self.open = 0
        self.requests = 0
        self._waiting: list[asyncio.StreamWriter] = []
        self._started: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, int]] = concurrent.futures.Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Gate:
        self._thread.start()
        self._loop, port = self._started.result(10)
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=4096)
        self._started.set_result((asyncio.get_running_loop(), server.sockets[0].getsockname()[1]))
        await self._over.wait()
        server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                self.requests += 1
                self._waiting.append(writer)
                if self.requests >= self.number:
                    for each in self._waiting:
                        each.write(self._token())
                    self._waiting.clear()
        self.open -= 1

    def _token(self) -> bytes:
        body = json.dumps({"code": 1000, "data": {"session_id": session_id(1), "session_token": "t"}, "message": ""})
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def eventually(promise: Callable[[], bool]) -> None:
    """Wait until it holds; for ever, if it never does, which the test's time-out ends."""
    while not promise():
        time.sleep(0.01)


@pytest.fixture
def short_keep_alive(monkeypatch: pytest.MonkeyPatch) -> float:
    seconds = 0.3
    for module in ("_aiohttp", "_httpcore"):
        monkeypatch.setattr(f"liveavatar._transports.{module}.KEEPALIVE_EXPIRY", seconds)
    return seconds


def test_connections_that_nobody_uses_are_closed(flavour: str, short_keep_alive: float) -> None:
    with Gate(8) as gate, client(flavour, "key", base_url=gate.url) as api:
        tokens_at_once(api, 8)
        assert gate.open == 8

        def only_one_is_left() -> bool:
            if flavour == "async":
                api.runner.run(asyncio.sleep(2 * short_keep_alive))
            else:
                time.sleep(2 * short_keep_alive)
            api.create_session_token(LITE)
            return gate.open == 1

        eventually(only_one_is_left)


def test_a_busy_blocking_client_keeps_no_more_connections_than_it_uses(short_keep_alive: float) -> None:
    with Gate(8) as gate, client("blocking", "key", base_url=gate.url) as api:
        tokens_at_once(api, 8)

        def only_one_is_left() -> bool:
            api.create_session_token(LITE)
            return gate.open == 1

        eventually(only_one_is_left)
        assert gate.connections == 8


def test_closing_the_client_closes_its_connections(flavour: str) -> None:
    with Gate(8) as gate:
        with client(flavour, "key", base_url=gate.url) as api:
            tokens_at_once(api, 8)
            assert gate.open == 8
        eventually(lambda: gate.open == 0)


def test_a_request_that_outlives_its_client_leaves_no_connection() -> None:
    with Gate(2) as gate, ThreadPoolExecutor(1) as thread, client("blocking", "key", base_url=gate.url) as other:
        api = client("blocking", "key", base_url=gate.url)
        answer = thread.submit(api.create_session_token, LITE)
        eventually(lambda: gate.requests == 1)
        api.close()
        other.create_session_token(LITE)  # opens the gate
        assert answer.result().data.session_token == "t"
        eventually(lambda: gate.open == 1)


@pytest.fixture
def many_files() -> None:
    """Room for the sockets of a thousand clients and of their server."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4096:
        if hard != resource.RLIM_INFINITY and hard < 4096:
            pytest.skip("this machine allows too few open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))


@pytest.mark.usefixtures("many_files")
def test_a_thousand_at_once_wait_for_the_service_and_never_for_a_connection(flavour: str) -> None:
    number = 1000
    with Gate(number) as gate, client(flavour, "key", base_url=gate.url, max_retries=0) as api:
        for _ in range(2):
            assert len(tokens_at_once(api, number)) == number
    assert gate.requests == 2 * number
    assert gate.connections == number


# ---- A caller's pool ---------------------------------------------------------------------------------------


class Callers:
    """A caller's own httpx client or aiohttp session, with hooks that see each request."""

    def __init__(self, flavour: str, kind: str, tls: ssl.SSLContext | None = None, limit: int = 100) -> None:
        self.flavour = flavour
        self.kind = kind
        self.tls = tls
        self.limit = limit
        self.hooked = kind != "aiohttp session"
        self.seen: list[str] = []
        self.pool: Any = None

    @property
    def is_aiohttp(self) -> bool:
        return self.kind.endswith("aiohttp session")

    def _make(self) -> Any:
        marks: dict[str, Any] = {"headers": {"x-mine": "1"}, "cookies": {"mine": "1"}}
        verify = self.tls or True
        if self.is_aiohttp:
            traces = aiohttp.TraceConfig()
            traces.on_request_start.append(self._aiohttp_hook)
            connector = aiohttp.TCPConnector(ssl=verify, limit=self.limit)
            return aiohttp.ClientSession(trace_configs=[traces] * self.hooked, connector=connector, **marks)
        marks["limits"] = httpx.Limits(max_connections=self.limit)
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
    def client(self, base_url: str, **settings: Any) -> Iterator[Any]:
        """A client of ours over the caller's pool, which its owner closes afterwards."""
        argument = "session" if self.is_aiohttp else "http_client"
        if self.flavour == "blocking":
            with self._make() as self.pool:
                with client("blocking", "key", base_url=base_url, http_client=self.pool, **settings) as api:
                    yield api
                assert not self.pool.is_closed
            return
        with asyncio.Runner() as loop, contextlib.ExitStack() as stack:

            async def make() -> Any:
                return self._make()

            self.pool = loop.run(make())
            close = self.pool.close if argument == "session" else self.pool.aclose
            stack.callback(lambda: loop.run(close()))
            api = client("async", "key", base_url=base_url, **{argument: self.pool}, **settings)
            api.runner.close()
            api.runner = loop
            loop.run(api.api.__aenter__())
            stack.callback(lambda: loop.run(api.api.__aexit__(None, None, None)))
            yield api
            api.close()
            assert not (self.pool.closed if argument == "session" else self.pool.is_closed)

    def state(self) -> tuple[Any, ...]:
        """What of the pool we must not change, but for its cookies."""
        hooks = self.pool.trace_configs if self.is_aiohttp else self.pool.event_hooks
        return dict(self.pool.headers), self.pool.timeout, repr(hooks)

    def cookies(self) -> list[str]:
        """Names of the cookies that the pool keeps."""
        jar = self.pool.cookie_jar if self.is_aiohttp else self.pool.cookies.jar
        return sorted(getattr(cookie, "key", None) or cookie.name for cookie in jar)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


CALLERS = [
    ("blocking", "httpx client"),
    ("async", "httpx client"),
    ("async", "aiohttp session"),
    ("async", "traced aiohttp session"),
]


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
    assert wire.endpoints == ["token", "start", "stop"] * 5
    assert callers.seen == [f"/v1/sessions/{endpoint}" for endpoint in wire.endpoints] * callers.hooked
    assert wire.connections == 1


@pytest.mark.parametrize(("flavour", "kind"), [caller for caller in CALLERS if caller[1] == "httpx client"])
def test_hooks_of_a_callers_client_may_read_the_answers(flavour: str, kind: str, wire: Wire) -> None:
    lengths: list[int] = []

    def read(response: httpx.Response) -> None:
        lengths.append(len(response.read()))

    async def aread(response: httpx.Response) -> None:
        lengths.append(len(await response.aread()))

    callers = Callers(flavour, kind)
    with callers.client(wire.url) as api:
        callers.pool.event_hooks = {"response": [read if flavour == "blocking" else aread]}
        with api.session(LITE) as session:
            assert session.livekit_url == "wss://rooms.example.com"
        wire.answers["token"] = 402, {"code": 4020, "data": None, "message": "Not enough credits"}
        with pytest.raises(InsufficientCreditsError, match="Not enough credits"):
            api.new_session(LITE)
    assert len(lengths) == 4


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


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_a_start_for_which_a_callers_pool_had_no_connection_was_not_sent(flavour: str, kind: str) -> None:
    callers = Callers(flavour, kind, limit=1)
    with (
        Gate(2) as gate,
        client("blocking", "key", base_url=gate.url) as other,
        callers.client(gate.url, timeout=0.4) as api,
        ThreadPoolExecutor(1) as thread,
    ):

        async def hold() -> Any:
            held = asyncio.ensure_future(callers.pool.post(gate.url))
            while not gate.requests:
                await asyncio.sleep(0.01)
            return held

        # Somebody else uses the only connection, and waits.
        held = api.runner.run(hold()) if flavour == "async" else thread.submit(callers.pool.post, gate.url)
        eventually(lambda: gate.requests == 1)
        with pytest.raises(LiveAvatarTimeoutError) as caught:
            api.start_session("session-token")
        other.create_session_token(LITE)  # lets them have their answer
        if flavour == "async":
            answer = api.runner.run(asyncio.wait_for(held, 10))
            if callers.is_aiohttp:
                answer.close()
        else:
            held.result()
    assert (caught.value.request_sent, caught.value.session_may_be_running) == (False, False)
    assert gate.requests == 2


# ---- Those who watch aiohttp ---------------------------------------------------------------------------------


def test_requests_go_through_an_aiohttp_session_while_somebody_watches_there_and_are_the_same(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def a_session(api: Any) -> list[Any]:
        del wire.received[:]
        api.create_session_token(LITE)
        api.start_session("session-token-1")
        api.stop_session(session_id(1), reason="USER_CLOSED")
        return [
            (sent.method, sent.path, sorted((name.lower(), value) for name, value in sent.headers), sent.body)
            for sent in wire.received
        ]

    with client("async", "key", base_url=wire.url) as api:
        before = a_session(api)
        with monkeypatch.context() as patch:
            seen = watch_aiohttp(patch)
            watched = a_session(api)
        after = a_session(api)
    assert seen == ["/v1/sessions/token", "/v1/sessions/start", "/v1/sessions/stop"]
    assert len(before) == 3
    assert before == watched == after
    assert wire.connections == 1


@pytest.mark.parametrize(("tried", "started"), [((3, 0), 3), ((99, 0), 0)])
def test_an_aiohttp_newer_than_those_we_know_is_asked_through_its_session(
    tried: tuple[int, int], started: int, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, seen = aiohttp.ClientResponse.start, []

    async def noted(response: aiohttp.ClientResponse, connection: Any) -> Any:
        seen.append(response.url.path)
        return await start(response, connection)

    monkeypatch.setattr("liveavatar._transports._aiohttp_direct._MAX_TESTED_VERSION", tried)
    monkeypatch.setattr(aiohttp.ClientResponse, "start", noted)
    with client("async", "key", base_url=wire.url) as api, api.session(LITE):
        pass
    assert wire.endpoints == ["token", "start", "stop"]
    assert len(seen) == started


class StandIn:
    """Passes itself off as the function it stands in for, as wrapt's wrappers do."""

    def __init__(self, function: Any) -> None:
        self.__wrapped__ = function

    __class__ = property(lambda self: type(self.__wrapped__))  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    async def __call__(self, *args: Any, **settings: Any) -> Any:
        raise aiohttp.ClientConnectionError("from the stand-in")


@pytest.mark.parametrize(
    "stand_in",
    [
        unittest.mock.AsyncMock(side_effect=aiohttp.ClientConnectionError("from the stand-in")),
        StandIn(aiohttp.ClientSession._request),
    ],
    ids=["mock", "wrapper"],
)
def test_whatever_stands_in_for_aiohttps_method_gets_our_requests(
    stand_in: Any, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiohttp.ClientSession, "_request", stand_in)
    with (
        client("async", "key", base_url=wire.url, max_retries=0) as api,
        pytest.raises(LiveAvatarConnectionError, match="from the stand-in"),
    ):
        api.create_session_token(LITE)
    assert wire.received == []


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


# ---- Nobody there ------------------------------------------------------------------------------------------


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port of this machine on which nobody listens."""
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_where_nobody_listens_on_this_machine_the_mock_server_is_thought_of(
    flavour: str, host: str, nobody: int
) -> None:
    with (
        client(flavour, "key", base_url=f"http://{host}:{nobody}", max_retries=0) as api,
        pytest.raises(LiveAvatarConnectionError, match=r"is the mock server running at [^ ]+\? `python -m"),
    ):
        api.new_session(LITE)


def test_where_a_service_elsewhere_is_not_reached_no_mock_server_is_thought_of(flavour: str) -> None:
    with (
        client(flavour, "key", base_url="https://api.liveavatar.invalid", max_retries=0) as api,
        pytest.raises(LiveAvatarConnectionError) as caught,
    ):
        api.new_session(LITE)
    assert "mock" not in str(caught.value)


# ---- Proxies -----------------------------------------------------------------------------------------------


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes from one to the other until there are no more."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)


class Proxy:
    """Notes where it is asked to connect to, and refuses; or connects to one place, whatever it is asked for."""

    def __init__(self) -> None:
        self.leads_to: tuple[str, int] | None = None
        self.asked: list[str] = []
        self.told: list[str] = []
        """The headers that came with it."""
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                proxy.asked.append(self.path)
                proxy.told.append(str(self.headers))
                self.send_response(200 if proxy.leads_to else 403)
                self.send_header("Content-Length", "0")
                self.end_headers()
                if proxy.leads_to:
                    with socket.create_connection(proxy.leads_to) as far:
                        back = threading.Thread(target=pump, args=(far, self.connection), daemon=True)
                        back.start()
                        pump(self.connection, far)
                        back.join()

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


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS4"])
def test_a_proxy_that_is_not_spoken_here_is_an_error_at_once_that_shows_no_password(
    flavour: str, scheme: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = {"blocking": LiveAvatarApi, "async": AsyncLiveAvatarApi}[flavour]
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://user:the-password@127.0.0.1:1080")
    with pytest.raises(LiveAvatarError, match=f"names a {scheme.lower()} proxy, .*http_client=") as caught:
        make("key", base_url="https://api.liveavatar.test")
    assert "the-password" not in str(caught.value)
    with httpx.Client(trust_env=False) as http:
        theirs = http if flavour == "blocking" else httpx.AsyncClient(trust_env=False)
        assert make("key", base_url="https://api.liveavatar.test", http_client=theirs).open_sessions == ()
    monkeypatch.setenv("NO_PROXY", "api.liveavatar.test")
    assert make("key", base_url="https://api.liveavatar.test").open_sessions == ()


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
    authority.issue_cert("127.0.0.1", "api.liveavatar.test").configure_cert(context)
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
        assert "mock" not in str(caught.value)
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


def test_sessions_go_through_one_tunnel_of_the_environments_proxy(
    flavour: str,
    secure_wire: Wire,
    authority: trustme.CA,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    proxy.leads_to = "127.0.0.1", int(secure_wire.url.rsplit(":", 1)[1])
    with client(flavour, "the-api-key", base_url="https://api.liveavatar.test") as api:
        for _ in range(3):
            with api.session(LITE):
                pass
    assert secure_wire.endpoints == ["token", "start", "stop"] * 3
    assert proxy.asked == ["api.liveavatar.test:443"]
    assert secure_wire.connections == 1
    assert "the-api-key" not in proxy.told[0]
