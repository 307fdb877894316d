"""What all transports share, without a socket: deadlines, response heads, errors, and work that is not interrupted."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import select
import socket
import ssl
import sys
import threading
import time
import types
import unittest.mock
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import attrs
import h11
import httpcore
import httpx
import pytest
from liveavatar import LedgerError, LiveAvatarApi, LiveAvatarConnectionError, LiveAvatarTimeoutError
from liveavatar._constants import CLEANUP_POOL_TIMEOUT, CONNECT_TIMEOUT, INTERRUPT_INTERVAL
from liveavatar._redaction import Secret
from liveavatar._transports import _blocking
from liveavatar._transports._aiohttp import AiohttpTransport
from liveavatar._transports._aiohttp_direct import _poll
from liveavatar._transports._asyncio import (
    AsyncIO,
    AsyncTransport,
    Attempt,
    _background_tasks,
    current_attempt,
    shield_all,
    wait_shielded,
)
from liveavatar._transports._base import Request, Response, connection_error, find_callers_exception
from liveavatar._transports._blocking import BlockingIO, BlockingTransport, run, run_in_thread
from liveavatar._transports._httpcore import _ConnectionStack, _DeadlineBackend, _DeadlineStream, current_request
from liveavatar._transports._httpx import build_request, is_of_another_request

LOCAL = "http://127.0.0.1:8080/v1/sessions/start"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time, which stands still."""
    monkeypatch.setattr("liveavatar._transports._base.time", types.SimpleNamespace(monotonic=lambda: 1000.0))
    return 1000.0


def request(deadline: float = math.inf, url: str = LOCAL, **settings: Any) -> Request:
    """Return a request without content."""
    return Request(
        method="POST", url=url, headers=(), credential=("X-API-KEY", Secret("k")), deadline=deadline, **settings
    )


# ---- Deadlines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0.0, -1.0])
def test_no_time_left(left: float, now: float) -> None:
    """A request whose deadline has come is a timeout."""
    with pytest.raises(LiveAvatarTimeoutError, match=r"the call timed out \(TimeoutError\)$") as caught:
        request(now + left).remaining(sent=True)
    assert caught.value.request_sent is True


@pytest.mark.parametrize(("left", "connect"), [(2.0, 1.8), (100.0, CONNECT_TIMEOUT)])
def test_connect_timeout(left: float, connect: float, now: float) -> None:
    """An attempt to connect ends before the request does."""
    assert request(now + left).connect_timeout() == pytest.approx(connect)


@pytest.mark.parametrize(
    ("left", "is_cleanup", "pool"),
    [(100.0, False, 90.0), (100.0, True, CLEANUP_POOL_TIMEOUT), (0.2, True, 0.18)],
)
def test_pool_timeout(left: float, is_cleanup: bool, pool: float, now: float) -> None:
    """A cleanup waits for a connection of the caller's pool for a short time only."""
    assert request(now + left, is_cleanup=is_cleanup).pool_timeout() == pytest.approx(pool)


@pytest.mark.parametrize(("reused", "left"), [(3.0, 3.0), (math.inf, 8.0), (9.0, 8.0)])
def test_reused_deadline(reused: float, left: float, now: float) -> None:
    """A request on a connection that may have died ends at the earlier of its two deadlines."""
    limited = request(now + 8.0, reused_deadline=now + reused)
    assert limited.remaining_if_reused() == left
    limited.limit_to_reused()
    assert limited.remaining() == left
    limited.extend_to_new()
    assert limited.remaining() == 8.0


# ---- The head of a response --------------------------------------------------------------------------------


def test_repeated_header() -> None:
    """The values of a header that was sent more than once are joined."""
    pairs = [("Retry-After", "1"), ("X", "0"), ("retry-after", "2")]
    assert Response(503, aiohttp.typedefs.CIMultiDict(pairs)).header("retry-after") == "1, 2"
    assert Response(503, httpx.Headers(pairs)).header("retry-after") == "1, 2"


def test_long_encoding() -> None:
    """The name of an encoding is quoted up to its twentieth character."""
    refused = Response(200, {"content-encoding": "x" * 19 + "yz"})
    assert refused.unreadable == f"a body in the encoding '{'x' * 19}y', which was not asked for"


# ---- The error of a connection -----------------------------------------------------------------------------

HINT = "; is the mock server running at 127.0.0.1:8080? `python -m liveavatar.mock --port 8080` starts it"


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (OSError("refused"), "refused (OSError)"),
        (OSError(), "the connection broke (OSError)"),
        (OSError(" two\r\n words "), "two words (OSError)"),
        ("the session is closed", "the session is closed"),
        (h11.RemoteProtocolError("a secret"), "the response is incomplete, or not valid HTTP (RemoteProtocolError)"),
        (TimeoutError(), "the call timed out (TimeoutError)"),
    ],
)
def test_reason(cause: Exception | str, reason: str) -> None:
    """An error says what happened in one line, which quotes nothing that the service has sent."""
    error = connection_error(request(), cause, sent=True)
    assert str(error) == f"No response from {LOCAL}: {reason}"
    assert isinstance(error, LiveAvatarTimeoutError) is isinstance(cause, TimeoutError)
    assert error.__cause__ is None


def test_long_reason() -> None:
    """A long reason is cut off."""
    error = connection_error(request(), "x" * 299 + "yz", sent=True)
    assert str(error) == f"No response from {LOCAL}: {'x' * 299}y"


@pytest.mark.parametrize(
    ("url", "sent", "timed_out", "hint"),
    [
        (LOCAL, False, False, HINT),
        (LOCAL, True, False, ""),
        (LOCAL, False, True, ""),
        (
            "http://localhost/v1",
            False,
            False,
            "; is the mock server running at localhost? `python -m liveavatar.mock`",
        ),
        ("http://192.0.2.1/v1", False, False, ""),
    ],
)
def test_hint_of_mock_server(url: str, sent: bool, timed_out: bool, hint: str) -> None:
    """The mock server is mentioned if loopback has refused a connection, and in no other case."""
    error = connection_error(request(url=url), OSError("x"), sent=sent, timed_out=timed_out)
    end = " starts it" if url == "http://localhost/v1" else ""
    assert str(error) == f"No response from {url}: x (OSError){hint}{end}"
    assert error.request_sent is sent


def test_hint_of_scheme() -> None:
    """A failed TLS handshake asks whether the server expects http://."""
    error = connection_error(request(url="https://127.0.0.1:8080/v1"), ssl.SSLError("wrong version"), sent=False)
    assert str(error).endswith("; does the server at 127.0.0.1:8080 expect http://, not https://? Check base_url")


# ---- Exceptions that no library raised ---------------------------------------------------------------------


class OtherError(Exception):
    """An exception of a caller."""


class OtherOSError(OSError):
    """A connection error of a caller."""


def raised(error: Exception, file: str = __file__, cause: Exception | None = None) -> Exception:
    """Return an exception that the code of a file has raised, two calls deep."""
    code = "def inner():\n    raise error from cause\ndef outer():\n    inner()\nouter()"
    try:
        exec(compile(code, file, "exec"), {"error": error, "cause": cause})
    except Exception as caught:
        return caught
    raise AssertionError


@pytest.mark.parametrize("kind", [OtherError, OtherOSError, OSError, RuntimeError, UnicodeError])
def test_foreign(kind: type[Exception]) -> None:
    """An exception is foreign if the caller has defined it, or its code has raised it."""
    error = raised(kind("of a signal handler"))
    assert find_callers_exception(error) is error


@pytest.mark.parametrize("kind", [OtherOSError, OSError, RuntimeError])
def test_foreign_cause(kind: type[Exception]) -> None:
    """So is one that a library has wrapped, unless the caller was handling it already."""
    error = raised(kind("of a signal handler"))
    wrapper = raised(httpx.ReadError("x"), cause=error)
    assert find_callers_exception(wrapper) is error
    assert find_callers_exception(wrapper, error) is None


def test_cause_of_a_mocking_library() -> None:
    """The cause of a library's exception is not foreign if libraries wrap no such exception."""
    assert find_callers_exception(raised(httpx.ReadError("x"), cause=raised(OtherError()))) is None


@pytest.mark.parametrize("file", [ssl.__file__, httpx.__file__, "<string>", "uvloop/loop.pyx", "a.pxd", "a.pxi"])
def test_error_of_a_library(file: str) -> None:
    """An exception that the code of a library has raised is not foreign, compiled or not."""
    assert find_callers_exception(raised(ConnectionResetError("x"), file)) is None


def test_error_without_traceback() -> None:
    """An exception that nothing has raised is not foreign."""
    assert find_callers_exception(OSError("x")) is None


# ---- asyncio -----------------------------------------------------------------------------------------------


class Stub(AsyncTransport):
    """A transport that calls a function in place of sending a request."""

    errors = (OSError, httpx.HTTPError)
    closed = False

    def __init__(self, exchange: Any = None, spare: Stub | None = None) -> None:
        self.exchange = exchange
        self.beside = spare
        self.owns_pool = spare is None
        self.sent: list[Request] = []

    async def _exchange(self, attempt: Attempt) -> None:
        self.sent.append(attempt.request)
        if self.exchange is not None:
            await self.exchange()
        attempt.response = Response(200, {})

    def _to_connection_error(
        self, request: Request, error: Exception, active: BaseException | None
    ) -> LiveAvatarConnectionError:
        return connection_error(request, error, sent=False, active=active)

    def is_closed(self) -> bool:
        return self.closed

    def spare(self) -> Stub:
        assert self.beside is not None
        return self.beside

    async def close(self) -> None:
        self.closed = True


def soon() -> float:
    """Return a deadline that the tests do not reach."""
    return time.monotonic() + 60.0


def failing(error: Exception) -> Stub:
    """Return a transport that raises an exception."""

    async def fail() -> None:
        raise error

    return Stub(fail)


def test_late_response() -> None:
    """A request that gets no response ends at its deadline."""
    with pytest.raises(LiveAvatarTimeoutError):
        asyncio.run(Stub(asyncio.Event().wait).send(request(time.monotonic() + 0.01)))


@pytest.mark.parametrize("error", [KeyError("x"), OtherError("x"), OtherOSError("x")], ids=repr)
def test_error_of_a_hook(error: Exception) -> None:
    """What a hook of the caller has raised is raised as it is."""
    with pytest.raises(type(error)) as caught:
        asyncio.run(failing(error).send(request(soon())))
    assert caught.value is error


def test_error_while_handling_another() -> None:
    """What the caller was handling does not make a connection error its own."""
    broken = raised(ConnectionResetError("broken"), ssl.__file__)
    try:
        raise OtherOSError("handled")
    except OtherOSError as active:
        broken.__context__ = active
        with pytest.raises(LiveAvatarConnectionError, match="broken"):
            asyncio.run(failing(broken).send(request(soon())))


def test_request_of_a_hook() -> None:
    """A hook may send a request of its own: afterwards, the connection notes what happens to the first one again."""
    first, second = request(soon()), request(soon())
    seen: list[Request] = []

    async def hook() -> None:
        seen.append(current_attempt.get().request)
        if len(seen) == 1:
            await transport.send(second)
            seen.append(current_attempt.get().request)

    transport = Stub(hook)
    asyncio.run(transport.send(first))
    assert [id(each) for each in seen] == [id(first), id(second), id(first)]


def test_abandoned_request() -> None:
    """A request that was abandoned may be closed in another context than it began in."""

    async def begin_and_close() -> None:
        sending = Stub(lambda: asyncio.sleep(0)).send(request(soon()))
        contextvars.copy_context().run(sending.send, None)
        sending.close()

    asyncio.run(begin_and_close())


def test_last_resort() -> None:
    """A last attempt is sent beside the caller's pool, on a connection that is closed afterwards."""
    spare = Stub()
    callers, last = Stub(spare=spare), request(soon(), beside_pool=True)
    assert asyncio.run(callers.send(last)).status == 200
    assert (callers.sent, spare.sent) == ([], [last])
    assert spare.closed


@pytest.mark.parametrize(
    ("closed", "owns_pool", "sent", "settings", "is_sent_beside"),
    [
        (False, False, False, {"is_cleanup": True}, True),
        (False, False, True, {"is_cleanup": True}, False),
        (False, True, False, {"is_cleanup": True}, False),
        (False, False, False, {"is_stop": True}, False),
        (True, True, False, {"is_stop": True}, True),
        (True, False, False, {"is_stop": True}, True),
        (True, False, True, {"is_stop": True}, False),
        (True, False, False, {}, False),
    ],
)
def test_request_beside_the_pool(
    closed: bool, owns_pool: bool, sent: bool, settings: dict[str, bool], is_sent_beside: bool
) -> None:
    """A cleanup that the caller's pool could not send, and a stop that a closed pool could not, is sent beside it."""
    asked, spare = request(soon(), **settings), Stub()
    transport = failing(connection_error(asked, "broken", sent=sent))
    transport.beside, transport.owns_pool = spare, owns_pool
    transport.closed = closed
    if is_sent_beside:
        assert asyncio.run(transport.send(asked)).status == 200
    else:
        with pytest.raises(LiveAvatarConnectionError, match="broken"):
            asyncio.run(transport.send(asked))
    assert spare.sent == [asked] * is_sent_beside
    assert spare.closed is is_sent_beside


def test_broken_body() -> None:
    """A response whose body breaks off is returned, with the error."""

    async def begin_and_break() -> None:
        current_attempt.get().response = Response(402, {})
        raise httpx.ReadError("broken")

    response = asyncio.run(Stub(begin_and_break).send(request(soon())))
    assert response.status == 402
    assert response.read_error is not None
    assert response.read_error.request_sent is True


def test_request_without_time() -> None:
    """A request whose deadline has come is not sent."""
    transport = Stub()
    with pytest.raises(LiveAvatarTimeoutError) as caught:
        asyncio.run(transport.send(request(time.monotonic() - 1.0)))
    assert caught.value.request_sent is False
    assert transport.sent == []


def test_many_works() -> None:
    """Much work is done, at most 50 pieces at the same time."""
    running, most, done = 0, 0, 0

    async def work() -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done += 1

    asyncio.run(AsyncIO(Stub()).run_all([work] * 120))
    assert (done, most) == (120, 50)


def test_ledger_that_hangs(flavour: str) -> None:
    """A ledger is waited for in a daemon thread, and for a limited time."""
    release = threading.Event()
    threads: list[threading.Thread] = []

    def hang() -> None:
        threads.append(threading.current_thread())
        release.wait()

    def call() -> None:
        if flavour == "blocking":
            run(lambda: BlockingIO(unittest.mock.Mock()).call_ledger(hang, 0.01))
        else:
            asyncio.run(AsyncIO(Stub()).call_ledger(hang, 0.01))

    with pytest.raises(LedgerError, match=r"^The ledger does not respond within 0\.01 seconds\.$"):
        call()
    release.set()
    assert threads[0].daemon
    assert threads[0].name == {"blocking": "liveavatar-cleanup", "async": "liveavatar-blocking-call"}[flavour]


def test_work_that_was_cancelled() -> None:
    """Shielded work that was cancelled after its first step is not repeated."""
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def once() -> None:
        (task,) = await shield_all([work])
        assert task.cancelled()

    asyncio.run(once())
    assert len(begun) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_work_that_had_no_first_step(times: int) -> None:
    """Shielded work that was cancelled before its first step is created once more, and not twice."""
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)

    async def cancel_before_it_begins() -> None:
        loop, create, made = asyncio.get_running_loop(), asyncio.get_running_loop().create_task, 0

        def create_task(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            task = create(*args, **kwargs)
            made += 1
            if made <= times:
                task.cancel()
            return task

        with unittest.mock.patch.object(loop, "create_task", create_task):
            (task,) = await shield_all([work])
        assert task.cancelled() is (times == 2)
        assert made == 2

    asyncio.run(cancel_before_it_begins())
    assert len(begun) == 2 - times


async def cancelled_wait(task: asyncio.Task[Any]) -> None:
    """Wait for a task, and cancel the wait once it has begun."""
    waiting = asyncio.ensure_future(wait_shielded([task]))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("state", ["not imported", "being imported", "imported"])
def test_wait_after_cancellation(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled wait goes on until the work has ended. If anyio is imported, it does not cancel the wait again."""
    scope = unittest.mock.MagicMock()
    anyio = types.SimpleNamespace(**{"CancelScope": scope} if state == "imported" else {})
    monkeypatch.setattr("liveavatar._transports._asyncio.CLEANUP_TIMEOUT", 0.9)
    monkeypatch.setitem(sys.modules, "anyio", None if state == "not imported" else anyio)

    async def check() -> None:
        task = asyncio.ensure_future(asyncio.sleep(0.01))
        await cancelled_wait(task)
        assert task.done()

    asyncio.run(check())
    if state == "imported":
        scope.assert_called_once_with(shield=True)
        scope.return_value.__exit__.assert_called_once()


def test_work_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that takes too long after a cancellation ends in the background; its error is not logged once more."""
    monkeypatch.setattr("liveavatar._transports._asyncio.CLEANUP_TIMEOUT", 0.01)
    logged: list[Any] = []

    async def check() -> None:
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(lambda loop, context: logged.append(context))

        async def work() -> None:
            await end.wait()
            raise OtherError

        task = asyncio.ensure_future(work())
        await cancelled_wait(task)
        assert task in _background_tasks
        end.set()
        while not task.done():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert task not in _background_tasks
        del task
        gc.collect()

    asyncio.run(check())
    assert logged == []


# ---- Threads -----------------------------------------------------------------------------------------------


def name_thread() -> str:
    """Return the name of the current thread."""
    return threading.current_thread().name


async def aname_thread() -> str:
    return name_thread()


def ledger_io(flavour: str) -> Callable[[Callable[[], Any]], Any]:
    """Return a function that calls a ledger as a client does, without a limit of time."""
    if flavour == "blocking":
        return lambda function: run(lambda: BlockingIO(unittest.mock.Mock()).call_ledger(function, None))
    return lambda function: asyncio.run(AsyncIO(Stub()).call_ledger(function, None))


def test_ledger_that_fails(flavour: str) -> None:
    """A result of a ledger is returned, and its exception raised."""
    call = ledger_io(flavour)
    assert call(lambda: 7) == 7
    with pytest.raises(OtherError, match="of the ledger"):
        call(failing_function)


def failing_function() -> None:
    raise OtherError("of the ledger")


def test_no_thread(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger is called once, in the caller's thread, if no thread can be started."""
    monkeypatch.setattr(threading.Thread, "start", unittest.mock.Mock(side_effect=RuntimeError("can't start")))
    calls: list[str] = []
    ledger_io(flavour)(lambda: calls.append(name_thread()))
    assert calls == ["MainThread"]


def in_thread(function: Callable[[], str]) -> str:
    """Call a function in a thread that is not the main one."""
    with ThreadPoolExecutor(1, "other") as threads:
        return threads.submit(function).result()


def test_thread_of_a_cleanup() -> None:
    """A blocking cleanup has a thread of its own where signals could interrupt it: in the main thread."""
    io = BlockingIO(unittest.mock.Mock())
    assert run(lambda: io.shield_cleanup(aname_thread)) == "liveavatar-cleanup"
    assert in_thread(lambda: run(lambda: io.shield_cleanup(aname_thread))) == "other_0"
    assert run(lambda: io.call_ledger(name_thread, None)) == "liveavatar-cleanup"
    assert in_thread(lambda: run(lambda: io.call_ledger(name_thread, None))) == "other_0"


@pytest.mark.parametrize("ends", [True, False])
def test_cleanup_time(ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocking cleanup has a second more than it needs, and then is an error."""
    monkeypatch.setattr("liveavatar._transports._blocking.CLEANUP_TIMEOUT", 1.0 if ends else -0.99)
    end = threading.Event()

    async def work() -> bool:
        return end.wait(0.01 if ends else 60)

    io = BlockingIO(unittest.mock.Mock())
    if ends:
        assert run(lambda: io.shield_cleanup(work)) is False
    else:
        with pytest.raises(LiveAvatarTimeoutError, match=r"^The cleanup did not end in time\.$"):
            run(lambda: io.shield_cleanup(work))
        end.set()


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("when", ["before the start", "after the start"])
def test_interrupted_work(when: str, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt is raised when the work has ended, which is done once, or when its time is over."""
    monkeypatch.setattr("liveavatar._transports._blocking.CLEANUP_TIMEOUT", 1.0 if ends else -0.99)
    start, interrupts, end, done = threading.Thread.start, [KeyboardInterrupt()], threading.Event(), []

    def interrupted_start(thread: threading.Thread) -> None:
        if when == "after the start":
            start(thread)
        if interrupts:
            raise interrupts.pop()
        start(thread)

    def work() -> None:
        end.wait(0.01 if ends else 60)
        done.append(name_thread())

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted_start)
        with pytest.raises(KeyboardInterrupt):
            run_in_thread(work, 60.0, LiveAvatarTimeoutError("late"))
    assert done == ["liveavatar-cleanup"] * ends
    end.set()


def test_flow_that_suspends() -> None:
    """A flow of the blocking client that suspends is an error."""
    with pytest.raises(RuntimeError, match=r"^a flow of the blocking client has suspended$"):
        run(lambda: asyncio.sleep(0))


def test_shielded_work_after_cancellation() -> None:
    """A caller that was cancelled while it waited for shielded work is cancelled when the work has ended."""
    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.append(1)

    async def check() -> None:
        waiting = asyncio.ensure_future(shield_all([work]))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert done == [1]

    asyncio.run(check())


def test_resolver_of_the_caller() -> None:
    """An OSError of a resolver, which the caller may have written, is a connection error; another error is not."""

    class Resolver(aiohttp.abc.AbstractResolver):
        error: Exception = OSError(8, "no such host")

        async def resolve(self, *args: Any, **options: Any) -> list[Any]:
            raise self.error

        async def close(self) -> None:
            pass

    async def check() -> None:
        resolver = Resolver()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=resolver)) as session:
            transport = AiohttpTransport("http://liveavatar.test/v1", session)
            asked = request(time.monotonic() + 10, url="http://liveavatar.test/v1/sessions")
            with pytest.raises(LiveAvatarConnectionError, match="no such host") as caught:
                await transport.send(asked)
            assert caught.value.request_sent is False
            resolver.error = ZeroDivisionError("mine")
            with pytest.raises(ZeroDivisionError, match="mine"):
                await transport.send(asked)

    asyncio.run(check())


# ---- httpx -------------------------------------------------------------------------------------------------


def test_timeouts_of_httpx(now: float) -> None:
    """Each of httpx's timeouts is bounded by the time left."""
    asked = request(now + 2.0, is_cleanup=True)
    built = build_request(asked)
    assert built.extensions["timeout"] == {
        "connect": pytest.approx(1.8),
        "read": 2.0,
        "write": 2.0,
        "pool": CLEANUP_POOL_TIMEOUT,
    }


def test_hook_removes_the_timeouts() -> None:
    """A request hook of the caller's client may remove the timeouts that httpx is given."""
    with ThreadPoolExecutor(1) as executor, socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def respond() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        responding = executor.submit(respond)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with httpx.Client(event_hooks={"request": [lambda sent: sent.extensions.pop("timeout")]}) as http:
            assert BlockingTransport(url, http).send(request(time.monotonic() + 10, url=url)).status == 200
        responding.result(10)


def test_spare_connection_has_the_whole_timeout(now: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop that gets no connection of the caller's pool has the time that is left, and not a share of it."""
    deadlines: list[float] = []

    def handle(pool: object, prepared: httpx.Request) -> httpx.Response:
        deadlines.append(current_request.get().deadline)
        return httpx.Response(200, request=prepared, content=b"{}")

    def refuse(sent: httpx.Request) -> httpx.Response:
        deadlines.append(current_request.get().deadline)
        raise httpx.PoolTimeout("no connection") from httpcore.PoolTimeout()

    monkeypatch.setattr(_blocking, "_send_through_pool", handle)
    with httpx.Client(transport=httpx.MockTransport(refuse)) as http:
        asked = request(now + 9.0, reused_deadline=now + 3.0, is_stop=True, is_cleanup=True)
        assert BlockingTransport(LOCAL, http).send(asked).status == 200
    assert deadlines == [now + 3.0, now + 9.0]


def test_timeouts_on_a_new_connection(now: float) -> None:
    """Once httpx has opened a new connection, reads and writes have the time that is left, and not a share of it."""
    asked = request(now + 9.0, reused_deadline=now + 3.0)
    asked.limit_to_reused()
    built = build_request(asked)
    assert (built.extensions["timeout"]["read"], built.extensions["timeout"]["write"]) == (3.0, 3.0)
    _blocking._extend_to_new(asked, built)
    assert (built.extensions["timeout"]["read"], built.extensions["timeout"]["write"]) == (9.0, 9.0)


@pytest.mark.parametrize("content", [b'{"a": 1}', b""])
def test_request_of_httpx(content: bytes, now: float) -> None:
    """Httpx gets the method, the content and the credential of a request."""
    built = build_request(attrs.evolve(request(now + 2.0), method="post", content=Secret(content)))
    assert (built.method, built.read(), built.headers["x-api-key"]) == ("POST", content, "k")


def test_error_of_another_request() -> None:
    """An error of httpx that names another request, or none, is one that a hook has raised."""
    ours, other = httpx.Request("POST", LOCAL), httpx.Request("POST", LOCAL)
    assert not is_of_another_request(httpx.ReadError("x", request=ours), ours)
    assert is_of_another_request(httpx.ReadError("x", request=other), ours)
    assert is_of_another_request(httpx.ReadError("x"), ours)


# ---- aiohttp -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "is_cleanup", "is_callers", "connect", "sock_connect"),
    [
        (100.0, True, False, None, CONNECT_TIMEOUT),
        (2.0, True, False, None, 1.8),
        (100.0, False, True, 90.0, CONNECT_TIMEOUT),
        (100.0, True, True, CLEANUP_POOL_TIMEOUT, CONNECT_TIMEOUT),
    ],
)
def test_timeouts_of_aiohttp(
    left: float, is_cleanup: bool, is_callers: bool, connect: float | None, sock_connect: float, now: float
) -> None:
    """Each of aiohttp's timeouts is bounded by the time left. Only a caller's pool may have no connection."""

    async def limits() -> aiohttp.ClientTimeout:
        async with aiohttp.ClientSession() as callers:
            transport = AiohttpTransport(LOCAL, callers if is_callers else None)
            return transport._timeouts(request(now + left, is_cleanup=is_cleanup))

    assert asyncio.run(limits()) == aiohttp.ClientTimeout(
        connect=connect and pytest.approx(connect), sock_connect=pytest.approx(sock_connect)
    )


@pytest.mark.parametrize("function", [name for name in ("poll", "select") if hasattr(select, name)])
def test_poll(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection is used up once anything has arrived, and once it is closed. No answer is waited for.

    Windows has no `select.poll`, and eventlet removes it.
    """
    waits: list[float] = []

    def noted_select(*args: Any) -> Any:
        waits.append(args[3])
        return select.select(*args)

    class Poll:
        def __init__(self) -> None:
            self._poll = select.poll()
            self.register = self._poll.register

        def poll(self, wait: float) -> Any:
            waits.append(wait)
            return self._poll.poll(wait)

    known = {"select": noted_select} if function == "select" else {"poll": Poll, "POLLIN": select.POLLIN}
    monkeypatch.setattr("liveavatar._transports._aiohttp_direct.select", types.SimpleNamespace(**known))
    near, far = socket.socketpair()
    with near, far:
        is_readable = _poll(unittest.mock.Mock(get_extra_info={"socket": near}.get))
        assert is_readable() is False
        far.send(b"x")
        assert is_readable() is True
        near.recv(1)
        assert is_readable() is False
        near.close()
        assert is_readable() is True
    assert set(waits) == {0}


def test_poll_without_a_socket() -> None:
    """An idle connection whose socket is not known counts as used up."""
    assert _poll(None)() is True
    assert _poll(unittest.mock.Mock(get_extra_info={}.get))() is True


# ---- httpcore ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "longest"), [(100.0, INTERRUPT_INTERVAL), (0.25, 0.25)])
def test_deadline_of_a_connection(left: float, longest: float, now: float) -> None:
    """Each operation of a blocking connection ends at the request's deadline; a read lets signals in between."""
    inner = unittest.mock.Mock()
    token = current_request.set(request(now + left))
    try:
        stream = _DeadlineStream(inner)
        stream.read(7)
        stream.write(b"x")
        stream.start_tls(unittest.mock.sentinel.context, "host")
    finally:
        current_request.reset(token)
    inner.read.assert_called_once_with(7, longest)
    inner.write.assert_called_once_with(b"x", left)
    inner.start_tls.assert_called_once_with(unittest.mock.sentinel.context, "host", min(CONNECT_TIMEOUT, 0.9 * left))


def test_read_while_the_clock_stands_still(now: float) -> None:
    """A read ends after the time that was left, also if a test of the user has stopped the clock."""
    inner = unittest.mock.Mock()
    inner.read.side_effect = httpcore.ReadTimeout("timed out")
    token = current_request.set(request(now + 3.2 * INTERRUPT_INTERVAL))
    try:
        with pytest.raises(httpcore.ReadTimeout):
            _DeadlineStream(inner).read(7)
    finally:
        current_request.reset(token)
    waited = [call.args[1] for call in inner.read.call_args_list]
    assert waited == [INTERRUPT_INTERVAL] * 3 + [pytest.approx(0.2 * INTERRUPT_INTERVAL)]


@pytest.mark.parametrize("operation", ["read", "write"])
def test_connection_after_the_deadline(operation: str, now: float) -> None:
    """A request whose time ends on a connection may have been sent."""
    inner = unittest.mock.Mock()
    token = current_request.set(request(now))
    try:
        with pytest.raises(LiveAvatarTimeoutError) as caught:
            getattr(_DeadlineStream(inner), operation)(b"x")
    finally:
        current_request.reset(token)
    assert caught.value.request_sent is True
    assert inner.mock_calls == []


@pytest.fixture
def sending(now: float) -> Iterator[None]:
    """A request is sent, and has 2 seconds left."""
    token = current_request.set(request(now + 2.0))
    yield
    current_request.reset(token)


def timeout_of_a_handler(kind: type[Exception], file: str = __file__) -> Exception:
    """Return httpcore's exception for a timeout error that a signal handler has raised in a call of the socket."""
    return raised(kind("x"), httpcore.__file__, cause=raised(TimeoutError("of a signal handler"), file))


@pytest.mark.usefixtures("sending")
@pytest.mark.parametrize("kind", [httpcore.ConnectError, httpcore.ConnectTimeout])
def test_next_address(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next address has a share of the time, and is not tried after the error of a signal handler."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{number}", 80)) for number in (1, 1, 2)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    timeout, handled = timeout_of_a_handler(kind, ssl.__file__), timeout_of_a_handler(kind)
    inner = unittest.mock.Mock()
    inner.connect_tcp.side_effect = [timeout, timeout, handled, handled, inner.stream]
    backend = _DeadlineBackend(inner)
    with pytest.raises(kind):
        backend.connect_tcp("host", 80)
    with pytest.raises(kind) as caught:
        backend.connect_tcp("host", 80)
    assert caught.value is handled
    try:
        raise handled.__cause__ or handled
    except TimeoutError:  # the caller handles this error already
        backend.connect_tcp("host", 80, local_address="192.0.2.9")
    assert inner.connect_tcp.mock_calls[:3] == [
        unittest.mock.call("192.0.2.1", 80, timeout=pytest.approx(0.9)),
        unittest.mock.call("192.0.2.2", 80, timeout=pytest.approx(1.8)),
        unittest.mock.call("192.0.2.1", 80, timeout=pytest.approx(0.9)),
    ]
    assert inner.connect_tcp.mock_calls[4:] == [
        unittest.mock.call("192.0.2.2", 80, timeout=pytest.approx(1.8), local_address="192.0.2.9")
    ]


@pytest.mark.usefixtures("sending")
def test_read_after_a_signal() -> None:
    """A read goes on until the deadline, but not after the error of a signal handler."""
    timeout, handled = (timeout_of_a_handler(httpcore.ReadTimeout, file) for file in (ssl.__file__, __file__))
    inner = unittest.mock.Mock()
    inner.read.side_effect = [timeout, timeout, b"x", timeout, handled, handled, b"y"]
    stream = _DeadlineStream(inner)
    assert stream.read(1) == b"x"
    with pytest.raises(httpcore.ReadTimeout) as caught:
        stream.read(1)
    assert caught.value is handled
    try:
        raise handled.__cause__ or handled
    except TimeoutError:  # the caller handles this error already
        assert stream.read(1) == b"y"


@pytest.mark.parametrize(("left", "reads"), [(INTERRUPT_INTERVAL, 1), (INTERRUPT_INTERVAL + 0.1, 2)])
def test_last_read(left: float, reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that has lasted until the deadline is the last one."""
    clock = unittest.mock.Mock(monotonic=unittest.mock.Mock(side_effect=[1000.0, 1000.0 + INTERRUPT_INTERVAL]))
    monkeypatch.setattr("liveavatar._transports._base.time", clock)
    inner = unittest.mock.Mock()
    inner.read.side_effect = httpcore.ReadTimeout
    token = current_request.set(request(1000.0 + left))
    with pytest.raises(httpcore.ReadTimeout):
        _DeadlineStream(inner).read(1)
    current_request.reset(token)
    assert inner.read.call_count == reads


class FailingHandlerError(ConnectionResetError):
    """An error that a signal handler raises while a host name is resolved."""


@pytest.mark.usefixtures("sending")
@pytest.mark.parametrize("kind", [FailingHandlerError, OSError, UnicodeError])
def test_name_and_a_signal_handler(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that a signal handler raises while a host name is resolved is raised as it is."""
    error = kind("of a signal handler")

    def getaddrinfo(*_: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with LiveAvatarApi("key", base_url="http://localhost:9") as api, pytest.raises(kind) as caught:
        api.stop_session("00000000-0000-4000-8000-000000000001")
    assert caught.value is error


def test_idle_connection_that_another_thread_takes() -> None:
    """A connection that another thread takes while it is found to be old is left to that thread."""
    stack = _ConnectionStack(unittest.mock.Mock())

    def taken() -> bool:
        stack._idle.clear()
        return True

    parser = types.SimpleNamespace(trailing_data=(b"", False))
    connection = unittest.mock.Mock(has_expired=taken, _h11_state=parser)
    stack._release(connection)
    connection.close.assert_not_called()
