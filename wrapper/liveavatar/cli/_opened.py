"""What there is to say about an open session, and which part of it is secret."""

from __future__ import annotations

import math
import time
from typing import Any

import attrs

from .._redaction import redact
from ..models import LiveAvatarNewSessionRequest, StandardSessionResponse

_PER_MINUTE = {"FULL": 2}  # all else is LITE, at 1


@attrs.frozen
class Opened:
    """An open session, with what it was opened for and when."""

    session: StandardSessionResponse
    request: LiveAvatarNewSessionRequest
    token: str = attrs.field(repr=False)
    since: float = attrs.field(factory=time.monotonic)

    @property
    def credits_per_minute(self) -> int:
        return 0 if self.request.is_sandbox else _PER_MINUTE.get(self.request.mode, 1)

    def elapsed(self) -> float:
        """Seconds that it has run."""
        return time.monotonic() - self.since

    def left(self) -> float:
        """Seconds until the service ends it; infinite when the service has not said."""
        longest = self.session.max_session_duration
        return math.inf if longest is None else max(0.0, longest - self.elapsed())

    def cost(self) -> str:
        """The credits it has cost: each begun minute counts."""
        return _credits(max(1, math.ceil(self.elapsed() / 60)) * self.credits_per_minute)

    def rate(self) -> str:
        """What a minute costs."""
        return "free" if self.request.is_sandbox else f"{_credits(self.credits_per_minute)} per minute"

    def rows(self) -> dict[str, str]:
        """The session as it is now; nothing in it is secret."""
        longest, left = self.session.max_session_duration, self.left()
        return {
            "Session": self.session.session_id,
            "Avatar": self.request.avatar_id,
            "Room": redact(self.session.livekit_url),
            "Mode": f"{self.request.mode}{', sandbox' if self.request.is_sandbox else ''} ({self.rate()})",
            "Duration": "as long as the plan allows" if longest is None else f"at most {clock(longest)}",
            "Time left": "unknown" if left == math.inf else clock(math.ceil(left)),
            "Cost so far": self.cost(),
        }

    def secrets(self) -> dict[str, str]:
        """The credentials of the session and its room, for those who ask for them."""
        session = self.session
        found = {
            "session_token": self.token,
            "access_token": session.access_token,
            "livekit_agent_token": session.livekit_agent_token,
            "ws_url": session.ws_url,
            "meet_url": session.meet_url,
        }
        return {name: value for name, value in found.items() if value}

    def as_json(self, stop: str) -> dict[str, Any]:
        """The session as `--json` prints it, without its secrets."""
        return {
            "session_id": self.session.session_id,
            "avatar_id": self.request.avatar_id,
            "mode": self.request.mode,
            "is_sandbox": bool(self.request.is_sandbox),
            "livekit_url": redact(self.session.livekit_url),
            "max_session_duration": self.session.max_session_duration,
            "credits_per_minute": self.credits_per_minute,
            "stop": stop,
        }


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:00 or 1:00:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _credits(number: int) -> str:
    return f"{number} credit{'' if number == 1 else 's'}"
