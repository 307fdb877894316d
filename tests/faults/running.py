"""Runs a program of tests/faults/endings.py, and tells how it ended."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import processes
from tests.faults.conftest import UNMEASURED
from tests.faults.server import FaultServer

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    output: str
    errors: str
    seconds: float
    """From its word "ending", or else its start, to its end."""

    @property
    def warnings(self) -> list[str]:
        """The WARNING lines of the package's own logger."""
        return [line for line in self.errors.splitlines() if line.startswith("WARNING liveavatar")]


class Program:
    """A program that runs; its output is read as it comes."""

    def __init__(self, name: str, server: FaultServer) -> None:
        self.process = processes.Popen(
            [sys.executable, "-m", "tests.faults.endings", name, server.url],
            cwd=ROOT,
            env=UNMEASURED,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            full_exit=True,
        )
        self.began = time.monotonic()
        self._lines: queue.Queue[str] = queue.Queue()
        self._seen: list[str] = []
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "ending":
                self.began = time.monotonic()
            self._seen.append(line)
            self._lines.put(line.strip())

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.append(self.process.stderr.read())

    def says(self, word: str, timeout: float = 60) -> None:
        """Wait until it has printed this line."""
        deadline = time.monotonic() + timeout
        while self._lines.get(timeout=max(0.0, deadline - time.monotonic())) != word:
            pass

    def tell(self, line: str) -> None:
        """Write a line to its input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(signal.Signals(number))

    def ends(self, timeout: float = 60) -> Ended:
        """Wait for its end; it must come."""
        code = self.process.wait(timeout)
        seconds = time.monotonic() - self.began
        for reader in self._readers:
            reader.join(10)
        return Ended(code, "".join(self._seen), "".join(self._errors), seconds)


@contextlib.contextmanager
def program(name: str, server: FaultServer) -> Iterator[Program]:
    """A program, which is gone when the block ends."""
    running = Program(name, server)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()
        for stream in (running.process.stdin, running.process.stdout, running.process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
