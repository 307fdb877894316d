"""Both clients with a ledger: what a dead process has left running is stopped, once, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any
from unittest import mock

import attrs
import httpx
import liveavatar
import pytest
from liveavatar import (
    AsyncLiveAvatarApi,
    ConflictError,
    LedgerError,
    LiveAvatarApi,
    LiveAvatarConnectionError,
    LiveAvatarError,
    ServerError,
    SessionTokenNotFoundError,
    _flows,
    _operations,
    _recovery,
    _recovery_task,
    _shutdown,
)
from liveavatar._redaction import Secret
from liveavatar._transports import _asyncio, _blocking
from liveavatar.ledger import Ledger, LedgerEntry, SqliteLedger, _protocol, _redis_store, _sqlite

from tests.clients import client, interrupt_start
from tests.clients import wait_until as wait_until_in
from tests.faults.server import Exchange, FaultServer, edits, envelope, refuses
from tests.ledger.programs import request
from tests.ledger.support import KEY, LEASE, RedisServer, alive, entry, free_port, make, program, wait_until


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of this process look at their ledgers often."""
    recover_every(0.1, monkeypatch)


def recover_every(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_recovery, _recovery_task):
        monkeypatch.setattr(module, "RECOVERY_INTERVAL", seconds)


@contextlib.contextmanager
def using(flavour: str, server: FaultServer, **settings: Any) -> Iterator[Any]:
    """A client that is closed at the end, without entering its own block, which recovers in the background."""
    key = settings.pop("api_key", KEY)
    api = client(flavour, key, **{"base_url": server.url, "timeout": 10.0} | settings)
    try:
        yield api
    finally:
        api.close()
        if hasattr(api, "runner"):
            api.runner.close()


class MemoryLedger:
    """A ledger as a user may write one, in memory; the owner of everything is dead, but for what is added here."""

    def __init__(self) -> None:
        self.added: dict[str, LedgerEntry] = {}
        self.abandoned: dict[str, LedgerEntry] = {}
        self.on_add: Callable[[], object] = lambda: None
        self.on_remove: Callable[[], object] = lambda: None
        self.on_read: Callable[[], object] = lambda: None
        self.on_claim: Callable[[], object] = lambda: None

    def add(self, entry: LedgerEntry) -> None:
        self.on_add()
        self.added[entry.session_id] = entry

    def remove(self, session_id: str) -> None:
        self.on_remove()
        self.added.pop(session_id, None)

    def entries(self) -> list[LedgerEntry]:
        self.on_read()
        return [
            LedgerEntry(each.session_id, each.account, each.base_url, each.started_at, "x", owner_alive)
            for found, owner_alive in ((self.added, True), (self.abandoned, False))
            for each in found.values()
        ]

    def claim(self, session_id: str) -> bool:
        self.on_claim()
        entry = self.abandoned.pop(session_id, None)
        if entry is not None:
            self.added[session_id] = entry
        return entry is not None


def abandoned(ledger: Ledger) -> set[str]:
    return {session_id for session_id, owner_alive in alive(ledger).items() if owner_alive is False}


@pytest.mark.parametrize("flavour", ["blocking", "async"])
def test_killed_at_any_moment(
    flavour: str, location: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a program is killed, one recovery stops what it has left, and touches no living session."""
    recover_every(3600, monkeypatch)
    with using("blocking", server, ledger=make(location)) as living:
        kept = {living.new_session(request()).session_id for _ in range(2)}
        with program("die_at_any_moment", location, server.url, flavour, "50") as dying:
            assert dying.line().startswith("done")
            server.settle()
            left = server.running - kept
            assert left, "some were killed while a session ran"
            ledger = make(location)
            wait_until(lambda: {*alive(ledger)} - kept == abandoned(ledger), LEASE + 20)
            assert left <= abandoned(ledger)
            found = abandoned(ledger)
            server.ledger.forget_requests()
            with using(flavour, server, ledger=ledger) as api:
                assert {*api.recover_sessions()} == found
                assert api.open_sessions == ()
            assert server.running == kept
            assert sorted(stop.json["session_id"] for stop in server.ledger.of("stop")) == sorted(found)
            assert {*alive(ledger)} == kept
    assert server.running == set()


@pytest.mark.parametrize("flavour", ["blocking", "async"])
def test_two_of_four_workers_die(flavour: str, location: str, server: FaultServer) -> None:
    """Of four workers under load two are killed: their sessions are stopped, once each, and the others work on."""
    ledger = make(location)
    with (
        program("work", location, server.url, flavour) as first,
        program("work", location, server.url, flavour) as second,
        program("work", location, server.url, flavour) as third,
        program("work", location, server.url, flavour) as fourth,
    ):
        for worker in (first, second, third, fourth):
            for _ in range(12):
                worker.line()
        first.kill()
        second.kill()
        wait_until(lambda: len({found.owner for found in ledger.entries() if found.owner_alive is not False}) == 2)
        wait_until(lambda: len({found.owner for found in ledger.entries()}) == 2, 60)  # the living stop the rest
        for worker in (third, fourth):
            for _ in range(40):
                assert worker.line()
    server.settle()
    with using("blocking", server, ledger=ledger) as api:
        wait_until(lambda: not [found for found in ledger.entries() if found.owner_alive], LEASE + 20)
        api.recover_sessions()
    assert server.running == set()
    assert len(server.ledger.stops) == len(set(server.ledger.stops)) == len(server.ledger.starts)


def test_restart_gets_the_slot(flavour: str, sqlite_path: str, server: FaultServer) -> None:
    """On a plan with one slot, a program that was killed opens a session as soon as it is started again."""

    def one_slot(exchange: Exchange) -> None:
        full = bool(server.ledger.running)
        exchange.answer(*(envelope(403, 4030, "Concurrency limit reached") if full else exchange.do()))

    server.on("start", one_slot)
    with program("open_and_hold", sqlite_path, server.url, flavour) as holder:
        first = holder.line()
        holder.kill()
    with using(flavour, server, ledger=SqliteLedger(sqlite_path)) as api:
        session = api.new_session(request())
        assert server.running == {session.session_id}
        assert api.recover_sessions() == [first], "those that were stopped in the background are returned, too"
        assert api.recover_sessions() == []
    assert server.running == set()


@pytest.mark.parametrize("mode", ["exit", "kill", "interrupt"])
def test_running_client_recovers(
    flavour: str, mode: str, location: str, server: FaultServer, frequent: None, tmp_path: object
) -> None:
    """A client that is open stops what another process leaves, without a call."""
    with running_client(flavour, server, make(location)):
        with program("open_and_hold", location, server.url, flavour, mode) as holder:
            session_id = holder.line()
            if mode == "kill":
                holder.kill()
            holder.process.terminate()
            holder.process.wait(30)
        wait_until(lambda: session_id in server.ledger.stops, LEASE + 20)
    assert server.running == set()


class running_client:  # noqa: N801
    """A client of a flavour in a thread of its own, whose event loop runs all the time."""

    def __init__(self, flavour: str, server: FaultServer, ledger: Ledger) -> None:
        self.ready, self.end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run(flavour, server, ledger)))

    async def run(self, flavour: str, server: FaultServer, ledger: Ledger) -> None:
        if flavour == "blocking":
            with LiveAvatarApi(KEY, base_url=server.url, ledger=ledger):
                self.ready.set()
                self.end.wait()
        else:
            async with AsyncLiveAvatarApi(KEY, base_url=server.url, ledger=ledger):
                self.ready.set()
                await asyncio.to_thread(self.end.wait)

    def __enter__(self) -> None:
        self.thread.start()
        assert self.ready.wait(20)

    def __exit__(self, *error: object) -> None:
        self.end.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def test_written_before_the_start(flavour: str, location: str, server: FaultServer) -> None:
    """A session is in the ledger when its start arrives, and still when its stop arrives; then it is removed."""
    ledger = make(location)
    seen: list[dict[str, bool | None]] = []

    def look(exchange: Exchange) -> None:
        seen.append(alive(ledger))
        exchange.answer(*exchange.do())

    server.on("start", look).on("stop", look)
    with using(flavour, server, ledger=make(location)) as api:
        session_id = api.new_session(request()).session_id
        assert alive(ledger) == {session_id: True}
        api.close_session(session_id)
        assert alive(ledger) == {}
    assert seen == [{session_id: True}] * 2


def test_no_credential_is_stored(flavour: str, server: FaultServer) -> None:
    """What the ledger is given holds no key and no token."""
    ledger = MemoryLedger()
    with using(flavour, server, ledger=ledger) as api:
        api.new_session(request())
        (found,) = ledger.added.values()
    assert "CANARY" not in repr(found)
    assert found.base_url == server.url


def test_not_written_down(flavour: str, server: FaultServer) -> None:
    """A session that cannot be written down is not started."""
    ledger = MemoryLedger()
    for failure in (LedgerError("full"), OSError("disk"), ValueError("odd")):

        def fail(failure: Exception = failure) -> None:
            raise failure

        ledger.on_add = fail
        with using(flavour, server, ledger=ledger) as api:
            with pytest.raises(LedgerError) as caught:
                api.new_session(request())
            assert not caught.value.session_may_be_running
            assert caught.value.session_id
            assert api.open_sessions == ()
    assert server.counts == (3, 0, 0)


def test_refused_start(flavour: str, server: FaultServer) -> None:
    """A session whose start is refused, or that is stopped before it is returned, is removed from the ledger."""
    ledger = MemoryLedger()
    with using(flavour, server, ledger=ledger) as api:
        for status in (402, 500):
            server.on("start", lambda exchange, status=status: exchange.answer(*envelope(status, 1, "no")), 1)  # type: ignore[misc]
            with pytest.raises(LiveAvatarError):
                api.new_session(request())
            assert ledger.added == {}


def test_not_removed(flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """If a session that has ended cannot be removed from the ledger, the close succeeds, with a warning."""
    ledger = MemoryLedger()

    def fail() -> None:
        raise OSError("disk")

    ledger.on_remove = fail
    with using(flavour, server, ledger=ledger) as api:
        session_id = api.new_session(request()).session_id
        api.close_session(session_id)
        assert api.open_sessions == ()
    assert f"Session {session_id} could not be removed from the ledger: disk" in caplog.text


def test_session_under_another_id(flavour: str, server: FaultServer) -> None:
    """If the service starts a session under another id, both ids are in the ledger until it is closed or released."""
    other = "11111111-0000-4000-8000-000000000000"

    def rename(exchange: Exchange) -> None:
        status, body = exchange.do()
        exchange.answer(status, body | {"data": body["data"] | {"session_id": other}})

    server.on("start", rename)
    ledger = MemoryLedger()
    with using(flavour, server, ledger=ledger) as api:
        for end in (api.close_session, api.release_session):
            assert api.new_session(request()).session_id == other
            assert {*ledger.added} == {other, server.ledger.minted[-1]}
            end(other)
            wait_until(lambda: ledger.added == {})


def test_session_under_another_id_of_a_closed_client(
    flavour: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it cannot be stopped, both ids are in the ledger, too, although the client was closed meanwhile."""
    monkeypatch.setattr(_flows, "CLEANUP_TIMEOUT", 0.3)
    ledger = MemoryLedger()
    other = "11111111-0000-4000-8000-000000000000"
    with using(flavour, server, ledger=ledger) as api:

        def rename(exchange: Exchange) -> None:
            status, body = exchange.do()
            api._flows.sessions.closed = True
            exchange.answer(status, body | {"data": body["data"] | {"session_id": other}})

        server.on("start", rename)
        server.on("stop", refuses(500, "no"), 10)
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(request())
        assert (caught.value.session_id, caught.value.session_may_be_running) == (other, True)
        assert {*ledger.added} == {other, *server.ledger.minted}
        server.heal()


def test_adoption_fails_while_the_owner_closes(flavour: str, server: FaultServer) -> None:
    """A session that a client fails to adopt, while its owner closes it, does not stay in the ledger."""
    ledger = MemoryLedger()
    with using("blocking", server, ledger=ledger) as owner, using(flavour, server, ledger=ledger) as other:
        session_id = owner.new_session(request()).session_id

        def refuse() -> None:
            owner.close_session(session_id)
            raise OSError("disk")

        ledger.on_add = refuse
        with pytest.raises(LedgerError, match="disk"):
            other.adopt_session(session_id)
        assert other.open_sessions == ()
        assert ledger.added == {}
    assert server.running == set()


@pytest.mark.parametrize("first_step", ["adopt", "release"])
def test_hand_over_within_a_process(
    first_step: str, flavour: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that one client takes over from another stays in the ledger that they share."""
    recover_every(3600, monkeypatch)
    ledger = MemoryLedger()
    removing, adopted, removed = threading.Event(), threading.Event(), threading.Event()

    def remove() -> None:
        removing.set()
        if flavour == "async" and first_step == "release":  # its ledger is called in the background
            assert adopted.wait(20)
        threading.Timer(0.01, removed.set).start()

    with using(flavour, server, ledger=ledger) as first, using(flavour, server, ledger=ledger) as second:
        session_id = first.new_session(request()).session_id
        ledger.on_remove = remove
        if first_step == "adopt":
            second.adopt_session(session_id)
            first.release_session(session_id)
        else:
            token = first.release_session(session_id)
            assert removing.wait(20)
            second.adopt_session(session_id, token)
            adopted.set()
            assert removed.wait(20)
        wait_until(lambda: not [each for each in threading.enumerate() if each.name == "liveavatar-cleanup"])
        assert {*ledger.added} == {session_id}
        ledger.on_remove = lambda: None
        second.close_session(session_id)
        assert ledger.added == {}
    assert server.running == set()


def test_adopt_what_was_released(flavour: str, server: FaultServer) -> None:
    """A session that a client takes back stays in its ledger, although the removal was still on its way."""
    ledger = MemoryLedger()
    gate = threading.Event()
    with using(flavour, server, ledger=ledger) as api:
        session_id = api.new_session(request()).session_id
        if flavour == "async":
            ledger.on_remove = lambda: gate.wait(20)
        api.adopt_session(session_id, api.release_session(session_id))
        gate.set()
        wait_until(lambda: not [each for each in threading.enumerate() if each.name == "liveavatar-cleanup"])
        assert {*ledger.added} == {session_id}
        api.close_session(session_id)
        assert ledger.added == {}


def test_hand_over(flavour: str, location: str, server: FaultServer) -> None:
    """A released session leaves the ledger; the client that adopts it writes it down, and closes it."""
    for with_token in (True, False):
        with (
            using(flavour, server, ledger=make(location)) as first,
            using(flavour, server, ledger=make(location)) as second,
        ):
            session_id = first.new_session(request()).session_id
            token = first.release_session(session_id)
            wait_until(lambda: alive(make(location)) == {})
            second.adopt_session(session_id, *([token] if with_token else []))
            second.adopt_session(session_id)
            assert second.open_sessions == (session_id,)
            assert second.session_token == (token if with_token else None)
            assert alive(make(location)) == {session_id: True}
            with pytest.raises(SessionTokenNotFoundError):
                first.close_session(session_id)
            second.close_session(session_id)
            assert alive(make(location)) == {}
            assert server.running == set()
            (stop,) = server.ledger.of("stop")
            assert (stop.bearer == token) is with_token
            assert (stop.api_key == KEY) is not with_token
            server.ledger.forget_requests()


def test_async_release_while_the_ledger_is_busy(server: FaultServer) -> None:
    """Closing the client waits until a released session is removed from the ledger."""
    ledger = MemoryLedger()
    gate = threading.Event()
    ledger.on_remove = lambda: gate.wait(20)

    async def run() -> None:
        async with AsyncLiveAvatarApi(KEY, base_url=server.url, ledger=ledger) as api:
            session_id = (await api.new_session(request())).session_id
            api.release_session(session_id)
            asyncio.get_running_loop().call_later(0.05, gate.set)
        assert ledger.added == {}
        assert server.running == {session_id}

    asyncio.run(run())


def test_end_of_the_program_is_interrupted(flavour: str, server: FaultServer) -> None:
    """Ctrl-C while the end of the program stops sessions does not leave them in the ledger."""

    def interrupts(exchange: Exchange) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        exchange.pause(0.2)
        exchange.answer(*exchange.do())

    ledger = MemoryLedger()
    with using(flavour, server, ledger=ledger) as api:
        api.new_session(request())
        server.on("stop", interrupts, 1)
        with mock.patch.object(_shutdown, "_exited", set()), pytest.raises(KeyboardInterrupt):
            _shutdown._on_exit()
        assert server.running == set()
        assert ledger.added == {}


def test_end_of_the_program_without_threads_and_with_a_slow_ledger(
    flavour: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no thread can be started, as in the exit of Python 3.12, a slow ledger is called until the time is over."""
    start = threading.Thread.start

    def no_more(thread: threading.Thread) -> None:
        if exiting and thread.name in ("liveavatar-cleanup", "liveavatar-blocking-call"):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    exiting: list[bool] = []
    monkeypatch.setattr(threading.Thread, "start", no_more)
    ledger = MemoryLedger()
    calls: list[float] = []
    with using(flavour, server, ledger=ledger) as api:
        for _ in range(5):
            api.new_session(request())
        ledger.on_remove = lambda: calls.append(time.sleep(0.7) or 0.0)
        exiting.append(True)
        with mock.patch.object(_shutdown, "_exited", set()), mock.patch.object(_shutdown, "CLEANUP_TIMEOUT", 1.5):
            _shutdown._on_exit()
        exiting.clear()
        assert server.running == set()
        assert 1 <= len(calls) < 5


def test_end_of_the_program_with_a_hanging_ledger(
    flavour: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that hangs does not hold the end up for longer than the stops may take."""
    gate = threading.Event()
    monkeypatch.setattr(_asyncio, "CLEANUP_TIMEOUT", 60)
    monkeypatch.setattr(_operations, "LEDGER_TIMEOUT", 60)
    with using(flavour, server, ledger=MemoryLedger()) as api:
        session_id = api.new_session(request()).session_id
        api._ledger.on_remove = lambda: gate.wait(60)
        started = time.monotonic()
        with mock.patch.object(_shutdown, "_exited", set()), mock.patch.object(_shutdown, "CLEANUP_TIMEOUT", 1.0):
            _shutdown._on_exit()
        assert time.monotonic() - started < 30, "a hang"
        assert server.ledger.stops == [session_id]
        gate.set()
    assert server.running == set()


def test_end_of_the_program_with_a_slow_ledger(
    flavour: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sessions are stopped before the ledger is called."""
    monkeypatch.setattr(_shutdown, "MAX_CONCURRENT_STOPS", 2)
    ledger = MemoryLedger()
    stops_at_removal: list[int] = []
    with using(flavour, server, ledger=ledger) as api:
        for _ in range(6):
            api.new_session(request())
        ledger.on_remove = lambda: stops_at_removal.append(len(server.ledger.stops))
        with mock.patch.object(_shutdown, "_exited", set()):
            _shutdown._on_exit()
        assert stops_at_removal == [6] * 6
        assert ledger.added == {}
    assert server.running == set()


def test_end_of_the_program_during_a_release(server: FaultServer) -> None:
    """A session whose release waits for the ledger is stopped: nobody has its token (blocking)."""
    ledger = MemoryLedger()
    removing, gate = threading.Event(), threading.Event()

    def remove() -> None:
        removing.set()
        gate.wait(20)

    with using("blocking", server, ledger=ledger) as api:
        session_id = api.new_session(request()).session_id
        ledger.on_remove = remove
        thread = threading.Thread(target=api.release_session, args=[session_id])
        thread.start()
        assert removing.wait(20)
        assert api.open_sessions == (session_id,)
        gate.set()
        thread.join()
        assert api.open_sessions == ()
    assert server.running == {session_id}


def test_blocking_release_with_a_hanging_ledger(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A release waits for the ledger no longer than other calls do."""
    monkeypatch.setattr("liveavatar.client.LEDGER_TIMEOUT", 0.1)
    ledger = MemoryLedger()
    gate = threading.Event()
    with using("blocking", server, ledger=ledger) as api:
        session_id = api.new_session(request()).session_id
        ledger.on_remove = lambda: gate.wait(20)
        assert api.release_session(session_id)
        assert not gate.is_set()
        assert "The ledger does not respond" in caplog.text
        gate.set()
        wait_until(lambda: ledger.added == {})


def test_async_release_at_the_end_of_the_program(server: FaultServer) -> None:
    """The end of the program waits until a released session is removed from the ledger."""
    ledger = MemoryLedger()
    gate = threading.Event()
    ledger.on_remove = lambda: gate.wait(20)

    async def run() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url, ledger=ledger)
        api.release_session((await api.new_session(request())).session_id)
        await api._transport.close()

    asyncio.run(run())
    assert len(ledger.added) == 1
    threading.Timer(0.05, gate.set).start()
    with mock.patch.object(_shutdown, "_exited", set()):
        _shutdown._on_exit()
    assert ledger.added == {}
    assert len(server.running) == 1


def test_blocking_release_is_interrupted(server: FaultServer) -> None:
    """If Ctrl-C interrupts the release of a session, the client and the ledger keep it, and the client closes it."""
    ledger = MemoryLedger()
    with using("blocking", server, ledger=ledger) as api:
        session_id = api.new_session(request()).session_id
        ledger.on_remove = lambda: signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            api.release_session(session_id)
        ledger.on_remove = lambda: None
        assert api.open_sessions == (session_id,)
        assert list(ledger.added) == [session_id]
    assert server.running == set()
    assert ledger.added == {}


@pytest.mark.parametrize("renamed", [False, True])
def test_release_is_interrupted_after_the_removal(flavour: str, renamed: bool, server: FaultServer) -> None:
    """The ledger has a session again, under each of its ids, if its release is interrupted after it was removed."""
    ledger = MemoryLedger()
    if renamed:
        server.on("start", edits(lambda body: body["data"].update(session_id="11111111-0000-4000-8000-000000000000")))

    def interrupt() -> None:
        api._flows.sessions.on_removed = None
        raise KeyboardInterrupt

    with using(flavour, server, ledger=ledger) as api:
        session_id = api.new_session(request()).session_id
        ledger.on_remove = lambda: time.sleep(0.05)
        api._flows.sessions.on_removed = interrupt
        with pytest.raises(KeyboardInterrupt):
            api.release_session(session_id)
        assert api.open_sessions == (session_id,)
        wait_until(lambda: flavour == "blocking" or not api._ledger_removals.under_way())
        assert {*ledger.added} == {session_id, *server.ledger.minted}
    assert server.running == set()


@pytest.mark.parametrize("method", ["release_session", "recover_sessions"])
def test_ledger_runs_in_another_thread(sqlite_path: str, server: FaultServer, method: str) -> None:
    """No line of a ledger runs in the main thread, where Ctrl-C could leave the ledger half done."""
    with using("blocking", server, ledger=SqliteLedger(sqlite_path)) as api:
        api._recovery.start = lambda: None
        arguments = [api.new_session(request()).session_id] if method == "release_session" else []
        lines = 0

        def count(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal lines
            lines += frame.f_code.co_filename == _sqlite.__file__
            return count

        sys.settrace(count)
        try:
            getattr(api, method)(*arguments)
        finally:
            sys.settrace(None)
        assert lines == 0


def test_claim_is_interrupted(server: FaultServer) -> None:
    """If Ctrl-C comes while a session is claimed, the next recovery, or the end of the client, stops the session."""
    ledger = MemoryLedger()
    (session_id,) = leave(server, ledger)
    ledger.on_claim = lambda: signal.raise_signal(signal.SIGINT)
    with using("blocking", server, ledger=ledger) as api:
        with pytest.raises(KeyboardInterrupt):
            api.recover_sessions()
        assert api.open_sessions == (session_id,)
        assert api.recover_sessions() == [session_id]
    assert server.running == set()
    assert ledger.added == {}


def test_hanging_read_is_interrupted(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a recovery whose ledger does not respond."""
    monkeypatch.setattr(_blocking, "CLEANUP_TIMEOUT", -0.9)
    ledger = MemoryLedger()
    gate = threading.Event()
    ledger.on_read = lambda: (signal.raise_signal(signal.SIGINT), gate.wait(20))
    with using("blocking", server, ledger=ledger) as api:
        with pytest.raises(KeyboardInterrupt):
            api.recover_sessions()
        assert not gate.is_set()
        gate.set()


def test_blocking_adopt_is_interrupted(server: FaultServer) -> None:
    """If Ctrl-C comes while a session is adopted, it is adopted and written down before Ctrl-C is raised."""
    ledger = MemoryLedger()
    with using("blocking", server) as first, using("blocking", server, ledger=ledger) as second:
        session_id = first.new_session(request()).session_id
        token = first.release_session(session_id)
        ledger.on_add = lambda: signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            second.adopt_session(session_id, token)
        assert second.open_sessions == (session_id,)
        assert {*ledger.added} == {session_id}
    assert server.running == set()
    assert ledger.added == {}


def test_async_adopt_is_cancelled(server: FaultServer) -> None:
    """If a task is cancelled while it adopts a session, the session is adopted and written down before it ends."""
    ledger = MemoryLedger()

    async def run() -> None:
        entered, gate = threading.Event(), threading.Event()
        ledger.on_add = lambda: (entered.set(), gate.wait(20))
        async with (
            AsyncLiveAvatarApi(KEY, base_url=server.url) as first,
            AsyncLiveAvatarApi(KEY, base_url=server.url, ledger=ledger) as second,
        ):
            session_id = (await first.new_session(request())).session_id
            adopting = asyncio.create_task(second.adopt_session(session_id, first.release_session(session_id)))
            await asyncio.to_thread(entered.wait, 20)
            adopting.cancel()
            asyncio.get_running_loop().call_later(0.05, gate.set)
            with pytest.raises(asyncio.CancelledError):
                await adopting
            assert second.open_sessions == (session_id,)
            assert {*ledger.added} == {session_id}
        assert ledger.added == {}

    asyncio.run(run())
    assert server.running == set()


def test_adopt_while_recovering(flavour: str, server: FaultServer) -> None:
    """A session that a client adopts is not recovered by it, neither before nor after it is written down."""
    ledger = MemoryLedger()
    adopting, failed = leave(server, ledger, 2)
    with using(flavour, server, ledger=ledger) as api:
        server.on("stop", lambda exchange: exchange.answer(*envelope(400, 1, "no")), 1)
        ledger.abandoned, others = {failed: ledger.abandoned.pop(failed)}, ledger.abandoned
        with pytest.raises(LiveAvatarError):
            api.recover_sessions()
        api._recovery.start = lambda: None
        api.adopt_session(failed)
        ledger.abandoned = others
        # As if it were being written down: the registry knows it already, and the ledger not yet.
        api._flows.sessions.adopt(adopting, None)
        assert api.recover_sessions() == []
        assert server.running == {adopting, failed}
    assert server.running == set()


def test_adopt_during_a_claim(flavour: str, server: FaultServer) -> None:
    """A session that is adopted while a recovery claims it goes on, with the token that it was adopted with."""
    ledger = MemoryLedger()
    (session_id,) = leave(server, ledger)
    with using(flavour, server, ledger=ledger) as api:
        ledger.on_claim = lambda: api._flows.sessions.adopt(session_id, Secret("CANARY-token"))
        assert api.recover_sessions() == []
        assert api.recover_sessions() == []
        assert api.session_token == "CANARY-token"
        assert server.running == {session_id}


def test_adopt_starts_recovery(flavour: str, server: FaultServer) -> None:
    """A client that only adopts a session looks at its ledger from then on."""
    ledger = MemoryLedger()
    (abandoned_id,) = leave(server, ledger)
    with using(flavour, server) as first, using(flavour, server, ledger=ledger) as api:
        session_id = first.new_session(request()).session_id
        api.adopt_session(session_id, first.release_session(session_id))
        wait_until_in(api, lambda: abandoned_id not in server.running)
        assert server.running == {session_id}


def test_adopt_is_not_written_down(flavour: str, server: FaultServer) -> None:
    """A session that cannot be written down is not adopted; one that this client has adopted before, it keeps."""
    ledger = MemoryLedger()

    def fail() -> None:
        raise OSError("disk")

    with using(flavour, server) as first, using(flavour, server, ledger=ledger) as second:
        session_id = first.new_session(request()).session_id
        ledger.on_add = fail
        with pytest.raises(LedgerError):
            second.adopt_session(session_id)
        assert second.open_sessions == ()
        ledger.on_add = lambda: None
        second.adopt_session(session_id)
        ledger.on_add = fail
        with pytest.raises(LedgerError):
            second.adopt_session(session_id)
        assert second.open_sessions == (session_id,)
        first.release_session(session_id)
    assert server.running == set()
    assert ledger.added == {}


def test_adopt_without_ledger(flavour: str, server: FaultServer) -> None:
    """Sessions are adopted without a ledger too; leaving the client's block closes them; release gives them away."""
    with using(flavour, server) as first:
        session_id, other = (first.new_session(request()).session_id for _ in range(2))
        tokens = [first.release_session(session_id), first.release_session(other)]
        with using(flavour, server) as second:
            second.adopt_session(session_id, tokens[0])
            second.adopt_session(other)
            assert second.release_session(other) == ""
            assert server.running == {session_id, other}
        assert server.running == {other}


@pytest.mark.parametrize(("session_id", "error"), [("", ValueError), (None, ValueError), (3, TypeError)])
def test_adopt_wrong_id(flavour: str, server: FaultServer, session_id: Any, error: type[Exception]) -> None:
    """What cannot be an id is refused before it is written down."""
    ledger = MemoryLedger()
    with using(flavour, server, ledger=ledger) as api, pytest.raises(error):
        api.adopt_session(session_id)
    assert ledger.added == {}


def test_without_ledger(flavour: str, server: FaultServer) -> None:
    """Without a ledger, recover_sessions says what is missing, and no thread is started."""
    before = threading.active_count()
    with using(flavour, server) as api:
        with pytest.raises(LiveAvatarError, match="pass ledger="):
            api.recover_sessions()
        api.close_session(api.new_session(request()).session_id)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("liveavatar-")]
    assert threading.active_count() <= before + 3  # of the server


@pytest.mark.parametrize("ledger", ["sessions.db", 3, object()])
def test_wrong_ledger(flavour: str, server: FaultServer, ledger: Any) -> None:
    """What is no ledger is a TypeError at construction."""
    with pytest.raises(TypeError, match="ledger"), using(flavour, server, ledger=ledger):
        pass


@pytest.mark.parametrize("method", ["add", "remove", "entries", "claim"])
def test_async_ledger(flavour: str, server: FaultServer, method: str) -> None:
    """A ledger with an async method is refused at construction: nothing would ever run it."""

    async def never_awaited(*_: object) -> None: ...

    ledger = MemoryLedger()
    setattr(ledger, method, never_awaited)
    with pytest.raises(TypeError, match="must not be async"), using(flavour, server, ledger=ledger):
        pass


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda odd: None, "owner_alive"),
        (lambda odd: attrs.evolve(odd, session_id=3), "session_id must be a str"),
        (lambda odd: attrs.evolve(odd, session_id=""), "session_id is empty"),
        (lambda odd: attrs.evolve(odd, started_at="today"), "started_at must be a datetime"),
        (lambda odd: attrs.evolve(odd, owner_alive=None), "liveavatar close"),
    ],
)
def test_odd_entries(
    flavour: str, server: FaultServer, change: Callable[[Any], Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An odd entry of a ledger that the user has written is skipped, with one warning; the others are recovered."""
    _protocol.warn_once.cache_clear()
    ledger = MemoryLedger()
    odd_id, other = leave(server, ledger, 2)
    odd = change(ledger.entries()[0])
    del ledger.abandoned[odd_id]
    read, claimed = ledger.entries, []
    ledger.entries = lambda: [odd, *read()]  # type: ignore[method-assign]
    ledger.on_claim = lambda: claimed.append(1)
    with using(flavour, server, ledger=ledger) as api:
        assert api.recover_sessions() == [other]
        assert api.recover_sessions() == []
    assert claimed == [1]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert words in warning


def test_no_entries(flavour: str, server: FaultServer) -> None:
    """A ledger that the user has written and that returns no list is a LedgerError."""
    ledger = MemoryLedger()
    ledger.entries = lambda: None  # type: ignore[assignment, method-assign, return-value]
    with using(flavour, server, ledger=ledger) as api, pytest.raises(LedgerError, match="not iterable"):
        api.recover_sessions()


def damage_sqlite(location: str, ids: list[str]) -> None:
    changes = (
        "session_id = ''",
        "started_at = 'soon'",
        "account = x'ff'",
        "account = CAST(x'ff' AS TEXT)",
        "owner = x'ff'",
    )
    with contextlib.closing(sqlite3.connect(location, isolation_level=None)) as database:
        for session_id, change in zip(ids, changes, strict=True):
            database.execute(f"UPDATE sessions SET {change} WHERE session_id = ?", (session_id,))


def damage_redis(server: RedisServer, ids: list[str]) -> None:
    for session_id, text in zip(ids, ("[]", '{"account": "x"}', '{"acc', b"\xff\xfe", "null"), strict=True):
        server.do("HSET", _redis_store.KEY, f"session:{session_id}", text)
    server.do("HSET", _redis_store.KEY, f"owner:{ids[0]}", "x", "lease:x", "x", b"\xff\xfe:x", b"\xff")
    server.do("HDEL", _redis_store.KEY, f"owner:{ids[1]}")


def test_damaged_entries(flavour: str, location: str, server: FaultServer, shared_redis: RedisServer) -> None:
    """Entries that something else has written do not keep the others from being recovered."""
    holder = make(location)
    ids = [f"damaged-{number}" for number in range(5)]
    with using("blocking", server) as leaving:
        left = leaving.new_session(request()).session_id
        for session_id in (*ids, left):
            holder.add(attrs.evolve(entry(session_id), base_url=server.url))
        leaving.release_session(left)
    if "://" in location:
        damage_redis(shared_redis, ids)
    else:
        damage_sqlite(location, ids)
    del holder
    gc.collect()
    with using(flavour, server, ledger=make(location)) as api:
        wait_until(lambda: left in api.recover_sessions(), LEASE + 20)
    assert server.running == set()
    shared_redis.do("FLUSHALL")


def test_time_without_zone(flavour: str, server: FaultServer) -> None:
    """An entry whose time has no zone is recovered like any other."""
    ledger = MemoryLedger()
    (session_id,) = leave(server, ledger)
    left = ledger.abandoned[session_id]
    ledger.abandoned[session_id] = attrs.evolve(left, started_at=left.started_at.replace(tzinfo=None))
    with using(flavour, server, ledger=ledger) as api:
        assert api.recover_sessions() == [session_id]


def test_claim_outlasts_the_client(flavour: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is claimed when its client, and the event loop, are closed already is stopped all the same."""
    for module in (_recovery, _recovery_task, _asyncio):
        monkeypatch.setattr(module, "CLEANUP_TIMEOUT", 0.1)
    ledger = MemoryLedger()
    (session_id,) = leave(server, ledger)
    entered, gate = threading.Event(), threading.Event()
    ledger.on_claim = lambda: (entered.set(), gate.wait(20))
    with using(flavour, server, ledger=ledger) as api:
        api.__enter__()
        if flavour == "async":
            api.runner.run(asyncio.to_thread(entered.wait, 20))
        assert entered.wait(20)
    gate.set()
    wait_until(lambda: ledger.added == ledger.abandoned == {})
    assert server.ledger.stops == [session_id]


def test_wait_for_the_first_recovery(flavour: str, server: FaultServer) -> None:
    """The wait for the first recovery leaves a call half of its time, and comes to an end for all calls together."""
    ledger = MemoryLedger()
    gate = threading.Event()
    ledger.on_read = lambda: gate.wait(20)
    with using(flavour, server, timeout=1.5, ledger=ledger) as api:
        api.new_session(request())
        api._recovery._first_until = time.monotonic()
        started = time.monotonic()
        api.new_session(request())
        assert time.monotonic() - started < 0.7
        gate.set()


def test_other_accounts(flavour: str, server: FaultServer) -> None:
    """Sessions of another account, another service or a living owner are not touched."""
    ledger = MemoryLedger()
    with using(flavour, server, ledger=ledger, api_key="CANARY-other") as other:
        mine = other.new_session(request()).session_id
        ledger.abandoned = {
            mine: ledger.added.pop(mine),
            "elsewhere": entry("elsewhere"),
        }
        with using(flavour, server, ledger=ledger) as api:
            assert api.recover_sessions() == []
        assert {*ledger.abandoned} == {mine, "elsewhere"}
        assert server.running == {mine}


def leave(server: FaultServer, ledger: MemoryLedger, count: int = 1, start: bool = True) -> list[str]:
    """Let a process that has died leave sessions."""
    found = []
    with using("blocking", server) as api:
        for _ in range(count):
            created = api.create_session_token(request()).data
            if start:
                api.start_session(created.session_token)
            found.append(created.session_id)
            ledger.abandoned[created.session_id] = attrs.evolve(entry(created.session_id), base_url=server.url)
    server.ledger.forget_requests()
    return found


def test_stop_fails(flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """A session that cannot be stopped does not keep the others; the next recovery tries it again."""
    ledger = MemoryLedger()
    first, second = leave(server, ledger, 2)

    def refuse(exchange: Exchange) -> None:
        refused = exchange.request.json["session_id"] == first
        exchange.answer(*(envelope(400, 1, "no") if refused else exchange.do()))

    server.on("stop", refuse)
    with using(flavour, server, ledger=ledger) as api:
        for _ in range(2):
            with pytest.raises(LiveAvatarError) as caught:
                api.recover_sessions()
            assert caught.value.session_id == first
        assert api.open_sessions == (first,)
        assert api.session_token is None
        opened = api.new_session(request()).session_id
        assert api.session_token
        api.release_session(opened)
        server.heal()
        assert {*api.recover_sessions()} == {first, second}
        assert api.open_sessions == ()
    assert server.running == {opened}
    wait_until(lambda: ledger.added == {})


def test_stops_without_response(flavour: str, server: FaultServer) -> None:
    """Stops that get no response are tried again after those of all other sessions."""
    ledger = MemoryLedger()
    first, second, third, fourth = leave(server, ledger, 4)

    def answer(exchange: Exchange) -> None:
        if exchange.request.json["session_id"] in {first, third}:
            exchange.reset()
        else:
            exchange.answer(*exchange.do())

    server.on("stop", answer)
    with using(flavour, server, ledger=ledger, max_retries=0) as api:
        with pytest.raises(LiveAvatarConnectionError):
            api.recover_sessions()
        assert server.running == {first, third}
        server.ledger.forget_requests()
        (fifth,) = leave(server, ledger)
        with pytest.raises(LiveAvatarConnectionError):
            api.recover_sessions()
        assert [stop.json["session_id"] for stop in server.ledger.of("stop")] == [fifth, first, third]
        server.heal()
        assert {*api.recover_sessions()} == {first, second, third, fourth, fifth}


def test_ledger_away_after_a_claim(flavour: str, server: FaultServer) -> None:
    """A session whose stop has failed is tried again though the ledger cannot be read."""
    ledger = MemoryLedger()
    (session_id,) = leave(server, ledger)

    def fail() -> None:
        raise LedgerError("away")

    server.on("stop", lambda exchange: exchange.answer(*envelope(400, 1, "no")), 1)
    with using(flavour, server, ledger=ledger) as api:
        with pytest.raises(LiveAvatarError):
            api.recover_sessions()
        ledger.on_read = fail
        with pytest.raises(LedgerError):
            api.recover_sessions()
        assert server.running == set()
        ledger.on_read = lambda: None
        assert api.recover_sessions() == [session_id]


def test_service_away(flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """While the service is away, the recovery ends early, and takes no more sessions than it has tried."""
    ledger = MemoryLedger()
    ids = leave(server, ledger, 3)
    server.on("stop", lambda exchange: exchange.reset())
    with using(flavour, server, ledger=ledger, max_retries=0) as api:
        with pytest.raises(LiveAvatarError):
            api.recover_sessions()
        assert len(ledger.abandoned) == 1
        server.heal()
        assert {*api.recover_sessions()} == {*ids}
    assert server.running == set()


def test_background_failure(server: FaultServer, frequent: None, caplog: pytest.LogCaptureFixture) -> None:
    """A recovery that fails in the background is a warning, once, and does not keep the client from its work."""
    ledger = MemoryLedger()
    leave(server, ledger)
    server.on("stop", lambda exchange: exchange.answer(*envelope(400, 1, "no")))
    with using("blocking", server, ledger=ledger) as api:
        api.release_session(api.new_session(request()).session_id)
        wait_until(lambda: len(server.ledger.of("stop")) > 4)
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert ["could not be recovered" in record.getMessage() for record in warnings] == [True]
        server.heal()
        wait_until(lambda: ledger.added == {})


def test_no_threads_to_be_had(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If no thread can be started, a session is opened all the same, and the next one starts the recovery."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("liveavatar"):
            raise RuntimeError("can't start new thread")
        start(thread)

    ledger = MemoryLedger()
    (session_id,) = leave(server, ledger)
    with using("blocking", server, ledger=ledger) as api:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        api.new_session(request())
        assert "could not be recovered: can't start new thread" in caplog.text
        assert session_id in server.running
        monkeypatch.undo()
        api.new_session(request())
        wait_until(lambda: session_id not in server.running)


def test_async_recovery_is_cancelled(server: FaultServer, frequent: None) -> None:
    """The recovery goes on after something has cancelled all tasks of the event loop."""
    ledger = MemoryLedger()

    async def main() -> None:
        async with AsyncLiveAvatarApi(KEY, base_url=server.url, ledger=ledger) as api:
            await api.close_session((await api.new_session(request())).session_id)
            for _ in range(2):
                reading, gate = threading.Event(), threading.Event()

                def read(reading: threading.Event = reading, gate: threading.Event = gate) -> None:
                    reading.set()
                    gate.wait(20)

                ledger.on_read = read
                await asyncio.to_thread(reading.wait, 20)
                assert reading.is_set()
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                gate.set()

    asyncio.run(main())
    assert server.running == set()


def test_recovery_is_interrupted_as_it_starts(
    server: FaultServer, frequent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the recovery's thread starts does not end the recovery: the next call starts it."""
    interrupt_start("liveavatar-recovery", KeyboardInterrupt(), monkeypatch)
    ledger = MemoryLedger()
    with using("blocking", server, ledger=ledger) as api:
        with pytest.raises(KeyboardInterrupt):
            api.new_session(request())
        read = threading.Event()
        ledger.on_read = read.set
        api.new_session(request())
        assert read.wait(30)


def test_queue_is_looked_up_late(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gevent may replace the queue after the import: the other would block all greenlets."""

    class Cooperative(queue.SimpleQueue[None]):
        pass

    monkeypatch.setattr(queue, "SimpleQueue", Cooperative)
    with using("blocking", server, ledger=MemoryLedger()) as api:
        assert type(api._recovery._wake) is Cooperative


@pytest.mark.usefixtures("unclosed_connections")
def test_blocking_client_is_collected_by_its_recovery(server: FaultServer, frequent: None) -> None:
    """A client may be collected in its own recovery thread, also while that begins to wait."""
    ledger = MemoryLedger()
    api: Any = LiveAvatarApi(KEY, base_url=server.url, ledger=ledger)
    api.me = api
    api.new_session(request())
    collected = weakref.ref(api)
    dropped = threading.Event()

    def collect(frame: FrameType, event: str, called: Any) -> None:
        begins_to_wait = (
            frame.f_code is threading.Condition.wait.__code__
            if event == "call"
            else (event == "c_call" and called.__name__ == "get" and frame.f_code.co_filename == _recovery.__file__)
        )
        if begins_to_wait and dropped.is_set():
            sys.setprofile(None)
            gc.collect()

    ledger.on_read = lambda: sys.setprofile(collect)
    gc.disable()
    try:
        del api
        dropped.set()
        wait_until(lambda: collected() is None)
        wait_until(lambda: not [each for each in threading.enumerate() if each.name == "liveavatar-recovery"])
    finally:
        gc.enable()
    wait_until(lambda: server.ledger.running == set())


def test_log_filter_raises(flavour: str, server: FaultServer) -> None:
    """A filter that raises for every record changes the outcome of no call."""

    def fail(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    logger = logging.getLogger("liveavatar")
    logger.setLevel(logging.DEBUG)
    logger.addFilter(fail)
    try:
        ledger = MemoryLedger()
        with using(flavour, server, ledger=ledger, max_retries=0) as api:
            closed = api.new_session(request(), keep_alive=True).session_id
            api.close_session(closed)
            released = api.new_session(request()).session_id
            assert api.release_session(released)
            server.on("start", refuses(500, "no"), 1)
            with pytest.raises(ServerError):
                api.new_session(request())
            server.on("keep-alive", refuses(409, "Session has already ended"), 1)
            ended = api.new_session(request()).session_id
            with pytest.raises(ConflictError):
                api.keep_session_alive(ended)
            ledger.on_remove = lambda: 1 / 0
            api.close_session(api.new_session(request()).session_id)
    finally:
        logger.removeFilter(fail)
        logger.setLevel(logging.NOTSET)
    assert server.running == {released, ended}


def test_log_handler_raises(flavour: str, server: FaultServer, frequent: None) -> None:
    """A log handler or filter that raises does not end the recovery."""

    def fail(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    ledger = MemoryLedger()
    reads = iter([OSError("disk"), OSError("disk")])

    def read() -> None:
        for failure in reads:
            raise failure

    ledger.on_read = read
    (session_id,) = leave(server, ledger)
    logger = logging.getLogger("liveavatar")
    logger.addFilter(fail)
    try:
        with running_client(flavour, server, ledger):
            wait_until(lambda: session_id in server.ledger.stops)
    finally:
        logger.removeFilter(fail)


@pytest.mark.parametrize("carried_out", [True, False])
def test_start_on_its_way(flavour: str, server: FaultServer, carried_out: bool) -> None:
    """If the dead process's start has not arrived yet, its session is asked for until it must have arrived."""
    server.stops_minted = False
    ledger = MemoryLedger()
    (session_id,) = leave(server, ledger, start=False)
    if carried_out:
        server.later(1.0, lambda: server.begin(session_id))
    with using(flavour, server, ledger=ledger) as api:
        assert api.recover_sessions() == [session_id]
    assert server.running == set()
    assert ledger.added == {}


def test_cancelled_while_it_is_written_down(server: FaultServer) -> None:
    """If the task is cancelled while a session is written down, it is not started, and leaves the ledger."""
    ledger = MemoryLedger()
    entered = threading.Event()

    def dawdle() -> None:
        entered.set()
        time.sleep(0.3)

    ledger.on_add = dawdle

    async def run() -> None:
        async with AsyncLiveAvatarApi(KEY, base_url=server.url, ledger=ledger) as api:
            task = asyncio.create_task(api.new_session(request()))
            await asyncio.to_thread(entered.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ledger.added == {}
            assert api.open_sessions == ()

    asyncio.run(run())
    assert server.counts == (1, 0, 0)


def test_ledger_does_not_block_the_loop(server: FaultServer) -> None:
    """The event loop runs on while a ledger is slow."""
    ledger = MemoryLedger()
    ledger.on_add = ledger.on_remove = lambda: time.sleep(0.5)

    async def run() -> None:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                started = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - started)

        async with AsyncLiveAvatarApi(KEY, base_url=server.url, ledger=ledger) as api:
            ticking = asyncio.create_task(tick())
            await api.close_session((await api.new_session(request())).session_id)
            released = (await api.new_session(request())).session_id
            api.release_session(released)
            await asyncio.sleep(0)
            ticking.cancel()
        assert longest < 0.45

    asyncio.run(run())


def test_ledger_hangs(
    flavour: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client does not wait for ever for a ledger that does not respond; nothing is started meanwhile."""
    for module in (_operations, _flows):
        monkeypatch.setattr(module, "LEDGER_TIMEOUT", 0.2)
    ledger = MemoryLedger()
    gate = threading.Event()
    with using(flavour, server, ledger=ledger) as api:
        session_id = api.new_session(request()).session_id
        ledger.on_add = ledger.on_remove = lambda: gate.wait(10)
        with pytest.raises(LedgerError, match=r"does not respond within 0\.2 seconds") as caught:
            api.new_session(request())
        assert caught.value.session_id not in {None, session_id}
        assert server.running == {session_id}
        api.close_session(session_id)
        gate.set()
        assert f"Session {session_id} could not be removed from the ledger" in caplog.text
    assert server.counts == (2, 1, 1)


@pytest.mark.parametrize("method", ["new_session", "adopt_session"])
def test_ledger_writes_too_late(
    method: str, flavour: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that a client has given up is not in the ledger, although the ledger was slow to write it down."""
    for module in (_operations, _flows):
        monkeypatch.setattr(module, "LEDGER_TIMEOUT", 0.2)
    ledger = MemoryLedger()
    gate, written = threading.Event(), threading.Event()
    ledger.on_add = lambda: gate.wait(10)
    ledger.on_remove = written.set
    with using(flavour, server, ledger=ledger) as api:
        argument = request() if method == "new_session" else str(uuid.uuid4())
        with pytest.raises(LedgerError, match="does not respond"):
            getattr(api, method)(argument)
        assert api.open_sessions == ()
        gate.set()
        assert written.wait(10)
        wait_until(lambda: ledger.added == {})


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal")
@pytest.mark.parametrize("kind", [TimeoutError, ZeroDivisionError])
def test_signal_handler_raises(server: FaultServer, kind: type[Exception]) -> None:
    """An exception of a signal handler is raised as it is, though the signal came while the ledger was used."""

    def fail(*_: object) -> None:
        raise kind("alarm")

    ledger = MemoryLedger()
    adds, removes = iter([1]), iter([0, 1])
    before = signal.signal(signal.SIGUSR1, fail)
    try:
        with using("blocking", server, ledger=ledger) as api:
            session_id = api.new_session(request()).session_id
            ledger.on_add = lambda: next(adds, 0) and signal.raise_signal(signal.SIGUSR1)
            ledger.on_remove = lambda: next(removes, 0) and signal.raise_signal(signal.SIGUSR1)
            with pytest.raises(kind, match="alarm"):
                api.new_session(request())
            with pytest.raises(kind, match="alarm"):
                api.close_session(session_id)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert server.counts[1] == 1
    assert server.running == set()
    assert ledger.added == {}


def test_end_without_close(flavour: str, location: str, server: FaultServer) -> None:
    """A program that ends with a session open stops it, and leaves nothing in the ledger."""
    with program("leave_open", location, server.url, flavour) as leaving:
        session_id = leaving.line()
        assert leaving.rest() == []
    assert server.running == set()
    assert session_id in server.ledger.stops
    assert alive(make(location)) == {}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aiohttp's
@pytest.mark.usefixtures("unclosed_connections")
def test_collected_client(flavour: str, server: FaultServer) -> None:
    """A client that is collected stops its sessions and its recovery, and removes the sessions from the ledger."""
    ledger = MemoryLedger()
    if flavour == "blocking":
        api: Any = LiveAvatarApi(KEY, base_url=server.url, ledger=ledger)
        api.new_session(request())
    else:

        async def run() -> None:
            api = AsyncLiveAvatarApi(KEY, base_url=server.url, ledger=ledger)
            await api.new_session(request())

        asyncio.run(run())
    api = None
    gc.collect()
    wait_until(lambda: ledger.added == {})
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "liveavatar-recovery"])
    assert server.running == set()


def test_fork(location: str, server: FaultServer) -> None:
    """In a forked child the same client is another owner: the child's death leaves the parent's session alone."""
    with program("fork_with_client", location, server.url) as forking:
        parent, child = forking.line().split()[1], forking.line().split()[1]
        assert forking.line() == "done"
        ledger = make(location)
        wait_until(lambda: abandoned(ledger) == {child}, LEASE + 20)
        with using("blocking", server, ledger=ledger) as api:
            assert api.recover_sessions() == [child]
        assert server.running == {parent}
        assert forking.rest() == []
    assert server.running == set()


def test_uvicorn(location: str, server: FaultServer) -> None:
    """If one of uvicorn's workers is killed, its sessions are stopped, and those of the other go on until it ends."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.ledger.app:app", "--workers", "2", "--port", str(port)]
    environment = os.environ | {"TEST_LEDGER": location, "TEST_SERVICE": server.url}
    uvicorn = subprocess.Popen([*command, "--log-level", "error"], env=environment)
    sessions: dict[int, set[str]] = {}

    def opens() -> bool:
        try:
            response = httpx.post(f"http://127.0.0.1:{port}/open", timeout=20, trust_env=False)
        except httpx.TransportError:
            return False
        sessions.setdefault(response.json()["worker"], set()).add(response.json()["session_id"])
        return True

    try:
        wait_until(lambda: opens() and len(sessions) == 2 and min(map(len, sessions.values())) > 1, 60)
        killed, living = sessions
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: sessions[killed] <= {*server.ledger.stops}, 60)
        assert sessions[living] <= server.running
        uvicorn.terminate()
        uvicorn.wait(30)
        assert server.running == set()
        assert sorted(server.ledger.stops) == sorted(server.ledger.starts)
    finally:
        uvicorn.kill()
        uvicorn.wait(30)


def test_redis_away(
    flavour: str, redis_server: RedisServer, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Sessions are opened and closed while Redis is away, and those that are open are written down afterwards.

    A session that is released meanwhile is named in a warning: it is still in the ledger.
    """
    with using(flavour, server, ledger=make(redis_server.url)) as api:
        before = api.new_session(request()).session_id
        released = api.new_session(request()).session_id
        redis_server.stop()
        assert api.release_session(released)
        wait_until(lambda: f"Session {released} could not be removed from the ledger" in caplog.text)
        during = api.new_session(request()).session_id
        api.close_session(before)
        api.close_session(api.new_session(request()).session_id)
        redis_server.start()
        ledger = make(redis_server.url)
        wait_until(lambda: alive(ledger) == {during: True})
    assert alive(ledger) == {}
    assert server.running == {released}


def test_public_names() -> None:
    """The error is a public name of the package, and a LiveAvatarError."""
    assert liveavatar.LedgerError is LedgerError
    assert issubclass(LedgerError, LiveAvatarError)
    assert not issubclass(LedgerError, ServerError)
