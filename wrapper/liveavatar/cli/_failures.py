"""What can go wrong, told in one line and an exit code; and signals as exceptions, so that sessions are stopped."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from enum import IntEnum
from types import FrameType

from rich.console import Console

from .._redaction import redact
from ..errors import (
    AuthenticationError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    NotFoundError,
)


class ExitCode(IntEnum):
    """What the command's exit code says."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    RUNNING = 3
    SIGNAL = 128  # and the signal's number: 130 for Ctrl-C


class Misconfigured(Exception):  # noqa: N818
    """A setting cannot be used."""


class Interrupted(KeyboardInterrupt):
    """A signal asks the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StillRunning(Exception):  # noqa: N818
    """Sessions may run on; what kept them from being stopped is the cause."""

    def __init__(self, session_ids: Sequence[str], stop: str) -> None:
        super().__init__(f"May still be running, and cost: {' '.join(session_ids)}. Stop it: {stop}")


def raise_signals() -> None:
    """Let what ends a program, a closed terminal included, come as an exception.

    Several within a second are one: impatient keys are not to interrupt the stop that the first has asked for.
    """
    last = -math.inf

    def raise_it(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > 1:
            raise Interrupted(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, raise_it)


def report(error: BaseException, *, debug: bool) -> int:
    """Say on stderr what went wrong, and return the exit code."""
    code, lines = _explain(error)
    with contextlib.suppress(OSError):  # the terminal may be gone
        if debug:
            sys.stderr.write(redact("".join(traceback.format_exception(error))))
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        for line in lines:
            console.print(redact(line), style="yellow" if code > ExitCode.SIGNAL else "red")
    return code


def advised(error: LiveAvatarError) -> str:
    """The service's own words, and what to do, in the command line's terms."""
    if isinstance(error, AuthenticationError):
        return f"{error.status} {error.message.rstrip('.')}. Check LIVEAVATAR_API_KEY."
    if isinstance(error, NotFoundError):
        return f"{error} Check the id."
    return str(error)


def _explain(error: BaseException) -> tuple[int, list[str]]:
    if isinstance(error, StillRunning):
        cause = error.__cause__
        lines = ["Interrupted."] if isinstance(cause, KeyboardInterrupt) else _explain(cause)[1] if cause else []
        return ExitCode.RUNNING, [*lines, str(error)]
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        return ExitCode.SIGNAL + number, ["Interrupted; no session is left running."]
    if isinstance(error, LiveAvatarError):
        hint = ". `liveavatar doctor` looks for the cause." if isinstance(error, LiveAvatarConnectionError) else ""
        return ExitCode.REFUSED, [f"Error: {advised(error)}{hint}"]
    if isinstance(error, Misconfigured | ValueError | TypeError):
        return ExitCode.USAGE, [f"Error: {error}"]
    return ExitCode.REFUSED, [f"Error: {type(error).__name__}: {error}. --debug shows where."]
