"""The connection pool: our own or the caller's, proxies and TLS, and nothing but our requests through either."""

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
import httpcore
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
from liveavatar._constants import INTERRUPT_INTERVAL
from liveavatar._transports._aiohttp import AiohttpTransport
from liveavatar._transports._aiohttp_direct import CheckedConnector
from liveavatar._transports._blocking import BlockingIO, run
from liveavatar.mock import MockServer, mock_server

from tests.clients import client, observe_aiohttp
from tests.test_surface import RecordingServer, session_id
from tests.test_transports import request as any_request

LITE = Request(avatar_id="7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742")


def sessions_at_once(api: Any, number: int) -> None:
    """Open this number of sessions at the same time, and close them at the same time."""
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
    """Create this number of tokens at the same time."""
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


def test_one_connection(flavour: str, mock: MockServer) -> None:
    """A hundred sessions, one after another, use one connection."""
    with client(flavour, mock.api_key, base_url=mock.base_url) as api:
        for _ in range(100):
            with api.session(LITE):
                pass
    assert mock.requests == {"token": 100, "start": 100, "stop": 100}
    assert mock.connections == 1


def test_concurrent_sessions(flavour: str, mock: MockServer) -> None:
    """Concurrent sessions use at most one connection each, and use them again."""
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


def test_connection_after_error(flavour: str, mock: MockServer) -> None:
    """A request that is refused releases its connection."""
    with client(flavour, mock.api_key, base_url=mock.base_url) as api:
        for _ in range(20):
            with pytest.raises(LiveAvatarApiError):
                api.stop_session("0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274")
    assert mock.connections == 1


class Gate:
    """A service that responds once this number of requests wait at the same time."""

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
    """Wait until it is true. The timeout of the test ends the wait."""
    while not promise():
        time.sleep(0.01)


@pytest.fixture
def short_keep_alive(monkeypatch: pytest.MonkeyPatch) -> float:
    seconds = 0.3
    for module in ("_aiohttp", "_httpcore"):
        monkeypatch.setattr(f"liveavatar._transports.{module}.KEEPALIVE_EXPIRY", seconds)
    return seconds


def test_idle_connections(flavour: str, short_keep_alive: float) -> None:
    """Idle connections are closed."""
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


@pytest.fixture
def no_keep_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections are too old at once."""
    for module in ("_aiohttp", "_httpcore"):
        monkeypatch.setattr(f"liveavatar._transports.{module}.KEEPALIVE_EXPIRY", -1.0)


@pytest.mark.usefixtures("no_keep_alive")
def test_old_connections(flavour: str, service: RecordingServer) -> None:
    """A connection that has been idle for too long is not used again."""
    with client(flavour, "key", base_url=service.url) as api:
        for _ in range(3):
            api.create_session_token(LITE)
        assert service.connections == 3


def test_surplus_connections(short_keep_alive: float) -> None:
    """A busy blocking client keeps only the connections that it uses."""
    with Gate(8) as gate, client("blocking", "key", base_url=gate.url) as api:
        tokens_at_once(api, 8)

        def only_one_is_left() -> bool:
            api.create_session_token(LITE)
            return gate.open == 1

        eventually(only_one_is_left)
        assert gate.connections == 8


def test_close(flavour: str) -> None:
    """Closing a client closes its connections."""
    with Gate(8) as gate:
        with client(flavour, "key", base_url=gate.url) as api:
            tokens_at_once(api, 8)
            assert gate.open == 8
        eventually(lambda: gate.open == 0)


def test_connections_of_cleanups(flavour: str, service: RecordingServer) -> None:
    """Each cleanup opens a connection, which is closed at its end; other requests use the idle one."""
    service.replies["start"] = 500, ""
    with client(flavour, "key", base_url=service.url, max_retries=0) as api:
        for _ in range(3):
            with pytest.raises(LiveAvatarApiError):
                api.new_session(LITE)
        eventually(lambda: service.open == 1)
    assert service.endpoints == ["token", "start", "stop"] * 3
    assert service.connections == 1 + 3


def test_no_event_loop() -> None:
    """A call without a running event loop, as under trio, is a typed error."""
    api = AsyncLiveAvatarApi("key")
    with pytest.raises(LiveAvatarError, match="runs on asyncio"):
        api.new_session(LITE).send(None)


def test_close_in_another_loop() -> None:
    """Closing an async client closes its connections although another event loop runs, and theirs is at rest."""
    with Gate(2) as gate, asyncio.Runner() as first:
        api = AsyncLiveAvatarApi("key", base_url=gate.url)
        first.run(two_tokens(api))
        assert gate.open == 2
        asyncio.run(api.aclose())
        first.run(asyncio.sleep(0))
        eventually(lambda: gate.open == 0)


@pytest.mark.parametrize("blocked", [False, True])
def test_close_in_another_thread(blocked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same while their loop runs in another thread. The close does not wait for a loop that is blocked."""
    if blocked:
        monkeypatch.setattr("liveavatar._transports._aiohttp.CLEANUP_TIMEOUT", 0.01)

    async def main() -> None:
        api = AsyncLiveAvatarApi("key", base_url=gate.url)
        await two_tokens(api)
        closing = thread.submit(asyncio.run, api.aclose())
        if blocked:
            closing.result()
        else:
            await asyncio.wrap_future(closing)
            eventually(lambda: gate.open == 0)
        while gate.open:
            await asyncio.sleep(0.01)

    with Gate(2) as gate, ThreadPoolExecutor(1) as thread:
        asyncio.run(main())


def test_request_on_a_closed_pool(service: RecordingServer) -> None:
    """A request on a pool that is closed is not sent; a stop is sent beside it."""

    async def main() -> None:
        pool = AiohttpTransport(service.url, None)
        for _ in range(2):
            assert (await pool.send(any_request(url=f"{service.url}/stop"))).status == 200
        await pool.close()
        with pytest.raises(LiveAvatarConnectionError, match=r"/token: the aiohttp session is closed$") as caught:
            await pool.send(any_request(url=f"{service.url}/token"))
        assert caught.value.request_sent is False
        assert (await pool.send(any_request(url=f"{service.url}/stop", is_stop=True))).status == 200

    asyncio.run(main())
    assert service.endpoints == ["stop"] * 3
    assert service.connections == 2


async def two_tokens(api: AsyncLiveAvatarApi) -> None:
    """Create two tokens at the same time."""
    await asyncio.gather(api.create_session_token(LITE), api.create_session_token(LITE))


def test_close_during_request() -> None:
    """A connection that is in use while the client is closed is closed when it is released."""
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
    """Allow the sockets of a thousand clients and of their server."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4096:
        if hard != resource.RLIM_INFINITY and hard < 4096:
            pytest.skip("this machine allows too few open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))


@pytest.mark.usefixtures("many_files")
def test_thousand_requests(flavour: str) -> None:
    """A thousand concurrent requests have a connection each."""
    number = 1000
    with Gate(number) as gate, client(flavour, "key", base_url=gate.url, max_retries=0) as api:
        for _ in range(2):
            assert len(tokens_at_once(api, number)) == number
    assert gate.requests == 2 * number
    assert gate.connections == number


# ---- A caller's pool ---------------------------------------------------------------------------------------


class Callers:
    """A caller's httpx client or aiohttp session, with hooks that record each request."""

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
        """Yield a client over the caller's pool, which is closed afterwards by its owner."""
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
        """Return what we must not change in the pool, apart from its cookies."""
        hooks = self.pool.trace_configs if self.is_aiohttp else self.pool.event_hooks
        return dict(self.pool.headers), self.pool.timeout, repr(hooks)

    def cookies(self) -> list[str]:
        """Return the names of the cookies that the pool stores."""
        jar = self.pool.cookie_jar if self.is_aiohttp else self.pool.cookies.jar
        return sorted(getattr(cookie, "key", None) or cookie.name for cookie in jar)


@pytest.fixture
def service() -> Iterator[RecordingServer]:
    with RecordingServer() as service:
        yield service


CALLERS = [
    ("blocking", "httpx client"),
    ("async", "httpx client"),
    ("async", "aiohttp session"),
    ("async", "traced aiohttp session"),
]


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_callers_pool(flavour: str, kind: str, service: RecordingServer) -> None:
    """The caller's pool carries the requests, and is neither changed nor closed."""
    callers = Callers(flavour, kind)
    with callers.client(service.url) as api:
        before = callers.state()
        for _ in range(5):
            with api.session(LITE):
                pass
        assert callers.state() == before
    assert service.endpoints == ["token", "start", "stop"] * 5
    assert callers.seen == [f"/v1/sessions/{endpoint}" for endpoint in service.endpoints] * callers.hooked
    assert service.connections == 1


def test_callers_auth(flavour: str, service: RecordingServer) -> None:
    """The auth of the caller's client is not sent."""
    callers = Callers(flavour, "httpx client")
    with callers.client(service.url) as api:
        callers.pool.auth = ("user", "password")
        api.create_session_token(LITE)
    assert service.received[0].credential == ("x-api-key", "key")


def test_callers_client_is_closed(flavour: str, service: RecordingServer) -> None:
    """A caller's client that is closed is an error that says so, and nothing was sent."""
    http: Any = {"blocking": httpx.Client, "async": httpx.AsyncClient}[flavour]()
    with client(flavour, "key", base_url=service.url, http_client=http, max_retries=0) as api:
        http.close() if flavour == "blocking" else api.runner.run(http.aclose())
        with pytest.raises(LiveAvatarConnectionError, match=r"/token: the http_client is closed$") as caught:
            api.create_session_token(LITE)
        assert caught.value.request_sent is False
    assert service.received == []


def test_session_of_another_type() -> None:
    """A session that is none of aiohttp is refused."""
    with (
        pytest.raises(TypeError, match=r"^session must be an aiohttp\.ClientSession, not Client$"),
        httpx.Client() as http,
    ):
        AsyncLiveAvatarApi("key", http)  # type: ignore[arg-type]


@pytest.mark.parametrize("meanwhile", [False, True], ids=["before the request", "during the request"])
def test_callers_session_is_closed(meanwhile: bool, service: RecordingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a session of aiohttp. A request may have been sent if the session is closed meanwhile."""
    request = aiohttp.ClientSession._request

    async def late(session: aiohttp.ClientSession, *args: Any, **settings: Any) -> Any:
        await callers.close()
        return await request(session, *args, **settings)

    async def main() -> LiveAvatarConnectionError:
        nonlocal callers
        callers = aiohttp.ClientSession()
        async with AsyncLiveAvatarApi("key", callers, base_url=service.url, max_retries=0) as api:
            if meanwhile:
                monkeypatch.setattr(aiohttp.ClientSession, "_request", late)
            else:
                await callers.close()
            with pytest.raises(LiveAvatarConnectionError, match=r"/token: the aiohttp session is closed$") as caught:
                await api.create_session_token(LITE)
            return caught.value

    callers: aiohttp.ClientSession
    assert asyncio.run(main()).request_sent is meanwhile
    assert service.received == []


def test_stop_beside_a_closed_client(flavour: str, service: RecordingServer) -> None:
    """A session is stopped although the caller has closed the client over which it was opened."""
    http: Any = {"blocking": httpx.Client, "async": httpx.AsyncClient}[flavour]()
    with client(flavour, "key", base_url=service.url, http_client=http) as api:
        session = api.new_session(LITE)
        http.close() if flavour == "blocking" else api.runner.run(http.aclose())
        api.close_session(session.session_id)
    assert service.endpoints == ["token", "start", "stop"]


def test_hook_that_fails(flavour: str, service: RecordingServer) -> None:
    """An exception that a hook of the caller's client raises is not a connection error."""

    class HookError(OSError):
        pass

    def fail(request: httpx.Request) -> None:
        raise HookError("of the hook")

    async def afail(request: httpx.Request) -> None:
        fail(request)

    callers = Callers(flavour, "httpx client")
    with callers.client(service.url) as api:
        callers.pool.event_hooks = {"request": [fail if flavour == "blocking" else afail]}
        with pytest.raises(HookError, match="of the hook"):
            api.create_session_token(LITE)
    assert service.received == []


def test_callers_own_cookies_stay(flavour: str, service: RecordingServer) -> None:
    """Cookies that the caller has set for the service stay in the jar, and those of the service do not."""
    service.headers = {"Set-Cookie": "service=1; Path=/"}
    callers = Callers(flavour, "httpx client")
    with callers.client(service.url) as api:
        callers.pool.cookies.set("callers", "1", domain="127.0.0.1", path="/")
        api.create_session_token(LITE)
        assert callers.cookies() == ["callers", "mine"]


@pytest.mark.parametrize(("flavour", "kind"), [caller for caller in CALLERS if caller[1] == "httpx client"])
def test_hooks_may_read(flavour: str, kind: str, service: RecordingServer) -> None:
    """A hook of the caller's client may read a response."""
    lengths: list[int] = []

    def read(response: httpx.Response) -> None:
        lengths.append(len(response.read()))

    async def aread(response: httpx.Response) -> None:
        lengths.append(len(await response.aread()))

    callers = Callers(flavour, kind)
    with callers.client(service.url) as api:
        callers.pool.event_hooks = {"response": [read if flavour == "blocking" else aread]}
        with api.session(LITE) as session:
            assert session.livekit_url == "wss://rooms.example.com"
        service.replies["token"] = 402, {"code": 4020, "data": None, "message": "Not enough credits"}
        with pytest.raises(InsufficientCreditsError, match="Not enough credits"):
            api.new_session(LITE)
    assert len(lengths) == 4


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_callers_cookies(flavour: str, kind: str, service: RecordingServer) -> None:
    """Cookies of the service are not stored in the caller's pool."""
    callers = Callers(flavour, kind)
    service.headers = {"Set-Cookie": "service=1; Path=/"}
    with callers.client(service.url) as api:
        with api.session(LITE):
            pass
        assert callers.cookies() == ["mine"]


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_callers_headers(flavour: str, kind: str, service: RecordingServer) -> None:
    """The headers and cookies of the caller's pool are not sent, nor cookies of the service."""
    service.headers = {"Set-Cookie": "service=1; Path=/"}
    by_name = service.url.replace("127.0.0.1", "localhost")  # aiohttp stores no cookies of addresses
    with Callers(flavour, kind).client(by_name) as api, api.session(LITE):
        pass
    assert service.endpoints == ["token", "start", "stop"]
    for request in service.received:
        assert request.header("cookie") == request.header("x-mine") == []
        assert request.credential  # one, and only one


NO_CONNECTION = {
    "httpx client": r"/start: the call timed out \(PoolTimeout\)$",
    "aiohttp session": r"/start: no connection in time \(ConnectionTimeoutError\)$",
}


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_exhausted_pool(flavour: str, kind: str) -> None:
    """A start for which the caller's pool had no connection was not sent."""
    callers = Callers(flavour, kind, limit=1)
    with (
        Gate(2) as gate,
        client("blocking", "key", base_url=gate.url) as other,
        callers.client(gate.url, timeout=1.0) as api,
        ThreadPoolExecutor(1) as thread,
    ):

        async def hold() -> Any:
            held = asyncio.ensure_future(callers.pool.post(gate.url))
            while not gate.requests:
                await asyncio.sleep(0.01)
            return held

        # Another request uses the only connection, and waits.
        held = api.runner.run(hold()) if flavour == "async" else thread.submit(callers.pool.post, gate.url)
        eventually(lambda: gate.requests == 1)
        with pytest.raises(LiveAvatarTimeoutError, match=NO_CONNECTION.get(kind)) as caught:
            api.start_session("session-token")
        other.create_session_token(LITE)  # completes the number, so that both get their response
        if flavour == "async":
            answer = api.runner.run(asyncio.wait_for(held, 10))
            if callers.is_aiohttp:
                answer.close()
        else:
            held.result()
    assert (caught.value.request_sent, caught.value.session_may_be_running) == (False, False)
    assert gate.requests == 2


# ---- Instrumented aiohttp ----------------------------------------------------------------------------------


def test_observed_aiohttp(service: RecordingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While aiohttp is instrumented, the same requests go through its session."""

    def a_session(api: Any) -> list[Any]:
        del service.received[:]
        api.create_session_token(LITE)
        api.start_session("session-token-1")
        api.stop_session(session_id(1), reason="USER_CLOSED")
        return [
            (sent.method, sent.path, sorted((name.lower(), value) for name, value in sent.headers), sent.body)
            for sent in service.received
        ]

    with client("async", "key", base_url=service.url) as api:
        before = a_session(api)
        with monkeypatch.context() as patch:
            seen = observe_aiohttp(patch)
            watched = a_session(api)
        after = a_session(api)
    assert seen == ["/v1/sessions/token", "/v1/sessions/start", "/v1/sessions/stop"]
    assert len(before) == 3
    assert before == watched == after
    assert service.connections == 1


@pytest.fixture
def through_sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that an aiohttp session has sent."""
    start, seen = aiohttp.ClientResponse.start, []

    async def noted(response: aiohttp.ClientResponse, connection: Any) -> Any:
        seen.append(response.url.path)
        return await start(response, connection)

    monkeypatch.setattr(aiohttp.ClientResponse, "start", noted)
    return seen


@pytest.mark.parametrize(("tried", "started"), [((3, 0), 3), ((99, 0), 0)])
def test_untested_aiohttp(
    tried: tuple[int, int],
    started: int,
    service: RecordingServer,
    through_sessions: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a version of aiohttp that was not tested, requests go through its session."""
    wrapped: list[object] = []

    def noted(connector: aiohttp.BaseConnector) -> Any:
        wrapped.append(connector)
        return CheckedConnector(connector)

    monkeypatch.setattr("liveavatar._transports._aiohttp_direct._MAX_TESTED_VERSION", tried)
    monkeypatch.setattr("liveavatar._transports._aiohttp.CheckedConnector", noted)
    with client("async", "key", base_url=service.url) as api, api.session(LITE):
        pass
    assert service.endpoints == ["token", "start", "stop"]
    assert len(through_sessions) == started
    assert len(wrapped) == (started == 0)


@pytest.mark.parametrize(("kind", "started"), [("aiohttp session", 0), ("traced aiohttp session", 3)])
def test_traced_session(kind: str, started: int, service: RecordingServer, through_sessions: list[str]) -> None:
    """Requests go through aiohttp's session only if traces of the caller's session observe them."""
    with Callers("async", kind).client(service.url) as api, api.session(LITE):
        pass
    assert service.endpoints == ["token", "start", "stop"]
    assert len(through_sessions) == started


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_encoding_that_needs_a_package(flavour: str, kind: str, service: RecordingServer) -> None:
    """A body in an encoding that needs another package is refused as every encoding is: it is not decoded."""
    service.headers = {"Content-Encoding": "br"}
    with (
        Callers(flavour, kind).client(service.url, max_retries=0) as api,
        pytest.raises(LiveAvatarApiError, match="a body in the encoding 'br', which was not asked for"),
    ):
        api.create_session_token(LITE)


class HastyConnector(aiohttp.TCPConnector):
    """A caller's connector whose connections are closed at once."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self._how = how

    async def connect(self, *args: Any, **settings: Any) -> Any:
        connection = await super().connect(*args, **settings)
        if self._how == "given back":
            connection.close()
            return connection
        assert connection.transport is not None
        connection.transport.close()
        while self._how == "closed" and connection.transport is not None:
            await asyncio.sleep(0)
        return connection


@pytest.mark.parametrize("how", ["closing", "closed", "given back"])
def test_connection_that_is_closed_at_once(how: str, service: RecordingServer) -> None:
    """Nothing is sent on a connection that is closed before the request is written to it, and the error says so."""

    async def main() -> LiveAvatarConnectionError:
        async with (
            aiohttp.ClientSession(connector=HastyConnector(how)) as callers,
            AsyncLiveAvatarApi("key", callers, base_url=service.url, max_retries=0) as api,
        ):
            with pytest.raises(LiveAvatarConnectionError, match=r"/token: the connection was closed$") as caught:
                await api.create_session_token(LITE)
            return caught.value

    assert asyncio.run(main()).request_sent is False
    assert service.received == []


class Wrapper:
    """A wrapper that claims to be the function it wraps, as those of wrapt do."""

    def __init__(self, function: Any) -> None:
        self.__wrapped__ = function

    __class__ = property(lambda self: type(self.__wrapped__))  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    async def __call__(self, *args: Any, **settings: Any) -> Any:
        raise aiohttp.ClientConnectionError("from the replacement")


@pytest.mark.parametrize(
    "replacement",
    [
        unittest.mock.AsyncMock(side_effect=aiohttp.ClientConnectionError("from the replacement")),
        Wrapper(aiohttp.ClientSession._request),
    ],
    ids=["mock", "wrapper"],
)
def test_replaced_aiohttp_method(replacement: Any, service: RecordingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replacement of aiohttp's method gets the requests."""
    monkeypatch.setattr(aiohttp.ClientSession, "_request", replacement)
    with (
        client("async", "key", base_url=service.url, max_retries=0) as api,
        pytest.raises(LiveAvatarConnectionError, match="from the replacement"),
    ):
        api.create_session_token(LITE)
    assert service.received == []


def test_instrumentation_that_cannot_connect(
    service: RecordingServer, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request was sent although a replacement of aiohttp's method fails to connect to another service after it."""
    request = aiohttp.ClientSession._request

    async def reporting(session: aiohttp.ClientSession, *args: Any, **settings: Any) -> Any:
        (await request(session, *args, **settings)).close()
        async with aiohttp.ClientSession() as other:
            return await request(other, "POST", f"http://127.0.0.1:{closed_port}")

    monkeypatch.setattr(aiohttp.ClientSession, "_request", reporting)
    with client("async", "key", base_url=service.url, max_retries=0) as api:
        with pytest.raises(LiveAvatarConnectionError) as caught:
            api.start_session("session-token-1")
        assert caught.value.request_sent is True
    assert service.endpoints == ["start"]


# ---- Nothing but our requests ------------------------------------------------------------------------------


def test_cookies(flavour: str, service: RecordingServer) -> None:
    """Cookies of the service are not sent back."""
    service.headers = {"Set-Cookie": "service=1; Path=/"}
    with client(flavour, "key", base_url=service.url) as api:
        for _ in range(2):
            with api.session(LITE):
                pass
    assert [request.header("cookie") for request in service.received] == [[]] * 6


def test_request_without_a_body(flavour: str, service: RecordingServer) -> None:
    """A request without a body has no Content-Length, unless its method is one that has a body."""
    service.replies[session_id(1)] = 404, ""
    with client(flavour, "key", base_url=service.url) as api:
        with pytest.raises(LiveAvatarApiError):
            api.get_session(session_id(1))
        api.delete_session_events(session_id(1))
        api.start_session("session-token-1")
    assert [request.method for request in service.received] == ["GET", "DELETE", "POST"]
    assert [request.header("content-length") for request in service.received] == [[], [], ["0"]]


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_callers_redirects(flavour: str, kind: str, service: RecordingServer) -> None:
    """Redirects are not followed, even if the caller's pool does that."""
    callers = Callers(flavour, kind)
    with RecordingServer() as other, callers.client(service.url) as api:
        if kind == "httpx client":  # aiohttp's sessions always follow them
            callers.pool.follow_redirects = True
        service.headers = {"Location": f"{other.url}/v1/sessions/token"}
        service.replies["token"] = 307, ""
        with pytest.raises(LiveAvatarApiError):
            api.new_session(LITE)
        assert other.received == []


# ---- No server ---------------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections."""
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_mock_server_not_running(flavour: str, host: str, closed_port: int) -> None:
    """A refused connection to loopback asks whether the mock server is running."""
    with (
        client(flavour, "key", base_url=f"http://{host}:{closed_port}", max_retries=0) as api,
        pytest.raises(
            LiveAvatarConnectionError,
            match=r"is the mock server running at [^ ]+:(\d+)\? `python -m liveavatar\.mock --port \1`",
        ),
    ):
        api.new_session(LITE)


def test_error_that_the_caller_handles(flavour: str, closed_port: int) -> None:
    """The error of another service, which the caller is handling, does not count as ours."""
    with client(flavour, "key", base_url=f"http://127.0.0.1:{closed_port}", max_retries=0) as api:
        try:
            raise ssl.SSLCertVerificationError("of another service")
        except ssl.SSLError:
            with pytest.raises(LiveAvatarConnectionError, match="is the mock server running") as caught:
                api.new_session(LITE)
    assert not caught.value.certificate_rejected
    assert "certificate" not in str(caught.value)


def test_service_not_reached(flavour: str) -> None:
    """A failed connection to another host does not mention the mock server."""
    with (
        client(flavour, "key", base_url="https://api.liveavatar.invalid", max_retries=0) as api,
        pytest.raises(LiveAvatarConnectionError) as caught,
    ):
        api.new_session(LITE)
    assert "mock" not in str(caught.value)


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of the host name "localhost"."""
    known: list[str] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        return (
            [entry for each in known for entry in resolve(each, port, *args, **kwargs)]
            if host == "localhost"
            else resolve(host, port, *args, **kwargs)
        )

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def test_address_that_refuses(flavour: str, service: RecordingServer, addresses: list[str]) -> None:
    """If a host has several addresses, the next is tried when one refuses the connection."""
    addresses += ["127.0.0.2", "127.0.0.1"]
    with client(flavour, "k", base_url=service.url.replace("127.0.0.1", "localhost")) as api:
        api.close_session(api.new_session(LITE).session_id)


def test_other_address(flavour: str, service: RecordingServer, addresses: list[str]) -> None:
    """Nothing is sent to an address that the host does not have."""
    addresses += ["127.0.0.2"]
    url = service.url.replace("127.0.0.1", "localhost")
    with client(flavour, "k", base_url=url, max_retries=0) as api, pytest.raises(LiveAvatarConnectionError):
        api.create_session_token(LITE)
    assert service.received == []


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("proxy", [None, "http://localhost:1"], ids=["of the service", "of a proxy"])
def test_addresses_share_the_timeout(proxy: str | None, addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses that do not respond share the time of the call. The blocking client; asyncio bounds all of them."""
    addresses += [f"127.0.0.{number}" for number in range(2, 8)]
    limits: list[float] = []

    def connect_tcp(backend: object, host: str, port: int, timeout: float, **options: Any) -> None:
        limits.append(timeout)
        raise httpcore.ConnectTimeout("timed out")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect_tcp)
    if proxy is not None:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
    url = "http://localhost/v1" if proxy is None else "https://api.liveavatar.test"
    with LiveAvatarApi("k", base_url=url, timeout=3, max_retries=0) as api:
        with pytest.raises(LiveAvatarTimeoutError) as caught:
            api.new_session(LITE)
        assert caught.value.request_sent is False
    assert len(limits) == 6
    assert limits[0] <= 0.5


def test_unknown_host(flavour: str, addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name without an address is a connection error, and nothing was sent."""
    monkeypatch.setattr(socket, "getaddrinfo", unittest.mock.Mock(side_effect=socket.gaierror(-2, "Name not known")))
    with client(flavour, "k", base_url="http://localhost/v1", max_retries=0) as api:
        with pytest.raises(LiveAvatarConnectionError, match="Name not known") as caught:
            api.new_session(LITE)
        assert caught.value.request_sent is False


def test_delay_while_the_clock_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay of the blocking client ends although a test of a user stops the clock."""
    slept: list[float] = []
    monkeypatch.setattr(
        "liveavatar._transports._blocking.time", unittest.mock.Mock(sleep=slept.append, monotonic=float)
    )
    run(lambda: BlockingIO(unittest.mock.Mock()).sleep(1.75))
    assert sum(slept) == 1.75
    assert max(slept) == INTERRUPT_INTERVAL


# ---- Proxies -----------------------------------------------------------------------------------------------


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy bytes from one socket to the other until there are no more."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)


class Proxy:
    """A proxy that records what it is asked for; it refuses, or connects to one address, whatever it is asked for."""

    def __init__(self) -> None:
        self.target: tuple[str, int] | None = None
        self.asked: list[str] = []
        self.headers: list[str] = []
        """The headers of these requests."""
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                proxy.asked.append(self.path)
                proxy.headers.append(str(self.headers))
                self.send_response(200 if proxy.target else 403)
                self.send_header("Content-Length", "0")
                self.end_headers()
                if proxy.target:
                    with socket.create_connection(proxy.target) as far:
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
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy(no_proxies: None) -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_proxy(flavour: str, proxy: Proxy, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxy is asked for a tunnel, and does not see the API key."""
    monkeypatch.setenv(variable, proxy.url)
    settings = {"base_url": "https://api.liveavatar.test", "max_retries": 0}
    with client(flavour, "the-api-key", **settings) as api, pytest.raises(LiveAvatarConnectionError) as caught:
        api.new_session(LITE)
    assert proxy.asked == ["api.liveavatar.test:443"]
    assert "the-api-key" not in proxy.headers[0]
    assert caught.value.request_sent is False


def test_proxy_and_loopback(
    flavour: str, proxy: Proxy, service: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback is reached without a proxy."""
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with client(flavour, "key", base_url=service.url) as api, api.session(LITE):
        pass
    assert proxy.asked == []


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS4"])
def test_socks_proxy(flavour: str, scheme: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy is an error at construction that shows no password, unless the caller passes a client."""
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


def test_no_proxy(flavour: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host in NO_PROXY is reached without the proxy."""
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
def secure_service(authority: trustme.CA) -> Iterator[RecordingServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "api.liveavatar.test").configure_cert(context)
    with RecordingServer(context) as service:
        yield service


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_callers_trust(flavour: str, kind: str, secure_service: RecordingServer, trusting: ssl.SSLContext) -> None:
    """The caller's pool decides which certificates are trusted."""
    with Callers(flavour, kind, trusting).client(secure_service.url) as api, api.session(LITE):
        pass
    assert secure_service.endpoints == ["token", "start", "stop"]


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every TLS context that is created from here on."""
    made: list[object] = []
    new = ssl.SSLContext.__new__

    def noted(cls: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(new(cls, *args, **kwargs))
        return made[-1]

    monkeypatch.setattr(ssl.SSLContext, "__new__", noted)
    return made


@pytest.fixture
def trusted_service(
    secure_service: RecordingServer, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RecordingServer:
    """A service over TLS whose certificate the environment trusts."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return secure_service


def test_one_tls_context(flavour: str, trusted_service: RecordingServer, contexts: list[object]) -> None:
    """Sessions share one TLS context and one connection."""
    with client(flavour, "key", base_url=trusted_service.url) as api:
        for _ in range(20):
            with api.session(LITE):
                pass
    assert len(contexts) == 1
    assert trusted_service.connections == 1


@pytest.mark.parametrize(("flavour", "kind"), CALLERS)
def test_no_tls_context(
    flavour: str, kind: str, secure_service: RecordingServer, trusting: ssl.SSLContext, contexts: list[object]
) -> None:
    """Over the caller's pool, no TLS context is created."""
    with Callers(flavour, kind, trusting).client(secure_service.url) as api:
        contexts.clear()
        for _ in range(5):
            with api.session(LITE):
                pass
        assert contexts == []
    assert secure_service.connections == 1


@pytest.fixture
def through_proxy(trusted_service: RecordingServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> RecordingServer:
    """The service https://api.liveavatar.test, behind the environment's proxy."""
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    proxy.target = "127.0.0.1", int(trusted_service.url.rsplit(":", 1)[1])
    return trusted_service


def test_one_tunnel(flavour: str, through_proxy: RecordingServer, proxy: Proxy, contexts: list[object]) -> None:
    """Sessions share one TLS context, and one tunnel through the environment's proxy."""
    with client(flavour, "the-api-key", base_url="https://api.liveavatar.test") as api:
        for _ in range(3):
            with api.session(LITE):
                pass
    assert through_proxy.endpoints == ["token", "start", "stop"] * 3
    assert proxy.asked == ["api.liveavatar.test:443"]
    assert through_proxy.connections == 1
    assert len(contexts) == 1
    assert "the-api-key" not in proxy.headers[0]


@pytest.mark.usefixtures("no_keep_alive")
def test_old_tunnels(flavour: str, through_proxy: RecordingServer, proxy: Proxy) -> None:
    """A tunnel that has been idle for too long is not used again."""
    with client(flavour, "key", base_url="https://api.liveavatar.test") as api:
        for _ in range(2):
            api.create_session_token(LITE)
        assert len(proxy.asked) == through_proxy.connections == 2


@pytest.mark.usefixtures("no_keep_alive")
def test_other_httpcore(
    through_proxy: RecordingServer, proxy: Proxy, contexts: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a version of httpcore that makes its connections in another way, httpx's own pool sends the requests."""
    monkeypatch.setattr("liveavatar._transports._httpcore._new_pool", lambda *_: None)
    with client("blocking", "key", base_url="https://api.liveavatar.test") as api, api.session(LITE):
        pass
    assert through_proxy.endpoints == ["token", "start", "stop"]
    assert through_proxy.connections == len(proxy.asked) == 3
    assert len(contexts) == 1


def test_tls_context_after_the_close(flavour: str, trusted_service: RecordingServer, contexts: list[object]) -> None:
    """A client that is closed stops a session with the TLS context that it has."""
    with client(flavour, "key", base_url=trusted_service.url) as api:
        session = api.new_session(LITE)
        trusted_service.replies["stop"] = 400, ""
        with pytest.raises(LiveAvatarApiError):
            api.close()
        del trusted_service.replies["stop"]
        api.close_session(session.session_id)
    assert trusted_service.endpoints == ["token", "start", "stop", "stop"]
    assert len(contexts) == 1
