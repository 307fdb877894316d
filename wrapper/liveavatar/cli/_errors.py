"""Exit codes, error messages, and signals raised as exceptions so that sessions are stopped."""

from __future__ import annotations

import contextlib
import errno
import math
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from enum import IntEnum
from types import FrameType

from rich.console import Console

from .._redaction import exception_chain, redact
from ..errors import (
    AuthenticationError,
    ConcurrencyLimitError,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    SessionDurationError,
)


class ExitCode(IntEnum):
    """Exit codes of the command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    RUNNING = 3
    SIGNAL = 128
    """Plus the number of the signal: 130 for Ctrl-C."""


_HINTS: dict[type[LiveAvatarApiError], str] = {
    AuthenticationError: "Check LIVEAVATAR_API_KEY.",
    ConcurrencyLimitError: "`liveavatar list` shows the sessions, and `liveavatar new --wait` waits for a free slot.",
    SessionDurationError: "Choose a shorter --max-duration.",
}
"""What to do about an error, where the hint of its class speaks of Python."""


class ConfigurationError(Exception):
    """A setting is missing or invalid."""


class SessionsRunningError(Exception):
    """Sessions may still be running; the cause says why they could not be stopped."""

    def __init__(self, session_ids: Sequence[str], stop_command: str) -> None:
        super().__init__(session_ids, stop_command)
        self.session_ids = session_ids
        self.stop_command = stop_command


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @classmethod
    def by_hangup(cls) -> Interrupted:
        """Return the interruption for a terminal that has been closed."""
        return cls(getattr(signal, "SIGHUP", 1))  # Windows has no SIGHUP


def install_signal_handlers() -> None:
    """Raise `Interrupted` for Ctrl-C, SIGTERM and a closed terminal.

    Signals within a second count as one, so that repeated keys do not interrupt the stop that the first one began.
    """
    last = -math.inf

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        previous, last = last, time.monotonic()
        if last - previous > 1:
            raise Interrupted(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP on purpose
            signal.signal(number, handle)


def report(error: BaseException, *, debug: bool) -> int:
    """Print an error on stderr and return the exit code."""
    code, lines = _explain(error)
    with contextlib.suppress(OSError):  # the terminal may be closed
        if debug:
            sys.stderr.write(redact("".join(traceback.format_exception(error))))
        console = Console(stderr=True, highlight=False, markup=False)
        style = "yellow" if code > ExitCode.SIGNAL else "red"
        for line in lines:
            is_command = line.startswith(" ")  # not wrapped, so that it can be copied
            console.print(
                redact(line), style=None if is_command else style, soft_wrap=is_command or not console.is_terminal
            )
    return code


def user_message(error: LiveAvatarError) -> str:
    """Return the message of an error, with what to do about it on the command line."""
    hint = next((hint for cls, hint in _HINTS.items() if isinstance(error, cls)), None)
    if hint is None or not isinstance(error, LiveAvatarApiError):
        return str(error).replace("base_url", "the base URL").replace("python -m liveavatar.mock", "liveavatar mock")
    code = "" if error.code is None else f" (code {error.code})"
    return f"{error.status}{code} {error.message.rstrip('.')}. {hint}"


def _explain(error: BaseException) -> tuple[int, list[str]]:
    """Return the exit code and the lines to print for an error."""
    if isinstance(error, SessionsRunningError):
        return ExitCode.RUNNING, _still_running(error)
    interruption = _interruption(error)
    if interruption is not None:
        return ExitCode.SIGNAL + interruption.number, ["Interrupted; no session is left running."]
    if isinstance(error, ConfigurationError | ValueError | TypeError) and not isinstance(error, LiveAvatarError):
        return ExitCode.USAGE, [f"Error: {error}"]
    return ExitCode.FAILED, [f"Error: {_reason(error)}"]


def _still_running(error: SessionsRunningError) -> list[str]:
    one = len(error.session_ids) == 1
    what = f"Session {error.session_ids[0]}" if one else f"{len(error.session_ids)} sessions"
    cause = error.__cause__
    if cause is None or _interruption(cause) is not None:
        reason = "." if cause is None else ": the command was interrupted."
    else:
        reason = f": {_reason(cause)}"
    return [
        f"Error: {what} may still be running{reason}",
        f"To stop {'it' if one else 'them'}, run:",
        f"  {error.stop_command}",
    ]


def _reason(error: BaseException) -> str:
    if isinstance(error, LiveAvatarConnectionError):
        return f"{user_message(error).rstrip('.')}. `liveavatar doctor` looks for the cause."
    if isinstance(error, LiveAvatarError):
        return user_message(error)
    return f"{type(error).__name__}: {error}. --debug shows the traceback."


def _interruption(error: BaseException) -> Interrupted | None:
    """Return the signal behind an error: raised itself, or followed by failures to write to a closed terminal."""
    if not isinstance(error, KeyboardInterrupt | OSError):
        return None
    for each in exception_chain(error):
        if isinstance(each, Interrupted):
            return each
        if isinstance(each, KeyboardInterrupt):
            return Interrupted(signal.SIGINT)
    if isinstance(error, OSError) and error.errno == errno.EIO:  # a write to a closed terminal, before its signal
        return Interrupted.by_hangup()
    return None
