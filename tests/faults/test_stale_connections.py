"""H. Idle connections are not trusted: they may have spoken, have been closed, or have died without a sign."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from liveavatar import LiveAvatarError
from liveavatar._transports import _aiohttp_direct

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries, opened
from tests.faults.pools import FEW_POOLS, POOLS, driven
from tests.faults.server import FaultServer, message

over_every_pool = pytest.mark.parametrize("pool", POOLS)
over_few_pools = pytest.mark.parametrize("pool", FEW_POOLS)

STRAYS: dict[str, bytes] = {
    "a success": message(200, {"code": 1000, "data": None, "message": "Session stopped"}),
    "another session's token": message(
        200,
        {
            "code": 1000,
            "data": {"session_id": "99999999-0000-4000-8000-000000000000", "session_token": "CANARY-another"},
            "message": "ok",
        },
    ),
    "another session's room": message(
        201,
        {
            "code": 1000,
            "data": {
                "session_id": "99999999-0000-4000-8000-000000000000",
                "livekit_url": "wss://elsewhere.example.com",
                "livekit_client_token": "CANARY-another",
            },
            "message": "ok",
        },
    ),
    "an error": message(500, {"code": 5000, "data": None, "message": "Boo"}),
    "an interim response": b"HTTP/1.1 100 Continue\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "a line break": b"\r\n",
    "garbage": b"\x00\x01\x02",
}
IDLE_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def opens(api: Any) -> str:
    """Open a session, which must be given its own room; return its id."""
    session = api.call("new_session", session_request())
    number = int(session.session_id[-12:])
    assert session.access_token == f"CANARY-client-token-{number}"
    assert session.livekit_url == "wss://rooms.example.com"
    return str(session.session_id)


# ---------------------------------------------------------------------------------------------------------------
# Bytes that were not asked for.


@pytest.mark.row("H6")
@over_every_pool
def test_stray_bytes_are_no_response(pool: str) -> None:
    """What arrives on an idle connection is never taken for the response to the next request."""
    with driven(pool) as (server, api):
        for number, stray in enumerate(STRAYS.values()):
            with speaking_after(server, "start", stray, then_closes=number % 2 == 1):
                first = opens(api)
            with speaking_after(server, "stop", stray, then_closes=number % 2 == 1):
                api.call("close_session", first)
            assert server.running == set()
            second, third = opens(api), opens(api)
            api.call("close_session", second)
            assert server.running == {third}
            api.call("close_session", third)
        assert server.counts == (3 * len(STRAYS),) * 3
        assert server.running == set()


@contextlib.contextmanager
def speaking_after(server: FaultServer, endpoint: str, stray: bytes, *, then_closes: bool = False) -> Iterator[None]:
    """Let stray bytes follow the response to the request inside, once that has been read."""
    read = threading.Event()
    server.on(endpoint, fault.speaks_later(stray, read, then_closes=then_closes), 1)
    yield
    read.set()
    server.settle()


@pytest.mark.row("H6")
def test_stray_bytes_before_the_loop_has_read_them(flavour: str, server: FaultServer) -> None:
    """The same where no event loop has run since the bytes arrived."""
    with opened(flavour, server) as api:
        for stray in STRAYS.values():
            with speaking_after(server, "start", stray):
                first = api.new_session(session_request()).session_id
            with speaking_after(server, "stop", stray):
                api.close_session(first)
            assert server.running == set()
            second = api.new_session(session_request())
            assert second.access_token == f"CANARY-client-token-{int(second.session_id[-12:])}"
            api.close_session(second.session_id)
        assert server.counts == (2 * len(STRAYS),) * 3
        assert server.running == set()


@pytest.mark.row("H6")
@over_few_pools
@pytest.mark.parametrize("on", fault.ENDPOINTS)
def test_stray_bytes_right_behind_a_response(on: str, pool: str, fast_retries: FastRetries) -> None:
    """Bytes in the same packet as a response belong to nothing: the next call gets its own response."""
    with driven(pool) as (server, api):
        for stray in STRAYS.values():
            server.on(on, fault.says_too_much(stray), 1)
            with contextlib.suppress(LiveAvatarError):
                api.call("close_session", opens(api))
            assert server.running == set(api.open_sessions)
            server.heal()
            api.call("close_all_sessions")
            assert server.running == set()
            api.call("close_session", opens(api))
            assert server.running == set()


# ---------------------------------------------------------------------------------------------------------------
# Connections that the service has closed.


@pytest.mark.row("H7")
@over_every_pool
def test_unannounced_close_after_every_response(pool: str) -> None:
    """A service that closes after each response, without saying so, costs connections but no errors."""
    with driven(pool) as (server, api):
        for endpoint in fault.ENDPOINTS:
            server.on(endpoint, fault.closes_with_response)
        for _ in range(15):
            api.call("close_session", opens(api))
        assert server.counts == (15, 15, 15)
        assert server.running == set()


@pytest.mark.row("H7")
@over_few_pools
def test_close_of_an_idle_connection(pool: str) -> None:
    """A service that closes idle connections, with or without a 408, costs no errors."""
    with driven(pool) as (server, api):
        for stray in (b"", IDLE_TIMEOUT):
            for _ in range(5):
                with speaking_after(server, "start", stray, then_closes=True):
                    session_id = opens(api)
                with speaking_after(server, "stop", stray, then_closes=True):
                    api.call("close_session", session_id)
        assert server.counts == (10, 10, 10)
        assert server.running == set()


@pytest.mark.row("H7")
def test_close_of_an_idle_connection_before_the_loop_has_seen_it(flavour: str, server: FaultServer) -> None:
    """The same where no event loop has run since the connection was closed."""
    with opened(flavour, server) as api:
        for _ in range(5):
            server.on("start", fault.closes_with_response, 1).on("stop", fault.closes_with_response, 1)
            session_id = api.new_session(session_request()).session_id
            server.settle()
            api.close_session(session_id)
            server.settle()
            with speaking_after(server, "start", IDLE_TIMEOUT, then_closes=True):
                session_id = api.new_session(session_request()).session_id
            with speaking_after(server, "stop", IDLE_TIMEOUT, then_closes=True):
                api.close_session(session_id)
        assert server.counts == (10, 10, 10)
        assert server.running == set()


# ---------------------------------------------------------------------------------------------------------------
# Connections that died without a sign.


def with_idle_connections(server: FaultServer, api: Any, number: int = 4) -> list[str]:
    """Open sessions at once, so that as many connections lie idle at the end."""
    gate = threading.Event()
    server.on("token", fault.waits_for(gate), number)
    calls = [api.begin("new_session", session_request()) for _ in range(number)]
    for _ in calls:
        server.arrived("token")
    gate.set()
    ids = [call.result(20).session_id for call in calls]
    server.settle()
    return ids


@pytest.mark.row("H8")
@over_few_pools
def test_dead_connections_do_not_cost_a_close_its_time(pool: str, fast_retries: FastRetries) -> None:
    """A close on dead connections succeeds within its timeout: only part of it is spent on an old connection."""
    with driven(pool, timeout=2.0) as (server, api):
        first, *_ = with_idle_connections(server, api)
        server.freeze()
        api.call("close_session", first)
        assert first not in server.running
        server.freeze()
        api.call("close_all_sessions")
        assert server.running == set()
        assert api.open_sessions == ()


@pytest.mark.row("H8")
@over_few_pools
def test_dead_connections_do_not_cost_the_client_its_end(pool: str, fast_retries: FastRetries) -> None:
    """Closing the client stops all sessions although every idle connection is dead."""
    with driven(pool, timeout=2.0) as (server, api):
        with_idle_connections(server, api)
        server.freeze()
        api.call("close")
        assert api.open_sessions == ()
        assert server.running == set()


@pytest.mark.row("H8")
@over_few_pools
def test_dead_connections_do_not_cost_a_cleanup(
    pool: str, short_cleanup: float, fast_retries: FastRetries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop of a failed start takes a fresh connection: old ones may all be dead."""
    for module in ("_flows", "_transports._blocking", "_transports._asyncio"):
        monkeypatch.setattr(f"liveavatar.{module}.CLEANUP_TIMEOUT", 3 * short_cleanup)  # for more than one attempt
    with driven(pool, timeout=0.8) as (server, api):
        old = with_idle_connections(server, api)

        def begins_and_freezes(exchange: fault.Exchange) -> None:
            exchange.do()
            exchange.server.freeze()
            exchange.until_client_leaves()

        server.on("start", begins_and_freezes, 1)
        error = api.begin("new_session", session_request()).exception(20)
        assert isinstance(error, LiveAvatarError)
        assert error.session_id not in old
        assert error.session_may_be_running is False
        assert server.running == {*old} == {*api.open_sessions}


@pytest.mark.row("H8")
@over_few_pools
def test_dead_connections_do_not_cost_a_new_session(pool: str, fast_retries: FastRetries) -> None:
    """A token request on a dead connection is sent again on a fresh one, in time for the session."""
    with driven(pool, timeout=2.0) as (server, api):
        (old,) = with_idle_connections(server, api, 1)
        server.freeze()
        new = opens(api)
        assert server.running == {old, new}
        api.call("close")
        assert server.running == set()


# ---------------------------------------------------------------------------------------------------------------
# A new connection cannot have died while it was idle.


@pytest.mark.row("H8")
@pytest.mark.parametrize(
    ("pool", "tested"),
    [(pool, True) for pool in POOLS]
    + [(pool, False) for pool in ("async own", "async session", "async traced session", "async proxy")],
)
def test_new_connection_has_the_whole_timeout(pool: str, tested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a new connection, an attempt may take longer than its share of the timeout; with a newer aiohttp, too."""
    if not tested:
        monkeypatch.setattr(_aiohttp_direct, "_MAX_TESTED_VERSION", (0, 0))
    with driven(pool, timeout=3.0) as (server, api):
        server.on("token", fault.delays(1.3))
        api.call("create_session_token", session_request())
        assert server.counts[0] == 1
