"""Names what went wrong: turns an error response into a typed error with the service's own message."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from http.client import responses as reason_phrases
from typing import Any

from . import errors
from ._arguments import check_session_id
from ._constants import MAX_ERROR_TEXT
from ._endpoints import Endpoint
from ._redaction import redact
from ._transports._base import Response

_decode_json = json.JSONDecoder().decode

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
_CONCURRENCY_LIMIT = re.compile(
    r"\bconcurren[a-z]*([ _-]+[a-z]+){0,2}?[ _-]+(limits?|maximum|quota)(?![a-z])|\bconcurrency[ _-]+exceeded"
    r"|\b(limits?|max|maximum|quota|too many)([ _-]+\w+){0,4}? concurren[a-z]*\b"
    r"(?! (?:change|modif|operation|request|start|update))",
    re.IGNORECASE,
)
_CREDITS = re.compile(r"\bcredits?\b", re.IGNORECASE)
_DURATION = re.compile(
    r"\bmax_session_duration\b.{0,300}?\bmaximum\b(?:\D{0,100}(\d{1,9}))?", re.IGNORECASE | re.DOTALL
)
_VP8 = re.compile(r"\bVP8\b", re.IGNORECASE)
# Only used for error envelopes sent with a 2xx status; otherwise the status decides.
_BY_MESSAGE: tuple[tuple[re.Pattern[str], type[errors.LiveAvatarApiError]], ...] = (
    (re.compile(r"\brate limit|too many requests", re.IGNORECASE), errors.RateLimitError),
    (
        re.compile(r"\bunauthori[sz]ed|\b(invalid|expired) (api key|(session )?token)", re.IGNORECASE),
        errors.AuthenticationError,
    ),
    (re.compile(r"\bnot found\b|\bdoes not exist\b", re.IGNORECASE), errors.NotFoundError),
    (re.compile(r"\balready (started|stopped|ended|closed)\b", re.IGNORECASE), errors.ConflictError),
)


def error(
    response: Response,
    endpoint: Endpoint[Any],
    base_url: str,
    secrets: Sequence[str],
    violation: str | None = None,
) -> errors.LiveAvatarApiError:
    """Return the error for a response; `violation` says what is wrong with the body of a 2xx."""
    body, _ = parse(response.content)
    code, message = envelope_code(body), _error_message(body)
    if violation:
        cls: type[errors.LiveAvatarApiError] = errors.BadResponseError
        message = f"{violation}: {message}" if message else violation
    else:
        message = message or _text_body(response)
        cls = _error_class(response.status, message)
    message = _one_line(redact(message, secrets)) or reason_phrases.get(response.status, "no message")
    hint = _hint(cls, message, endpoint, body, base_url)
    number = "" if code is None else f" (code {code})"
    stop = "" if message.endswith((".", "!", "?")) else "."
    text = redact(_decode(response.content[: 4 * MAX_ERROR_TEXT]), secrets)[:MAX_ERROR_TEXT]
    api_error = cls(f"{response.status}{number} {message}{stop} {hint}".strip(), response.status, text)
    api_error.message = message
    api_error.code = code
    if isinstance(api_error, errors.BadResponseError):
        api_error._named_session = named_session(body)
    api_error.endpoint = endpoint.full_path
    api_error.retry_after = retry_after(response.header("retry-after"))
    request_id = response.header("x-request-id") or response.header("cf-ray")
    api_error.request_id = _one_line(redact(request_id, secrets)) if request_id else None
    if isinstance(api_error, errors.InvalidRequestError):
        api_error.errors = tuple((redact(loc, secrets), redact(msg, secrets)) for loc, msg in _error_items(body))
    if isinstance(api_error, errors.SessionDurationError):
        limit = _DURATION.search(message)
        api_error.max_allowed = int(limit[1]) if limit and limit[1] else None
    return api_error


def _error_class(status: int, message: str) -> type[errors.LiveAvatarApiError]:
    success = 200 <= status <= 299
    if (success or status in (403, 429)) and _CONCURRENCY.search(message):
        return errors.ConcurrencyLimitError
    if status == 409 and _CONCURRENCY_LIMIT.search(message):  # not of concurrent changes to the session
        return errors.ConcurrencyLimitError
    if (success or 400 <= status <= 499) and _CREDITS.search(message):
        return errors.InsufficientCreditsError
    if (success or status == 400) and _DURATION.search(message):
        return errors.SessionDurationError
    if success:
        return next((cls for pattern, cls in _BY_MESSAGE if pattern.search(message)), errors.LiveAvatarApiError)
    if status >= 500:
        return errors.ServerError
    return _BY_STATUS.get(status, errors.LiveAvatarApiError)


def _hint(
    cls: type[errors.LiveAvatarApiError], message: str, endpoint: Endpoint[Any], body: Any, base_url: str
) -> str:
    if cls is errors.AuthenticationError:
        return endpoint.auth_hint
    unknown_path = envelope_code(body) is None or message.lower() == "not found"
    if cls is errors.NotFoundError and unknown_path:
        if endpoint.model is None:  # the caller has given the path
            return f"Does the service have this path? The URL is {base_url}{endpoint.path}"
        return f"Is base_url right? It is {base_url}"
    if issubclass(cls, errors.BadRequestError | errors.InvalidRequestError) and _VP8.search(message):
        return "The service is about to drop VP8: use VideoEncoding.H264 in video_settings."
    return cls.hint


def _error_message(body: Any) -> str:
    """Return the service's own message, in any of the shapes that its errors have."""
    if not isinstance(body, dict):
        return ""
    parts = [value for name in ("message", "error", "detail") if isinstance(value := body.get(name), str)]
    so_far = " ".join(parts)  # a message may already contain the items of its list
    parts += [f"{loc}: {msg}" if loc else msg for loc, msg in _error_items(body) if msg not in so_far]
    return "; ".join(part for part in dict.fromkeys(parts) if part.strip())


def _error_items(body: Any) -> list[tuple[str, str]]:
    """Return (location, message) of each entry of an error's list: `data` of an envelope, or FastAPI's `detail`."""
    if not isinstance(body, dict):
        return []
    found = []
    for entries in (body.get("data"), body.get("detail")):
        for entry in entries[:50] if isinstance(entries, list) else []:
            if isinstance(entry, dict):
                msg = entry.get("message") or entry.get("msg")
                loc = entry.get("loc")
                loc = ".".join(map(str, loc)) if isinstance(loc, list) else str(loc or "")
                if isinstance(msg, str):
                    found.append((loc, msg))
    return found


def _text_body(response: Response) -> str:
    """Return a plain-text body, or "" for HTML and malformed JSON."""
    text = _decode(response.content[:2000]).strip()
    return "" if not text or text[0] in '<{["' or "<html" in text.lower() else text


def _one_line(text: str) -> str:
    text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())[:500]


def retry_after(value: str, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks to wait: a number or an HTTP date; None if it is invalid."""
    value = value.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return float(value)
    if len(value) > 60:
        return None
    from email.utils import parsedate_to_datetime  # imported when first needed: most clients never see a date

    try:
        # HTTP dates are GMT, whatever zone a server writes behind them.
        date = parsedate_to_datetime(value).replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 and math.isfinite(seconds) else None


def _decode(content: bytes | bytearray) -> str:
    """Return a body as text, also one in UTF-16 or UTF-32, so that secrets in it are recognized."""
    return content.decode(json.detect_encoding(content), "replace")


def parse(content: bytes | bytearray) -> tuple[Any, str | None]:
    """Return a JSON body, and what is wrong with it."""
    try:
        return _decode_json(content.decode("utf-8-sig")), None
    except (ValueError, RecursionError):
        return None, "the body is not JSON" if content else "the body is empty"


def envelope_code(body: Any) -> int | None:
    """Return the code of the service's envelope, or None if the body is none."""
    code = body.get("code") if isinstance(body, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def named_session(body: Any) -> str | None:
    """Return the id of the session that a body names, if it is a valid one."""
    data = body.get("data") if isinstance(body, dict) else None
    try:
        return check_session_id(data.get("session_id")) if isinstance(data, dict) else None
    except (TypeError, ValueError):
        return None
