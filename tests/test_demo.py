"""The demo as a user runs it."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest
from liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest, StandardSessionResponse, demo
from liveavatar.mock import MockServer, SessionState, mock_server

from tests import processes

OPENED = re.compile(r"opened   ([0-9a-f-]{36}) in \d+ ms")
COMMAND = [sys.executable, "-W", "error", "-m", "liveavatar.demo"]


def run(server: MockServer | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the demo without settings, or with those of a server."""
    return processes.run(COMMAND, env=environment(server, **extra), capture_output=True, text=True, timeout=60)


def environment(server: MockServer | None = None, **extra: str) -> dict[str, str]:
    account = {"LIVEAVATAR_API_KEY": server.api_key, "LIVEAVATAR_BASE_URL": server.base_url} if server else {}
    return {**os.environ, **account, **extra}


def fails(*arguments: Any, **settings: str) -> str:
    """Run a demo that fails, and return its one line on stderr."""
    outcome = run(*arguments, **settings)
    assert outcome.returncode == 1
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr


def test_without_an_account() -> None:
    """Without an account the demo opens one session, then three at once, and leaves none running."""
    outcome = run()
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert len(set(OPENED.findall(outcome.stdout))) == 4
    assert "wss://room.mock.invalid" in outcome.stdout
    assert "running  3 sessions;" in outcome.stdout
    assert outcome.stdout.endswith("The mock server reports: sessions opened 4, sessions running 0\n")


def test_no_secrets() -> None:
    """No token and no key is printed."""
    with mock_server(api_keys=["a-key-nobody-may-see"]) as server:
        for outcome in (run(), run(server)):
            shown = outcome.stdout + outcome.stderr
            assert "eyJ" not in shown
            assert "nobody-may-see" not in shown
            assert "access token ***" in shown


def test_with_an_account() -> None:
    """With an account the demo opens one free trial session at the service."""
    with mock_server() as server:
        outcome = run(server)
        assert (outcome.returncode, outcome.stderr) == (0, "")
        assert outcome.stdout.startswith("LIVEAVATAR_API_KEY is set: one free trial session at ")
        assert server.base_url in outcome.stdout
        assert outcome.stdout.endswith("sessions running 0\n")
        assert server.requests == {"token": 1, "start": 1, "stop": 1}
        (session,) = server.sessions
        assert (session.is_sandbox, session.state, session.credits) == (True, SessionState.ENDED, 0)


def test_blank_key() -> None:
    """A blank key counts as no account."""
    assert "sessions opened 4" in run(LIVEAVATAR_API_KEY=" ", LIVEAVATAR_BASE_URL="http://127.0.0.1:9").stdout


def test_refused_key() -> None:
    """A refused key ends the demo with the message of the service."""
    with mock_server() as server:
        assert "401" in fails(server, LIVEAVATAR_API_KEY="not-the-key")


def test_refused_start() -> None:
    """A refused start ends the demo with the message of the service, and leaves nothing running."""
    with mock_server(max_concurrent=1) as server, LiveAvatarApi(server.api_key, base_url=server.base_url) as api:
        other = api.new_session(LiveAvatarNewSessionRequest(avatar_id=demo.WAYNE))
        assert "Concurrency limit reached: 1 of 1 sessions running" in fails(server)
        assert server.running_sessions == [other.session_id]


def test_no_service() -> None:
    """A service that does not respond ends the demo."""
    with mock_server() as server:
        gone = environment(server)
    assert "Connection refused" in fails(**gone)


def test_invalid_base_url() -> None:
    """An invalid base URL ends the demo."""
    assert "base_url" in fails(LIVEAVATAR_API_KEY="some-key", LIVEAVATAR_BASE_URL="nowhere")


def test_missing_extra() -> None:
    """Without the extra of the mock server, the message says what to install."""
    lacking = (
        "import runpy, sys; sys.modules['uvicorn'] = None; runpy.run_module('liveavatar.demo', run_name='__main__')"
    )
    outcome = subprocess.run(
        [sys.executable, "-W", "error", "-c", lacking], env=environment(), capture_output=True, text=True
    )
    assert outcome.returncode == 2
    assert "pip install 'liveavatar[mock]'" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(("settings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours(settings: dict[str, str], coloured: bool) -> None:
    """A terminal gets colours, unless NO_COLOR or TERM=dumb is set."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in environment(TERM="xterm").items() if name != "NO_COLOR"}
    processes.run(COMMAND, env={**clean, **settings}, stdout=theirs, stderr=theirs, timeout=60)
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        assert (b"\x1b[" in terminal.read1()) is coloured


def test_one_of_three_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If one of the three sessions is refused, the others are stopped."""
    with mock_server(max_concurrent=2) as server:
        monkeypatch.setattr("liveavatar.mock.mock_server", lambda: contextlib.nullcontext(server))
        assert demo.main() == 1
        assert server.running_sessions == []
        assert server.requests["stop"] == 3
    said = capsys.readouterr()
    assert "Concurrency limit reached" in said.err


@pytest.mark.parametrize("account", [True, False])
def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, account: bool) -> None:
    """Ctrl-C stops what is open."""

    def interrupt(session: StandardSessionResponse, seconds: float) -> None:
        assert server.running_sessions == [session.session_id]
        raise KeyboardInterrupt

    with mock_server() as server:
        monkeypatch.setattr(demo, "_show", interrupt)
        monkeypatch.setattr("liveavatar.mock.mock_server", lambda: contextlib.nullcontext(server))
        if account:
            monkeypatch.setenv("LIVEAVATAR_API_KEY", server.api_key)
            monkeypatch.setenv("LIVEAVATAR_BASE_URL", server.base_url)
        assert demo.main() == 130
        assert server.running_sessions == []


def test_still_running(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A session that is running at the end is a failure."""
    with mock_server() as server, LiveAvatarApi(server.api_key, base_url=server.base_url) as api:
        api.new_session(LiveAvatarNewSessionRequest(avatar_id=demo.WAYNE))
        monkeypatch.setattr("liveavatar.mock.mock_server", lambda: contextlib.nullcontext(server))
        assert demo.main() == 1
    assert "sessions running 1" in capsys.readouterr().out


def test_warnings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings of the client are printed."""
    logger = logging.getLogger("liveavatar")
    monkeypatch.setattr(
        demo, "_show", lambda session, _: logger.warning("%s may still be running", session.session_id)
    )
    assert demo.main() == 0
    assert "may still be running" in capsys.readouterr().out
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)
