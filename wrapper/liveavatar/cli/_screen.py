"""The terminal, or whatever stands in its place: then plain lines, and nothing that moves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ._doctor import FAIL, OK, WARN, Finding
from ._opened import Opened

_STATES = {OK: "green", WARN: "yellow", FAIL: "bold red"}
_VALUES = {"Session": "bold", "Time left": "cyan", "Cost so far": "cyan"}


class Screen:
    """Where the commands write what they have to say."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False)
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal and _in_front(sys.stdout)

    def say(self, line: str | Text, style: str | None = None) -> None:
        """One line, never broken."""
        self._console.print(line, style=style, soft_wrap=True)

    def busy(self, what: str) -> AbstractContextManager[object]:
        """A spinner while something takes its time."""
        return self._console.status(f"{what} …") if self._live else nullcontext()

    def show(self, opened: Opened) -> None:
        """A session as it is now."""
        if self._live:
            self._console.print(_table(opened))
        else:
            for name, value in opened.rows().items():
                self.say(f"{name:<12} {value}")

    def keep(self, opened: Opened) -> None:
        """Show a session until Enter, the end of the input, or the end of its time; signals raise."""
        asked = _asked_to_end()
        if not self._live:
            self.show(opened)
            self.say("Enter, or the end of the input, stops it.")
            while opened.left() and not asked.wait(min(opened.left(), 1)):
                pass
            return
        hint = Padding(Text("Enter or Ctrl-C stops it.", style="dim"), (0, 0, 0, 2))
        with _no_echo(), Live(console=self._console, auto_refresh=False) as view:
            while opened.left() and not asked.wait(0.2):
                view.update(Group(_table(opened), hint), refresh=True)
            view.update(_table(opened), refresh=True)

    def find(self, finding: Finding) -> None:
        """A line of the doctor's."""
        style = _STATES[finding.state]
        if not self._live:
            self.say(Text.assemble((f"{finding.state:<5}", style), f"{finding.what:<10}", finding.words))
            if finding.fix:
                self.say(f"{'':<15}{finding.fix}")
            return
        line = Table.grid(padding=(0, 1))
        for width in (4, 9, None):
            line.add_column(width=width)
        line.add_row(Text(finding.state, style), finding.what, finding.words)
        if finding.fix:
            line.add_row("", "", Text(finding.fix, "yellow"))
        self._console.print(line)


def open_in_browser(url: str) -> bool:
    """Open a page from a process of its own: what a browser says on a terminal may hold the page's address."""
    code = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.stdin.read()))"
    try:
        done = subprocess.run(  # noqa: S603 (our own Python; the address goes in by stdin)
            [sys.executable, "-c", code],
            input=url,
            text=True,
            timeout=10,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:  # some browsers are only done when they are closed
        return True
    return done.returncode == 0


def _table(opened: Opened) -> Table:
    table = Table(box=box.HORIZONTALS, show_header=False, border_style="dim")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in opened.rows().items():
        table.add_row(name, Text(value, style=_VALUES.get(name, "")))
    return table


def _asked_to_end() -> threading.Event:
    """Set once a line, or the end of the input, has come."""
    asked = threading.Event()
    if sys.stdin is None:
        asked.set()
        return asked
    descriptor = sys.stdin.fileno()

    def read() -> None:
        with contextlib.suppress(OSError):
            while (got := os.read(descriptor, 1024)) and b"\n" not in got:
                pass
            asked.set()

    if not sys.stdin.isatty() or _in_front(sys.stdin):  # to read from a terminal in the background suspends
        threading.Thread(target=read, name="liveavatar-enter", daemon=True).start()
    return asked


def _in_front(stream: Any) -> bool:
    """Whether a stream is a terminal, and this process the one that it serves."""
    if stream is None or not stream.isatty():
        return False
    with contextlib.suppress(OSError):
        if hasattr(os, "tcgetpgrp"):
            return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    return True


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Keep what is typed, Enter above all, from breaking the table."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    if not _in_front(sys.stdin):
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
