"""Stops the sessions of clients that were not closed."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ._background import run_in_background, wait_for_all
from ._config import Config
from ._constants import CLEANUP_TIMEOUT, MAX_CONCURRENT_STOPS
from ._flows import Flows
from ._log import log
from ._sessions import Session, Sessions

_CALLER_TIMEOUT = 1.0
"""Seconds to stop sessions one by one through a caller's httpx.Client, before all are stopped at the same time."""

_LEDGER_SHARE = 0.5
"""Seconds at the end that are kept for removing the sessions from the ledger."""

_WITHOUT_EXIT_HOOKS = ("multiprocessing", "multiprocess", "billiard")
"""multiprocessing and its variants (of dill and Celery), whose children end without the hooks of atexit."""

_ADVICE = " Close the client, or use it in a `with` block."


class _Leftovers:
    """The sessions of one client, kept for when the client is gone."""

    def __init__(self, config: Config, sessions: Sessions, io: Any) -> None:
        self.config = config
        self.sessions = sessions
        self.io = io
        """The I/O to stop them with, if it works without an event loop and has an httpx.Client of the caller."""
        self.pid = os.getpid()
        self._taken_by: dict[str, object] = {}  # `setdefault` is atomic

    @property
    def is_wanted(self) -> bool:
        """Whether there is something to stop. The client may be collected while the interpreter exits."""
        return len(self.sessions) > 0 and self.pid == os.getpid() and not self._taken_by

    def take(self, taker: object) -> bool:
        """Let no further session be opened, and return whether the taker is the first, which is to stop them."""
        if self.pid != os.getpid():  # a forked child: the sessions belong to its parent
            return False
        self.sessions.close()
        return self._taken_by.setdefault("taker", taker) is taker


_watched: set[_Leftovers] = set()
"""Those of all clients, until a client is collected without sessions or its sessions were stopped."""
pending: list[tuple[_Leftovers, str, str]] = []
"""Stops for which no thread could be started: the leftovers, the reason of the stop, and the advice."""
_reports: dict[int, Callable[[], None]] = {}
"""What logs the WARNING of each stop that is under way. The thread that pops one calls it."""
_exited: set[int] = set()
"""The id of this process, once its exit hook has begun."""


def watch(client: object, config: Config, sessions: Sessions, io: Any = None) -> None:
    """Stop the sessions when the client is garbage-collected, or when the interpreter exits."""
    _register_exit(os.getpid())
    leftovers = _Leftovers(config, sessions, io)
    _watched.add(leftovers)
    sessions.at_exit = os.getpid() in _exited
    weakref.finalize(client, _on_collected, leftovers).atexit = False


@functools.cache
def _register_exit(pid: int) -> None:  # its argument is the key of the cache
    """Register the exit hook, once in each process."""
    main = threading.main_thread()
    if threading.current_thread() is main and not main.is_alive():  # an exit hook runs; no other is called after it
        _exited.add(pid)
    celery = sys.modules.get("celery.signals")
    if celery is not None:  # it ends the processes of its pool with os._exit()
        celery.worker_process_shutdown.connect(lambda **_: _on_exit(), weak=False, dispatch_uid="liveavatar")
    for package in _WITHOUT_EXIT_HOOKS:
        util = sys.modules.get(f"{package}.util")
        if util is not None:
            register = functools.partial(util.Finalize, None, _on_exit, exitpriority=100)
            if _is_child(package):
                register()
                return
            # A fork hook may use a client before the package has set the child up.
            util.register_after_fork(_on_exit, lambda _, register=register: register())
    atexit.register(_on_exit)


def _is_child(package: str) -> bool:
    return sys.modules[f"{package}.process"].current_process()._parent_pid is not None


def sessions_of_clients() -> list[Sessions]:
    """Return the registries of all clients of this process."""
    return [leftovers.sessions for leftovers in list(_watched) if leftovers.pid == os.getpid()]


def _on_collected(leftovers: _Leftovers) -> None:
    """Stop sessions in a thread: the garbage collector may run in any thread, also in that of an event loop."""
    if leftovers.is_wanted:
        _stop_in_background(leftovers, "its client was garbage-collected")
    else:
        _watched.discard(leftovers)


def stop_in_background(config: Config, sessions: Sessions, reason: str) -> None:
    """Stop the sessions of a closed client, in a thread that the end of the program waits for."""
    _stop_in_background(_Leftovers(config, sessions, None), reason, advice="")


def _stop_in_background(leftovers: _Leftovers, reason: str, advice: str = _ADVICE) -> None:
    leftovers.sessions.close()
    try:
        run_in_background(lambda: _stop_one(leftovers, reason, advice))
    except RuntimeError as error:
        pending.append((leftovers, reason, advice))
        if "shutdown" not in str(error):  # "can't create new thread at interpreter shutdown": the exit hook comes next
            _warn(leftovers.sessions.all, reason, advice)


def stop_pending() -> None:
    """Try again to stop the sessions for which no thread could be started."""

    def stop() -> None:
        with contextlib.suppress(IndexError):  # all are being stopped
            while True:
                _stop_one(*pending.pop())

    with contextlib.suppress(RuntimeError):
        run_in_background(stop)


def _on_exit() -> None:
    deadline = time.monotonic() + CLEANUP_TIMEOUT
    try:
        _stop(_begin_exit, deadline, "the interpreter exits")
    finally:
        _despite_interrupts(lambda: wait_for_all(deadline), deadline)
        for key in list(_reports):  # of threads that have not ended in time
            _report(key)


def _begin_exit() -> list[_Leftovers]:
    """Let clients open no more sessions, and return what there may be to stop."""
    others = [each for each in threading.enumerate() if each is not threading.current_thread() and not each.daemon]
    if not others:  # a child of multiprocessing waits for its threads after this
        _exited.add(os.getpid())
    return [*(each[0] for each in pending), *_watched]


def _stop_one(leftovers: _Leftovers, reason: str, advice: str) -> None:
    _stop(lambda: [leftovers], time.monotonic() + CLEANUP_TIMEOUT, reason, advice)


def _stop(find: Callable[[], list[_Leftovers]], deadline: float, reason: str, advice: str = _ADVICE) -> None:
    """Stop the sessions of clients that are gone, and log one WARNING that names them."""
    taken: dict[_Leftovers, tuple[Session, ...]] = {}
    ledger_calls: list[Callable[[], object]] = []

    def take() -> None:
        for leftovers in find():
            if leftovers not in taken and leftovers.take(taken):
                taken[leftovers] = leftovers.sessions.all
        for leftovers, sessions in taken.items():
            if sessions and leftovers.io is not None:
                _stop_through_caller(leftovers, sessions, min(deadline, time.monotonic() + _CALLER_TIMEOUT))

    def stop() -> None:
        with contextlib.suppress(Exception):
            import asyncio  # imported when needed: a blocking client that is closed needs no event loop

            stopping = {leftovers: sessions for leftovers, sessions in taken.items() if sessions}
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(_stop_all(stopping, ledger_calls, deadline))

    def report() -> None:
        if any(taken.values()):
            _warn([session for sessions in taken.values() for session in sessions], reason, advice)

    _reports[id(taken)] = report
    try:
        _despite_interrupts(take, deadline)
        if any(taken.values()):
            _despite_interrupts(_in_thread(stop, deadline), deadline)
    finally:
        _report(id(taken))
        _watched.difference_update(taken)


def _report(key: int) -> None:
    report = _reports.pop(key, None)
    if report is not None:
        report()


def _in_thread(work: Callable[[], None], deadline: float) -> Callable[[], None]:
    """Return a function that does work in a thread, which no signal interrupts, and waits for it.

    Called again, it goes on waiting. If no thread can be started, it does the work itself.
    """
    begun: list[threading.Event] = []

    def wait() -> None:
        if not begun and threading.current_thread() is threading.main_thread():
            with contextlib.suppress(RuntimeError):  # the interpreter is exiting, or out of threads
                begun.append(run_in_background(lambda: _despite_interrupts(work, deadline)))
        if begun:
            begun[0].wait(max(0.0, deadline - time.monotonic()))
        else:
            work()

    return wait


def _despite_interrupts(work: Callable[[], None], deadline: float) -> None:
    """Do work, and again if an interrupt ends it before `deadline`; raise the latest interrupt at the end."""
    interruption: BaseException | None = None
    while interruption is None or time.monotonic() < deadline:
        try:
            work()
            break
        except Exception:
            raise
        except BaseException as error:
            interruption = error
    if interruption is not None:
        raise interruption


def _warn(sessions: Sequence[Session], reason: str, advice: str) -> None:
    running = [each for session in sessions if not session.ended for each in session.ids]
    log(
        logging.WARNING,
        "Still open when %s: session %s. %s%s",
        reason,
        ", ".join(each for session in sessions for each in session.ids),
        f"May still be running: {', '.join(running)}." if running else "Stopped now.",
        advice,
    )


def _stop_through_caller(leftovers: _Leftovers, sessions: Iterable[Session], deadline: float) -> None:
    """Stop sessions through the caller's httpx client, whose reads may outlast any timeout."""
    from ._transports._blocking import run, run_in_thread

    flows = Flows(leftovers.config, leftovers.io, leftovers.sessions)
    waiting = threading.current_thread()

    def stop_each() -> None:
        if threading.current_thread() is waiting:  # no thread can be started, so nothing would bound it
            return
        for session in sessions:
            if session.ended:
                continue
            with contextlib.suppress(Exception):
                run(functools.partial(flows.stop_leftover, session, deadline))

    with contextlib.suppress(BaseException):  # after Ctrl-C, too, what still runs is stopped in another way
        run_in_thread(stop_each, deadline - time.monotonic(), TimeoutError())


async def _stop_all(
    taken: Mapping[_Leftovers, Sequence[Session]],
    ledger_calls: list[Callable[[], object]],
    deadline: float,
) -> None:
    import asyncio

    from ._transports._aiohttp import AiohttpTransport
    from ._transports._asyncio import AsyncIO, call_blocking

    limit = asyncio.Semaphore(MAX_CONCURRENT_STOPS)
    transports = []
    has_ledger = any(leftovers.sessions.ledger is not None for leftovers in taken)
    stop_deadline = deadline - _LEDGER_SHARE if has_ledger else deadline

    async def stop(flows: Flows, session: Session) -> None:
        async with limit:
            if not session.ended:
                await flows.stop_leftover(session, stop_deadline)

    stops = []
    for leftovers, sessions in taken.items():
        transport = AiohttpTransport(leftovers.config.base_url, None, is_spare=True)
        transports.append(transport)
        flows = Flows(leftovers.config, AsyncIO(transport, ledger_calls), leftovers.sessions)
        stops += [stop(flows, session) for session in sessions]
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, stop_deadline - time.monotonic())):
                await asyncio.gather(*stops, return_exceptions=True)
        if ledger_calls:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await call_blocking(lambda: _call_each(ledger_calls, deadline))
    finally:
        for transport in transports:
            await transport.close()


def _call_each(calls: list[Callable[[], object]], deadline: float) -> None:
    """Call functions and remove them from their list, until `deadline` on `time.monotonic`."""
    while calls and time.monotonic() < deadline:
        calls.pop()()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watched.clear)
    os.register_at_fork(after_in_child=pending.clear)
    os.register_at_fork(after_in_child=_reports.clear)
