"""G. Many sessions at once, and one client for a long time."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarError, ServerError, SessionTokenNotFoundError

from tests import processes
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, UNMEASURED, FastRetries, opened
from tests.faults.server import FaultServer

ROOT = Path(__file__).parents[2]
CYCLES = int(os.environ.get("CYCLES", "2000"))
"""Sessions that one client opens and closes; `make soak` sets 10,000."""


def each_stop_has_its_own_token(server: FaultServer) -> None:
    for request in server.ledger.of("stop"):
        assert request.bearer is not None
        assert server.ledger.token_of[request.bearer] == request.json["session_id"]


@pytest.mark.row("G1")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_either_order(order: tuple[int, int], api: Any, server: FaultServer) -> None:
    """Two sessions are closed in either order, each with its own token."""
    ids = [api.new_session(session_request()).session_id for _ in range(2)]
    assert api.open_sessions == tuple(ids)
    for which in order:
        assert api.session_token is not None
        api.close_session(ids[which])
    assert api.session_token is None
    assert [request.json["session_id"] for request in server.ledger.of("stop")] == [ids[which] for which in order]
    each_stop_has_its_own_token(server)
    assert server.counts == (2, 2, 2)
    assert server.running == set()


@pytest.mark.row("G2")
def test_blocking_threads(server: FaultServer) -> None:
    """A client that 16 threads share keeps their sessions apart."""
    with opened("blocking", server) as api, ThreadPoolExecutor(16) as threads:
        barrier = threading.Barrier(16)

        def cycle(number: int) -> str:
            barrier.wait()
            mine = [api.new_session(session_request()).session_id for _ in range(4)]
            random.Random(number).shuffle(mine)
            for session_id in mine[1:]:
                api.close_session(session_id)
            return mine[0]

        left = list(threads.map(cycle, range(16)))
        assert len(set(left)) == 16
        assert set(api.open_sessions) == set(left)
        assert server.running == set(left)
        list(threads.map(api.close_session, left))
        assert api.open_sessions == ()
        each_stop_has_its_own_token(server)
        assert server.counts == (64, 64, 64)
        assert server.running == set()


@pytest.mark.row("G2")
def test_async_tasks(server: FaultServer) -> None:
    """A client that 50 tasks share keeps their sessions apart."""

    async def scenario() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=30)

        async def cycle(number: int) -> str:
            mine = [(await api.new_session(session_request())).session_id for _ in range(2)]
            await api.close_session(mine[number % 2])
            return mine[1 - number % 2]

        left = await asyncio.gather(*(cycle(number) for number in range(50)))
        assert len(set(left)) == 50
        assert set(api.open_sessions) == set(left)
        assert server.running == set(left)
        await asyncio.gather(*(api.close_session(session_id) for session_id in left))
        assert api.open_sessions == ()
        each_stop_has_its_own_token(server)
        assert server.counts == (100, 100, 100)
        assert server.running == set()
        await api.aclose()

    asyncio.run(scenario())


@pytest.mark.row("G2")
def test_async_tasks_with_faults(server: FaultServer, fast_retries: FastRetries) -> None:
    """Faults among 50 tasks leave nothing running."""

    async def scenario() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=30)
        for _ in range(10):
            server.on("start", fault.resets(acts=True), 1).on("start", fault.normal, 1)
            server.on("start", fault.answers(502, acts=True), 1).on("start", fault.cut(), 1)

        async def use() -> None:
            async with api.session(session_request()):
                await asyncio.sleep(0)

        ended = await asyncio.gather(*(use() for _ in range(50)), return_exceptions=True)
        assert all(isinstance(end, LiveAvatarError | None) for end in ended)
        assert sum(end is None for end in ended) == 20
        assert api.open_sessions == ()
        assert server.counts == (50, 50, 50)
        assert server.running == set()
        await api.aclose()

    asyncio.run(scenario())


@pytest.mark.row("G2")
def test_concurrent_closes(server: FaultServer) -> None:
    """Many closes of one session at the same time all end, and the session is stopped."""
    with opened("blocking", server) as api, ThreadPoolExecutor(8) as threads:
        session_id = api.new_session(session_request()).session_id
        server.on("stop", fault.delays(0.1), 1)

        def close(_: int) -> bool:
            try:
                api.close_session(session_id)
            except SessionTokenNotFoundError:
                return False
            return True

        assert any(list(threads.map(close, range(8))))
        assert api.open_sessions == ()
        assert server.counts[:2] == (1, 1)
        assert server.running == set()


@pytest.mark.row("G3")
def test_second_close(api: Any, server: FaultServer) -> None:
    """A second close sends nothing, and says that the session is closed."""
    session_id = api.new_session(session_request()).session_id
    api.close_session(session_id)
    with pytest.raises(SessionTokenNotFoundError, match="closed") as caught:
        api.close_session(session_id)
    assert session_id in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert server.counts == (1, 1, 1)
    assert server.running == set()


@pytest.mark.row("G4")
def test_close_foreign_session(api: Any, server: FaultServer) -> None:
    """The error for a session that another client opened names stop_session."""
    with pytest.raises(SessionTokenNotFoundError, match="stop_session") as caught:
        api.close_session("11111111-0000-4000-8000-000000000000")
    assert isinstance(caught.value, ValueError)
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("G5")
def test_close_again(api: Any, server: FaultServer, fast_retries: FastRetries) -> None:
    """A close that failed can be called again."""
    session_id = api.new_session(session_request()).session_id
    server.on("stop", fault.answers(503), 3)
    with pytest.raises(LiveAvatarError) as caught:
        api.close_session(session_id)
    assert caught.value.session_may_be_running is True
    assert caught.value.session_id == session_id
    assert api.open_sessions == (session_id,)
    api.close_session(session_id)
    assert api.open_sessions == ()
    assert server.counts == (1, 1, 4)
    assert server.running == set()


@pytest.mark.row("G5")
def test_close_later(api: Any, server: FaultServer, fast_retries: FastRetries) -> None:
    """A session that new_session could not stop can be closed later."""
    server.on("start", fault.cut()).on("stop", fault.answers(503), 3)
    with pytest.raises(LiveAvatarError) as caught:
        api.new_session(session_request())
    assert caught.value.session_may_be_running is True
    api.close_session(caught.value.session_id)
    assert api.open_sessions == ()
    assert server.counts == (1, 1, 4)
    assert server.running == set()


@pytest.mark.row("G5")
def test_close_all(api: Any, server: FaultServer, fast_retries: FastRetries) -> None:
    """close_all_sessions tries all sessions, and can be called again."""
    ids = [api.new_session(session_request()).session_id for _ in range(5)]
    server.on("stop", fault.answers(400), 2)
    with pytest.raises(LiveAvatarError) as caught:
        api.close_all_sessions()
    assert len(api.open_sessions) == 2
    assert sorted(note.split()[1] for note in caught.value.__notes__) == sorted(api.open_sessions)
    assert set(api.open_sessions) < set(ids)
    api.close_all_sessions()
    assert api.open_sessions == ()
    api.close_all_sessions()  # nothing to do
    assert server.counts == (5, 5, 7)
    assert server.running == set()


@pytest.mark.row("G6")
def test_close_client(flavour: str, server: FaultServer) -> None:
    """Closing a client stops its sessions, except those that were released."""
    with opened(flavour, server) as api:
        ids = [api.new_session(session_request()).session_id for _ in range(3)]
        api.release_session(ids[1])
        api.close()
        assert api.open_sessions == ()
        assert server.counts == (3, 3, 2)
        assert server.running == {ids[1]}


@pytest.mark.row("G6")
def test_close_client_fails(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """Closing a client tries all sessions, and can be repeated."""
    with opened(flavour, server) as api:
        ids = [api.new_session(session_request()).session_id for _ in range(2)]
        server.on("stop", fault.answers(503))
        with pytest.raises(ServerError) as caught:
            api.close()
        assert caught.value.session_may_be_running is True
        assert caught.value.session_id in ids
        assert set(api.open_sessions) == set(ids) == server.running
        server.heal()
        api.close()
        assert server.running == set()


@pytest.mark.row("G6")
def test_close_without_sessions(flavour: str, server: FaultServer) -> None:
    """Closing a client without sessions logs no warning."""
    with opened(flavour, server) as api, warnings.catch_warnings():
        warnings.simplefilter("error")
        api.close_session(api.new_session(session_request()).session_id)
        api.close()
        assert server.counts == (1, 1, 1)
        assert server.running == set()


@pytest.mark.row("G6")
def test_release(api: Any, server: FaultServer) -> None:
    """A released session is no longer one of the client."""
    session_id = api.new_session(session_request()).session_id
    token = api.release_session(session_id)
    assert server.ledger.token_of[token] == session_id
    assert api.open_sessions == ()
    with pytest.raises(SessionTokenNotFoundError):
        api.close_session(session_id)
    api.close_all_sessions()
    assert server.counts == (1, 1, 0)
    assert server.running == {session_id}


@pytest.mark.row("G7")
@pytest.mark.timeout(900)  # on a busy machine
def test_many_cycles(flavour: str, fast_retries: FastRetries, request: pytest.FixtureRequest) -> None:
    """After thousands of cycles, files, memory and tokens are as before."""
    if any(name.startswith("COVERAGE") for name in os.environ):  # the tracer is at work, and grows with every thread
        again = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid]
        told = subprocess.run(again, cwd=ROOT, env=UNMEASURED, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout
        return
    logging.getLogger("liveavatar").setLevel(logging.ERROR)
    service = processes.Popen(
        [sys.executable, "-m", "tests.faults.steady"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stdout is not None
        url = service.stdout.readline().strip()
        with opened(flavour, url, timeout=60) as api:
            cycles(api, CYCLES // 10)
            before = measured()
            cycles(api, CYCLES * 9 // 10)
            after = measured()
            assert api.open_sessions == ()
            assert after[0] <= before[0] + 4, "file descriptors"
            assert after[1] <= before[1] + CYCLES // 5, "objects"
        counts, running = service.communicate("\n", timeout=30)[0].splitlines()
        assert counts == f"{CYCLES} {CYCLES} {CYCLES}"
        assert running == "0"
    finally:
        logging.getLogger("liveavatar").setLevel(logging.NOTSET)
        service.kill()
        service.communicate()


def cycles(api: Any, times: int) -> None:
    """Sessions that are opened and closed; of the steady server, every tenth start fails."""
    failed = 0
    if hasattr(api, "runner"):

        async def many() -> int:
            async def some(number: int) -> int:
                failures = 0
                for _ in range(number):
                    try:
                        session = await api.api.new_session(session_request())
                    except LiveAvatarError:
                        failures += 1
                    else:
                        await api.api.close_session(session.session_id)
                return failures

            return sum(await asyncio.gather(*(some(times // 10) for _ in range(10))))

        failed = api.runner.run(many())
    else:
        for _ in range(times):
            try:
                session = api.new_session(session_request())
            except LiveAvatarError:
                failed += 1
            else:
                api.close_session(session.session_id)
    assert failed == times // 10


def measured() -> tuple[int, int]:
    """Open file descriptors; objects that the garbage collector knows."""
    for _ in range(3):
        gc.collect()
    return len(os.listdir("/proc/self/fd")), len(gc.get_objects())
