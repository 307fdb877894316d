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

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, UNMEASURED, FastRetries, opened
from tests.faults.server import FaultServer

ROOT = Path(__file__).parents[2]


def each_stop_has_its_own_token(server: FaultServer) -> None:
    for request in server.ledger.of("stop"):
        assert request.bearer is not None
        assert server.ledger.token_of[request.bearer] == request.json["session_id"]


@pytest.mark.row("G1")
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_sessions_are_closed_in_either_order(order: tuple[int, int], api: Any, server: FaultServer) -> None:
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


@pytest.mark.row("G1")
def test_session_token_is_that_of_the_latest_session_still_open(api: Any, server: FaultServer) -> None:
    assert api.session_token is None
    first, second = (api.new_session(session_request()).session_id for _ in range(2))
    tokens = {session: token for token, session in server.ledger.token_of.items()}
    assert api.session_token == tokens[second]
    api.close_session(second)
    assert api.session_token == tokens[first]
    api.close_session(first)
    assert api.session_token is None
    assert server.counts == (2, 2, 2)
    assert server.running == set()


@pytest.mark.row("G2")
def test_blocking_client_shared_by_16_threads_keeps_every_session_apart(server: FaultServer) -> None:
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
def test_async_client_shared_by_50_tasks_keeps_every_session_apart(server: FaultServer) -> None:
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
def test_async_client_with_faults_among_50_tasks_leaves_nothing(
    server: FaultServer, fast_retries: FastRetries
) -> None:
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
def test_all_threads_closing_one_session_stop_it_and_end(server: FaultServer) -> None:
    """blocking: one of them closes it, the others hear that it is closed, or being closed."""
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
def test_a_second_close_sends_nothing_and_says_that_it_is_closed(api: Any, server: FaultServer) -> None:
    session_id = api.new_session(session_request()).session_id
    api.close_session(session_id)
    with pytest.raises(SessionTokenNotFoundError, match="closed") as caught:
        api.close_session(session_id)
    assert session_id in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert server.counts == (1, 1, 1)
    assert server.running == set()


@pytest.mark.row("G4")
def test_close_of_a_session_that_another_opened_names_stop_session(api: Any, server: FaultServer) -> None:
    with pytest.raises(SessionTokenNotFoundError, match="stop_session") as caught:
        api.close_session("11111111-0000-4000-8000-000000000000")
    assert isinstance(caught.value, ValueError)
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("G5")
def test_a_close_that_failed_can_be_called_again(api: Any, server: FaultServer, fast_retries: FastRetries) -> None:
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
def test_a_session_that_new_session_could_not_stop_is_closed_later(
    api: Any, server: FaultServer, fast_retries: FastRetries
) -> None:
    server.on("start", fault.cut()).on("stop", fault.answers(503), 3)
    with pytest.raises(LiveAvatarError) as caught:
        api.new_session(session_request())
    assert caught.value.session_may_be_running is True
    api.close_session(caught.value.session_id)
    assert api.open_sessions == ()
    assert server.counts == (1, 1, 4)
    assert server.running == set()


@pytest.mark.row("G5")
def test_closing_all_tries_all_and_can_be_called_again(
    api: Any, server: FaultServer, fast_retries: FastRetries
) -> None:
    ids = [api.new_session(session_request()).session_id for _ in range(5)]
    server.on("stop", fault.answers(400), 2)
    with pytest.raises(LiveAvatarError) as caught:
        api.close_all_sessions()
    assert len(caught.value.__notes__) == 1
    assert len(api.open_sessions) == 2
    assert set(api.open_sessions) < set(ids)
    api.close_all_sessions()
    assert api.open_sessions == ()
    api.close_all_sessions()  # nothing to do
    assert server.counts == (5, 5, 7)
    assert server.running == set()


@pytest.mark.row("G6")
def test_closing_the_client_stops_its_sessions_but_not_released_ones(flavour: str, server: FaultServer) -> None:
    with opened(flavour, server) as api:
        ids = [api.new_session(session_request()).session_id for _ in range(3)]
        api.release_session(ids[1])
        api.close()
        assert api.open_sessions == ()
        assert server.counts == (3, 3, 2)
        assert server.running == {ids[1]}


@pytest.mark.row("G6")
def test_a_close_that_fails_tries_all_and_can_be_repeated(
    flavour: str, server: FaultServer, fast_retries: FastRetries
) -> None:
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
def test_closing_the_client_without_sessions_warns_of_nothing(flavour: str, server: FaultServer) -> None:
    with opened(flavour, server) as api, warnings.catch_warnings():
        warnings.simplefilter("error")
        api.close_session(api.new_session(session_request()).session_id)
        api.close()
        assert server.counts == (1, 1, 1)
        assert server.running == set()


@pytest.mark.row("G6")
def test_a_released_session_is_nobodys_here(api: Any, server: FaultServer) -> None:
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
def test_ten_thousand_cycles_leave_files_memory_and_tokens_as_they_were(
    flavour: str, fast_retries: FastRetries, request: pytest.FixtureRequest
) -> None:
    """One in ten fails. The server is a process of its own, so that what is measured is the client's."""
    if any(name.startswith("COVERAGE") for name in os.environ):  # the tracer is at work, and grows with every thread
        again = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid]
        told = subprocess.run(again, cwd=ROOT, env=UNMEASURED, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout
        return
    logging.getLogger("liveavatar").setLevel(logging.ERROR)
    service = subprocess.Popen(
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
            cycles(api, 1000)
            before = measured()
            cycles(api, 9000)
            after = measured()
            assert api.open_sessions == ()
            assert after[0] <= before[0] + 4, "file descriptors"
            assert after[1] <= before[1] + 2000, "objects"
        counts, running = service.communicate("\n", timeout=30)[0].splitlines()
        assert counts == "10000 10000 10000"
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
