"""Small programs that are interrupted from outside: `python -m tests.faults.programs NAME URL`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import linecache
import os
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi, _calls, _flows

from tests.faults.cases import session_request
from tests.faults.conftest import KEY, FastRetries
from tests.faults.server import FaultServer, refuses


def blocking_start(url: str) -> None:
    """Opens a session, and is interrupted while it waits."""
    api = LiveAvatarApi(KEY, base_url=url, timeout=20)
    try:
        api.new_session(session_request())
    except KeyboardInterrupt as error:
        report(api, error)
    else:
        print(json.dumps({"ended": "with a session"}))
    close(api)


def blocking_block(url: str) -> None:
    """Is interrupted inside a session block."""
    api = LiveAvatarApi(KEY, base_url=url, timeout=20)
    try:
        with api.session(session_request()):
            time.sleep(30)
    except KeyboardInterrupt as error:
        report(api, error)
    close(api)


def blocking_close(url: str) -> None:
    """Is interrupted while it closes a session."""
    api = LiveAvatarApi(KEY, base_url=url, timeout=20)
    session_id = api.new_session(session_request()).session_id
    try:
        api.close_session(session_id)
    except KeyboardInterrupt as error:
        report(api, error)
    else:
        print(json.dumps({"ended": "normally"}))
    close(api)


def blocking_client_block(url: str) -> None:
    """Is interrupted inside a client block with two sessions."""
    try:
        with LiveAvatarApi(KEY, base_url=url, timeout=20) as api:
            api.new_session(session_request())
            api.new_session(session_request())
            api.stop_session("00000000-0000-4000-8000-000000000000")
            time.sleep(30)
    except KeyboardInterrupt as error:
        report(api, error)


def blocking_uncaught(url: str) -> None:
    """Is interrupted, and has nobody to catch it."""
    with LiveAvatarApi(KEY, base_url=url, timeout=20) as api:
        api.new_session(session_request())


def signal_on_another_thread(url: str, **settings: Any) -> None:
    """Waits for a response or a retry, while the operating system gives the signal to another thread."""

    def take_the_signal() -> None:
        sys.stdin.readline()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        time.sleep(60)

    threading.Thread(target=take_the_signal, daemon=True).start()
    api = LiveAvatarApi(KEY, base_url=url, timeout=45, **settings)
    begun = time.monotonic()
    try:
        api.stop_session("00000000-0000-4000-8000-000000000000")
    except KeyboardInterrupt:
        print(json.dumps({"ended": "KeyboardInterrupt", "seconds": time.monotonic() - begun}))
    close(api)


async def async_start(url: str) -> None:
    """Opens a session in the main task."""
    async with AsyncLiveAvatarApi(KEY, base_url=url, timeout=20) as api:
        await api.new_session(session_request())


async def async_child(url: str) -> None:
    """Opens a session in a task that nobody waits for."""
    warnings.simplefilter("ignore", ResourceWarning)
    api = AsyncLiveAvatarApi(KEY, base_url=url, timeout=20)
    child = asyncio.create_task(api.new_session(session_request()))
    await asyncio.sleep(30)
    await child


async def async_block(url: str) -> None:
    """Sleeps inside a session block in a child task."""
    warnings.simplefilter("ignore", ResourceWarning)
    api = AsyncLiveAvatarApi(KEY, base_url=url, timeout=20)

    async def block() -> None:
        async with api.session(session_request()):
            await api.stop_session("00000000-0000-4000-8000-000000000000")
            await asyncio.sleep(30)

    child = asyncio.create_task(block())
    await asyncio.sleep(30)
    await child


async def async_close(url: str) -> None:
    """Closes a session in a child task."""
    warnings.simplefilter("ignore", ResourceWarning)
    api = AsyncLiveAvatarApi(KEY, base_url=url, timeout=20)
    session = await api.new_session(session_request())
    child = asyncio.create_task(api.close_session(session.session_id))
    await asyncio.sleep(30)
    await child


def fork(url: str) -> None:
    """Forks with a session open; the child opens one of its own."""
    api = LiveAvatarApi(KEY, base_url=url, timeout=20)
    mine = api.new_session(session_request()).session_id
    child = os.fork()
    if child == 0:
        code = 3
        try:
            known = api.open_sessions
            token = api.session_token
            with api:
                own = api.new_session(session_request()).session_id
                fine = known == () and token is None and api.open_sessions == (own,) and own != mine
            code = 0 if fine else 4
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(json.dumps({"child": os.waitstatus_to_exitcode(status), "open": list(api.open_sessions), "mine": mine}))
    api.close_session(mine)
    close(api)


def fork_async(url: str) -> None:
    """The same with the async client."""
    warnings.simplefilter("ignore", ResourceWarning)
    api = AsyncLiveAvatarApi(KEY, base_url=url, timeout=20)

    async def open_one() -> str:
        return (await api.new_session(session_request())).session_id

    async def in_child(mine: str) -> bool:
        own = (await api.new_session(session_request())).session_id
        known = api.open_sessions
        await api.aclose()
        return known == (own,) and own != mine

    runner = asyncio.Runner()
    mine = runner.run(open_one())
    child = os.fork()
    if child == 0:
        code = 3
        try:
            code = 0 if asyncio.new_event_loop().run_until_complete(in_child(mine)) else 4
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(json.dumps({"child": os.waitstatus_to_exitcode(status), "open": list(api.open_sessions), "mine": mine}))
    runner.run(api.close_session(mine))
    runner.run(api.aclose())
    runner.close()


def fork_busy(url: str) -> None:
    """Forks while another thread has a request under way."""
    api = LiveAvatarApi(KEY, base_url=url, timeout=20)
    ids: list[str] = []
    thread = threading.Thread(target=lambda: ids.append(api.new_session(session_request()).session_id))
    thread.start()
    sys.stdin.readline()  # the start has arrived
    child = os.fork()
    if child == 0:
        code = 3
        try:
            fine = api.open_sessions == ()
            api.close()
            code = 0 if fine else 4
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    thread.join()
    print(json.dumps({"child": os.waitstatus_to_exitcode(status), "open": list(api.open_sessions), "mine": ids[0]}))
    api.close_session(ids[0])
    close(api)


def keep_alive_and_fork(url: str) -> None:
    """Forks with a session that is kept alive; the child keeps one of its own alive."""
    api = LiveAvatarApi(KEY, base_url=url, timeout=20)
    mine = api.new_session(session_request(), keep_alive=0.02).session_id
    schedule = api._worker._schedule  # type: ignore[union-attr]
    child = os.fork()
    if child == 0:
        code = 3
        try:
            inherited = schedule.delay()
            with api:
                own = api.new_session(session_request(), keep_alive=0.02).session_id
                time.sleep(0.2)
                fine = inherited is None and api.open_sessions == (own,) and threading.active_count() == 2
            code = 0 if fine else 4
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(json.dumps({"child": os.waitstatus_to_exitcode(status), "mine": mine}))
    close(api)


def keep_alive_and_fork_async(url: str) -> None:
    """The same with the async client."""
    warnings.simplefilter("ignore", ResourceWarning)
    api = AsyncLiveAvatarApi(KEY, base_url=url, timeout=20)

    async def open_one() -> str:
        return (await api.new_session(session_request(), keep_alive=0.02)).session_id

    async def in_child() -> bool:
        inherited = schedule.delay()
        async with api:
            own = (await api.new_session(session_request(), keep_alive=0.02)).session_id
            await asyncio.sleep(0.2)
            return inherited is None and api.open_sessions == (own,) and api._worker._schedule.delay() is not None

    runner = asyncio.Runner()
    mine = runner.run(open_one())
    schedule = api._worker._schedule  # type: ignore[union-attr]
    child = os.fork()
    if child == 0:
        code = 3
        try:
            code = 0 if asyncio.new_event_loop().run_until_complete(in_child()) else 4
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(json.dumps({"child": os.waitstatus_to_exitcode(status), "mine": mine}))
    runner.run(api.aclose())
    runner.close()


def keep_alive_and_exit(url: str) -> None:
    """Ends with a session that is kept alive."""
    api = LiveAvatarApi(KEY, base_url=url, timeout=20)
    api.new_session(session_request(), keep_alive=0.02)
    time.sleep(0.2)
    vars(sys)["kept"] = api  # until the interpreter has ended


async def keep_alive_and_exit_async(url: str) -> None:
    """Ends with a session that is kept alive."""
    warnings.simplefilter("ignore", ResourceWarning)
    api = AsyncLiveAvatarApi(KEY, base_url=url, timeout=20)
    await api.new_session(session_request(), keep_alive=0.02)
    await asyncio.sleep(0.2)
    vars(sys)["kept"] = api  # until the interpreter has ended


# Interrupts at moments of the program's own choosing, against servers of its own.


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """KeyboardInterrupt so many seconds from here."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Lines:
    """Raises KeyboardInterrupt at the n-th line of the client that the main thread executes.

    Not at `with`: there the tracer would come between a block and its lock's release, where no signal does.
    """

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.seen = 0

    def __enter__(self) -> Lines:
        sys.settrace(self.called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def called(self, frame: FrameType, event: str, arg: object) -> Any:
        name = frame.f_globals.get("__name__", "")
        return self.line if name.startswith(("liveavatar.", "liveavatar_client.")) else None

    def line(self, frame: FrameType, event: str, arg: object) -> Any:
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not source.lstrip().startswith("with "):
            self.seen += 1
            if self.seen == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.line


def interrupted(method: str, server: FaultServer, interrupting: contextlib.AbstractContextManager[Any]) -> bool:
    """Call a method, with interrupts; afterwards nothing runs that the client does not know of, and can stop."""
    server.start_anew()
    refusals = 2 if method == "wait_for_slot" else 0
    server.on("start", refuses(403, "Concurrency limit reached"), refusals)
    api = LiveAvatarApi(KEY, base_url=server.url, timeout=5)
    given: set[str] = set()
    came = False
    session_id = token = ""
    if method in ("close_session", "release_session"):
        session_id = api.new_session(session_request(), keep_alive=method == "release_session").session_id
    try:
        with interrupting:
            if method == "new_session":
                given = {api.new_session(session_request()).session_id}
            elif method == "wait_for_slot":
                given = {api.new_session(session_request(), wait_for_slot=5).session_id}
            elif method == "close_session":
                api.close_session(session_id)
            elif method == "release_session":
                token = api.release_session(session_id)
            else:
                with api.session(session_request()):
                    time.sleep(0.001)
    except KeyboardInterrupt:
        came = True
    if token:
        api.adopt_session(session_id, token)
    server.settle()
    assert server.ledger.running <= set(api.open_sessions), (came, given)
    assert len(server.ledger.starts) <= 1
    assert server.ledger.counts[1] <= 1 + refusals
    api.close_all_sessions()
    assert api.open_sessions == ()
    assert server.running == set()
    server.heal()
    # The pool has survived as well.
    api.close_session(api.new_session(session_request()).session_id)
    assert server.running == set()
    close(api)
    return came


def interrupted_after_any_time(method: str) -> None:
    """By a timer, after ever longer times."""
    signal.signal(signal.SIGALRM, interrupt)
    hurried()
    with FaultServer() as server:
        times = [microseconds / 1e6 for microseconds in range(20, 4000, 25)]
        print(json.dumps({"interrupts": sum(interrupted(method, server, alarm(seconds)) for seconds in times)}))


def interrupted_at_any_line(method: str) -> None:
    """At each line of the client in turn, or every so many where there are many."""
    hurried()
    with FaultServer() as server:
        lines = Lines(None)
        interrupted(method, server, lines)
        every = 1 + lines.seen // (80 if method in ("wait_for_slot", "release_session") else 200)
        moments = range(1, lines.seen + 1, every)
        print(json.dumps({"interrupts": sum(interrupted(method, server, Lines(at)) for at in moments)}))


def hurried() -> None:
    _calls.random = types.SimpleNamespace(uniform=FastRetries().uniform)  # type: ignore[assignment, attr-defined]
    _flows.MIN_SLOT_DELAY = 0.001  # type: ignore[misc]


def report(api: LiveAvatarApi, error: BaseException) -> None:
    running = getattr(error, "session_may_be_running", None)
    told = {"ended": type(error).__name__, "open": list(api.open_sessions), "may_be_running": running}
    print(json.dumps(told), flush=True)


def close(api: LiveAvatarApi) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        api.close()


def main(name: str, url: str) -> None:
    program = globals()[name]
    if asyncio.iscoroutinefunction(program):
        asyncio.run(program(url))
    else:
        program(url)


if __name__ == "__main__":
    main(*sys.argv[1:])
