"""Fixtures of all tests."""

from __future__ import annotations

import gc
import signal
import sys

import pytest

from tests.clients import FLAVOURS


def pytest_configure() -> None:
    """Undo the signal settings that the tests inherited.

    A process that a script starts in the background ignores SIGINT, and one under nohup ignores SIGHUP. The programs
    that tests start would inherit that in turn, and would not notice the signals that tests send.
    """
    if sys.platform == "win32":
        return
    signals = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    for number in signals:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Keep the garbage collector, which many tests call, from searching through all collected tests each time."""
    gc.freeze()


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """Run the test once with the blocking client and once with the async one."""
    return str(request.param)


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of a real account from the environment."""
    for name in ("LIVEAVATAR_API_KEY", "LIVEAVATAR_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
