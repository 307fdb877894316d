"""F. Ctrl-C, at any moment, and fork."""

from __future__ import annotations

import contextlib
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

from tests.clients import client
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, UNMEASURED, FastRetries, opened
from tests.faults.server import FaultServer

ROOT = Path(__file__).parents[2]


class Program:
    """A program of tests/faults/programs.py, running."""

    def __init__(self, name: str, server: FaultServer) -> None:
        self.process = subprocess.Popen(
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
def test_blocking_start_interrupted_by_ctrl_c_is_stopped(acts: bool, times: int, server: FaultServer) -> None:
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
def test_blocking_token_interrupted_by_ctrl_c_starts_nothing(server: FaultServer) -> None:
    server.on("token", fault.holds())
    with program("blocking_start", server) as running:
        server.arrived("token")
        running.interrupt()
        assert running.says()["ended"] == "KeyboardInterrupt"
    assert server.counts == (1, 0, 0)
    assert server.running == set()


@pytest.mark.row("F7")
def test_blocking_block_interrupted_by_ctrl_c_is_stopped(server: FaultServer) -> None:
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
def test_blocking_close_interrupted_by_ctrl_c_is_finished(times: int, server: FaultServer) -> None:
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
def test_blocking_client_block_interrupted_by_ctrl_c_stops_every_session(server: FaultServer) -> None:
    server.on("stop", fault.holds(), 1)
    with program("blocking_client_block", server) as running:
        server.arrived("stop")
        running.interrupt()
        told = running.says()
        assert (told["ended"], told["open"]) == ("KeyboardInterrupt", [])
    assert server.counts == (2, 2, 3)  # the first was the program's own, of no session
    assert server.running == set()


@pytest.mark.row("F7")
def test_blocking_program_that_nobody_catches_ctrl_c_in_stops_its_session(server: FaultServer) -> None:
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
@pytest.mark.parametrize("acts", [True, False], ids=["that happened", "that did not"])
@pytest.mark.parametrize("task", ["async_start", "async_child"])
def test_async_start_interrupted_by_ctrl_c_is_stopped_before_asyncio_run_ends(
    task: str, acts: bool, server: FaultServer
) -> None:
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
def test_async_block_interrupted_by_ctrl_c_is_stopped_before_asyncio_run_ends(server: FaultServer) -> None:
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
def test_async_close_interrupted_by_ctrl_c_is_finished_before_asyncio_run_ends(server: FaultServer) -> None:
    """asyncio.run cancels every task at its end, the one that carries the stop included."""
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
def test_async_second_ctrl_c_during_the_shutdown_does_not_lose_the_stop(pause: float, server: FaultServer) -> None:
    """The second one ends the loop itself; asyncio.run then runs it once more to end the tasks."""
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
def test_fork_leaves_the_parents_sessions_and_sockets_alone(name: str, server: FaultServer) -> None:
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
def test_fork_while_a_start_is_under_way_stops_nothing(server: FaultServer) -> None:
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
@pytest.mark.parametrize("method", ["new_session", "close_session", "session"])
@pytest.mark.parametrize("when", ["after_any_time", "at_any_line"])
def test_blocking_interrupt_at_any_moment_loses_no_session_and_hangs_nothing(when: str, method: str) -> None:
    """In a process of its own: an interrupt that comes at a bad moment could stop it for ever."""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.faults.programs", f"interrupted_{when}", method],
        cwd=ROOT,
        env=UNMEASURED,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert json.loads(told.stdout)["interrupts"] > 10


@pytest.mark.row("F5")
def test_a_hanging_stop_does_not_hold_back_the_error_and_keeps_the_session(
    flavour: str, server: FaultServer, short_cleanup: float, caplog: pytest.LogCaptureFixture
) -> None:
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
def test_a_failing_stop_leaves_the_error_a_note_and_one_warning(
    flavour: str, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
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
        assert len([r for r in caplog.records if r.levelname == "WARNING" and session_id in r.getMessage()]) == 1
        assert api.open_sessions == (session_id,)
        assert server.counts == (1, 1, 3)
        assert server.running == {session_id}


class Own(Exception):  # noqa: N818
    """The caller's own exception."""


@pytest.mark.row("F8")
@pytest.mark.parametrize("kind", [Own, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_in_a_session_block_stops_the_session_and_is_raised(
    kind: type[BaseException], flavour: str, server: FaultServer
) -> None:
    with opened(flavour, server) as api:
        with pytest.raises(kind, match="mine") as caught, api.session(session_request()):
            raise kind("mine")
        assert not getattr(caught.value, "__notes__", [])
        assert api.open_sessions == ()
        assert server.counts == (1, 1, 1)
        assert server.running == set()


@pytest.mark.row("F8")
def test_an_exception_in_a_session_block_whose_stop_fails_too_is_raised_with_a_note(
    flavour: str, server: FaultServer, fast_retries: FastRetries
) -> None:
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
def test_a_session_block_whose_stop_fails_raises_that(
    flavour: str, server: FaultServer, fast_retries: FastRetries
) -> None:
    with opened(flavour, server) as api:
        server.on("stop", fault.answers(503))
        with pytest.raises(LiveAvatarError) as caught, api.session(session_request()) as session:
            pass
        assert caught.value.session_may_be_running is True
        assert api.open_sessions == (session.session_id,)
        assert server.counts == (1, 1, 3)
        assert server.running == {session.session_id}


@pytest.mark.row("F8")
def test_a_session_that_is_closed_inside_its_block_is_not_stopped_again(flavour: str, server: FaultServer) -> None:
    with opened(flavour, server) as api:
        with api.session(session_request()) as session:
            if flavour == "blocking":
                api.close_session(session.session_id)
            else:
                api.runner.run(api.api.close_session(session.session_id))
        assert server.counts == (1, 1, 1)
        assert server.running == set()


@pytest.mark.row("F8")
def test_leaving_the_client_stops_every_session_and_tries_all(
    flavour: str, server: FaultServer, fast_retries: FastRetries
) -> None:
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
