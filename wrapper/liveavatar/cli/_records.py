"""What the service records about sessions, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

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
    return info.end_at is not None or info.end_reason is not None


def reason_in_words(reason: str | None) -> str:
    """Return a clause that says why a session has ended."""
    return _REASONS.get(reason or "", "the service gives no reason" if reason in (None, "UNKNOWN") else f"{reason}")


def rows(info: SessionInfo) -> dict[str, str]:
    """Return all that is known of a session."""
    ended = has_ended(info)
    found = {
        "Session": info.id,
        "State": f"ended: {reason_in_words(info.end_reason)}" if ended else "running",
        "Mode": f"{info.mode}, free trial" if info.is_sandbox else info.mode,
        "Source": info.source,
        "Created": _local_time(info.created_at),
    }
    if info.end_at is not None:
        found["Ended"] = _local_time(info.end_at)
    return found | {
        "Duration": format_duration(info.duration),
        "Cost": format_credits(info.credits_consumed),
    }


def table(
    infos: Iterable[SessionInfo], owners: Mapping[str, str], *, historic: bool
) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the cells of a list that fits into 80 columns.

    Args:
        infos: the sessions.
        owners: state of the owner of each session in a ledger, which takes the place of the source.
        historic: whether the sessions have ended; then their end reason takes the place of mode and source.
    """
    cells = []
    for info in infos:
        row = {"Session": info.id, "Created": _short_time(info.created_at)}
        if not historic:
            row["Mode"] = info.mode
        row |= {"Time": format_duration(info.duration), "Cost": f"{info.credits_consumed:g}"}
        if historic:
            row["End reason"] = _lower(info.end_reason or "")
        elif owners:
            row["Owner"] = owners.get(info.id, "")
        else:
            row["Source"] = info.source
        cells.append(row)
    return list(cells[0]), [list(row.values()) for row in cells]


def one_line(info: SessionInfo, owner: str | None) -> str:
    """Return what a list says of a session beside its id, for narrow terminals."""
    reason = info.end_reason
    parts = [_short_time(info.created_at), info.mode, format_duration(info.duration)]
    parts += [format_credits(info.credits_consumed)]
    parts += [_lower(reason)] if reason else []
    parts += [f"owner {owner}"] if owner else []
    return ", ".join(parts)


def tab_separated(info: SessionInfo, owner: str | None) -> str:
    """Return a session as one line for other programs."""
    created = info.created_at.isoformat()
    numbers = [str(info.duration), f"{info.credits_consumed:g}"]
    return "\t".join([info.id, created, info.mode, info.source, *numbers, info.end_reason or "", owner or ""])


def as_json(info: SessionInfo, owner: str | None) -> dict[str, Any]:
    """Return all fields of a session, and the state of its owner if it is in the ledger."""
    return info.to_dict() | ({} if owner is None else {"owner": owner})


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
