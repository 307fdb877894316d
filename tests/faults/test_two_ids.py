"""A start whose response names another session than its token: either may be running, so both are stopped."""

from __future__ import annotations

import json
import logging
import sys
import threading
from typing import Any
from unittest import mock

import pytest
from liveavatar import (
    BadResponseError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    LiveAvatarTimeoutError,
    NotFoundError,
    SessionTokenNotFoundError,
)

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries, opened
from tests.faults.pools import driven, outcome
from tests.faults.server import Exchange, FaultServer

OTHER = "11111111-0000-4000-8000-000000000000"


def names_another(exchange: Exchange, gate: threading.Event | None = None) -> None:
    """As the service does, but the response names another session, and comes when the gate is open."""
    status, body = exchange.do()
    if gate is not None:
        fault.waits_for(gate, lambda exchange: None)(exchange)
    exchange.answer(status, body | {"data": body["data"] | {"session_id": OTHER}})


@pytest.fixture
def api(api: Any, server: FaultServer) -> Any:
    server.on("start", names_another)
    return api


def stopped_ids(server: FaultServer) -> list[str]:
    return [request.json["session_id"] for request in server.ledger.of("stop")]


@pytest.mark.row("H4")
def test_close(api: Any, server: FaultServer) -> None:
    """A close stops the session under the id of the response, and under that of its token."""
    assert api.new_session(session_request()).session_id == OTHER
    assert api.open_sessions == (OTHER,)
    api.close_session(OTHER)
    assert server.running == set()
    assert stopped_ids(server) == [OTHER, *server.ledger.minted]
    with pytest.raises(SessionTokenNotFoundError):
        api.close_session(OTHER)


@pytest.mark.row("H4")
@pytest.mark.parametrize("field", ["livekit_url", "livekit_client_token"])
@pytest.mark.parametrize("closed", ["meanwhile", "not"])
def test_start_cannot_be_returned(closed: str, field: str, flavour: str, fast_retries: FastRetries) -> None:
    """If the response names another session and violates the contract, both are stopped, also after a close."""
    gate = threading.Event()

    def answer(exchange: Exchange) -> None:
        status, body = exchange.do()
        exchange.server.ledger.state[OTHER] = "running"
        fault.waits_for(gate, lambda exchange: None)(exchange)
        exchange.answer(status, body | {"data": body["data"] | {"session_id": OTHER, field: None}})

    with driven(f"{flavour} own") as (server, api):
        server.on("start", answer)
        starting = api.begin("new_session", session_request())
        server.arrived("start")
        if closed == "meanwhile":
            api.call("close_all_sessions")
        gate.set()
        _, caught = outcome(starting)
        assert isinstance(caught, BadResponseError)
        assert (caught.session_id, caught.session_may_be_running) == (OTHER, False)
        assert set(stopped_ids(server)[-2:]) == set(server.ledger.minted)
        assert server.running == set()
        assert api.open_sessions == ()


@pytest.mark.row("H4")
def test_start_is_cut_off_at_its_end(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """The same if the connection is lost after the last byte that is needed."""

    def answer(exchange: Exchange) -> None:
        status, body = exchange.do()
        exchange.server.ledger.state[OTHER] = "running"
        content = json.dumps(body | {"data": body["data"] | {"session_id": OTHER}}).encode()
        head = f"HTTP/1.1 {status} Created\r\nContent-Length: {len(content) + 1}\r\n\r\n".encode()
        fault.sends(head + content)(exchange)

    server.on("start", answer)
    with opened(flavour, server) as api:
        with pytest.raises(LiveAvatarConnectionError) as caught:
            api.new_session(session_request())
        assert (caught.value.session_id, caught.value.session_may_be_running) == (OTHER, False)
        assert set(stopped_ids(server)) == set(server.ledger.minted)
        assert server.running == set()


@pytest.mark.row("H4")
def test_one_stop_fails(
    api: Any, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """While the stop under one id is not confirmed, the session may be running, and the log names both ids."""
    api.new_session(session_request())
    (minted,) = server.running
    server.on("stop", fault.normal, 1).on("stop", fault.answers(500), 3)
    with pytest.raises(LiveAvatarError) as caught:
        api.close_session(OTHER)
    assert (caught.value.session_id, caught.value.session_may_be_running) == (OTHER, True)
    assert f"Session {OTHER} or {minted} may still be running" in caplog.text
    assert api.open_sessions == (OTHER,)
    api.close_session(OTHER)
    assert server.running == set()


@pytest.mark.row("H4")
def test_first_stop_fails(api: Any, server: FaultServer, fast_retries: FastRetries) -> None:
    """A stop that fails under one id does not keep the client from stopping the session under the other."""
    api.new_session(session_request())
    server.on("stop", fault.refuses(403, "The token belongs to another session"), 1)
    with pytest.raises(LiveAvatarError) as caught:
        api.close_session(OTHER)
    assert (caught.value.session_id, caught.value.session_may_be_running) == (OTHER, True)
    assert server.running == set()
    assert api.open_sessions == (OTHER,)


@pytest.mark.row("H4")
def test_unusable_response(
    api: Any, server: FaultServer, fast_retries: FastRetries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the session cannot be returned to the caller, it is stopped under both ids."""
    monkeypatch.setattr("liveavatar._flows.StandardSessionResponse.from_response", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        api.new_session(session_request())
    assert caught.value.session_may_be_running is False  # type: ignore[attr-defined]
    assert server.running == set()
    assert stopped_ids(server) == [OTHER, *server.ledger.minted]


@pytest.mark.row("H4")
def test_keep_alive(api: Any, server: FaultServer) -> None:
    """That the service does not know one of the ids is no proof that the session has ended."""
    api.new_session(session_request())
    with pytest.raises(NotFoundError):
        api.keep_session_alive(OTHER)
    assert api.open_sessions == (OTHER,)
    api.close_session(OTHER)
    assert server.running == set()


@pytest.mark.row("H1", "H4")
def test_closed_meanwhile(flavour: str) -> None:
    """If the session is closed before the response arrives, it is stopped under both ids."""
    with driven(f"{flavour} own") as (server, api):
        gate = threading.Event()
        server.on("start", lambda exchange: names_another(exchange, gate))
        opening = api.begin("new_session", session_request())
        server.arrived("start")
        api.call("close_session", *api.open_sessions)
        gate.set()
        _, error = outcome(opening)
        assert isinstance(error, LiveAvatarError)
        assert error.session_may_be_running is False
        assert api.open_sessions == ()
        assert {*stopped_ids(server)} == {OTHER, *server.ledger.minted}


@pytest.mark.row("H1", "H4")
def test_started_after_its_stop(flavour: str, fast_retries: FastRetries) -> None:
    """A session that starts although its stop was confirmed before is tracked until it is stopped once more."""
    with driven(f"{flavour} own") as (server, api):
        gate = threading.Event()

        def starts_all_the_same(exchange: Exchange) -> None:
            with exchange.server.lock:
                (session,) = exchange.server.ledger.state
                exchange.server.begin(session)
            exchange.answer(*fault.envelope(201, 1000, "Session started", exchange.server.start_data(session)))

        server.on("start", fault.waits_for(gate, starts_all_the_same))
        opening = api.begin("new_session", session_request())
        server.arrived("start")
        api.call("close_session", *api.open_sessions)  # confirmed, though it has not started
        server.on("stop", fault.answers(500), 3)
        gate.set()
        _, error = outcome(opening)
        assert isinstance(error, LiveAvatarError)
        assert error.session_may_be_running is True
        assert api.open_sessions == (error.session_id,)
        api.call("close_session", error.session_id)
        assert server.running == set()


@pytest.mark.row("H4")
def test_token_of_an_open_session(api: Any, server: FaultServer) -> None:
    """A token for a session that is open already starts nothing, and the open session stays known."""
    server.on("start", fault.normal)
    opened_id = api.new_session(session_request()).session_id
    server.on("token", fault.edits(lambda body: body["data"].update(session_id=opened_id)), 1)
    server.on("start", fault.refuses(401, "no"), 1)
    with pytest.raises(LiveAvatarError, match=f"{opened_id}, which is open already"):
        api.new_session(session_request())
    assert api.open_sessions == (opened_id,)
    assert server.counts == (2, 1, 0)
    api.close_session(opened_id)
    assert server.running == set()


@pytest.mark.row("H4")
def test_token_proves_nothing(api: Any, server: FaultServer) -> None:
    """Both stops have the API key: the service may not know the running session by the token of the other."""
    api.new_session(session_request())
    api.close_session(OTHER)
    stops = server.ledger.of("stop")
    assert [(stop.api_key is not None, stop.bearer) for stop in stops] == [(True, None)] * 2


@pytest.mark.row("H4")
def test_stop_that_hangs(flavour: str, server: FaultServer) -> None:
    """A stop that hangs under one id leaves half of the time for the stop under the other."""
    server.on("start", names_another)
    with opened(flavour, server, timeout=1.0, max_retries=0) as api:
        api.new_session(session_request())
        server.on("stop", fault.holds(), 1)
        with mock.patch("liveavatar._flows.CLEANUP_TIMEOUT", 1.0), pytest.raises(LiveAvatarTimeoutError):
            api.close_session(OTHER)
        assert stopped_ids(server) == [OTHER, *server.ledger.minted]
        assert server.ledger.running == set()
        assert api.open_sessions == (OTHER,)


@pytest.mark.row("H4", "H14")
def test_release(api: Any, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """The log names both ids of a session that is released, and no frame that a log handler may print its token."""
    api.new_session(session_request())
    frames: list[str] = []

    def look(record: logging.LogRecord) -> bool:
        frame = sys._getframe()
        while (frame := frame.f_back) is not None:  # type: ignore[assignment]
            if frame.f_globals.get("__name__", "").startswith("liveavatar."):
                frames.append(repr(frame.f_locals))
        return True

    logger = logging.getLogger("liveavatar")
    logger.addFilter(look)
    try:
        token = api.release_session(OTHER)
    finally:
        logger.removeFilter(look)
    assert frames
    assert token not in "".join(frames)
    (minted,) = server.ledger.minted
    assert f"Session {OTHER} may also be running as {minted}" in caplog.text
