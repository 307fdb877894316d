"""Stops the sessions of clients that were not closed, and turns signals into an orderly end of the program."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from ._calls import logger
from ._config import Config
from ._constants import CLEANUP_TIMEOUT
from ._flows import Flows
from ._sessions import Session, Sessions

_MAX_CONCURRENT_STOPS = 100


class _Leftovers:
    """The sessions of one client, kept for when the client is gone."""

    def __init__(self, config: Config, sessions: Sessions, io: Any) -> None:
        self.config = config
        self.sessions = sessions
        self.io = io
        """The I/O to stop them with, if it works without an event loop and has an httpx.Client of the caller."""
        self.pid = os.getpid()

    def close(self) -> tuple[Session, ...]:
        """Let no further session be opened, and return those that may be running."""
        if self.pid != os.getpid():  # a forked child: the sessions belong to its parent
            return ()
        self.sessions.close()
        return self.sessions.all


_clients: weakref.WeakSet[_Leftovers] = weakref.WeakSet()
_collected: list[_Leftovers] = []
"""Leftovers of collected clients whose sessions no thread could be started to stop."""
_running_cleanups: set[threading.Event] = set()


def watch(client: object, config: Config, sessions: Sessions, io: Any = None) -> None:
    """Stop the sessions when the client is garbage-collected, or when the interpreter exits."""
    leftovers = _Leftovers(config, sessions, io)
    _clients.add(leftovers)
    weakref.finalize(client, _on_collected, leftovers).atexit = False
    _register_exit()


@functools.cache
def _register_exit() -> None:
    atexit.register(_on_exit)


def _on_collected(leftovers: _Leftovers) -> None:
    """Stop sessions in a thread: the garbage collector may run in any thread, also in that of an event loop."""
    if not len(leftovers.sessions) or leftovers.pid != os.getpid():
        return
    leftovers.sessions.close()
    done = threading.Event()
    _running_cleanups.add(done)
    try:
        threading.Thread(
            target=_stop_in_thread, args=(leftovers, done), name="liveavatar-cleanup", daemon=True
        ).start()
    except RuntimeError:
        _running_cleanups.discard(done)
        _collected.append(leftovers)  # the interpreter is about to exit


def _stop_in_thread(leftovers: _Leftovers, done: threading.Event) -> None:
    try:
        _stop([leftovers], time.monotonic() + CLEANUP_TIMEOUT, "its client was garbage-collected")
    finally:
        _running_cleanups.discard(done)
        done.set()


def _on_exit() -> None:
    deadline = time.monotonic() + CLEANUP_TIMEOUT
    for done in list(_running_cleanups):
        done.wait(max(0.0, deadline - time.monotonic()))
    _stop([*_collected, *_clients], deadline, "the interpreter exits")


def _stop(clients: Iterable[_Leftovers], deadline: float, reason: str) -> None:
    """Stop the sessions of clients that are gone, and log one WARNING that names them."""
    by_client = [(client, sessions) for client in clients if (sessions := client.close())]
    if not by_client:
        return
    for client, sessions in by_client:
        if client.io is not None:
            _stop_through_caller(client, sessions, deadline)
    with contextlib.suppress(Exception), asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(_stop_all(by_client, deadline))
    named = [session for _, sessions in by_client for session in sessions]
    running = [session.id for session in named if not session.ended]
    logger.warning(
        "Still open when %s: session %s. %s Close the client, or use it in a `with` block.",
        reason,
        ", ".join(session.id for session in named),
        f"May still be running: {', '.join(running)}." if running else "Stopped now.",
    )


def _stop_through_caller(client: _Leftovers, sessions: Iterable[Session], deadline: float) -> None:
    from ._transports._blocking import run

    flows = Flows(client.config, client.io, client.sessions)

    def stop(session: Session) -> None:
        with contextlib.suppress(Exception):
            run(lambda: flows.stop_leftover(session, deadline))

    for session in sessions:
        stop(session)


async def _stop_all(by_client: Iterable[tuple[_Leftovers, tuple[Session, ...]]], deadline: float) -> None:
    from ._transports._aiohttp import AiohttpTransport
    from ._transports._asyncio import AsyncIO

    limit = asyncio.Semaphore(_MAX_CONCURRENT_STOPS)
    transports = []

    async def stop(flows: Flows, session: Session) -> None:
        async with limit:
            if not session.ended:
                await flows.stop_leftover(session, deadline)

    stops = []
    for client, sessions in by_client:
        transport = AiohttpTransport(client.config.base_url, None, resolves_in_thread=False)
        transports.append(transport)
        flows = Flows(client.config, AsyncIO(transport), client.sessions)
        stops += [stop(flows, session) for session in sessions]
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await asyncio.gather(*stops, return_exceptions=True)
    except TimeoutError:
        pass
    finally:
        for transport in transports:
            await transport.close()


# ---- Signals -----------------------------------------------------------------------------------------------

_Handler = Callable[[int, FrameType | None], Any]


def graceful_shutdown() -> None:
    """Let SIGTERM and SIGHUP end the program in an orderly way, so that `with` blocks stop their sessions.

    Call it once, at the top of a program, in the main thread. Without it, these signals end the process at once and
    leave its sessions running. Containers, systemd and closed terminals send them.

    In blocking code the signal raises SystemExit in the main thread. Under asyncio it cancels the main task, and the
    program exits once that task has ended. The exit status is 128 plus the number of the signal. A handler that was
    installed before is called first. A signal that the process ignores, as under `nohup`, stays ignored.

    Raises:
        ValueError: It was called in another thread than the main one.

    A framework that handles these signals itself, such as uvicorn or gunicorn, needs no call: it shuts down in order.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None:  # Windows has no SIGHUP
            continue
        previous = signal.getsignal(number)
        if previous is signal.SIG_IGN or isinstance(previous, _ShutdownHandler):
            continue
        signal.signal(number, _ShutdownHandler(previous, task))


class _ShutdownHandler:
    """A signal handler that ends the program in an orderly way."""

    def __init__(self, previous: Any, task: asyncio.Task[Any] | None) -> None:
        self._previous = previous
        self._task = None if task is None else weakref.ref(task)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if callable(self._previous):
            self._previous(number, frame)
        loop = asyncio._get_running_loop()
        if loop is None:
            sys.exit(128 + number)
        loop.call_soon_threadsafe(self._cancel_main_task, loop, number)

    def _cancel_main_task(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        task = self._main_task()
        tasks = [task] if task is not None else list(asyncio.all_tasks(loop))
        for each in tasks:
            each.cancel()
        if task is not None:
            task.add_done_callback(lambda _: sys.exit(128 + number))

    def _main_task(self) -> asyncio.Task[Any] | None:
        """Return the task in which graceful_shutdown was called, or the one that asyncio.run has started."""
        task = None if self._task is None else self._task()
        if task is None:
            task = getattr(signal.getsignal(signal.SIGINT), "keywords", {}).get("main_task")
        return None if task is None or task.done() else task
