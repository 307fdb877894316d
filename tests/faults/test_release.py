"""H14. A session is released once new_session has returned it, and not before; release and close never both win."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from liveavatar import LiveAvatarError, SessionTokenNotFoundError

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries, opened
from tests.faults.pools import driven, outcome
from tests.faults.server import FaultServer

pytestmark = pytest.mark.row("H14")


@pytest.mark.parametrize("phase", ["token", "start"])
def test_release_while_opening(phase: str, flavour: str) -> None:
    """A session that is being opened cannot be released; new_session then returns it, and it can."""
    with driven(f"{flavour} own") as (server, api):
        gate = threading.Event()
        server.on(phase, fault.waits_for(gate, fault.normal), 1)
        opening = api.begin("new_session", session_request())
        server.arrived(phase)
        session_id = server.ledger.minted[0] if phase == "start" else "00000000-0000-4000-8000-000000000001"
        with pytest.raises(SessionTokenNotFoundError) as caught:
            api.call("release_session", session_id)
        assert session_id in str(caught.value)
        gate.set()
        session = opening.result(20)
        assert api.open_sessions == (session.session_id,)
        token = api.call("release_session", session.session_id)
        assert server.ledger.token_of[token] == session.session_id
        assert api.open_sessions == ()
        assert server.running == {session.session_id}


def test_release_while_a_failed_start_is_stopped(flavour: str, fast_retries: FastRetries) -> None:
    """A session that is being stopped because its start failed cannot be released."""
    with driven(f"{flavour} own") as (server, api):
        gate = threading.Event()
        server.on("start", fault.answers(500, acts=True), 1)
        server.on("stop", fault.waits_for(gate), 1)
        opening = api.begin("new_session", session_request())
        server.arrived("stop")
        with pytest.raises(SessionTokenNotFoundError):
            api.call("release_session", server.ledger.minted[0])
        gate.set()
        _, error = outcome(opening)
        assert isinstance(error, LiveAvatarError)
        assert error.session_may_be_running is False
        assert server.running == set()


def test_release_after_a_failed_cleanup(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A session that was never returned, and may be running, is closed, not released."""
    with opened(flavour, server) as api:
        server.on("start", fault.answers(500, acts=True), 1)
        server.on("stop", fault.refuses(400, "No"), 1)
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(session_request())
        session_id = caught.value.session_id
        assert caught.value.session_may_be_running is True
        with pytest.raises(SessionTokenNotFoundError):
            api.release_session(session_id)
        assert api.open_sessions == (session_id,)
        api.close_session(session_id)
        assert server.running == set()


def test_release_inside_a_session_block(flavour: str, server: FaultServer) -> None:
    """A session that is released inside its block is not stopped at the block's end."""
    with opened(flavour, server) as api:
        with api.session(session_request()) as session:
            api.release_session(session.session_id)
        assert server.counts == (1, 1, 0)
        assert server.running == {session.session_id}


@pytest.mark.parametrize("other", ["release_session", "close_session", "close_all_sessions", "close", "leave"])
def test_release_against_another_call(other: str, flavour: str) -> None:
    """Release and close at the same moment: the session is either released and running, or closed."""
    with driven(f"{flavour} own") as (server, api):
        for _ in range(1 if other in ("close", "leave") else 15):
            session_id = api.call("new_session", session_request()).session_id
            arguments = [session_id] if other in ("release_session", "close_session") else []
            calls = [api.begin("release_session", session_id) for _ in range(2)]
            rival = api.begin(other, *arguments)
            calls.append(api.begin("release_session", session_id))
            tokens = [token for token, error in map(outcome, calls) if error is None]
            closed, error = outcome(rival)
            if other == "release_session" and error is None:
                tokens.append(closed)
            for _, failure in map(outcome, [*calls, rival]):
                assert failure is None or isinstance(failure, SessionTokenNotFoundError)
            assert len(tokens) <= 1, "two owners of one token"
            if tokens:
                assert server.ledger.token_of[tokens[0]] == session_id
            else:
                assert session_id not in server.running
            assert api.open_sessions == ()


def test_release_then_close_of_the_client(flavour: str) -> None:
    """What was released is neither stopped nor mentioned when the client is closed."""
    with driven(f"{flavour} own") as (server, api):
        ids: list[Any] = [api.call("new_session", session_request()).session_id for _ in range(4)]
        for session_id in ids[::2]:
            api.call("release_session", session_id)
        api.call("close")
        assert server.running == set(ids[::2])
        assert server.counts == (4, 4, 2)
