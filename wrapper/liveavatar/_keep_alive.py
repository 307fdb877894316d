"""Keeps quiet sessions from ending: sends their keep-alive requests when they are due."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import attrs

from ._arguments import check_seconds
from ._constants import KEEP_ALIVE_INTERVAL
from ._flows import Flows
from ._log import log
from ._operations import message
from ._sessions import Session

MAX_WAIT = 3600.0
"""Seconds that the worker sleeps at most; longer waits overflow in some systems."""

_WARN_AFTER = 3
"""Failed requests in a row after which a WARNING is logged."""

_MAX_TIMEOUT = 10.0
"""Seconds that a request may take, at most."""

_MAX_RETRY_DELAY = 10.0
"""Seconds until a failed request is sent again, at most, unless a Retry-After asks for more."""


def keep_alive_interval(value: object) -> float | None:
    """Return the seconds between two keep-alive requests; None for none.

    Raises:
        TypeError, ValueError: `value` is neither a bool nor a positive number of seconds.
    """
    if value is None or value is False:
        return None
    if value is True:
        return KEEP_ALIVE_INTERVAL
    return check_seconds(value, "keep_alive", positive=True)


@attrs.define(eq=False)
class _Entry:
    session: Session
    interval: float
    failures: int = 0
    number: int = 0
    """Which of its places in the schedule counts; the others are outdated."""


class Schedule:
    """Which session's keep-alive request is due when."""

    def __init__(self, flows: Flows) -> None:
        self._flows = flows
        self._heap: list[tuple[float, int, _Entry]] = []
        self._numbers = itertools.count(1)
        self._pid = os.getpid()

    def add(self, session: Session, interval: float) -> None:
        """Send the first request for a session after `interval` seconds."""
        self._plan(_Entry(session, interval), interval)

    def _plan(self, entry: _Entry, delay: float) -> None:
        """Send the next request for a session after `delay` seconds, in place of the one that was planned before."""
        entry.number = next(self._numbers)
        heapq.heappush(self._heap, (time.monotonic() + delay, entry.number, entry))

    def delay(self) -> float | None:
        """Return the seconds until a request is due; None if there is no session to keep alive."""
        while self._heap:
            due, number, entry = self._heap[0]
            if number == entry.number and self._is_wanted(entry):
                return max(0.0, due - time.monotonic())
            heapq.heappop(self._heap)
        return None

    def _is_wanted(self, entry: _Entry) -> bool:
        sessions = self._flows.sessions
        in_child = os.getpid() != self._pid  # after a fork: the sessions belong to the parent
        return entry.session in sessions and not sessions.closed and not in_child

    async def send_due(self) -> None:
        """Send the requests that are due. It never raises because of a failed request."""
        now = time.monotonic()
        due = []
        # Another thread may push an entry meanwhile, but none that is due.
        while self._heap and self._heap[0][0] <= now:
            _, number, entry = heapq.heappop(self._heap)
            if number == entry.number and self._is_wanted(entry):
                due.append(entry)
                self._plan(entry, entry.interval)  # now, as the task that sends may be cancelled
        await self._flows.io.run_all([self._sender(entry) for entry in due])

    def _sender(self, entry: _Entry) -> Callable[[], Coroutine[Any, Any, None]]:
        async def send() -> None:
            if not self._is_wanted(entry):
                return  # closed while the requests for other sessions were sent
            timeout = min(max(entry.interval / 2, 0.5), _MAX_TIMEOUT)
            try:
                await self._flows.keep_alive_once(entry.session, timeout)
            except Exception as error:
                if self._is_wanted(entry):
                    self._on_failure(entry, error)
                return
            entry.failures = 0
            self._plan(entry, entry.interval)

        return send

    def _on_failure(self, entry: _Entry, error: Exception) -> None:
        entry.failures += 1
        retry_after = getattr(error, "retry_after", None) or 0.0
        self._plan(entry, max(min(entry.interval / 4, _MAX_RETRY_DELAY), min(entry.interval, retry_after)))
        if entry.failures == _WARN_AFTER:
            log(
                logging.WARNING,
                "Session %s may end as idle: keep-alive requests fail: %s",
                entry.session.id,
                message(error),
            )


class ThreadWorker:
    """Sends the keep-alive requests of a blocking client, in one thread that exists while there are sessions."""

    def __init__(self, flows: Flows) -> None:
        self._schedule = Schedule(flows)
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        flows.sessions.on_removed = self.wake

    def add(self, session: Session, interval: float) -> None:
        """Keep a session alive."""
        with self._changed:
            self._schedule.add(session, interval)
            self._changed.notify()
            if self._thread is not None and self._thread.is_alive():
                return
            thread = self._thread = threading.Thread(target=self._work, name="liveavatar-keep-alive", daemon=True)
        try:
            thread.start()
        except BaseException as error:
            self._thread = None  # if an interrupt came after the start, the thread notices and ends
            if type(error) is not RuntimeError:
                raise
            # The interpreter is exiting, or out of threads.
            log(logging.WARNING, "Session %s is not kept alive: %s", session.id, error)

    def wake(self) -> None:
        """Wake the thread, because some of its sessions have been closed."""
        with self._changed:
            self._changed.notify()

    def _work(self) -> None:
        from ._transports._blocking import run

        while True:
            with self._changed:
                if self._thread is not threading.current_thread():
                    return
                delay = self._schedule.delay()
                if delay is None:
                    self._thread = None
                    return
                if delay > 0:
                    self._changed.wait(min(delay, MAX_WAIT))
                    continue
            run(self._schedule.send_due)
