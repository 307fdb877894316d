"""H10, H11. A hook or a signal handler uses a client, and raises the error of that call inside another call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import pytest
from liveavatar import (
    AsyncLiveAvatarApi,
    AuthenticationError,
    ConcurrencyLimitError,
    InsufficientCreditsError,
    LiveAvatarApi,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    NotFoundError,
)
from liveavatar._transports import _aiohttp_direct

from tests.clients import client
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, FastRetries, opened
from tests.faults.pools import driven, outcome
from tests.faults.server import FaultServer

UNKNOWN = "00000000-0000-4000-8000-00000000abcd"


def error_of_another_call(api: Any, kind: str) -> LiveAvatarError:
    if kind == "refused":
        error: Any = LiveAvatarConnectionError("not connected")
        error.request_sent, error.attempts = False, 1
        return error  # type: ignore[no-any-return]
    method = {"stop": "stop_session", "get": "get_session"}[kind]
    _, error = outcome(api.begin(method, UNKNOWN))
    return error  # type: ignore[no-any-return]


def raise_in_hook(api: Any, event: str, path: str, error: Exception, *, skip: int = 0) -> None:
    """Raise an error as the caller's httpx client sends its next request to a path, or has its response.

    Args:
        api: The client.
        event: "request" or "response".
        path: The end of the request's path.
        error: What to raise.
        skip: How many such requests come before.
    """
    pending: list[Exception | None] = [error, *[None] * skip]

    def hook(passed: httpx.Request | httpx.Response) -> None:
        request = passed.request if isinstance(passed, httpx.Response) else passed
        if pending and request.url.path.endswith(path):
            if len(pending) == 1 and api.open_sessions and getattr(error, "session_id", None) is not None:
                error.session_id = api.open_sessions[0]  # as of a handler that closes all open sessions
            found = pending.pop()
            if found is not None:
                raise found

    async def async_hook(passed: httpx.Request | httpx.Response) -> None:
        hook(passed)

    api.http.event_hooks = {event: [async_hook if isinstance(api.http, httpx.AsyncClient) else hook]}


@pytest.mark.row("H10", "H11")
@pytest.mark.parametrize("kind", ["stop", "get", "refused"])
def test_start_is_not_refused_by_the_error_of_another_call(kind: str, flavour: str, fast_retries: FastRetries) -> None:
    """Only its own response tells that a start was refused: a started session is stopped."""
    with driven(f"{flavour} http_client") as (server, api):
        error = error_of_another_call(api, kind)
        raise_in_hook(api, "response", "/start", error)
        _, caught = outcome(api.begin("new_session", session_request()))
        assert caught is error
        assert server.running == set()
        assert server.counts[1:] == (1, 2 if kind == "stop" else 1)
        assert error.session_may_be_running is False


@pytest.mark.row("H10", "H11", "L9")
@pytest.mark.parametrize("stop", ["works", "fails"])
@pytest.mark.parametrize("kind", [AuthenticationError, ConcurrencyLimitError, NotFoundError])
def test_wait_for_slot_does_not_believe_the_error_of_another_call(
    kind: type[LiveAvatarApiError], stop: str, flavour: str, fast_retries: FastRetries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its own response tells that a start was refused: the session is stopped, and no other is opened."""
    monkeypatch.setattr("liveavatar._flows.MIN_SLOT_DELAY", 0.01)
    with driven(f"{flavour} http_client") as (server, api):
        error = kind("of another call", 403, "")
        error.endpoint, error.attempts, error.session_id = "/v1/sessions/stop", 1, UNKNOWN
        server.on("start", fault.refuses(403, "Concurrency limit reached: 1 of 1 sessions running"), 1)
        if stop == "fails":
            server.on("stop", fault.refuses(403, "no"))
        raise_in_hook(api, "response", "/start", error, skip=1)
        _, caught = outcome(api.begin("new_session", session_request(), wait_for_slot=60))
        assert caught is error
        assert server.counts[:2] == (1, 2)
        assert error.session_may_be_running is (stop == "fails")
        assert api.open_sessions == tuple(server.ledger.running)
        assert len(api.open_sessions) == (1 if stop == "fails" else 0)
        server.heal()


@pytest.mark.row("H10", "H11", "L9")
def test_wait_for_slot_does_not_swallow_the_error_of_another_call(flavour: str) -> None:
    """An error that a hook raises during the token request ends the wait, too."""
    with driven(f"{flavour} http_client") as (server, api):
        error = ConcurrencyLimitError("of another call", 403, "")
        error.endpoint, error.attempts, error.session_id = "/v1/sessions/start", 1, UNKNOWN
        raise_in_hook(api, "response", "/token", error)
        _, caught = outcome(api.begin("new_session", session_request(), wait_for_slot=60))
        assert caught is error
        assert server.counts == (1, 0, 0)


@pytest.mark.row("H10", "H11")
@pytest.mark.parametrize("kind", ["stop", "get", "refused"])
def test_close_does_not_believe_the_error_of_another_call(kind: str, flavour: str, fast_retries: FastRetries) -> None:
    """Only its own response tells that a session has ended: the stop is sent again, as after any interruption."""
    with driven(f"{flavour} http_client") as (server, api):
        opened_id = api.call("new_session", session_request()).session_id
        error = error_of_another_call(api, kind)
        error.endpoint = None if kind == "refused" else "/v1/sessions/{session_id}"
        raise_in_hook(api, "request", "/stop", error)
        _, caught = outcome(api.begin("close_session", opened_id))
        assert caught is error
        assert api.open_sessions == ()
        assert server.running == set()


@pytest.mark.row("H10", "H11")
def test_keep_alive_does_not_believe_the_error_of_another_call(flavour: str, fast_retries: FastRetries) -> None:
    """The error of another call does not tell that a session that is kept alive has ended."""
    with driven(f"{flavour} http_client") as (_server, api):
        opened_id = api.call("new_session", session_request()).session_id
        error = error_of_another_call(api, "stop")
        raise_in_hook(api, "request", "/keep-alive", error)
        _, caught = outcome(api.begin("keep_session_alive", opened_id))
        assert caught is error
        assert api.open_sessions == (opened_id,)


class FrozenError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        if name != "__traceback__":
            raise AttributeError(name)


@pytest.mark.row("H10")
def test_exception_that_takes_no_attributes(
    flavour: str, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception whose attributes cannot be set is raised as it is, and a WARNING names the session."""
    with driven(f"{flavour} http_client") as (server, api):
        error: Any = FrozenError()
        raise_in_hook(api, "response", "/start", error)
        server.on("stop", fault.refuses(400, "no"), 1)
        _, caught = outcome(api.begin("new_session", session_request()))
        assert caught is error
        (session_id,) = server.running
        raise_in_hook(api, "request", "/stop", error)
        server.on("stop", fault.refuses(400, "no"), 1)
        _, caught = outcome(api.begin("close_session", session_id))
        assert caught is error
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [session_id in warning for warning in warnings] == [True, True]
        api.call("close_session", session_id)
        assert server.running == set()


@pytest.mark.row("H10", "H11")
def test_blocking_start_and_a_handler_whose_call_fails(server: FaultServer) -> None:
    """A signal handler looks for an unknown session while a start is under way: the session is stopped."""
    server.on("start", fault.delays(0.5))
    with LiveAvatarApi(KEY, base_url=server.url, timeout=10.0) as api:
        previous = signal.signal(signal.SIGALRM, lambda *_: api.get_session(UNKNOWN))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(LiveAvatarError) as caught:
                api.new_session(session_request())
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert caught.value.endpoint == "/v1/sessions/{session_id}"
        server.settle()
        assert server.running == set()


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that refuses connections."""
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/metrics"


def post(url: str) -> None:
    with httpx.Client(trust_env=False) as http:
        http.post(url)


def is_start(request: httpx.Request | None) -> bool:
    return request is not None and request.url.path.endswith("/start")


@pytest.mark.row("H10", "H11")
def test_hook_that_cannot_connect(flavour: str, nobody: str) -> None:
    """A hook reports a start to a service that is down: the session is stopped, and started only once."""

    def hook(response: httpx.Response) -> None:
        if is_start(response.request):
            post(nobody)

    async def async_hook(response: httpx.Response) -> None:
        hook(response)

    with driven(f"{flavour} http_client") as (server, api):
        api.http.event_hooks = {"response": [hook if flavour == "blocking" else async_hook]}
        _, caught = outcome(api.begin("new_session", session_request()))
        assert caught is not None
        assert server.running == set()
        assert server.counts == (1, 1, 1)


@pytest.mark.row("H10", "H11")
def test_hook_typed_at_a_prompt(flavour: str) -> None:
    """The exception of a hook reaches the caller also if it is no class of the caller's, and the hook has no file."""
    typed: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def refuse(): raise TimeoutError", "<stdin>", "exec"), typed)

    def hook(response: httpx.Response) -> None:
        if is_start(response.request):
            typed["refuse"]()

    async def async_hook(response: httpx.Response) -> None:
        hook(response)

    with driven(f"{flavour} http_client") as (server, api):
        api.http.event_hooks = {"response": [hook if flavour == "blocking" else async_hook]}
        _, caught = outcome(api.begin("new_session", session_request()))
        assert type(caught) is TimeoutError
        assert server.running == set()


@pytest.mark.parametrize("reads", [True, False])
def test_hook_that_raises_for_status(reads: bool, flavour: str) -> None:
    """The error of a response is the same with a hook that calls raise_for_status; its message needs the body."""

    def hook(response: httpx.Response) -> None:
        if reads:
            response.read()
        response.raise_for_status()

    async def async_hook(response: httpx.Response) -> None:
        if reads:
            await response.aread()
        response.raise_for_status()

    with driven(f"{flavour} http_client") as (server, api):
        api.http.event_hooks = {"response": [hook if flavour == "blocking" else async_hook]}
        session_id = api.call("new_session", session_request()).session_id
        server.on("token", fault.refuses(402, "No credits", headers={"Retry-After": "7"}), 1)
        _, caught = outcome(api.begin("new_session", session_request()))
        assert isinstance(caught, InsufficientCreditsError)
        assert (caught.attempts, caught.retry_after) == (1, 7)
        assert caught.message == ("No credits" if reads else "Payment Required")
        api.call("close_session", session_id)
        assert server.running == set()


class Untraced(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport that says nothing about what it sends."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with httpx.HTTPTransport() as inner:
            response = inner.handle_request(self.copied(request))
            return httpx.Response(response.status_code, headers=response.headers, content=response.read())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async with httpx.AsyncHTTPTransport() as inner:
            response = await inner.handle_async_request(self.copied(request))
            return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

    def copied(self, request: httpx.Request) -> httpx.Request:
        return httpx.Request(request.method, request.url, headers=request.headers, content=request.content)


@pytest.mark.row("H10", "H11")
def test_hook_that_cannot_connect_over_another_transport(flavour: str, nobody: str, server: FaultServer) -> None:
    """A start is known to have been sent also if the caller's transport is not httpx's own."""

    def hook(response: httpx.Response) -> None:
        if is_start(response.request):
            post(nobody)

    async def async_hook(response: httpx.Response) -> None:
        hook(response)

    make: Any = httpx.Client if flavour == "blocking" else httpx.AsyncClient
    http = make(transport=Untraced(), event_hooks={"response": [hook if flavour == "blocking" else async_hook]})
    with client(flavour, KEY, base_url=server.url, http_client=http) as api:
        with pytest.raises(LiveAvatarConnectionError):
            api.new_session(session_request())
        assert server.running == set()
        assert server.counts == (1, 1, 1)


class Renaming(Untraced):
    """A transport that calls a lost response a failure to connect, as those over other HTTP libraries do."""

    def __init__(self, kind: type[httpx.TransportError]) -> None:
        self.kind = kind

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return super().handle_request(request)
        except httpx.RemoteProtocolError as error:
            raise self.kind(str(error)) from error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except httpx.RemoteProtocolError as error:
            raise self.kind(str(error)) from error


@pytest.mark.row("H1")
@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError])
def test_transport_that_renames_errors(kind: type[httpx.TransportError], flavour: str, server: FaultServer) -> None:
    """A start over another transport than httpx's own may have been sent, whatever its error says."""
    make: Any = httpx.Client if flavour == "blocking" else httpx.AsyncClient
    server.on("start", fault.hangs_up(acts=True), 1)
    with client(flavour, KEY, base_url=server.url, http_client=make(transport=Renaming(kind))) as api:
        with pytest.raises(LiveAvatarConnectionError) as caught:
            api.new_session(session_request())
        assert caught.value.request_sent is True
        assert server.running == set()
        assert server.counts == (1, 1, 1)


@pytest.mark.row("H10", "H11")
@pytest.mark.parametrize("tested", [(3, 14), (0, 0)], ids=["a tested aiohttp", "a newer aiohttp"])
def test_async_trace_that_cannot_connect(
    tested: tuple[int, int], nobody: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a trace of the caller's aiohttp session."""
    monkeypatch.setattr(_aiohttp_direct, "_MAX_TESTED_VERSION", tested)
    trace = aiohttp.TraceConfig()

    @trace.on_request_end.append
    async def report(_session: object, _context: object, params: aiohttp.TraceRequestEndParams) -> None:
        if params.url.path.endswith("/start"):
            async with aiohttp.ClientSession() as other:
                await other.post(nobody)

    async def main() -> None:
        async with aiohttp.ClientSession(trace_configs=[trace]) as session:
            api = AsyncLiveAvatarApi(KEY, session, base_url=server.url)
            with pytest.raises(LiveAvatarConnectionError):
                await api.new_session(session_request())
            await api.aclose()

    asyncio.run(main())
    assert server.running == set()
    assert server.counts == (1, 1, 1)


class Failover(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Sends a request that has failed once more, to another server."""

    def __init__(self, url: str) -> None:
        self.port = httpx.URL(url).port
        self.inner = httpx.HTTPTransport()
        self.async_inner = httpx.AsyncHTTPTransport()

    def elsewhere(self, request: httpx.Request) -> httpx.Request:
        url = request.url.copy_with(port=self.port)
        return httpx.Request(request.method, url, content=request.content, extensions=request.extensions)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return self.inner.handle_request(request)
        except httpx.TransportError:
            return self.inner.handle_request(self.elsewhere(request))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self.async_inner.handle_async_request(request)
        except httpx.TransportError:
            return await self.async_inner.handle_async_request(self.elsewhere(request))


@pytest.mark.row("H10")
def test_second_server_that_refuses(flavour: str, nobody: str, server: FaultServer) -> None:
    """A start whose response is lost may have been carried out, although another server then refused to connect."""
    server.on("start", fault.resets(acts=True), 1)
    transport = Failover(nobody)
    http: Any = httpx.Client if flavour == "blocking" else httpx.AsyncClient
    with client(flavour, KEY, base_url=server.url, http_client=http(transport=transport)) as api:
        with pytest.raises(LiveAvatarConnectionError) as caught:
            api.new_session(session_request())
        assert caught.value.request_sent
        assert server.running == set()
        assert server.counts == (1, 1, 1)
        if flavour == "async":
            api.runner.run(transport.async_inner.aclose())
    transport.inner.close()


@pytest.mark.row("H10", "H11")
@pytest.mark.parametrize("token", [fault.normal, fault.closes_with_response], ids=["reused", "new connection"])
@pytest.mark.parametrize("pool", ["own", "http_client"])
def test_blocking_handler_that_cannot_connect(pool: str, token: Any, nobody: str, server: FaultServer) -> None:
    """A signal handler cannot connect during a start: the session is stopped, and started only once."""

    def signals(exchange: fault.Exchange) -> None:
        exchange.do()
        signal.pthread_kill(main, signal.SIGALRM)
        exchange.until_client_leaves()

    main = threading.get_ident()
    server.on("token", token, 1).on("start", signals, 1)
    with httpx.Client(trust_env=False) as http:
        settings: Any = {"http_client": http} if pool == "http_client" else {}
        api = LiveAvatarApi(KEY, base_url=server.url, timeout=10.0, **settings)
        previous = signal.signal(signal.SIGALRM, lambda *_: post(nobody))
        try:
            with pytest.raises(Exception, match="refused"):
                api.new_session(session_request())
        finally:
            signal.signal(signal.SIGALRM, previous)
        server.settle()
        assert server.running == set()
        assert server.counts == (1, 1, 1)
        api.close()


@pytest.mark.row("H10")
def test_log_filter_that_raises(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A log filter that raises does not replace the error that names the session."""

    def fail(record: logging.LogRecord) -> bool:
        if record.levelno == logging.WARNING:
            raise ArithmeticError("a filter of the caller fails")
        return True

    logger = logging.getLogger("liveavatar")
    logger.addFilter(fail)
    try:
        with opened(flavour, server) as api:
            server.on("start", fault.answers(500, acts=True), 1)
            server.on("stop", fault.refuses(400, "No"), 2)
            with pytest.raises(LiveAvatarError) as caught:
                api.new_session(session_request())
            (session_id,) = api.open_sessions
            assert (caught.value.session_id, caught.value.session_may_be_running) == (session_id, True)
            assert session_id in caught.value.__notes__[-1]
            with pytest.raises(LiveAvatarError) as caught:
                api.close_session(session_id)
            assert (caught.value.session_id, caught.value.session_may_be_running) == (session_id, True)
            api.close_session(session_id)
    finally:
        logger.removeFilter(fail)
    assert server.running == set()
