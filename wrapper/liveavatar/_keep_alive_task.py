"""Keeps the sessions of an async client alive. The blocking client does not import it, nor asyncio."""

from __future__ import annotations

import asyncio
import contextlib

from ._flows import Flows
from ._keep_alive import MAX_WAIT, Schedule
from ._sessions import Session


class TaskWorker:
    """Sends the keep-alive requests of an async client: a timer waits until some are due, and a task sends them.

    Something that cancels all tasks of the loop does not reach the timer.
    """

    def __init__(self, flows: Flows) -> None:
        self._schedule = Schedule(flows)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        flows.sessions.on_removed = self.wake

    def add(self, session: Session, interval: float) -> None:
        """Keep a session alive."""
        self._schedule.add(session, interval)
        self._set_timer()

    def wake(self) -> None:
        """Set the timer anew, because some of the sessions have been closed, perhaps by another thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._set_timer)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None and not self._task.done():
            return
        delay = self._schedule.delay()
        if delay is not None:
            self._timer = self._loop.call_later(min(delay, MAX_WAIT), self._start_task)

    def _start_task(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._schedule.send_due(), name="liveavatar-keep-alive")
        self._task.add_done_callback(lambda _: self._set_timer())
