"""A bounded model checker of the flows, and their rules one by one: nothing is sent, nothing waits, no clock runs.

A fake IO hands each step of a flow to the test, which decides what comes of it:

    flow("start", lost())            the flow sends a start request; its response is lost
    flow("stop", stopped())          so it sends a stop request, which succeeds

The last tests run every sequence of outcomes up to a length, against a model of the service.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any, TypeVar

import attrs
import pytest
from liveavatar import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ConcurrencyLimitError,
    ConflictError,
    LedgerError,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    LiveAvatarNewSessionRequest,
    LiveAvatarTimeoutError,
    NotFoundError,
    RateLimitError,
    ServerError,
    SessionTokenNotFoundError,
    _calls,
    _cleanup,
    _error_responses,
    _flows,
    _operations,
)
from liveavatar._cleanup import ShutdownSignal
from liveavatar._config import Config
from liveavatar._constants import CLEANUP_RETRY_DELAYS, CLEANUP_TIMEOUT, LEDGER_TIMEOUT
from liveavatar._endpoints import CREATE_TOKEN, START, STOP, Endpoint
from liveavatar._flows import Flows
from liveavatar._redaction import Secret
from liveavatar._transports._base import Request, Response
from liveavatar._version import __version__

from liveavatar_client.models import LiveAvatarSessionResponse, SessionTokenResponse, StopSessionResponse

SESSION = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"
OTHER = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
REQUEST = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a")
TIMEOUT = 60.0


class SignalError(Exception):
    """What a signal handler of the caller raises."""


INTERRUPTIONS = (KeyboardInterrupt, asyncio.CancelledError, SystemExit, SignalError)

E = TypeVar("E", bound=BaseException)
T = TypeVar("T")


# ---- Outcomes of a request ---------------------------------------------------------------------------------


def success(data: object = None, message: str = "", status: int = 200) -> Response:
    """Return a response of success."""
    body = {"code": 1000, "data": data, "message": message}
    return Response(status, {}, bytearray(json.dumps(body).encode()))


def created(session_id: str = SESSION, token: str = "its-token") -> Response:
    """Return the response with a session token."""
    return success({"session_id": session_id, "session_token": token}, "Created")


def started(session_id: str = SESSION) -> Response:
    """Return the response to a start."""
    room = {"session_id": session_id, "livekit_url": "wss://rooms.example.com", "livekit_client_token": "room-token"}
    return success(room, "Started", 201)


def stopped() -> Response:
    """Return the response to a stop."""
    return success(message="Stopped")


def refused(status: int, message: str = "No", **headers: str) -> Response:
    """Return an error response with the service's envelope."""
    envelope = json.dumps({"code": 4000, "data": None, "message": message}).encode()
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, bytearray(envelope))


def lost(cls: type[LiveAvatarConnectionError] = LiveAvatarConnectionError, *, sent: bool = True) -> LiveAvatarError:
    """Return the error for a request without a response; with sent=False, no byte of it was sent."""
    error = cls("the connection broke")
    error.request_sent = sent
    return error


def unusable() -> Response:
    """Return a success without a body."""
    return Response(201, {})


def name(outcome: object) -> str:
    """Return an id for a parametrized outcome."""
    if isinstance(outcome, Response):
        message = json.loads(outcome.content)["message"] if outcome.content else "no body"
        return f"{outcome.status} {message}"
    if isinstance(outcome, LiveAvatarConnectionError):
        return f"{type(outcome).__name__}, {'' if outcome.request_sent else 'not '}sent"
    return repr(outcome)


# ---- The fake I/O ------------------------------------------------------------------------------------------


class Step(Awaitable[Any]):
    """Something that a flow awaits: it is yielded to the driver, which resumes the flow with an outcome."""

    def __await__(self) -> Generator[Step, Any, Any]:
        return (yield self)


@attrs.frozen
class Send(Step):
    """The flow sends a request."""

    request: Request


@attrs.frozen
class Sleep(Step):
    """The flow waits."""

    seconds: float


@attrs.frozen
class Shield(Step):
    """The flow does work that an interruption of its caller does not reach."""

    work: Callable[[], Coroutine[Step, Any, Any]]
    is_cleanup: bool


class FakeIO:
    """An IO that performs nothing: each call becomes a step. A ledger is called, and the time for it is noted."""

    def __init__(self) -> None:
        self.ledger_timeouts: list[float | None] = []

    async def send(self, request: Request) -> Response:
        return await Send(request)  # type: ignore[no-any-return]

    def is_usable(self) -> bool:
        return True

    async def sleep(self, seconds: float) -> None:
        await Sleep(seconds)

    async def run_all(self, works: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        for work in works:
            await work()

    async def call_ledger(self, function: Callable[[], T], seconds: float | None) -> T:
        self.ledger_timeouts.append(seconds)
        return function()

    async def shield(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await Shield(work, is_cleanup=False)  # type: ignore[no-any-return]

    async def shield_cleanup(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await Shield(work, is_cleanup=True)  # type: ignore[no-any-return]


class FakeClock:
    """In place of `time`: moves when a test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class FakeRandom:
    """In place of `random`: a share of 1 gives the largest number, 0 the smallest."""

    share = 1.0

    def uniform(self, low: float, high: float) -> float:
        return low + self.share * (high - low)


class Driver:
    """Runs one flow, step by step.

    `flow(step, outcome)` checks that the flow is at this step, and resumes it with the outcome: a response is
    returned, an exception is raised. `flow.result()` or `flow.error(cls)` is how the flow has ended.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], clock: FakeClock) -> None:
        self.clock = clock
        self.coroutines = [work]
        """The flow, and the shielded work inside it that runs now."""
        self.in_cleanup = False
        """Whether the latest shielded work is a cleanup, which Ctrl-C does not reach either."""
        self.interruption: BaseException | None = None
        """Interrupts the caller of the shielded work: it is raised when the work has ended."""
        self.early_interruptions: list[BaseException] = []
        """Interrupt the caller before the shielded work has begun: they are raised at once."""
        self.step: Send | Sleep | None = None
        self.end: Any = None
        self.resume(None)

    def __call__(self, step: str, outcome: object = None, *, takes: float = 0.0) -> Any:
        """Resume the flow with an outcome; return the request, for a closer look."""
        now = self.step
        assert describe(now) == step
        if isinstance(now, Sleep) and outcome is None:
            takes = now.seconds
        self.clock.now += takes
        self.resume(outcome)
        return now.request if isinstance(now, Send) else None

    def resume(self, outcome: object) -> None:
        """Let the flow run to its next step."""
        while self.coroutines:
            work = self.coroutines[-1]
            try:
                if isinstance(outcome, LiveAvatarError):
                    outcome.attempts = 0  # it is shared by several tests
                step = work.throw(outcome) if isinstance(outcome, BaseException) else work.send(outcome)
            except StopIteration as end:
                outcome = end.value
            except BaseException as error:
                outcome = error
            else:
                if not isinstance(step, Shield):
                    self.step = step
                    return
                self.in_cleanup = step.is_cleanup
                if self.early_interruptions:
                    outcome = self.early_interruptions.pop(0)
                    self.clock.now += 0.2
                else:
                    self.coroutines.append(step.work())
                    outcome = None
                continue
            self.coroutines.pop()
            if self.interruption is not None and self.coroutines:
                outcome, self.interruption = self.interruption, None
        self.step, self.end = None, outcome

    def abandon(self) -> None:
        """Close the flow, as the interpreter does with a coroutine that nothing runs any more."""
        while self.coroutines:
            try:
                self.coroutines.pop().close()
            except BaseException as error:
                raise AssertionError(f"a closed flow raises {error!r}") from None
        self.step = None

    @property
    def request(self) -> Request:
        """The request that the flow sends now."""
        assert isinstance(self.step, Send)
        return self.step.request

    @property
    def is_shielded(self) -> bool:
        """Whether an interruption of the caller does not reach the present step."""
        return len(self.coroutines) > 1

    def result(self) -> Any:
        assert self.step is None, f"the flow goes on: {describe(self.step)}"
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end

    def error(self, cls: type[E]) -> E:
        """Return the exception, of exactly this class, with which the flow has ended."""
        with pytest.raises(cls) as caught:
            self.result()
        assert type(caught.value) is cls
        return caught.value

    def failure(self) -> Any:
        """Return the exception with which the flow has ended."""
        assert self.step is None, f"the flow goes on: {describe(self.step)}"
        assert isinstance(self.end, BaseException)
        return self.end


def describe(step: Send | Sleep | None) -> str:
    """Return a step in words."""
    if step is None:
        return "nothing more"
    if isinstance(step, Sleep):
        return f"sleep {step.seconds:g}"
    endpoint, header = step.request.url.rsplit("/", 1)[-1], step.request.credential[0]
    usual = "X-API-KEY" if endpoint == "token" else "Authorization"
    return endpoint if header == usual else f"{endpoint} with {header}"


def body(request: Request) -> Any:
    """Return the JSON body of a request."""
    return json.loads(request.content.reveal())


def credential(request: Request) -> tuple[str, str]:
    """Return the header that authenticates a request."""
    return request.credential[0], request.credential[1].reveal()


class Harness:
    """A client's flows, with a clock and random numbers that the test controls."""

    def __init__(self, clock: FakeClock, random: FakeRandom, caplog: pytest.LogCaptureFixture) -> None:
        self.clock, self.random, self._caplog = clock, random, caplog
        self.drivers: list[Driver] = []
        self.io = FakeIO()
        self.new_client(2)

    def new_client(self, max_retries: int) -> None:
        """Begin again with a client that retries so many times."""
        self.config = Config(Secret("the-api-key"), "https://service.example/base", TIMEOUT, max_retries)
        self.flows = Flows(self.config, self.io)
        self.sessions = self.flows.sessions

    def run(self, work: Coroutine[Any, Any, Any]) -> Driver:
        self.drivers.append(Driver(work, self.clock))
        return self.drivers[-1]

    def call(self, endpoint: Endpoint[Any], **options: Any) -> Driver:
        """Run a single call to an endpoint."""
        options.setdefault("deadline", self.clock.now + TIMEOUT)
        token = None if endpoint is CREATE_TOKEN else Secret("its-token")
        return self.run(_calls.call(self.io, self.config, endpoint, token, **options))

    def opening(self) -> Driver:
        """Run a new_session that is about to create its token."""
        return self.run(self.flows.new_session(REQUEST))

    def starting(self, token: Response | None = None) -> Driver:
        """Run a new_session that has its token and is about to start."""
        flow = self.opening()
        flow("token", token or created())
        return flow

    def open(self, session_id: str = SESSION, token: str = "its-token") -> Any:
        """Open a session."""
        flow = self.starting(created(session_id, token))
        flow("start", started(session_id))
        return flow.result()

    def close(self, session_id: str = SESSION) -> Driver:
        return self.run(self.flows.close_session(session_id))

    def closing(self) -> Driver:
        """Run a close_session of a session that was opened."""
        self.open()
        return self.close()

    @property
    def ids(self) -> list[str]:
        """The sessions that the client knows."""
        return list(self.sessions.ids)

    @property
    def warnings(self) -> list[str]:
        """The log's messages at WARNING or above."""
        return [each.getMessage() for each in self._caplog.records if each.levelno >= logging.WARNING]

    @property
    def warning_reason(self) -> str:
        """The reason in the only warning, which names the session."""
        (warning,) = self.warnings
        start, reason = warning.split(": ", 1)
        assert start == f"Session {SESSION} may still be running"
        return reason


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Harness]:
    clock, random = FakeClock(), FakeRandom()
    for module in (_calls, _cleanup, _flows, _operations):
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(module, "random", random, raising=False)
    harness = Harness(clock, random, caplog)
    yield harness
    for driver in harness.drivers:
        driver.abandon()  # now, and not when the garbage is collected


# ---- Retries -----------------------------------------------------------------------------------------------

RETRIED = {
    CREATE_TOKEN: {408, 429, *range(500, 600)},
    START: {429},
    STOP: {408, 409, 429, *range(500, 600)},
}
GOOD = {CREATE_TOKEN: created, START: started, STOP: stopped}
NAMES = {CREATE_TOKEN: "token", START: "start", STOP: "stop"}
by_endpoint = pytest.mark.parametrize("endpoint", [CREATE_TOKEN, START, STOP], ids=["token", "start", "stop"])


@by_endpoint
def test_call(harness: Harness, endpoint: Endpoint[Any]) -> None:
    """A request with a good response is sent once, and its response is returned as the endpoint's model."""
    flow = harness.call(endpoint)
    flow(NAMES[endpoint], GOOD[endpoint]())
    assert type(flow.result()) is endpoint.model


@by_endpoint
def test_retry_statuses(harness: Harness, endpoint: Endpoint[Any]) -> None:
    """An error status is retried exactly where that is safe."""
    retried = set()
    for status in range(300, 600):
        flow = harness.call(endpoint)
        flow(NAMES[endpoint], refused(status))
        if flow.step is None:
            assert flow.failure().status == status
        else:
            retried.add(status)
    assert retried == RETRIED[endpoint]


@pytest.mark.parametrize("cls", [LiveAvatarConnectionError, LiveAvatarTimeoutError])
@by_endpoint
def test_retry_not_sent(harness: Harness, endpoint: Endpoint[Any], cls: type[LiveAvatarConnectionError]) -> None:
    """A request that was not sent is sent again."""
    flow = harness.call(endpoint)
    flow(NAMES[endpoint], lost(cls, sent=False))
    flow("sleep 0.5")
    flow(NAMES[endpoint], GOOD[endpoint]())
    assert type(flow.result()) is endpoint.model


@pytest.mark.parametrize("cls", [LiveAvatarConnectionError, LiveAvatarTimeoutError])
@by_endpoint
def test_retry_lost(harness: Harness, endpoint: Endpoint[Any], cls: type[LiveAvatarConnectionError]) -> None:
    """A start whose response is lost is never sent again; the other requests are."""
    flow = harness.call(endpoint)
    flow(NAMES[endpoint], lost(cls))
    assert describe(flow.step) == ("nothing more" if endpoint is START else "sleep 0.5")


@by_endpoint
def test_no_retry_certificate(harness: Harness, endpoint: Endpoint[Any]) -> None:
    """An untrusted certificate is not retried."""
    flow = harness.call(endpoint)
    error = lost(sent=False)
    error.certificate_rejected = True  # type: ignore[attr-defined]
    flow(NAMES[endpoint], error)
    assert flow.error(LiveAvatarConnectionError) is error


@by_endpoint
@pytest.mark.parametrize(
    "outcome",
    [
        refused(429, "Concurrency limit reached"),
        refused(429, "Concurrency limit reached", retry_after="1"),
        refused(409, "Too many concurrent sessions"),
        refused(429, "No credits left"),
        refused(409, "The session has already stopped"),
        LiveAvatarError("another error"),
    ],
    ids=name,
)
def test_no_retry_hopeless(harness: Harness, endpoint: Endpoint[Any], outcome: Any) -> None:
    """An error that another attempt does not change is not retried."""
    flow = harness.call(endpoint)
    flow(NAMES[endpoint], outcome)
    assert flow.failure().attempts == 1


@pytest.mark.parametrize("endpoint", [CREATE_TOKEN, START], ids=["token", "start"])
def test_no_retry_bad_response(harness: Harness, endpoint: Endpoint[Any]) -> None:
    """A success whose body violates the contract is not retried."""
    flow = harness.call(endpoint)
    flow(NAMES[endpoint], unusable())
    assert flow.error(BadResponseError).attempts == 1


def test_max_retries(harness: Harness) -> None:
    """There are as many retries as max_retries says, and the last error is raised."""
    for retries in range(4):
        flow = harness.call(CREATE_TOKEN, max_retries=retries)
        for number in range(retries):
            flow("token", refused(503, f"Error {number}"))
            flow(describe(flow.step))
        flow("token", refused(503, "Error at last"))
        error = flow.error(ServerError)
        assert (error.attempts, error.message) == (retries + 1, "Error at last")


def test_last_error(harness: Harness) -> None:
    """The error of the last attempt is raised, also if it is of another class."""
    flow = harness.call(CREATE_TOKEN)
    flow("token", refused(503))
    flow("sleep 0.5")
    flow("token", refused(400))
    assert flow.error(BadRequestError).attempts == 2


# ---- Delays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "part"), [(0.0, 0.75), (0.5, 0.875), (1.0, 1.0)])
def test_backoff(harness: Harness, share: float, part: float) -> None:
    """The delay doubles up to 8 seconds, less up to a quarter of jitter."""
    harness.random.share = share
    flow = harness.call(CREATE_TOKEN, max_retries=7)
    for seconds in (0.5, 1, 2, 4, 8, 8, 8):
        flow("token", refused(503))
        flow(f"sleep {seconds * part:g}")
    flow("token", created())
    assert flow.result().data.session_id == SESSION


@pytest.mark.parametrize(("share", "more"), [(0.0, 0.01), (1.0, 0.25)])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(harness: Harness, status: int, share: float, more: float) -> None:
    """Retry-After decides the delay, plus a little jitter."""
    harness.random.share = share
    for seconds in (0, 1, 7.5, 30):
        flow = harness.call(CREATE_TOKEN)
        flow("token", refused(status, retry_after=str(seconds)))
        flow(f"sleep {seconds + more:g}")
        flow("token", created())


def test_retry_after_too_long(harness: Harness) -> None:
    """A Retry-After of more than 30 seconds is not waited for."""
    flow = harness.call(CREATE_TOKEN)
    flow("token", refused(429, retry_after="30.001"))
    error = flow.error(RateLimitError)
    assert (error.retry_after, error.attempts) == (30.001, 1)


def test_retry_after_invalid(harness: Harness) -> None:
    """An invalid Retry-After counts as absent."""
    flow = harness.call(CREATE_TOKEN)
    flow("token", refused(429, retry_after="soon"))
    flow("sleep 0.5")


def test_delay_ends_before_deadline(harness: Harness) -> None:
    """There is no delay that reaches the call's deadline: the error is raised at once."""
    in_time = harness.call(CREATE_TOKEN, deadline=harness.clock.now + 0.501)
    in_time("token", refused(503))
    in_time("sleep 0.5")
    for left in (0.5, 0.1, -1.0):
        late = harness.call(CREATE_TOKEN, deadline=harness.clock.now + left)
        late("token", refused(503))
        assert late.error(ServerError).attempts == 1


# ---- Errors of a call --------------------------------------------------------------------------------------


@by_endpoint
def test_error_attributes(harness: Harness, endpoint: Endpoint[Any]) -> None:
    """An error has the endpoint, the number of attempts and the session."""
    flow = harness.call(endpoint, session_id=SESSION)
    flow(NAMES[endpoint], refused(429))
    flow("sleep 0.5")
    flow(NAMES[endpoint], refused(400))
    error = flow.error(BadRequestError)
    assert (error.endpoint, error.attempts, error.session_id) == (f"/v1/sessions/{NAMES[endpoint]}", 2, SESSION)


def test_error_names_base_url(harness: Harness) -> None:
    """The error of a wrong base URL has the URL in its hint."""
    flow = harness.call(CREATE_TOKEN)
    flow("token", Response(404, {}))
    assert flow.error(NotFoundError).args[0].endswith("Is base_url right? It is https://service.example/base")


@pytest.mark.parametrize("outcome", [refused(500), refused(409), lost(), unusable()], ids=name)
def test_token_runs_nothing(harness: Harness, outcome: Any) -> None:
    """No session runs after a failed creation of a token."""
    flow = harness.call(CREATE_TOKEN, max_retries=0)
    flow("token", outcome)
    assert flow.failure().session_may_be_running is False


def by_outcome(outcomes: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("outcome", outcomes, ids=name)


# Certainly nothing was started: no byte was sent, or the service refused in a documented way.
NEVER_STARTED = [
    *(refused(status) for status in (400, 401, 402, 403, 404, 422, 429)),
    refused(400, "Not enough credits"),
    refused(409, "Too many concurrent sessions"),
    refused(409, "Concurrency limit reached: you have 2 concurrent sessions running"),
    refused(409, "Concurrency limit: 2 sessions active"),
    lost(sent=False),
    lost(LiveAvatarTimeoutError, sent=False),
]
MAY_HAVE_STARTED = [
    *(refused(status) for status in (301, 304, 399, 405, 408, 409, 410, 413, 418, 421, 425, 431, 451, 499)),
    *(refused(status) for status in (500, 502, 503, 504, 520, 599)),
    refused(409, "Session has already started"),
    refused(409, "Concurrent request: the session is already running"),
    refused(409, "No credits left"),
    refused(413, "Concurrency limit reached"),
    refused(499, "No credits left"),
    success(None, "Concurrency limit reached"),
    Response(200, {}, bytearray(b'{"code": 4001, "data": null, "message": "Concurrency limit reached"}')),
    lost(),
    lost(LiveAvatarTimeoutError),
    unusable(),
    LiveAvatarError("another error"),
]


@by_outcome(NEVER_STARTED)
def test_start_refused(harness: Harness, outcome: Any) -> None:
    """After a documented refusal, or a start that was not sent, nothing runs."""
    flow = harness.call(START, max_retries=0)
    flow("start", outcome)
    assert flow.failure().session_may_be_running is False


@by_outcome(MAY_HAVE_STARTED)
def test_start_unknown(harness: Harness, outcome: Any) -> None:
    """After any other failure of a start, the session may run."""
    flow = harness.call(START, max_retries=0)
    flow("start", outcome)
    assert flow.failure().session_may_be_running is True


ALREADY_ENDED = [
    refused(status, message)
    for status in (404, 409)
    for message in (
        "The session has already stopped.",
        "The session is already ended.",
        "The session was closed.",
        "The session has expired.",
        "The session is FINISHED.",
        "The session is ended.",
        "Already stopped",
    )
]
"""The service says that the session has run and has ended."""
UNKNOWN = [refused(404), refused(409, "The session is NOT ACTIVE"), refused(409, "Session is not running")]
"""The service does not know the session as a running one: it has ended, or is not started yet."""
NOT_ENDED = [
    refused(400),
    refused(401),
    refused(409),
    refused(409, "It is being stopped"),
    refused(409, "This closed nothing"),
    refused(409, "Cannot active sessions wait?"),
    refused(400, "The session has ended"),
    refused(500, "The session has ended"),
    lost(),
    lost(sent=False),
]


@pytest.mark.parametrize(
    ("outcomes", "running"), [(ALREADY_ENDED + UNKNOWN, False), (NOT_ENDED, True)], ids=["ended", "not ended"]
)
def test_stop_refused(harness: Harness, outcomes: list[Any], running: bool) -> None:
    """A stop that is refused because the session has ended leaves nothing running; any other failure may."""
    for outcome in outcomes:
        flow = harness.call(STOP, max_retries=0)
        flow("stop", outcome)
        assert flow.failure().session_may_be_running is running, name(outcome)


@pytest.mark.parametrize("cls", [KeyError, TypeError, ValueError, AttributeError, OSError, SignalError])
@by_endpoint
def test_foreign_exception(harness: Harness, endpoint: Endpoint[Any], cls: type[Exception]) -> None:
    """An exception that is not ours is raised as it is, and not retried."""
    flow = harness.call(endpoint)
    error = cls("x")
    flow(NAMES[endpoint], error)
    assert flow.error(cls) is error


@pytest.mark.parametrize("cls", INTERRUPTIONS)
@by_endpoint
def test_interrupted_call(harness: Harness, endpoint: Endpoint[Any], cls: type[BaseException]) -> None:
    """An interruption of a request or of a delay ends the call."""
    first = harness.call(endpoint)
    first(NAMES[endpoint], cls())
    first.error(cls)
    waiting = harness.call(endpoint)
    waiting(NAMES[endpoint], refused(429))
    waiting("sleep 0.5", cls())
    waiting.error(cls)


def test_echoed_secrets(harness: Harness) -> None:
    """The secrets of a request do not appear in an error if the service repeats them."""
    request = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a")
    request["room"] = {"livekit_client_token": "room-token"}
    flow = harness.run(harness.flows.create_session_token(request))
    flow("token", refused(400, "Not: the-api-key, room-token"))
    assert flow.error(BadRequestError).message == "Not: ***, ***"
    flow = harness.run(harness.flows.start_session(Secret("its-token")))
    flow("start", refused(400, "Not: the-api-key, its-token"))
    assert flow.error(BadRequestError).message == "Not: ***, ***"


def test_log(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """The log has one DEBUG line for each request, with its parts as attributes of the record."""
    caplog.set_level(logging.DEBUG, "liveavatar")
    flow = harness.call(STOP, session_id=SESSION)
    flow("stop", lost(LiveAvatarTimeoutError), takes=1.5)
    flow("sleep 0.5")
    flow("stop", refused(503), takes=0.25)
    flow("sleep 1")
    flow("stop", KeyboardInterrupt())
    flow = harness.call(CREATE_TOKEN)
    flow("token", ValueError())
    flow = harness.call(CREATE_TOKEN)
    flow("token", created())
    lines = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert lines == [
        ("DEBUG", f"POST /v1/sessions/stop: LiveAvatarTimeoutError, attempt 1, 1500 ms, session {SESSION}"),
        ("DEBUG", f"POST /v1/sessions/stop: 503, attempt 2, 250 ms, session {SESSION}"),
        ("DEBUG", f"POST /v1/sessions/stop: KeyboardInterrupt, attempt 3, 0 ms, session {SESSION}"),
        ("DEBUG", "POST /v1/sessions/token: ValueError, attempt 1, 0 ms, session -"),
        ("DEBUG", "POST /v1/sessions/token: 200, attempt 1, 0 ms, session -"),
    ]
    parts = ("method", "endpoint", "outcome", "attempt", "milliseconds", "session_id")
    found = [getattr(caplog.records[1], part) for part in parts]
    assert found == ["POST", "/v1/sessions/stop", 503, 2, 250.0, SESSION]


# ---- The request of a call ---------------------------------------------------------------------------------


def test_credential(harness: Harness) -> None:
    """The credential is the API key or the session's token, never both."""
    assert credential(harness.call(CREATE_TOKEN).request) == ("X-API-KEY", "the-api-key")
    assert credential(harness.call(START).request) == ("Authorization", "Bearer its-token")


def test_request(harness: Harness) -> None:
    """A request goes to the base URL, as compact JSON, with the call's deadline."""
    content = Secret({"word": "ü", "n": 1, "session_id": SESSION})
    request = harness.call(STOP, deadline=harness.clock.now + 7, body=content).request
    assert (request.method, request.url) == ("POST", "https://service.example/base/sessions/stop")
    assert request.content.reveal() == f'{{"word":"\\u00fc","n":1,"session_id":"{SESSION}"}}'.encode()
    assert dict(request.header_items()) == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": f"liveavatar-python/{__version__}",
        "content-type": "application/json",
        "Authorization": "Bearer its-token",
    }
    assert request.deadline == harness.clock.now + 7


def test_request_without_body(harness: Harness) -> None:
    """A call without a body sends none, and no content type."""
    request = harness.call(START).request
    assert request.url == "https://service.example/base/sessions/start"
    assert request.content.reveal() == b""
    assert "content-type" not in dict(request.headers)


def test_request_path_and_query(harness: Harness) -> None:
    """Placeholders of the path and parameters of the query are quoted, and parameters that are None left out."""
    endpoint = Endpoint(
        method="GET", path="/x/{session_id}/y", model=None, retry_statuses=lambda status: False, retry_if_lost=True
    )
    flow = harness.call(endpoint, session_id="a/b c?", query={"page": 2, "text": "é&", "size": None, "by": ["a", "b"]})
    assert flow.request.method == "GET"
    assert flow.request.url == "https://service.example/base/x/a%2Fb%20c%3F/y?page=2&text=%C3%A9%26&by=a&by=b"
    flow.resume(success([1, 2]))
    assert flow.result() == [1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_request_not_json(harness: Harness, value: float) -> None:
    """A number that JSON does not have is not sent."""
    with pytest.raises(ValueError, match="JSON"):
        harness.call(STOP, body=Secret({"n": value})).result()


def flags(request: Request) -> tuple[bool, bool, bool]:
    return request.is_cleanup, request.new_connection, request.beside_pool


@by_endpoint
def test_flags_of_first_attempt(harness: Harness, endpoint: Endpoint[Any]) -> None:
    """An ordinary request may use an idle connection, and only the caller's pool."""
    request = harness.call(endpoint).request
    assert flags(request) == (False, False, False)
    assert request.is_stop is (endpoint is STOP)  # only a stop has a connection once the caller's pool is closed


def test_new_connection(harness: Harness) -> None:
    """A request is sent on a new connection after an attempt whose response was lost, and only then."""
    flow = harness.call(CREATE_TOKEN, max_retries=4)
    for outcome, expected in (
        (lost(), False),
        (refused(503), True),
        (lost(sent=False), False),
        (lost(LiveAvatarTimeoutError), False),
        (created(), True),
    ):
        assert flow("token", outcome).new_connection is expected
        if flow.step is not None:
            flow(describe(flow.step))
    assert flow.result().data.session_id == SESSION


def test_last_resort(harness: Harness) -> None:
    """The last attempt of a stop whose response was lost may use a connection beside the caller's pool."""
    flow = harness.call(STOP)
    assert flags(flow("stop", lost())) == (False, False, False)
    flow("sleep 0.5")
    assert flags(flow("stop", lost())) == (False, True, False)
    flow("sleep 1")
    assert flags(flow("stop", lost())) == (False, True, True)
    flow.error(LiveAvatarConnectionError)


def test_no_last_resort(harness: Harness) -> None:
    """Neither another endpoint nor a stop that got a response has a last resort."""
    token = harness.call(CREATE_TOKEN, max_retries=1)
    token("token", lost())
    token("sleep 0.5")
    assert token("token", lost()).beside_pool is False
    stop = harness.call(STOP, max_retries=1)
    stop("stop", refused(503))
    stop("sleep 0.5")
    assert stop("stop", refused(503)).beside_pool is False


def test_cleanup_flags(harness: Harness) -> None:
    """A cleanup is always sent on a new connection, and has its last resort from the second attempt on."""
    flow = harness.call(STOP, is_cleanup=True)
    assert flags(flow("stop", lost())) == (True, True, False)
    flow("sleep 0.5")
    assert flags(flow("stop", refused(503))) == (True, True, True)
    flow("sleep 1")
    assert flags(flow("stop", stopped())) == (True, True, False)


@pytest.mark.parametrize("endpoint", [CREATE_TOKEN, STOP], ids=["token", "stop"])
def test_reused_deadline(harness: Harness, endpoint: Endpoint[Any]) -> None:
    """An attempt on a reused connection has a share of the time left; the last attempt has all of it."""
    flow = harness.call(endpoint, deadline=harness.clock.now + 60)
    assert flow(NAMES[endpoint], lost(), takes=20).reused_deadline == 1000 + 60 / 3
    flow("sleep 0.5")
    assert flow(NAMES[endpoint], lost(), takes=19.75).reused_deadline == 1020.5 + 39.5 / 2
    flow("sleep 1")
    last = flow(NAMES[endpoint], GOOD[endpoint]())
    assert (last.reused_deadline, last.deadline) == (math.inf, 1060)


def test_reused_deadline_of_start(harness: Harness) -> None:
    """A start is not repeated when its response is lost, so it has all the time."""
    assert harness.call(START).request.reused_deadline == math.inf


# ---- One endpoint each -------------------------------------------------------------------------------------


def test_create_session_token(harness: Harness) -> None:
    """A token is created with the API key, and opens nothing."""
    flow = harness.run(harness.flows.create_session_token(REQUEST))
    request = flow("token", created())
    assert body(request)["avatar_id"] == REQUEST.avatar_id
    assert request.deadline == 1000 + TIMEOUT
    assert type(flow.result()) is SessionTokenResponse
    assert harness.ids == []


@pytest.mark.parametrize("outcome", [refused(429, retry_after="1"), refused(503), lost(), lost(sent=False)], ids=name)
def test_start_session_failed(harness: Harness, outcome: Any) -> None:
    """start_session sends one request, and stops nothing."""
    flow = harness.run(harness.flows.start_session(Secret("its-token")))
    request = flow("start", outcome)
    assert request.deadline == 1000 + TIMEOUT
    assert flow.failure().attempts == 1
    assert harness.ids == []


def test_start_session(harness: Harness) -> None:
    """start_session returns the service's response."""
    flow = harness.run(harness.flows.start_session(Secret("its-token")))
    flow("start", started())
    assert type(flow.result()) is LiveAvatarSessionResponse
    assert flow.result().data.session_id == SESSION


def test_stop_session(harness: Harness) -> None:
    """stop_session reports what the service says."""
    flow = harness.run(harness.flows.stop_session(SESSION, Secret("its-token"), None))
    request = flow("stop", refused(404))
    assert request.deadline == 1000 + TIMEOUT
    assert request.is_cleanup is False
    assert body(request) == {"session_id": SESSION}
    assert flow.error(NotFoundError).session_id == SESSION
    flow = harness.run(harness.flows.stop_session(SESSION, None, "USER_CLOSED"))
    assert body(flow("stop with X-API-KEY", stopped())) == {"session_id": SESSION, "reason": "USER_CLOSED"}
    assert type(flow.result()) is StopSessionResponse
    assert flow.result().message == "Stopped"


def test_invalid_arguments(harness: Harness) -> None:
    """An invalid argument is an error before anything is sent."""
    flows = harness.flows
    for work in (
        flows.create_session_token({"avatar_id": "x"}),
        flows.new_session({"avatar_id": "x"}),
        flows.stop_session(7, None, None),  # type: ignore[arg-type]
        flows.close_session(7),  # type: ignore[arg-type]
    ):
        harness.run(work).error(TypeError)
    for work in (
        flows.stop_session("", None, None),
        flows.stop_session(" ", None, None),
        flows.stop_session(None, None, None),  # type: ignore[arg-type]
        flows.stop_session(SESSION, None, "BORED"),
    ):
        harness.run(work).error(ValueError)
    assert harness.ids == []
    harness.open()
    harness.run(flows.close_session(SESSION, "BORED")).error(ValueError)
    assert harness.ids == [SESSION]


# ---- Opening a session -------------------------------------------------------------------------------------


def test_new_session(harness: Harness) -> None:
    """A new session is a token and a start within one deadline."""
    flow = harness.opening()
    first = flow("token", created(), takes=20)
    second = flow("start", started(), takes=20)
    session = flow.result()
    assert (session.session_id, session.access_token) == (SESSION, "room-token")
    assert session.raw_response.message == "Started"
    assert first.deadline == second.deadline == 1000 + TIMEOUT
    assert body(first)["avatar_id"] == REQUEST.avatar_id
    assert second.content.reveal() == b""
    assert flags(first) == flags(second) == (False, False, False)
    assert harness.ids == [SESSION]
    assert harness.sessions.latest_token == "its-token"


def test_recovery_before_start(harness: Harness) -> None:
    """The first recovery may free the slot that a session needs, so it is waited for, within the call's deadline."""
    deadlines = []

    class Recovery:
        async def wait_for_first(self, deadline: float) -> None:
            deadlines.append(deadline)

    harness.flows.recovery = Recovery()
    flow = harness.opening()
    assert deadlines == []
    flow("token", created(), takes=20)
    assert deadlines == [flow.request.deadline] == [1000 + TIMEOUT]


def test_tracked_before_start(harness: Harness) -> None:
    """A session is tracked before its start is sent, and counts as opened after it."""
    flow = harness.opening()
    assert harness.ids == []
    flow("token", created())
    assert harness.ids == [SESSION]
    assert harness.sessions.latest_token is None
    flow("start", started())
    assert harness.sessions.latest_token == "its-token"


@pytest.mark.parametrize("outcome", [refused(401), lost(), unusable(), KeyboardInterrupt(), SignalError()], ids=name)
def test_token_failed(harness: Harness, outcome: Any) -> None:
    """Without a token there is nothing to stop."""
    harness.new_client(0)
    flow = harness.opening()
    flow("token", outcome)
    assert flow.step is None
    if isinstance(outcome, BaseException):
        assert flow.failure() is outcome
    else:
        assert isinstance(flow.failure(), LiveAvatarApiError)
    assert harness.ids == []
    assert harness.warnings == []


@by_outcome(NEVER_STARTED)
def test_new_session_refused(harness: Harness, outcome: Any) -> None:
    """A session that never started is not stopped."""
    harness.new_client(0)
    flow = harness.starting()
    flow("start", outcome)
    error = flow.failure()
    assert isinstance(error, LiveAvatarError)
    assert (error.session_may_be_running, error.session_id) == (False, SESSION)
    assert harness.ids == []
    assert harness.warnings == []
    harness.close().error(SessionTokenNotFoundError)


@by_outcome(MAY_HAVE_STARTED)
def test_new_session_undone(harness: Harness, outcome: Any) -> None:
    """A session that may have started is stopped before the error is raised."""
    harness.new_client(0)
    flow = harness.starting()
    flow("start", outcome, takes=20)
    assert flow.is_shielded
    assert flow.in_cleanup
    assert harness.ids == [SESSION]
    request = flow("stop", stopped())
    assert flags(request) == (True, True, False)
    assert request.deadline == 1020 + CLEANUP_TIMEOUT
    assert body(request) == {"session_id": SESSION}
    error = flow.failure()
    assert isinstance(error, LiveAvatarError)
    assert error.session_may_be_running is False
    assert error.endpoint == "/v1/sessions/start"
    assert not hasattr(error, "__notes__")
    assert harness.ids == []
    assert harness.warnings == []


@pytest.mark.parametrize("cls", INTERRUPTIONS)
def test_new_session_interrupted(harness: Harness, cls: type[BaseException]) -> None:
    """A session whose start is interrupted is stopped before the interruption is raised."""
    flow = harness.starting()
    interruption = cls()
    flow("start", interruption)
    assert flow.in_cleanup
    flow("stop", stopped())
    assert flow.error(cls) is interruption
    assert (interruption.session_may_be_running, interruption.session_id) == (  # type: ignore[attr-defined]
        False,
        SESSION,
    )
    assert harness.ids == []
    assert harness.warnings == []


@attrs.frozen
class FrozenError(Exception):
    """What a signal handler may raise, too: it takes no attributes."""


def test_interrupted_by_a_frozen_exception(harness: Harness) -> None:
    """An interruption that takes no attributes is raised as it is."""
    flow = harness.starting()
    interruption = FrozenError()
    flow("start", interruption)
    flow("stop", stopped())
    assert flow.error(FrozenError) is interruption
    assert harness.ids == []


def test_interrupted_between_starts(harness: Harness) -> None:
    """An interruption of the delay between two starts stops the session too."""
    flow = harness.starting()
    flow("start", refused(429))
    flow("sleep 0.5", KeyboardInterrupt())
    flow("stop", stopped())
    flow.error(KeyboardInterrupt)


def test_unreturnable_session(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that cannot be returned to the caller is stopped, whatever the reason."""
    mistake = AttributeError("no such field")

    def raise_mistake(*args: Any) -> Any:
        raise mistake

    monkeypatch.setattr(_flows.StandardSessionResponse, "from_response", raise_mistake)
    flow = harness.starting()
    flow("start", started())
    flow("stop", stopped())
    assert flow.error(AttributeError) is mistake
    assert harness.ids == []


FATE_UNKNOWN = [
    *(refused(status) for status in (301, 408, 409, 413, 425, 499, 500, 502, 504, 520)),
    lost(),
    lost(LiveAvatarTimeoutError),
    unusable(),
    Response(201, {}, bytearray(b'{"code": 5003, "data": null, "message": "No avatar is free"}')),
    KeyboardInterrupt(),
    SignalError(),
]
"""Failures of a start after which the service may not have carried it out yet."""


@by_outcome(FATE_UNKNOWN)
@pytest.mark.parametrize("unknown", UNKNOWN, ids=name)
def test_stop_before_start(harness: Harness, outcome: Any, unknown: Response) -> None:
    """A stop may arrive before its start, so "not found" and "not running" are asked again until the time is over."""
    harness.new_client(0)
    flow = harness.starting()
    flow("start", outcome)
    for delay in (*CLEANUP_RETRY_DELAYS, CLEANUP_RETRY_DELAYS[-1]):
        flow("stop", unknown)
        flow(f"sleep {delay:g}")
        assert harness.ids == [SESSION]
        if harness.clock.now + CLEANUP_RETRY_DELAYS[-1] >= 1000 + CLEANUP_TIMEOUT:
            break
    flow("stop", unknown)
    error = flow.failure()
    assert error.session_may_be_running is True
    assert SESSION in error.__notes__[-1]
    assert harness.ids == [SESSION]
    assert len(harness.warnings) == 1


@by_outcome(ALREADY_ENDED)
def test_stop_after_end(harness: Harness, outcome: Response) -> None:
    """That the session has already ended proves that it does not run, also if the start's fate is unknown."""
    flow = harness.starting()
    flow("start", lost())
    flow("stop", outcome)
    assert flow.error(LiveAvatarConnectionError).session_may_be_running is False
    assert harness.ids == []


def test_stop_overtook_start(harness: Harness) -> None:
    """A start that was overtaken by its stop is stopped by the next one."""
    flow = harness.starting()
    flow("start", refused(504))
    flow("stop", refused(404))
    flow("sleep 0.25")
    flow("stop", stopped())
    assert flow.error(ServerError).session_may_be_running is False
    assert harness.ids == []


@by_outcome(UNKNOWN)
def test_start_known(harness: Harness, outcome: Response, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's "not found" is believed at once if the start is known to have been carried out."""
    monkeypatch.setattr(_flows.StandardSessionResponse, "from_response", lambda *args: 1 / 0)
    harness.new_client(0)
    flow = harness.starting()
    flow("start", started())
    flow("stop", outcome)
    assert flow.error(ZeroDivisionError).session_may_be_running is False  # type: ignore[attr-defined]
    assert harness.ids == []


def test_cleanup_delay_in_time(harness: Harness) -> None:
    """There is no delay that reaches the end of the cleanup's time."""
    flow = harness.starting()
    flow("start", lost())
    flow("stop", refused(404), takes=CLEANUP_TIMEOUT - 0.25)
    assert flow.error(LiveAvatarConnectionError).session_may_be_running is True
    harness.new_client(2)
    flow = harness.starting()
    flow("start", lost())
    flow("stop", refused(404), takes=CLEANUP_TIMEOUT - 0.26)
    flow("sleep 0.25")


def test_cleanup_failed(harness: Harness) -> None:
    """If the stop fails too, the session stays tracked, and the error, a note and the log say so."""
    flow = harness.starting()
    flow("start", lost())
    for delay in (0.5, 1):
        flow("stop", refused(503, "Closed for today"))
        flow(f"sleep {delay}")
    flow("stop", refused(503, "Closed for today"))
    error = flow.error(LiveAvatarConnectionError)
    assert (error.session_may_be_running, error.session_id) == (True, SESSION)
    (note,) = error.__notes__
    assert re.fullmatch(
        rf"Session {SESSION} may still be running, because its stop failed too: 503 \(code 4000\) Closed for today.*"
        r"\. close_session\(\) tries again\.",
        note,
    )
    assert harness.ids == [SESSION]
    assert harness.warning_reason == f"503 (code 4000) Closed for today. {ServerError.hint}"

    flow = harness.close()
    flow("stop", stopped())
    assert flow.result().message == "Stopped"


@pytest.mark.parametrize("cls", INTERRUPTIONS)
def test_interrupted_cleanup(harness: Harness, cls: type[BaseException]) -> None:
    """An interruption waits for the cleanup, and is then raised in place of the error."""
    flow = harness.starting()
    flow("start", lost())
    flow.interruption = cls()
    flow("stop", stopped())
    assert flow.error(cls).session_may_be_running is False  # type: ignore[attr-defined]
    assert harness.ids == []
    assert harness.warnings == []


def test_interrupted_failing_cleanup(harness: Harness) -> None:
    """An interruption of a cleanup that fails says that the session may run."""
    harness.new_client(0)
    flow = harness.starting()
    flow("start", lost())
    flow.interruption = KeyboardInterrupt()
    flow("stop", refused(503))
    error = flow.error(KeyboardInterrupt)
    assert error.session_may_be_running is True  # type: ignore[attr-defined]
    assert error.__notes__ == [f"Session {SESSION} may still be running. close_session() tries again."]
    assert harness.ids == [SESSION]


def test_cleanup_interrupted_then_failed(harness: Harness) -> None:
    """An interruption that reaches the stop itself is raised although the next stop fails."""
    harness.new_client(0)
    flow = harness.starting()
    flow("start", lost())
    flow("stop", KeyboardInterrupt())
    flow("stop", refused(503))
    assert flow.error(KeyboardInterrupt).session_may_be_running is True  # type: ignore[attr-defined]
    assert harness.ids == [SESSION]


@pytest.mark.parametrize("cls", INTERRUPTIONS)
def test_interruption_in_cleanup(harness: Harness, cls: type[BaseException]) -> None:
    """An interruption that reaches the stop itself, as in a thread without a shield, does not prevent it."""
    flow = harness.starting()
    flow("start", lost())
    flow("stop", cls(), takes=1)
    request = flow("stop", stopped())
    assert request.deadline == 1000 + CLEANUP_TIMEOUT
    assert flow.error(cls).session_may_be_running is False  # type: ignore[attr-defined]
    assert harness.ids == []


def test_interrupted_before_cleanup(harness: Harness) -> None:
    """Interruptions before the cleanup has begun do not skip it; the latest is raised."""
    flow = harness.starting()
    last = SystemExit()
    flow.early_interruptions = [KeyboardInterrupt(), SignalError(), last]
    flow("start", lost())
    flow("sleep 0.5")
    flow("stop", stopped())
    assert flow.error(SystemExit) is last
    assert last.session_may_be_running is False  # type: ignore[attr-defined]
    assert harness.ids == []
    assert harness.warnings == []


def test_interruptions_before_cleanup_until_timeout(harness: Harness) -> None:
    """Interruptions without end are given up when the cleanup's time is over, and the last one says so."""
    flow = harness.starting()
    interruptions = [KeyboardInterrupt() for _ in range(50)]
    flow.early_interruptions = [*interruptions]
    flow("start", lost())
    error = flow.error(KeyboardInterrupt)
    assert error in interruptions
    assert error.session_may_be_running is True  # type: ignore[attr-defined]
    assert CLEANUP_TIMEOUT <= harness.clock.now - 1000 <= 2 * CLEANUP_TIMEOUT
    assert harness.ids == [SESSION]
    assert harness.warning_reason == "KeyboardInterrupt"


def test_abandoned_start(harness: Harness) -> None:
    """A new_session whose event loop is gone sends nothing more, but warns."""
    flow = harness.starting()
    flow.abandon()
    assert harness.warning_reason == "GeneratorExit"
    assert harness.ids == [SESSION]


def test_abandoned_cleanup(harness: Harness) -> None:
    """A cleanup whose event loop is gone warns, and keeps the session tracked."""
    flow = harness.starting()
    flow("start", lost())
    flow.abandon()
    assert harness.warning_reason == "GeneratorExit"
    assert harness.ids == [SESSION]


def test_session_id_of_start(harness: Harness) -> None:
    """A session has the id that the response to its start gives."""
    flow = harness.starting()
    flow("start", started(OTHER))
    assert harness.ids == [OTHER]
    harness.close().error(SessionTokenNotFoundError)
    flow = harness.close(OTHER)
    request = flow("stop with X-API-KEY", stopped())
    assert body(request) == {"session_id": OTHER}


def test_session_id_of_other_session(harness: Harness) -> None:
    """A response with the id of another open session changes no id."""
    harness.open()
    flow = harness.starting(created(OTHER, "other-token"))
    flow("start", started(SESSION))
    assert flow.result().session_id == OTHER
    assert harness.ids == [SESSION, OTHER]
    for session_id, token in ((SESSION, "its-token"), (OTHER, "other-token")):
        flow = harness.close(session_id)
        request = flow("stop", stopped())
        assert body(request) == {"session_id": session_id}
        assert credential(request) == ("Authorization", f"Bearer {token}")


# ---- The ledger --------------------------------------------------------------------------------------------


class FakeLedger:
    """In place of a ledger: notes what is written down and removed, or cannot be used, or is interrupted once."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.is_broken = False
        self.interruption: BaseException | None = None

    def add(self, session_id: str) -> None:
        self._change("add", session_id)

    def remove(self, session_id: str) -> None:
        self._change("remove", session_id)

    def _change(self, kind: str, session_id: str) -> None:
        if self.is_broken:
            raise LedgerError("The ledger cannot be used.")
        self.changes.append((kind, session_id))
        if self.interruption is not None:
            interruption, self.interruption = self.interruption, None
            raise interruption


@pytest.fixture
def ledger(harness: Harness) -> FakeLedger:
    """Give the client a ledger."""
    fake = FakeLedger()
    harness.sessions.ledger = fake  # type: ignore[assignment]
    return fake


def test_ledger(harness: Harness, ledger: FakeLedger) -> None:
    """A session is written down before its start is sent, and removed when its stop is confirmed."""
    flow = harness.starting()
    assert describe(flow.step) == "start"
    assert ledger.changes == [("add", SESSION)]
    flow("start", started())
    flow = harness.close()
    assert ledger.changes == [("add", SESSION)]
    flow("stop", stopped())
    assert ledger.changes == [("add", SESSION), ("remove", SESSION)]
    assert harness.io.ledger_timeouts == [LEDGER_TIMEOUT, LEDGER_TIMEOUT]


def test_broken_ledger(harness: Harness, ledger: FakeLedger) -> None:
    """A session that cannot be written down is not started, and nothing is removed."""
    ledger.is_broken = True
    error = harness.starting().error(LedgerError)
    assert not error.session_may_be_running
    assert harness.ids == []
    ledger.is_broken = False
    harness.starting()("start", refused(400))
    assert ledger.changes == [("add", SESSION), ("remove", SESSION)]


def test_ledger_without_use(harness: Harness, ledger: FakeLedger) -> None:
    """A session that was opened without a ledger is not removed from one."""
    harness.sessions.ledger = None
    harness.open()
    harness.sessions.ledger = ledger  # type: ignore[assignment]
    harness.close()("stop", stopped())
    assert ledger.changes == []


def test_ledger_of_two_ids(harness: Harness, ledger: FakeLedger) -> None:
    """A session whose start names another id is written down under both, and removed under both."""
    harness.starting()("start", started(OTHER))
    assert ledger.changes == [("add", SESSION), ("add", OTHER)]
    flow = harness.close(OTHER)
    stops = [flow("stop with X-API-KEY", stopped()) for _ in range(2)]
    assert [body(stop)["session_id"] for stop in stops] == [OTHER, SESSION]
    assert flow.result().message == "Stopped"
    assert sorted(ledger.changes[2:]) == sorted([("remove", SESSION), ("remove", OTHER)])


UNUSABLE = {
    "data without a room": success({"session_id": OTHER, "livekit_url": "wss://rooms.example.com"}),
    "data without a name": success({"livekit_url": "wss://rooms.example.com"}),
    "a name that is no id": success({"session_id": ".."}),
    "a name that is no text": success({"session_id": 7}),
    "no data": success(),
    "a list as data": success([OTHER]),
    "a list": Response(201, {}, bytearray(json.dumps([{"session_id": OTHER}]).encode())),
}
"""Responses of success to a start that cannot be returned. The first of them names a session."""


@pytest.mark.parametrize("response", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("is_cut_off", [False, True], ids=["complete", "cut off"])
def test_unusable_start_that_names_another_session(is_cut_off: bool, response: Response, harness: Harness) -> None:
    """Both sessions are stopped if the response names another one, also if the connection is lost after that."""
    flow = harness.starting()
    if is_cut_off:
        lost = LiveAvatarConnectionError("lost")
        lost.request_sent = True
        response = Response(response.status, {}, bytearray(response.content))
        response.read_error = lost
    flow("start", response)
    named = [OTHER, SESSION] if response.content == UNUSABLE["data without a room"].content else [SESSION]
    stops = [flow("stop with X-API-KEY" if len(named) == 2 else "stop", stopped()) for _ in named]
    assert [body(stop)["session_id"] for stop in stops] == named
    error = flow.error(LiveAvatarConnectionError if is_cut_off else BadResponseError)
    assert (error.session_id, error.session_may_be_running) == (named[0], False)
    assert harness.ids == []


def test_close_tracked(harness: Harness) -> None:
    """A session that is open is stopped within the shared deadline, one that is being opened within a few seconds."""
    harness.open()
    session = harness.sessions.get(SESSION)
    flow = harness.run(harness.flows.close_tracked(session, harness.clock.now + 20))
    assert flow.request.deadline == harness.clock.now + 20
    flow("stop", stopped())
    assert flow.result() is None
    again = harness.run(harness.flows.close_tracked(session))
    assert again.result() is None
    opening = harness.starting(created(OTHER))
    closing = harness.run(harness.flows.close_tracked(harness.sessions.get(OTHER), harness.clock.now + 20))
    assert closing.request.deadline == harness.clock.now + CLEANUP_TIMEOUT
    stop = closing("stop", stopped())
    assert body(stop)["session_id"] == OTHER
    assert closing.result() is None
    opening.abandon()


def test_ledger_of_an_unusable_start(harness: Harness, ledger: FakeLedger) -> None:
    """A session that an unusable start has named, and that could not be stopped, is written down, too."""
    harness.new_client(0)
    harness.sessions.ledger = ledger  # type: ignore[assignment]
    flow = harness.starting()
    flow("start", UNUSABLE["data without a room"])
    for _ in range(2):
        flow("stop with X-API-KEY", refused(400))
    assert flow.failure().session_may_be_running is True
    assert ledger.changes == [("add", SESSION), ("add", OTHER)]


def test_failed_stop_of_two_ids(harness: Harness) -> None:
    """The warning and the note about a session with two ids name both."""
    harness.starting()("start", started(OTHER))
    flow = harness.close(OTHER)
    for _ in range(2):
        flow("stop with X-API-KEY", refused(400))
    flow.error(BadRequestError)
    assert harness.warnings[-1].startswith(f"Session {OTHER} or {SESSION} may still be running: ")
    harness.new_client(0)
    flow = harness.starting()
    harness.sessions.close()
    flow("start", started(OTHER))
    for _ in range(2):
        flow("stop with X-API-KEY", refused(400))
    note = flow.failure().__notes__[-1]
    assert note.startswith(f"Session {OTHER} or {SESSION} may still be running")
    assert note.endswith("close_session() tries again.")


@pytest.mark.parametrize(("left", "seconds"), [(30.0, 30.0), (1.0, CLEANUP_TIMEOUT), (-1.0, CLEANUP_TIMEOUT)])
def test_shared_deadline(left: float, seconds: float, harness: Harness) -> None:
    """Stops that share a deadline have a few seconds each when it is over."""
    harness.open()
    flow = harness.run(harness.flows.close_session(SESSION, None, harness.clock.now + left))
    assert flow.request.deadline == harness.clock.now + seconds


def test_stop_that_another_has_confirmed(harness: Harness) -> None:
    """A stop that gets no response succeeds if the session has been stopped meanwhile."""
    harness.new_client(0)
    harness.open()
    flow, other = harness.close(), harness.close()
    other("stop", stopped())
    flow("stop", lost())
    assert flow.result().message == "The session has already ended."


def test_log_of_a_stop(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the session that a stop is about."""
    caplog.set_level(logging.DEBUG, "liveavatar")
    harness.open()
    harness.close()("stop", stopped())
    assert caplog.messages[-1].endswith(f"session {SESSION}")


def test_adopt(harness: Harness, ledger: FakeLedger) -> None:
    """A session that is taken over is written down, and stopped with its token."""
    assert harness.run(harness.flows.adopt_session(SESSION, Secret("its-token"))).result() is None
    assert ledger.changes == [("add", SESSION)]
    assert harness.ids == [SESSION]
    flow = harness.close()
    assert credential(flow("stop", stopped())) == ("Authorization", "Bearer its-token")
    assert ledger.changes == [("add", SESSION), ("remove", SESSION)]


@pytest.mark.parametrize("cls", INTERRUPTIONS)
def test_adopt_interrupted(cls: type[BaseException], harness: Harness, ledger: FakeLedger) -> None:
    """An interruption is raised when the session is taken over and written down."""
    ledger.interruption = cls()
    harness.run(harness.flows.adopt_session(SESSION, None)).error(cls)
    assert ledger.changes == [("add", SESSION), ("add", SESSION)]
    assert harness.ids == [SESSION]


@pytest.mark.parametrize("was_open", [True, False])
def test_adopt_with_broken_ledger(was_open: bool, harness: Harness, ledger: FakeLedger) -> None:
    """A session that cannot be written down is not taken over, unless the client has it already."""
    if was_open:
        harness.open()
    ledger.is_broken = True
    harness.run(harness.flows.adopt_session(SESSION, Secret("another-token"))).error(LedgerError)
    assert harness.ids == ([SESSION] if was_open else [])
    ledger.is_broken = False
    if was_open:
        harness.close()("stop", stopped())
        assert ledger.changes == [("add", SESSION), ("remove", SESSION)]


@pytest.mark.parametrize("session_id", ["", None, 7])
def test_adopt_nothing(session_id: Any, harness: Harness, ledger: FakeLedger) -> None:
    """What is not an id cannot be taken over."""
    flow = harness.run(harness.flows.adopt_session(session_id, None))
    assert isinstance(flow.failure(), TypeError | ValueError)
    assert (harness.ids, ledger.changes) == ([], [])


# ---- Closing while a session is being opened ---------------------------------------------------------------


def test_closed_before_token(harness: Harness) -> None:
    """A session whose token arrives after the registry was closed is not started."""
    flow = harness.opening()
    harness.sessions.close()
    flow("token", created())
    assert str(flow.error(LiveAvatarError)) == "This client is closed."
    assert harness.ids == []


def test_closed_before_new_session(harness: Harness) -> None:
    """Nothing is sent once the registry is closed."""
    harness.sessions.close()
    assert str(harness.opening().error(LiveAvatarError)) == "This client is closed."


def test_closed_before_start(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is closed between its token and its start is not started, and nothing is stopped."""
    mark_starting = harness.sessions.mark_starting

    def close_first(session: Any) -> None:
        harness.sessions.discard(session)
        mark_starting(session)

    monkeypatch.setattr(harness.sessions, "mark_starting", close_first)
    flow = harness.starting()
    error = flow.error(LiveAvatarError)
    assert f"Session {SESSION} was closed while" in str(error)
    assert error.session_may_be_running is False
    assert harness.ids == []
    assert harness.warnings == []


def test_closed_during_start(harness: Harness) -> None:
    """A session whose start succeeds after the registry was closed is stopped, and not returned."""
    flow = harness.starting()
    harness.sessions.close()
    flow("start", started())
    flow("stop", stopped())
    error = flow.error(LiveAvatarError)
    assert str(error) == "The client was closed while the session was being opened."
    assert (error.session_id, error.session_may_be_running) == (SESSION, False)
    assert harness.ids == []


def test_close_during_start(harness: Harness) -> None:
    """A session that is closed before its start is answered is stopped again, and not returned."""
    flow = harness.starting()
    close = harness.close()
    close("stop", stopped())
    assert close.result().message == "Stopped"
    flow("start", started())
    flow("stop", refused(404))
    error = flow.error(LiveAvatarError)
    assert f"Session {SESSION} was closed while the session was being opened" in str(error)
    assert (error.session_id, error.session_may_be_running) == (SESSION, False)
    assert harness.ids == []


def test_close_overtakes_start(harness: Harness) -> None:
    """A close that arrives before the start asks again, until the session can be stopped."""
    flow = harness.starting()
    close = harness.close()
    close("stop", refused(404))
    close("sleep 0.25")
    close("stop", stopped())
    close.result()
    flow("start", lost())
    assert flow.error(LiveAvatarConnectionError).session_may_be_running is False
    assert harness.ids == []


def test_close_opening_session(harness: Harness) -> None:
    """Closing the client stops a session that is being opened, as a cleanup."""
    flow = harness.starting()
    (session,) = harness.sessions.all
    harness.sessions.close()
    close = harness.run(harness.flows.close_opening_session(session))
    assert close.is_shielded
    request = close("stop", stopped())
    assert flags(request) == (True, True, False)
    assert request.deadline == 1000 + CLEANUP_TIMEOUT
    assert body(request) == {"session_id": SESSION}
    close.result()
    assert harness.ids == []
    flow("start", started())
    flow("stop", refused(404))
    assert flow.error(LiveAvatarError).session_may_be_running is False


def test_close_unstarted_session(harness: Harness) -> None:
    """A session whose start was not sent is not stopped but forgotten, and is not started any more."""
    session = harness.sessions.add(SESSION, Secret("its-token"))
    harness.run(harness.flows.close_opening_session(session)).result()
    assert harness.ids == []
    with pytest.raises(LiveAvatarError, match="was closed while"):
        harness.sessions.mark_starting(session)


# ---- Closing a session -------------------------------------------------------------------------------------


def test_close_session(harness: Harness) -> None:
    """A close is one stop with the session's own token."""
    flow = harness.closing()
    assert flow.is_shielded
    assert not flow.in_cleanup  # Ctrl-C reaches it: a second attempt follows, and then Ctrl-C is raised
    request = flow("stop", stopped())
    assert request.deadline == 1000 + TIMEOUT
    assert flags(request) == (False, False, False)
    assert body(request) == {"session_id": SESSION}
    assert flow.result().message == "Stopped"
    assert harness.ids == []
    assert harness.warnings == []


def test_close_session_reason(harness: Harness) -> None:
    """A close may give its reason."""
    harness.open()
    flow = harness.run(harness.flows.close_session(SESSION, "USER_CLOSED"))
    assert body(flow("stop", stopped())) == {"session_id": SESSION, "reason": "USER_CLOSED"}


@by_outcome(ALREADY_ENDED + UNKNOWN)
def test_close_ended_session(harness: Harness, outcome: Response) -> None:
    """Closing a session that has ended by itself is not an error."""
    harness.new_client(0)
    flow = harness.closing()
    flow("stop", outcome)
    assert flow.result().message == json.loads(outcome.content)["message"]
    assert harness.ids == []
    assert harness.warnings == []


def test_close_ended_session_once(harness: Harness) -> None:
    """That a session has ended is asked once, whatever the service says about a retry."""
    flow = harness.closing()
    flow("stop", refused(409, "The session has already ended", retry_after="1"))
    assert flow.result().message == "The session has already ended"


def test_close_expired_token(harness: Harness) -> None:
    """If the session's token is no longer valid, the API key stops the session."""
    flow = harness.closing()
    first = flow("stop", refused(401))
    second = flow("stop with X-API-KEY", stopped())
    assert body(first) == body(second)
    assert first.deadline == second.deadline
    assert flow.result().message == "Stopped"


def test_close_no_valid_credential(harness: Harness) -> None:
    """If the API key is not valid either, the session stays tracked."""
    flow = harness.closing()
    flow("stop", refused(401))
    flow("stop with X-API-KEY", refused(401))
    error = flow.error(AuthenticationError)
    assert (error.session_may_be_running, error.session_id) == (True, SESSION)
    assert harness.ids == [SESSION]


def test_cleanup_with_api_key(harness: Harness) -> None:
    """A cleanup with the API key is a cleanup too."""
    flow = harness.starting()
    flow("start", lost())
    flow("stop", refused(401))
    assert flags(flow("stop with X-API-KEY", stopped())) == (True, True, False)


@pytest.mark.parametrize("outcome", [refused(503), refused(409), refused(403), lost()], ids=name)
def test_close_failed(harness: Harness, outcome: Any) -> None:
    """A close that fails says that the session may run, and can be tried again."""
    harness.new_client(0)
    flow = harness.closing()
    flow("stop", outcome)
    error = flow.failure()
    assert isinstance(error, LiveAvatarError)
    assert (error.session_id, error.session_may_be_running) == (SESSION, True)
    assert harness.warning_reason == str(error)
    assert harness.ids == [SESSION]
    flow = harness.close()
    flow("stop", stopped())
    assert flow.result().message == "Stopped"


def test_close_conflict(harness: Harness) -> None:
    """A conflict that does not say that the session has ended is retried."""
    flow = harness.closing()
    for delay in (0.5, 1):
        flow("stop", refused(409))
        flow(f"sleep {delay}")
    flow("stop", refused(409))
    flow.error(ConflictError)


def test_two_closes(harness: Harness) -> None:
    """Of two closes at the same time, both return."""
    for outcome in (refused(404), refused(409), refused(500)):
        harness.new_client(0)
        harness.open()
        first, second = harness.close(), harness.close()
        first("stop", stopped())
        assert first.result().message == "Stopped"
        second("stop", outcome)
        assert second.result().message == "No"


def test_close_twice(harness: Harness) -> None:
    """A session is closed once, and only by the client that opened it."""
    harness.closing()("stop", stopped())
    again = harness.close().error(SessionTokenNotFoundError)
    assert str(again) == f"No token for session '{SESSION}': it is closed already."
    assert again.session_id == SESSION
    never = harness.close(OTHER).error(SessionTokenNotFoundError)
    assert str(never) == (
        f"No token for session '{OTHER}': this client did not open it."
        " stop_session(session_id) stops any session of the account."
    )
    assert isinstance(never, ValueError)


@pytest.mark.parametrize("cls", INTERRUPTIONS)
def test_close_interrupted(harness: Harness, cls: type[BaseException]) -> None:
    """An interrupted stop is sent again, within the cleanup's time, before the interruption is raised."""
    flow = harness.closing()
    flow("stop", cls(), takes=3)
    request = flow("stop", stopped())
    assert request.deadline == 1003 + CLEANUP_TIMEOUT
    flow.error(cls)
    assert harness.ids == []
    assert harness.warnings == []


def test_interruption_does_not_prolong(harness: Harness) -> None:
    """An interruption does not move the call's deadline."""
    flow = harness.closing()
    flow("stop", KeyboardInterrupt(), takes=TIMEOUT - 1)
    assert flow("stop", stopped()).deadline == 1000 + TIMEOUT


@pytest.mark.parametrize("cls", [*INTERRUPTIONS, LiveAvatarError])
def test_delay_interrupted(harness: Harness, cls: type[BaseException]) -> None:
    """An interruption ends the delay between two stops, also if it is the error of another call."""
    flow = harness.closing()
    flow("stop", lost())
    flow("sleep 0.5", cls())
    flow("stop", stopped())
    flow.error(cls)


def test_several_interruptions(harness: Harness) -> None:
    """Of several interruptions the latest is raised, and the first sets the deadline."""
    flow = harness.closing()
    flow("stop", KeyboardInterrupt())
    flow("stop", SignalError(), takes=2)
    last = SystemExit()
    flow("stop", last, takes=2)
    flow("sleep 0.25")
    assert flow("stop", stopped()).deadline == 1000 + CLEANUP_TIMEOUT
    assert flow.error(SystemExit) is last
    assert harness.ids == []


def test_interruptions_until_timeout(harness: Harness) -> None:
    """Interruptions without end are given up when the time is over, and the close can be tried again."""
    flow = harness.closing()
    flow("stop", KeyboardInterrupt())
    flow("stop", KeyboardInterrupt(), takes=CLEANUP_TIMEOUT - 0.01)
    flow("stop", KeyboardInterrupt(), takes=0.01)
    error = flow.error(KeyboardInterrupt)
    assert (error.session_id, error.session_may_be_running) == (SESSION, True)  # type: ignore[attr-defined]
    assert harness.warning_reason == "KeyboardInterrupt"
    assert harness.ids == [SESSION]
    flow = harness.close()
    flow("stop", stopped())
    assert flow.result().message == "Stopped"


def test_many_interruptions(harness: Harness) -> None:
    """Only the time bounds an interrupted close, not the number of interruptions. No pause gets shorter."""
    flow = harness.closing()
    requests = 0
    pauses = []
    while flow.step is not None and harness.clock.now < 1000 + CLEANUP_TIMEOUT - 1:
        requests += isinstance(flow.step, Send)
        pauses += [flow.step.seconds] if isinstance(flow.step, Sleep) else []
        flow(describe(flow.step), KeyboardInterrupt() if isinstance(flow.step, Send) else None)
    assert 3 < requests < 10
    while isinstance(flow.step, Sleep):
        pauses.append(flow.step.seconds)
        flow(describe(flow.step))
    flow("stop", stopped())
    flow.error(KeyboardInterrupt)
    assert pauses == sorted(pauses)
    assert harness.ids == []


def test_interrupted_pauses(harness: Harness) -> None:
    """A pause between two stops that is interrupted again and again ends with the cleanup's time, at the latest."""
    flow = harness.closing()
    for _ in range(12):
        flow("stop", KeyboardInterrupt()) if isinstance(flow.step, Send) else flow(
            describe(flow.step), KeyboardInterrupt(), takes=0.1
        )
    while isinstance(flow.step, Sleep):
        flow(describe(flow.step))
    flow("stop", stopped())
    flow.error(KeyboardInterrupt)
    assert harness.ids == []


def test_interrupted_then_failed(harness: Harness) -> None:
    """A stop that fails after an interruption is logged, and the interruption raised."""
    harness.new_client(0)
    flow = harness.closing()
    flow("stop", KeyboardInterrupt())
    flow("stop", lost())
    flow.error(KeyboardInterrupt)
    assert harness.warning_reason == "KeyboardInterrupt"
    assert harness.ids == [SESSION]


@pytest.mark.parametrize("cls", INTERRUPTIONS)
def test_close_interrupted_before_stop(harness: Harness, cls: type[BaseException]) -> None:
    """A close that is interrupted before it sends anything can be tried again."""
    harness.open()
    work = harness.flows.close_session(SESSION)
    assert isinstance(work.send(None), Shield)
    with pytest.raises(cls):
        work.throw(cls())
    assert harness.warning_reason == cls.__name__
    flow = harness.close()
    flow("stop", stopped())
    assert flow.result().message == "Stopped"


def test_abandoned_close(harness: Harness) -> None:
    """A close whose event loop is gone sends nothing more, but warns."""
    flow = harness.closing()
    flow.abandon()
    assert harness.warning_reason == "GeneratorExit"
    flow = harness.close()
    flow("stop", stopped())
    assert flow.result().message == "Stopped"


def test_close_flagged_session(harness: Harness) -> None:
    """A close of a session whose start's fate is unknown does not believe "not found", and says so."""
    flow = harness.starting()
    flow("start", lost())
    flow("stop", refused(400))
    assert flow.failure().session_may_be_running is True
    flow = harness.close()
    begun = harness.clock.now
    while flow.step is not None:
        flow(describe(flow.step), refused(404) if isinstance(flow.step, Send) else None)
    assert flow.error(NotFoundError).session_may_be_running is True
    assert harness.clock.now - begun == CLEANUP_TIMEOUT
    assert harness.ids == [SESSION]
    flow = harness.close()
    flow("stop", refused(409, "The session has already ended"))
    assert flow.result().message == "The session has already ended"
    assert harness.ids == []


# ---- Waiting for a slot ------------------------------------------------------------------------------------

AT_LIMIT = "Concurrency limit reached"


def test_wait_for_slot(harness: Harness) -> None:
    """At the concurrency limit, the same token is tried again after delays that double up to 5 seconds."""
    flow = harness.run(harness.flows.new_session(REQUEST, 60))
    flow("token", created())
    for delay in (1, 2, 4, 5, 5):
        assert credential(flow("start", refused(403, AT_LIMIT))) == ("Authorization", "Bearer its-token")
        assert harness.ids == []
        flow(f"sleep {delay}")
    flow("start", started())
    assert flow.result().session_id == SESSION
    assert harness.ids == [SESSION]


def test_wait_for_slot_jitter(harness: Harness) -> None:
    """The delays are up to a quarter shorter, so that many clients do not try again at the same time."""
    harness.random.share = 0.0
    flow = harness.run(harness.flows.new_session(REQUEST, 60))
    flow("token", created())
    for delay in (0.75, 1.5, 3, 3.75, 3.75):
        flow("start", refused(403, AT_LIMIT))
        flow(f"sleep {delay:g}")


def test_wait_for_slot_ends(harness: Harness) -> None:
    """When the time is over, there is one last attempt, and the error is raised."""
    flow = harness.run(harness.flows.new_session(REQUEST, 1.75))
    flow("token", created())
    flow("start", refused(403, AT_LIMIT))
    flow("sleep 1")
    flow("start", refused(403, AT_LIMIT))
    flow("sleep 0.75")
    flow("start", refused(403, AT_LIMIT))
    assert flow.error(ConcurrencyLimitError).session_may_be_running is False
    assert harness.ids == []


def test_no_wait_for_slot(harness: Harness) -> None:
    """By default, the concurrency limit is an error at once; so is any other refusal."""
    flow = harness.starting()
    flow("start", refused(403, AT_LIMIT))
    flow.error(ConcurrencyLimitError)
    flow = harness.run(harness.flows.new_session(REQUEST, 60))
    flow("token", created())
    flow("start", refused(402))
    assert flow.failure().status == 402


def test_wait_for_slot_with_expired_token(harness: Harness) -> None:
    """A token that expires while there is no slot is replaced; a new token that is refused is an error."""
    flow = harness.run(harness.flows.new_session(REQUEST, 60))
    flow("token", created())
    flow("start", refused(403, AT_LIMIT))
    flow("sleep 1")
    flow("start", refused(401))
    flow("token", created(OTHER, "new-token"))
    assert credential(flow("start", refused(401)))[1] == "Bearer new-token"
    assert flow.error(AuthenticationError).session_id == OTHER
    assert harness.ids == []


def test_wait_for_slot_of_token(harness: Harness) -> None:
    """A token that is refused at the concurrency limit is waited for, too."""
    flow = harness.run(harness.flows.new_session(REQUEST, 60))
    flow("token", refused(403, AT_LIMIT))
    flow("sleep 1")
    flow("token", created())
    flow("start", started())
    assert flow.result().session_id == SESSION


def test_wait_for_slot_with_used_token(harness: Harness) -> None:
    """A start that may have been carried out is stopped, and its token is not tried again."""
    flow = harness.run(harness.flows.new_session(REQUEST, 60))
    flow("token", created())
    flow("start", refused(200, AT_LIMIT))
    flow("stop", stopped())
    flow("sleep 1")
    flow("token", created(OTHER, "new-token"))
    assert credential(flow("start", started(OTHER)))[1] == "Bearer new-token"
    assert flow.result().session_id == OTHER
    assert harness.ids == [OTHER]


@pytest.mark.parametrize("cls", INTERRUPTIONS)
def test_wait_for_slot_interrupted(harness: Harness, cls: type[BaseException]) -> None:
    """An interruption of the wait is raised; there is nothing to stop."""
    flow = harness.run(harness.flows.new_session(REQUEST, 60))
    flow("token", created())
    flow("start", refused(403, AT_LIMIT))
    flow("sleep 1", cls())
    flow.error(cls)
    assert harness.ids == []
    assert harness.warnings == []


@pytest.mark.parametrize(("seconds", "cls"), [(-1, ValueError), (math.inf, ValueError), ("1", TypeError)])
def test_invalid_wait_for_slot(harness: Harness, seconds: Any, cls: type[Exception]) -> None:
    """The wait is 0 or more seconds. The error names the argument."""
    error = harness.run(harness.flows.new_session(REQUEST, seconds)).error(cls)
    assert str(error).startswith("wait_for_slot ")


# ---- Keeping a session alive -------------------------------------------------------------------------------


def test_keep_session_alive(harness: Harness) -> None:
    """The credential is the token of a session of this client, then the API key; of any other it is the API key."""
    harness.open()
    flow = harness.run(harness.flows.keep_session_alive(SESSION))
    request = flow("keep-alive", refused(401))
    assert body(request) == {"session_id": SESSION}
    flow("keep-alive with X-API-KEY", stopped())
    assert flow.result() is None
    flow = harness.run(harness.flows.keep_session_alive(OTHER))
    flow("keep-alive with X-API-KEY", stopped())
    assert flow.result() is None
    assert harness.ids == [SESSION]


@by_outcome(ALREADY_ENDED + UNKNOWN)
def test_keep_ended_session_alive(harness: Harness, outcome: Response) -> None:
    """A session that has ended is no longer tracked, and closing it once more is not an error."""
    harness.open()
    flow = harness.run(harness.flows.keep_session_alive(SESSION))
    flow("keep-alive", outcome)
    error = flow.failure()
    assert (error.session_id, error.session_may_be_running) == (SESSION, False)
    assert harness.ids == []
    assert harness.close().result().message == "The session has already ended."
    harness.close().error(SessionTokenNotFoundError)


@pytest.mark.parametrize("outcome", [refused(500), lost(), refused(403)], ids=name)
def test_keep_session_alive_failed(harness: Harness, outcome: Any) -> None:
    """Any other error leaves the session tracked."""
    harness.new_client(0)
    harness.open()
    flow = harness.run(harness.flows.keep_session_alive(SESSION))
    flow("keep-alive", outcome)
    assert flow.failure().session_may_be_running is True
    assert harness.ids == [SESSION]


def test_adopt_session(harness: Harness) -> None:
    """An adopted session is closed with its token; without one, with the API key."""
    harness.run(harness.flows.adopt_session(SESSION, Secret("a-token"))).result()
    harness.run(harness.flows.adopt_session(OTHER, None)).result()
    assert harness.ids == [SESSION, OTHER]
    flow = harness.close()
    assert credential(flow("stop", stopped()))[1] == "Bearer a-token"
    flow = harness.close(OTHER)
    flow("stop with X-API-KEY", refused(404))  # its start is known to have been carried out
    assert flow.result().message == "No"
    assert harness.ids == []


def test_adopt_ended_session(harness: Harness) -> None:
    """A session that is taken over again, although the service has said that it had ended, is stopped."""
    harness.open()
    harness.run(harness.flows.keep_session_alive(SESSION))("keep-alive", refused(404))
    assert harness.ids == []
    harness.run(harness.flows.adopt_session(SESSION, None)).result()
    flow = harness.close()
    flow("stop with X-API-KEY", stopped())
    assert flow.result().message == "Stopped"


@pytest.mark.parametrize(("shared", "seconds"), [(None, CLEANUP_TIMEOUT), (0, 1), (3, 3)])
def test_close_at_shutdown(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, shared: float | None, seconds: float
) -> None:
    """Once a signal has asked the program to end, a stop has a few seconds; one of several has at least one."""
    harness.open()
    monkeypatch.setattr(ShutdownSignal, "received", True)
    deadline = None if shared is None else harness.clock.now + shared
    flow = harness.run(harness.flows.close_session(SESSION, None, deadline))
    assert flow.request.deadline == harness.clock.now + seconds
    flow("stop", stopped())
    assert flow.result().message == "Stopped"


# ---- The model checker -------------------------------------------------------------------------------------


@attrs.frozen
class Outcome:
    """What comes of one step: what the service does, and what the client gets."""

    done: bool = True
    """Whether the service carries the request out."""
    delay: float = 0.0
    """Seconds after which the service carries a start out, although the client has its outcome already."""
    heard: Callable[[], object] | None = None
    """The response or exception that the client gets; None for the service's own response."""

    @property
    def interrupts(self) -> bool:
        return self.heard in (KeyboardInterrupt, SignalError)


FINE = Outcome()
DONE = [Outcome(heard=lost), Outcome(heard=lambda: refused(504)), Outcome(heard=SignalError)]
NOT_DONE = [
    Outcome(False, heard=lambda: lost(sent=False)),
    Outcome(False, heard=lost),
    Outcome(False, heard=lambda: refused(401)),
    Outcome(False, heard=lambda: refused(429)),
    Outcome(False, heard=lambda: refused(503)),
    Outcome(False, heard=KeyboardInterrupt),
]
LATE = [
    Outcome(delay=0.3, heard=lost),
    Outcome(delay=1.25, heard=KeyboardInterrupt),
    Outcome(delay=4.7, heard=lambda: refused(504)),
    Outcome(delay=10.0, heard=lambda: refused(499)),
]
CONFLICT = Outcome(heard=lambda: refused(409))
OUTCOMES: dict[str, list[Outcome]] = {
    "start": [FINE, *DONE, *NOT_DONE, *LATE, CONFLICT, Outcome(heard=unusable)],
    "stop": [FINE, *DONE, *NOT_DONE, CONFLICT, Outcome(False, heard=lambda: refused(409))],
    "sleep": [FINE, NOT_DONE[-1]],
}


class Service:
    """A model of the service, for one session."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._arrivals: list[float] = []
        self.starts = 0
        self.running = False

    def perform(self, endpoint: str) -> Response:
        """Carry a request out, and return the response."""
        if endpoint == "start":
            self.starts += 1
            self.running = True
            return started()
        was_running, self.running = self.running, False
        if was_running:
            return stopped()
        return refused(409, "The session has already ended") if self.starts else refused(404)

    def receive(self, endpoint: str, outcome: Outcome) -> object:
        """Return what the client gets for a request with this outcome."""
        self.advance()
        response: object = None
        if outcome.delay:
            self._arrivals.append(self._clock.now + outcome.delay)
        elif outcome.done:
            response = self.perform(endpoint)
        return outcome.heard() if outcome.heard else response

    def advance(self, seconds: float = 0.0) -> None:
        """Carry out the starts whose time has come."""
        self._clock.now += seconds
        while self._arrivals and self._arrivals[0] <= self._clock.now:
            self._arrivals.pop(0)
            self.perform("start")


class Scenario:
    """A client, its service, and the outcomes of the client's steps.

    Args:
        harness: The client.
        outcomes: Indexes in OUTCOMES, for the first steps. Then all goes well.
        repeated: The last outcome is that of all further steps of its kind.
        deferred: An interruption does not reach shielded work, but its caller, when the work has ended.
    """

    def __init__(
        self, harness: Harness, outcomes: tuple[int, ...] = (), *, repeated: bool = False, deferred: bool = False
    ) -> None:
        self.harness, self.outcomes, self.repeated, self.deferred = harness, outcomes, repeated, deferred
        self.service = Service(harness.clock)
        self.steps: list[str] = []
        self.interrupted = False
        """Whether shielded work was interrupted."""
        harness.drivers.clear()
        harness.new_client(2)

    def run(self, flow: Driver) -> Any:
        """Run a flow to its end; return its result or exception."""
        while flow.step is not None:
            assert len(self.steps) < 500, "the flow does not end"
            self.advance(flow)
        return flow.end

    def advance(self, flow: Driver) -> None:
        kind = describe(flow.step).split()[0]
        outcome = OUTCOMES[kind][self._index(kind)]
        self.steps.append(kind)
        self.interrupted |= outcome.interrupts and flow.is_shielded
        if kind == "sleep":
            heard = outcome.heard and outcome.heard()
            flow(describe(flow.step), self._defer(flow, heard, None), takes=0.1)
            return
        self.harness.clock.now += 0.1
        flow.resume(self._defer(flow, self.service.receive(kind, outcome), lost()))

    def _defer(self, flow: Driver, outcome: object, instead: object) -> object:
        if not (self.deferred and flow.is_shielded and isinstance(outcome, KeyboardInterrupt | SignalError)):
            return outcome
        flow.interruption = outcome
        return instead

    def heal(self) -> None:
        """Let all go well from here."""
        self.outcomes, self.repeated = (), False

    def _index(self, kind: str) -> int:
        place, last = len(self.steps), len(self.outcomes) - 1
        if place <= last:
            return self.outcomes[place]
        return self.outcomes[last] if self.repeated and self.steps[last] == kind else 0


def check_scenarios(
    harness: Harness, check: Callable[[Scenario], None], *, depth: int, part: int = 0, parts: int = 1
) -> int:
    """Check every sequence of outcomes of the first `depth` steps; return the number of scenarios.

    Each of the parts begins with other outcomes of the first step.
    """
    checked = 0
    pending: list[tuple[bool, tuple[int, ...]]] = [(False, ())]
    while pending:
        deferred, outcomes = pending.pop()
        scenario = Scenario(harness, outcomes, deferred=deferred)
        check(scenario)
        checked += 1
        if outcomes and outcomes[-1]:
            check(Scenario(harness, outcomes, deferred=deferred, repeated=True))
            checked += 1
        if len(scenario.steps) > len(outcomes) < depth:
            kind = scenario.steps[len(outcomes)]
            for choice, outcome in enumerate(OUTCOMES[kind]):
                if not outcomes and choice % parts != part:
                    continue
                pending.append((deferred, (*outcomes, choice)))
                first_interruption = outcome.interrupts and not deferred and not scenario.interrupted
                if first_interruption and kind != "start":  # the start is not shielded
                    pending.append((True, (*outcomes, choice)))
    return checked


@pytest.fixture
def fast(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip what costs most and changes no decision: the log, and the search for secrets in errors."""
    caplog.set_level(logging.CRITICAL, "liveavatar")
    monkeypatch.setattr(_calls, "_secrets", lambda *args: [])
    for module in (_operations, _error_responses):
        monkeypatch.setattr(module, "redact", lambda text, secrets=(): text)


@pytest.mark.timeout(900)  # on a busy machine
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("part", range(4))  # of one check, for several processors
def test_no_session_left_behind(harness: Harness, part: int) -> None:
    """Whatever happens to a new_session, no session runs that the caller does not know of; and never two run."""

    def check(scenario: Scenario) -> None:
        service = scenario.service
        end = scenario.run(harness.starting())
        failed, flagged = isinstance(end, BaseException), getattr(end, "session_may_be_running", False)
        service.advance(100)
        assert service.starts <= 1, "a second session for one call"
        if not failed:
            assert service.running
        elif not flagged:
            assert not service.running
        else:
            assert SESSION in end.__notes__[-1]
            assert end.session_id == SESSION  # type: ignore[attr-defined]
        assert harness.ids == ([SESSION] if flagged or not failed else [])
        if harness.ids and service.starts:  # and then it can be closed
            scenario.heal()
            scenario.run(harness.close())
            assert not service.running
            assert harness.ids == []

    assert check_scenarios(harness, check, depth=4, part=part, parts=4) > 2_500


@pytest.mark.usefixtures("fast")
def test_no_close_loses_a_session(harness: Harness) -> None:
    """Whatever happens to a close, the session is tracked as long as it may run."""

    def check(scenario: Scenario) -> None:
        harness.starting()("start", scenario.service.perform("start"))
        end = scenario.run(harness.close())
        kept = bool(harness.ids)
        assert kept or not scenario.service.running, "forgotten while it runs"
        assert kept <= isinstance(end, BaseException), "returned without a proof"
        assert kept <= getattr(end, "session_may_be_running", False), "kept without a word"
        if kept:
            scenario.heal()
            scenario.run(harness.close())
        assert harness.ids == []
        assert not scenario.service.running

    assert check_scenarios(harness, check, depth=3) > 1_000


def test_abandoned_flows(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """A flow that is abandoned at any step sends nothing more, and warns of a session that may run."""

    def check(scenario: Scenario) -> None:
        caplog.clear()
        flow = harness.starting()
        while flow.step is not None and len(scenario.steps) < len(scenario.outcomes):
            scenario.advance(flow)
        if flow.step is None:
            scenario.steps = []  # there is nothing to abandon
            return
        scenario.steps.append(describe(flow.step).split()[0])
        flow.abandon()
        scenario.service.advance(100)
        assert not scenario.service.running or harness.ids == [SESSION]
        assert harness.warning_reason if harness.ids else not harness.warnings

    assert check_scenarios(harness, check, depth=3) > 500
