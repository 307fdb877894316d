"""What the service records about sessions, in words."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from liveavatar_client.models import SessionInfo

TABLE_WIDTH = 76
"""Columns of a terminal below which a list is not a table."""

_REASONS = {
    "AGENT_HANG_UP": "the agent hung up",
    "AVATAR_DELETED": "its avatar was deleted",
    "IDLE_TIMEOUT": "it was idle for too long",
    "MAX_DURATION_REACHED": "its maximum duration was reached",
    "NO_CREDITS": "the account has no credits left",
    "SERVER_ERROR": "the service failed",
    "USER_CLOSED": "it was stopped",
    "USER_DISCONNECTED": "the user disconnected",
    "ZOMBIE_SESSION_REAP": "the service found it abandoned",
}


def has_ended(info: SessionInfo) -> bool:
    """Return whether the service says that the session has ended."""
    return isinstance(info.end_at, datetime) or end_reason(info) is not None


def end_reason(info: SessionInfo) -> str | None:
    """Return the stop reason of a session, if the service gives one."""
    return info.end_reason if isinstance(info.end_reason, str) else None


def reason_in_words(reason: str | None) -> str:
    """Return a clause that says why a session has ended."""
    return _REASONS.get(reason or "", "the service gives no reason" if reason in (None, "UNKNOWN") else f"{reason}")


def rows(info: SessionInfo) -> dict[str, str]:
    """Return all that is known of a session."""
    ended = has_ended(info)
    found = {
        "Session": info.id,
        "State": f"ended: {reason_in_words(end_reason(info))}" if ended else "running",
        "Mode": f"{info.mode}, free trial" if info.is_sandbox else info.mode,
        "Source": info.source,
        "Created": _local_time(info.created_at),
    }
    if isinstance(info.end_at, datetime):
        found["Ended"] = _local_time(info.end_at)
    return found | {
        "Duration": format_duration(info.duration),
        "Cost": format_credits(info.credits_consumed),
    }


def table(infos: Iterable[SessionInfo], *, historic: bool) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the cells of a list that fits into 80 columns."""
    last = "End reason" if historic else "Source"
    columns = ["Session", "Created", "Time", "Cost", last]
    if not historic:
        columns.insert(2, "Mode")
    cells = []
    for info in infos:
        reason = _lower(end_reason(info) or "")
        row = [
            info.id,
            _short_time(info.created_at),
            format_duration(info.duration),
            f"{info.credits_consumed:g}",
            reason if historic else info.source,
        ]
        if not historic:
            row.insert(2, info.mode)
        cells.append(row)
    return columns, cells


def one_line(info: SessionInfo) -> str:
    """Return what a list says of a session beside its id, for narrow terminals."""
    reason = end_reason(info)
    parts = [_short_time(info.created_at), info.mode, format_duration(info.duration)]
    parts += [format_credits(info.credits_consumed), *([_lower(reason)] if reason else [])]
    return ", ".join(parts)


def tab_separated(info: SessionInfo) -> str:
    """Return a session as one line for other programs."""
    return "\t".join(
        [
            info.id,
            info.created_at.isoformat(),
            info.mode,
            info.source,
            str(info.duration),
            f"{info.credits_consumed:g}",
            end_reason(info) or "",
        ]
    )


def _lower(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _local_time(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _short_time(moment: datetime) -> str:
    """Return a time as `ls -l` does: without the year if it is recent."""
    local = moment.astimezone()
    recent = abs(datetime.now(local.tzinfo) - local) < timedelta(days=180)
    return f"{local:%b %d %H:%M}" if recent else f"{local:%b %d  %Y}"


def format_duration(seconds: float) -> str:
    """Format seconds as 0:07, 12:00 or 1:00:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_credits(number: float) -> str:
    """Format a number of credits."""
    return f"{number:g} credit{'' if number == 1 else 's'}"
