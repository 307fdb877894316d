"""The command line as its users run it: its own process, on a terminal or without one, against the mock server."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest, __version__
from liveavatar.cli import _doctor
from liveavatar.mock import MockServer, mock_server

AVATAR = "3f9c2f6e-0000-4000-8000-1234567890ab"
COMMAND = [sys.executable, "-W", "error", "-m", "liveavatar"]
TOKEN = re.compile(r"eyJ[\w-]{4,}|token=")
WAIT = 20  # seconds, for what takes a fraction of one


@pytest.fixture
def service() -> Iterator[MockServer]:
    with mock_server(max_concurrent=3) as service:
        yield service


@pytest.fixture
def env(service: MockServer, tmp_path: Path) -> dict[str, str]:
    """What the command finds in its environment; nothing of the machine that could change its words."""
    kept = {name: os.environ[name] for name in ("PATH", "COVERAGE_PROCESS_CONFIG", "SYSTEMROOT") if name in os.environ}
    return {
        **kept,
        "HOME": str(tmp_path),
        "TERM": "xterm-256color",
        "LIVEAVATAR_API_KEY": service.api_key,
        "LIVEAVATAR_BASE_URL": service.base_url,
    }


class Run:
    """Runs the command in a folder of its own, and looks for tokens in all that it says."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = env

    def __call__(self, *arguments: str, stdin: str = "", may_tell: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.env,
            timeout=WAIT * 3,
            check=False,
        )
        if not may_tell:
            assert not TOKEN.search(done.stdout + done.stderr), "a token shows"
        return done

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*COMMAND, *arguments], cwd=self.folder, env=self.env, **streams)


@pytest.fixture
def run(tmp_path: Path, env: dict[str, str]) -> Run:
    return Run(tmp_path, env)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, run: Run, *arguments: str) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(run.folder)
            os.execve(sys.executable, [*COMMAND, *arguments], {**run.env, "COLUMNS": "100", "LINES": "40"})
        self.seen = ""

    def until(self, words: str) -> None:
        deadline = time.monotonic() + WAIT
        while words not in self.seen:
            assert time.monotonic() < deadline, f"{words!r} did not come; seen: {self.seen!r}"
            self._read(0.1)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + WAIT
        while True:
            self._read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._read(0.05)
                self.close()
                assert not TOKEN.search(self.seen), "a token shows"
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"it goes on; seen: {self.seen!r}"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.master)

    def _read(self, seconds: float) -> None:
        with contextlib.suppress(OSError, ValueError):  # the other end is closed, or ours
            while select.select([self.master], [], [], seconds)[0]:
                data = os.read(self.master, 65536)
                if not data:
                    return
                self.seen += data.decode("utf-8", "replace")
                seconds = 0


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- new, kept -------------------------------------------------------------------------------------------------------


def test_on_a_terminal_the_session_is_shown_with_its_countdown_and_stopped_at_enter(
    run: Run, service: MockServer
) -> None:
    terminal = Terminal(run, "new", "--sandbox")
    terminal.until("0:59")
    (session_id,) = service.running_sessions
    for words in (session_id, "wss://room.mock.invalid", "at most 1:00", "Time left", "0 credits", "Ctrl-C"):
        assert words in terminal.seen
    terminal.type("\n")
    assert terminal.end() == 0
    assert "Stopped after 0:0" in terminal.seen
    assert service.running_sessions == []


def test_ctrl_c_stops_the_session_and_the_code_is_130(run: Run, service: MockServer) -> None:
    terminal = Terminal(run, "new", "--avatar-id", AVATAR, "--mode", "full")
    terminal.until("Cost so far")
    assert "2 credits per minute" in terminal.seen
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "Interrupted; no session is left running." in terminal.seen
    assert service.running_sessions == []


def test_ctrl_c_while_the_session_starts_leaves_none(run: Run, service: MockServer) -> None:
    terminal = Terminal(run, "new", "--sandbox")
    eventually(lambda: service.requests["token"])
    terminal.type("\x03")
    assert terminal.end() == 130
    assert service.running_sessions == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_the_session_without_a_terminal_too(
    run: Run, service: MockServer, number: signal.Signals, code: int
) -> None:
    with run.start(
        "new", "--sandbox", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        eventually(lambda: service.running_sessions)
        assert command.stdout
        while b"Enter" not in command.stdout.readline():
            pass
        command.send_signal(number)
        assert command.wait(WAIT) == code
        assert command.stderr
        assert command.stderr.read() == b"Interrupted; no session is left running.\n"
    assert service.running_sessions == []


def test_a_terminal_that_is_closed_stops_the_session(run: Run, service: MockServer) -> None:
    terminal = Terminal(run, "new", "--sandbox")
    terminal.until("Time left")
    terminal.close()
    eventually(lambda: not service.running_sessions)
    os.waitpid(terminal.pid, 0)


def test_the_end_of_the_input_stops_the_session(run: Run, service: MockServer) -> None:
    with run.start("new", "--sandbox", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as command:
        eventually(lambda: service.running_sessions)
        assert command.stdin
        command.stdin.close()
        assert command.wait(WAIT) == 0
    assert service.running_sessions == []


def test_without_a_terminal_nothing_moves_and_nothing_is_coloured(run: Run, service: MockServer) -> None:
    done = run("new", "--sandbox")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert done.stdout.count("Time left") == 1
    assert service.running_sessions == []


def test_a_session_whose_time_is_up_ends_the_command(run: Run, service: MockServer) -> None:
    with run.start(
        "new", "--avatar-id", AVATAR, "--max-duration", "1", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as command:
        assert command.wait(WAIT) == 0
        assert command.stdout
        assert b"Cost: 1 credit." in command.stdout.read()
    assert service.running_sessions == []


def test_no_color_is_respected(run: Run, service: MockServer) -> None:
    run.env["NO_COLOR"] = "1"
    terminal = Terminal(run, "new", "--sandbox")
    terminal.until("Time left")
    terminal.type("\n")
    assert terminal.end() == 0
    assert not re.search(r"\x1b\[[\d;]*3\dm", terminal.seen)


def test_what_was_asked_for_reaches_the_service(run: Run, service: MockServer) -> None:
    full = ["--mode", "FULL", "--voice", AVATAR, "--context", AVATAR, "--language", "de"]
    done = run("new", "--avatar-id", AVATAR, *full, "--quality", "low", "--encoding", "h264", "--json")
    assert done.returncode == 0, done.stderr
    (session,) = service.sessions
    assert (session.mode, session.avatar_id, session.is_sandbox) == ("FULL", AVATAR, False)


# --- new, detached ---------------------------------------------------------------------------------------------------


def test_json_is_one_object_without_tokens_and_the_session_goes_on(run: Run, service: MockServer) -> None:
    done = run("new", "--sandbox", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    session = json.loads(done.stdout)
    assert service.running_sessions == [session["session_id"]]
    assert session["max_session_duration"] == 60
    assert session["stop"] == f"liveavatar close {session['session_id']}"
    stopped = run("close", session["session_id"])
    assert (stopped.returncode, stopped.stdout) == (0, f"{session['session_id']} stopped\n")
    assert service.running_sessions == []


def test_tokens_come_on_request_and_one_of_them_stops_the_session(run: Run, service: MockServer) -> None:
    session = json.loads(run("new", "--sandbox", "--json", "--show-tokens", may_tell=True).stdout)
    assert session["meet_url"].startswith("https://meet.livekit.io/custom?")
    for name in ("access_token", "livekit_agent_token", "ws_url"):
        assert TOKEN.search(session[name])
    with LiveAvatarApi(service.api_key, base_url=service.base_url) as api:
        api.stop_session(session["session_id"], session["session_token"])
    assert service.running_sessions == []


def test_the_link_comes_on_request(run: Run) -> None:
    assert "https://meet.livekit.io/custom?" in run("new", "--sandbox", "--show-link", may_tell=True).stdout


def test_detached_it_goes_on_and_says_how_to_stop_it(run: Run, service: MockServer) -> None:
    done = run("new", "--sandbox", "--detach")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(service.running_sessions) == 1
    command = done.stdout.splitlines()[-1].partition("Stop it: liveavatar ")[2]
    assert run(*command.split()).returncode == 0
    assert service.running_sessions == []


def test_a_session_that_nobody_could_be_told_of_is_stopped(run: Run, service: MockServer) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with run.start("new", "--sandbox", "--json", stdout=writer, stderr=subprocess.PIPE) as command:
        os.close(writer)
        assert command.wait(WAIT) == 1
        assert command.stderr
        assert b"Traceback" not in command.stderr.read()
    assert service.requests["start"] == 1
    assert service.running_sessions == []


def test_the_browser_gets_the_link_and_may_say_what_it_likes(run: Run, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\necho "$1" > {tmp_path}/address\necho "cannot show $1"\necho "cannot show $1" >&2\n'
    )
    browser.chmod(0o755)
    run.env["BROWSER"] = str(browser)
    assert run("new", "--sandbox", "--open").returncode == 0
    assert (tmp_path / "address").read_text().startswith("https://meet.livekit.io/custom?")


# --- close -----------------------------------------------------------------------------------------------------------


def test_close_stops_several_sessions_and_says_of_each_what_became_of_it(run: Run, service: MockServer) -> None:
    with LiveAvatarApi(service.api_key, base_url=service.base_url) as api:
        ids = [api.new_session(LiveAvatarNewSessionRequest(avatar_id=AVATAR)).session_id for _ in range(2)]
        unknown = "00000000-0000-4000-8000-000000000000"
        done = run("close", ids[0], unknown, ids[1], ids[0])
        assert done.returncode == 1
        assert done.stdout == f"{ids[0]} stopped\n{ids[1]} stopped\n"
        assert done.stderr == f"Error: {unknown}: 404 (code 4040) Session {unknown} is not known. Check the id.\n"
        assert service.running_sessions == []
        again = run("close", ids[0])
        assert (again.returncode, again.stdout) == (0, f"{ids[0]} had ended already\n")


def test_close_that_cannot_reach_the_service_says_that_the_session_may_run(run: Run) -> None:
    done = run("close", AVATAR, "--base-url", "http://127.0.0.1:9")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        f"May still be running, and cost: {AVATAR}. Stop it: liveavatar close --base-url http://127.0.0.1:9 {AVATAR}"
    )


def test_a_session_that_cannot_be_stopped_is_code_3_with_its_id(run: Run, env: dict[str, str]) -> None:
    with mock_server() as service:
        run.env["LIVEAVATAR_BASE_URL"] = service.base_url
        command = run.start("new", "--sandbox", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert command.stdout
        while b"Enter" not in command.stdout.readline():
            pass
        (session_id,) = service.running_sessions
    command.send_signal(signal.SIGTERM)
    _, said = command.communicate(timeout=WAIT * 3)
    assert command.returncode == 3
    assert f"Stop it: liveavatar close {session_id}" in said.decode()


def test_an_interrupted_close_says_that_the_session_may_run(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = run.start(
            "close", AVATAR, "--base-url", f"http://127.0.0.1:{silent.getsockname()[1]}", stderr=subprocess.PIPE
        )
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)  # the request is on its way
            command.send_signal(signal.SIGINT)
            _, said = command.communicate(timeout=WAIT)
    assert command.returncode == 3
    assert said.decode().startswith(
        f"Interrupted.\nMay still be running, and cost: {AVATAR}. Stop it: liveavatar close"
    )


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_refusal_is_one_line_of_the_services_words(run: Run, service: MockServer) -> None:
    run.env["LIVEAVATAR_API_KEY"] = "another-key"
    done = run("new", "--sandbox")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: 401 The API key is not valid. Check LIVEAVATAR_API_KEY.\n"


def test_debug_adds_a_traceback_without_values(run: Run) -> None:
    run.env["LIVEAVATAR_API_KEY"] = "another-key"
    for arguments in (["new", "--sandbox", "--debug"], ["--debug", "new", "--sandbox"]):
        done = run(*arguments)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "AuthenticationError" in done.stderr
        assert "another-key" not in done.stderr


def test_a_service_that_is_not_there_is_code_1_and_names_the_doctor(run: Run) -> None:
    done = run("new", "--sandbox", "--base-url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "liveavatar doctor" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["new"],
        ["new", "--sandbox", "--voice", AVATAR],
        ["new", "--sandbox", "--quality", "best"],
        ["new", "--sandbox", "--max-duration", "0"],
        ["new", "--sandbox", "--base-url", "http://example.com"],
        ["new", "--avatar-id", ""],
        ["new", "--api-key", "secret"],
        ["close"],
        ["mock", "--host", "0.0.0.0"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_with_the_command_line_is_code_2(run: Run, service: MockServer, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert service.requests["start"] == 0


def test_without_a_key_it_says_where_to_put_one(run: Run) -> None:
    del run.env["LIVEAVATAR_API_KEY"]
    done = run("new", "--sandbox")
    assert done.returncode == 2
    assert done.stderr == (
        "Error: there is no API key. Set LIVEAVATAR_API_KEY in the environment, or in a file .env here.\n"
    )


# --- settings --------------------------------------------------------------------------------------------------------


def dotenv(folder: Path, **values: str) -> None:
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))


def test_env_file_of_the_working_folder_is_read(run: Run, service: MockServer) -> None:
    del run.env["LIVEAVATAR_API_KEY"], run.env["LIVEAVATAR_BASE_URL"]
    dotenv(run.folder, LIVEAVATAR_API_KEY=f'"{service.api_key}"', LIVEAVATAR_BASE_URL=service.base_url)
    assert run("new", "--sandbox").returncode == 0
    assert service.requests["start"] == 1


def test_the_environment_goes_before_the_file(run: Run, service: MockServer) -> None:
    dotenv(run.folder, LIVEAVATAR_API_KEY="another-key", LIVEAVATAR_BASE_URL="http://127.0.0.1:9")
    assert run("new", "--sandbox").returncode == 0
    assert service.requests["start"] == 1


def test_a_file_does_not_send_a_key_that_is_not_its_own_to_another_service(run: Run) -> None:
    del run.env["LIVEAVATAR_BASE_URL"]
    dotenv(run.folder, LIVEAVATAR_BASE_URL="https://collector.invalid/v1")
    done = run("new", "--sandbox")
    assert done.returncode == 2
    assert "collector.invalid" in done.stderr


def test_a_file_that_cannot_be_read_is_code_2(run: Run) -> None:
    (run.folder / ".env").write_bytes(b"LIVEAVATAR_API_KEY=\xff\n")
    done = run("new", "--sandbox")
    assert done.returncode == 2
    assert ".env cannot be read" in done.stderr


# --- the rest --------------------------------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_with_the_mock_server(run: Run, service: MockServer) -> None:
    done = run("doctor", "--session")
    assert done.returncode == 0, done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}
    assert "and closed" in done.stdout
    assert service.requests == {"token": 1, "start": 1, "stop": 1}
    assert service.running_sessions == []


def test_doctor_starts_nothing_unless_told(run: Run, service: MockServer) -> None:
    assert run("doctor").returncode == 0
    assert service.requests == {"token": 1, "start": 0, "stop": 0}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"LIVEAVATAR_API_KEY": "another-key"}, "fail Account   401"),
        ({"LIVEAVATAR_API_KEY": ""}, "fail API key   there is none"),
        ({"LIVEAVATAR_API_KEY": "two words"}, "fail API key   LIVEAVATAR_API_KEY"),
        ({"LIVEAVATAR_API_KEY": "'quoted'"}, "warn API key   has quotes"),
        ({"LIVEAVATAR_BASE_URL": "http://example.com"}, "fail Base URL"),
        ({"LIVEAVATAR_BASE_URL": "https://nowhere.invalid"}, "fail DNS"),
        ({"LIVEAVATAR_BASE_URL": "http://127.0.0.1:9"}, "fail TCP"),
        (
            {"LIVEAVATAR_BASE_URL": "https://nowhere.invalid", "HTTPS_PROXY": "http://me:secret@127.0.0.1:9"},
            "ok   Proxy     through 127.0.0.1:9, from the environment",
        ),
    ],
    ids=str,
)
def test_doctor_says_what_is_wrong_and_what_to_do(run: Run, settings: Mapping[str, str], line: str) -> None:
    run.env.update(settings)
    done = run("doctor")
    assert done.returncode == 1
    assert line in done.stdout
    assert "secret" not in done.stdout


def test_doctor_compares_clocks() -> None:
    assert _doctor._clock(None).state == "ok"
    assert _doctor._clock(format_datetime(datetime.now(UTC))).state == "ok"
    assert _doctor._clock("Mon, 01 Jan 2024 00:00:00 GMT").state == "warn"


def test_doctor_on_a_terminal_folds_its_lines(run: Run) -> None:
    run.env["LIVEAVATAR_API_KEY"] = ""
    terminal = Terminal(run, "doctor")
    assert terminal.end() == 1
    assert "Set LIVEAVATAR_API_KEY to the account's API key" in terminal.seen


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    """A service behind TLS that is down and has a wrong clock; its authority's certificate is in ca.pem."""

    class Down(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            self.send_response_only(503)
            self.send_header("Date", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), Down) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def test_doctor_names_a_certificate_that_is_not_trusted(run: Run, gateway: str) -> None:
    done = run("doctor", "--base-url", gateway)
    assert done.returncode == 1
    assert "fail TLS       the certificate is not trusted" in done.stdout
    assert "SSL_CERT_FILE" in done.stdout


def test_doctor_tells_the_services_faults_from_ours(run: Run, gateway: str) -> None:
    run.env["SSL_CERT_FILE"] = str(run.folder / "ca.pem")
    done = run("doctor", "--base-url", gateway)
    assert done.returncode == 1
    for line in (
        "ok   TLS       TLSv1.3",
        "warn HTTP      the service answers 503",
        "warn Clock",
        "fail Account   503",
    ):
        assert line in done.stdout


def test_the_mock_server_runs_until_it_is_told_to_end(run: Run) -> None:
    with run.start("mock", "--port", "0", "--credits", "5", stdout=subprocess.PIPE) as command:
        assert command.stdout
        assert command.stdout.readline().startswith(b"export LIVEAVATAR_BASE_URL=http://127.0.0.1:")
        command.send_signal(signal.SIGINT)
        assert command.wait(WAIT) == 0


def test_the_demo_runs(run: Run, service: MockServer) -> None:
    done = run("demo")
    assert done.returncode == 0, done.stderr
    assert service.requests["start"] >= 1
    assert service.running_sessions == []


def test_version_and_help_and_completion(run: Run) -> None:
    assert run("--version").stdout == f"liveavatar {__version__}\n"
    shown = run("--help").stdout
    for code in ("130", "3 a session may still be running"):
        assert code in shown
    run.env.update(_LIVEAVATAR_COMPLETE="complete_bash", COMP_WORDS="liveavatar do", COMP_CWORD="1")
    assert run().stdout.split() == ["doctor"]


@pytest.mark.parametrize("missing", ["typer", "rich", "dotenv"])
def test_without_its_extra_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; from liveavatar.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"liveavatar: {missing} is not installed; the command line needs it: pip install 'liveavatar[cli]'\n"
    )


def test_without_the_mock_server_extra_the_mock_server_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; sys.argv[1:] = ['mock', '--port', '0'];"
        "from liveavatar.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 2
    assert "pip install 'liveavatar[mock]'" in done.stderr
