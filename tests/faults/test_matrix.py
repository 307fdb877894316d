"""Every fault of the table, in both clients: what the caller gets, what the server counts, what still runs.

And no secret shows, whatever the fault: every one here begins with CANARY, and is looked for.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import pytest
from liveavatar import LiveAvatarApiError, LiveAvatarError, StandardSessionResponse

from tests.clients import FLAVOURS, observe_aiohttp
from tests.faults import server as fault
from tests.faults.canaries import leaks
from tests.faults.cases import BODIES, CASES, EXTRA_CASES, LIMITS, STATUSES, WIRE, Case, says, session_request
from tests.faults.conftest import KEY, FastRetries, opened
from tests.faults.server import FaultServer

OBSERVED = {next(case.id for case in CASES if case.row == row) for row in dict.fromkeys(each.row for each in CASES)}
"""The first case of each row: these also run while aiohttp is instrumented."""


def in_both(*cases: Case) -> pytest.MarkDecorator:
    """Run the cases in both clients; and some in the async one through an instrumented aiohttp session."""
    runs = [(case, flavour, flavour, []) for case in cases for flavour in FLAVOURS]
    runs += [(case, "async", "async observed", [pytest.mark.observed]) for case in cases if case.id in OBSERVED]
    return pytest.mark.parametrize(
        ("case", "flavour"),
        [
            pytest.param(case, flavour, id=f"{name}-{case.id}", marks=[pytest.mark.row(case.row), *marks])
            for case, flavour, name, marks in runs
        ],
    )


@pytest.fixture(autouse=True)
def _observed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("observed"):
        observe_aiohttp(monkeypatch)


def run(case: Case, flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "liveavatar")
    with opened(flavour, server, timeout=case.timeout) as api:
        begin = {"close_session": api.new_session, "stop_session": api.new_session, "start_session": None}
        session_id = token = None
        if case.method in ("close_session", "stop_session"):
            session_id = begin[case.method](session_request()).session_id
        if case.method == "start_session":
            token = api.create_session_token(session_request()).data.session_token
        server.settle()
        server.ledger.forget_requests()
        running_before = set(server.ledger.running)
        case.arm(server)
        arguments = {
            "new_session": (session_request(),),
            "close_session": (session_id,),
            "stop_session": (session_id,),
            "start_session": (token,),
        }[case.method]
        method = getattr(api, case.method)

        value: Any = None
        error: LiveAvatarError | None = None
        if case.raises is None:
            value = method(*arguments)
        else:
            with pytest.raises(LiveAvatarError) as caught:
                method(*arguments)
            error = caught.value

        if error is not None:
            check_error(case, error, server)
        elif case.method == "new_session":
            assert isinstance(value, StandardSessionResponse)
        if case.check is not None:
            assert case.check(error if error is not None else value)
        check_requests(server)
        assert leaks(error, value, api, caplog) == []
        server.settle()
        left = server.ledger.running
        if error is None:
            still_known = {value.session_id} if case.method == "new_session" else set()
        else:
            still_known = {error.session_id} if case.may_run and case.method == "close_session" else set()
        assert server.ledger.bytes_sent < 32 * 1024 * 1024, "the client read on and on"
        if case.method in ("new_session", "close_session"):
            assert set(api.open_sessions) == still_known
        if case.at_most:
            assert all(counted <= bound for counted, bound in zip(server.counts, case.counts, strict=True))
        else:
            assert server.counts == case.counts
        assert left == expected_running(case, value, error, running_before, server)


def check_error(case: Case, error: LiveAvatarError, server: FaultServer) -> None:
    assert case.raises is not None
    assert type(error) is case.raises or (not case.exact and isinstance(error, case.raises)), repr(error)
    assert says(case, error), str(error)
    assert "\n" not in str(error)
    assert error.endpoint == f"/v1/sessions/{case.on}"
    assert error.session_may_be_running is case.may_run
    if case.method in ("new_session", "close_session") and case.on != "token":
        assert error.session_id == server.ledger.minted[-1]
    if isinstance(error, LiveAvatarApiError):
        assert len(error.response_text) <= 64 * 1024


def expected_running(
    case: Case, value: Any, error: LiveAvatarError | None, before: set[str], server: FaultServer
) -> set[str]:
    """What the fault must leave running: sessions handed out, and those whose stop the service did not do."""
    if case.method == "new_session":
        return {value.session_id} if error is None else set()
    really_stopped = set(server.ledger.stops)
    claimed_ended = error is None and not really_stopped  # the service said so without doing it
    return before if error is not None or claimed_ended else before - really_stopped


def check_requests(server: FaultServer) -> None:
    """Each request carried the one credential it may carry, and nothing else that could be one."""
    for request in server.ledger.requests:
        assert (request.api_key is None) != (request.bearer is None)
        if request.endpoint == "token":
            assert request.api_key == KEY
        if request.endpoint == "start":
            assert request.bearer in server.ledger.token_of
        if request.api_key is not None:
            assert request.api_key == KEY
        assert request.header("cookie") is None
        assert request.header("accept-encoding") == "identity"


@in_both(*WIRE)
def test_connection(
    case: Case, flavour: str, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken connection ends in a value or a connection error, and leaves nothing running."""
    run(case, flavour, server, caplog)


@in_both(*STATUSES)
def test_status(
    case: Case, flavour: str, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """Each status has its error, and its number of requests."""
    run(case, flavour, server, caplog)


@in_both(*BODIES)
def test_body(
    case: Case, flavour: str, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """The body of a success is a value or a typed error."""
    run(case, flavour, server, caplog)


@in_both(*LIMITS)
def test_rate_limit(
    case: Case, flavour: str, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """A rate limit is respected."""
    run(case, flavour, server, caplog)


@in_both(*EXTRA_CASES)
def test_extra_case(
    case: Case, flavour: str, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """Other faults of the same kinds have the same outcomes."""
    run(case, flavour, server, caplog)


@pytest.mark.row("B8")
@pytest.mark.parametrize("on", ["token", "start"])
def test_unsolicited_response(on: str, flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """An unsolicited response is not taken for the response to the next request."""
    stray = fault.message(200, {"code": 1000, "data": None, "message": "stopped"})
    with opened(flavour, server) as api:
        server.on(on, fault.says_too_much(stray), 1)
        with contextlib.suppress(LiveAvatarError):
            api.close_session(api.new_session(session_request()).session_id)
        assert api.open_sessions == ()
        token, start, stop = server.counts
        assert (token, stop) == (1, start)
        assert server.running == set()


@pytest.mark.row("B8")
def test_connection_after_unsolicited_response(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """The connection of an unsolicited response is not used again."""
    stray = fault.message(200, {"code": 1000, "data": None, "message": "stopped"})
    with opened(flavour, server) as api:
        server.on("token", fault.says_too_much(stray), 1)
        with contextlib.suppress(LiveAvatarError):
            api.create_session_token(session_request())
        for _ in range(3):
            api.close_session(api.new_session(session_request()).session_id)
    assert server.counts == (4, 3, 3)
    assert server.running == set()


@pytest.mark.row("B4")
def test_closed_while_idle(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A connection that the service closed while it was idle causes no error."""
    with opened(flavour, server) as api:
        server.on("start", fault.leaves, 1)
        session = api.new_session(session_request())
        server.settle()
        api.close_session(session.session_id)
        assert server.counts == (1, 1, 1)
        assert server.running == set()


def test_case_ids() -> None:
    """No two cases have the same name."""
    names = [case.id for case in CASES]
    assert len(names) == len(set(names))


@pytest.mark.row("B4")
@pytest.mark.parametrize("how", [fault.resets, fault.hangs_up])
def test_stop_lost(how: Any, flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A stop that was carried out is a success, although its response was lost."""
    with opened(flavour, server) as api:
        session = api.new_session(session_request())
        server.on("stop", how(acts=True), 1)
        api.close_session(session.session_id)
        assert api.open_sessions == ()
        # The repeated stop hears "already stopped", which is repeated as any conflict is.
        token, start, stop = server.counts
        assert (token, start) == (1, 1)
        assert 2 <= stop <= 3
        assert server.running == set()


@pytest.mark.row("C3")
def test_stop_with_api_key(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """After a 401, the API key stops the session."""
    with opened(flavour, server) as api:
        session = api.new_session(session_request())
        server.on("stop", fault.refuses(401, "Expired"), 1)
        api.close_session(session.session_id)
        first, second = server.ledger.of("stop")
        assert first.bearer is not None
        assert first.api_key is None
        assert second.bearer is None
        assert second.api_key == KEY
        assert second.json["session_id"] == session.session_id
        assert server.counts == (1, 1, 2)
        assert server.running == set()


@pytest.mark.row("C16")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("on", ["token", "start"])
def test_redirect(status: int, on: str, flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A redirect is an error, and the other host receives nothing."""
    with fault.serving() as other, opened(flavour, server) as api:
        server.on(on, fault.redirects(status, other.url, acts=on == "start"))
        with pytest.raises(LiveAvatarApiError) as caught:
            api.new_session(session_request())
        assert type(caught.value) is LiveAvatarApiError
        assert caught.value.status == status
        assert caught.value.session_may_be_running is False
        assert other.counts == (0, 0, 0)
        assert other.ledger.connections == 0
        assert server.counts == ((1, 0, 0) if on == "token" else (1, 1, 1))
        assert server.running == set()


@pytest.mark.row("C16")
def test_redirected_stop(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A redirected stop is an error, and the session stays tracked."""
    with fault.serving() as other, opened(flavour, server) as api:
        session = api.new_session(session_request())
        server.on("stop", fault.redirects(307, other.url))
        with pytest.raises(LiveAvatarApiError) as caught:
            api.close_session(session.session_id)
        assert caught.value.session_may_be_running is True
        assert api.open_sessions == (session.session_id,)
        assert other.ledger.connections == 0
        assert server.counts == (1, 1, 1)
        assert server.running == {session.session_id}


@pytest.mark.row("C12")
@pytest.mark.parametrize(
    ("words", "behaviour"),
    [
        ("held, then the client leaves", fault.starts_late(0.2)),
        ("answered by a gateway", fault.starts_late(0.2, answer=fault.answers(504, "<html>Gateway time-out</html>"))),
        ("reset", fault.starts_late(0.2, answer=fault.resets())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_stop_before_start(words: str, behaviour: Any, flavour: str, server: FaultServer) -> None:
    """A stop that arrives before its start is sent again until the session is stopped."""
    with opened(flavour, server, timeout=0.5 if "held" in words else 10) as api:
        server.on("start", behaviour, 1)
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(session_request())
        assert caught.value.session_may_be_running is False
        assert server.counts == (1, 1, 2)
        assert server.running == set()
        assert len(server.ledger.starts) == 1
