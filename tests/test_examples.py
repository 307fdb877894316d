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

import httpx
import pytest
from liveavatar.mock import MockServer, SessionState, mock_server

EXAMPLES = Path(__file__).parents[1] / "examples"
WAYNE = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
UNKNOWN = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[MockServer]:
    with mock_server(**getattr(request, "param", {})) as service:
        yield service


def command(*arguments: str | Path, at: MockServer | None, folder: Path) -> dict[str, object]:
    """What subprocess takes to run Python on an example as a user does who has an account at `at`."""
    account = {"LIVEAVATAR_BASE_URL": at.base_url, "LIVEAVATAR_API_KEY": at.api_key} if at else {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST_"))}
    return {
        "args": [sys.executable, "-W", "error", *arguments],
        "env": environment | account,
        "cwd": folder,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }


def outcome(*arguments: str | Path, at: MockServer | None, folder: Path = EXAMPLES) -> tuple[int, str]:
    run = subprocess.run(**command(*arguments, at=at, folder=folder), timeout=60)  # type: ignore[call-overload]
    return run.returncode, run.stdout


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)


def started(service: MockServer) -> list[str]:
    return [session.id for session in service.sessions if session.seconds]


def test_every_example_says_what_it_shows_and_how_to_run_it() -> None:
    documents = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*/conftest.py")]
    assert len(documents) == 8
    for document in documents:
        text = document.read_text("utf-8")
        assert re.match(r'"""[A-Z][^"]+\n\n(.+\n)*\n*    pip install ', text), document
        assert re.search(r"\n    (python|uvicorn|pytest) ?", text), document


class TestBlockingScript:
    def test_it_holds_a_session_and_closes_it(self, service: MockServer) -> None:
        status, text = outcome("blocking_script.py", "0.3", at=service)
        assert (status, service.running_sessions) == (0, []), text
        assert started(service)[0] in text
        assert "closed" in text

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_a_signal_ends_the_session_with_it(self, number: signal.Signals, status: int, service: MockServer) -> None:
        with process("blocking_script.py", "60", at=service) as script:
            until(lambda: service.running_sessions)
            assert script.stdout
            assert service.running_sessions[0] in script.stdout.readline()  # it is in the `with` block
            script.send_signal(number)
            assert script.wait(20) == status
        assert service.running_sessions == []

    @pytest.mark.parametrize("service", [{"api_keys": ["another-key"]}], indirect=True)
    def test_a_refusal_is_one_line(self, service: MockServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MockServer, "api_key", "wrong-key")
        status, text = outcome("blocking_script.py", at=service)
        assert status == 1
        assert text.startswith("AuthenticationError: ")
        assert text.count("\n") == 1


class TestHandoff:
    def test_one_process_opens_and_another_stops(self, service: MockServer) -> None:
        status, text = outcome("handoff.py", at=service)
        assert (status, service.running_sessions) == (0, []), text
        (session,) = service.sessions
        assert session.end_reason == "USER_CLOSED"
        opener, closer = re.findall(rf"process (\d+) (?:opened|stopped) {session.id}", text)
        assert opener != closer
        assert "eyJ" not in text  # what a token begins with
        assert service.requests == {"token": 1, "start": 1, "stop": 1}

    def test_a_session_that_is_not_taken_over_is_stopped(self, service: MockServer, tmp_path: Path) -> None:
        broken = tmp_path / "handoff.py"
        text = (EXAMPLES / "handoff.py").read_text("utf-8")
        broken.write_text(text.replace("json.load(sys.stdin)", "sys.exit(1)"), "utf-8")
        status, text = outcome(broken, at=service)
        assert status == 1
        assert "not taken over" in text
        assert (len(started(service)), service.running_sessions) == (1, [])


class TestSuites:
    """A user's own tests, in a folder of their own."""

    def test_with_cassettes_needs_no_network_and_no_account(self, tmp_path: Path) -> None:
        suite = shutil.copytree(EXAMPLES / "test_with_cassettes", tmp_path / "suite")
        status, text = outcome("-m", "pytest", "--block-network", at=None, folder=suite)
        assert status == 0, text
        assert "2 passed" in text

    def test_with_cassettes_is_recorded_anew(self, service: MockServer, tmp_path: Path) -> None:
        suite = shutil.copytree(EXAMPLES / "test_with_cassettes", tmp_path / "suite")
        kept = {path.relative_to(suite): path.read_text("utf-8") for path in suite.rglob("*.yaml")}
        assert len(kept) == 2
        shutil.rmtree(suite / "cassettes")
        status, text = outcome("-m", "pytest", "--record-mode=once", at=service, folder=suite)
        assert status == 0, text
        assert service.requests == {"token": 2, "start": 1, "stop": 1}
        assert {path.relative_to(suite) for path in suite.rglob("*.yaml")} == set(kept)
        for text in [*kept.values(), *(path.read_text("utf-8") for path in suite.rglob("*.yaml"))]:
            assert service.api_key not in text
            assert "eyJ" not in text  # what a token begins with

    def test_with_mock_server_needs_no_network_and_no_account(self, tmp_path: Path) -> None:
        suite = shutil.copytree(EXAMPLES / "test_with_mock_server", tmp_path / "suite")
        status, text = outcome("-m", "pytest", "--block-network", at=None, folder=suite)
        assert status == 0, text
        assert "4 passed" in text


@contextlib.contextmanager
def process(*arguments: str | Path, at: MockServer) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(**command(*arguments, at=at, folder=EXAMPLES)) as child:  # type: ignore[call-overload]
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


class Web:
    """The web service of an example, in a process of its own."""

    def __init__(self, child: subprocess.Popen[str], workers: int) -> None:
        self.child = child
        self.said = ""
        assert child.stdout
        while self.said.count("startup complete") < workers or "running on" not in self.said:
            line = child.stdout.readline()
            assert line, self.said
            self.said += line
        self.url = re.findall(r"running on (http://127\.0\.0\.1:\d+)", self.said)[0]
        self.port = int(self.url.rpartition(":")[2])

    def open(self, avatar_id: str = WAYNE) -> str:
        answer = self.post({"avatar_id": avatar_id})
        assert answer.status_code == 201, answer.text
        assert answer.headers["location"] == f"/avatars/{answer.json()['id']}"
        return str(answer.json()["id"])

    def post(self, body: object) -> httpx.Response:
        return httpx.post(f"{self.url}/avatars", json=body)

    def delete(self, session_id: str) -> int:
        return httpx.delete(f"{self.url}/avatars/{session_id}").status_code

    def stop(self) -> str:
        """What it said, to its end."""
        self.child.send_signal(signal.SIGTERM)
        rest, _ = self.child.communicate(timeout=30)
        return self.said + rest


@contextlib.contextmanager
def web(service: MockServer, workers: int = 1) -> Iterator[Web]:
    options = ["--port", "0", "--workers", str(workers)]
    with process("-m", "uvicorn", "async_service:app", *options, at=service) as child:
        yield Web(child, workers)


class TestAsyncService:
    def test_avatars_are_opened_and_closed(self, service: MockServer) -> None:
        with web(service) as site:
            answer = site.post({"avatar_id": WAYNE, "is_sandbox": True})
            assert set(answer.json()) == {"id", "livekit_url", "access_token", "seconds"}
            session_id = answer.json()["id"]
            assert service.running_sessions == [session_id]
            assert site.delete(session_id) == 204
            assert service.running_sessions == []
            assert site.delete(session_id) == 204
            assert site.delete(UNKNOWN) == 204  # nothing of that name runs
            assert site.delete("no-uuid") == 404

    def test_one_process_closes_what_another_has_opened(self, service: MockServer) -> None:
        with web(service) as one, web(service) as other:
            session_id, left = one.open(), one.open()
            assert other.delete(session_id) == 204
            assert service.running_sessions == [left]
            one.stop()
            assert service.running_sessions == []

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_sigterm_closes_all_that_is_open(self, workers: int, service: MockServer) -> None:
        with web(service, workers) as site:
            ids = [site.open() for _ in range(6)]
            assert sorted(service.running_sessions) == sorted(ids)
            assert site.delete(ids.pop()) == 204
            text = site.stop()
        assert service.running_sessions == []
        assert "Traceback" not in text

    def test_a_sigterm_while_a_session_is_being_opened(self, service: MockServer) -> None:
        with web(service) as site:
            users = [post_by_hand(site.port) for _ in range(20)]
            until(lambda: service.requests["token"])
            site.stop()
            for user in users:
                user.close()
        assert service.running_sessions == []

    def test_a_user_who_hangs_up_leaves_no_session(self, service: MockServer) -> None:
        with web(service) as site:
            post_by_hand(site.port).close()
            until(lambda: service.sessions and service.sessions[0].state is SessionState.ENDED)
            assert len(started(service)) == 1
            assert service.running_sessions == []

    def test_what_the_user_asks_for_may_not_exist(self, service: MockServer) -> None:
        with web(service) as site:
            bodies: list[object] = [{"avatar_id": ""}, {"avatar_id": 1}, {}, [], None, {"avatar_id": UNKNOWN}]
            for body in bodies:
                answer = site.post(body)
                assert answer.status_code == 422, body
                assert answer.text
            assert f"Avatar {UNKNOWN} is not known." in answer.json()["error"]

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
    def test_what_the_account_cannot_give_is_said_as_such(self, service: MockServer, status: int, wait: str) -> None:
        with web(service) as site, ThreadPoolExecutor() as users:
            answers = list(users.map(site.post, [{"avatar_id": WAYNE}] * 8))
            refused = [answer for answer in answers if answer.status_code != 201]
            assert {answer.status_code for answer in refused} == {status}
            assert {answer.headers["retry-after"] for answer in refused} == {wait}
            assert len(started(service)) == len(answers) - len(refused)
            site.stop()
        assert service.running_sessions == []

    def test_a_failing_service_is_not_the_users_fault(self, service: MockServer) -> None:
        service.__exit__(None, None, None)
        with web(service) as site:
            assert site.post({"avatar_id": WAYNE}).status_code == 502
            assert site.delete(UNKNOWN) == 502
            assert "LiveAvatarConnectionError" in site.stop()


def post_by_hand(port: int) -> socket.socket:
    """A request whose answer is not read."""
    body = json.dumps({"avatar_id": WAYNE}).encode()
    user = socket.create_connection(("127.0.0.1", port))
    user.sendall(b"POST /avatars HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    return user
