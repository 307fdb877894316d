"""A made-up transcript for FULL sessions."""

from __future__ import annotations

import math
from typing import Any

from ._session import Session, SessionState

MARK = "[made up by the mock server]"
PAGE = 100  # lines in one response

_FIRST, _PAUSE = 2, 4  # seconds to the first line, and from line to line
_LINES = (
    ("avatar", "Hello. How can I help you?"),
    ("user", "What can you tell me?"),
    ("avatar", "Nothing, because no media flows here. These lines only show what a transcript looks like."),
    ("user", "Then tell me that again."),
)


def transcript(session: Session, now: float, start: int | None, end: int | None) -> dict[str, Any]:
    """Return what was said in a session, from ``start`` to ``end``, as the API gives it.

    Timestamps are in seconds: since the epoch, and since the start of the session. A LITE session has no lines.
    """
    is_active = session.state is SessionState.RUNNING
    if session.mode != "FULL" or session.started_at is None:
        return {"session_active": is_active, "next_timestamp": None, "transcript_data": []}
    origin = math.floor(session.started_at)
    earliest = origin if start is None else start
    if session.events_deleted_at is not None:
        earliest = max(earliest, math.floor(session.events_deleted_at) + 1)
    latest = math.floor(now if session.ended_at is None else session.ended_at)
    latest = latest if end is None else min(latest, end)
    first = max(0, -((origin + _FIRST - earliest) // _PAUSE))
    stop = max(first, (latest - origin - _FIRST) // _PAUSE + 1)
    lines = [_line(origin, index) for index in range(first, min(stop, first + PAGE))]
    following = origin + _FIRST + _PAUSE * (first + len(lines))
    has_more = stop - first > PAGE or (is_active and (end is None or following <= end))
    return {
        "session_active": is_active,
        "next_timestamp": following if has_more else None,
        "transcript_data": lines,
    }


def _line(origin: int, index: int) -> dict[str, Any]:
    role, text = _LINES[index % len(_LINES)]
    relative = _FIRST + _PAUSE * index
    return {
        "role": role,
        "transcript": f"{MARK} {text}",
        "absolute_timestamp": origin + relative,
        "relative_timestamp": relative,
    }
