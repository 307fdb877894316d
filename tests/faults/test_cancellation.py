"""F. A task that is cancelled, at any turn of the loop, leaves no session behind. Async only, as the names say."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarError
from liveavatar._transports import _asyncio

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, FastRetries
from tests.faults.server import FaultServer
from tests.faults.stepping import Outcome, SteppingLoop, cancelled_at

MOST_TURNS = 200
"""More than any call here takes."""

TWICE = (1, 2, 3, 5, 8, 13)
THRICE = ((1, 1), (1, 2), (2, 3), (3, 7), (6, 1))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=SteppingLoop) as running:
        yield running


@contextlib.asynccontextmanager
async def made(server: FaultServer, *args: Any, **settings: Any) -> AsyncIterator[AsyncLiveAvatarApi]:
    api = AsyncLiveAvatarApi(KEY, *args, **{"base_url": server.url, "timeout": 10.0} | settings)
    try:
        yield api
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            await api.aclose()


def plans(turns: int, times: int) -> list[tuple[int, ...]]:
    """Every first turn of a call that takes so many, and for each several turns of the further cancellations."""
    if times == 1:
        return [(first,) for first in range(1, turns + 1)]
    if times == 2:
        return [(first, first + gap) for first in range(1, turns + 1) for gap in TWICE]
    return [(first, first + gap, first + gap + more) for first in range(1, turns + 1) for gap, more in THRICE]


FAULTS: dict[str, Callable[[FaultServer], object]] = {
    "nothing else": lambda server: None,
    "a start that lags": lambda server: server.on("start", fault.delays(0.003)),
    "a lagging stop": lambda server: server.on("stop", fault.delays(0.003)),
    "a start that fails": lambda server: server.on("start", fault.answers(500, acts=True)),
    "a start reset": lambda server: server.on("start", fault.resets(acts=True)),
    "a stop that fails once": lambda server: server.on("stop", fault.answers(500), 1),
}


async def idle(api: AsyncLiveAvatarApi) -> None:
    """Give what goes on behind the caller's back the time to end."""
    for _ in range(400):
        if not getattr(api, "_unfinished", None):
            return
        await asyncio.sleep(0.005)


@pytest.mark.row("F1", "F2", "F3")
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("words", FAULTS)
def test_async_new_session_at_any_turn(
    words: str, times: int, runner: asyncio.Runner, fast_retries: FastRetries
) -> None:
    """A new_session that is cancelled at any turn of the event loop leaves nothing running."""

    async def once(*turns: int) -> Outcome:
        with FaultServer() as server:
            async with made(server) as api:
                FAULTS[words](server)
                outcome = await cancelled_at(lambda: api.new_session(session_request()), *turns)
                # What the caller sees at the very moment the task ends, before anything else may run.
                server.settle()
                counts, running, known = server.ledger.counts, server.ledger.running, set(api.open_sessions)
                if outcome.cancels:
                    assert isinstance(outcome.error, asyncio.CancelledError | LiveAvatarError), turns
                if isinstance(outcome.error, LiveAvatarError):
                    assert not outcome.cancels, "the cancellation was swallowed"
                if outcome.error is None:
                    assert not outcome.cancels, "the cancellation was swallowed"
                    assert counts == (1, 1, 0)
                    assert running == known == {outcome.value.session_id}
                else:
                    token, start, stop = counts
                    assert token <= 1
                    assert start <= 1
                    expected = {0, start} if not start or words != "a stop that fails once" else {2}
                    assert stop in expected, (turns, counts)
                    assert (running, known) == (set(), set()), turns
                return outcome

    turns = runner.run(once()).turns
    assert 5 < turns < MOST_TURNS
    for plan in plans(turns, times):
        runner.run(once(*plan))


@pytest.mark.row("F3")
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("words", ["nothing else", "a lagging stop", "a stop that fails once"])
def test_async_close_session_at_any_turn(
    words: str, times: int, runner: asyncio.Runner, fast_retries: FastRetries
) -> None:
    """A close_session that is cancelled at any turn has stopped the session, or can be called again."""

    async def once(*turns: int) -> Outcome:
        with FaultServer() as server:
            async with made(server) as api:
                session_id = (await api.new_session(session_request())).session_id
                FAULTS[words](server)
                outcome = await cancelled_at(lambda: api.close_session(session_id), *turns)
                server.settle()
                stops = server.ledger.counts[2]
                assert server.ledger.running == set(api.open_sessions), turns
                if outcome.cancels:
                    assert isinstance(outcome.error, asyncio.CancelledError), turns
                else:
                    assert outcome.error is None
                    assert server.ledger.running == set()
                if stops:  # a close that has begun goes on to its end
                    assert stops == (2 if words == "a stop that fails once" else 1)
                    assert server.ledger.running == set()
                else:  # cancelled before it began
                    await api.close_session(session_id)
                    assert api.open_sessions == ()
                assert server.counts[:2] == (1, 1)
                assert server.running == set()
                return outcome

    turns = runner.run(once()).turns
    assert 2 < turns < MOST_TURNS
    for plan in plans(turns, times):
        runner.run(once(*plan))


@pytest.mark.row("F2", "F3")
@pytest.mark.parametrize("times", [1, 2, 3])
def test_async_session_block_at_any_turn(times: int, runner: asyncio.Runner, fast_retries: FastRetries) -> None:
    """A session() block that is cancelled at any turn leaves nothing running."""

    async def once(*turns: int) -> Outcome:
        with FaultServer() as server:
            async with made(server) as api:

                async def block() -> None:
                    async with api.session(session_request()):
                        for _ in range(3):
                            await asyncio.sleep(0.0005)

                outcome = await cancelled_at(block, *turns)
                server.settle()
                token, start, stop = server.ledger.counts
                if outcome.cancels:
                    assert isinstance(outcome.error, asyncio.CancelledError), turns
                assert token <= 1
                assert start <= 1
                assert api.open_sessions == (), turns
                assert stop == 1 if start else stop <= 1, (turns, stop)
                assert server.running == set(), turns
                return outcome

    turns = runner.run(once()).turns
    assert 5 < turns < MOST_TURNS
    for plan in plans(turns, times):
        runner.run(once(*plan))


@pytest.mark.row("F2")
@pytest.mark.parametrize("times", [1, 2])
def test_async_client_block_at_any_turn(times: int, runner: asyncio.Runner, fast_retries: FastRetries) -> None:
    """The block of a client that is cancelled at any turn leaves nothing running."""

    async def once(*turns: int) -> Outcome:
        with FaultServer() as server:

            async def block() -> None:
                async with AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10) as api:
                    await api.new_session(session_request())
                    await api.new_session(session_request())
                    await asyncio.sleep(0.0005)

            outcome = await cancelled_at(block, *turns)
            server.settle()
            token, start, stop = server.ledger.counts
            if outcome.cancels:
                assert isinstance(outcome.error, asyncio.CancelledError), turns
            assert start <= token <= 2
            assert start <= stop <= token, turns
            assert server.running == set(), turns
            return outcome

    turns = runner.run(once()).turns
    for plan in plans(turns, times):
        runner.run(once(*plan))


@pytest.mark.row("F1")
def test_async_cancelled_token(server: FaultServer) -> None:
    """A cancellation during the creation of the token sends no start."""

    async def scenario() -> None:
        async with made(server) as api:
            server.on("token", fault.holds())
            task = asyncio.ensure_future(api.new_session(session_request()))
            await asyncio.to_thread(server.arrived, "token")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert api.open_sessions == ()
            assert server.counts == (1, 0, 0)
            assert server.running == set()

    asyncio.run(scenario())


@pytest.mark.row("F2", "F3")
@pytest.mark.parametrize("cancels", [1, 2, 3, 10])
@pytest.mark.parametrize("acts", [True, False], ids=["that happened", "that did not"])
def test_async_cancelled_start(acts: bool, cancels: int, server: FaultServer) -> None:
    """A start that is cancelled has been stopped when its task ends."""

    async def scenario() -> None:
        async with made(server) as api:
            server.on("start", fault.holds(acts=acts))
            server.on("stop", fault.delays(0.1))
            task = asyncio.ensure_future(api.new_session(session_request()))
            await asyncio.to_thread(server.arrived, "start")
            task.cancel()
            if cancels > 1:
                await asyncio.to_thread(server.arrived, "stop")
            for _ in range(cancels - 1):
                task.cancel()
                await asyncio.sleep(0.002)
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert task.cancelled()
            # The task has ended only now: the stop is done, not under way.
            assert server.ledger.counts == (1, 1, 1)
            assert server.ledger.running == set()
            assert getattr(caught.value, "session_may_be_running", None) is False
            assert api.open_sessions == ()
            assert server.counts == (1, 1, 1)
            assert server.running == set()

    asyncio.run(scenario())


@pytest.mark.row("F3")
def test_async_cancelled_retries(server: FaultServer, fast_retries: FastRetries) -> None:
    """A cancellation between two attempts of a stop does not end the attempts."""

    async def scenario() -> None:
        async with made(server) as api:
            server.on("start", fault.holds(acts=True))
            server.on("stop", fault.answers(503), 2)
            task = asyncio.ensure_future(api.new_session(session_request()))
            fast_retries.on_wait = task.cancel
            await asyncio.to_thread(server.arrived, "start")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(fast_retries.waits) == 2
            assert api.open_sessions == ()
            assert server.counts == (1, 1, 3)
            assert server.running == set()

    asyncio.run(scenario())


@pytest.mark.row("F4")
@pytest.mark.parametrize("acts", [True, False], ids=["that happened", "that did not"])
@pytest.mark.parametrize("way", ["wait_for", "timeout"])
def test_async_callers_timeout(way: str, acts: bool, server: FaultServer) -> None:
    """The caller's own timeout over a slow start stops the session."""

    async def scenario() -> None:
        async with made(server) as api:
            server.on("start", fault.holds(acts=acts))
            with pytest.raises(TimeoutError) as caught:  # noqa: PT012
                if way == "wait_for":
                    await asyncio.wait_for(api.new_session(session_request()), 0.2)
                else:
                    async with asyncio.timeout(0.2):
                        await api.new_session(session_request())
            assert not isinstance(caught.value, LiveAvatarError)
            assert api.open_sessions == ()
            assert server.counts == (1, 1, 1)
            assert server.running == set()

    asyncio.run(scenario())


@pytest.mark.row("F4")
def test_async_task_group(server: FaultServer) -> None:
    """A task group that fails leaves none of its sessions running."""

    async def scenario() -> None:
        async with made(server) as api:
            server.on("start", fault.holds(acts=True))

            async def fails() -> None:
                for _ in range(5):
                    await asyncio.to_thread(server.arrived, "start")
                raise RuntimeError("the caller's own")

            with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
                async with asyncio.TaskGroup() as group:
                    for _ in range(5):
                        group.create_task(api.new_session(session_request()))
                    group.create_task(fails())
            assert [type(error) for error in caught.value.exceptions] == [RuntimeError]
            assert api.open_sessions == ()
            assert server.counts == (5, 5, 5)
            assert server.running == set()

    asyncio.run(scenario())


@pytest.mark.row("F5")
def test_async_cancelled_hanging_stop(
    server: FaultServer, short_cleanup: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancelled start whose stop hangs ends in time, and the session stays tracked."""

    async def scenario() -> None:
        async with made(server, timeout=60.0) as api:
            server.on("start", fault.holds(acts=True))
            server.on("stop", fault.holds())
            task = asyncio.ensure_future(api.new_session(session_request()))
            await asyncio.to_thread(server.arrived, "start")
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            session_id = server.ledger.minted[0]
            assert caught.value.session_may_be_running is True  # type: ignore[attr-defined]
            assert caught.value.session_id == session_id  # type: ignore[attr-defined]
            assert any(session_id in note for note in caught.value.__notes__)
            assert [r for r in caplog.records if r.levelname == "WARNING" and session_id in r.getMessage()]
            await idle(api)
            assert api.open_sessions == (session_id,)
            token, start, stop = server.counts
            assert (token, start) == (1, 1)
            assert stop >= 1
            assert server.running == {session_id}
            server.heal()
            await api.close_session(session_id)
            assert server.running == set()

    asyncio.run(scenario())


@pytest.mark.row("F6")
@pytest.mark.parametrize("pool", ["own", "a session of the caller's", "one connection, held"])
def test_async_hundred_cancellations(pool: str, server: FaultServer) -> None:
    """A client works after a hundred cancelled starts."""

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            args: list[Any] = []
            if pool != "own":
                connector = aiohttp.TCPConnector(limit=1) if pool == "one connection, held" else None
                args.append(await stack.enter_async_context(aiohttp.ClientSession(connector=connector)))
            api = await stack.enter_async_context(made(server, *args, timeout=20.0))
            server.on("start", fault.holds(acts=True), 100)
            for _ in range(100):
                task = asyncio.ensure_future(api.new_session(session_request()))
                await asyncio.to_thread(server.arrived, "start")
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert api.open_sessions == ()
            assert server.counts == (100, 100, 100)
            assert server.running == set()
            session = await api.new_session(session_request())
            assert server.counts == (101, 101, 100)
            assert server.running == {session.session_id}
            await api.close_session(session.session_id)
            assert server.counts == (101, 101, 101)
            assert server.running == set()

    asyncio.run(scenario())


@pytest.mark.row("F6")
def test_async_exhausted_pool(server: FaultServer) -> None:
    """A session is stopped although the only connection of the caller's pool is in use."""

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)))
            api = await stack.enter_async_context(made(server, session))
            server.on("start", fault.delays(0.2, fault.answers(500, acts=True)))
            held = await stack.enter_async_context(fault_server())

            async def hog() -> None:
                async with session.post(f"{held.url}/sessions/token", headers={"x-api-key": "other"}):
                    pytest.fail("it never answers")

            # Taken from the moment the start is answered: the next in line for the connection is the hog.
            start = asyncio.ensure_future(api.new_session(session_request()))
            await asyncio.to_thread(server.arrived, "start")
            hogging = asyncio.ensure_future(hog())
            with pytest.raises(LiveAvatarError) as caught:
                await start
            assert caught.value.session_may_be_running is False
            await asyncio.to_thread(held.arrived, "token")
            assert api.open_sessions == ()
            assert server.counts == (1, 1, 1)
            assert server.running == set()
            hogging.cancel()
            await asyncio.wait([hogging])

    asyncio.run(scenario())


@contextlib.asynccontextmanager
async def fault_server() -> AsyncIterator[FaultServer]:
    """Another service, which never answers."""
    with FaultServer() as held:
        held.on("token", fault.holds())
        yield held


@pytest.mark.row("F8")
def test_async_cancelled_block(server: FaultServer) -> None:
    """A session whose block is cancelled has been stopped when the task ends."""

    async def scenario() -> None:
        async with made(server) as api:
            inside = asyncio.Event()

            async def block() -> None:
                async with api.session(session_request()):
                    inside.set()
                    await asyncio.sleep(60)

            task = asyncio.ensure_future(block())
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert server.ledger.counts == (1, 1, 1)
            assert server.ledger.running == set()
            assert api.open_sessions == ()
            assert server.counts == (1, 1, 1)
            assert server.running == set()

    asyncio.run(scenario())


@pytest.mark.row("F2")
@pytest.mark.parametrize("closed", [False, True], ids=["a loop at rest", "a closed loop"])
def test_async_abandoned_start(
    closed: bool, server: FaultServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that is abandoned with its event loop warns that a session may run, and no stop is tried without one."""
    tries: list[object] = []
    monkeypatch.setattr(_asyncio.AsyncIO, "shield_cleanup", tries.append)
    loop = asyncio.new_event_loop()
    api = AsyncLiveAvatarApi(KEY, base_url=server.url)
    server.on("start", fault.holds(acts=True))
    task = loop.create_task(api.new_session(session_request()))

    async def until_started() -> None:
        await asyncio.to_thread(server.arrived, "start")

    loop.run_until_complete(until_started())
    loop.run_until_complete(loop.shutdown_default_executor())
    session_id = server.ledger.minted[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        if closed:
            loop.close()
        with contextlib.suppress(LiveAvatarError) if closed else contextlib.nullcontext():
            task.get_coro().close()  # type: ignore[union-attr]
        del task
        loop.close()
        gc.collect()
    assert [r for r in caplog.records if r.levelname == "WARNING" and session_id in r.getMessage()]
    assert tries == []
    assert api.open_sessions == (session_id,)
    assert server.ledger.counts == (1, 1, 0)
    assert server.ledger.running == {session_id}
    api._flows.sessions.discard(api._flows.sessions.get(session_id))
    with warnings.catch_warnings():  # nothing can close its connections any more
        warnings.simplefilter("ignore", ResourceWarning)
        for own in list(api._transport._sessions.values()):  # type: ignore[attr-defined]
            own.detach()
            del own
        del api
        gc.collect()


@pytest.mark.parametrize("leave", ["aclose", "async with"])
def test_async_closed_during_start(leave: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A client that is closed during a start leaves nothing running."""
    server.on("start", fault.delays(0.3))

    async def main() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10.0)
        opening = asyncio.ensure_future(api.new_session(session_request()))
        await asyncio.to_thread(server.arrived, "start")
        if leave == "aclose":
            await api.aclose()
        else:
            async with api:
                pass
        with pytest.raises(LiveAvatarError) as caught:
            await opening
        assert caught.value.session_may_be_running is False

    asyncio.run(main())
    server.settle()
    assert server.running == set()
