"""The tests do not depend on the signal settings of the process that starts them."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal dispositions to inherit")

ROOT = Path(__file__).parent.parent
SIGNALS = ("SIGHUP", "SIGINT", "SIGTERM")

SHOW = f"""
import signal
for name in {SIGNALS}:
    number = getattr(signal, name)
    print(name, signal.getsignal(number) is signal.SIG_IGN, number in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
IGNORE = f"""
import os, signal, sys
for name in {SIGNALS}:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name)])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_children_receive_signals() -> None:
    """A program that a test starts neither ignores nor blocks the signals that tests send."""
    shown = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.splitlines() == [f"{name} False False" for name in SIGNALS]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_parent_ignores_signals() -> None:
    """The same holds in each process of a test run whose parent ignores and blocks these signals."""
    plugins = ["-p", "no:cacheprovider", "-p", "no:schemathesis"]  # which takes seconds to import, in each process
    workers = ["-n", "1"] if importlib.util.find_spec("xdist") else []
    test = f"{Path(__file__)}::{test_children_receive_signals.__name__}"
    command = [sys.executable, "-c", IGNORE, "-m", "pytest", "-q", *plugins, *workers, test]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stdout
