"""Fixtures of all tests."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import certifi
import pytest

from tests.clients import FLAVOURS


def pytest_configure(config: pytest.Config) -> None:
    use_default_signals()
    trust_one_authority(config)


def use_default_signals() -> None:
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


def trust_one_authority(config: pytest.Config) -> None:
    """Let TLS contexts load one certificate in place of certifi's bundle: no test calls a public host.

    The bundle costs each client and each program some 20 ms.
    """
    first, end, _ = Path(certifi.where()).read_text("ascii", "ignore").partition("-----END CERTIFICATE-----\n")
    folder = tempfile.TemporaryDirectory(prefix="liveavatar-tests-")
    config.add_cleanup(folder.cleanup)
    file = Path(folder.name, "authority.pem")
    file.write_text(first + end, "ascii")
    os.environ["SSL_CERT_FILE"] = str(file)
    config.add_cleanup(functools.partial(setattr, certifi, "where", certifi.where))
    certifi.where = lambda: str(file)  # for clients that do not read the environment


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector, which many tests call, from searching through all collected tests each time.

    During the collection it would search again and again, and find next to nothing.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """Run the test once with the blocking client and once with the async one."""
    return str(request.param)


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of a real account from the environment."""
    for name in ("LIVEAVATAR_API_KEY", "LIVEAVATAR_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def unclosed_connections() -> Iterator[None]:
    """Let a test leave connections to the garbage collector, and collect them before the next test begins."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        for thread in threading.enumerate():  # they refer to clients
            if thread.name.startswith("liveavatar-"):
                thread.join(10)
        gc.collect()
