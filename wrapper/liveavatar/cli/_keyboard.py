"""Keys typed on the terminal, or the end of standard input, as events."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from enum import Enum, auto
from queue import SimpleQueue
from types import FrameType, ModuleType
from typing import Any

termios: ModuleType | None
try:
    import termios
except ImportError:  # Windows: keys are only read at the end of a line
    termios = None


class Key(Enum):
    """What the user, or the end of the input, asks for."""

    STOP = auto()
    OPEN = auto()
    LINK = auto()
    HANGUP = auto()
    """The terminal has been closed."""


_STOP = {b"\n": Key.STOP, b"\r": Key.STOP}
_KEYS = {**_STOP, b"\x04": Key.STOP, b"o": Key.OPEN, b"l": Key.LINK}


def is_foreground(stream: Any) -> bool:
    """Return whether a stream is a terminal with this process in its foreground."""
    if stream is None or not stream.isatty():
        return False
    with contextlib.suppress(OSError):
        if hasattr(os, "tcgetpgrp"):
            return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    return True


def reads_keys() -> bool:
    """Return whether single keys can be read, without Enter."""
    return termios is not None and is_foreground(sys.stdin)


@contextlib.contextmanager
def read_keys(*, single: bool) -> Iterator[SimpleQueue[Key]]:
    """Yield a queue of what is typed.

    Enter, Ctrl-D and the end of the input stop. Nothing is read from a terminal in whose background the process
    runs, because the read would suspend it.

    Args:
        single: read single keys too, where the terminal allows it.
    """
    events: SimpleQueue[Key] = SimpleQueue()
    if sys.stdin is None:
        events.put(Key.STOP)
        yield events
        return
    if sys.stdin.isatty() and not is_foreground(sys.stdin):
        yield events
        return
    with _single_keys() if single and reads_keys() else nullcontext():
        arguments = (sys.stdin.fileno(), _KEYS if single and reads_keys() else _STOP, events)
        threading.Thread(target=_read, args=arguments, name="liveavatar-keys", daemon=True).start()
        yield events


def _read(descriptor: int, keys: dict[bytes, Key], events: SimpleQueue[Key]) -> None:
    is_terminal = os.isatty(descriptor)
    while True:
        try:
            data = os.read(descriptor, 1024)
        except OSError:
            if is_terminal:
                events.put(Key.HANGUP)
            return  # nohup gives an input that cannot be read, and means that the session goes on
        if not data:
            events.put(Key.HANGUP if is_terminal and not os.isatty(descriptor) else Key.STOP)
            return
        for byte in data:
            if key := keys.get(bytes([byte]).lower()):
                events.put(key)


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Read keys one by one, without Enter, and do not echo them.

    The shell changes the terminal's mode while the process is suspended, so it is set again afterwards.
    """
    assert termios is not None
    saved = termios.tcgetattr(sys.stdin)
    mode = [*saved[:3], saved[3] & ~(termios.ECHO | termios.ICANON), *saved[4:]]

    def set_mode(number: int = 0, frame: FrameType | None = None) -> None:
        if termios is not None and is_foreground(sys.stdin):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, mode)

    set_mode()
    previous = signal.signal(signal.SIGCONT, set_mode)
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, previous)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)
