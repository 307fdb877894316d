"""What is shown of an open session: its rows, its cost and, only if asked for, its secrets."""

from __future__ import annotations

import math
import time
from typing import Any

import attrs

from liveavatar_client.models import SessionInfo

from .._redaction import redact
from ..models import LiveAvatarNewSessionRequest, StandardSessionResponse
from . import _records
from ._records import format_credits, format_duration

_CREDITS_PER_MINUTE = {"FULL": 2, "LITE": 1}


@attrs.define
class SessionView:
    """An open session, the request that it was opened with, and what is known of its end."""

    session: StandardSessionResponse
    request: LiveAvatarNewSessionRequest
    token: str = attrs.field(repr=False)
    started: float = attrs.field(factory=time.monotonic)
    record: SessionInfo | None = None
    """What the service records about the session, as last read."""
    _stopped: float | None = None

    @property
    def credits_per_minute(self) -> int:
        return 0 if self.request.is_sandbox else _CREDITS_PER_MINUTE.get(str(self.request.mode), 1)

    def stop_clock(self) -> None:
        """Note that the session has ended now."""
        self._stopped = time.monotonic()

    @property
    def has_ended(self) -> bool:
        """Whether the service says that the session has ended."""
        return self.record is not None and _records.has_ended(self.record)

    def elapsed(self) -> float:
        """Return the seconds that the session has run: as the service says if it has ended, else by the clock."""
        if self.record is not None and self.has_ended:
            return self.record.duration
        return (time.monotonic() if self._stopped is None else self._stopped) - self.started

    def remaining(self) -> float:
        """Return the seconds until the maximum duration; infinite if the service has not given one."""
        maximum = self.session.max_session_duration
        return math.inf if maximum is None else max(0.0, maximum - self.elapsed())

    def credits(self) -> float:
        """Return the credits used: as the service says if the session has ended, else an estimate.

        The estimate takes each begun minute as a whole one.
        """
        if self.record is not None and self.has_ended:
            return self.record.credits_consumed
        estimate = max(1, math.ceil(self.elapsed() / 60)) * self.credits_per_minute
        return estimate if self.record is None else max(estimate, self.record.credits_consumed)

    def cost(self) -> str:
        """Return the cost so far in words."""
        exact = self.has_ended or self.request.is_sandbox
        return f"{'' if exact else 'about '}{format_credits(self.credits())}"

    def rate(self) -> str:
        """Return the cost of a minute in words."""
        return "free" if self.request.is_sandbox else f"{format_credits(self.credits_per_minute)} per minute"

    def rows(self) -> dict[str, str]:
        """Return the session as it is now, without secrets."""
        maximum, remaining = self.session.max_session_duration, self.remaining()
        return {
            "Session": self.session.session_id,
            "Avatar": self.request.avatar_id,
            "Room": redact(self.session.livekit_url),
            "Mode": f"{self.request.mode}, {'free trial' if self.request.is_sandbox else self.rate()}",
            "Duration": "as long as the plan allows" if maximum is None else f"at most {format_duration(maximum)}",
            "Time left": "unknown" if remaining == math.inf else format_duration(math.ceil(remaining)),
            "Cost so far": self.cost(),
        }

    def secrets(self) -> dict[str, str]:
        """Return the credentials of the session and its room."""
        session = self.session
        found = {
            "session_token": self.token,
            "access_token": session.access_token,
            "livekit_agent_token": session.livekit_agent_token,
            "ws_url": session.ws_url,
            "meet_url": session.meet_url,
        }
        return {name: value for name, value in found.items() if value}

    def opened_json(self, stop_command: str) -> dict[str, Any]:
        """Return the object that `--json` prints when the session is open, without secrets."""
        return {
            "session_id": self.session.session_id,
            "state": "running",
            "avatar_id": self.request.avatar_id,
            "mode": self.request.mode,
            "is_sandbox": bool(self.request.is_sandbox),
            "livekit_url": redact(self.session.livekit_url),
            "max_session_duration": self.session.max_session_duration,
            "credits_per_minute": self.credits_per_minute,
            "stop": stop_command,
        }

    def ended_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints when the session has ended."""
        reason = None if self.record is None else self.record.end_reason
        return {
            "session_id": self.session.session_id,
            "state": "ended",
            "end_reason": reason,
            "duration": round(self.elapsed()),
            "credits": self.credits(),
            "is_estimate": not self.has_ended,
        }

    def summary(self) -> str:
        """Return the line that is printed when the session has ended."""
        after, cost = format_duration(self.elapsed()), f"Cost: {self.cost()}."
        reason = None if self.record is None else self.record.end_reason
        if reason in (None, "USER_CLOSED"):
            return f"Stopped after {after}. {cost}"
        return f"The session ended after {after}: {_records.reason_in_words(reason)} ({reason}). {cost}"
