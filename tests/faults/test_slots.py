"""L. Waiting for a free slot: it ends in time, with one session or none, however it ends."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from typing import Any

import pytest
from liveavatar import (
    AuthenticationError,
    ConcurrencyLimitError,
    InsufficientCreditsError,
    LiveAvatarError,
    NotFoundError,
    ServerError,
)
from liveavatar._constants import MAX_RETRY_AFTER

from tests import processes
from tests.clients import wait_until
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import UNMEASURED, FastRetries, opened
from tests.faults.server import Behaviour, FaultServer
from tests.faults.stepping import Outcome, SteppingLoop, cancelled_at
from tests.faults.test_cancellation import made, plans
from tests.faults.test_interrupts import ROOT

FULL = fault.refuses(403, "Concurrency limit reached: 1 of 1 sessions running")
ODDLY_FULL = fault.answers(200, {"code": 4030, "data": None, "message": "Concurrency limit reached"})
"""A refusal that does not exclude that the session has started."""


@pytest.fixture(autouse=True)
def short_delays(fast_retries: FastRetries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liveavatar._flows.MIN_SLOT_DELAY", 0.01)
    monkeypatch.setattr("liveavatar._flows.MAX_SLOT_DELAY", 0.05)


def tokens_of(server: FaultServer, endpoint: str = "start") -> list[str | None]:
    return [request.bearer for request in server.ledger.of(endpoint)]


@pytest.mark.row("L9")
@pytest.mark.parametrize("status", [403, 409, 429])
def test_slot_after_a_while(status: int, api: Any, server: FaultServer) -> None:
    """Each refusal for concurrency is followed by another attempt with the same token, until there is a slot."""
    server.on("start", fault.refuses(status, "Too many concurrent sessions"), 3)
    session = api.new_session(session_request(), wait_for_slot=30)
    assert server.counts == (1, 4, 0)
    assert len(set(tokens_of(server))) == 1
    assert server.running == {session.session_id} == set(api.open_sessions)
    api.close_session(session.session_id)
    assert server.running == set()


@pytest.mark.row("L9")
def test_no_slot_for_a_token(api: Any, server: FaultServer) -> None:
    """A service that refuses the token at the limit is asked again as well."""
    server.on("token", FULL, 2)
    session = api.new_session(session_request(), wait_for_slot=30)
    assert server.counts == (3, 1, 0)
    assert server.running == {session.session_id}


@pytest.mark.row("L9")
def test_without_waiting(api: Any, server: FaultServer) -> None:
    """Without wait_for_slot, there is one attempt."""
    server.on("start", FULL)
    with pytest.raises(ConcurrencyLimitError):
        api.new_session(session_request())
    assert server.counts == (1, 1, 0)


@pytest.mark.row("L9")
def test_no_slot_in_time(api: Any, server: FaultServer) -> None:
    """When the seconds are over, the error is the last ConcurrencyLimitError, and nothing runs."""
    server.on("start", FULL)
    begun = time.monotonic()
    with pytest.raises(ConcurrencyLimitError, match="1 of 1 sessions") as caught:
        api.new_session(session_request(), wait_for_slot=0.2)
    assert time.monotonic() - begun < 20
    assert caught.value.session_may_be_running is False
    assert caught.value.session_id == server.ledger.minted[0]
    assert api.open_sessions == ()
    token, start, stop = server.counts
    assert (token, stop) == (1, 0)
    assert start > 1


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the usual delays in place of waiting."""
    monkeypatch.undo()
    delays: list[float] = []

    async def sleep(self: object, seconds: float) -> None:
        delays.append(seconds)

    monkeypatch.setattr("liveavatar._transports._blocking.BlockingIO.sleep", sleep)
    monkeypatch.setattr("liveavatar._transports._asyncio.AsyncIO.sleep", sleep)
    return delays


@pytest.mark.row("L9")
def test_delays(api: Any, server: FaultServer, slept: list[float]) -> None:
    """The delays double from 1 s to 5 s, with jitter, and the last one ends when the time is over."""
    server.on("start", FULL, 6)
    api.new_session(session_request(), wait_for_slot=600)
    for seconds, most in zip(slept, (1, 2, 4, 5, 5, 5), strict=True):
        assert 0.75 * most <= seconds <= most
    slept.clear()
    server.on("start", FULL, 3)
    with pytest.raises(ConcurrencyLimitError):
        api.new_session(session_request(), wait_for_slot=0.0001)
    assert all(seconds <= 0.0001 for seconds in slept)


@pytest.mark.row("L9")
@pytest.mark.parametrize(("retry_after", "waited"), [(7, 7), (0.5, 1), (3600, MAX_RETRY_AFTER)])
def test_retry_after(retry_after: float, waited: float, api: Any, server: FaultServer, slept: list[float]) -> None:
    """A Retry-After is obeyed if it is longer than the delay, up to a limit."""
    server.on("start", fault.refuses(429, "Concurrency limit", headers={"Retry-After": str(retry_after)}), 1)
    api.new_session(session_request(), wait_for_slot=100)
    assert slept == [pytest.approx(waited, rel=0.26)]


@pytest.mark.row("L9")
def test_each_attempt_has_its_own_timeout(flavour: str, server: FaultServer) -> None:
    """The wait may be longer than the timeout, which bounds each attempt."""
    with opened(flavour, server, timeout=1.0) as api:
        server.on("start", fault.delays(0.3, FULL), 4)
        session = api.new_session(session_request(), wait_for_slot=60)
        assert server.running == {session.session_id}


@pytest.mark.row("L9")
def test_attempt_that_times_out(flavour: str, server: FaultServer) -> None:
    """An attempt without a response ends the wait: its session may have started, and is stopped."""
    with opened(flavour, server, timeout=0.3) as api:
        server.on("start", FULL, 1)
        server.on("start", fault.holds(acts=True))
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(session_request(), wait_for_slot=60)
        assert caught.value.session_may_be_running is False
        assert server.counts == (1, 2, 1)
        assert server.running == set()


@pytest.mark.row("L9")
@pytest.mark.parametrize(
    ("behaviour", "kind", "stops"),
    [
        (fault.refuses(402, "Payment required"), InsufficientCreditsError, 0),
        (fault.answers(500, acts=True), ServerError, 1),
    ],
)
def test_another_error(
    behaviour: Behaviour, kind: type[LiveAvatarError], stops: int, api: Any, server: FaultServer
) -> None:
    """Any other error ends the wait at once."""
    server.on("start", FULL, 2)
    server.on("start", behaviour)
    with pytest.raises(kind):
        api.new_session(session_request(), wait_for_slot=60)
    assert server.counts == (1, 3, stops)
    assert server.running == set()
    assert api.open_sessions == ()


@pytest.mark.row("L9")
def test_refusal_that_may_have_started(api: Any, server: FaultServer) -> None:
    """Where a refusal does not exclude a started session, it is stopped before another one is tried."""
    server.on("start", ODDLY_FULL, 2)
    session = api.new_session(session_request(), wait_for_slot=60)
    assert server.counts == (3, 3, 2)
    assert len(set(tokens_of(server))) == 3
    assert tokens_of(server, "stop") == tokens_of(server)[:2]
    assert server.running == {session.session_id} == set(api.open_sessions)


@pytest.mark.row("L9")
def test_refusal_that_may_have_started_and_cannot_be_stopped(api: Any, server: FaultServer) -> None:
    """Where a session may be running that could not be stopped, no second one is started."""
    server.on("start", ODDLY_FULL)
    server.on("stop", fault.answers(400))
    with pytest.raises(ConcurrencyLimitError) as caught:
        api.new_session(session_request(), wait_for_slot=60)
    assert caught.value.session_may_be_running is True
    assert api.open_sessions == (caught.value.session_id,)
    assert server.counts[:2] == (1, 1)
    server.heal()
    api.close_all_sessions()
    assert server.running == set()


@pytest.mark.row("L9")
def test_client_is_closed_meanwhile(flavour: str, server: FaultServer) -> None:
    """A client that is closed while it waits for a slot starts nothing any more."""
    with opened(flavour, server) as api:
        server.on("start", FULL)
        failures: list[BaseException] = []

        def open_one() -> None:
            try:
                api.new_session(session_request(), wait_for_slot=60)
            except LiveAvatarError as error:
                failures.append(error)

        if flavour == "blocking":
            thread = threading.Thread(target=open_one)
            thread.start()
            server.arrived("start")
            api.close()
            thread.join(30)
        else:
            api.runner.run(_close_while_waiting(api.api, failures))
        assert "closed" in str(failures[0])
    assert server.ledger.starts == []
    assert server.running == set()


async def _close_while_waiting(api: Any, failures: list[BaseException]) -> None:
    opening = asyncio.ensure_future(api.new_session(session_request(), wait_for_slot=60))
    await asyncio.sleep(0.1)
    await api.aclose()
    try:
        await opening
    except LiveAvatarError as error:
        failures.append(error)


@pytest.mark.row("L9")
def test_with_keep_alive(api: Any, server: FaultServer) -> None:
    """A session that had to wait for its slot is kept alive like any other."""
    server.on("start", FULL, 2)
    with api.session(session_request(), wait_for_slot=60, keep_alive=0.05):
        wait_until(api, lambda: len(server.ledger.of("keep-alive")) > 1)
    assert server.running == set()


@pytest.mark.row("L11")
@pytest.mark.parametrize(("status", "message"), [(401, "Expired session token"), (404, "Session not found")])
def test_token_has_expired(status: int, message: str, api: Any, server: FaultServer) -> None:
    """A token that is no longer valid when there is a slot is replaced by a new one."""
    server.on("start", FULL, 2)
    server.on("start", fault.refuses(status, message), 1)
    session = api.new_session(session_request(), wait_for_slot=60)
    assert server.counts == (2, 4, 0)
    used = tokens_of(server)
    assert used[0] == used[1] == used[2] != used[3]
    assert server.running == {session.session_id} == set(api.open_sessions)


@pytest.mark.row("L11")
@pytest.mark.parametrize(("status", "kind"), [(401, AuthenticationError), (404, NotFoundError)], ids=["401", "404"])
def test_new_token_is_refused(status: int, kind: type[LiveAvatarError], api: Any, server: FaultServer) -> None:
    """A new token that is refused is an error, at the first attempt and later."""
    server.on("start", fault.refuses(status, "No"))
    with pytest.raises(kind):
        api.new_session(session_request(), wait_for_slot=60)
    assert server.counts == (1, 1, 0)
    server.heal()
    server.on("start", FULL, 1)
    server.on("start", fault.refuses(status, "No"))
    with pytest.raises(kind):
        api.new_session(session_request(), wait_for_slot=60)
    assert server.counts == (3, 4, 0)


@pytest.mark.row("L10")
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("refusal", [FULL, ODDLY_FULL], ids=["refused", "stopped"])
def test_async_cancelled_at_any_turn(times: int, refusal: Behaviour) -> None:
    """A wait that is cancelled at any turn of the loop leaves nothing running."""

    async def once(*turns: int) -> Outcome:
        with FaultServer() as server:
            async with made(server) as api:
                server.on("start", refusal, 1)
                outcome = await cancelled_at(lambda: api.new_session(session_request(), wait_for_slot=60), *turns)
                server.settle()
                running, known = server.ledger.running, set(api.open_sessions)
                if outcome.error is None:
                    assert not outcome.cancels, "the cancellation was swallowed"
                    assert running == known == {outcome.value.session_id}
                else:
                    assert isinstance(outcome.error, asyncio.CancelledError), turns
                    assert (running, known) == (set(), set()), turns
                    assert len(server.ledger.starts) <= 1
                return outcome

    with asyncio.Runner(loop_factory=SteppingLoop) as runner:
        turns = runner.run(once()).turns
        assert turns > 5
        for plan in plans(turns, times)[:: 3 * times - 2]:
            runner.run(once(*plan))


@pytest.mark.row("L10")
def test_blocking_interrupt_at_any_line() -> None:
    """A wait that is interrupted at any line of the client leaves nothing running, and the client usable."""
    told = processes.run(
        [sys.executable, "-W", "error", "-m", "tests.faults.programs", "interrupted_at_any_line", "wait_for_slot"],
        cwd=ROOT,
        env=UNMEASURED,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert json.loads(told.stdout)["interrupts"] > 10
