"""All sessions of a mock server, without HTTP.

::

    created ──start──▶ running ──stop, or a limit──▶ ended
       └─────────────────────stop───────────────────────▲

No thread runs in the background. A heap holds the next time at which something may happen to each running session.
The caller that asks for a session first settles all that has become due.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from ._errors import ApiError
from ._session import Session, SessionSnapshot, SessionState, new_session
from ._settings import NIL_UUID, Settings

MAX_ENDED = 1000  # ended sessions that are kept; older ones are dropped, so that memory stays flat


class Sessions:
    """All sessions of one mock server, oldest first. Its methods may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._running: dict[str, Session] = {}
        self._ended: deque[Session] = deque()
        self._ended_count = 0
        self._timers: list[tuple[float, str]] = []  # a heap
        self._spent = 0  # what the ended sessions cost
        self._reserved = 0  # what the running sessions have paid for so far, if credits are limited

    # ---- Reading

    def snapshots(self, newest: int | None = None) -> list[SessionSnapshot]:
        """Return every session as it is now, oldest first, or only the newest ones, newest first."""
        with self._lock:
            now = self._settle()
            sessions: Iterable[Session] = self._sessions.values()
            if newest is not None:
                sessions = islice(reversed(self._sessions.values()), newest)
            return [session.snapshot(now) for session in sessions]

    def running_ids(self) -> list[str]:
        """Return the ids of the running sessions, in the order of their starts."""
        with self._lock:
            self._settle()
            return list(self._running)

    def totals(self) -> dict[str, int]:
        """Return how many sessions run and have ended, and what all of them have cost."""
        with self._lock:
            now = self._settle()
            cost = self._spent + sum(session.credits(now) for session in self._running.values())
            return {"running": len(self._running), "ended": self._ended_count, "credits": cost}

    def find(self, session_id: str) -> tuple[Session, float]:
        """Return a session, settled, and the time now.

        Raises:
            ApiError: there is no such session.
        """
        with self._lock:
            now = self._settle()
            return self._find(session_id), now

    def page(
        self, *, active: bool, number: int, size: int, matches: Callable[[Session], bool] | None
    ) -> tuple[int, list[dict[str, Any]]]:
        """Return how many sessions run or have ended, and the records on one page of them, newest first."""
        with self._lock:
            now = self._settle()
            sessions: Iterable[Session] = reversed(self._running.values()) if active else reversed(self._ended)
            count = len(self._running) if active else len(self._ended)
            if matches is not None:
                sessions = [session for session in sessions if matches(session)]
                count = len(sessions)
            first = min((number - 1) * size, count)
            return count, [session.info(now) for session in islice(sessions, first, first + size)]

    # ---- Changing

    def create(self, configuration: Mapping[str, Any]) -> Session:
        """Create a session from a request that has passed the contract.

        Raises:
            ApiError: the configuration asks for something that the account does not have.
        """
        session = new_session(configuration, self._settings)
        with self._lock:
            self._sessions[session.id] = session
        return session

    def start(self, session_id: str) -> Session:
        """Start a session.

        Raises:
            ApiError: it cannot start.
        """
        with self._lock:
            now = self._settle()
            session = self._find(session_id)
            if session.state is not SessionState.CREATED:
                done = "ended" if session.state is SessionState.ENDED else "started"
                raise ApiError(409, f"Session {session.id} has already {done}.")
            self._check_limits(session)
            session.started_at = session.last_alive = now
            self._running[session.id] = session
            if self._settings.credits is not None:
                self._reserved += session.credits_per_minute
            heapq.heappush(self._timers, (self._next_event(session)[0], session.id))
            return session

    def keep_alive(self, session_id: str) -> None:
        """Reset the idle timer of a running session.

        Raises:
            ApiError: the session does not run.
        """
        with self._lock:
            now = self._settle()
            session = self._find(session_id)
            if session.state is not SessionState.RUNNING:
                done = "has already ended" if session.state is SessionState.ENDED else "has not started"
                raise ApiError(409, f"Session {session.id} {done}.")
            session.last_alive = now

    def stop(self, session_id: str, reason: str) -> None:
        """Stop a session, started or not.

        Raises:
            ApiError: there is no such session, or it has ended.
        """
        with self._lock:
            now = self._settle()
            session = self._find(session_id)
            if session.state is SessionState.ENDED:
                raise ApiError(409, f"Session {session.id} has already ended.")
            session.closed_by_client = True
            self._end(session, now, reason)

    # ---- Inside the lock

    def _find(self, session_id: str) -> Session:
        try:
            return self._sessions[session_id.lower()]
        except KeyError:
            raise ApiError(404, f"Session {session_id} is not known.") from None

    def _check_limits(self, session: Session) -> None:
        if session.llm_configuration_id == NIL_UUID:
            raise ApiError(400, f"LLM configuration {NIL_UUID} is not known.")
        if self._settings.credits is not None:
            left, price = self._settings.credits - self._spent - self._reserved, session.credits_per_minute
            if left < price:
                raise ApiError(402, f"Not enough credits: a minute costs {price}, {left} left.")
        running, allowed = len(self._running), self._settings.max_concurrent
        if allowed is not None and running >= allowed:
            raise ApiError(403, f"Concurrency limit reached: {running} of {allowed} sessions running.")

    def _next_event(self, session: Session) -> tuple[float, int, str]:
        """Return when a running session ends by itself or has to pay for another minute, and the reason."""
        assert session.started_at is not None
        assert session.last_alive is not None
        events = [(session.started_at + session.max_duration, 0, "MAX_DURATION_REACHED")]
        if self._settings.idle_timeout is not None:
            events.append((session.last_alive + self._settings.idle_timeout, 1, "IDLE_TIMEOUT"))
        if self._settings.credits is not None and session.credits_per_minute:
            events.append((session.started_at + 60 * session.paid_minutes, 2, "NO_CREDITS"))
        return min(events)

    def _settle(self) -> float:
        """Let everything happen that has become due, in the order of time. Return the time now."""
        now = self._settings.clock()
        while self._timers and self._timers[0][0] <= now:
            due, session_id = heapq.heappop(self._timers)
            session = self._running.get(session_id)
            if session is None:
                continue
            at, _, reason = self._next_event(session)
            if at <= due and not (reason == "NO_CREDITS" and self._pay(session)):
                self._end(session, at, reason)
            else:  # a keep-alive or a payment has moved it
                heapq.heappush(self._timers, (self._next_event(session)[0], session_id))
        return now

    def _pay(self, session: Session) -> bool:
        """Pay for another minute of a session, if the account's credits allow it."""
        assert self._settings.credits is not None
        if self._spent + self._reserved + session.credits_per_minute > self._settings.credits:
            return False
        session.paid_minutes += 1
        self._reserved += session.credits_per_minute
        return True

    def _end(self, session: Session, at: float, reason: str) -> None:
        session.ended_at = at
        session.end_reason = reason
        if self._running.pop(session.id, None) is not None and self._settings.credits is not None:
            self._reserved -= session.paid_minutes * session.credits_per_minute
        self._spent += session.credits(at)
        self._ended_count += 1
        self._ended.append(session)
        if len(self._ended) > MAX_ENDED:
            del self._sessions[self._ended.popleft().id]
