"""The command line as a user runs it: in its own process, on a terminal or without one, against the mock server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from liveavatar import AvatarPersona, LiveAvatarApi, LiveAvatarNewSessionRequest, __version__
from liveavatar.cli import _doctor
from liveavatar.mock import MockServer, mock_server

from tests import processes

AVATAR = "3f9c2f6e-0000-4000-8000-1234567890ab"
COMMAND = [sys.executable, "-W", "error", "-m", "liveavatar"]
TOKEN = re.compile(r"eyJ[\w-]{4,}|token=")
WAIT = 20  # seconds, for what takes a fraction of one
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@pytest.fixture
def server() -> Iterator[MockServer]:
    with mock_server(max_concurrent=3) as server:
        yield server


@pytest.fixture
def env(server: MockServer, tmp_path: Path) -> dict[str, str]:
    """Environment of the command, without anything of this machine that could change its output."""
    kept = ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_CONFIG", "SYSTEMROOT")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "HOME": str(tmp_path),
        "TERM": "xterm-256color",
        "LIVEAVATAR_API_KEY": server.api_key,
        "LIVEAVATAR_BASE_URL": server.base_url,
    }


class Run:
    """Runs the command in its own folder and checks that its output shows no token."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = env

    def __call__(self, *arguments: str, stdin: str = "", may_show: bool = False) -> subprocess.CompletedProcess[str]:
        done = processes.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.env,
            timeout=WAIT * 3,
        )
        if not may_show:
            assert not TOKEN.search(done.stdout + done.stderr), "a token shows"
        return done

    def start(self, *arguments: str, code: str | None = None, **streams: Any) -> subprocess.Popen[bytes]:
        command = COMMAND if code is None else [sys.executable, "-W", "error", "-c", code]
        return processes.Popen([*command, *arguments], cwd=self.folder, env=self.env, **streams)


@pytest.fixture
def run(tmp_path: Path, env: dict[str, str]) -> Run:
    return Run(tmp_path, env)


class Terminal:
    """A command on its own terminal."""

    def __init__(
        self,
        run: Run,
        *arguments: str,
        stderr: Path | None = None,
        through: Sequence[str] = (),
        columns: str = "100",
    ) -> None:
        self.master, terminal = os.openpty()
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, terminal)
            self.process = processes.Popen(
                [*through, *COMMAND, *arguments],
                cwd=run.folder,
                env={**run.env, "COLUMNS": columns, "LINES": "40"},
                stdin=terminal,
                stdout=terminal,
                stderr=stack.enter_context(stderr.open("wb")) if stderr else terminal,
                start_new_session=True,
            )
        self.seen = ""

    def until(self, words: str) -> None:
        deadline = time.monotonic() + WAIT
        while words not in self.seen:
            assert time.monotonic() < deadline, f"{words!r} did not appear; seen: {self.seen!r}"
            self._read(0.1)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self, *, may_show: bool = False) -> int:
        """Wait for the command to end and return its exit code."""
        deadline = time.monotonic() + WAIT
        while True:
            self._read(0.05)
            if self.process.poll() is not None:
                self._read(0.05)
                self.close()
                if not may_show:
                    assert not TOKEN.search(self.seen), "a token shows"
                return int(self.process.returncode)
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


def test_enter_stops(run: Run, server: MockServer) -> None:
    """A terminal shows the session with its countdown, and Enter stops it."""
    terminal = Terminal(run, "new", "--sandbox")
    terminal.until("0:59")
    (session_id,) = server.running_sessions
    for words in (session_id, "wss://room.mock.invalid", "at most 1:00", "Time left", "0 credits", "o opens the room"):
        assert words in terminal.seen
    terminal.type("\n")
    assert terminal.end() == 0
    assert "Stopped after 0:0" in terminal.seen
    assert "Cost: 0 credits." in terminal.seen
    assert server.running_sessions == []


def test_ctrl_c_stops(run: Run, server: MockServer) -> None:
    """Ctrl-C stops the session, tells the cost as Enter does, and gives code 130."""
    terminal = Terminal(run, "new", "--avatar-id", AVATAR, "--mode", "full")
    terminal.until("Cost so far")
    assert "2 credits per minute" in terminal.seen
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "Cost: 2 credits." in terminal.seen
    assert server.running_sessions == []


def test_ctrl_c_while_starting(run: Run, server: MockServer) -> None:
    """Ctrl-C while the session starts leaves none running."""
    terminal = Terminal(run, "new", "--sandbox")
    eventually(lambda: server.requests["token"])
    terminal.type("\x03")
    assert terminal.end() == 130
    assert server.running_sessions == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_stops(run: Run, server: MockServer, number: signal.Signals, code: int) -> None:
    """A signal stops the session without a terminal, too."""
    with run.start(
        "new", "--sandbox", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        eventually(lambda: server.running_sessions)
        assert command.stdout
        while b"Enter" not in command.stdout.readline():
            pass
        command.send_signal(number)
        assert command.wait(WAIT) == code
        assert b"Cost: 0 credits." in command.stdout.read()
        assert command.stderr
        assert command.stderr.read() == b""
    assert server.running_sessions == []


@pytest.mark.parametrize("arguments", [["--sandbox"], ["--sandbox", "--json"]], ids=" ".join)
def test_closed_terminal(run: Run, server: MockServer, tmp_path: Path, arguments: list[str]) -> None:
    """A closed terminal stops the session, with code 129 and without a traceback."""
    terminal = Terminal(run, "new", *arguments, stderr=tmp_path / "stderr")
    eventually(lambda: server.running_sessions)
    terminal.until(server.running_sessions[0])
    terminal.close()
    eventually(lambda: not server.running_sessions)
    assert terminal.process.wait(WAIT) == 129
    assert (tmp_path / "stderr").read_text() == ""


def test_closed_terminal_without_a_signal(run: Run, server: MockServer, tmp_path: Path) -> None:
    """A process that ignores the signal of a closed terminal notices that its output is gone."""
    ignore = "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    terminal = Terminal(run, "new", "--sandbox", stderr=tmp_path / "stderr", through=[sys.executable, "-c", ignore])
    terminal.until("Time left")
    terminal.close()
    eventually(lambda: not server.running_sessions)
    assert terminal.process.wait(WAIT) == 129
    assert (tmp_path / "stderr").read_text() == ""


def test_end_of_input(run: Run, server: MockServer) -> None:
    """The end of the input stops the session."""
    with run.start("new", "--sandbox", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as command:
        eventually(lambda: server.running_sessions)
        assert command.stdin
        command.stdin.close()
        assert command.wait(WAIT) == 0
    assert server.running_sessions == []


def test_plain_output(run: Run, server: MockServer) -> None:
    """Without a terminal the session is printed once, without colours."""
    done = run("new", "--sandbox")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert done.stdout.count("Time left") == 1
    assert done.stdout.endswith("Cost: 0 credits.\n")
    assert server.running_sessions == []


def test_maximum_duration(run: Run, server: MockServer) -> None:
    """The command ends when the session has reached its maximum duration."""
    with run.start(
        "new", "--avatar-id", AVATAR, "--max-duration", "1", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as command:
        assert command.wait(WAIT) == 0
        assert command.stdout
        assert b"Cost: 1 credit." in command.stdout.read()
    assert server.running_sessions == []


def test_no_color(run: Run, server: MockServer) -> None:
    """NO_COLOR switches colours off."""
    run.env["NO_COLOR"] = "1"
    terminal = Terminal(run, "new", "--sandbox")
    terminal.until("Time left")
    terminal.type("\n")
    assert terminal.end() == 0
    assert not re.search(r"\x1b\[[\d;]*3\dm", terminal.seen)


def test_options_reach_the_service(run: Run, server: MockServer) -> None:
    """The request holds what the options say."""
    full = ["--mode", "FULL", "--voice", AVATAR, "--context", AVATAR, "--language", "de"]
    done = run("new", "--avatar-id", AVATAR, *full, "--quality", "low", "--encoding", "h264", "--json")
    assert done.returncode == 0, done.stderr
    (session,) = server.sessions
    assert (session.mode, session.avatar_id, session.is_sandbox) == ("FULL", AVATAR, False)


# --- new, detached ---------------------------------------------------------------------------------------------------


def test_json(run: Run, server: MockServer) -> None:
    """--json prints an object when the session is open and one when it has ended, both without tokens."""
    with run.start("new", "--avatar-id", AVATAR, "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as command:
        assert command.stdin
        assert command.stdout
        opened = json.loads(command.stdout.readline())
        assert server.running_sessions == [opened["session_id"]]
        assert (opened["state"], opened["max_session_duration"]) == ("running", 1200)
        assert opened["stop"] == f"liveavatar close {opened['session_id']}"
        command.stdin.close()
        ended = command.stdout.read().decode()
        assert command.wait(WAIT) == 0
    assert server.running_sessions == []
    assert json.loads(ended) == {
        "session_id": opened["session_id"],
        "state": "ended",
        "end_reason": "USER_CLOSED",
        "duration": 0,
        "credits": 1,
        "is_estimate": False,
    }
    assert not TOKEN.search(str(opened) + ended)


def test_json_detached(run: Run, server: MockServer) -> None:
    """--json with --detach prints one object and leaves the session running."""
    done = run("new", "--sandbox", "--json", "--detach")
    assert (done.returncode, done.stderr) == (0, "")
    session_id = json.loads(done.stdout)["session_id"]
    assert server.running_sessions == [session_id]
    stopped = run("close", session_id)
    assert (stopped.returncode, stopped.stdout) == (0, f"{session_id} stopped\n")
    assert server.running_sessions == []


def test_show_tokens(run: Run, server: MockServer) -> None:
    """--show-tokens prints the tokens, and the session token stops the session."""
    session = json.loads(run("new", "--sandbox", "--json", "--detach", "--show-tokens", may_show=True).stdout)
    assert session["meet_url"].startswith("https://meet.livekit.io/custom?")
    for name in ("access_token", "livekit_agent_token", "ws_url"):
        assert TOKEN.search(session[name])
    with LiveAvatarApi(server.api_key, base_url=server.base_url) as api:
        api.stop_session(session["session_id"], session["session_token"])
    assert server.running_sessions == []


def test_show_link(run: Run) -> None:
    """--show-link prints the link to the room."""
    assert "https://meet.livekit.io/custom?" in run("new", "--sandbox", "--show-link", may_show=True).stdout


def test_detach(run: Run, server: MockServer) -> None:
    """--detach leaves the session running and prints the command that stops it, on its own line."""
    done = run("new", "--sandbox", "--detach")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(server.running_sessions) == 1
    command = done.stdout.splitlines()[-1]
    assert command.startswith("  liveavatar close ")
    assert run(*command.split()[1:]).returncode == 0
    assert server.running_sessions == []


def test_detach_into_a_closed_pipe(run: Run, server: MockServer) -> None:
    """A session whose id could not be printed is stopped."""
    reader, writer = os.pipe()
    os.close(reader)
    with run.start("new", "--sandbox", "--json", "--detach", stdout=writer, stderr=subprocess.PIPE) as command:
        os.close(writer)
        assert command.wait(WAIT) == 1
        assert command.stderr
        assert b"Traceback" not in command.stderr.read()
    assert server.requests["start"] == 1
    assert server.running_sessions == []


@pytest.fixture
def browser(run: Run) -> Path:
    """Install a browser that notes its address and its environment, and return the folder of its notes."""
    browser = run.folder / "browser"
    browser.write_text(
        f'#!/bin/sh\nenv > {run.folder}/environment\necho "$1" > {run.folder}/address\n'
        'echo "cannot show $1"\necho "cannot show $1" >&2\n'
    )
    browser.chmod(0o755)
    run.env["BROWSER"] = str(browser)
    return run.folder


def test_open(run: Run, browser: Path) -> None:
    """--open hands the link to the browser and hides what the browser prints."""
    assert run("new", "--sandbox", "--open").returncode == 0
    assert (browser / "address").read_text().startswith("https://meet.livekit.io/custom?")


def test_open_is_isolated(run: Run, browser: Path, server: MockServer) -> None:
    """The browser gets no API key, and modules in the working folder do not run."""
    for module in ("webbrowser", "subprocess", "os", "shlex", "sitecustomize"):
        (browser / f"{module}.py").write_text(f"open({str(browser / 'taken')!r}, 'w').write({module!r})\n")
    command = [str(Path(sys.executable).with_name("liveavatar")), "new", "--sandbox", "--open"]
    if not Path(command[0]).exists():  # not installed, so run what the installed command runs
        code = "import sys; sys.path.remove(''); from liveavatar.cli import main; sys.exit(main())"
        command[:1] = [sys.executable, "-c", code]
    env = {**run.env, "LIVEAVATAR_OTHER_SECRET": "x"}
    done = subprocess.run(command, cwd=browser, env=env, input=b"", capture_output=True, timeout=WAIT * 3)
    assert done.returncode == 0, done.stderr
    assert (browser / "address").exists()
    assert not (browser / "taken").exists()
    environment = (browser / "environment").read_text()
    assert "LIVEAVATAR_" not in environment
    assert server.api_key not in environment


def test_key_opens_the_room(run: Run, browser: Path) -> None:
    """The key o opens the room while the session goes on."""
    terminal = Terminal(run, "new", "--sandbox")
    terminal.until("o opens the room")
    terminal.type("o")
    terminal.until("The room is open in the browser.")
    assert (browser / "address").read_text().startswith("https://meet.livekit.io/custom?")
    terminal.type("\n")
    assert terminal.end() == 0


def test_key_prints_the_link(run: Run, server: MockServer) -> None:
    """Without a browser, the key l prints the link of the session that is open."""
    run.env["BROWSER"] = "/nowhere"
    run.env["PATH"] = "/nowhere"
    terminal = Terminal(run, "new", "--sandbox", "--open")
    terminal.until("No browser was found. Press l")
    terminal.type("l")
    terminal.until("https://meet.livekit.io/custom?")
    assert len(server.running_sessions) == 1
    terminal.type("\n")
    assert terminal.end(may_show=True) == 0


def test_typing_shows_nothing(run: Run) -> None:
    """Other keys are ignored and not echoed."""
    terminal = Terminal(run, "new", "--sandbox")
    terminal.until("Time left")
    terminal.type("zqzq")
    terminal.type("\n")
    assert terminal.end() == 0
    assert "zq" not in terminal.seen


# --- what the service says about a session that is open --------------------------------------------------------------

FAST = (
    "import sys; from liveavatar import _keep_alive; _keep_alive.KEEP_ALIVE_INTERVAL = 0.3;"
    "from liveavatar.cli import _watch; _watch._READ_INTERVAL = 0.2;"
    "from liveavatar.cli import main; sys.exit(main())"
)
"""The command with short intervals between its requests about a session."""


def test_service_ends_the_session(run: Run) -> None:
    """New notices that the service has ended the session, and says why and what it has cost."""
    with mock_server(idle_timeout=1) as server:
        run.env |= {"LIVEAVATAR_BASE_URL": server.base_url, "LIVEAVATAR_API_KEY": server.api_key}
        with run.start(
            "new", "--avatar-id", AVATAR, code=FAST, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as command:
            assert command.stdout
            output = command.stdout.read().decode()
            assert command.wait(WAIT) == 0
    assert output.splitlines()[-1] == (
        "The session ended after 0:01: it was idle for too long (IDLE_TIMEOUT). Cost: 1 credit."
    )


def test_service_ends_the_session_json(run: Run) -> None:
    """New --json says what the service has recorded."""
    with mock_server(credits=5) as server:
        run.env |= {"LIVEAVATAR_BASE_URL": server.base_url, "LIVEAVATAR_API_KEY": server.api_key}
        arguments = ("new", "--avatar-id", AVATAR, "--mode", "full", "--max-duration", "1", "--json")
        with run.start(*arguments, code=FAST, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as command:
            assert command.stdout
            ended = json.loads(command.stdout.read().splitlines()[-1])
            assert command.wait(WAIT) == 0
    assert (ended["state"], ended["end_reason"]) == ("ended", "MAX_DURATION_REACHED")
    assert (ended["duration"], ended["credits"], ended["is_estimate"]) == (1, 2, False)


def test_cost_without_a_record(run: Run, server: MockServer) -> None:
    """The cost is called an estimate if the service does not tell it."""
    code = (
        "import liveavatar\n"
        "def get_session(*arguments): raise liveavatar.LiveAvatarError('no record')\n"
        "liveavatar.LiveAvatarApi.get_session = get_session\n" + FAST
    )
    with run.start(
        "new", "--avatar-id", AVATAR, code=code, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as command:
        assert command.stdout
        assert b"Stopped after 0:00. Cost: about 1 credit.\n" in command.stdout.read()
        assert command.wait(WAIT) == 0


@pytest.fixture
def silent_records() -> Iterator[str]:
    """Serve an API that opens and stops sessions, but does not respond to requests about them; yield its URL."""

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            room = {"livekit_url": "wss://room.invalid", "livekit_client_token": "secret"}
            data = {"session_id": AVATAR, "session_token": "secret", **room}
            body = json.dumps({"code": 1000, "data": data, "message": "ok"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            asked.set()
            released.wait(WAIT)
            self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    asked, released = threading.Event(), threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        released.set()
        server.shutdown()
        thread.join()
    assert asked.is_set()


def test_no_record(run: Run, silent_records: str) -> None:
    """A session is stopped as usual while the service does not respond to requests about it."""
    run.env["LIVEAVATAR_BASE_URL"] = silent_records
    code = f"from liveavatar.cli import _new; _new._READ_TIMEOUT = 1; {FAST}"
    with run.start("new", "--avatar-id", AVATAR, code=code, **PIPES) as command:
        assert command.stdin
        assert command.stdout
        while b"Enter" not in command.stdout.readline():
            pass
        time.sleep(0.5)  # a request about the session is under way
        output, error = command.communicate(b"\n", timeout=WAIT)
        assert (command.returncode, error) == (0, b"")
    assert b"Cost: about 1 credit." in output


def test_keep_alive(run: Run) -> None:
    """--keep-alive keeps an idle session alive."""
    with mock_server(idle_timeout=1) as server:
        run.env |= {"LIVEAVATAR_BASE_URL": server.base_url, "LIVEAVATAR_API_KEY": server.api_key}
        with run.start(
            "new", "--avatar-id", AVATAR, "--keep-alive", code=FAST, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as command:
            eventually(lambda: server.requests.get("keep-alive", 0) >= 6)
            assert len(server.running_sessions) == 1
            output, _ = command.communicate(timeout=WAIT)
            assert command.returncode == 0
    assert b"Stopped after" in output


def test_wait(run: Run) -> None:
    """--wait waits for a free slot."""
    with mock_server(max_concurrent=1) as server, LiveAvatarApi(server.api_key, base_url=server.base_url) as api:
        run.env |= {"LIVEAVATAR_BASE_URL": server.base_url, "LIVEAVATAR_API_KEY": server.api_key}
        first = api.new_session(LiveAvatarNewSessionRequest(avatar_id=AVATAR))
        refused = run("new", "--sandbox", "--detach")
        assert refused.returncode == 1
        assert "Concurrency limit reached" in refused.stderr
        assert "`liveavatar list`" in refused.stderr
        with run.start("new", "--sandbox", "--wait", "20", "--detach", stdout=subprocess.PIPE) as command:
            tries = server.requests["start"]
            eventually(lambda: server.requests["start"] > tries)
            api.close_session(first.session_id)
            assert command.wait(WAIT) == 0
        assert len(server.running_sessions) == 1


# --- list and show ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sessions(server: MockServer) -> Iterator[list[str]]:
    """Return the ids of a LITE and a FULL session that run."""
    with LiveAvatarApi(server.api_key, base_url=server.base_url) as api:
        full = LiveAvatarNewSessionRequest(avatar_id=AVATAR, mode="FULL", avatar_persona=AvatarPersona())
        lite = LiveAvatarNewSessionRequest(avatar_id=AVATAR)
        yield [api.new_session(request).session_id for request in (lite, full)]


def test_list(run: Run, server: MockServer, sessions: list[str]) -> None:
    """List prints a line for each running session, and --historic one for each that has ended."""
    done = run("list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert {line[0] for line in lines} == set(sessions)
    assert {line[2] for line in lines} == {"LITE", "FULL"}
    assert run("list", "--historic").stdout == ""
    run("close", *sessions)
    assert run("list").stdout == ""
    historic = [line.split("\t") for line in run("list", "--historic").stdout.splitlines()]
    assert {(line[0], line[6]) for line in historic} == {(session, "USER_CLOSED") for session in sessions}
    assert {line[5] for line in historic} == {"1", "2"}


def test_list_json(run: Run, sessions: list[str]) -> None:
    """List --json prints an array with all that the service tells."""
    listed = json.loads(run("list", "--json").stdout)
    assert {session["id"] for session in listed} == set(sessions)
    assert {session["credits_consumed"] for session in listed} == {1, 2}
    assert json.loads(run("list", "--historic", "--json").stdout) == []


def test_list_limit(run: Run, sessions: list[str]) -> None:
    """List prints at most --limit sessions, and says so if there are more."""
    done = run("list", "--limit", "1")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == "There are more sessions than --limit 1.\n"
    assert run("list", "--limit", "2").stderr == ""


@pytest.mark.parametrize("columns", ["80", "40"])
def test_list_on_a_terminal(run: Run, sessions: list[str], columns: str) -> None:
    """On a terminal, list is a table that fits."""
    terminal = Terminal(run, "list", columns=columns)
    assert terminal.end() == 0
    shown = terminal.seen.rpartition("\x1b[2K")[2]  # what follows the spinner
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown).splitlines()
    assert max(map(len, lines)) <= int(columns)
    if columns == "80":
        assert len(lines) == 3
        assert lines[0].split() == ["Session", "Created", "Mode", "Time", "Cost", "Source"]
        assert {line.split()[0] for line in lines[1:]} == set(sessions)
    else:
        assert set(lines[::2]) == set(sessions)


def test_list_of_none_on_a_terminal(run: Run) -> None:
    """On a terminal, list says that no session is running."""
    terminal = Terminal(run, "list")
    assert terminal.end() == 0
    assert "No session is running." in terminal.seen


def test_show(run: Run, sessions: list[str]) -> None:
    """Show prints the state, the duration and the cost of a session."""
    shown = run("show", sessions[1]).stdout
    for row in (f"Session   {sessions[1]}", "State     running", "Mode      FULL", "Cost      2 credits"):
        assert row in shown
    run("close", sessions[1])
    assert "State     ended: it was stopped\n" in run("show", sessions[1]).stdout


def test_show_transcript(run: Run, sessions: list[str]) -> None:
    """Show --transcript prints what was said."""
    assert "There is no transcript." in run("show", sessions[0], "--transcript").stdout
    line = re.compile(r"^avatar    \[made up by the mock server\] \w", re.MULTILINE)
    eventually(lambda: line.search(run("show", sessions[1], "--transcript").stdout))
    as_json = json.loads(run("show", sessions[1], "--transcript", "--json").stdout)
    assert as_json["id"] == sessions[1]
    assert as_json["transcript"][0]["role"] == "avatar"
    assert "transcript" not in json.loads(run("show", sessions[1], "--json").stdout)


def test_show_unknown(run: Run) -> None:
    """Show of an unknown session is code 1."""
    done = run("show", AVATAR)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")


# --- close -----------------------------------------------------------------------------------------------------------


def test_close_several(run: Run, server: MockServer) -> None:
    """Close stops several sessions and reports the outcome of each."""
    with LiveAvatarApi(server.api_key, base_url=server.base_url) as api:
        ids = [api.new_session(LiveAvatarNewSessionRequest(avatar_id=AVATAR)).session_id for _ in range(2)]
        unknown = "00000000-0000-4000-8000-000000000000"
        done = run("close", ids[0], unknown, ids[1], ids[0])
        assert done.returncode == 1
        assert done.stdout == f"{ids[0]} stopped\n{ids[1]} stopped\n"
        assert done.stderr == f"Error: {unknown}: 404 (code 4040) Session {unknown} is not known.\n"
        assert server.running_sessions == []
        again = run("close", ids[0])
        assert (again.returncode, again.stdout) == (0, f"{ids[0]} had already ended\n")


def test_close_without_a_service(run: Run) -> None:
    """Close reports that the session may be running if the service cannot be reached."""
    done = run("close", AVATAR, "--base-url", "http://127.0.0.1:9")
    assert done.returncode == 3
    error, *rest = done.stderr.splitlines()
    assert error.startswith(f"Error: Session {AVATAR} may still be running: No response from http://127.0.0.1:9/")
    assert rest == [
        "To stop it, run:",
        f"  liveavatar close --base-url http://127.0.0.1:9 {AVATAR}",
    ]


def test_failed_stop(run: Run, env: dict[str, str]) -> None:
    """A stop that fails is reported once, with the command that stops the session and code 3."""
    with mock_server() as server:
        run.env["LIVEAVATAR_BASE_URL"] = server.base_url
        command = run.start("new", "--sandbox", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert command.stdout
        while b"Enter" not in command.stdout.readline():
            pass
        (session_id,) = server.running_sessions
    command.send_signal(signal.SIGTERM)
    output, said = command.communicate(timeout=WAIT * 3)
    assert command.returncode == 3
    lines = said.decode().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"Error: Session {session_id} may still be running: ")
    assert lines[2] == f"  liveavatar close {session_id}"
    assert "Cost" not in output.decode()


def test_interrupted_close(run: Run) -> None:
    """Close that is interrupted reports that the session may be running."""
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
        f"Error: Session {AVATAR} may still be running: the command was interrupted.\nTo stop it, run:\n  liveavatar"
    )


def test_close_all(run: Run, server: MockServer, sessions: list[str]) -> None:
    """Close --all --yes stops every running session of the account."""
    done = run("close", "--all", "--yes")
    assert done.returncode == 0
    assert {line.removesuffix(" stopped") for line in done.stdout.splitlines()} == set(sessions)
    assert server.running_sessions == []
    assert run("close", "--all", "--yes").stdout == "No session is running.\n"


@pytest.mark.parametrize(("reply", "code"), [("n\n", 1), ("\n", 1), ("y\n", 0)])
def test_close_all_asks(run: Run, server: MockServer, sessions: list[str], reply: str, code: int) -> None:
    """Close --all lists the sessions and asks first; only a yes stops them."""
    terminal = Terminal(run, "close", "--all")
    terminal.until("Stop these 2 sessions? [y/N]")
    assert all(session in terminal.seen for session in sessions)
    assert len(server.running_sessions) == 2
    terminal.type(reply)
    assert terminal.end() == code
    assert len(server.running_sessions) == (2 if code else 0)


# --- recover ---------------------------------------------------------------------------------------------------------

OWNER = f"""
import sys
from liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest, _recovery
from liveavatar.ledger import SqliteLedger
_recovery.RECOVERY_INTERVAL = 3600.0  # the living owner does not recover the session of the dead one during a test
with LiveAvatarApi(ledger=SqliteLedger("ledger.db")) as api:
    print(api.new_session(LiveAvatarNewSessionRequest(avatar_id="{AVATAR}")).session_id, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owners(run: Run) -> Iterator[dict[str, str]]:
    """Return the ids of the sessions of a process that is dead and of one that is alive."""
    with run.start(code=OWNER, **PIPES) as dead, run.start(code=OWNER, **PIPES) as alive:
        assert dead.stdout
        assert alive.stdout
        ids = {"dead": dead.stdout.readline().decode().strip(), "alive": alive.stdout.readline().decode().strip()}
        dead.kill()
        dead.wait(WAIT)
        yield ids
        _, error = alive.communicate(timeout=WAIT)
        assert (alive.returncode, error) == (0, b"")


def test_recover(run: Run, server: MockServer, owners: dict[str, str]) -> None:
    """Recover stops the session of the dead process, and only that."""
    assert set(server.running_sessions) == set(owners.values())
    done = run("recover", "--ledger", "ledger.db")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{owners['dead']} stopped\n", "")
    assert server.running_sessions == [owners["alive"]]
    run.env["LIVEAVATAR_LEDGER"] = "ledger.db"
    again = run("recover")
    assert (again.returncode, again.stdout) == (0, "There is no session to recover.\n")
    assert server.running_sessions == [owners["alive"]]


def test_list_owners(run: Run, owners: dict[str, str]) -> None:
    """List says whose owner is dead, if it has a ledger."""
    other = json.loads(run("new", "--sandbox", "--detach", "--json").stdout)["session_id"]
    listed = [line.split("\t") for line in run("list", "--ledger", "ledger.db").stdout.splitlines()]
    assert {line[0]: line[7] for line in listed} == {owners["dead"]: "dead", owners["alive"]: "alive", other: ""}
    as_json = json.loads(run("list", "--ledger", "ledger.db", "--json").stdout)
    assert {session["id"]: session.get("owner") for session in as_json} == {
        owners["dead"]: "dead",
        owners["alive"]: "alive",
        other: None,
    }
    terminal = Terminal(run, "list", "--ledger", "ledger.db", columns="80")
    assert terminal.end() == 0
    assert re.search(rf"{owners['dead']}.* dead", terminal.seen)
    run("close", other)


def test_recover_fails(run: Run, owners: dict[str, str]) -> None:
    """A stop that fails is code 3, and the message gives its reason."""
    code = (
        "import liveavatar\nfrom liveavatar._operations import Operations\n"
        "async def call_for(operations, session, endpoint, *_, **__):\n"
        "    error = liveavatar.ServerError('503 The service is away.', 503, '')\n"
        "    error.endpoint, error.session_id = endpoint.full_path, session.id\n"
        "    error.session_may_be_running = True\n"
        "    raise error\n"
        f"Operations.call_for = call_for\n{FAST}"
    )
    with run.start("recover", "--ledger", "ledger.db", code=code, **PIPES) as command:
        _, errors = command.communicate(timeout=WAIT)
    assert command.returncode == 3
    assert f"Session {owners['dead']} may still be running: 503 The service is away." in errors.decode()


def test_recover_elsewhere(run: Run, server: MockServer, owners: dict[str, str]) -> None:
    """Recover does not touch the sessions of another service."""
    done = run("recover", "--ledger", "ledger.db", "--base-url", "http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (0, "There is no session to recover.\n")
    assert set(server.running_sessions) == set(owners.values())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["--ledger", "absent.db"], 2),
        (["--ledger", "corrupt.db"], 2),
        (["--ledger", "redis://:secret@127.0.0.1:9"], 1),
    ],
)
def test_recover_without_a_ledger(run: Run, arguments: list[str], code: int) -> None:
    """A ledger that is missing or invalid is code 2, one that does not respond is 1; no password is printed."""
    (run.folder / "corrupt.db").write_text("This is not a database. " * 100)
    done = run("recover", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
    assert not (run.folder / "absent.db").exists()


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_refusal(run: Run, server: MockServer) -> None:
    """A refusal is one line with the message of the service."""
    run.env["LIVEAVATAR_API_KEY"] = "another-key"
    done = run("new", "--sandbox")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: 401 (code 4010) The API key is not valid. Check LIVEAVATAR_API_KEY.\n"


def test_errors_wrap_at_words(run: Run) -> None:
    """On a terminal, an error is wrapped at words, and the command that stops a session is not."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    terminal = Terminal(run, "close", AVATAR, "--base-url", url, columns="60")
    assert terminal.end() == 3
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.seen).splitlines()
    assert lines[-1] == f"  liveavatar close --base-url {url} {AVATAR}"
    assert max(map(len, lines[:-1])) <= 60
    assert "Session" in lines[0]


def test_debug(run: Run) -> None:
    """--debug adds a traceback without secrets, before or after the command."""
    run.env["LIVEAVATAR_API_KEY"] = "another-key"
    for arguments in (["new", "--sandbox", "--debug"], ["--debug", "new", "--sandbox"]):
        done = run(*arguments)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "AuthenticationError" in done.stderr
        assert "another-key" not in done.stderr


def test_no_service(run: Run) -> None:
    """A service that does not respond is code 1; the message names doctor, and how to start a mock server there."""
    done = run("new", "--sandbox", "--base-url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "liveavatar doctor" in done.stderr
    assert "`liveavatar mock --port 9` starts it" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["new"],
        ["new", "--sandbox", "--voice", AVATAR],
        ["new", "--sandbox", "--quality", "best"],
        ["new", "--sandbox", "--max-duration", "0"],
        ["new", "--sandbox", "--base-url", "http://example.com"],
        ["new", "--avatar-id", ""],
        ["new", "--avatar-id", "abc"],
        ["new", "--avatar-id", AVATAR, "--mode", "full", "--voice", "Anna"],
        ["new", "--avatar-id", AVATAR, "--mode", "half"],
        ["new", "--api-key", "secret"],
        ["close"],
        ["close", "abc"],
        ["close", "--all"],
        ["close", "--all", AVATAR],
        ["show", "abc"],
        ["list", "--limit", "0"],
        ["new", "--sandbox", "--wait", "-1"],
        ["new", "--sandbox", "--keep-alive", "--detach"],
        ["mock", "--host", "example.com"],
    ],
    ids=" ".join,
)
def test_usage_errors(run: Run, server: MockServer, arguments: list[str]) -> None:
    """A mistake on the command line is code 2, and nothing is sent."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "[0-9a-f" not in done.stderr
    assert (server.requests["token"], server.requests["stop"]) == (0, 0)


def test_no_key(run: Run) -> None:
    """A missing API key is code 2, and the message says where to set it."""
    del run.env["LIVEAVATAR_API_KEY"]
    done = run("new", "--sandbox")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "Error: there is no API key. Set LIVEAVATAR_API_KEY in the environment or in the file .env of this folder. "
    )


# --- settings --------------------------------------------------------------------------------------------------------


def dotenv(folder: Path, **values: str) -> None:
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))


def test_dotenv(run: Run, server: MockServer) -> None:
    """The file .env of the working folder is read."""
    del run.env["LIVEAVATAR_API_KEY"], run.env["LIVEAVATAR_BASE_URL"]
    dotenv(run.folder, LIVEAVATAR_API_KEY=f'"{server.api_key}"', LIVEAVATAR_BASE_URL=server.base_url)
    assert run("new", "--sandbox").returncode == 0
    assert server.requests["start"] == 1


def test_environment_before_dotenv(run: Run, server: MockServer) -> None:
    """The environment takes precedence over the file .env."""
    dotenv(run.folder, LIVEAVATAR_API_KEY="another-key", LIVEAVATAR_BASE_URL="http://127.0.0.1:9")
    assert run("new", "--sandbox").returncode == 0
    assert server.requests["start"] == 1


def test_dotenv_with_a_foreign_url(run: Run) -> None:
    """A file .env without a key does not send the key of the environment to another host."""
    del run.env["LIVEAVATAR_BASE_URL"]
    dotenv(run.folder, LIVEAVATAR_BASE_URL="https://collector.invalid/v1")
    done = run("new", "--sandbox")
    assert done.returncode == 2
    assert "collector.invalid" in done.stderr


def test_unreadable_dotenv(run: Run) -> None:
    """A file .env that cannot be read is code 2."""
    (run.folder / ".env").write_bytes(b"LIVEAVATAR_API_KEY=\xff\n")
    done = run("new", "--sandbox")
    assert done.returncode == 2
    assert ".env cannot be read" in done.stderr


# --- the rest --------------------------------------------------------------------------------------------------------


def test_doctor_session(run: Run, server: MockServer) -> None:
    """Doctor --session opens and closes a session, and finds nothing wrong with the mock server."""
    done = run("doctor", "--session")
    assert done.returncode == 0, done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}
    assert "and closed" in done.stdout
    assert server.requests == {"token": 1, "start": 1, "stop": 1}
    assert server.running_sessions == []


def test_doctor_starts_nothing(run: Run, server: MockServer) -> None:
    """Doctor starts no session without --session."""
    assert run("doctor").returncode == 0
    assert server.requests == {"token": 1, "start": 0, "stop": 0}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"LIVEAVATAR_API_KEY": "another-key"}, "fail Account   401"),
        ({"LIVEAVATAR_API_KEY": ""}, "fail API key   is not set"),
        ({"LIVEAVATAR_API_KEY": "two words"}, "fail API key   LIVEAVATAR_API_KEY"),
        ({"LIVEAVATAR_API_KEY": "'quoted'"}, "warn API key   has quotes"),
        ({"LIVEAVATAR_BASE_URL": "http://example.com"}, "fail Base URL"),
        ({"LIVEAVATAR_BASE_URL": "https://nowhere.invalid"}, "fail DNS"),
        ({"LIVEAVATAR_BASE_URL": "http://127.0.0.1:9"}, "fail TCP"),
        (
            {"LIVEAVATAR_BASE_URL": "https://nowhere.invalid", "HTTPS_PROXY": "http://me:secret@127.0.0.1:9"},
            "ok   Proxy     127.0.0.1:9, from the environment",
        ),
    ],
    ids=str,
)
def test_doctor_failures(run: Run, settings: Mapping[str, str], line: str) -> None:
    """Doctor names what is wrong."""
    run.env.update(settings)
    done = run("doctor")
    assert done.returncode == 1
    assert line in done.stdout
    assert "secret" not in done.stdout


@pytest.mark.parametrize("path", ["/v2", "/v1/sessions", "/api/v1"])
def test_doctor_wrong_path(run: Run, server: MockServer, path: str) -> None:
    """Doctor names a base URL with a wrong path and suggests the right one."""
    done = run("doctor", "--base-url", server.url + path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == [
        f"fail Base URL  the API is not at {server.url}{path} (404 Not Found)",
        f"{'':<15}Set the base URL to {server.base_url}.",
    ]


def test_doctor_tls_to_plain_http(run: Run, server: MockServer) -> None:
    """Doctor names https:// in the address of a server that speaks plain HTTP."""
    done = run("doctor", "--base-url", f"https://127.0.0.1:{server.port}")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == [
        "fail TLS       the server speaks plain HTTP, but the base URL starts with https://",
        f"{'':<15}Change the base URL to {server.base_url}.",
    ]


def test_doctor_plain_http_to_tls(run: Run, gateway: str) -> None:
    """Doctor names http:// in the address of a server that speaks TLS."""
    done = run("doctor", "--base-url", gateway.replace("https:", "http:"))
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == [
        "fail TLS       the server speaks TLS, but the base URL starts with http://",
        f"{'':<15}Change the base URL to {gateway}/v1.",
    ]


def test_doctor_no_mock_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doctor says how to start a mock server where none listens."""
    done = run("doctor", "--base-url", "http://127.0.0.1:9")
    assert "fail TCP       no server listens at 127.0.0.1:9" in done.stdout
    assert "proxy is needed" not in done.stdout
    monkeypatch.setattr(_doctor, "_MOCK_PORT", 7)  # at the real default, a mock server may run on this machine
    *_, tcp = _doctor._check_connectivity("http://127.0.0.1:9")
    assert "`liveavatar mock --port 9`" in tcp.fix


def test_doctor_finds_a_mock_server(run: Run, server: MockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doctor finds a mock server that runs at its default port although the settings do not name it."""
    monkeypatch.setattr(_doctor, "_MOCK_PORT", server.port)
    assert _doctor._mock_hint(9).startswith(f"A mock server runs at {server.url}")


@pytest.mark.parametrize(
    ("bounds", "state"),
    [(">=1", "ok"), ("<99,>=1", "ok"), ("<99", "ok"), (">=99", "fail"), ("<1,>=0.5", "fail"), ("", "ok")],
)
def test_doctor_libraries(monkeypatch: pytest.MonkeyPatch, bounds: str, state: str) -> None:
    """Doctor names a library that is older or newer than the package accepts."""
    requirements = [f"click{bounds}; extra == 'cli'", "absent>=1; extra == 'mock'"]
    monkeypatch.setattr(_doctor.metadata, "requires", lambda _: requirements)
    result = _doctor._check_libraries()
    assert result.state == state
    assert result.fix == (f"pip install 'click{bounds}'" if state == "fail" else "")


def test_doctor_clock() -> None:
    """Doctor compares the clocks."""
    assert _doctor._check_clock(None).state == "ok"
    assert _doctor._check_clock(format_datetime(datetime.now(UTC))).state == "ok"
    assert _doctor._check_clock("Mon, 01 Jan 2024 00:00:00 GMT").state == "warn"


def test_doctor_on_a_terminal(run: Run) -> None:
    """Doctor wraps its lines on a terminal."""
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


def test_doctor_certificate(run: Run, gateway: str) -> None:
    """Doctor names a certificate that is not trusted."""
    done = run("doctor", "--base-url", gateway)
    assert done.returncode == 1
    assert "fail TLS       the certificate is not trusted" in done.stdout
    assert "SSL_CERT_FILE" in done.stdout


def test_doctor_service_down(run: Run, gateway: str) -> None:
    """Doctor tells failures of the service from those of this machine."""
    run.env["SSL_CERT_FILE"] = str(run.folder / "ca.pem")
    done = run("doctor", "--base-url", gateway)
    assert done.returncode == 1
    for line in (
        "ok   TLS       TLSv1.3",
        "warn HTTP      the service responds with 503",
        "warn Clock",
        "fail Account   503",
    ):
        assert line in done.stdout


def test_mock(run: Run) -> None:
    """Mock runs a mock server until Ctrl-C."""
    with run.start("mock", "--port", "0", "--credits", "5", stdout=subprocess.PIPE) as command:
        assert command.stdout
        assert command.stdout.readline().startswith(b"export LIVEAVATAR_BASE_URL=http://127.0.0.1:")
        command.send_signal(signal.SIGINT)
        assert command.wait(WAIT) == 0


def test_mock_help(run: Run) -> None:
    """The options of the mock server are listed by its own parser, under the name of the command."""
    done = run("mock", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: liveavatar mock [-h]")
    for option in ("--port", "--idle-timeout", "--max-concurrent", "--credits"):
        assert option in done.stdout


def test_demo(run: Run, server: MockServer) -> None:
    """Demo opens sessions and leaves none running."""
    done = run("demo")
    assert done.returncode == 0, done.stderr
    assert server.requests["start"] >= 1
    assert server.running_sessions == []


def test_version_help_completion(run: Run) -> None:
    """--version, --help and shell completion work."""
    assert run("--version").stdout == f"liveavatar {__version__}\n"
    shown = run("--help").stdout
    for code in ("130  Ctrl-C", "3  A session may still be running"):
        assert code in shown
    run.env.update(_LIVEAVATAR_COMPLETE="bash_complete", COMP_WORDS="liveavatar do", COMP_CWORD="1")
    assert run().stdout.split() == ["plain,doctor"]


@pytest.mark.parametrize("command", ["", "new", "list", "show", "close", "recover", "doctor", "demo", "mock"])
def test_help_fits(run: Run, command: str) -> None:
    """The help fits into 80 columns, and no option shows a type that is none of its values."""
    run.env["COLUMNS"] = "80"
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "bool" not in done.stdout
    assert "..." not in done.stdout.replace("SESSION_ID...", "").replace("[ARGS]...", "")


@pytest.mark.parametrize("missing", ["click", "rich", "dotenv"])
def test_missing_extra(missing: str) -> None:
    """Without the extra, the message says what to install."""
    code = f"import sys; sys.modules['{missing}'] = None; from liveavatar.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"liveavatar: the command line needs {missing}, which is not installed: pip install 'liveavatar[cli]'\n"
    )


def test_missing_mock_extra() -> None:
    """Without the extra of the mock server, the message says what to install."""
    code = (
        "import sys; sys.modules['starlette'] = None; sys.argv[1:] = ['mock', '--port', '0'];"
        "from liveavatar.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 2
    assert "pip install 'liveavatar[mock]'" in done.stderr
