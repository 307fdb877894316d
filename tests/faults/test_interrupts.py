"""F. Ctrl-C, at any moment, and fork."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from liveavatar import LiveAvatarError

from tests import processes
from tests.clients import client
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, UNMEASURED, FastRetries, opened
from tests.faults.server import FaultServer

ROOT = Path(__file__).parents[2]


class Program:
    """A program of tests/faults/programs.py, running."""

    def __init__(self, name: str, server: FaultServer) -> None:
        self.process = processes.Popen(
            [sys.executable, "-W", "error", "-m", "tests.faults.programs", name, server.url],
            cwd=ROOT,
            env=UNMEASURED,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def says(self) -> dict[str, Any]:
        """What it prints at its end; it must end."""
        out, self.errors = self.process.communicate(timeout=60)
        self.code = self.process.returncode
        lines = out.strip().splitlines()
        return json.loads(lines[-1]) if lines else {}


@contextlib.contextmanager
def program(name: str, server: FaultServer) -> Iterator[Program]:
    running = Program(name, server)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


@pytest.mark.row("F7")
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("acts", [True, False], ids=["that happened", "that did not"])
def test_blocking_start(acts: bool, times: int, server: FaultServer) -> None:
    """A start that Ctrl-C interrupts is stopped."""
    server.on("start", fault.holds(acts=acts))
    server.on("stop", fault.delays(0.3))
    with program("blocking_start", server) as running:
        server.arrived("start")
        running.interrupt()
        if times > 1:
            server.arrived("stop")
        for _ in range(times - 1):
            running.interrupt()
            time.sleep(0.05)
        assert running.says() == {"ended": "KeyboardInterrupt", "open": [], "may_be_running": False}
        assert running.errors == ""
    assert server.counts == (1, 1, 1)
    assert server.running == set()


@pytest.mark.row("F7")
def test_blocking_token(server: FaultServer) -> None:
    """Ctrl-C during the creation of the token starts nothing."""
    server.on("token", fault.holds())
    with program("blocking_start", server) as running:
        server.arrived("token")
        running.interrupt()
        assert running.says()["ended"] == "KeyboardInterrupt"
    assert server.counts == (1, 0, 0)
    assert server.running == set()


@pytest.mark.row("F7")
def test_blocking_session_block(server: FaultServer) -> None:
    """A session() block that Ctrl-C interrupts is stopped."""
    with program("blocking_block", server) as running:
        server.arrived("start")
        server.settle()
        time.sleep(0.2)  # into the block; sooner would do no harm
        running.interrupt()
        told = running.says()
        assert (told["ended"], told["open"]) == ("KeyboardInterrupt", [])
    assert server.counts == (1, 1, 1)
    assert server.running == set()


@pytest.mark.row("F7")
@pytest.mark.parametrize("times", [1, 2, 3])
def test_blocking_close(times: int, server: FaultServer) -> None:
    """A close that Ctrl-C interrupts is finished."""
    server.on("stop", fault.delays(0.3))
    with program("blocking_close", server) as running:
        server.arrived("stop")
        for _ in range(times):
            running.interrupt()
            time.sleep(0.05)
        told = running.says()
        assert (told["ended"], told["open"]) == ("KeyboardInterrupt", [])
    token, start, stop = server.counts
    assert (token, start) == (1, 1)
    # An interrupted stop has to be sent again, for its answer is lost.
    assert 1 <= stop <= 1 + times
    assert server.running == set()


@pytest.mark.row("F7")
def test_blocking_client_block(server: FaultServer) -> None:
    """The block of a client that Ctrl-C interrupts stops every session."""
    server.on("stop", fault.holds(), 1)
    with program("blocking_client_block", server) as running:
        server.arrived("stop")
        running.interrupt()
        told = running.says()
        assert (told["ended"], told["open"]) == ("KeyboardInterrupt", [])
    assert server.counts == (2, 2, 3)  # the first was the program's own, of no session
    assert server.running == set()


@pytest.mark.row("F7")
def test_blocking_uncaught(server: FaultServer) -> None:
    """A program that does not catch Ctrl-C stops its session."""
    server.on("start", fault.holds(acts=True))
    with program("blocking_uncaught", server) as running:
        server.arrived("start")
        running.interrupt()
        running.says()
        assert "KeyboardInterrupt" in running.errors
        assert running.code in (130, -signal.SIGINT)
    assert server.counts == (1, 1, 1)
    assert server.running == set()


@pytest.mark.row("F7")
@pytest.mark.parametrize(
    "waiting",
    [fault.holds(), fault.holds_body, fault.refuses(429, "Slow down", headers={"Retry-After": "25"})],
    ids=["response", "body", "retry"],
)
def test_blocking_signal_on_another_thread(waiting: fault.Behaviour, server: FaultServer) -> None:
    """A wait that a signal does not interrupt, because another thread has got it, notices it all the same."""
    server.on("stop", waiting)
    with program("signal_on_another_thread", server) as running:
        server.arrived("stop")
        time.sleep(0.2)  # into the wait; sooner would do no harm
        running.process.stdin.write("\n")  # type: ignore[union-attr]
        running.process.stdin.flush()  # type: ignore[union-attr]
        told = running.says()
        assert told["ended"] == "KeyboardInterrupt"
        assert told["seconds"] < 20


@pytest.mark.row("F7")
@pytest.mark.parametrize("acts", [True, False], ids=["that happened", "that did not"])
@pytest.mark.parametrize("task", ["async_start", "async_child"])
def test_async_start(task: str, acts: bool, server: FaultServer) -> None:
    """A start that Ctrl-C interrupts is stopped before asyncio.run() ends."""
    server.on("start", fault.holds(acts=acts))
    server.on("stop", fault.delays(0.1))
    with program(task, server) as running:
        server.arrived("start")
        running.interrupt()
        running.says()
        assert "KeyboardInterrupt" in running.errors
        assert "never awaited" not in running.errors
        assert "destroyed" not in running.errors
    assert server.counts == (1, 1, 1)
    assert server.running == set()


@pytest.mark.row("F7")
def test_async_session_block(server: FaultServer) -> None:
    """A session() block that Ctrl-C interrupts is stopped before asyncio.run() ends."""
    server.on("stop", fault.normal, 1)
    server.on("stop", fault.delays(0.1))
    with program("async_block", server) as running:
        server.arrived("stop")
        server.settle()
        time.sleep(0.1)
        running.interrupt()
        running.says()
        assert "KeyboardInterrupt" in running.errors
    token, start, stop = server.counts
    assert (token, start) == (1, 1)
    assert 2 <= stop <= 3  # the first was the program's own, of no session; one may be lost in the shutdown
    assert server.running == set()


@pytest.mark.row("F7")
def test_async_close(server: FaultServer) -> None:
    """A close that Ctrl-C interrupts is finished before asyncio.run() ends."""
    server.on("stop", fault.delays(0.3))
    with program("async_close", server) as running:
        server.arrived("stop")
        running.interrupt()
        running.says()
        assert "KeyboardInterrupt" in running.errors
    token, start, stop = server.counts
    assert (token, start) == (1, 1)
    assert 1 <= stop <= 2
    assert server.running == set()


@pytest.mark.row("F7")
@pytest.mark.parametrize("pause", [0, 0.1])
def test_async_second_ctrl_c(pause: float, server: FaultServer) -> None:
    """A second Ctrl-C during the shutdown does not lose the stop."""
    server.on("start", fault.holds(acts=True))
    server.on("stop", fault.delays(0.3))
    with program("async_start", server) as running:
        server.arrived("start")
        running.interrupt()
        server.arrived("stop")
        time.sleep(pause)
        running.interrupt()
        running.says()
        assert "KeyboardInterrupt" in running.errors
    assert server.running == set()
    assert server.counts in ((1, 1, 1), (1, 1, 2))


@pytest.mark.row("G1")
@pytest.mark.parametrize("name", ["fork", "fork_async"])
def test_fork(name: str, server: FaultServer) -> None:
    """A forked child does not touch its parent's sessions and sockets."""
    with program(name, server) as running:
        told = running.says()
        assert told.pop("child", None) == 0, running.errors
        assert told["open"] == [told["mine"]]
        assert running.errors == ""
    # Each session was stopped by the process that opened it, over its own connections.
    starts, stops = server.ledger.of("start"), server.ledger.of("stop")
    assert [request.bearer for request in stops] == [starts[1].bearer, starts[0].bearer]
    assert starts[0].connection != starts[1].connection
    assert stops[0].connection != starts[0].connection
    assert stops[1].connection == starts[0].connection
    assert server.counts == (2, 2, 2)
    assert server.running == set()


@pytest.mark.row("G1")
def test_fork_during_start(server: FaultServer) -> None:
    """A fork during a start stops nothing."""
    released = threading.Event()

    def when_told(exchange: fault.Exchange) -> None:
        assert released.wait(20)
        fault.normal(exchange)

    server.on("start", when_told, 1)
    with program("fork_busy", server) as running:
        server.arrived("start")
        running.process.stdin.write("\n")  # type: ignore[union-attr]
        running.process.stdin.flush()  # type: ignore[union-attr]
        time.sleep(0.3)
        released.set()
        told = running.says()
        assert told.pop("child", None) == 0, running.errors
        assert told["open"] == [told["mine"]]
        assert running.errors == ""
    assert server.counts == (1, 1, 1)
    assert server.running == set()


@pytest.mark.row("F7")
@pytest.mark.parametrize(
    ("when", "method"),
    [
        *itertools.product(["after_any_time", "at_any_line"], ["new_session", "close_session", "session"]),
        ("at_any_line", "release_session"),
    ],
)
def test_blocking_at_any_moment(when: str, method: str) -> None:
    """An interrupt at any moment loses no session, and nothing hangs."""
    told = processes.run(
        [sys.executable, "-W", "error", "-m", "tests.faults.programs", f"interrupted_{when}", method],
        cwd=ROOT,
        env=UNMEASURED,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert json.loads(told.stdout)["interrupts"] > 10


@pytest.mark.row("F5")
def test_hanging_stop(
    flavour: str, server: FaultServer, short_cleanup: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop that hangs delays the error by a bounded time only, and the session stays tracked."""
    with opened(flavour, server, timeout=60.0) as api:
        server.on("start", fault.answers(500, acts=True))
        server.on("stop", fault.holds())
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(session_request())
        session_id = server.ledger.minted[0]
        assert caught.value.status == 500  # type: ignore[attr-defined]
        assert caught.value.session_may_be_running is True
        assert caught.value.session_id == session_id
        assert any(session_id in note for note in caught.value.__notes__)
        warned = [r for r in caplog.records if r.levelname == "WARNING" and session_id in r.getMessage()]
        assert len(warned) == 1
        assert api.open_sessions == (session_id,)
        token, start, stop = server.counts
        assert (token, start) == (1, 1)
        assert stop >= 1
        assert server.running == {session_id}
        server.heal()
        api.close_session(session_id)
        assert api.open_sessions == ()
        assert server.counts == (1, 1, stop + 1)
        assert server.running == set()


@pytest.mark.row("F5")
def test_failing_stop(
    flavour: str, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop that fails leaves the original error, a note and one warning."""
    with opened(flavour, server) as api:
        server.on("start", fault.cut())
        server.on("stop", fault.answers(503))
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(session_request())
        session_id = server.ledger.minted[0]
        assert caught.value.endpoint == "/v1/sessions/start"
        assert caught.value.session_may_be_running is True
        assert caught.value.session_id == session_id
        assert sum(session_id in note for note in caught.value.__notes__) == 1
        # A client of an earlier test may be garbage-collected meanwhile, with a warning of its own.
        warnings = [record for record in caplog.records if record.getMessage().startswith(f"Session {session_id} ")]
        assert [record.levelname for record in warnings] == ["WARNING"]
        assert api.open_sessions == (session_id,)
        assert server.counts == (1, 1, 3)
        assert server.running == {session_id}


class Own(Exception):  # noqa: N818
    """The caller's own exception."""


@pytest.mark.row("F8")
@pytest.mark.parametrize("kind", [Own, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exception_in_block(kind: type[BaseException], flavour: str, server: FaultServer) -> None:
    """An exception in a session() block is raised after the session was stopped."""
    with opened(flavour, server) as api:
        with pytest.raises(kind, match="mine") as caught, api.session(session_request()):
            raise kind("mine")
        assert not getattr(caught.value, "__notes__", [])
        assert api.open_sessions == ()
        assert server.counts == (1, 1, 1)
        assert server.running == set()


@pytest.mark.row("F8")
def test_exception_and_failing_stop(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """An exception in a block whose stop fails too is raised with a note."""
    with opened(flavour, server) as api:
        server.on("stop", fault.answers(503))
        with pytest.raises(Own, match="mine") as caught, api.session(session_request()) as session:
            raise Own("mine")
        assert len(caught.value.__notes__) == 1
        assert "may still be running" in caught.value.__notes__[0]
        assert session.session_id in caught.value.__notes__[0]
        assert api.open_sessions == (session.session_id,)
        assert server.counts == (1, 1, 3)
        assert server.running == {session.session_id}


@pytest.mark.row("F8")
def test_block_with_failing_stop(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A block whose stop fails raises the error of the stop."""
    with opened(flavour, server) as api:
        server.on("stop", fault.answers(503))
        with pytest.raises(LiveAvatarError) as caught, api.session(session_request()) as session:
            pass
        assert caught.value.session_may_be_running is True
        assert api.open_sessions == (session.session_id,)
        assert server.counts == (1, 1, 3)
        assert server.running == {session.session_id}


@pytest.mark.row("F8")
def test_closed_inside_block(flavour: str, server: FaultServer) -> None:
    """A session that is closed inside its block is not stopped again."""
    with opened(flavour, server) as api:
        with api.session(session_request()) as session:
            if flavour == "blocking":
                api.close_session(session.session_id)
            else:
                api.runner.run(api.api.close_session(session.session_id))
        assert server.counts == (1, 1, 1)
        assert server.running == set()


@pytest.mark.row("F8")
def test_leaving_client(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """Leaving the client's block tries to stop every session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(Own, match="mine") as caught, client(flavour, KEY, base_url=server.url) as api:  # noqa: PT012
            ids = [api.new_session(session_request()).session_id for _ in range(3)]
            server.on("stop", fault.answers(400), 1)
            raise Own("mine")
    left = server.running
    assert len(left) == 1
    assert left < set(ids)
    assert any(left.copy().pop() in note for note in caught.value.__notes__)
    assert server.counts == (3, 3, 3)
