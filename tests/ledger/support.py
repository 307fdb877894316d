"""Entries, ledgers, programs that hold sessions, and a Redis server for the tests of the ledgers."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from liveavatar import ledger
from liveavatar.ledger import Ledger, LedgerEntry, account_id

from tests import processes

LEASE = 3.0
"""Seconds. Short, but long enough that a busy machine does not delay a renewal so long."""

KEY = "CANARY-api-key"
ACCOUNT = account_id(KEY)


def entry(session_id: str) -> LedgerEntry:
    return LedgerEntry(session_id, ACCOUNT, "https://api.liveavatar.com/v1", datetime.now(UTC))


def make(location: str) -> Ledger:
    return make_redis(location) if "://" in location else ledger.SqliteLedger(location)


def make_redis(url: str, *, required: bool = False) -> ledger.RedisLedger:
    """A ledger with a lease that is shorter than users may choose, as the tests wait for it."""
    from liveavatar.ledger import _redis_store  # here, so that programs with SQLite do not load redis

    with mock.patch.object(_redis_store, "_MIN_LEASE", LEASE):
        return ledger.RedisLedger(url, lease=LEASE, required=required)


def alive(of: Ledger) -> dict[str, bool | None]:
    """What the ledger says of each session's owner."""
    return {found.session_id: found.owner_alive for found in of.entries()}


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something that is certain to happen, on a slow machine too."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.02)


class Program:
    """A program of `programs.py` in a process of its own. It prints one line per step."""

    def __init__(self, name: str, location: str, *arguments: str) -> None:
        self.process = processes.Popen(
            [sys.executable, "-m", "tests.ledger.programs", name, location, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def line(self) -> str:
        line = self.output.readline()
        assert line, "the program has ended early"
        return line.strip()

    def write_line(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def rest(self) -> list[str]:
        """What it prints until it ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        lines = self.output.read().split("\n")[:-1]
        assert self.process.wait(60) == 0
        return lines

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> list[str]:
        """Kill it, and return what it has printed since."""
        self.process.kill()
        self.process.wait(60)
        return self.output.read().split("\n")[:-1]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        self.output.close()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


@contextlib.contextmanager
def program(name: str, location: str, *arguments: str) -> Iterator[Program]:
    running = Program(name, location, *arguments)
    try:
        yield running
    finally:
        running.end()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class RedisServer:
    """A redis-server of the tests' own, on a free port of this machine."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.binary = shutil.which("redis-server")
        if self.binary is None:
            import pytest  # here, as the programs need not load it

            pytest.skip("there is no redis-server (Debian: apt-get install redis-server)")
        self.directory = directory
        self.options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self.process is None
        # Persistent, as most servers are: with --save '' it would forget everything when it stops.
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        arguments += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"]
        log = ["--logfile", str(self.directory / "redis.log")]
        self.process = subprocess.Popen([str(self.binary), *arguments, *log, *self.options], stdout=subprocess.DEVNULL)
        try:
            wait_until(self.serves)
        except BaseException:
            self.stop()
            raise

    def serves(self) -> bool:
        """Whether it has loaded its data."""
        import redis

        try:
            return bool(self.do("PING"))
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def stop(self, *, forget: bool = False) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(30)
            self.process = None
        if forget:
            shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
            (self.directory / "appendonly.aof").unlink(missing_ok=True)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def do(self, *command: Any) -> Any:
        """Execute a command past any ledger."""
        import redis

        with redis.Redis(port=self.port, decode_responses=True, socket_timeout=10) as connection:
            return connection.execute_command(*command)
