"""Keeps the sessions of an async client alive. The blocking client does not import it, nor asyncio."""

from __future__ import annotations

import asyncio
import contextlib

from ._flows import Flows
from ._keep_alive import MAX_WAIT, Schedule
from ._sessions import Session


class TaskWorker:
    """Sends the keep-alive requests of an async client, in one task that exists while there are sessions."""

    def __init__(self, flows: Flows) -> None:
        self._schedule = Schedule(flows)
        self._changed: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        flows.sessions.on_removed = self.wake

    def add(self, session: Session, interval: float) -> None:
        """Keep a session alive."""
        self._schedule.add(session, interval)
        if self._task is None or self._task.done():
            self._changed = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(
                self._work(self._changed), name="liveavatar-keep-alive"
            )
        else:
            self.wake()

    def wake(self) -> None:
        """Wake the task, because some of its sessions have been closed, perhaps by another thread."""
        if self._changed is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._changed.set)

    async def _work(self, changed: asyncio.Event) -> None:
        while (delay := self._schedule.delay()) is not None:
            changed.clear()
            if delay > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(delay, MAX_WAIT)):
                        await changed.wait()
            else:
                await self._schedule.send_due()
