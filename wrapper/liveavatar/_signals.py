"""Turns signals into an orderly end of the program."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import weakref
from types import FrameType
from typing import Any

_TASK_NAME = re.compile(r"Task-(\d+)")


def graceful_shutdown() -> None:
    """Let SIGTERM and SIGHUP end the program in an orderly way, so that `with` blocks stop their sessions.

    Call it once, at the top of a program, in the main thread. Without it, these signals end the process at once and
    leave its sessions running. Containers, systemd and closed terminals send them.

    In blocking code the signal raises SystemExit in the main thread. Under asyncio it cancels the main task, and the
    program exits once that task has ended. The exit status is 128 plus the number of the signal. A handler that was
    installed before is called first. A signal that the process ignores, as under `nohup`, stays ignored.

    From the signal on, the stop of a session takes 5 seconds at most, instead of the client's `timeout`.

    Raises:
        ValueError: It was called in another thread than the main one.

    Do not call it under a framework that handles these signals itself, such as uvicorn or gunicorn. Close the client
    where the framework shuts down: uvicorn then ends by the signal, and no exit hook stops what is still open.
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
        from ._cleanup import ShutdownSignal  # imported before the signal comes

        self._signal = ShutdownSignal
        self._previous = previous
        self._task = None if task is None else weakref.ref(task)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._signal.received = True
        if callable(self._previous):
            self._previous(number, frame)
        loop = asyncio._get_running_loop()
        if loop is None:
            sys.exit(128 + number)
        loop.call_soon_threadsafe(self._cancel_main_task, loop, number)

    def _cancel_main_task(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        """Cancel the main task, or all tasks if none is known to be it, and exit when they have ended."""
        task = self._main_task(loop)
        running = asyncio.all_tasks(loop) if task is None else {task}

        def on_end(ended: asyncio.Task[Any]) -> None:
            running.discard(ended)
            if not running:
                sys.exit(128 + number)

        for each in running:
            each.cancel()
            each.add_done_callback(on_end)
        if not running:
            sys.exit(128 + number)

    def _main_task(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
        """Return the task in which graceful_shutdown was called, or the one that asyncio.run has started."""
        task = None if self._task is None else self._task()
        if task is None:
            task = getattr(signal.getsignal(signal.SIGINT), "keywords", {}).get("main_task")
        if task is None:
            task = _oldest_task(loop)
        return None if task is None or task.done() else task


def _oldest_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    """Return the task that was created first, by its default name: asyncio.run creates the main task first."""
    numbered = {
        int(match[1]): task for task in asyncio.all_tasks(loop) if (match := _TASK_NAME.fullmatch(task.get_name()))
    }
    return numbered[min(numbered)] if numbered else None
