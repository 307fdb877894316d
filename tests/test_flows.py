"""The rules of repeating, undoing and stopping, played by hand: nothing is sent, nothing waits, no clock runs.

Each line of a test is one step that a flow asks for, and what comes of it:

    play("start", lost())          the flow wants to send a start; the answer to it is lost
    play("stop", STOPPED)          so it sends a stop, which succeeds

What ought to hold whatever happens is tried at the end with every sequence of faults up to a length.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from unittest.mock import Mock

import pytest
from liveavatar import (
    AuthenticationError,
    BadResponseError,
    ConflictError,
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
    _flows,
)
from liveavatar._answers import read
from liveavatar._calls import START, STOP, TOKEN, Call, Endpoint, Flow, Step, Uninterrupted, Wait
from liveavatar._config import Config
from liveavatar._flows import RESCUE_TIME, Flows
from liveavatar._secrets import Secret
from liveavatar._wire import USER_AGENT, Answer

from liveavatar_client.models import (
    LiveAvatarSessionResponse,
    SessionTokenResponse,
    StopSessionRequest,
    StopSessionResponse,
)

SESSION = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"
OTHER = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
REQUEST = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a")
TIMEOUT = 60.0
INTERRUPTIONS = (KeyboardInterrupt, asyncio.CancelledError, SystemExit)

Kind = TypeVar("Kind", bound=BaseException)


def minted(session_id: str = SESSION, token: str = "its-token") -> SessionTokenResponse:
    return SessionTokenResponse.from_dict({"code": 1000, "data": {"session_id": session_id, "session_token": token}})


def started(session_id: str = SESSION) -> LiveAvatarSessionResponse:
    room = {"session_id": session_id, "livekit_url": "wss://rooms.example.com", "livekit_client_token": "room-token"}
    return LiveAvatarSessionResponse.from_dict({"code": 1000, "data": room})


MINTED, STARTED, STOPPED = minted(), started(), StopSessionResponse(code=1000, message="Stopped")


def refused(status: int, words: str = "No", **headers: str) -> LiveAvatarApiError:
    """The error that an answer with this status and these words becomes."""
    envelope = json.dumps({"code": 4000, "data": None, "message": words}).encode()
    come = Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, bytearray(envelope))
    try:
        read(come, "stop", tuple)
    except LiveAvatarApiError as error:
        return error.with_traceback(None)
    raise AssertionError(f"{status} is no error")


def lost(kind: type[LiveAvatarConnectionError] = LiveAvatarConnectionError, *, sent: bool = True) -> LiveAvatarError:
    """The error for a request that got no answer; with sent=False it did not leave either."""
    error = kind("the connection broke")
    error.request_sent = sent
    return error


def unusable() -> BadResponseError:
    """The error for a success whose body breaks the contract."""
    return BadResponseError("201 the body is empty.", 201, "")


class Clock:
    """In place of `time`: moves when a test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Dice:
    """In place of `random`: 1 rolls the most there can be, 0 the least."""

    share = 1.0

    def uniform(self, low: float, high: float) -> float:
        return low + self.share * (high - low)


class Play:
    """One flow, performed by hand.

    `play(step, outcome)`: the flow is at `step` now, and this comes of it: a value is its result, an exception is
    raised at it. `play.result()` or `play.error(kind)` is how the flow has ended.
    """

    def __init__(self, flow: Flow[Any], clock: Clock) -> None:
        self.clock = clock
        self.flows = [flow]
        """The flow, and the uninterrupted one within it that is performed now."""
        self.apart = False
        """Whether the latest uninterrupted one is performed where Ctrl-C does not reach."""
        self.interruption: BaseException | None = None
        """What came to whoever waits for the uninterrupted flow; it is raised when that is done."""
        self.startles: list[BaseException] = []
        """What comes before the uninterrupted flow has begun, and so is raised at once."""
        self.step: Call | Wait | None = None
        self.end: Any = None
        self.go(None)

    def __call__(self, step: str, outcome: object = None, *, takes: float = 0.0) -> Any:
        """The step, for a closer look."""
        now = self.step
        assert described(now) == step
        if isinstance(now, Wait) and outcome is None:
            takes = now.seconds
        self.clock.now += takes
        self.go(outcome)
        return now

    def go(self, outcome: object) -> None:
        """Let the flow proceed to its next step."""
        while self.flows:
            flow = self.flows[-1]
            try:
                asked: Step = flow.throw(outcome) if isinstance(outcome, BaseException) else flow.send(outcome)
            except StopIteration as end:
                outcome = end.value
            except BaseException as error:
                outcome = error
            else:
                if not isinstance(asked, Uninterrupted):
                    self.step = asked
                    return
                self.apart = asked.apart
                if self.startles:
                    outcome = self.startles.pop(0)
                else:
                    self.flows.append(asked.flow)
                    outcome = None
                continue
            self.flows.pop()
            if self.interruption is not None and self.flows:
                outcome, self.interruption = self.interruption, None
        self.step, self.end = None, outcome

    def abandon(self) -> None:
        """What the interpreter does to a generator that nobody performs any more."""
        while self.flows:
            try:
                self.flows.pop().close()
            except BaseException as error:
                raise AssertionError(f"that it ends with {error!r} nobody hears") from None
        self.step = None

    @property
    def sheltered(self) -> bool:
        """Whether the step is one that an interruption of the caller does not reach."""
        return len(self.flows) > 1

    def result(self) -> Any:
        assert self.step is None, f"it goes on: {described(self.step)}"
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end

    def error(self, kind: type[Kind]) -> Kind:
        with pytest.raises(kind) as caught:
            self.result()
        assert type(caught.value) is kind
        return caught.value


def described(step: Call | Wait | None) -> str:
    """A step in words."""
    if step is None:
        return "nothing more"
    if isinstance(step, Wait):
        return f"wait {step.seconds:g}"
    (header,) = step.headers
    usual = "X-API-KEY" if step.endpoint is TOKEN else "Authorization"
    return step.endpoint.name if header == usual else f"{step.endpoint.name} with {header}"


class Stage:
    """A client's flows, with a clock and dice in our hands."""

    def __init__(self, clock: Clock, dice: Dice, caplog: pytest.LogCaptureFixture) -> None:
        self.clock, self.dice, self._caplog = clock, dice, caplog
        self.plays: list[Play] = []
        self.retries(2)

    def retries(self, max_retries: int) -> None:
        """Begin with a client that tries so many times more."""
        self.config = Config(Secret("the-api-key"), "https://service.example/base", TIMEOUT, max_retries)
        self.flows = Flows(self.config)
        self.sessions = self.flows.sessions

    def play(self, flow: Flow[Any]) -> Play:
        self.plays.append(Play(flow, self.clock))
        return self.plays[-1]

    def call(self, endpoint: Endpoint[Any], **options: Any) -> Play:
        """A single call to an endpoint."""
        options.setdefault("deadline", self.clock.now + TIMEOUT)
        token = None if endpoint is TOKEN else Secret("its-token")
        return self.play(_calls.call(self.config, endpoint, token, **options))

    def request(self, endpoint: Endpoint[Any]) -> Call:
        """What such a call asks for first."""
        step = self.call(endpoint).step
        assert isinstance(step, Call)
        return step

    def starting(self, session: SessionTokenResponse = MINTED) -> Play:
        """A new_session that has its token and is about to start."""
        play = self.play(self.flows.new_session(REQUEST))
        play("token", session)
        return play

    def close(self, session_id: str = SESSION) -> Play:
        return self.play(self.flows.close_session(session_id))

    def closing(self) -> Play:
        """A close_session of a session that was opened."""
        self.starting()("start", STARTED)
        return self.close()

    @property
    def open(self) -> list[str]:
        """The sessions that the client knows."""
        return list(self.sessions.ids)

    @property
    def warnings(self) -> list[str]:
        """What the log has at WARNING or above."""
        return [each.getMessage() for each in self._caplog.records if each.levelno >= logging.WARNING]

    @property
    def warned_of(self) -> str:
        """The reason in the one warning that there is, which names the session."""
        (warning,) = self.warnings
        said, reason = warning.split(": ", 1)
        assert said == f"Session {SESSION} may still be running"
        return reason


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Stage]:
    clock, dice = Clock(), Dice()
    for module in (_calls, _flows):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(_calls, "random", dice)
    stage = Stage(clock, dice, caplog)
    yield stage
    for play in stage.plays:
        play.abandon()  # now, and not whenever the garbage is collected


# ---- What is sent again ------------------------------------------------------------------------------------

AGAIN = {
    TOKEN: {408, 429, *range(500, 600)},
    START: {429},
    STOP: {408, 409, 429, *range(500, 600)},
}
by_endpoint = pytest.mark.parametrize("endpoint", [TOKEN, START, STOP], ids=["token", "start", "stop"])


@by_endpoint
def test_a_call_that_is_answered_is_sent_once(stage: Stage, endpoint: Endpoint[Any]) -> None:
    play = stage.call(endpoint)
    play(endpoint.name, "the answer")
    assert play.result() == "the answer"


@by_endpoint
def test_an_error_status_is_tried_again_where_that_is_safe(stage: Stage, endpoint: Endpoint[Any]) -> None:
    again = set()
    for status in range(300, 600):
        play = stage.call(endpoint)
        error = refused(status)
        play(endpoint.name, error)
        if play.step is None:
            assert play.error(type(error)) is error
        else:
            again.add(status)
    assert again == AGAIN[endpoint]


@pytest.mark.parametrize("kind", [LiveAvatarConnectionError, LiveAvatarTimeoutError])
@by_endpoint
def test_a_request_that_did_not_leave_is_sent_again(
    stage: Stage, endpoint: Endpoint[Any], kind: type[LiveAvatarConnectionError]
) -> None:
    play = stage.call(endpoint)
    play(endpoint.name, lost(kind, sent=False))
    play("wait 0.5")
    play(endpoint.name, "the answer")
    assert play.result() == "the answer"


@pytest.mark.parametrize("kind", [LiveAvatarConnectionError, LiveAvatarTimeoutError])
@by_endpoint
def test_a_start_whose_answer_is_lost_is_never_sent_again(
    stage: Stage, endpoint: Endpoint[Any], kind: type[LiveAvatarConnectionError]
) -> None:
    play = stage.call(endpoint)
    play(endpoint.name, lost(kind))
    assert described(play.step) == ("nothing more" if endpoint is START else "wait 0.5")


@by_endpoint
def test_a_certificate_that_is_not_trusted_is_not_asked_again(stage: Stage, endpoint: Endpoint[Any]) -> None:
    play = stage.call(endpoint)
    error = lost(sent=False)
    error.certificate_rejected = True  # type: ignore[attr-defined]
    play(endpoint.name, error)
    assert play.error(LiveAvatarConnectionError) is error


@by_endpoint
def test_what_another_try_cannot_change_is_not_tried_again(stage: Stage, endpoint: Endpoint[Any]) -> None:
    for error in (
        refused(429, "Concurrency limit reached"),
        refused(429, "Concurrency limit reached", retry_after="1"),
        refused(409, "Too many concurrent sessions"),
        refused(429, "No credits left"),
        unusable(),
        LiveAvatarError("something else"),
    ):
        play = stage.call(endpoint)
        play(endpoint.name, error)
        assert play.error(type(error)) is error


def test_there_are_as_many_more_tries_as_max_retries_says(stage: Stage) -> None:
    for retries in range(4):
        play = stage.call(TOKEN, max_retries=retries)
        for _ in range(retries):
            play("token", refused(503))
            play(described(play.step))
        play("token", refused(503))
        assert play.error(ServerError).attempts == retries + 1


def test_a_call_may_have_its_own_number_of_tries(stage: Stage) -> None:
    once = stage.call(TOKEN, max_retries=0)
    once("token", refused(503))
    assert once.error(ServerError).attempts == 1


def test_the_error_raised_is_the_last_one(stage: Stage) -> None:
    play = stage.call(TOKEN)
    play("token", refused(503))
    play("wait 0.5")
    play("token", refused(400))
    assert play.error(type(refused(400))).attempts == 2


# ---- How long it waits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "part"), [(0.0, 0.75), (0.5, 0.875), (1.0, 1.0)])
def test_waits_double_up_to_eight_seconds_less_up_to_a_quarter(stage: Stage, share: float, part: float) -> None:
    stage.dice.share = share
    play = stage.call(TOKEN, max_retries=7)
    for seconds in (0.5, 1, 2, 4, 8, 8, 8):
        play("token", refused(503))
        play(f"wait {seconds * part:g}")
    play("token", MINTED)
    assert play.result() is MINTED


@pytest.mark.parametrize(("share", "more"), [(0.0, 0.01), (1.0, 0.25)])
@pytest.mark.parametrize("status", [429, 503])
def test_the_service_says_how_long_to_wait_and_a_little_is_added(
    stage: Stage, status: int, share: float, more: float
) -> None:
    stage.dice.share = share
    for seconds in (0, 1, 7.5, 30):
        play = stage.call(TOKEN)
        play("token", refused(status, retry_after=str(seconds)))
        play(f"wait {seconds + more:g}")
        play("token", MINTED)


def test_a_service_that_wants_more_than_half_a_minute_is_not_waited_for(stage: Stage) -> None:
    play = stage.call(TOKEN)
    play("token", refused(429, retry_after="30.001"))
    with pytest.raises(LiveAvatarApiError) as caught:
        play.result()
    assert caught.value.retry_after == 30.001
    assert caught.value.attempts == 1


@pytest.mark.parametrize("nonsense", ["soon", "-5", "nan", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_says_nothing_counts_as_absent(stage: Stage, nonsense: str) -> None:
    play = stage.call(TOKEN)
    play("token", refused(429, retry_after=nonsense))
    play("wait 0.5")


def test_no_wait_goes_to_the_deadline_or_past_it(stage: Stage) -> None:
    in_time = stage.call(TOKEN, deadline=stage.clock.now + 0.501)
    in_time("token", refused(503))
    in_time("wait 0.5")
    for left in (0.5, 0.1, -1.0):
        late = stage.call(TOKEN, deadline=stage.clock.now + left)
        late("token", refused(503))
        assert late.error(ServerError).attempts == 1


# ---- What an error of a call says --------------------------------------------------------------------------


@by_endpoint
def test_an_error_says_where_how_often_and_of_which_session(stage: Stage, endpoint: Endpoint[Any]) -> None:
    play = stage.call(endpoint, session_id=SESSION)
    play(endpoint.name, refused(429))
    play("wait 0.5")
    play(endpoint.name, error := refused(400))
    assert play.error(type(error)) is error
    assert (error.endpoint, error.attempts, error.session_id) == (f"/v1/sessions/{endpoint.name}", 2, SESSION)


def test_after_a_token_nothing_runs(stage: Stage) -> None:
    for error in (refused(500), refused(409), lost(), unusable()):
        play = stage.call(TOKEN, max_retries=0)
        play("token", error)
        assert play.error(type(error)).session_may_be_running is False


# What certainly started nothing: a request that stayed here, and a refusal in the service's own words.
NEVER_STARTED = [*(refused(status) for status in (400, 401, 402, 403, 404, 422, 429, 499)), lost(sent=False)]
MAY_HAVE_STARTED = [
    *(refused(status) for status in (301, 399, 408, 409, 500, 502, 504, 520, 599)),
    lost(),
    lost(LiveAvatarTimeoutError),
    unusable(),
    LiveAvatarError("something else"),
]


def by_error(errors: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("error", errors, ids=lambda error: str(error)[:40] or "-")


@by_error(NEVER_STARTED)
def test_a_start_that_was_refused_or_never_left_started_nothing(stage: Stage, error: LiveAvatarError) -> None:
    play = stage.call(START, max_retries=0)
    play("start", error)
    assert play.error(type(error)).session_may_be_running is False


@by_error(MAY_HAVE_STARTED)
def test_after_any_other_failure_of_a_start_the_session_may_run(stage: Stage, error: LiveAvatarError) -> None:
    play = stage.call(START, max_retries=0)
    play("start", error)
    assert play.error(type(error)).session_may_be_running is True


ENDED = [
    refused(404),
    *(
        refused(409, f"The session {words}.")
        for words in (
            "has already stopped",
            "is already ended",
            "was closed",
            "has expired",
            "been finished",
            "is terminated",
            "is NOT ACTIVE",
            "is not running",
        )
    ),
]
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


@pytest.mark.parametrize(("errors", "running"), [(ENDED, False), (NOT_ENDED, True)], ids=["ended", "not ended"])
def test_a_stop_that_is_refused_because_the_session_has_ended_has_done_its_work(
    stage: Stage, errors: list[LiveAvatarError], running: bool
) -> None:
    for error in errors:
        play = stage.call(STOP, max_retries=0)
        play("stop", error)
        assert play.error(type(error)).session_may_be_running is running, error


def test_a_mistake_of_the_callers_is_raised_as_it_is(stage: Stage) -> None:
    for mistake in (KeyError("x"), TypeError("x"), ValueError("x"), AttributeError("x")):
        play = stage.call(TOKEN)
        play("token", mistake)
        assert play.error(type(mistake)) is mistake


ROOM = {"session_id": SESSION, "session_token": "t", "livekit_url": "wss://x", "livekit_client_token": "t"}


def success(status: int = 200, message: str = "") -> Answer:
    """An answer that means success at every endpoint."""
    return Answer(status, {}, bytearray(json.dumps({"code": 1000, "data": ROOM, "message": message}).encode()))


def test_an_answer_that_the_generated_parser_cannot_read_is_a_bad_response(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fault in (KeyError("room"), TypeError("room"), ValueError("room"), AttributeError("room")):
        monkeypatch.setattr(START.operation, "_parse_response", Mock(side_effect=fault))
        play = stage.call(START)
        assert isinstance(play.step, Call)
        with pytest.raises(BadResponseError, match=r"breaks the contract at .*room.*: for \*\*\*\.$") as caught:
            play.step.result(success(201, "for its-token"))
        play("start", caught.value)
        error = play.error(BadResponseError)
        assert error.__cause__ is None
        assert error.__suppress_context__
        assert (error.endpoint, error.status, error.attempts) == ("/v1/sessions/start", 201, 1)
        assert error.session_may_be_running


@pytest.mark.parametrize("kind", INTERRUPTIONS)
@by_endpoint
def test_an_interruption_of_a_call_passes_through_it(
    stage: Stage, endpoint: Endpoint[Any], kind: type[BaseException]
) -> None:
    first = stage.call(endpoint)
    first(endpoint.name, kind())
    first.error(kind)
    waiting = stage.call(endpoint)
    waiting(endpoint.name, refused(429))
    waiting("wait 0.5", kind())
    waiting.error(kind)


def test_the_log_has_one_line_per_request(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "liveavatar")
    play = stage.call(STOP, session_id=SESSION)
    play("stop", lost(LiveAvatarTimeoutError), takes=1.5)
    play("wait 0.5")
    step = play.step
    assert isinstance(step, Call)
    step.answer = Answer(503, {})
    play("stop", refused(503), takes=0.25)
    play("wait 1")
    play("stop", KeyboardInterrupt())
    play = stage.call(TOKEN)
    play("token", ValueError())
    lines = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert lines == [
        ("DEBUG", f"POST /v1/sessions/stop: LiveAvatarTimeoutError, attempt 1, 1500 ms, session {SESSION}"),
        ("DEBUG", f"POST /v1/sessions/stop: 503, attempt 2, 250 ms, session {SESSION}"),
        ("DEBUG", f"POST /v1/sessions/stop: KeyboardInterrupt, attempt 3, 0 ms, session {SESSION}"),
        ("DEBUG", "POST /v1/sessions/token: ValueError, attempt 1, 0 ms, session -"),
    ]


# ---- What goes out -----------------------------------------------------------------------------------------


def test_the_credential_is_the_api_key_or_the_sessions_token(stage: Stage) -> None:
    assert stage.request(TOKEN).headers == {"X-API-KEY": "the-api-key"}
    assert stage.request(START).headers == {"Authorization": "Bearer its-token"}


def test_a_request_goes_to_the_base_url_with_its_deadline_and_as_compact_json(stage: Stage) -> None:
    body = StopSessionRequest(session_id=SESSION)
    body["words"], body["n"] = "ü", 1
    play = stage.call(STOP, deadline=stage.clock.now + 7, body=body, urgent=True)
    assert isinstance(play.step, Call)
    wire = play.step.request()
    assert wire.url == "https://service.example/base/sessions/stop"
    assert wire.content == f'{{"words":"\\u00fc","n":1,"session_id":"{SESSION}"}}'.encode()
    assert wire.headers == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": USER_AGENT,
        "content-type": "application/json",
        "Authorization": "Bearer its-token",
    }
    assert (wire.deadline, wire.urgent) == (stage.clock.now + 7, True)


def test_a_call_without_a_body_sends_none(stage: Stage) -> None:
    wire = stage.request(START).request()
    assert wire.url == "https://service.example/base/sessions/start"
    assert wire.content == b""
    assert "content-type" not in wire.headers
    assert wire.urgent is False


def test_a_number_that_json_does_not_have_is_not_sent(stage: Stage) -> None:
    body = StopSessionRequest(session_id=SESSION)
    body["n"] = float("nan")
    play = stage.call(STOP, body=body)
    assert isinstance(play.step, Call)
    with pytest.raises(ValueError, match="JSON"):
        play.step.request()


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [(TOKEN, SessionTokenResponse), (START, LiveAvatarSessionResponse), (STOP, StopSessionResponse)],
)
@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_success_is_read_by_the_generated_parser_whatever_its_status(
    stage: Stage, endpoint: Endpoint[Any], kind: type[Any], status: int
) -> None:
    step = stage.request(endpoint)
    come = success(status)
    assert type(step.result(come)) is kind
    assert step.answer is come


def test_nothing_secret_of_a_request_is_in_the_error_when_the_service_echoes_it(stage: Stage) -> None:
    request = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a")
    request["room"] = {"livekit_client_token": "room-token"}
    play = stage.call(TOKEN, body=request)
    assert isinstance(play.step, Call)
    play.step.request()
    echo = json.dumps({"code": 4000, "message": "Not: the-api-key, room-token"}).encode()
    with pytest.raises(LiveAvatarApiError) as caught:
        play.step.result(Answer(400, {}, bytearray(echo)))
    assert caught.value.message == "Not: ***, ***"
    with pytest.raises(LiveAvatarApiError) as caught:
        stage.request(START).result(Answer(400, {}, bytearray(echo.replace(b"room-token", b"its-token"))))
    assert caught.value.message == "Not: ***, ***"


# ---- The low level: one endpoint each ----------------------------------------------------------------------


def test_a_token_is_created_with_the_api_key(stage: Stage) -> None:
    play = stage.play(stage.flows.create_session_token(REQUEST))
    step = play("token", MINTED)
    assert step.body.avatar_id == REQUEST.avatar_id
    assert step.deadline == 1000 + TIMEOUT
    assert play.result() is MINTED
    assert stage.open == []


@pytest.mark.parametrize(
    "error", [refused(429, retry_after="1"), refused(503), lost(), lost(sent=False)], ids=lambda error: str(error)
)
def test_start_session_sends_one_request_and_undoes_nothing(stage: Stage, error: LiveAvatarError) -> None:
    play = stage.play(stage.flows.start_session(Secret("its-token")))
    step = play("start", error)
    assert step.deadline == 1000 + TIMEOUT
    assert play.error(type(error)).attempts == 1
    assert stage.open == []


def test_start_session_answers_with_what_the_service_says(stage: Stage) -> None:
    play = stage.play(stage.flows.start_session(Secret("its-token")))
    play("start", STARTED)
    assert play.result() is STARTED


def test_stop_session_reports_what_the_service_says(stage: Stage) -> None:
    play = stage.play(stage.flows.stop_session(SESSION, Secret("its-token"), None))
    step = play("stop", refused(404))
    assert step.deadline == 1000 + TIMEOUT
    assert step.urgent is False
    assert step.body.to_dict() == {"session_id": SESSION}
    assert play.error(NotFoundError).session_id == SESSION
    play = stage.play(stage.flows.stop_session(SESSION, None, "USER_CLOSED"))
    step = play("stop with X-API-KEY", STOPPED)
    assert step.body.to_dict() == {"session_id": SESSION, "reason": "USER_CLOSED"}
    assert play.result() is STOPPED


def test_a_mistake_is_raised_before_anything_is_sent(stage: Stage) -> None:
    for flow in (
        stage.flows.create_session_token({"avatar_id": "x"}),
        stage.flows.new_session({"avatar_id": "x"}),
        stage.flows.stop_session(7, None, None),  # type: ignore[arg-type]
    ):
        stage.play(flow).error(TypeError)
    for flow in (
        stage.flows.stop_session("", None, None),
        stage.flows.stop_session(" ", None, None),
        stage.flows.stop_session(None, None, None),  # type: ignore[arg-type]
        stage.flows.stop_session(SESSION, None, "BORED"),
    ):
        stage.play(flow).error(ValueError)
    assert stage.open == []


# ---- Opening a session -------------------------------------------------------------------------------------


def test_a_new_session_is_a_token_and_a_start_within_one_deadline(stage: Stage) -> None:
    play = stage.play(stage.flows.new_session(REQUEST))
    first = play("token", MINTED, takes=20)
    second = play("start", STARTED, takes=20)
    session = play.result()
    assert (session.session_id, session.access_token) == (SESSION, "room-token")
    assert session.raw_response is STARTED
    assert first.deadline == second.deadline == 1000 + TIMEOUT
    assert first.body.avatar_id == REQUEST.avatar_id
    assert second.body is None
    assert not first.urgent
    assert not second.urgent
    assert stage.open == [SESSION]
    assert stage.sessions.latest_token == "its-token"


def test_a_session_is_known_before_its_start_leaves_and_opened_after(stage: Stage) -> None:
    play = stage.play(stage.flows.new_session(REQUEST))
    assert stage.open == []
    play("token", MINTED)
    assert stage.open == [SESSION]
    assert stage.sessions.latest_token is None
    play("start", STARTED)
    assert stage.sessions.latest_token == "its-token"


@pytest.mark.parametrize("error", [refused(401), lost(), unusable(), KeyboardInterrupt()], ids=repr)
def test_without_a_token_there_is_nothing_to_undo(stage: Stage, error: BaseException) -> None:
    stage.retries(0)
    play = stage.play(stage.flows.new_session(REQUEST))
    play("token", error)
    assert play.error(type(error)) is error
    assert stage.open == []
    assert stage.warnings == []


@by_error(NEVER_STARTED)
def test_a_session_that_never_started_is_not_stopped(stage: Stage, error: LiveAvatarError) -> None:
    stage.retries(0)
    play = stage.starting()
    play("start", error)
    assert play.error(type(error)) is error
    assert error.session_may_be_running is False
    assert error.session_id == SESSION
    assert stage.open == []
    assert stage.warnings == []
    stage.close().error(SessionTokenNotFoundError)


@by_error(MAY_HAVE_STARTED)
def test_a_session_that_may_have_started_is_stopped_before_the_error_is_raised(
    stage: Stage, error: LiveAvatarError
) -> None:
    stage.retries(0)
    play = stage.starting()
    play("start", error, takes=20)
    assert play.sheltered
    assert play.apart
    assert stage.open == [SESSION]
    step = play("stop", STOPPED)
    assert step.urgent
    assert step.deadline == 1020 + RESCUE_TIME
    assert step.body.to_dict() == {"session_id": SESSION}
    assert play.error(type(error)) is error
    assert error.session_may_be_running is False
    assert not hasattr(error, "__notes__")
    assert stage.open == []
    assert stage.warnings == []


@pytest.mark.parametrize("kind", INTERRUPTIONS)
def test_a_start_that_is_interrupted_is_undone_and_the_interruption_raised(
    stage: Stage, kind: type[BaseException]
) -> None:
    play = stage.starting()
    play("start", kind())
    assert play.apart
    play("stop", STOPPED)
    error = play.error(kind)
    assert error.session_may_be_running is False  # type: ignore[attr-defined]
    assert error.session_id == SESSION  # type: ignore[attr-defined]
    assert stage.open == []
    assert stage.warnings == []


def test_an_interruption_between_two_starts_is_undone_as_well(stage: Stage) -> None:
    play = stage.starting()
    play("start", refused(429))
    play("wait 0.5", KeyboardInterrupt())
    play("stop", STOPPED)
    play.error(KeyboardInterrupt)


def test_a_session_that_was_closed_before_its_start_was_answered_is_stopped_again_and_not_handed_out(
    stage: Stage,
) -> None:
    play = stage.starting()
    close = stage.close()
    close("stop", NotFoundError("404 No such session.", 404, ""))
    assert close.result().message
    play("start", STARTED)
    play("stop", STOPPED)
    error = play.error(LiveAvatarError)
    assert "was closed while it was being opened" in str(error)
    assert (error.session_id, error.session_may_be_running) == (SESSION, False)
    assert stage.open == []


def test_an_answer_that_cannot_be_handed_out_is_undone(stage: Stage) -> None:
    play = stage.starting()
    play("start", "no answer at all")
    play("stop", STOPPED)
    play.error(AttributeError)
    assert stage.open == []


@pytest.mark.parametrize(
    "error",
    [refused(408), refused(502), refused(504), refused(520), lost(), KeyboardInterrupt()],
    ids=lambda error: str(error) or "interrupted",
)
def test_a_stop_may_overtake_its_start_so_not_found_is_asked_three_times_more(
    stage: Stage, error: BaseException
) -> None:
    play = stage.starting()
    play("start", error)
    for pause in (0.5, 1, 2):
        play("stop", refused(404))
        play(f"wait {pause}")
        assert stage.open == [SESSION]
    play("stop", refused(404))
    assert play.error(type(error)) is error
    assert error.session_may_be_running is False  # type: ignore[attr-defined]
    assert stage.open == []


def test_the_start_that_was_overtaken_is_stopped(stage: Stage) -> None:
    play = stage.starting()
    play("start", refused(504))
    play("stop", refused(404))
    play("wait 0.5")
    play("stop", STOPPED)
    play.error(ServerError)


@pytest.mark.parametrize("error", [refused(301), refused(409), refused(500), refused(501), unusable()], ids=str)
def test_a_start_that_the_service_itself_has_answered_was_not_overtaken(stage: Stage, error: LiveAvatarError) -> None:
    play = stage.starting()
    play("start", error)
    play("stop", refused(404))
    assert play.error(type(error)).session_may_be_running is False


def test_doubts_end_with_the_time_there_is_for_a_rescue(stage: Stage) -> None:
    play = stage.starting()
    play("start", lost())
    play("stop", refused(404), takes=RESCUE_TIME - 0.5)  # no time for a pause of half a second
    play.error(LiveAvatarConnectionError)
    play = stage.starting()
    play("start", lost())
    play("stop", refused(404), takes=RESCUE_TIME - 0.51)
    play("wait 0.5")


def test_when_its_stop_fails_too_the_session_is_kept_and_the_error_says_so(stage: Stage) -> None:
    play = stage.starting()
    play("start", lost())
    for pause in (0.5, 1):
        play("stop", refused(503, "Closed for today"))
        play(f"wait {pause}")
    play("stop", refused(503, "Closed for today"))
    error = play.error(LiveAvatarConnectionError)
    assert error.session_may_be_running is True
    assert error.session_id == SESSION
    (note,) = error.__notes__
    assert re.fullmatch(
        rf"Session {SESSION} may still be running, for its stop failed too: 503 \(code 4000\) Closed for today.*"
        r"\. close_session\(\) tries again\.",
        note,
    )
    assert stage.open == [SESSION]
    assert stage.warned_of == "503 (code 4000) Closed for today. The fault is at the service; try again later."

    play = stage.close()
    play("stop", STOPPED)
    assert play.result() is STOPPED


@pytest.mark.parametrize("kind", INTERRUPTIONS)
def test_an_interruption_of_the_rescue_waits_for_it_and_takes_the_errors_place(
    stage: Stage, kind: type[BaseException]
) -> None:
    play = stage.starting()
    play("start", lost())
    play.interruption = kind()
    play("stop", STOPPED)
    error = play.error(kind)
    assert error.session_may_be_running is False  # type: ignore[attr-defined]
    assert stage.open == []


def test_an_interruption_of_a_rescue_that_fails_says_that_the_session_may_run(stage: Stage) -> None:
    stage.retries(0)
    play = stage.starting()
    play("start", lost())
    play.interruption = KeyboardInterrupt()
    play("stop", refused(503))
    error = play.error(KeyboardInterrupt)
    assert error.session_may_be_running is True  # type: ignore[attr-defined]
    assert error.__notes__ == [f"Session {SESSION} may still be running. close_session() tries again."]
    assert stage.open == [SESSION]


def test_interruptions_that_come_before_a_rescue_has_begun_do_not_skip_it(stage: Stage) -> None:
    play = stage.starting()
    last = SystemExit()
    play.startles = [KeyboardInterrupt(), last]
    play("start", lost())
    play("stop", STOPPED)
    assert play.error(SystemExit) is last
    assert last.session_may_be_running is False  # type: ignore[attr-defined]
    assert stage.open == []
    assert stage.warnings == []


def test_a_start_that_is_abandoned_asks_for_nothing_more_but_warns(stage: Stage) -> None:
    play = stage.starting()
    play.abandon()
    assert stage.warned_of == "GeneratorExit"
    assert stage.open == [SESSION]


def test_a_rescue_that_is_abandoned_warns_and_keeps_the_session(stage: Stage) -> None:
    play = stage.starting()
    play("start", lost())
    play.abandon()
    assert stage.warned_of == "GeneratorExit"
    assert stage.open == [SESSION]


def test_a_session_goes_by_the_id_that_its_start_names(stage: Stage) -> None:
    play = stage.starting()
    play("start", started(OTHER))
    assert play.result().session_id == OTHER
    assert stage.open == [OTHER]
    stage.close().error(SessionTokenNotFoundError)
    play = stage.close(OTHER)
    step = play("stop", STOPPED)
    assert step.body.to_dict() == {"session_id": OTHER}
    assert step.headers == {"Authorization": "Bearer its-token"}


def test_a_start_that_names_another_open_session_changes_no_id(stage: Stage) -> None:
    stage.starting()("start", STARTED)
    play = stage.play(stage.flows.new_session(REQUEST))
    play("token", minted(OTHER, "other-token"))
    play("start", started(SESSION))
    assert play.result().session_id == OTHER
    assert stage.open == [SESSION, OTHER]
    for session_id, token in ((SESSION, "its-token"), (OTHER, "other-token")):
        play = stage.close(session_id)
        step = play("stop", STOPPED)
        assert step.body.to_dict() == {"session_id": session_id}
        assert step.headers == {"Authorization": f"Bearer {token}"}


# ---- Closing a session -------------------------------------------------------------------------------------


def test_a_close_is_one_stop_with_the_sessions_own_token(stage: Stage) -> None:
    play = stage.closing()
    assert play.sheltered
    assert not play.apart  # Ctrl-C reaches it: a second try follows, and then the Ctrl-C
    step = play("stop", STOPPED)
    assert step.deadline == 1000 + TIMEOUT
    assert step.urgent is False
    assert step.body.to_dict() == {"session_id": SESSION}
    assert play.result() is STOPPED
    assert stage.open == []
    assert stage.warnings == []


@pytest.mark.parametrize("error", ENDED, ids=lambda error: error.message)
def test_closing_a_session_that_has_ended_by_itself_is_no_error(stage: Stage, error: LiveAvatarApiError) -> None:
    stage.retries(0)
    play = stage.closing()
    play("stop", error)
    assert play.result().message == error.message
    assert stage.open == []


def test_that_a_session_has_ended_is_asked_once(stage: Stage) -> None:
    play = stage.closing()
    play("stop", refused(409, "The session has already ended", retry_after="1"))
    assert play.result().message == "The session has already ended"


def test_a_token_that_is_no_longer_good_is_followed_by_the_api_key(stage: Stage) -> None:
    play = stage.closing()
    first = play("stop", refused(401))
    second = play("stop with X-API-KEY", STOPPED)
    assert first.body == second.body
    assert first.deadline == second.deadline
    assert play.result() is STOPPED


def test_when_the_api_key_is_no_good_either_the_session_is_kept(stage: Stage) -> None:
    play = stage.closing()
    play("stop", refused(401))
    play("stop with X-API-KEY", refused(401))
    error = play.error(AuthenticationError)
    assert error.session_may_be_running is True
    assert error.session_id == SESSION
    assert stage.open == [SESSION]


def test_a_rescue_with_the_api_key_is_as_urgent(stage: Stage) -> None:
    play = stage.starting()
    play("start", lost())
    play("stop", refused(401))
    assert play("stop with X-API-KEY", STOPPED).urgent


@pytest.mark.parametrize("error", [refused(503), refused(409), refused(403), lost()], ids=str)
def test_a_close_that_fails_can_be_tried_again(stage: Stage, error: LiveAvatarError) -> None:
    stage.retries(0)
    play = stage.closing()
    play("stop", error)
    assert play.error(type(error)) is error
    assert error.session_may_be_running is True
    assert stage.warned_of == str(error)
    assert stage.open == [SESSION]
    play = stage.close()
    play("stop", STOPPED)
    assert play.result() is STOPPED


def test_a_conflict_without_words_is_tried_again(stage: Stage) -> None:
    play = stage.closing()
    for pause in (0.5, 1):
        play("stop", refused(409))
        play(f"wait {pause}")
    play("stop", refused(409))
    play.error(ConflictError)


def test_of_two_closes_at_a_time_both_return(stage: Stage) -> None:
    stage.starting()("start", STARTED)
    first, second = stage.close(), stage.close()
    first("stop", STOPPED)
    assert first.result() is STOPPED
    second("stop", refused(404))
    assert second.result().message == "No"


def test_a_session_is_closed_once_and_only_where_it_was_opened(stage: Stage) -> None:
    stage.starting()("start", STARTED)
    stage.close()("stop", STOPPED)
    again = stage.close().error(SessionTokenNotFoundError)
    assert str(again) == f"No token for session '{SESSION}': it is closed already."
    assert again.session_id == SESSION
    never = stage.close(OTHER).error(SessionTokenNotFoundError)
    assert str(never) == (
        f"No token for session '{OTHER}': this client did not open it."
        " stop_session(session_id) stops any session of the account."
    )
    assert isinstance(never, ValueError)


@pytest.mark.parametrize("kind", INTERRUPTIONS)
def test_an_interrupted_stop_is_sent_again_with_five_seconds_and_then_the_interruption_raised(
    stage: Stage, kind: type[BaseException]
) -> None:
    play = stage.closing()
    play("stop", kind(), takes=3)
    step = play("stop", STOPPED)
    assert step.deadline == 1003 + RESCUE_TIME
    play.error(kind)
    assert stage.open == []
    assert stage.warnings == []


def test_an_interruption_does_not_lengthen_a_call(stage: Stage) -> None:
    play = stage.closing()
    play("stop", KeyboardInterrupt(), takes=TIMEOUT - 1)
    assert play("stop", STOPPED).deadline == 1000 + TIMEOUT


def test_a_pause_between_two_stops_is_cut_short_by_an_interruption(stage: Stage) -> None:
    play = stage.closing()
    play("stop", lost())
    play("wait 0.5", KeyboardInterrupt())
    play("stop", STOPPED)
    play.error(KeyboardInterrupt)


def test_of_several_interruptions_the_latest_is_raised_and_the_first_sets_the_time(stage: Stage) -> None:
    play = stage.closing()
    play("stop", KeyboardInterrupt())
    play("stop", asyncio.CancelledError(), takes=2)
    last = SystemExit()
    play("stop", last, takes=2)
    assert play("stop", STOPPED).deadline == 1000 + RESCUE_TIME
    assert play.error(SystemExit) is last
    assert stage.open == []


def test_interruptions_without_end_end_with_the_time(stage: Stage) -> None:
    play = stage.closing()
    play("stop", KeyboardInterrupt())
    play("stop", KeyboardInterrupt(), takes=RESCUE_TIME - 0.01)
    play("stop", KeyboardInterrupt(), takes=0.01)
    play.error(KeyboardInterrupt)
    assert stage.warned_of == "KeyboardInterrupt"
    assert stage.open == [SESSION]
    play = stage.close()
    play("stop", STOPPED)
    assert play.result() is STOPPED


def test_a_stop_that_fails_after_an_interruption_is_logged_and_the_interruption_raised(stage: Stage) -> None:
    stage.retries(0)
    play = stage.closing()
    play("stop", KeyboardInterrupt())
    play("stop", lost())
    play.error(KeyboardInterrupt)
    assert stage.warned_of == "KeyboardInterrupt"
    assert stage.open == [SESSION]


def test_a_close_that_is_interrupted_before_it_has_begun_can_be_tried_again(stage: Stage) -> None:
    stage.starting()("start", STARTED)
    flow = stage.flows.close_session(SESSION)
    next(flow)
    with pytest.raises(KeyboardInterrupt):
        flow.throw(KeyboardInterrupt())
    assert stage.warned_of == "KeyboardInterrupt"
    play = stage.close()
    play("stop", STOPPED)
    assert play.result() is STOPPED


def test_a_close_that_is_abandoned_asks_for_nothing_more_but_warns(stage: Stage) -> None:
    play = stage.closing()
    play.abandon()
    assert stage.warned_of == "GeneratorExit"
    play = stage.close()
    play("stop", STOPPED)
    assert play.result() is STOPPED


# ---- What a client remembers -------------------------------------------------------------------------------


def test_a_token_is_given_away_once_and_then_no_longer_ours_to_use(stage: Stage) -> None:
    stage.starting()("start", STARTED)
    assert stage.sessions.release(SESSION) == "its-token"
    assert stage.open == []
    with pytest.raises(SessionTokenNotFoundError, match="did not open it"):
        stage.sessions.release(SESSION)
    with pytest.raises(ValueError, match="session_id is None"):
        stage.sessions.release(None)  # type: ignore[arg-type]


def test_the_latest_token_is_of_the_session_opened_last_of_those_still_open(stage: Stage) -> None:
    for session_id, token in ((SESSION, "first"), (OTHER, "second")):
        play = stage.play(stage.flows.new_session(REQUEST))
        play("token", minted(session_id, token))
        play("start", started(session_id))
    assert stage.sessions.latest_token == "second"
    assert repr(stage.sessions) == "<2 open sessions>"
    stage.close(OTHER)("stop", STOPPED)
    assert stage.sessions.latest_token == "first"
    stage.close()("stop", STOPPED)
    assert stage.sessions.latest_token is None


def test_of_the_ended_sessions_the_latest_thousand_are_remembered_by_id(stage: Stage) -> None:
    ids = [f"session-{number}" for number in range(1025)]
    for session_id in ids:
        stage.sessions.forget(stage.sessions.remember(session_id, Secret("t")))
    assert "did not open it" in str(stage.close(ids[0]).error(SessionTokenNotFoundError))
    for session_id in (ids[1], ids[-1]):
        assert "closed already" in str(stage.close(session_id).error(SessionTokenNotFoundError))
    stage.sessions.forget(stage.sessions.remember(ids[1], Secret("t")))  # ended again: the latest now
    stage.sessions.forget(stage.sessions.remember("one-more", Secret("t")))
    assert "closed already" in str(stage.close(ids[1]).error(SessionTokenNotFoundError))
    assert "did not open it" in str(stage.close(ids[2]).error(SessionTokenNotFoundError))


def test_a_session_that_is_given_away_before_its_start_is_answered_is_its_callers_all_the_same(stage: Stage) -> None:
    play = stage.starting()
    assert stage.sessions.release(SESSION) == "its-token"
    play("start", started(OTHER))
    assert play.result().session_id == OTHER


def test_a_session_that_took_anothers_place_is_not_forgotten_with_it(stage: Stage) -> None:
    first = stage.sessions.remember(SESSION, Secret("first"))
    second = stage.sessions.remember(SESSION, Secret("second"))
    assert first not in stage.sessions
    stage.sessions.forget(first)
    assert second in stage.sessions


# ---- Whatever happens --------------------------------------------------------------------------------------

# What becomes of one step: whether the service does it ("late" is a while after it was given up), and what is heard.
Fate = tuple[str, Callable[[], BaseException] | None]

FINE: Fate = ("done", None)
DONE: list[Fate] = [("done", lost), ("done", lambda: ServerError("No", 504, "")), ("done", KeyboardInterrupt)]
LOST: list[Fate] = [
    ("lost", lambda: lost(sent=False)),
    ("lost", lost),
    ("lost", lambda: AuthenticationError("No", 401, "")),
    ("lost", lambda: RateLimitError("No", 429, "")),
    ("lost", lambda: ServerError("No", 503, "")),
    ("lost", KeyboardInterrupt),
]
LATE: list[Fate] = [("late", lost), ("late", lambda: ServerError("No", 504, "")), ("late", KeyboardInterrupt)]
ANSWERED: list[Fate] = [
    ("done", unusable),
    ("done", lambda: ConflictError("No", 409, "")),
    ("done", lambda: ServerError("No", 500, "")),
]
FATES: dict[str, list[Fate]] = {
    "start": [FINE, *DONE, *LOST, *LATE, *ANSWERED],
    "stop": [FINE, *DONE, *LOST, ("lost", lambda: ConflictError("No", 409, ""))],
    "wait": [FINE, LOST[-1]],
}


class Service:
    """What the service does, whatever is heard of it; it speaks of one session."""

    LATE = 1.25  # seconds after which a start that was given up arrives

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._arrivals: list[float] = []
        self.starts = 0
        self.running = False

    def do(self, endpoint: str) -> object:
        """Do what is asked, and answer."""
        if endpoint == "start":
            self.starts += 1
            self.running = True
            return STARTED
        was_running, self.running = self.running, False
        if was_running:
            return STOPPED
        return ConflictError("The session has already ended", 409, "") if self.starts else NotFoundError("No", 404, "")

    def meet(self, endpoint: str, fate: Fate) -> object:
        """What comes of a request that meets with this fate."""
        self.catch_up()
        done, heard = fate
        answer = self.do(endpoint) if done == "done" else None
        if done == "late":
            self._arrivals.append(self._clock.now + self.LATE)
        return heard() if heard else answer

    def catch_up(self, seconds: float = 0.0) -> None:
        """Let what is on its way arrive."""
        self._clock.now += seconds
        while self._arrivals and self._arrivals[0] <= self._clock.now:
            self._arrivals.pop(0)
            self.do("start")


class Story:
    """A client, its service, and what happens between them.

    `fates` are of the first steps, as places in FATES; then all goes well, or if `for_ever`, the last one stays for
    that kind of step. `deaf`: an interruption does not reach what is performed apart, but its caller, when it is done.
    """

    def __init__(
        self, stage: Stage, fates: tuple[int, ...] = (), *, for_ever: bool = False, deaf: bool = False
    ) -> None:
        self.stage, self.fates, self.for_ever, self.deaf = stage, fates, for_ever, deaf
        self.service = Service(stage.clock)
        self.steps: list[str] = []
        stage.retries(2)

    def tell(self, play: Play) -> Any:
        """Perform a flow to its end; what it returned or raised."""
        while play.step is not None:
            assert len(self.steps) < 500, "it goes on for ever"
            self.advance(play)
        return play.end

    def advance(self, play: Play) -> None:
        name = described(play.step).split()[0]
        fate = FATES[name][self._fate(name)]
        self.steps.append(name)
        if name == "wait":
            play(described(play.step), fate[1] and fate[1]())
            return
        self.stage.clock.now += 0.1
        outcome = self.service.meet(name, fate)
        if isinstance(outcome, KeyboardInterrupt) and self.deaf and play.apart and play.sheltered:
            play.interruption = outcome
            outcome = lost()
        play.go(outcome)

    def heal(self) -> None:
        self.fates, self.for_ever = (), False

    def _fate(self, name: str) -> int:
        place, last = len(self.steps), len(self.fates) - 1
        if place <= last:
            return self.fates[place]
        return self.fates[last] if self.for_ever and self.steps[last] == name else 0


def every_story(stage: Stage, check: Callable[[Story], None], *, depth: int) -> int:
    """Check all that can happen at the first `depth` steps of a story; how many stories that is."""
    told = 0
    pending: list[tuple[bool, tuple[int, ...]]] = [(False, ()), (True, ())]
    while pending:
        deaf, fates = pending.pop()
        story = Story(stage, fates, deaf=deaf)
        check(story)
        told += 1
        if fates and fates[-1]:
            check(Story(stage, fates, deaf=deaf, for_ever=True))
            told += 1
        if len(story.steps) > len(fates) < depth:
            choices = range(len(FATES[story.steps[len(fates)]]))
            pending += [(deaf, (*fates, choice)) for choice in choices]
    return told


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "liveavatar")


@pytest.mark.usefixtures("quiet")
def test_no_faults_of_any_kind_leave_a_session_behind(stage: Stage) -> None:
    def check(story: Story) -> None:
        end = story.tell(stage.starting())
        story.service.catch_up(100)
        assert story.service.starts <= 1, "a second session for one call"
        if not isinstance(end, BaseException):
            assert story.service.running
        elif not getattr(end, "session_may_be_running", False):
            assert not story.service.running
        else:
            assert SESSION in end.__notes__[-1]
            assert end.session_id == SESSION  # type: ignore[attr-defined]
        kept = not isinstance(end, BaseException) or getattr(end, "session_may_be_running", False)
        assert stage.open == ([SESSION] if kept else [])
        if kept:  # and then it can be closed
            story.heal()
            story.tell(stage.close())
            assert not story.service.running

    assert every_story(stage, check, depth=4) > 10_000


@pytest.mark.usefixtures("quiet")
def test_no_faults_of_any_kind_make_a_close_lose_a_session(stage: Stage) -> None:
    def check(story: Story) -> None:
        stage.starting()("start", story.service.do("start"))
        end = story.tell(stage.close())
        kept = bool(stage.open)
        assert kept or not story.service.running, "forgotten while it runs"
        assert kept <= isinstance(end, BaseException), "returned, but not confirmed"
        if kept:
            story.heal()
            story.tell(stage.close())
        assert stage.open == []
        assert not story.service.running

    assert every_story(stage, check, depth=3) > 1_000


def test_a_flow_that_is_abandoned_asks_for_nothing_more_and_warns_of_what_may_run(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    def check(story: Story) -> None:
        caplog.clear()
        play = stage.starting()
        while play.step is not None and len(story.steps) < len(story.fates):
            story.advance(play)
        if play.step is None:
            story.steps = []  # nothing is left to abandon
            return
        story.steps.append(described(play.step).split()[0])
        play.abandon()
        story.service.catch_up(100)
        assert not story.service.running or stage.open == [SESSION]
        assert stage.warned_of if stage.open else not stage.warnings

    assert every_story(stage, check, depth=3) > 500
