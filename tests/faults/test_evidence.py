"""H. What proves that a session does not run: a stop can overtake the start it undoes, and a status can mislead."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from liveavatar import ConcurrencyLimitError, LiveAvatarApiError, LiveAvatarError

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries, opened
from tests.faults.server import Behaviour, FaultServer

HTML = "<html><body>Bad gateway</body></html>"

LOST_STARTS: dict[str, Behaviour | None] = {
    "no response": None,
    "reset": fault.resets(),
    "closed": fault.hangs_up(),
    "half a head": fault.sends(b"HTTP/1.1 20", acts=False),
    "500": fault.refuses(500, "Internal error"),
    "502": fault.answers(502, HTML),
    "504": fault.answers(504, HTML),
    "520": fault.answers(520, HTML),
    "307": fault.answers(307, b"", {"Location": "http://127.0.0.1:1/"}),
    "304": fault.answers(304),
    "409 busy": fault.refuses(409, "Another start of this session is in progress"),
    "409 concurrent": fault.refuses(409, "Session already started by a concurrent request"),
    "409 credit": fault.refuses(409, "Session already started; a credit was reserved"),
    "201 without data": fault.answers(201, {"code": 1000, "data": None, "message": "ok"}),
    "201 with an error": fault.answers(201, {"code": 5000, "data": None, "message": "Internal error"}),
    "202 and HTML": fault.answers(202, HTML),
    "204": fault.answers(204),
    "408": fault.answers(408, b""),
    "425": fault.answers(425, b""),
    "499": fault.answers(499, b""),
}
"""Responses to a start that do not tell whether it will be carried out; None is no response."""

NOT_YET: dict[str, Behaviour] = {
    "404": fault.refuses(404, "Session not found"),
    "404 and HTML": fault.answers(404, HTML),
    "404 and nothing": fault.answers(404, b""),
    "409 not active": fault.refuses(409, "Session is not active"),
    "409 not running": fault.refuses(409, "The session is not running"),
    "409 not active yet": fault.refuses(409, "Session is not active yet"),
    "409 not started": fault.refuses(409, "Session has not been started"),
    "409 unknown": fault.refuses(409, "Conflict"),
    "200 with an error": fault.answers(200, {"code": 4040, "data": None, "message": "Session not found"}),
}
"""How a service refuses to stop a session that has not started yet."""


def at_once(forms: Mapping[str, Any], check: Callable[[Any], None]) -> None:
    """Check every form in a thread of its own, since most of the time they wait."""

    def failure(form: Any) -> str | None:
        try:
            check(form)
        except BaseException as error:
            return f"{type(error).__name__}: {error}"[:400]
        return None

    with ThreadPoolExecutor(len(forms)) as threads:
        failures = dict(zip(forms, threads.map(failure, forms.values()), strict=True))
    assert {name: why for name, why in failures.items() if why} == {}


def overtaken(lost: Behaviour | None, refusal: Behaviour, seconds: float, flavour: str) -> Callable[[Any], None]:
    def check(found: Callable[[LiveAvatarError, FaultServer, Any], None]) -> None:
        with FaultServer() as server, opened(flavour, server, timeout=10 if lost else 0.4) as api:
            server.on("start", fault.starts_late(seconds, answer=lost), 1)
            server.on("stop", fault.until_started(refusal))
            with pytest.raises(LiveAvatarError) as caught:
                api.new_session(session_request())
            found(caught.value, server, api)

    return check


STARTS = {f"{name}, stop refused by 404": (lost, NOT_YET["404"]) for name, lost in LOST_STARTS.items()}
STOPS = {f"reset, stop refused by {name}": (LOST_STARTS["reset"], refusal) for name, refusal in NOT_YET.items()}
PAIRS = STARTS | STOPS


@pytest.mark.row("H4")
def test_stop_that_overtakes_its_start_is_sent_again(flavour: str) -> None:
    """A stop is refused because the session has not started; 0.3 s later it starts, and is stopped."""

    def found(error: LiveAvatarError, server: FaultServer, api: Any) -> None:
        assert error.session_may_be_running is False
        assert server.running == set()
        assert len(server.ledger.starts) == 1
        assert server.ledger.counts[1] == 1
        assert api.open_sessions == ()

    at_once(PAIRS, lambda pair: overtaken(*pair, 0.3, flavour)(found))


@pytest.mark.row("H4")
def test_start_after_the_cleanup_is_not_called_stopped(
    flavour: str, short_cleanup: float, caplog: pytest.LogCaptureFixture
) -> None:
    """If the session starts after the last stop, the error says that it may run, and the token is kept."""

    def found(error: LiveAvatarError, server: FaultServer, api: Any) -> None:
        (session_id,) = server.ledger.minted
        assert error.session_may_be_running is True
        assert error.session_id == session_id
        assert any(session_id in note for note in error.__notes__)
        assert api.open_sessions == (session_id,)
        assert server.running == {session_id}
        api.close_session(session_id)
        assert server.running == set()
        assert api.open_sessions == ()

    caplog.set_level(logging.WARNING, "liveavatar")
    at_once(PAIRS, lambda pair: overtaken(*pair, short_cleanup + 1.0, flavour)(found))
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == len(PAIRS)


@pytest.mark.row("H4")
def test_session_that_never_starts_is_bounded_in_time(flavour: str, short_cleanup: float) -> None:
    """A service that never knows the session does not hold the caller longer than a cleanup may take."""
    with FaultServer() as server, opened(flavour, server) as api:
        server.stops_minted = False
        server.on("start", fault.resets())
        began = time.monotonic()
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(session_request())
        assert time.monotonic() - began < short_cleanup + 5
        assert caught.value.session_may_be_running is True
        assert server.running == set()
        server.stops_minted = True


ALREADY: dict[str, Behaviour] = {
    "409 already stopped": fault.refuses(409, "Session already stopped"),
    "409 is already ended": fault.refuses(409, "Session is already ended"),
    "409 has ended": fault.refuses(409, "Session has ended"),
    "409 was closed": fault.refuses(409, "This session was closed"),
    "409 has expired": fault.refuses(409, "The session has expired"),
}


@pytest.mark.row("H4")
def test_stop_that_says_already_stopped_is_proof(flavour: str, fast_retries: FastRetries) -> None:
    """A session that the service calls stopped or ended is not asked for again."""

    def check(refusal: Behaviour) -> None:
        with FaultServer() as server, opened(flavour, server) as api:
            server.on("start", fault.resets(), 1).on("stop", refusal)
            with pytest.raises(LiveAvatarError) as caught:
                api.new_session(session_request())
            assert caught.value.session_may_be_running is False
            assert api.open_sessions == ()

    at_once(ALREADY, check)


@pytest.mark.row("H4")
def test_unknown_session_is_proof_after_a_start_that_is_known(flavour: str, fast_retries: FastRetries) -> None:
    """A 404 for a session that was handed out means that it has ended."""
    with FaultServer() as server, opened(flavour, server) as api:
        session_id = api.new_session(session_request()).session_id
        server.on("stop", fault.refuses(404, "Session not found"))
        api.close_session(session_id)
        assert api.open_sessions == ()
        assert server.counts == (1, 1, 1)


# ---------------------------------------------------------------------------------------------------------------
# Which statuses say that a start was refused.

REFUSALS = (400, 401, 402, 403, 404, 422, 429)
UNDOCUMENTED = sorted({*range(400, 452), 460, 494, 495, 498, 499} - {*REFUSALS, 409})


@pytest.mark.row("H5")
@pytest.mark.parametrize("body", ["json", "html"])
def test_undocumented_status_stops_the_session(body: str, flavour: str, fast_retries: FastRetries) -> None:
    """A start with a status that is no documented refusal may have been carried out; it is stopped."""
    with FaultServer() as server, opened(flavour, server) as api:
        for status in UNDOCUMENTED:
            content: object = {"code": status * 10, "data": None, "message": "No"} if body == "json" else HTML
            server.on("start", fault.answers(status, content, acts=True), 1)
            with pytest.raises(LiveAvatarApiError) as caught:
                api.new_session(session_request())
            assert caught.value.status == status
            assert caught.value.session_may_be_running is False
            assert server.running == set(), status
        assert server.counts == (len(UNDOCUMENTED),) * 3
        assert api.open_sessions == ()


@pytest.mark.row("H5")
def test_undocumented_status_of_start_session_may_run(flavour: str, fast_retries: FastRetries) -> None:
    """start_session stops nothing, and says that the session may run."""
    with FaultServer() as server, opened(flavour, server) as api:
        for status in (*UNDOCUMENTED, 302, 500, 503):
            token = api.create_session_token(session_request()).data.session_token
            server.on("start", fault.answers(status, HTML, acts=True), 1)
            with pytest.raises(LiveAvatarApiError) as caught:
                api.start_session(token)
            assert caught.value.session_may_be_running is True, status
        assert server.counts[2] == 0


@pytest.mark.row("H5")
def test_documented_refusals_send_no_stop(flavour: str, fast_retries: FastRetries) -> None:
    """After a refusal there is no session to stop."""
    with FaultServer() as server, opened(flavour, server, max_retries=0) as api:
        for status in REFUSALS:
            server.on("start", fault.refuses(status, "Refused"), 1)
            with pytest.raises(LiveAvatarApiError) as caught:
                api.new_session(session_request())
            assert caught.value.session_may_be_running is False
        assert server.counts == (len(REFUSALS), len(REFUSALS), 0)
        assert api.open_sessions == ()


CONFLICTS = {
    "Session already started; concurrent start detected": True,
    "A concurrent request has started this session": True,
    "Session was started concurrently": True,
    "Session already started, 1 credit was charged": True,
    "Credits are being charged for this running session": True,
    "Session is already started": True,
    "Concurrent start request for this session": True,
    "A concurrent request is starting this session": True,
    "Optimistic concurrency check failed after max attempts": True,
    "Concurrent update of the session: maximum retries exceeded": True,
    "A concurrent request reached the session first": True,
    "You are over the limit of concurrent requests to this session": True,
    "Concurrent session limit exceeded": False,
    "CONCURRENCY_LIMIT_EXCEEDED": False,
    "Session concurrency exceeded": False,
    "You have reached your limit of 3 concurrent sessions": False,
    "Concurrency limit reached": False,
    "Too many concurrent sessions": False,
    "Maximum number of concurrent sessions reached (5)": False,
}
"""The message of a 409 to a start, and whether the session may have been started all the same."""


@pytest.mark.row("H5")
@pytest.mark.parametrize(("words", "started"), CONFLICTS.items())
def test_conflict_on_start(words: str, started: bool, flavour: str, fast_retries: FastRetries) -> None:
    """A 409 means that nothing was started only if it tells of the concurrency limit, and of nothing else."""
    with FaultServer() as server, opened(flavour, server, max_retries=0) as api:
        server.on("start", fault.answers(409, {"code": 4090, "data": None, "message": words}, acts=started), 1)
        with pytest.raises(LiveAvatarApiError) as caught:
            api.new_session(session_request())
        assert caught.value.session_may_be_running is False
        assert server.running == set()
        assert server.counts == (1, 1, 1 if started else 0)
        assert api.open_sessions == ()
        if not started:
            assert isinstance(caught.value, ConcurrencyLimitError)


@pytest.mark.row("H5")
def test_error_under_a_success_status_is_no_refusal(flavour: str, fast_retries: FastRetries) -> None:
    """A 2xx with an error in its envelope is no proof that nothing was started, whatever its message."""
    with FaultServer() as server, opened(flavour, server, max_retries=0) as api:
        for words in ("Not enough credits", "Concurrency limit reached", "Invalid session token", "Not found"):
            envelope = json.dumps({"code": 4000, "data": None, "message": words}).encode()
            server.on("start", fault.answers(200, envelope, acts=True), 1)
            with pytest.raises(LiveAvatarApiError) as caught:
                api.new_session(session_request())
            assert caught.value.session_may_be_running is False
            assert server.running == set(), words
        assert api.open_sessions == ()
