"""Each example runs as its docstring says, against the mock server, and leaves no session behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from liveavatar.mock import MockServer, SessionState, mock_server

from tests import processes

EXAMPLES = Path(__file__).parents[1] / "examples"
WAYNE = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
UNKNOWN = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[MockServer]:
    with mock_server(**getattr(request, "param", {})) as service:
        yield service


def environment(at: MockServer | None) -> dict[str, str]:
    """Return this environment, with the account of a mock server."""
    account = {"LIVEAVATAR_BASE_URL": at.base_url, "LIVEAVATAR_API_KEY": at.api_key} if at else {}
    own = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_"))}
    return own | account


def command(*arguments: str | Path, at: MockServer | None, folder: Path) -> dict[str, Any]:
    """Return arguments that run Python on an example, with the account of a mock server."""
    return {
        "args": [sys.executable, "-W", "error", *arguments],
        "env": environment(at),
        "cwd": folder,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }


def outcome(*arguments: str | Path, at: MockServer | None, folder: Path = EXAMPLES) -> tuple[int, str]:
    run = processes.run(**command(*arguments, at=at, folder=folder), timeout=60)
    return run.returncode, run.stdout


def suite_outcome(*arguments: str, at: MockServer | None, folder: Path) -> tuple[int, str]:
    run = processes.run_pytest(*arguments, cwd=folder, env=environment(at))
    return run.returncode, run.stdout


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def started(service: MockServer) -> list[str]:
    return [session.id for session in service.sessions if session.seconds]


def test_docstrings() -> None:
    """An example says in its docstring what it shows, how to install it, and how to run it."""
    documents = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*/conftest.py")]
    assert len(documents) == 8
    for document in documents:
        text = document.read_text("utf-8")
        assert re.match(r'"""[A-Z][^"]+\n\n(.+\n)*\n*    pip install ', text), document
        assert re.search(r"\n    (python|uvicorn|pytest) ?", text), document


class TestBlockingScript:
    def test_session_is_closed(self, service: MockServer) -> None:
        """The script keeps a session open, and closes it."""
        status, text = outcome("blocking_script.py", "0.3", at=service)
        assert (status, service.running_sessions) == (0, []), text
        assert started(service)[0] in text
        assert "closed" in text

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_signals(self, number: signal.Signals, status: int, service: MockServer) -> None:
        """SIGTERM and Ctrl-C end the session with the script."""
        with process("blocking_script.py", "60", at=service) as script:
            until(lambda: service.running_sessions)
            assert script.stdout
            assert service.running_sessions[0] in script.stdout.readline()  # it is in the `with` block
            script.send_signal(number)
            assert script.wait(20) == status
        assert service.running_sessions == []

    @pytest.mark.parametrize("service", [{"api_keys": ["another-key"]}], indirect=True)
    def test_error_is_one_line(self, service: MockServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error is one line, and exit code 1."""
        monkeypatch.setattr(MockServer, "api_key", "wrong-key")
        status, text = outcome("blocking_script.py", at=service)
        assert status == 1
        assert text.startswith("AuthenticationError: ")
        assert text.count("\n") == 1


class TestHandoff:
    def test_handover(self, service: MockServer) -> None:
        """One process opens the session, and another stops it."""
        status, text = outcome("handoff.py", at=service)
        assert (status, service.running_sessions) == (0, []), text
        (session,) = service.sessions
        assert session.end_reason == "USER_CLOSED"
        opener, closer = re.findall(rf"process (\d+) (?:opened|stopped) {session.id}", text)
        assert opener != closer
        assert "eyJ" not in text  # what a token begins with
        assert service.requests == {"token": 1, "start": 1, "stop": 1}

    def test_failed_handover(self, service: MockServer, tmp_path: Path) -> None:
        """If the other process fails, the session is stopped."""
        broken = tmp_path / "handoff.py"
        text = (EXAMPLES / "handoff.py").read_text("utf-8")
        broken.write_text(text.replace("json.load(sys.stdin)", "sys.exit(1)"), "utf-8")
        status, text = outcome(broken, at=service)
        assert status == 1
        assert "the other process failed" in text
        assert (len(started(service)), service.running_sessions) == (1, [])


class TestSuites:
    """The example test suites, run in a folder of their own."""

    def test_cassettes_replay(self, tmp_path: Path) -> None:
        """The suite with cassettes needs no network and no account."""
        suite = shutil.copytree(EXAMPLES / "test_with_cassettes", tmp_path / "suite")
        status, text = suite_outcome("--block-network", at=None, folder=suite)
        assert status == 0, text
        assert "2 passed" in text

    def test_cassettes_can_be_recorded(self, service: MockServer, tmp_path: Path) -> None:
        """The cassettes can be recorded from a mock server, and contain no secret."""
        suite = shutil.copytree(EXAMPLES / "test_with_cassettes", tmp_path / "suite")
        kept = {path.relative_to(suite): path.read_text("utf-8") for path in suite.rglob("*.yaml")}
        assert len(kept) == 2
        shutil.rmtree(suite / "cassettes")
        status, text = suite_outcome("--record-mode=once", at=service, folder=suite)
        assert status == 0, text
        assert service.requests == {"token": 2, "start": 1, "stop": 1}
        assert {path.relative_to(suite) for path in suite.rglob("*.yaml")} == set(kept)
        for text in [*kept.values(), *(path.read_text("utf-8") for path in suite.rglob("*.yaml"))]:
            assert service.api_key not in text
            assert "eyJ" not in text  # what a token begins with

    def test_mock_server_suite(self, tmp_path: Path) -> None:
        """The suite with the mock server needs no network and no account."""
        suite = shutil.copytree(EXAMPLES / "test_with_mock_server", tmp_path / "suite")
        status, text = suite_outcome("--block-network", at=None, folder=suite)
        assert status == 0, text
        assert "4 passed" in text


@contextlib.contextmanager
def process(*arguments: str | Path, at: MockServer) -> Iterator[subprocess.Popen[str]]:
    with processes.Popen(**command(*arguments, at=at, folder=EXAMPLES)) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


class Web:
    """The example web service in a process of its own."""

    def __init__(self, child: subprocess.Popen[str], workers: int) -> None:
        self.child = child
        self.output = ""
        assert child.stdout
        while self.output.count("startup complete") < workers or "running on" not in self.output:
            line = child.stdout.readline()
            assert line, self.output
            self.output += line
        self.url = re.findall(r"running on (http://127\.0\.0\.1:\d+)", self.output)[0]
        self.port = int(self.url.rpartition(":")[2])

    def open(self, avatar_id: str = WAYNE) -> str:
        response = self.post({"avatar_id": avatar_id})
        assert response.status_code == 201, response.text
        assert response.headers["location"] == f"/avatars/{response.json()['id']}"
        return str(response.json()["id"])

    def post(self, body: object) -> httpx.Response:
        return httpx.post(f"{self.url}/avatars", json=body)

    def delete(self, session_id: str) -> int:
        return httpx.delete(f"{self.url}/avatars/{session_id}").status_code

    def stop(self) -> str:
        """Stop the service, and return its whole output."""
        self.child.send_signal(signal.SIGTERM)
        rest, _ = self.child.communicate(timeout=30)
        return self.output + rest


@contextlib.contextmanager
def web(service: MockServer, workers: int = 1) -> Iterator[Web]:
    options = ["--port", "0", "--workers", str(workers)]
    with process("-m", "uvicorn", "async_service:app", *options, at=service) as child:
        yield Web(child, workers)


class TestAsyncService:
    def test_open_and_close(self, service: MockServer) -> None:
        """The service opens and closes avatars; closing twice is not an error."""
        with web(service) as site:
            response = site.post({"avatar_id": WAYNE, "is_sandbox": True})
            assert set(response.json()) == {"id", "livekit_url", "access_token", "seconds"}
            session_id = response.json()["id"]
            assert service.running_sessions == [session_id]
            assert site.delete(session_id) == 204
            assert service.running_sessions == []
            assert site.delete(session_id) == 204
            assert site.delete(UNKNOWN) == 204  # nothing of that name runs
            assert site.delete("no-uuid") == 404

    def test_close_from_another_process(self, service: MockServer) -> None:
        """A process closes a session that another one opened."""
        with web(service) as one, web(service) as other:
            session_id, left = one.open(), one.open()
            assert other.delete(session_id) == 204
            assert service.running_sessions == [left]
            one.stop()
            assert service.running_sessions == []

    @pytest.mark.parametrize("workers", [1, 2])
    def test_sigterm(self, workers: int, service: MockServer) -> None:
        """SIGTERM closes every open session."""
        with web(service, workers) as site:
            ids = [site.open() for _ in range(6)]
            assert sorted(service.running_sessions) == sorted(ids)
            assert site.delete(ids.pop()) == 204
            text = site.stop()
        assert service.running_sessions == []
        assert "Traceback" not in text

    def test_sigterm_while_opening(self, service: MockServer) -> None:
        """SIGTERM leaves no session behind while sessions are being opened."""
        with web(service) as site:
            users = [post_by_hand(site.port) for _ in range(20)]
            until(lambda: service.requests["token"])
            site.stop()
            for user in users:
                user.close()
        assert service.running_sessions == []

    def test_user_hangs_up(self, service: MockServer) -> None:
        """A user who disconnects before the response leaves no session behind."""
        with web(service) as site:
            post_by_hand(site.port).close()
            until(lambda: service.sessions and service.sessions[0].state is SessionState.ENDED)
            assert len(started(service)) == 1
            assert service.running_sessions == []

    def test_invalid_request(self, service: MockServer) -> None:
        """An invalid request or an unknown avatar is a 422."""
        with web(service) as site:
            bodies: list[object] = [{"avatar_id": ""}, {"avatar_id": 1}, {}, [], None, {"avatar_id": UNKNOWN}]
            for body in bodies:
                response = site.post(body)
                assert response.status_code == 422, body
                assert response.text
            assert f"Avatar {UNKNOWN} is not known." in response.json()["error"]

    @pytest.mark.parametrize(
        ("service", "status", "wait"),
        [
            ({"max_concurrent": 1}, 503, "30"),
            ({"credits": 1}, 503, "30"),
            ({"rate_limit": 1}, 429, "1"),
        ],
        indirect=["service"],
        ids=["concurrency", "credits", "rate"],
    )
    def test_limits_of_the_account(self, service: MockServer, status: int, wait: str) -> None:
        """Limits of the account become 503 or 429 with Retry-After."""
        with web(service) as site, ThreadPoolExecutor() as users:
            responses = list(users.map(site.post, [{"avatar_id": WAYNE}] * 8))
            refused = [response for response in responses if response.status_code != 201]
            assert {response.status_code for response in refused} == {status}
            assert {response.headers["retry-after"] for response in refused} == {wait}
            assert len(started(service)) == len(responses) - len(refused)
            site.stop()
        assert service.running_sessions == []

    def test_service_is_down(self, service: MockServer) -> None:
        """If the service is down, the user gets a 502, and the log has the details."""
        service.__exit__(None, None, None)
        with web(service) as site:
            assert site.post({"avatar_id": WAYNE}).status_code == 502
            assert site.delete(UNKNOWN) == 502
            assert "LiveAvatarConnectionError" in site.stop()


def post_by_hand(port: int) -> socket.socket:
    """Send a request, and do not read the response."""
    body = json.dumps({"avatar_id": WAYNE}).encode()
    user = socket.create_connection(("127.0.0.1", port))
    user.sendall(b"POST /avatars HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    return user
