"""The sessions and their states: no web, no waiting.

::

    created ──start──▶ started ──stop, or its time is up──▶ ended
       └──────────────────────stop────────────────────────────▲

Nothing runs in the background. When a session ends by itself is settled at its start, and its state is
worked out from the clock whenever somebody asks.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ._settings import Settings

SANDBOX_AVATAR = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
UNKNOWN_AVATAR = str(uuid.UUID(int=0))
SANDBOX_SECONDS = 60
REMEMBERED = 1000  # ended sessions kept for the page; older ones are forgotten, so that memory stays flat

_CREDITS_PER_MINUTE = {"FULL": 2, "LITE": 1}


class RefusedError(Exception):
    """The answer is an error: its HTTP status, its words, and where in the body the faults are."""

    def __init__(self, status: int, message: str, faults: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.faults = faults


class SessionState(StrEnum):
    """Where a session is in its life."""

    CREATED = "created"
    STARTED = "started"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionSnapshot:
    """One session as it is at one moment. Nothing in it is secret.

    Attributes:
        id: the session's id, a uuid.
        mode: "FULL" or "LITE".
        avatar_id: the avatar's id, a uuid.
        is_sandbox: whether it is a session of the free sandbox avatar.
        state: created, started or ended.
        age: seconds since its token was made.
        seconds: how long it has run, or ran.
        credits: what that would have cost at the real service.
        end_reason: why it ended, in the service's words ("USER_CLOSED", ...); None while it has not.
    """

    id: str
    mode: str
    avatar_id: str
    is_sandbox: bool
    state: SessionState
    age: float
    seconds: float
    credits: int
    end_reason: str | None


@dataclass(kw_only=True, slots=True)
class Session:
    """What the mock server keeps of a session."""

    id: str
    mode: str
    avatar_id: str
    is_sandbox: bool
    livekit_config: Mapping[str, str] | None  # of the caller's own room
    has_agent_room: bool  # LITE in a room of the service's own, where the caller's agent gets a place
    max_duration: int
    created_at: float
    started_at: float | None = None
    deadline: tuple[float, str] = (math.inf, "")
    stopped: tuple[float, str] | None = None

    @property
    def credits_per_minute(self) -> int:
        return 0 if self.is_sandbox else _CREDITS_PER_MINUTE[self.mode]

    def at(self, now: float) -> SessionSnapshot:
        """The session as it is at ``now``."""
        ended = self.stopped or (self.deadline if now >= self.deadline[0] else None)
        seconds = 0.0 if self.started_at is None else (ended[0] if ended else now) - self.started_at
        # Every begun minute counts. Rounded first, or a float's last digit would buy one more.
        minutes = 0 if self.started_at is None else max(1, math.ceil(round(seconds, 3) / 60))
        return SessionSnapshot(
            id=self.id,
            mode=self.mode,
            avatar_id=self.avatar_id,
            is_sandbox=self.is_sandbox,
            state=(
                SessionState.ENDED
                if ended
                else SessionState.CREATED
                if self.started_at is None
                else SessionState.STARTED
            ),
            age=now - self.created_at,
            seconds=seconds,
            credits=minutes * self.credits_per_minute,
            end_reason=ended[1] if ended else None,
        )


class Sessions:
    """All sessions of one mock server, by id, oldest first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sessions: dict[str, Session] = {}
        self._forgotten_credits = 0

    def snapshots(self) -> list[SessionSnapshot]:
        """Every session as it is now."""
        now = self._settings.clock()
        return [session.at(now) for session in list(self._sessions.values())]

    def credits(self) -> int:
        """What all of them would have cost, those forgotten included."""
        return self._forgotten_credits + sum(session.credits for session in self.snapshots())

    def create(self, configuration: Mapping[str, Any]) -> Session:
        """Make a session from a request that has passed the contract."""
        avatar_id = configuration["avatar_id"].lower()
        is_sandbox = bool(configuration.get("is_sandbox"))
        mode = "FULL" if configuration["mode"] == "FULL" else "LITE"  # CUSTOM is LITE's old name
        if avatar_id == UNKNOWN_AVATAR:
            raise RefusedError(404, f"Avatar {avatar_id} is not known.")
        if is_sandbox and avatar_id != SANDBOX_AVATAR:
            raise RefusedError(400, f"is_sandbox works only with the sandbox avatar, {SANDBOX_AVATAR}.")
        livekit_config = configuration.get("livekit_config")
        longest = SANDBOX_SECONDS if is_sandbox else self._settings.max_session_duration
        session = Session(
            id=str(uuid.uuid4()),
            mode=mode,
            avatar_id=avatar_id,
            is_sandbox=is_sandbox,
            livekit_config=livekit_config,
            has_agent_room=mode == "LITE" and not livekit_config and not configuration.get("agora_config"),
            max_duration=int(min(configuration.get("max_session_duration", longest), longest)),
            created_at=self._settings.clock(),
        )
        self._sessions[session.id] = session
        self._forget_old()
        return session

    def start(self, session_id: str) -> Session:
        """Let a session run, if nothing speaks against it."""
        now = self._settings.clock()
        session = self._find(session_id)
        state = session.at(now).state
        if state is not SessionState.CREATED:
            raise RefusedError(409, f"Session {session_id} has already {state}.")
        self._check_limits(session)
        session.started_at = now
        limits = [(now + session.max_duration, "MAX_DURATION_REACHED")]
        if self._settings.idle_timeout is not None:
            limits.append((now + self._settings.idle_timeout, "IDLE_TIMEOUT"))
        session.deadline = min(limits, key=lambda limit: limit[0])
        return session

    def stop(self, session_id: str, reason: str) -> None:
        """End a session, started or not."""
        now = self._settings.clock()
        session = self._find(session_id)
        if session.at(now).state is SessionState.ENDED:
            raise RefusedError(409, f"Session {session_id} has already ended.")
        session.stopped = (now, reason)

    def _find(self, session_id: str) -> Session:
        try:
            return self._sessions[session_id.lower()]
        except KeyError:
            raise RefusedError(404, f"Session {session_id} is not known.") from None

    def _check_limits(self, session: Session) -> None:
        if self._settings.credits is not None:
            left, price = self._settings.credits - self.credits(), session.credits_per_minute
            if left < price:
                raise RefusedError(402, f"Not enough credits: a minute costs {price}, {left} left.")
        if self._settings.max_concurrent is not None:
            running = sum(each.state is SessionState.STARTED for each in self.snapshots())
            allowed = self._settings.max_concurrent
            if running >= allowed:
                raise RefusedError(403, f"Concurrency limit reached: {running} of {allowed} sessions running.")

    def _forget_old(self) -> None:
        if len(self._sessions) > REMEMBERED:
            now = self._settings.clock()
            for snapshot in (session.at(now) for session in self._sessions.values()):
                if snapshot.state is SessionState.ENDED:
                    self._forgotten_credits += snapshot.credits
                    del self._sessions[snapshot.id]
                    return
