"""H13. Sessions that are open when the interpreter ends, or when their client is garbage-collected, are stopped."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi, LiveAvatarError, _shutdown

from tests.clients import client
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, FastRetries
from tests.faults.running import program
from tests.faults.server import FaultServer

pytestmark = [
    pytest.mark.row("H13"),
    pytest.mark.usefixtures("unclosed_connections"),
]

ROOT = Path(__file__).parents[2]

LONGEST = 30.0
"""Seconds that an end may take on a busy machine; a hang would be far more."""


def names_each(warnings: list[str], ids: set[str]) -> bool:
    """Whether these warnings name each of the sessions exactly once."""
    named = re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", " ".join(warnings))
    return sorted(named) == sorted(ids)


ENDS = {
    "end_of_script": 0,
    "local_client": 0,
    "client_in_a_cycle": 0,
    "collected_without_finalizers": 0,
    "sys_exit": 3,
    "unhandled_exception": 1,
    "opened_in_a_thread": 0,
    "daemon_thread": 0,
    "first_client_after_the_main_thread": 0,
    "child_of_multiprocess": 0,
    "celery_pool": 0,
    "own_httpx_client": 0,
    "async_end_of_run": 0,
    "async_sys_exit": 3,
    "async_unhandled_exception": 1,
    "async_celery_pool": 0,
    "async_own_aiohttp_session": 0,
    "async_own_httpx_client": 0,
    "async_loop_left_open": 0,
}
"""Programs that end with one session open, and their exit codes."""


@pytest.mark.parametrize(("name", "code"), ENDS.items())
def test_end_stops_the_session(name: str, code: int, server: FaultServer) -> None:
    """The session is stopped, one WARNING names it and recommends `with`, and the exit code stays."""
    with program(name, server) as running:
        told = running.ends()
    assert server.running == set(), told
    assert server.counts[:2] == (1, 1)
    assert told.code == code, told
    assert len(told.warnings) == 1, told
    assert names_each(told.warnings, set(server.ledger.starts)), told
    assert re.search(r"\bwith\b", told.warnings[0])
    assert ("Traceback" in told.errors) == (code == 1), told


@pytest.mark.parametrize("name", ["many_sessions", "async_many_sessions"])
def test_end_with_many_sessions_and_slow_stops(name: str, server: FaultServer) -> None:
    """Twenty sessions whose stops take half a second each are stopped in time."""
    server.on("stop", fault.delays(0.5))
    with program(name, server) as running:
        told = running.ends()
    assert server.running == set(), told
    assert server.counts == (20, 20, 20)
    assert told.code == 0, told
    assert told.seconds < LONGEST
    assert len(told.warnings) == 1, told
    assert names_each(told.warnings, set(server.ledger.starts)), told


@pytest.mark.parametrize(
    "name",
    [
        "hanging_stop",
        "collected_client",
        "collected_client_of_a_busy_machine",
        "async_hanging_stop",
        "async_collected_client",
    ],
)
def test_end_whose_stop_hangs(name: str, server: FaultServer) -> None:
    """A stop without a response holds the end no longer than a cleanup may take, and the session is named."""
    server.on("stop", fault.holds())
    with program(name, server) as running:
        told = running.ends()
    (session_id,) = server.running
    assert told.code == 0, told
    assert told.seconds < LONGEST
    assert any(session_id in warning for warning in told.warnings), told


def test_end_whose_stop_drips(server: FaultServer) -> None:
    """A response that comes byte by byte through the caller's httpx.Client does not hold the end up (blocking)."""
    server.on("stop", fault.drips("headers", acts=False))
    with program("own_httpx_client_dripping", server) as running:
        told = running.ends()
    (session_id,) = server.running
    assert told.code == 0, told
    assert session_id in "".join(told.warnings)


def test_end_with_two_clients(server: FaultServer) -> None:
    """The sessions of every client are stopped and named (blocking; the async client uses the same exit)."""
    with program("two_clients", server) as running:
        told = running.ends()
    assert server.running == set(), told
    assert server.counts == (4, 4, 4)
    assert 1 <= len(told.warnings) <= 2, told
    assert names_each(told.warnings, set(server.ledger.starts)), told


def test_end_with_a_log_filter_that_raises(server: FaultServer) -> None:
    """The exit is not cut off by the filter, and nothing is printed."""
    with program("log_filter_that_raises", server) as running:
        told = running.ends()
    assert server.running == set(), told
    assert (told.code, told.errors) == (0, "")


def test_end_of_a_child_after_a_fork_hook(server: FaultServer) -> None:
    """A child of multiprocessing stops its session, although a fork hook had used a client in it before."""
    with program("fork_hook", server) as running:
        told = running.ends()
    assert server.running == set(), told
    assert server.counts == (1, 1, 1)
    assert names_each(told.warnings, set(server.ledger.starts)), told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_end_is_interrupted(number: signal.Signals, server: FaultServer) -> None:
    """A signal during the exit of a program with an httpx.Client leaves no session running (blocking)."""
    server.on("stop", fault.delays(0.5, fault.resets()), 2)
    with program("own_httpx_client_interrupted", server) as running:
        server.arrived("stop", timeout=60)
        running.send(number)
        told = running.ends()
    assert server.running == set(), told
    assert names_each(told.warnings, set(server.ledger.starts)), told


@pytest.mark.parametrize("name", ["exit_hook_is_interrupted", "async_exit_hook_is_interrupted"])
def test_exit_hook_is_interrupted(name: str, server: FaultServer) -> None:
    """Signals that come before the exit hook has sent anything do not keep it from stopping the sessions."""
    with program(name, server) as running:
        told = running.ends()
    assert server.running == set(), told
    assert names_each(told.warnings, set(server.ledger.starts)), told


def test_end_without_threads_leaves_the_pool_of_the_caller_alone(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no thread can be started, nothing would bound a read of the caller's httpx.Client, so it is not used."""
    seen: list[str] = []
    with httpx.Client(event_hooks={"request": [lambda sent: seen.append(sent.url.path)]}) as http:
        api = LiveAvatarApi(KEY, base_url=server.url, http_client=http)
        api.new_session(session_request())

        start = threading.Thread.start

        def no_more(thread: threading.Thread) -> None:
            if thread.name.startswith("liveavatar-"):
                raise RuntimeError("can't create new thread at interpreter shutdown")
            start(thread)

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_more)
            patched.setattr(_shutdown, "_exited", set())
            _shutdown._on_exit()
        assert server.running == set()
        assert [path.rpartition("/")[2] for path in seen] == ["token", "start"]
        api.close()


INTERRUPTED_IMPORT = """
import importlib.abc, sys
from tests.faults.endings import end_of_script


class Interrupter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "aiohttp.client_middleware_digest_auth" and self in sys.meta_path:
            sys.meta_path.remove(self)
            raise KeyboardInterrupt


end_of_script(sys.argv[1])
assert "aiohttp" not in sys.modules
sys.meta_path.insert(0, Interrupter())
"""


def test_import_in_the_exit_hook_is_interrupted(server: FaultServer) -> None:
    """An interrupt of the import of aiohttp, in which a blocking client stops its session, does not prevent that."""
    program = [sys.executable, "-c", INTERRUPTED_IMPORT, server.url]
    subprocess.run(program, cwd=ROOT, stderr=subprocess.DEVNULL, timeout=LONGEST, check=True)
    assert server.running == set()
    assert server.counts == (1, 1, 1)


@pytest.mark.parametrize("name", ["closed_session", "closed_client", "async_closed_client"])
def test_end_with_nothing_open_says_nothing(name: str, server: FaultServer) -> None:
    """A program that has closed its sessions ends without a word, a thread or a delay."""
    with program(name, server) as running:
        told = running.ends()
    assert (told.code, told.errors) == (0, "")
    assert "threads: 1" in told.output or name != "closed_session", told
    assert server.counts == (1, 1, 1)


@pytest.mark.parametrize("prefix", ["", "async_"])
@pytest.mark.parametrize("name", ["opened_in_an_exit_hook", "first_client_in_an_exit_hook"])
def test_session_that_nothing_would_stop(name: str, prefix: str, server: FaultServer) -> None:
    """A client that an exit hook makes opens no session, if nothing would stop it."""
    with program(prefix + name, server) as running:
        told = running.ends()
    assert "refused: The interpreter is exiting" in told.output, told
    assert server.counts == (0, 0, 0)


@pytest.mark.parametrize("name", ["stopped_in_an_exit_hook", "async_stopped_in_an_exit_hook"])
def test_stop_in_an_exit_hook(name: str, server: FaultServer) -> None:
    """A client that an exit hook makes can stop a session."""
    with program(name, server) as running:
        told = running.ends()
    assert server.running == set(), told
    assert server.counts == (1, 1, 1)


def test_end_while_clients_are_created(server: FaultServer) -> None:
    """A thread that creates clients during the exit does not keep sessions from being stopped (blocking)."""
    with program("client_during_the_exit", server) as running:
        told = running.ends()
    assert server.running == set(), told
    assert names_each(told.warnings, set(server.ledger.starts)), told


def test_end_without_descriptors(server: FaultServer) -> None:
    """A WARNING names the session also if no file descriptor is left to stop it with (blocking)."""
    with program("no_descriptors", server) as running:
        told = running.ends()
    (session_id,) = server.running
    assert told.code == 0, told
    assert any(f"May still be running: {session_id}" in warning for warning in told.warnings), told


@pytest.mark.parametrize("name", ["released_session", "async_released_session"])
def test_end_leaves_released_sessions_alone(name: str, server: FaultServer) -> None:
    """A released session goes on running, and is not mentioned."""
    with program(name, server) as running:
        told = running.ends()
    assert (told.code, told.errors) == (0, "")
    assert len(server.running) == 1
    assert server.counts == (1, 1, 0)


def test_async_end_of_run_cancels_a_task_with_a_session(server: FaultServer) -> None:
    """A task that asyncio.run cancels at its end stops its session."""
    with program("async_abandoned_task", server) as running:
        told = running.ends()
    assert server.running == set(), told
    assert server.counts == (1, 1, 1)
    assert told.code == 0, told


@pytest.mark.parametrize("name", ["forked", "forked_with_its_own", "forked_at_once"])
def test_end_of_a_forked_child(name: str, server: FaultServer) -> None:
    """A forked child stops its own sessions alone; the parent's go on until the parent ends."""
    own = name == "forked_with_its_own"
    with program(name, server) as running:
        running.says("open: 1")
        parents, *children = server.ledger.starts
        assert server.running == {parents}
        assert server.ledger.stops == children
        assert len(children) == own
        running.tell("go on")
        told = running.ends()
    assert server.running == set(), told
    assert told.code == 0, told
    assert names_each(told.warnings, set(server.ledger.starts)), told


def test_first_use_by_threads_of_a_forked_child(server: FaultServer) -> None:
    """Threads that use the client in the child for the first time, all at once, share one registry (blocking)."""
    with program("forked_with_threads", server) as running:
        running.says("child: 8")
        running.says("open: 1")
        assert server.running == {server.ledger.starts[0]}
        assert len(server.ledger.starts) == 9
        running.tell("go on")
        told = running.ends()
    assert server.running == set(), told
    assert names_each(told.warnings, set(server.ledger.starts)), told


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copy(copying: Callable[[object], object], flavour: str, server: FaultServer) -> None:
    """A client cannot be copied: nothing would stop the sessions of the copy."""
    with client(flavour, KEY, base_url=server.url) as api, pytest.raises(TypeError, match="cannot be copied"):
        copying(getattr(api, "api", api))


# ---------------------------------------------------------------------------------------------------------------
# Garbage collection.


def wait_until_stopped(server: FaultServer) -> None:
    deadline = time.monotonic() + LONGEST
    while server.ledger.running:
        assert time.monotonic() < deadline, "the session of a collected client runs on"
        time.sleep(0.01)


def warned_of(caplog: pytest.LogCaptureFixture, server: FaultServer) -> bool:
    """Whether one WARNING names the sessions, and recommends `with`; it follows the stops."""
    deadline = time.monotonic() + LONGEST
    warnings: list[str] = []
    while not warnings and time.monotonic() < deadline:
        time.sleep(0.01)
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and r.name == "liveavatar"]
    (warning,) = warnings
    return names_each([warning], set(server.ledger.starts)) and bool(re.search(r"\bwith\b", warning))


@pytest.mark.parametrize("cycle", [False, True], ids=["by its last reference", "in a cycle"])
def test_blocking_client_is_collected(cycle: bool, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """The sessions of a collected client are stopped, and not by the thread that collects it."""
    gate = threading.Event()
    server.on("stop", fault.waits_for(gate))
    api: Any = LiveAvatarApi(KEY, base_url=server.url, timeout=10)
    for _ in range(2):
        api.new_session(session_request())
    if cycle:
        holder = [api]
        holder.append(holder)  # type: ignore[arg-type]
        del holder
    del api
    gc.collect()
    assert len(server.ledger.running) == 2, "the collecting thread waited for the service"
    gate.set()
    wait_until_stopped(server)
    assert server.counts == (2, 2, 2)
    assert warned_of(caplog, server)


def test_async_client_is_collected_in_its_loop(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """A collection inside the event loop does not block the loop, and the sessions are stopped."""

    async def main() -> None:
        gate = threading.Event()
        server.on("stop", fault.waits_for(gate))
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10)
        for _ in range(2):
            await api.new_session(session_request())
        del api
        gc.collect()
        assert len(server.ledger.running) == 2, "the event loop waited for the service"
        gate.set()
        await asyncio.to_thread(wait_until_stopped, server)

    asyncio.run(main())
    gc.collect()
    assert server.counts == (2, 2, 2)
    assert warned_of(caplog, server)


def test_async_client_is_collected_after_its_loop(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """Without its event loop, an async client's sessions are stopped all the same."""

    async def main() -> AsyncLiveAvatarApi:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10)
        await api.new_session(session_request())
        return api

    api = asyncio.run(main())
    assert len(server.running) == 1
    del api
    gc.collect()
    wait_until_stopped(server)
    assert warned_of(caplog, server)


def test_collection_without_threads(
    flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no thread can be started, a WARNING names the sessions at once; the next call of any client stops them."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("liveavatar"):
            raise RuntimeError("can't start new thread")
        start(thread)

    async def main() -> AsyncLiveAvatarApi:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10)
        await api.new_session(session_request())
        return api

    if flavour == "async":
        api: Any = asyncio.run(main())
    else:
        api = LiveAvatarApi(KEY, base_url=server.url, timeout=10)
        api.new_session(session_request())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    del api
    gc.collect()
    (session_id,) = server.running
    assert f"May still be running: {session_id}" in caplog.text
    monkeypatch.undo()
    with client(flavour, KEY, base_url=server.url) as other:
        assert other.open_sessions == ()
        wait_until_stopped(server)


def test_collection_after_a_failed_start(
    flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture, fast_retries: FastRetries
) -> None:
    """A client is collected although a session of it, whose start and stop have failed, may be running."""
    server.on("start", fault.answers(500, acts=True)).on("stop", fault.answers(400), 1)

    async def main() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10)
        with pytest.raises(LiveAvatarError):
            await api.new_session(session_request())

    def work() -> None:
        api = LiveAvatarApi(KEY, base_url=server.url, timeout=10)
        with pytest.raises(LiveAvatarError):
            api.new_session(session_request())

    asyncio.run(main()) if flavour == "async" else work()
    assert len(server.ledger.running) == 1
    gc.collect()
    wait_until_stopped(server)


def test_collection_with_nothing_open_says_nothing(
    flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture, fast_retries: FastRetries
) -> None:
    """A collected client whose sessions are closed or released starts no thread, sends nothing and says nothing."""
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10)
        await api.close_session((await api.new_session(session_request())).session_id)
        api.release_session((await api.new_session(session_request())).session_id)
        await api.aclose()

    if flavour == "async":
        asyncio.run(main())
    else:
        api = LiveAvatarApi(KEY, base_url=server.url, timeout=10)
        api.close_session(api.new_session(session_request()).session_id)
        api.release_session(api.new_session(session_request()).session_id)
        del api
    before = threading.active_count()
    gc.collect()
    assert threading.active_count() <= before
    assert server.counts == (2, 2, 1)
    assert [r for r in caplog.records if r.levelname == "WARNING"] == []
