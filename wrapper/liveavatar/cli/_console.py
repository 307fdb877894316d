"""What the commands print: a live table on a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any, Literal, cast

from rich import box
from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from liveavatar_client.models import SessionInfo, TranscriptLine

from . import _records
from ._doctor import FAIL, OK, WARN, CheckResult
from ._keyboard import is_foreground, reads_keys
from ._session_view import SessionView

_STATES = {OK: "green", WARN: "yellow", FAIL: "bold red"}
_VALUES = {"Session": "bold", "Time left": "cyan", "Cost so far": "cyan"}


class Console:
    """Standard output of a command.

    Args:
        as_json: print JSON objects, one a line, and nothing else.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._console = RichConsole(file=cast(IO[str], _Stdout()), highlight=False, markup=False)
        terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self.is_live = terminal and not as_json and is_foreground(sys.stdout)
        self._display: Live | None = None

    def print(self, line: str | Text, style: str | None = None) -> None:
        """Print a line and leave it to the terminal to wrap it."""
        self._console.print(line, style=style, soft_wrap=True)

    def print_opened(self, view: SessionView, stop_command: str, secrets: dict[str, str]) -> None:
        """Print the JSON object of an open session, or the secrets that the user has asked for."""
        if self.as_json:
            self.print_json(view.opened_json(stop_command) | secrets)
        else:
            for name, value in secrets.items():
                self.print(f"{name}={value}")

    def print_detached(self, view: SessionView, stop_command: str) -> None:
        """Print a session that goes on without this command, and how to stop it."""
        if not self.as_json:
            self._print_session(view)
            self.print(f"The session is still running. To stop it, run:\n  {stop_command}")

    def print_summary(self, view: SessionView) -> None:
        """Print how the session has ended and what it has cost."""
        if self.as_json:
            self.print_json(view.ended_json())
        else:
            self._console.print(view.summary(), style="green", soft_wrap=not self.is_live)

    def print_json(self, value: dict[str, Any] | list[Any]) -> None:
        """Print JSON on one line."""
        self._write(json.dumps(value))

    def status(self, text: str) -> AbstractContextManager[object]:
        """Show a spinner during the block."""
        return self._console.status(f"{text} …") if self.is_live else nullcontext()

    def _print_session(self, view: SessionView) -> None:
        """Print a session as it is now."""
        if self.is_live:
            self._console.print(_table(view))
        else:
            for name, value in view.rows().items():
                self.print(f"{name:<12} {value}")

    @contextlib.contextmanager
    def display(self, view: SessionView) -> Iterator[None]:
        """Show a session during the block: as a table that `refresh` updates, or once as lines."""
        if self.is_live:
            with Live(console=self._console, auto_refresh=False) as self._display:
                try:
                    yield
                finally:
                    self._display.update(_table(view), refresh=True)
                    self._display = None
            return
        if not self.as_json:
            self._print_session(view)
            self.print("Enter, or the end of the input, stops the session.")
        yield

    def refresh(self, view: SessionView, notice: str = "") -> None:
        """Update the table of `display`, with a notice below it."""
        if self._display is None:
            return
        hint = "Enter stops the session"
        hint += ", o opens the room, l prints the room's link." if reads_keys() else "."
        lines = [Text(hint, style="dim"), *([Text(notice, style="yellow")] if notice else [])]
        self._display.update(Group(_table(view), Padding(Group(*lines), (0, 0, 0, 1))), refresh=True)

    def print_sessions(
        self, sessions: Sequence[SessionInfo], *, historic: bool = False, owners: Mapping[str, str] | None = None
    ) -> None:
        """Print a list of sessions: as a table on a terminal, else a line each.

        Args:
            sessions: the sessions.
            historic: whether they have ended.
            owners: state of the owner of each session in a ledger.
        """
        owners = owners or {}
        if self.as_json:
            self.print_json([_records.as_json(session, owners.get(session.id)) for session in sessions])
        elif not self._console.is_terminal:
            for session in sessions:
                self._write(_records.tab_separated(session, owners.get(session.id)))
        elif not sessions:
            self.print("No session has ended." if historic else "No session is running.")
        elif self._console.width < _records.TABLE_WIDTH:
            for session in sessions:
                self.print(session.id, "bold")
                self._console.print(f"  {_records.one_line(session, owners.get(session.id))}")
        else:
            columns, rows = _records.table(sessions, owners, historic=historic)
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
            for name in columns:
                justify: Literal["left", "right"] = "right" if name in ("Time", "Cost") else "left"
                table.add_column(name, justify=justify, style="bold" if name == "Session" else "")
            for row in rows:
                table.add_row(*row)
            self._console.print(table)

    def print_record(self, session: SessionInfo, transcript: Sequence[TranscriptLine] | None = None) -> None:
        """Print what the service records about a session, and what was said in it."""
        if self.as_json:
            said = {} if transcript is None else {"transcript": [line.to_dict() for line in transcript]}
            self.print_json(session.to_dict() | said)
            return
        for name, value in _records.rows(session).items():
            self.print(f"{name:<9} {value}")
        for line in transcript or ():
            self.print(f"{line.role:<9} {line.transcript}")
        if transcript is not None and not transcript:
            self.print("There is no transcript.")

    def _write(self, line: str) -> None:
        """Print a line as it is: rich would expand its tabs."""
        self._console.file.write(f"{line}\n")
        self._console.file.flush()

    def print_check(self, result: CheckResult) -> None:
        """Print a result of `doctor`."""
        style = _STATES[result.state]
        if not self.is_live:
            self.print(Text.assemble((f"{result.state:<5}", style), f"{result.name:<10}", result.message))
            if result.fix:
                self.print(f"{'':<15}{result.fix}")
            return
        row = Table.grid(padding=(0, 1))
        for width in (4, 9, None):
            row.add_column(width=width)
        row.add_row(Text(result.state, style), result.name, result.message)
        if result.fix:
            row.add_row("", "", Text(result.fix, "yellow"))
        self._console.print(row)


class _Stdout:
    """Standard output, which goes nowhere once the terminal has been closed.

    rich writes while it leaves a block and from threads. An error there would hide the signal of the closed terminal.
    """

    def write(self, text: str) -> int:
        with self._until_closed():
            sys.stdout.write(text)
        return len(text)

    def flush(self) -> None:
        with self._until_closed():
            sys.stdout.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    @contextlib.contextmanager
    def _until_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # What is buffered must go somewhere, or the interpreter fails to flush it at its exit.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def _table(view: SessionView) -> Table:
    table = Table(box=box.HORIZONTALS, show_header=False, border_style="dim")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in view.rows().items():
        table.add_row(name, Text(value, style=_VALUES.get(name, "")))
    return table
