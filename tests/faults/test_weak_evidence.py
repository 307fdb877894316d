"""H. Messages and bodies that sound like the end of a session, and prove nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from liveavatar import (
    AsyncLiveAvatarApi,
    LedgerError,
    LiveAvatarApi,
    LiveAvatarApiError,
    LiveAvatarError,
    NotFoundError,
)

from tests import processes
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, UNMEASURED, FastRetries, opened
from tests.faults.pools import driven, outcome
from tests.faults.server import Exchange, FaultServer

ROOT = Path(__file__).parents[2]

NOT_AN_END = [
    "The session has not been stopped yet",
    "Session could not be stopped: it has not been closed",
    "Stop failed; no session was stopped",
    "Session is not active yet",
    "Previous connection was closed, try again",
    "Session token has expired",
]
AN_END = [
    "The session has already ended.",
    "Session already ended: out of credits",
    "Session 1 was stopped; nothing to do",
    "The session is not running",
]
FAILED_BODIES = [
    {"code": "5000", "message": "Stop failed", "data": None},
    {"code": 5000.0, "message": "Stop failed"},
    {"code": "ERR_STOP_FAILED"},
    {"code": 5001, "message": "room worker not found"},
    {"error": "internal"},
    {"success": False},
    {"detail": "Internal error"},
]


@pytest.mark.row("H4")
@pytest.mark.parametrize("message", NOT_AN_END)
def test_refused_stop(message: str, flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A refused stop whose message does not say that the session has ended leaves it open, and says so."""
    with opened(flavour, server, timeout=2.0) as api:
        session_id = api.new_session(session_request()).session_id
        server.on("stop", fault.refuses(409, message))
        with pytest.raises(LiveAvatarApiError) as caught:
            api.close_session(session_id)
        assert caught.value.session_may_be_running is True
        assert api.open_sessions == (session_id,)
        server.heal()
        api.close_session(session_id)
        assert server.running == set()


@pytest.mark.row("H4")
@pytest.mark.parametrize("message", AN_END)
def test_ended_session(message: str, flavour: str, server: FaultServer) -> None:
    """A refused stop that says that the session has ended is a success."""
    with opened(flavour, server) as api:
        session_id = api.new_session(session_request()).session_id
        server.on("stop", fault.refuses(409, message))
        api.close_session(session_id)
        assert api.open_sessions == ()


@pytest.mark.row("H4")
@pytest.mark.parametrize("body", FAILED_BODIES, ids=str)
def test_failure_under_success(
    body: dict[str, Any], flavour: str, server: FaultServer, fast_retries: FastRetries, short_cleanup: float
) -> None:
    """A 2xx response to a stop whose body says that it has failed is an error."""
    with opened(flavour, server, max_retries=0) as api:
        session_id = api.new_session(session_request()).session_id
        server.on("stop", fault.answers(200, body))
        with pytest.raises(LiveAvatarApiError):
            api.close_session(session_id)
        assert api.open_sessions == (session_id,)


@pytest.mark.row("H4")
@pytest.mark.parametrize("body", [{"code": "1000"}, {"code": 100.0, "data": None}, {"code": 1000}, {}, []], ids=str)
def test_success_codes(body: Any, flavour: str, server: FaultServer) -> None:
    """A 2xx response to a stop with a success code in any spelling, or without a code, is a success."""
    with opened(flavour, server) as api:
        session_id = api.new_session(session_request()).session_id
        server.on("stop", fault.answers(200, body, acts=True))
        api.close_session(session_id)
        assert api.open_sessions == ()


HTML = "<html><body><h1>404 Not Found</h1></body></html>"
OF_A_PROXY = {"HTML": HTML, "text": "404 page not found", "JSON": {"message": "no Route matched with those values"}}


@pytest.mark.row("C6", "H4")
@pytest.mark.parametrize("body", OF_A_PROXY.values(), ids=OF_A_PROXY)
def test_404_of_a_proxy(body: Any, flavour: str, server: FaultServer, short_cleanup: float) -> None:
    """A 404 that does not come from the service proves nothing: the stop is sent again, and the session is kept."""
    with opened(flavour, server) as api:
        session_id = api.new_session(session_request()).session_id
        server.on("stop", fault.answers(404, body), 1)
        api.close_session(session_id)
        assert server.running == set()
        session_id = api.new_session(session_request()).session_id
        server.on("stop", fault.answers(404, body))
        with pytest.raises(NotFoundError) as caught:
            api.close_session(session_id)
        assert (caught.value.session_id, caught.value.session_may_be_running) == (session_id, True)
        assert api.open_sessions == (session_id,)
        server.heal()
        api.close_session(session_id)
        assert server.running == set()


@pytest.mark.row("H4")
def test_keep_alive_of_an_opening_session(flavour: str) -> None:
    """A keep-alive that overtakes the start does not make the client forget the session."""
    go_on = threading.Event()

    def held_start(exchange: Exchange) -> None:
        while not go_on.wait(0.01):
            exchange.pause(0)
        exchange.do()
        exchange.reset()

    with driven(f"{flavour} own") as (server, api):
        server.on("start", held_start)
        opening = api.begin("new_session", session_request())
        server.arrived("start")
        for session_id in api.open_sessions:
            assert isinstance(outcome(api.begin("keep_session_alive", session_id))[1], LiveAvatarError)
        go_on.set()
        _, error = outcome(opening)
        assert isinstance(error, LiveAvatarError)
        assert error.session_may_be_running is False
        assert server.running == set()
        assert server.counts[2] >= 1


@pytest.mark.parametrize("interval", [1e10, 86400.0])
def test_keep_alive_interval_of_ages(interval: float, server: FaultServer) -> None:
    """A very long interval neither ends the thread nor hinders the sessions beside it."""
    with LiveAvatarApi(KEY, base_url=server.url) as api:
        api.new_session(session_request(), keep_alive=interval)
        api.new_session(session_request(), keep_alive=0.05)
        until = time.monotonic() + 20
        while len(server.ledger.of("keep-alive")) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(server.ledger.of("keep-alive")) >= 2


@pytest.mark.row("H9")
def test_async_stops_cancelled_before_they_begin(server: FaultServer) -> None:
    """Stops whose tasks are cancelled before their first step are sent all the same."""

    async def main() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url)
        for _ in range(3):
            await api.new_session(session_request())
        closing = asyncio.ensure_future(api.aclose())
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert api.open_sessions == ()

    asyncio.run(main())
    server.settle()
    assert server.running == set()


CHILD = """
import multiprocessing, sys
from liveavatar import LiveAvatarApi
from tests.faults.cases import session_request

def work():
    global api
    api = LiveAvatarApi("CANARY-api-key", base_url=sys.argv[1])
    api.new_session(session_request())

if __name__ == "__main__":
    child = multiprocessing.get_context(sys.argv[2]).Process(target=work)
    child.start()
    child.join()
"""


@pytest.mark.row("H13")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_blocking_child_of_multiprocessing(server: FaultServer) -> None:
    """A forked child of multiprocessing that ends with a session open stops it."""
    done = processes.run(
        [sys.executable, "-c", CHILD, server.url, "fork"], cwd=ROOT, env=UNMEASURED, capture_output=True, text=True
    )
    assert "Still open when the interpreter exits" in done.stderr
    assert server.counts == (1, 1, 1)
    assert server.running == set()


class BrokenLedger:
    """A user's ledger whose errors contain a password."""

    def fail(self, *args: Any) -> Any:
        raise ConnectionRefusedError("redis://:the-password@cache:6379 refused")

    add = remove = entries = claim = fail


def test_errors_of_a_ledger_show_no_password(
    flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The errors and log lines about a user's ledger leave out the password in its URL."""
    with opened(flavour, server, ledger=BrokenLedger()) as api:
        for attempt in (lambda: api.new_session(session_request()), api.recover_sessions):
            with pytest.raises(LedgerError) as caught:
                attempt()
            assert "the-password" not in str(caught.value)
    assert "the-password" not in caplog.text
    assert server.running == set()
