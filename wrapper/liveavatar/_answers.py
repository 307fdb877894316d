"""How to read an answer: a value the contract knows, or a typed error with the service's own words. No I/O here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from http.client import responses
from typing import Any

from . import errors
from ._config import VISIBLE
from ._secrets import masked
from ._wire import Answer

SUCCESS_CODES = (100, 1000)
"""Envelope codes of success: the reference gives 100, the live service answers 1000."""

MAX_TEXT = 64 * 1024
"""Characters of an answer that an error keeps."""

_BY_STATUS: dict[int, type[errors.LiveAvatarApiError]] = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    402: errors.InsufficientCreditsError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    422: errors.InvalidRequestError,
    429: errors.RateLimitError,
}

_CONCURRENCY = re.compile(r"\bconcurren(t|cy)", re.IGNORECASE)
_CREDITS = re.compile(r"\bcredits?\b", re.IGNORECASE)
# Only an error under a success status is told by these words: elsewhere the status says it.
_BY_WORDS: tuple[tuple[re.Pattern[str], type[errors.LiveAvatarApiError]], ...] = (
    (re.compile(r"\brate limit|too many requests", re.IGNORECASE), errors.RateLimitError),
    (
        re.compile(r"\bunauthori[sz]ed|\b(invalid|expired) (api key|(session )?token)", re.IGNORECASE),
        errors.AuthenticationError,
    ),
    (re.compile(r"\bnot found\b|\bdoes not exist\b", re.IGNORECASE), errors.NotFoundError),
    (re.compile(r"\balready (started|stopped|ended|closed)\b", re.IGNORECASE), errors.ConflictError),
)

_ADVICE: dict[type[errors.LiveAvatarApiError], str] = {
    errors.InsufficientCreditsError: "Add credits: starting takes enough for one minute.",
    errors.ConcurrencyLimitError: "Close a session, or wait until one ends: open ones hold the account's slots.",
    errors.PermissionDeniedError: "Check what the account's plan allows.",
    errors.RateLimitError: "Send fewer requests at a time, or try again later.",
    errors.ServerError: "The fault is at the service; try again later.",
}
_ADVICE_401 = {
    "token": "Check the API key: LIVEAVATAR_API_KEY, or api_key=.",
    "start": "A session token is short-lived and good for one session: create a new one.",
    "stop": "The session token has expired or is of another session: stop with the API key, without a token.",
}


def read(answer: Answer, endpoint: str, secrets: Callable[[], Sequence[str]]) -> dict[str, Any]:
    """The body of a success, safe to give to the generated parser.

    What is required must be there and be of its type; what is optional and odd becomes None, for a session that
    runs is not to be lost over it. A stop needs no body at all: its 2xx has said it.

    Args:
        answer: what came.
        endpoint: "token", "start" or "stop".
        secrets: gives what must not show in an error.

    Raises:
        LiveAvatarApiError: the status, or the envelope's code, is an error.
        BadResponseError: the body breaks the contract; the message names the field.
        LiveAvatarConnectionError: the body is needed, and did not come whole.
    """
    body, broken = _parse(answer.content)
    code = _code(body)
    if not 200 <= answer.status <= 299 or (code is not None and code not in SUCCESS_CODES):
        raise error(answer, endpoint, secrets())
    if endpoint == "stop":
        return body if isinstance(body, dict) else {}
    if answer.problem is not None:
        raise answer.problem
    broken = f"the service sent {answer.refused}" if answer.refused else broken or _breach(body, endpoint)
    if broken:
        raise error(answer, endpoint, secrets(), broken)
    data, message = body["data"], body.get("message")
    for name, kind in _OPTIONAL[endpoint].items():
        if not isinstance(data.get(name), kind) or isinstance(data[name], bool):
            data[name] = None
    body["code"] = SUCCESS_CODES[0] if code is None else code
    body["message"] = message if isinstance(message, str) else ""
    return body  # type: ignore[no-any-return]


def _breach(body: Any, endpoint: str) -> str | None:
    """Where a success breaks the contract, if it does."""
    if not isinstance(body, dict):
        return f"the body is not an object but {_type(body)}"
    data = body.get("data")
    if not isinstance(data, dict):
        return f"data is not an object but {_type(data)}"
    for name in _REQUIRED[endpoint]:
        value = data.get(name)
        if not isinstance(value, str):
            return f"data.{name} is not a string but {_type(value)}"
        if not VISIBLE.fullmatch(value):
            return f"data.{name} is empty, or not plain text"
    return None


def _parse(content: bytes | bytearray) -> tuple[Any, str | None]:
    try:
        return json.loads(content.decode()), None
    except (ValueError, RecursionError):
        return None, "the body is not JSON" if content else "the body is empty"


def error(
    answer: Answer, endpoint: str, secrets: Sequence[str], breach: str | None = None
) -> errors.LiveAvatarApiError:
    """The error for an answer that is no success; with `breach`, for a success whose body breaks the contract so."""
    body, _ = _parse(answer.content)
    code, words = _code(body), _words(body)
    if breach:
        kind: type[errors.LiveAvatarApiError] = errors.BadResponseError
        words = f"{breach}: {words}" if words else breach
    else:
        words = words or _plain(answer)
        kind = _kind(answer.status, words)
    words = _line(masked(words, secrets)) or responses.get(answer.status, "an answer without words")
    advice = _ADVICE_401.get(endpoint, "") if kind is errors.AuthenticationError else _ADVICE.get(kind, "")
    number = "" if code is None else f" (code {code})"
    stop = "" if words.endswith((".", "!", "?")) else "."
    text = masked(answer.content[: 4 * MAX_TEXT].decode("utf-8", "replace"), secrets)[:MAX_TEXT]
    made = kind(f"{answer.status}{number} {words}{stop} {advice}".strip(), answer.status, text)
    made.message = words
    made.code = code
    made.endpoint = f"/v1/sessions/{endpoint}"
    made.retry_after = retry_after(answer.headers.get("retry-after"))
    request_id = answer.headers.get("x-request-id") or answer.headers.get("cf-ray")
    made.request_id = _line(masked(request_id, secrets)) if request_id else None
    if isinstance(made, errors.InvalidRequestError):
        made.errors = tuple((masked(at, secrets), masked(what, secrets)) for at, what in _complaints(body))
    return made


def _kind(status: int, words: str) -> type[errors.LiveAvatarApiError]:
    success = 200 <= status <= 299
    if (success or status in (403, 409, 429)) and _CONCURRENCY.search(words):
        return errors.ConcurrencyLimitError
    if (success or 400 <= status <= 499) and _CREDITS.search(words):
        return errors.InsufficientCreditsError
    if success:
        return next((kind for pattern, kind in _BY_WORDS if pattern.search(words)), errors.LiveAvatarApiError)
    if status >= 500:
        return errors.ServerError
    return _BY_STATUS.get(status, errors.LiveAvatarApiError)


def _code(body: Any) -> int | None:
    code = body.get("code") if isinstance(body, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _words(body: Any) -> str:
    """The service's own words in any of the shapes its errors come in."""
    if not isinstance(body, dict):
        return ""
    parts = [value for name in ("message", "error", "detail") if isinstance(value := body.get(name), str)]
    said = " ".join(parts)  # a message may already hold what its list says again
    parts += [f"{at}: {what}" if at else what for at, what in _complaints(body) if what not in said]
    return "; ".join(part for part in dict.fromkeys(parts) if part.strip())


def _complaints(body: Any) -> list[tuple[str, str]]:
    """(location, message) of each entry of an error's list, in the envelope's `data` or FastAPI's `detail`."""
    if not isinstance(body, dict):
        return []
    found = []
    for entries in (body.get("data"), body.get("detail")):
        for entry in entries[:50] if isinstance(entries, list) else []:
            if isinstance(entry, dict):
                what = entry.get("message") or entry.get("msg")
                at = entry.get("loc")
                at = ".".join(map(str, at)) if isinstance(at, list) else str(at or "")
                if isinstance(what, str):
                    found.append((at, what))
    return found


def _plain(answer: Answer) -> str:
    """A body in plain text; a page of HTML tells nobody anything, and neither does broken JSON."""
    text = answer.content[:2000].decode("utf-8", "replace").strip()
    return "" if not text or text[0] in '<{["' or "<html" in text.lower() else text


def _line(text: str) -> str:
    text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())[:500]


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks to wait: a number or an HTTP date; None when it is nonsense."""
    value = (value or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return float(value)
    if not re.match(r"[A-Za-z]{3,9},? ", value) or len(value) > 60:
        return None
    from dateutil import parser  # loaded when first needed: most clients never see a date

    try:
        # HTTP dates are GMT, whatever a server writes behind them.
        date = parser.parse(value, ignoretz=True).replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 and math.isfinite(seconds) else None


# What a success must hold, and what it may hold, by endpoint: name -> type.
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "token": ("session_id", "session_token"),
    "start": ("session_id", "livekit_url", "livekit_client_token"),
}
_OPTIONAL: Mapping[str, Mapping[str, type]] = {
    "token": {},
    "start": {"livekit_agent_token": str, "ws_url": str, "max_session_duration": int},
}


def _type(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(
        type(value), "a number"
    )
