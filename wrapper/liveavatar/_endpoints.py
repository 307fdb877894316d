"""The endpoints: one row each, with everything the client knows about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeGuard, TypeVar

import attrs

from liveavatar_client.models import (
    DeleteEventsResponse,
    KeepAliveResponse,
    LiveAvatarSessionResponse,
    SessionInfoResponse,
    SessionListResponse,
    SessionTokenResponse,
    StopSessionResponse,
    TranscriptResponse,
)

from .errors import (
    ConcurrencyLimitError,
    ConflictError,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    NotFoundError,
)

T = TypeVar("T")

_REFUSED = {400, 401, 402, 403, 404, 422, 429}
_HAS_STARTED = re.compile(
    r"\bstarted\b|(?<!sessions )\b(already|is|was|been) (active|running|live|in progress)\b", re.IGNORECASE
)
_SESSION = re.compile(r"\bsession\b", re.IGNORECASE)
_HAS_ENDED = re.compile(
    r"\b(already|has|been|was|is) (stopped|ended|closed|expired|finished|terminated)\b", re.IGNORECASE
)
_CLAUSE_END = re.compile(r"[.,:;!?]|\b(?:or|but|because)\b", re.IGNORECASE)
_PROVES_NOTHING = re.compile(
    r"\b(no|not|never|cannot|unable|failed|yet|token|connection|start|request)\b|n't\b", re.IGNORECASE
)
_NOT_RUNNING = re.compile(r"\bnot (active|running)\b", re.IGNORECASE)
_NOT_YET = re.compile(r"\byet\b", re.IGNORECASE)


def never_started(error: LiveAvatarError) -> bool:
    """Return whether a failed start certainly started nothing."""
    if isinstance(error, LiveAvatarConnectionError):
        return not error.request_sent
    if not isinstance(error, LiveAvatarApiError):
        return False
    at_limit = isinstance(error, ConcurrencyLimitError) and not _HAS_STARTED.search(error.message)
    return error.status in _REFUSED or (error.status == 409 and at_limit)


def has_ended(error: LiveAvatarError, *, start_known: bool = True) -> bool:
    """Return whether an error response means that the session does not run.

    Args:
        error: The error of a request about the session.
        start_known: Whether the start of the session is known to have been carried out. If not, the request may have
            reached the service before the start, and "not found" or "not running" proves nothing.
    """
    if not isinstance(error, LiveAvatarApiError):
        return False
    names_session = isinstance(error, NotFoundError | ConflictError) and _SESSION.search(error.message)
    if not (error.status in (404, 409) or names_session):  # under a 2xx, the message must name it
        return False
    if _says_ended(error.message) and _is_of_the_service(error):
        return True
    if isinstance(error, NotFoundError):
        is_bare = error.message.lower() == "not found" and not error.response_text.lstrip().startswith("<")
        return start_known and (is_bare or _is_of_the_service(error))
    return start_known and bool(_NOT_RUNNING.search(error.message) and not _NOT_YET.search(error.message))


def _is_of_the_service(error: LiveAvatarApiError) -> bool:
    """Return whether an error is certainly not the page or the text of a proxy, which does not know the session."""
    return error.code is not None or _SESSION.search(error.message) is not None


def _says_ended(message: str) -> bool:
    """Return whether a message says that the session has ended: a clause that says so without a negation."""
    return any(
        _HAS_ENDED.search(clause) and not _PROVES_NOTHING.search(clause) for clause in _CLAUSE_END.split(message)
    )


def is_unknown(error: LiveAvatarError) -> bool:
    """Return whether an error response means that the service does not know the session as a running one."""
    return isinstance(error, NotFoundError) or (
        isinstance(error, ConflictError) and _NOT_RUNNING.search(error.message) is not None
    )


def is_unknown_path(error: LiveAvatarError) -> bool:
    """Return whether an error response means that the service, or a proxy in front of it, has no such endpoint."""
    return isinstance(error, NotFoundError) and (error.code is None or error.message.lower() == "not found")


@attrs.frozen(kw_only=True)
class Endpoint(Generic[T]):
    """One endpoint of the contract."""

    method: str
    path: str
    """Path below the base URL, with placeholders as in the contract."""
    model: type[T] | None
    """The model of a successful response; None if only `data` is returned."""
    body_required: bool = True
    """False if a 2xx status alone is a success, whatever the body."""
    retry_statuses: Callable[[int], bool]
    """Whether a request with this error status is sent again."""
    retry_if_lost: bool
    """Whether a request that may have been carried out is sent again when its response is lost."""
    may_be_running: Callable[[LiveAvatarError], bool] = lambda error: False
    """Whether the session may be running after this error."""
    auth_hint: str = "Check the API key: LIVEAVATAR_API_KEY, or api_key=."
    """What to do about a 401."""

    @property
    def full_path(self) -> str:
        """The path as the service's reference gives it."""
        return f"/v1{self.path}"


def is_error_of(
    error: BaseException, endpoint: Endpoint[Any], session_ids: Collection[str | None]
) -> TypeGuard[LiveAvatarError]:
    """Return whether an error is of a request to this endpoint, about this session.

    A signal handler or a hook of the caller may use a client, and raise the error of another request.
    """
    return (
        isinstance(error, LiveAvatarError) and error.endpoint == endpoint.full_path and error.session_id in session_ids
    )


def _transient(status: int) -> bool:
    return status in (408, 429) or status >= 500


def _transient_or_conflict(status: int) -> bool:
    return status == 409 or _transient(status)


CREATE_TOKEN = Endpoint(
    method="POST",
    path="/sessions/token",
    model=SessionTokenResponse,
    retry_statuses=_transient,
    retry_if_lost=True,
)
# A start that may have been carried out is never sent again: it would open a second session.
START = Endpoint(
    method="POST",
    path="/sessions/start",
    model=LiveAvatarSessionResponse,
    retry_statuses=lambda status: status == 429,
    retry_if_lost=False,
    may_be_running=lambda error: not never_started(error),
    auth_hint="A session token is short-lived and valid for one session: create a new one.",
)
STOP = Endpoint(
    method="POST",
    path="/sessions/stop",
    model=StopSessionResponse,
    body_required=False,
    retry_statuses=_transient_or_conflict,
    retry_if_lost=True,
    may_be_running=lambda error: not has_ended(error),
    auth_hint="The session token has expired, or belongs to another session: stop with the API key, without a token.",
)
KEEP_ALIVE = Endpoint(
    method="POST",
    path="/sessions/keep-alive",
    model=KeepAliveResponse,
    body_required=False,
    retry_statuses=_transient_or_conflict,
    retry_if_lost=True,
    may_be_running=lambda error: not has_ended(error) or is_unknown_path(error),
)
LIST = Endpoint(
    method="GET", path="/sessions", model=SessionListResponse, retry_statuses=_transient, retry_if_lost=True
)
GET = Endpoint(
    method="GET",
    path="/sessions/{session_id}",
    model=SessionInfoResponse,
    retry_statuses=_transient,
    retry_if_lost=True,
)
TRANSCRIPT = Endpoint(
    method="GET",
    path="/sessions/{session_id}/transcript",
    model=TranscriptResponse,
    retry_statuses=_transient,
    retry_if_lost=True,
)
DELETE_EVENTS = Endpoint(
    method="DELETE",
    path="/sessions/{session_id}/events",
    model=DeleteEventsResponse,
    body_required=False,
    retry_statuses=_transient,
    retry_if_lost=True,
)


def custom(method: str, path: str, *, idempotent: bool) -> Endpoint[Any]:
    """Return a row for an endpoint that has no method; it is retried only if that is safe."""
    return Endpoint(
        method=method,
        path=path,
        model=None,
        retry_statuses=_transient if idempotent else lambda status: status == 429,
        retry_if_lost=idempotent,
    )
