"""H. Closing: whatever the client is doing when it is closed, no session is left running."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import warnings
from typing import Any

import aiohttp
import httpx
import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi, LiveAvatarError

from tests.clients import client
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, FastRetries
from tests.faults.pools import DIRECT_POOLS, POOLS, LoopThread, driven, in_thread, outcome
from tests.faults.server import FaultServer
from tests.ledger.support import wait_until

over_every_pool = pytest.mark.parametrize("pool", POOLS)
WAYS = ("close", "leave")


# ---------------------------------------------------------------------------------------------------------------
# The client is closed while it opens a session.


@pytest.mark.row("H1")
@over_every_pool
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", ["token", "start"])
def test_close_while_opening(phase: str, way: str, pool: str, fast_retries: FastRetries) -> None:
    """A session that is being opened when the client is closed is not handed out, and does not run."""
    with driven(pool) as (server, api):
        gate = threading.Event()
        server.on(phase, fault.waits_for(gate), 1)
        opening = api.begin("new_session", session_request())
        server.arrived(phase)
        closing = api.begin(way)
        with contextlib.suppress(TimeoutError):
            closing.exception(0.1)  # a close may wait for what is being opened
        gate.set()
        session, error = outcome(opening)
        closing.result(20)
        assert session is None
        assert isinstance(error, LiveAvatarError)
        assert error.session_may_be_running is False
        if phase == "token":
            assert server.counts[1] == 0, "a session was started on a closed client"
        assert server.running == set()
        assert api.open_sessions == ()


@pytest.mark.row("H1")
@pytest.mark.parametrize("pool", DIRECT_POOLS)
@pytest.mark.parametrize("acts", [True, False], ids=["that happened", "that did not"])
def test_close_while_a_start_hangs(acts: bool, pool: str, fast_retries: FastRetries) -> None:
    """A start without a response when the client is closed is stopped, in bounded time."""
    with driven(pool, timeout=0.6) as (server, api):
        server.on("start", fault.holds(acts=acts), 1)
        opening = api.begin("new_session", session_request())
        server.arrived("start")
        closing = api.begin("close")
        session, error = outcome(opening, 20)
        closing.result(20)
        assert session is None
        assert isinstance(error, LiveAvatarError)
        assert error.session_may_be_running is False
        assert server.running == set()
        assert api.open_sessions == ()


@pytest.mark.row("H1")
@pytest.mark.parametrize("pool", DIRECT_POOLS)
@pytest.mark.parametrize("way", WAYS)
def test_close_among_many_openings(way: str, pool: str) -> None:
    """At whatever moment the client is closed, none of the sessions being opened is left running."""
    with driven(pool) as (server, api):
        openings = [api.begin("new_session", session_request()) for _ in range(8)]
        server.arrived("token")
        openings += [api.begin("new_session", session_request()) for _ in range(4)]
        server.arrived("start")
        closing = api.begin(way)
        openings += [api.begin("new_session", session_request()) for _ in range(4)]
        closing.result(30)
        ends = [outcome(opening) for opening in openings]
        assert all(error is None or isinstance(error, LiveAvatarError) for _, error in ends)
        assert all(not getattr(error, "session_may_be_running", False) for _, error in ends)
        assert server.running == set()
        assert api.open_sessions == ()


@pytest.mark.row("H1")
@pytest.mark.parametrize("phase", ["token", "start"])
def test_async_close_after_a_worker_thread_was_abandoned(phase: str, server: FaultServer) -> None:
    """blocking: cancelling `to_thread(new_session)` leaves its thread working; closing the client ends that."""

    async def main() -> None:
        gate = threading.Event()
        server.on(phase, fault.waits_for(gate), 1)
        with LiveAvatarApi(KEY, base_url=server.url, timeout=10) as api:
            opening = asyncio.create_task(asyncio.to_thread(api.new_session, session_request()))
            await asyncio.to_thread(server.arrived, phase)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            threading.Timer(0.1, gate.set).start()

    asyncio.run(main())
    assert server.counts[1] == (0 if phase == "token" else 1)
    assert server.running == set()


@pytest.mark.row("H1")
def test_close_while_a_failed_start_is_stopped(flavour: str, fast_retries: FastRetries) -> None:
    """The cleanup of a failed start survives the closing of the client."""
    with driven(f"{flavour} own") as (server, api):
        gate = threading.Event()
        server.on("start", fault.answers(500, acts=True), 1)
        server.on("stop", fault.waits_for(gate), 1)
        opening = api.begin("new_session", session_request())
        server.arrived("stop")
        closing = api.begin("close")
        with contextlib.suppress(TimeoutError):
            closing.exception(0.1)
        gate.set()
        _, error = outcome(opening)
        closing.result(20)
        assert isinstance(error, LiveAvatarError)
        assert server.running == set()
        assert api.open_sessions == ()


@pytest.mark.row("H1")
def test_close_while_a_session_is_closed(flavour: str, fast_retries: FastRetries) -> None:
    """A close_session in flight and the closing of the client do not disturb each other."""
    with driven(f"{flavour} own") as (server, api):
        session_id = api.call("new_session", session_request()).session_id
        gate = threading.Event()
        server.on("stop", fault.waits_for(gate), 1)
        ending = api.begin("close_session", session_id)
        server.arrived("stop")
        closing = api.begin("close")
        with contextlib.suppress(TimeoutError):
            closing.exception(0.1)
        gate.set()
        ending.exception(20)
        closing.result(20)
        assert server.running == set()
        assert api.open_sessions == ()


# ---------------------------------------------------------------------------------------------------------------
# close() and aclose() stop what is open.


@pytest.mark.row("H2")
@pytest.mark.parametrize("pool", DIRECT_POOLS)
@pytest.mark.parametrize("way", WAYS)
def test_close_stops_open_sessions(way: str, pool: str) -> None:
    """Closing the client stops every session that it opened and has not released; no other."""
    with warnings.catch_warnings(), driven(pool) as (server, api):
        warnings.simplefilter("error")
        ids = [api.call("new_session", session_request()).session_id for _ in range(3)]
        released = ids.pop(1)
        api.call("release_session", released)
        api.call(way)
        assert api.open_sessions == ()
        assert server.running == {released}
        assert server.counts == (3, 3, 2)
        api.call(way)
        assert server.counts == (3, 3, 2)


@pytest.mark.row("H2")
def test_close_tells_of_a_stop_that_failed(
    flavour: str, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """If a session cannot be stopped, close() raises, names it, and still closes the client and stops the others."""
    with driven(f"{flavour} own") as (server, api):
        ids = {api.call("new_session", session_request()).session_id for _ in range(3)}
        server.on("stop", fault.refuses(400, "No"), 1)
        with pytest.raises(LiveAvatarError) as caught:
            api.call("close")
        (left,) = server.running
        assert left in ids
        assert caught.value.session_id == left
        assert caught.value.session_may_be_running is True
        assert api.open_sessions == (left,)
        assert any(left in r.getMessage() for r in caplog.records if r.levelname == "WARNING")
        with pytest.raises(LiveAvatarError, match="closed"):
            api.call("new_session", session_request())
        api.call("close_session", left)
        assert server.running == set()


@pytest.mark.row("H2")
def test_close_of_a_with_block_keeps_the_blocks_exception(
    flavour: str, server: FaultServer, fast_retries: FastRetries
) -> None:
    """close() inside a `with` block that then fails: the block's exception is raised, and nothing runs."""
    with pytest.raises(ZeroDivisionError), client(flavour, KEY, base_url=server.url) as api:  # noqa: PT012
        api.new_session(session_request())
        api.close()
        raise ZeroDivisionError
    assert server.running == set()


@pytest.mark.row("H2")
def test_async_aclose_that_is_cancelled_has_stopped_the_sessions(server: FaultServer) -> None:
    """A cancelled aclose() ends when its stops have ended."""

    async def main() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10)
        for _ in range(3):
            await api.new_session(session_request())
        server.on("stop", fault.delays(0.1))
        closing = asyncio.create_task(api.aclose())
        await asyncio.to_thread(server.arrived, "stop")
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert server.ledger.running == set()
        assert api.open_sessions == ()
        await api.aclose()

    asyncio.run(main())
    assert server.counts == (3, 3, 3)


@pytest.mark.row("H2")
def test_close_of_many_whose_stops_hang(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many stops hang, a close takes little longer than one timeout, and names each session."""
    monkeypatch.setattr("liveavatar._cleanup.CLEANUP_TIMEOUT", 0.1)
    with driven(f"{flavour} own", timeout=1.0) as (server, api):
        ids = {api.call("new_session", session_request()).session_id for _ in range(8)}
        server.on("stop", fault.holds())
        began = time.monotonic()
        _, error = outcome(api.begin("close"))
        assert time.monotonic() - began < 7
        assert isinstance(error, LiveAvatarError)
        assert {error.session_id} | {note.split()[1] for note in error.__notes__} == ids
        assert {*api.open_sessions} == ids


@pytest.mark.row("H1", "H2")
@pytest.mark.parametrize("how", WAYS)
def test_close_twice_at_once(how: str, flavour: str) -> None:
    """Of two closes at the same time neither takes the connections from the other, and both succeed."""
    with driven(f"{flavour} own") as (server, api):
        for _ in range(3):
            api.call("new_session", session_request())
        gate = threading.Event()
        server.on("stop", fault.waits_for(gate))
        closings = [api.begin(way) for way in ("close", how)]
        server.arrived("stop")
        gate.set()
        assert [outcome(closing, 20)[1] for closing in closings] == [None, None]
        assert api.open_sessions == ()
        assert server.running == set()


@pytest.mark.row("H1", "H2")
@pytest.mark.parametrize("way", ["close", "close_session"])
def test_stop_that_another_has_confirmed(
    way: str, flavour: str, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop whose response is lost succeeds all the same if another has stopped the session meanwhile."""
    with driven(f"{flavour} own", max_retries=0) as (server, api):
        session_id = api.call("new_session", session_request()).session_id
        gate = threading.Event()
        server.on("stop", fault.waits_for(gate, fault.resets()), 1)
        first = api.begin(way, *([session_id] if way == "close_session" else []))
        server.arrived("stop")
        api.call("close_session", session_id)
        gate.set()
        assert outcome(first, 20)[1] is None
        assert api.open_sessions == ()
        assert server.running == set()
        assert [record for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.row("H1", "H2")
@pytest.mark.parametrize("cancelled", ["first", "second", "both"])
def test_async_close_twice_and_cancel(cancelled: str) -> None:
    """If one of two tasks that close the client is cancelled, the other finishes undisturbed."""
    with driven("async own") as (server, api):
        ids = {api.call("new_session", session_request()).session_id for _ in range(3)}
        gate = threading.Event()
        server.on("stop", fault.waits_for(gate))
        closings = {name: api.begin("close") for name in ("first", "second")}
        for _ in range(2 * len(ids)):
            server.arrived("stop")
        for name, closing in closings.items():
            if cancelled in (name, "both"):
                closing.cancel()
        gate.set()
        for name, closing in closings.items():
            if cancelled not in (name, "both"):
                assert outcome(closing, 20)[1] is None
        wait_until(lambda: api.open_sessions == ())
        assert server.running == set()
        assert {*server.ledger.stops} == ids


@pytest.mark.row("H1", "H2")
def test_async_cancelled_close_whose_stops_go_on(server: FaultServer, short_cleanup: float) -> None:
    """Stops that take longer than a cancelled aclose() waits are not lost when its connections are closed."""

    async def main() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10)
        await api.new_session(session_request())
        server.on("stop", fault.holds(), 1)
        closing = asyncio.create_task(api.aclose())
        await asyncio.to_thread(server.arrived, "stop")
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.to_thread(server.arrived, "stop")
        await asyncio.to_thread(wait_until, lambda: api.open_sessions == ())

    asyncio.run(main())
    assert server.running == set()


# ---------------------------------------------------------------------------------------------------------------
# Closing sessions on a closed client, or from another event loop.


@pytest.mark.row("H3")
@pytest.mark.parametrize("pool", DIRECT_POOLS)
@pytest.mark.parametrize("how", ["close_session", "close_all_sessions", "leave", "close"])
def test_closed_client_still_stops(how: str, pool: str, fast_retries: FastRetries) -> None:
    """A session whose stop failed when the client was closed can still be stopped through that client."""
    with driven(pool) as (server, api):
        session_id = api.call("new_session", session_request()).session_id
        server.on("stop", fault.refuses(400, "No"), 1)
        with pytest.raises(LiveAvatarError):
            api.call("close")
        assert api.open_sessions == (session_id,)
        api.call(how, *([session_id] if how == "close_session" else []))
        assert api.open_sessions == ()
        assert server.running == set()


@pytest.mark.row("H3")
@pytest.mark.parametrize("pool", [pool for pool in DIRECT_POOLS if pool.split()[-1] in ("session", "http_client")])
def test_callers_pool_is_closed_first(pool: str, fast_retries: FastRetries) -> None:
    """Sessions are stopped even if the caller has closed the pool that they were opened through."""
    with driven(pool) as (server, api):
        session_id = api.call("new_session", session_request()).session_id
        api.close_pool()
        api.call("close")
        assert api.open_sessions == ()
        assert server.running == set(), session_id


ASYNC_POOLS = [pool.removeprefix("async ") for pool in DIRECT_POOLS if pool.startswith("async")]


@pytest.mark.row("H3")
def test_async_close_of_many_is_cancelled(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that wait for their turn are stopped, too, if all tasks of the loop are cancelled."""
    monkeypatch.setattr("liveavatar.async_client.MAX_CONCURRENT_STOPS", 2)
    server.on("stop", fault.delays(0.05))

    async def main() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url)
        for _ in range(6):
            await api.new_session(session_request())
        closing = asyncio.create_task(api.aclose())
        await asyncio.to_thread(server.arrived, "stop")
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait([closing])
        assert api.open_sessions == ()

    asyncio.run(main())
    assert server.running == set()
    assert server.counts[:2] == (6, 6)


@pytest.mark.row("H3")
@pytest.mark.usefixtures("unclosed_connections")  # the first loop does not close its own
@pytest.mark.parametrize("state", ["running", "at rest", "closed"])
@pytest.mark.parametrize("how", ["close_session", "close_all_sessions", "leave", "close"])
@pytest.mark.parametrize("kind", ASYNC_POOLS)
def test_async_close_from_another_loop(kind: str, how: str, state: str, fast_retries: FastRetries) -> None:
    """A session is stopped from another event loop than the one it was opened in."""
    if state == "running":
        with driven(f"async {kind}") as (server, api):
            session_id = api.call("new_session", session_request()).session_id
            in_thread(asyncio.run, stopped(api.api, how, session_id)).result(30)
            assert api.open_sessions == ()
            assert server.running == set()
        return
    with FaultServer() as server:
        with asyncio.Runner() as first:
            api = first.run(made(kind, server))
            session_id = first.run(api.new_session(session_request())).session_id
            if state == "at rest":
                in_thread(asyncio.run, stopped(api, how, session_id)).result(30)
        if state == "closed":
            asyncio.run(stopped(api, how, session_id))
        assert api.open_sessions == ()
        assert server.running == set()
        del api
        gc.collect()


@pytest.mark.row("H3")
def test_async_close_while_its_loop_is_blocked(server: FaultServer, short_cleanup: float) -> None:
    """The loop waits for the thread that closes the client: the close does not wait for the loop in turn."""

    async def open_and_block() -> None:
        api = await made("own", server)
        session_id = (await api.new_session(session_request())).session_id
        in_thread(asyncio.run, stopped(api, "close", session_id)).result(15)
        assert server.running == set()
        await asyncio.sleep(0.1)  # the connections are closed now

    asyncio.run(open_and_block())


async def made(kind: str, server: FaultServer) -> AsyncLiveAvatarApi:
    session: Any = None
    http: Any = None
    if kind == "http_client":
        http = httpx.AsyncClient(trust_env=False)
    elif kind != "own":
        traced = [aiohttp.TraceConfig()] if kind == "traced session" else None
        session = aiohttp.ClientSession(trace_configs=traced)
    return AsyncLiveAvatarApi(KEY, session, base_url=server.url, timeout=10, http_client=http)


async def stopped(client: AsyncLiveAvatarApi, how: str, session_id: str) -> None:
    """Stop the session in this way, in the loop that runs here."""
    if how == "close_session":
        await client.close_session(session_id)
    elif how == "close_all_sessions":
        await client.close_all_sessions()
    elif how == "leave":
        await client.__aexit__(None, None, None)
    else:
        await client.aclose()


@pytest.mark.row("H3")
def test_async_new_session_from_another_loop_names_the_reason(server: FaultServer) -> None:
    """Opening from another loop sends nothing, and leaves what is open alone."""
    first = LoopThread()
    api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10)
    try:
        session_id = first.run(api.new_session(session_request())).session_id

        async def elsewhere() -> None:
            with pytest.raises(LiveAvatarError, match="loop"):
                await api.new_session(session_request())

        asyncio.run(elsewhere())
        assert server.counts == (1, 1, 0)
        assert api.open_sessions == (session_id,)
    finally:
        first.run(api.aclose())
        first.close()
    assert server.running == set()
