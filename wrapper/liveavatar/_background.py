"""Does work in threads that the end of the program waits for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from ._constants import CLEANUP_TIMEOUT

_running: set[threading.Event] = set()
"""One event for each piece of work; it is set when the work has ended."""


def run_in_background(work: Callable[[], None]) -> threading.Event:
    """Do work in a thread that the end of the program waits for, CLEANUP_TIMEOUT at most.

    Returns:
        An event that is set when the work has ended.

    Raises:
        RuntimeError: The interpreter is about to exit, or out of threads.
    """
    done = threading.Event()

    def run() -> None:
        try:
            work()
        finally:
            _running.discard(done)
            done.set()

    _running.add(done)
    try:
        threading.Thread(target=run, name="liveavatar-cleanup", daemon=True).start()
    except RuntimeError:
        _running.discard(done)
        raise
    return done


def wait_for_all(deadline: float) -> None:
    """Wait until all work has ended, also what begins meanwhile; until `deadline` on `time.monotonic` at most."""
    while _running and time.monotonic() < deadline:
        for done in list(_running):
            done.wait(max(0.0, deadline - time.monotonic()))


class BackgroundCalls:
    """Calls of functions in the background, each after those that were begun before."""

    def __init__(self) -> None:
        self._begun: list[threading.Event] = []

    def add(self, function: Callable[[], None]) -> None:
        """Call a function in the background, or at once if no thread can be started."""
        before = self.under_way()

        def call() -> None:
            for each in before:
                each.wait(CLEANUP_TIMEOUT)
            function()

        try:
            self._begun = [*before, run_in_background(call)]
        except RuntimeError:
            function()

    def under_way(self) -> list[threading.Event]:
        """Return the events of the calls that have not ended."""
        return [each for each in self._begun if not each.is_set()]

    def wait(self) -> None:
        """Wait until the calls have ended, CLEANUP_TIMEOUT at most."""
        until = time.monotonic() + CLEANUP_TIMEOUT
        for each in self.under_way():
            each.wait(max(0.0, until - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)  # the threads of the parent do not exist in the child
