"""The demo, run as a user runs it."""

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

SESSION = re.compile(r"session ([0-9a-f-]{36})")
COMMAND = [sys.executable, "-m", "liveavatar.demo"]


def run(service: MockServer | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    """The demo with nothing set, or with what is to be set to use a service."""
    return subprocess.run(COMMAND, env=environment(service, **extra), capture_output=True, text=True, timeout=60)


def environment(service: MockServer | None = None, **extra: str) -> dict[str, str]:
    account = {"LIVEAVATAR_API_KEY": service.api_key, "LIVEAVATAR_BASE_URL": service.base_url} if service else {}
    return {**os.environ, "PYTHONWARNINGS": "error", **account, **extra}


def fails(*arguments: Any, **settings: str) -> str:
    """The one line that a failing demo says."""
    outcome = run(*arguments, **settings)
    assert outcome.returncode == 1
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr


def test_without_an_account_it_opens_one_session_then_three_at_once_and_leaves_none() -> None:
    outcome = run()
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert len(set(SESSION.findall(outcome.stdout))) == 4
    for endpoint, status in (("token", 200), ("start", 201), ("stop", 200)):
        assert len(re.findall(rf"\d ms  POST /v1/sessions/{endpoint}  {status}\b", outcome.stdout)) == 4
    assert "wss://room.mock.invalid" in outcome.stdout
    assert "the service says: sessions running 3;" in outcome.stdout
    assert outcome.stdout.endswith("The service says: sessions opened 4, sessions running 0\n")


def test_it_shows_no_token_and_no_key() -> None:
    with mock_server(api_keys=["a-key-nobody-may-see"]) as service:
        for outcome in (run(), run(service)):
            shown = outcome.stdout + outcome.stderr
            assert "eyJ" not in shown
            assert "nobody-may-see" not in shown
            assert "access token ***" in shown


def test_with_an_account_it_says_so_and_opens_one_free_session_there() -> None:
    with mock_server() as service:
        outcome = run(service)
        assert (outcome.returncode, outcome.stderr) == (0, "")
        assert outcome.stdout.startswith("LIVEAVATAR_API_KEY is set: one session of the free sandbox avatar")
        assert service.base_url in outcome.stdout
        assert outcome.stdout.endswith("sessions running 0\n")
        assert service.requests == {"token": 1, "start": 1, "stop": 1}
        (session,) = service.sessions
        assert (session.is_sandbox, session.state, session.credits) == (True, SessionState.ENDED, 0)


def test_a_blank_key_is_no_account() -> None:
    assert "sessions opened 4" in run(LIVEAVATAR_API_KEY=" ", LIVEAVATAR_BASE_URL="http://127.0.0.1:9").stdout


def test_a_refused_key_ends_it_with_the_words_of_the_service() -> None:
    with mock_server() as service:
        assert "401" in fails(service, LIVEAVATAR_API_KEY="not-the-key")


def test_a_refused_start_ends_it_with_the_words_of_the_service_and_leaves_nothing_running() -> None:
    with mock_server(max_concurrent=1) as service, LiveAvatarApi(service.api_key, base_url=service.base_url) as api:
        other = api.new_session(LiveAvatarNewSessionRequest(avatar_id=demo.WAYNE))
        assert "Concurrency limit reached: 1 of 1 sessions running" in fails(service)
        assert service.running_sessions == [other.session_id]


def test_a_service_that_does_not_answer_ends_it() -> None:
    with mock_server() as service:
        gone = environment(service)
    assert "Connection refused" in fails(**gone)


def test_an_address_that_cannot_be_one_ends_it() -> None:
    assert "base_url" in fails(LIVEAVATAR_API_KEY="some-key", LIVEAVATAR_BASE_URL="nowhere")


def test_without_the_mock_server_it_says_what_to_install() -> None:
    lacking = (
        "import runpy, sys; sys.modules['uvicorn'] = None; runpy.run_module('liveavatar.demo', run_name='__main__')"
    )
    outcome = subprocess.run([sys.executable, "-c", lacking], env=environment(), capture_output=True, text=True)
    assert outcome.returncode == 2
    assert "pip install 'liveavatar[mock]'" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(("settings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_gets_colours_unless_it_wants_none(settings: dict[str, str], coloured: bool) -> None:
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in environment(TERM="xterm").items() if name != "NO_COLOR"}
    subprocess.run(COMMAND, env={**clean, **settings}, stdout=theirs, stderr=theirs, timeout=60)
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        assert (b"\x1b[" in terminal.read1()) is coloured


def test_when_one_of_the_three_is_refused_the_others_are_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock_server(max_concurrent=2) as service:
        monkeypatch.setattr("liveavatar.mock.mock_server", lambda: contextlib.nullcontext(service))
        assert demo.main() == 1
        assert service.running_sessions == []
    said = capsys.readouterr()
    assert "Concurrency limit reached" in said.err
    assert len(re.findall(r"/stop  200", said.out)) == 3


@pytest.mark.parametrize("account", [True, False])
def test_ctrl_c_closes_what_is_open(monkeypatch: pytest.MonkeyPatch, account: bool) -> None:
    def interrupt(session: StandardSessionResponse) -> None:
        assert service.running_sessions == [session.session_id]
        raise KeyboardInterrupt

    with mock_server() as service:
        monkeypatch.setattr(demo, "_show", interrupt)
        monkeypatch.setattr("liveavatar.mock.mock_server", lambda: contextlib.nullcontext(service))
        if account:
            monkeypatch.setenv("LIVEAVATAR_API_KEY", service.api_key)
            monkeypatch.setenv("LIVEAVATAR_BASE_URL", service.base_url)
        assert demo.main() == 130
        assert service.running_sessions == []


def test_a_session_that_still_runs_at_the_end_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock_server() as service, LiveAvatarApi(service.api_key, base_url=service.base_url) as api:
        api.new_session(LiveAvatarNewSessionRequest(avatar_id=demo.WAYNE))
        monkeypatch.setattr("liveavatar.mock.mock_server", lambda: contextlib.nullcontext(service))
        assert demo.main() == 1
    assert "sessions running 1" in capsys.readouterr().out


def test_what_the_client_warns_of_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("liveavatar")
    monkeypatch.setattr(demo, "_show", lambda session: logger.warning("%s may still be running", session.session_id))
    assert demo.main() == 0
    assert "may still be running" in capsys.readouterr().out
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)
