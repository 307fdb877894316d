"""One session: its configuration, its state, its price."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from ._errors import ApiError
from ._settings import SANDBOX_AVATAR, Settings

SANDBOX_SECONDS = 60

_CREDITS_PER_MINUTE = {"FULL": 2, "LITE": 1}
_AGENT_TYPES = {
    "elevenlabs_agent_config": "ELEVENLABS_AGENT",
    "openai_realtime_config": "OPENAI_REALTIME",
    "gemini_realtime_config": "GEMINI_REALTIME",
}
_CONNECTOR_SUFFIXES = ("_agent_config", "_realtime_config")


class SessionState(StrEnum):
    """The state of a session."""

    CREATED = "created"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionSnapshot:
    """One session at one moment. It contains no secret.

    Attributes:
        id: the session's id (UUID).
        mode: "FULL" or "LITE".
        avatar_id: the avatar's id (UUID).
        is_sandbox: whether it is a free trial session.
        state: created, running or ended.
        age: seconds since its token was created.
        seconds: seconds for which it has run.
        idle: seconds since its start or last keep-alive; None unless it is running.
        credits: what it would have cost at the service so far.
        end_reason: the service's reason for its end ("USER_CLOSED", ...); None before it has ended.
        closed_by_client: whether it ended because a client stopped it.
    """

    id: str
    mode: str
    avatar_id: str
    is_sandbox: bool
    state: SessionState
    age: float
    seconds: float
    idle: float | None
    credits: int
    end_reason: str | None
    closed_by_client: bool


@dataclass(kw_only=True, slots=True)
class Session:
    """What the mock server stores about a session."""

    id: str
    mode: str
    avatar_id: str
    is_sandbox: bool
    context_id: str | None
    llm_configuration_id: str | None
    livekit_config: Mapping[str, str] | None  # the caller's own room
    has_agent_token: bool  # LITE in a room of the service
    has_event_socket: bool  # LITE without a connector
    start_data: Mapping[str, Any]  # the claim of the session token that web clients read
    max_duration: int
    created_at: float
    started_at: float | None = None
    last_alive: float | None = None  # the time of its start or last keep-alive
    paid_minutes: int = 1
    ended_at: float | None = None
    end_reason: str | None = None
    closed_by_client: bool = False
    events_deleted_at: float | None = None

    @property
    def state(self) -> SessionState:
        """The state of the session."""
        if self.ended_at is not None:
            return SessionState.ENDED
        return SessionState.CREATED if self.started_at is None else SessionState.RUNNING

    @property
    def credits_per_minute(self) -> int:
        """The price of a minute."""
        return 0 if self.is_sandbox else _CREDITS_PER_MINUTE[self.mode]

    def seconds(self, now: float) -> float:
        """Return for how long the session has run."""
        return 0.0 if self.started_at is None else (now if self.ended_at is None else self.ended_at) - self.started_at

    def credits(self, now: float) -> int:
        """Return what the session has cost: the price of every minute that has begun."""
        if self.started_at is None:
            return 0
        # Rounded, because the last digit of a float must not begin another minute.
        return max(1, math.ceil(round(self.seconds(now), 3) / 60)) * self.credits_per_minute

    def snapshot(self, now: float) -> SessionSnapshot:
        """Return the session as it is at ``now``."""
        return SessionSnapshot(
            id=self.id,
            mode=self.mode,
            avatar_id=self.avatar_id,
            is_sandbox=self.is_sandbox,
            state=self.state,
            age=now - self.created_at,
            seconds=self.seconds(now),
            idle=now - self.last_alive if self.last_alive is not None and self.ended_at is None else None,
            credits=self.credits(now),
            end_reason=self.end_reason,
            closed_by_client=self.closed_by_client,
        )

    def info(self, now: float) -> dict[str, Any]:
        """Return the record of the session, as the API gives it."""
        changes = (self.created_at, self.last_alive, self.ended_at)
        info = {
            "id": self.id,
            "created_at": _iso(self.created_at),
            "updated_at": _iso(max(at for at in changes if at is not None)),
            "duration": int(self.seconds(now)),
            "source": "API",
            "mode": self.mode,
            "is_sandbox": self.is_sandbox,
            "credits_consumed": self.credits(now),
        }
        if self.ended_at is not None:
            info |= {"end_at": _iso(self.ended_at), "end_reason": self.end_reason}
        return info


def new_session(configuration: Mapping[str, Any], settings: Settings) -> Session:
    """Return a new session from a request that has passed the contract.

    Raises:
        ApiError: the configuration asks for something that the account does not have.
    """
    # Null means that a field is not given.
    given = {name: value for name, value in configuration.items() if value is not None}
    avatar_id = given["avatar_id"].lower()
    is_sandbox = given.get("is_sandbox", False)
    is_full = given.get("mode") == "FULL" or ("mode" not in given and {"avatar_persona", "voice_agent"} & given.keys())
    if not settings.has_avatar(avatar_id):
        raise ApiError(404, f"Avatar {avatar_id} is not known.")
    if is_sandbox and avatar_id != SANDBOX_AVATAR:
        raise ApiError(400, f"is_sandbox works only with the sandbox avatar, {SANDBOX_AVATAR}.")
    longest = SANDBOX_SECONDS if is_sandbox else settings.max_session_duration
    duration = int(given.get("max_session_duration", longest))
    if duration > longest:
        raise ApiError(400, f"max_session_duration ({duration}s) exceeds the maximum allowed ({longest}s)")
    connectors = {} if is_full else {name: given[name] for name in given if name.endswith(_CONNECTOR_SUFFIXES)}
    agent_types = [_AGENT_TYPES[name] for name in connectors if name in _AGENT_TYPES]
    parts = [given.get("avatar_persona", {}), *connectors.values()]
    return Session(
        id=str(uuid.uuid4()),
        mode="FULL" if is_full else "LITE",
        avatar_id=avatar_id,
        is_sandbox=is_sandbox,
        context_id=next((part["context_id"].lower() for part in parts if _is_text(part, "context_id")), None),
        llm_configuration_id=given.get("llm_configuration_id"),
        livekit_config=given.get("livekit_config"),
        has_agent_token=not (is_full or "livekit_config" in given or "agora_config" in given),
        has_event_socket=not (is_full or connectors),
        start_data={
            "mode": "FULL" if is_full else "LITE",
            "agent_type": "FULL" if is_full else next(iter(agent_types), None),
            **connectors,
        },
        max_duration=duration,
        created_at=settings.clock(),
    )


def _is_text(part: Any, name: str) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get(name), str)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
