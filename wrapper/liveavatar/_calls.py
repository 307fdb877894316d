"""One call to one endpoint: what goes out, what its answer means, and whether it is sent again. No I/O here."""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Callable, Generator
from types import ModuleType, SimpleNamespace
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

from liveavatar_client.api.sessions import create_session_token, start_session, stop_session
from liveavatar_client.models import LiveAvatarSessionResponse, SessionTokenResponse, StopSessionResponse

from . import _answers, errors
from ._config import Config
from ._secrets import Secret, secrets_in
from ._wire import USER_AGENT, Answer, WireRequest
from .errors import LiveAvatarApiError, LiveAvatarConnectionError, LiveAvatarError

logger = logging.getLogger("liveavatar")

T = TypeVar("T")

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

LONGEST_RETRY_AFTER = 30.0
"""Seconds: a service that asks for more is not waited for."""

_ENDED = re.compile(
    r"\b(already|has|been|was|is) (stopped|ended|closed|expired|finished|terminated)\b|\bnot (active|running)\b",
    re.IGNORECASE,
)


def never_started(error: LiveAvatarError) -> bool:
    """Whether a failed start certainly started nothing."""
    if isinstance(error, LiveAvatarConnectionError):
        return not error.request_sent
    refused = isinstance(error, LiveAvatarApiError) and 400 <= error.status <= 499 and error.status != 408
    return refused and not isinstance(error, errors.ConflictError)


def has_ended(error: LiveAvatarError) -> bool:
    """Whether a refused stop says that the session does not run."""
    conflict = isinstance(error, errors.ConflictError) and _ENDED.search(error.message)
    return isinstance(error, errors.NotFoundError) or bool(conflict)


@attrs.frozen
class Endpoint(Generic[T]):
    """One endpoint of the contract, and what may be sent to it again."""

    name: str
    operation: ModuleType
    """The generated code: what builds its request, and what reads its answer."""
    success: int
    """The status that the contract documents for a success."""
    repeats: Callable[[int], bool]
    """Whether a request that was answered with this error status is sent again."""
    repeats_lost: bool
    """Whether a request that may have arrived is sent again when its answer is lost."""
    harmless: Callable[[LiveAvatarError], bool] = lambda error: True
    """Whether an error leaves no session running."""

    @property
    def path(self) -> str:
        return f"/v1/sessions/{self.name}"


# The whole retry policy. A start that may have arrived is never repeated: it would be a second session.
TOKEN = Endpoint[SessionTokenResponse](
    "token", create_session_token, 200, lambda status: status in (408, 429) or status >= 500, repeats_lost=True
)
START = Endpoint[LiveAvatarSessionResponse](
    "start", start_session, 201, lambda status: status == 429, repeats_lost=False, harmless=never_started
)
STOP = Endpoint[StopSessionResponse](
    "stop",
    stop_session,
    200,
    lambda status: status in (408, 409, 429) or status >= 500,
    repeats_lost=True,
    harmless=has_ended,
)


@attrs.define
class Call:
    """One request to one endpoint, for the client to send; built and read by the endpoint's generated code."""

    endpoint: Endpoint[Any]
    body: Any
    base_url: str
    headers: dict[str, str] = attrs.field(repr=False)
    credentials: tuple[str, ...] = attrs.field(repr=False)
    deadline: float
    urgent: bool
    sent: Any = attrs.field(default=None, init=False, repr=False)
    answer: Answer | None = attrs.field(default=None, init=False)

    def request(self) -> WireRequest:
        """What goes on the wire."""
        built = self.endpoint.operation._get_kwargs(**({} if self.body is None else {"body": self.body}))
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": USER_AGENT}
        headers.update(self.headers)
        content = b""
        if "json" in built:
            self.sent = built["json"]
            headers["content-type"] = "application/json"
            content = _encode(self.sent).encode()
        url = self.base_url + built["url"].removeprefix("/v1")
        return WireRequest(url, headers, content, self.deadline, self.urgent)

    def result(self, answer: Answer) -> Any:
        """What the answer says, in the models of the contract.

        Raises:
            LiveAvatarError: it is no success, or breaks the contract.
        """
        self.answer = answer
        payload = _answers.read(answer, self.endpoint.name, self.secrets)
        # Under the status that the contract documents: any 2xx is as good.
        accepted = SimpleNamespace(status_code=self.endpoint.success, json=lambda: payload)
        try:
            return self.endpoint.operation._parse_response(client=None, response=accepted)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # The contract asks for something that our own checks do not know of.
            what = f"the body breaks the contract at {error}"
            raise _answers.error(answer, self.endpoint.name, self.secrets(), what) from None

    def secrets(self) -> tuple[str, ...]:
        """What must not show in an error, should the service echo it."""
        return (*self.credentials, *secrets_in(self.sent))


@attrs.frozen
class Wait:
    """A pause of so many seconds."""

    seconds: float


@attrs.frozen
class Uninterrupted:
    """A flow that is finished whatever happens to the thread or task that waits for it."""

    flow: Flow[Any]
    apart: bool = False
    """A blocking client, too, performs it where Ctrl-C does not reach."""


Step: TypeAlias = Call | Wait | Uninterrupted
Flow: TypeAlias = Generator[Step, Any, T]
"""Yields steps, gets back what came of each (an exception is raised at the step), and returns the result."""


def call(
    config: Config,
    endpoint: Endpoint[T],
    token: Secret | None,
    deadline: float,
    body: Any = None,
    *,
    session_id: str | None = None,
    max_retries: int | None = None,
    urgent: bool = False,
) -> Flow[T]:
    """Call an endpoint with a session token, or without one with the API key; repeat it as the endpoint allows."""
    credential = (config.api_key if token is None else token).reveal()
    headers = {"X-API-KEY": credential} if token is None else {"Authorization": f"Bearer {credential}"}
    credentials = (credential, config.api_key.reveal())
    retries = config.max_retries if max_retries is None else max_retries
    attempt = 0
    while True:
        attempt += 1
        step = Call(endpoint, body, config.base_url, headers, credentials, deadline, urgent)
        begun = time.monotonic()
        failure: BaseException | None = None
        try:
            parsed: T = yield step
            return parsed
        except LiveAvatarError as error:
            failure = error
            error.endpoint, error.attempts, error.session_id = endpoint.path, attempt, session_id
            error.session_may_be_running = not endpoint.harmless(error)
            pause = _pause(endpoint, error, attempt, retries)
            if pause is None or time.monotonic() + pause >= deadline:
                raise
        except BaseException as error:  # an interruption, or the caller's mistake: nothing was sent
            failure = error
            raise
        finally:
            logger.debug(
                "POST %s: %s, attempt %d, %.0f ms, session %s",
                endpoint.path,
                step.answer.status if step.answer else type(failure).__name__,
                attempt,
                (time.monotonic() - begun) * 1000,
                session_id or "-",
            )
        yield Wait(pause)


def _pause(endpoint: Endpoint[Any], error: LiveAvatarError, attempt: int, retries: int) -> float | None:
    """Seconds to wait before another try; None when there is to be none."""
    if attempt > retries:
        return None
    if isinstance(error, LiveAvatarConnectionError):
        if error.certificate_rejected or (error.request_sent and not endpoint.repeats_lost):
            return None
    elif not isinstance(error, LiveAvatarApiError) or not endpoint.repeats(error.status):
        return None
    elif isinstance(error, errors.ConcurrencyLimitError | errors.InsufficientCreditsError) or (
        endpoint is STOP and has_ended(error)
    ):
        return None  # another try changes nothing
    elif error.retry_after is not None:
        return None if error.retry_after > LONGEST_RETRY_AFTER else error.retry_after + random.uniform(0.01, 0.25)
    return min(8.0, 0.5 * 2.0 ** (attempt - 1)) * random.uniform(0.75, 1.0)
