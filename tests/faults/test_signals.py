"""H10, H11, H12. Signal handlers that raise inside a call, that use the client, and that end the program."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from liveavatar import LiveAvatarApi, LiveAvatarError, SessionTokenNotFoundError

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, opened
from tests.faults.pools import in_thread
from tests.faults.running import Ended, program
from tests.faults.server import Behaviour, Exchange, FaultServer

# ---------------------------------------------------------------------------------------------------------------
# A signal handler raises inside a call.


class SoftTimeLimitExceeded(Exception):  # noqa: N818
    """As Celery's: an ordinary exception that a signal handler raises."""


class JobTimeout(TimeoutError):  # noqa: N818
    """A time-out of the caller's own."""


class Preempted(ConnectionResetError):  # noqa: N818
    """An OSError of the caller's own."""


class Aborted(BaseException):
    """Like gevent's and greenlet's exits."""


KINDS = (
    SoftTimeLimitExceeded,
    JobTimeout,
    Preempted,
    Aborted,
    TimeoutError,
    ConnectionResetError,
    KeyboardInterrupt,
    SystemExit,
)


@pytest.fixture
def signals() -> Iterator[Callable[[type[BaseException]], Behaviour]]:
    """A behaviour that signals the main thread, whose handler raises an exception of the given class."""
    before = signal.getsignal(signal.SIGUSR1)
    main = threading.main_thread().ident
    assert main is not None

    def raises(kind: type[BaseException], after: float = 0.02) -> Behaviour:
        def handler(number: int, frame: FrameType | None) -> None:
            raise kind("the handler's own")

        signal.signal(signal.SIGUSR1, handler)

        def behave(exchange: Exchange) -> None:
            exchange.do()
            exchange.pause(after)
            signal.pthread_kill(main, signal.SIGUSR1)
            exchange.until_client_leaves()

        return behave

    yield raises
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.row("H10")
@pytest.mark.parametrize("pool", ["own", "http_client"])
@pytest.mark.parametrize("on", fault.ENDPOINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_blocking_handler_that_raises_inside_a_request(
    kind: type[BaseException], on: str, pool: str, signals: Any, server: FaultServer
) -> None:
    """What a handler raises during a request reaches the caller; nothing is repeated, and no session is left."""
    import httpx

    with contextlib.ExitStack() as stack:
        http = stack.enter_context(httpx.Client(trust_env=False)) if pool == "http_client" else None
        api = stack.enter_context(opened("blocking", server, http_client=http))
        session_id = api.new_session(session_request()).session_id if on == "stop" else ""
        server.settle()
        server.ledger.forget_requests()
        server.on(on, signals(kind), 1)
        with pytest.raises(kind, match="the handler's own") as caught:
            api.close_session(session_id) if on == "stop" else api.new_session(session_request())
        assert type(caught.value) is kind
        assert server.running == set()
        assert api.open_sessions == ()
        token, start, stop = server.counts
        assert (token, start) == {"token": (1, 0), "start": (1, 1), "stop": (0, 0)}[on]
        assert stop <= 2
        api.close_session(api.new_session(session_request()).session_id)  # the pool has survived
        assert server.running == set()


@pytest.mark.row("H10")
@pytest.mark.parametrize("kind", KINDS)
def test_blocking_handler_that_raises_inside_a_cleanup(
    kind: type[BaseException], signals: Any, server: FaultServer
) -> None:
    """What a handler raises while a failed start is stopped reaches the caller, after the stop."""
    with opened("blocking", server) as api:
        server.on("start", fault.answers(500, acts=True))
        raises = signals(kind)

        def signals_and_stops(exchange: Exchange) -> None:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGUSR1)
            exchange.pause(0.1)
            fault.normal(exchange)

        assert raises
        server.on("stop", signals_and_stops, 1)
        with pytest.raises(kind, match="the handler's own") as caught:
            api.new_session(session_request())
        assert type(caught.value) is kind
        assert server.running == set()
        assert api.open_sessions == ()
        assert getattr(caught.value, "session_may_be_running", None) is False


@pytest.mark.row("H10")
@pytest.mark.parametrize("kind", [SoftTimeLimitExceeded, JobTimeout])
def test_blocking_handler_that_raises_between_two_attempts(
    kind: type[BaseException], signals: Any, server: FaultServer
) -> None:
    """What a handler raises during the delay before a retry ends the call."""
    with opened("blocking", server, timeout=60.0) as api:
        signals(kind)
        server.on("token", fault.refuses(429, "Slow down", headers={"Retry-After": "20"}))
        timer = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
        timer.start()
        with pytest.raises(kind, match="the handler's own"):
            api.new_session(session_request())
        timer.join()
        assert server.counts == (1, 0, 0)


@pytest.mark.row("H10")
@pytest.mark.parametrize("kind", [SoftTimeLimitExceeded, JobTimeout, Preempted, Aborted])
@pytest.mark.parametrize("on", ["start", "stop"])
def test_async_handler_that_raises_ends_asyncio_run_and_stops_the_session(
    on: str, kind: type[BaseException], signals: Any, server: FaultServer
) -> None:
    """A handler's exception ends asyncio.run; the sessions are stopped before it returns."""
    from liveavatar import AsyncLiveAvatarApi

    async def main() -> None:
        async with AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10) as api:
            async with api.session(session_request()):
                pass
            async with api.session(session_request()):
                await asyncio.sleep(0)

    # Asyncio takes up only KeyboardInterrupt and SystemExit from its callbacks: the loop must be at rest.
    server.on(on, fault.normal, 1).on(on, signals(kind, after=0.3), 1)
    with pytest.raises(kind, match="the handler's own"):
        asyncio.run(main())
    assert server.running == set()


@pytest.mark.row("H10")
@pytest.mark.parametrize("on", fault.ENDPOINTS)
def test_blocking_exception_from_another_thread(on: str, server: FaultServer) -> None:
    """An exception that a debugger or a supervisor raises in a worker thread reaches that thread's caller."""
    with opened("blocking", server) as api:
        session_id = api.new_session(session_request()).session_id if on == "stop" else ""
        ident: list[int] = []

        def interrupts(exchange: Exchange) -> None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(ident[0]), ctypes.py_object(SoftTimeLimitExceeded)
            )
            fault.normal(exchange)

        server.on(on, interrupts, 1)

        def work() -> None:
            ident.append(threading.get_ident())
            if on == "stop":
                api.close_session(session_id)
            else:
                api.new_session(session_request())
            for _ in range(100):  # an exception that comes late comes here
                time.sleep(0.001)

        error = in_thread(work).exception(20)
        assert type(error) is SoftTimeLimitExceeded
        assert server.running == set(api.open_sessions)
        assert server.counts[0] == 1
        api.close_all_sessions()
        assert server.running == set()


# ---------------------------------------------------------------------------------------------------------------
# A signal handler, or a finalizer, uses the client inside a call of the same thread.


class EveryLine:
    """Call a function at every n-th line of the client that this thread executes, as a signal handler would be."""

    def __init__(self, handler: Callable[[], None], every: int) -> None:
        self.handler = handler
        self.every = every
        self.lines = 0
        self.calls = 0

    def __enter__(self) -> EveryLine:
        sys.settrace(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_globals.get("__name__", "").startswith("liveavatar.") else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        self.lines += 1
        if self.lines % self.every == 0:
            self.handler()  # untraced: Python does not trace what a trace function calls
            self.calls += 1
        return self._line


def looks(api: Any) -> Callable[[], None]:
    """A handler that asks the client for what it remembers."""

    def handler() -> None:
        assert isinstance(api.open_sessions, tuple)
        assert isinstance(api.session_token, str | None)
        assert repr(api)
        for act in (api.release_session, api.close_session) if hasattr(api, "close_session") else ():
            with contextlib.suppress(SessionTokenNotFoundError):
                result = act("11111111-0000-4000-8000-000000000000")
                if asyncio.iscoroutine(result):
                    result.close()

    return handler


def acts(api: Any) -> Callable[[], None]:
    """A handler that opens and closes a session of its own."""

    def handler() -> None:
        with contextlib.suppress(LiveAvatarError):
            api.close_session(api.new_session(session_request()).session_id)

    return handler


@pytest.mark.row("H11")
@pytest.mark.parametrize(("handler", "every"), [(looks, 1), (acts, 25)], ids=["looks", "acts"])
@pytest.mark.parametrize("fails", [False, True], ids=["a good start", "a failed start"])
def test_blocking_handler_that_uses_the_client(fails: bool, handler: Any, every: int, server: FaultServer) -> None:
    """A handler may use the client at any moment of a call of the same thread: nothing waits for itself."""
    with opened("blocking", server) as api:

        def work() -> int:
            traced = EveryLine(handler(api), every)
            if fails:
                server.on("start", fault.answers(500, acts=True), 1)
            with traced, contextlib.suppress(LiveAvatarError), api.session(session_request()) as session:
                assert session.session_id in api.open_sessions
            return traced.calls

        assert in_thread(work).result(30) > 5
        assert api.open_sessions == ()
        assert server.running == set()


@pytest.mark.row("H11")
def test_async_handler_that_uses_the_client(server: FaultServer) -> None:
    """The same in an event loop, for what needs no await."""
    from liveavatar import AsyncLiveAvatarApi

    async def main() -> int:
        async with AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10) as api:
            with EveryLine(looks(api), 1) as traced:
                async with api.session(session_request()) as session:
                    assert session.session_id in api.open_sessions
            return traced.calls

    assert in_thread(asyncio.run, main()).result(30) > 50
    assert server.running == set()


@pytest.mark.row("H11")
def test_blocking_handler_that_closes_the_client(server: FaultServer) -> None:
    """A handler that closes the client inside a call, at any line: nothing hangs, and nothing runs."""

    def work(at: int) -> bool:
        api = LiveAvatarApi(KEY, base_url=server.url, timeout=5)
        traced = EveryLine(api.close, at)
        with traced, contextlib.suppress(LiveAvatarError):
            api.new_session(session_request())
        api.close()
        assert server.running == set(), f"closed at line {at}"
        return traced.calls > 0

    for at in (*range(1, 200, 12), *range(200, 600, 60)):
        in_thread(work, at).result(30)


# ---------------------------------------------------------------------------------------------------------------
# SIGTERM and SIGHUP, with liveavatar.graceful_shutdown().

TERMS = (signal.SIGTERM, signal.SIGHUP)


def signalled(name: str, number: int, server: FaultServer, times: int = 1) -> Ended:
    """Send a program a signal once its session has started."""
    with program(name, server) as running:
        server.arrived("start", timeout=60)
        if name not in ("graceful_opening",):
            running.says("open")
        running.send(number)
        for _ in range(times - 1):
            time.sleep(0.1)
            running.send(number)
        return running.ends()


@pytest.mark.row("H12")
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("graceful_block", signal.SIGTERM),
        ("graceful_block", signal.SIGHUP),
        ("graceful_no_block", signal.SIGTERM),
        ("graceful_async_block", signal.SIGTERM),
        ("graceful_async_block", signal.SIGHUP),
        ("graceful_async_no_block", signal.SIGTERM),
        ("graceful_loop_at_rest", signal.SIGTERM),
        ("graceful_loop_with_named_tasks", signal.SIGTERM),
    ],
)
def test_signal_stops_the_session(name: str, number: signal.Signals, server: FaultServer) -> None:
    """After graceful_shutdown(), SIGTERM and SIGHUP end the program with its `with` blocks, or its exit."""
    told = signalled(name, number, server)
    assert server.running == set()
    assert server.counts == (1, 1, 1)
    assert told.code not in (0, -number), told
    assert "never awaited" not in told.errors
    if name in ("graceful_block", "graceful_async_block"):
        assert "left the block" in told.output


@pytest.mark.row("H12")
def test_signal_and_stops_that_hang(flavour: str, server: FaultServer) -> None:
    """After the signal, no block waits for the client's timeout, here of two minutes; each session is named."""
    server.on("stop", fault.holds())
    told = signalled(f"graceful_{'' if flavour == 'blocking' else 'async_'}hanging_stops", signal.SIGTERM, server)
    assert told.code == 128 + signal.SIGTERM, told
    assert all(session_id in "".join(told.warnings) for session_id in server.running), told
    assert len(server.running) == 2


@pytest.mark.row("H12")
@pytest.mark.parametrize("name", ["graceful_opening", "graceful_async_opening"])
def test_signal_while_opening_stops_the_session(name: str, server: FaultServer) -> None:
    """SIGTERM during a start stops its session."""
    server.on("start", fault.holds(acts=True), 1)
    with program(name, server) as running:
        server.arrived("start", timeout=60)
        time.sleep(0.1)
        running.send(signal.SIGTERM)
        told = running.ends()
    assert server.running == set(), told
    assert server.counts == (1, 1, 1)


@pytest.mark.row("H12")
@pytest.mark.parametrize("name", ["graceful_block", "graceful_async_block"])
def test_signal_twice_loses_nothing(name: str, server: FaultServer) -> None:
    """A second SIGTERM during the shutdown does not lose the stop."""
    server.on("stop", fault.delays(0.4))
    told = signalled(name, signal.SIGTERM, server, times=2)
    assert server.running == set(), told


@pytest.mark.row("H12")
@pytest.mark.parametrize("name", ["graceful_chained", "graceful_async_chained"])
def test_signal_reaches_the_handlers_that_were_there(name: str, server: FaultServer) -> None:
    """graceful_shutdown() calls the handler that was installed before it."""
    told = signalled(name, signal.SIGTERM, server)
    assert "the handler that was there" in told.output, told
    assert server.running == set()


@pytest.mark.row("H12")
def test_blocking_signal_that_was_ignored_stays_ignored(server: FaultServer) -> None:
    """Under nohup, SIGHUP stays ignored; async programs install the same handler."""
    with program("graceful_nohup", server) as running:
        running.says("open")
        running.send(signal.SIGHUP)
        running.tell("go on")
        told = running.ends()
    assert told.code == 0, told
    assert "went on" in told.output
    assert server.running == set()


@pytest.mark.row("H12")
def test_graceful_shutdown_outside_the_main_thread() -> None:
    """Signal handlers belong to the main thread: elsewhere the function says so."""
    from liveavatar import graceful_shutdown

    before = [signal.getsignal(number) for number in TERMS]
    with pytest.raises((RuntimeError, ValueError), match="main thread"):
        in_thread(graceful_shutdown).result(10)
    assert [signal.getsignal(number) for number in TERMS] == before
