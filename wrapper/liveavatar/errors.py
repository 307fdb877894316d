"""Everything this package raises on purpose; one `except LiveAvatarError` covers it all.

LiveAvatarError
├── LiveAvatarApiError            the service answered, and not with success
│   ├── BadRequestError           400
│   ├── AuthenticationError       401
│   ├── InsufficientCreditsError  402, or words that say credits
│   ├── PermissionDeniedError     403
│   ├── ConcurrencyLimitError     403, 409 or 429 whose words say concurrency
│   ├── NotFoundError             404
│   ├── ConflictError             409
│   ├── InvalidRequestError       422
│   ├── RateLimitError            429
│   ├── ServerError               5xx
│   └── BadResponseError          a success status with a body that breaks the contract
├── LiveAvatarConnectionError     no answer
│   └── LiveAvatarTimeoutError    no answer in time
├── SessionTokenNotFoundError     close_session() of a session this client has no token for (a ValueError too)
└── LedgerError                   the ledger could not be opened, read or written

Mistakes in arguments are ValueError or TypeError, raised before anything is sent.
"""

from __future__ import annotations


class LiveAvatarError(Exception):
    """Base of everything this package raises on purpose."""

    endpoint: str | None = None
    """Path of the endpoint that was called, for example `/v1/sessions/start`."""
    attempts: int = 0
    """Requests that were sent, or tried, for this call."""
    session_id: str | None = None
    """The session that the failed call was about, when one is known."""
    session_may_be_running: bool = False
    """True when that session may still run, and cost, at the service."""


class LiveAvatarApiError(LiveAvatarError):
    """The service answered, and not with success.

    `str()` is one line for a person; `.message` holds the service's own words alone.
    """

    code: int | None = None
    """The envelope's code, when the body was an envelope."""
    request_id: str | None = None
    """The id the service or its gateway gave the request: what its support asks for."""
    retry_after: float | None = None
    """Seconds the service asked to wait before another try."""

    def __init__(self, message: str, status: int, response_text: str) -> None:
        """Args: a line for a person; the HTTP status; the body as it came, with secrets masked."""
        super().__init__(message, status, response_text)
        self.message = message
        self.status = status
        self.response_text = response_text

    def __str__(self) -> str:
        return str(self.args[0])


class BadRequestError(LiveAvatarApiError):
    """400: the service cannot use the request."""


class AuthenticationError(LiveAvatarApiError):
    """401: the credential is wrong, expired, or of the wrong kind."""


class InsufficientCreditsError(LiveAvatarApiError):
    """402, or a refusal that names credits: the account cannot pay for a minute."""


class PermissionDeniedError(LiveAvatarApiError):
    """403: the account may not do this."""


class ConcurrencyLimitError(LiveAvatarApiError):
    """403, 409 or 429 that names concurrency: too many sessions run at once."""


class NotFoundError(LiveAvatarApiError):
    """404: the service does not know this avatar or session."""


class ConflictError(LiveAvatarApiError):
    """409: the session is already started, or already stopped."""


class InvalidRequestError(LiveAvatarApiError):
    """422: the request has the wrong shape."""

    errors: tuple[tuple[str, str], ...] = ()
    """(location, message) of each complaint, for example `("body.avatar_id", "Field required")`."""


class RateLimitError(LiveAvatarApiError):
    """429: too many requests; `.retry_after` says how many seconds to wait, when the service does."""


class ServerError(LiveAvatarApiError):
    """5xx: the service, or the gateway in front of it, failed."""


class BadResponseError(LiveAvatarApiError):
    """A success status with a body that is not what the contract says."""


class LiveAvatarConnectionError(LiveAvatarError):
    """The service gave no answer: it was not reached, or the connection broke."""

    request_sent: bool = True
    """False when it is certain that no byte of the request left."""
    certificate_rejected: bool = False
    """True when the service's certificate was not trusted."""


class LiveAvatarTimeoutError(LiveAvatarConnectionError):
    """The service gave no answer within the call's time."""


class SessionTokenNotFoundError(LiveAvatarError, ValueError):
    """This client holds no token for the session: it did not open it, or has closed it already."""


class LedgerError(LiveAvatarError):
    """The ledger could not be opened, read or written."""
