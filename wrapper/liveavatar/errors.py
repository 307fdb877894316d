"""Exceptions of this package. Every failed call raises a LiveAvatarError.

LiveAvatarError
├── LiveAvatarApiError            the service responded with an error
│   ├── BadRequestError           400
│   │   └── SessionDurationError  400: max_session_duration exceeds the account's limit
│   ├── AuthenticationError       401
│   ├── InsufficientCreditsError  402, or a message about credits
│   ├── PermissionDeniedError     403
│   ├── ConcurrencyLimitError     403, 409 or 429 with a message about the concurrency limit
│   ├── NotFoundError             404
│   ├── ConflictError             409
│   ├── InvalidRequestError       422
│   ├── RateLimitError            429
│   ├── ServerError               5xx
│   └── BadResponseError          a 2xx whose body violates the contract
├── LiveAvatarConnectionError     no response
│   └── LiveAvatarTimeoutError    no response in time
├── SessionTokenNotFoundError     close_session() of a session that this client has no token for (also a ValueError)
└── LedgerError                   the ledger could not be opened, read or written

An invalid argument raises ValueError or TypeError before any request is sent.
"""

from __future__ import annotations

from typing import ClassVar


class LiveAvatarError(Exception):
    """Base class of all exceptions that this package raises on purpose."""

    endpoint: str | None = None
    """Path of the endpoint that was called, for example `/v1/sessions/start`."""
    attempts: int = 0
    """Number of requests that were sent, or tried, for this call."""
    session_id: str | None = None
    """Id of the session that the failed call was about, if one is known."""
    session_may_be_running: bool = False
    """True if that session may still run, and cost credits."""

    _named_session: str | None = None
    """The id in a success response that cannot be returned: a start may have started that session."""


class LiveAvatarApiError(LiveAvatarError):
    """The service responded with an error.

    `str()` is one line for a person. `.message` is the service's own message alone.
    """

    hint: ClassVar[str] = ""
    """What to do about an error of this class; the last part of `str()`."""

    code: int | None = None
    """The envelope's code, if the body was an envelope."""
    request_id: str | None = None
    """The id that the service or its gateway gave the request. The service's support asks for it."""
    retry_after: float | None = None
    """Seconds that the service asks to wait before another attempt."""

    def __init__(self, message: str, status: int, response_text: str) -> None:
        """Create the error.

        Args:
            message: One line for a person.
            status: The HTTP status.
            response_text: The response body, with secrets redacted.
        """
        super().__init__(message, status, response_text)
        self.message = message
        self.status = status
        self.response_text = response_text

    def __str__(self) -> str:
        return str(self.args[0])


class BadRequestError(LiveAvatarApiError):
    """400: the service rejected the request."""


class SessionDurationError(BadRequestError):
    """400: `max_session_duration` exceeds what the account, or a sandbox session, may have."""

    hint = "Set max_session_duration to at most the allowed maximum, or leave it out."

    max_allowed: int | None = None
    """The longest duration allowed, in seconds, if the service says."""


class AuthenticationError(LiveAvatarApiError):
    """401: the credential is wrong, expired, or of the wrong kind."""


class InsufficientCreditsError(LiveAvatarApiError):
    """402, or a message about credits: the account cannot pay for one minute."""

    hint = "Add credits: a session needs enough for one minute to start."


class PermissionDeniedError(LiveAvatarApiError):
    """403: the account may not do this."""

    hint = "Check what the account's plan allows."


class ConcurrencyLimitError(LiveAvatarApiError):
    """403, 409 or 429 with a message about concurrency: too many sessions run at once."""

    hint = "Close a session, or wait until one ends: list_sessions() shows those that count against the limit."


class NotFoundError(LiveAvatarApiError):
    """404: the service does not know this avatar or session."""


class ConflictError(LiveAvatarApiError):
    """409: the session has already started, or has already stopped."""


class InvalidRequestError(LiveAvatarApiError):
    """422: the request has the wrong shape."""

    errors: tuple[tuple[str, str], ...] = ()
    """(location, message) of each violation, for example `("body.avatar_id", "Field required")`."""


class RateLimitError(LiveAvatarApiError):
    """429: too many requests. `.retry_after` is the number of seconds to wait, if the service says."""

    hint = "Send fewer requests at a time, or try again later."


class ServerError(LiveAvatarApiError):
    """5xx: the service, or the gateway in front of it, failed."""

    hint = "The service failed; try again later."


class BadResponseError(LiveAvatarApiError):
    """A 2xx response whose body violates the contract."""


class LiveAvatarConnectionError(LiveAvatarError):
    """There was no response: the service was not reached, or the connection broke."""

    request_sent: bool = True
    """False if it is certain that no byte of the request was sent."""
    certificate_rejected: bool = False
    """True if the service's certificate was not trusted."""


class LiveAvatarTimeoutError(LiveAvatarConnectionError):
    """There was no response within the time of the call."""


class SessionTokenNotFoundError(LiveAvatarError, ValueError):
    """This client has no token for the session: it did not open the session, or has closed it."""


class LedgerError(LiveAvatarError):
    """The ledger could not be opened, read or written."""
