"""Stops the sessions that dead processes have left in the ledger, in tasks of an async client."""

from __future__ import annotations

import asyncio
import contextlib
import weakref

from ._constants import CLEANUP_TIMEOUT, RECOVERY_INTERVAL
from ._flows import Flows
from ._recovery import BaseRecovery
from ._transports._asyncio import keep_task


class RecoveryTask(BaseRecovery):
    """Recovers sessions in tasks of an async client, one at a time."""

    def __init__(self, client: object, flows: Flows) -> None:
        super().__init__(flows)
        self._lock = asyncio.Lock()
        self._client = weakref.ref(client)
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the first task, unless it was started before."""
        if self._first is None:
            self._first = self._start_task()

    def _start_task(self) -> asyncio.Task[None]:
        self._task = keep_task(asyncio.get_running_loop().create_task(self._recover_once()))
        return self._task

    async def wait_for_first(self, deadline: float) -> None:
        """Wait until the first recovery has ended. See `Recovery.wait_for_first`."""
        if self._first is not None:
            await asyncio.wait([self._first], timeout=self._first_wait(deadline))

    async def recover(self) -> list[str]:
        """Recover sessions, and return the ids of all that were stopped since the last call."""
        async with self._lock:
            await self._recover()
            return self._take_stopped()

    async def close(self) -> None:
        """End the task, and start no other."""
        if self._task is None or self._task.get_loop() is not asyncio.get_running_loop():
            return
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLEANUP_TIMEOUT)
        if self._timer is not None:
            self._timer.cancel()

    async def _recover_once(self) -> None:
        try:
            async with self._lock:
                await self._recover()
            self._has_failed = False
        except Exception as error:
            self._log(error)
        finally:  # also if something has cancelled all tasks of the loop
            with contextlib.suppress(RuntimeError):  # the loop was closed before
                self._timer = asyncio.get_running_loop().call_later(RECOVERY_INTERVAL, self._recover_again)

    def _recover_again(self) -> None:
        if self._client() is not None and not self._flows.sessions.closed:
            self._start_task()
