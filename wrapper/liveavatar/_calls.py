"""One call to one endpoint: builds the request, sends it, retries it, and reads the response."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from ._config import Config
from ._constants import MAX_RETRY_AFTER, MAX_RETRY_DELAY, MIN_RETRY_DELAY
from ._endpoints import STOP, Endpoint, has_ended
from ._log import log, logger
from ._redaction import Secret, secrets_in
from ._responses import read
from ._transports._base import Request, Response
from ._version import __version__
from .errors import (
    ConcurrencyLimitError,
    InsufficientCreditsError,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
)

T = TypeVar("T")

Body: TypeAlias = Secret[Any]
"""A JSON body. Its room tokens are not printed."""

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

_HEADERS = (
    ("accept", "application/json"),
    ("accept-encoding", "identity"),
    ("user-agent", f"liveavatar-python/{__version__}"),
)
_HEADERS_WITH_BODY = (*_HEADERS, ("content-type", "application/json"))


class IO(Protocol):
    """The I/O of a client, blocking or async."""

    async def send(self, request: Request) -> Response:
        """Send a request and return its response."""
        raise NotImplementedError

    def is_usable(self) -> bool:
        """Return whether anything can be awaited: False once the event loop has ended."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        raise NotImplementedError

    async def run_all(self, works: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Do all of the work, at the same time where that is possible."""
        raise NotImplementedError

    async def call_ledger(self, function: Callable[[], T], seconds: float | None) -> T:
        """Call a function that uses a ledger, and may block for a while.

        Raises:
            LedgerError: It has taken longer than `seconds`, and goes on in a thread.
        """
        raise NotImplementedError

    async def shield(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do work that a cancellation does not reach."""
        raise NotImplementedError

    async def shield_cleanup(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do work that neither a cancellation nor Ctrl-C reaches."""
        raise NotImplementedError


async def call(
    io: IO,
    config: Config,
    endpoint: Endpoint[T],
    token: Secret[str] | None,
    deadline: float,
    body: Body | None = None,
    *,
    query: Mapping[str, Any] | None = None,
    session_id: str | None = None,
    max_retries: int | None = None,
    is_cleanup: bool = False,
) -> T:
    """Send one request, again where that is safe, until there is a response to return or an error to raise.

    Args:
        io: The client's I/O.
        config: The client's settings.
        endpoint: What to call.
        token: The session token that is the credential; None for the API key.
        deadline: Time on `time.monotonic` at which all attempts must have ended.
        body: The JSON body; None for no body.
        query: Parameters of the query string; those that are None are left out.
        session_id: The session that the call is about, for the path, errors and logs.
        max_retries: How many retries there may be, if not as many as the config says.
        is_cleanup: Whether the call stops a session that may be running unnoticed.

    Raises:
        LiveAvatarError: The call failed. All attributes of the error are set.
        ValueError, TypeError: The body cannot be sent as JSON.
    """
    retries = config.max_retries if max_retries is None else max_retries
    credential = ("X-API-KEY", config.api_key) if token is None else _bearer(token)
    content = Secret(b"" if body is None else _encode(body.reveal()).encode())
    path = endpoint.path if session_id is None else endpoint.path.replace("{session_id}", quote(session_id, ""))
    url = config.base_url + path
    if query and (parameters := {name: value for name, value in query.items() if value is not None}):
        url += f"?{urlencode(parameters, doseq=True)}"
    response_lost = False
    attempt = 0
    while True:
        attempt += 1
        started = time.monotonic()
        request = Request(
            method=endpoint.method,
            url=url,
            headers=_HEADERS if body is None else _HEADERS_WITH_BODY,
            credential=credential,
            content=content,
            deadline=deadline,
            is_cleanup=is_cleanup,
            is_stop=endpoint is STOP,
            new_connection=is_cleanup or response_lost,
            beside_pool=response_lost and endpoint is STOP and (is_cleanup or attempt > retries),
        )
        if endpoint.retry_if_lost and attempt <= retries:  # an equal share for each attempt that is left
            attempts_left = retries + 2 - attempt
            request.reused_deadline = started + (deadline - started) / attempts_left
        outcome: Any = None
        try:
            response = await io.send(request)
            outcome = response.status
            return read(response, endpoint, config.base_url, lambda: _secrets(config, token, body))
        except LiveAvatarError as error:
            outcome = outcome or type(error).__name__
            if error.attempts:
                raise  # another call, made by a signal handler or a hook, has raised it
            error.endpoint, error.attempts, error.session_id = endpoint.full_path, attempt, session_id
            error.session_may_be_running = endpoint.may_be_running(error)
            response_lost = isinstance(error, LiveAvatarConnectionError) and error.request_sent
            delay = _retry_delay(endpoint, error, attempt, retries)
            if delay is None or time.monotonic() + delay >= deadline:
                raise
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            if logger.isEnabledFor(logging.DEBUG):
                _log(endpoint, outcome, attempt, started, session_id)
        await io.sleep(delay)


def _bearer(token: Secret[str]) -> tuple[str, Secret[str]]:
    return "Authorization", Secret(f"Bearer {token.reveal()}")


def _secrets(config: Config, token: Secret[str] | None, body: Body | None) -> list[str]:
    """Return what must not appear in an error, even if the service repeats it."""
    credentials = [config.api_key] if token is None else [config.api_key, token]
    return [*(each.reveal() for each in credentials), *secrets_in(None if body is None else body.reveal())]


def _log(endpoint: Endpoint[Any], outcome: object, attempt: int, started: float, session_id: str | None) -> None:
    milliseconds = (time.monotonic() - started) * 1000
    log(
        logging.DEBUG,
        "%s %s: %s, attempt %d, %.0f ms, session %s",
        endpoint.method,
        endpoint.full_path,
        outcome,
        attempt,
        milliseconds,
        session_id or "-",
        extra={
            "method": endpoint.method,
            "endpoint": endpoint.full_path,
            "outcome": outcome,
            "attempt": attempt,
            "milliseconds": milliseconds,
            "session_id": session_id,
        },
    )


def _retry_delay(endpoint: Endpoint[Any], error: LiveAvatarError, attempt: int, retries: int) -> float | None:
    """Return the seconds to wait before another attempt; None if there must be none."""
    if attempt > retries:
        return None
    if isinstance(error, LiveAvatarConnectionError):
        if error.certificate_rejected or (error.request_sent and not endpoint.retry_if_lost):
            return None
    elif not isinstance(error, LiveAvatarApiError) or not endpoint.retry_statuses(error.status):
        return None
    elif isinstance(error, ConcurrencyLimitError | InsufficientCreditsError) or has_ended(error):
        return None  # another attempt changes nothing
    elif error.retry_after is not None:
        return None if error.retry_after > MAX_RETRY_AFTER else error.retry_after + random.uniform(0.01, 0.25)
    return min(MAX_RETRY_DELAY, MIN_RETRY_DELAY * 2.0 ** (attempt - 1)) * random.uniform(0.75, 1.0)
