"""`python -m tests.faults.soak`: many sessions over one client while the service fails at random.

The service is a process of its own, so that what is measured is the client's: open files, objects that the garbage
collector knows, and memory. They must be as they were after the first tenth; no session may be left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import resource
import subprocess
import sys
import types
import unittest.mock
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveavatar import LiveAvatarError

from tests import processes
from tests.clients import FLAVOURS, client
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import UNMEASURED, FastRetries
from tests.faults.odd_bytes import FORMS
from tests.faults.server import Behaviour, Exchange, FaultServer

ROOT = Path(__file__).parents[2]

AT_ONCE = 10
"""Sessions that are open at the same time, in tasks of the async client."""

MORE_FILES, MORE_OBJECTS, MORE_KILOBYTES = AT_ONCE, 2000, 8192
"""Growth that is still flat: as many connections lie idle as there happened to be sessions at once."""


@dataclass(frozen=True)
class Figures:
    """What a client holds."""

    files: int
    objects: int
    kilobytes: int

    @classmethod
    def now(cls) -> Figures:
        for _ in range(3):
            gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        kilobytes = pages * resource.getpagesize() // 1024
        return cls(len(os.listdir("/proc/self/fd")), len(gc.get_objects()), kilobytes)

    def is_flat_since(self, before: Figures) -> bool:
        return (
            self.files <= before.files + MORE_FILES
            and self.objects <= before.objects + MORE_OBJECTS
            and self.kilobytes <= before.kilobytes + MORE_KILOBYTES
        )


def faults() -> list[Behaviour]:
    """Everything that goes wrong at random, and is over at once."""
    from tests.faults.test_odd_bytes import sends
    from tests.faults.test_random import FAULTS

    stale = [fault.leaves, fault.closes_with_response, fault.speaks_later(b"stray\r\n"), fault.says_too_much(b"stray")]
    return [*FAULTS.values(), *(sends(form) for form in FORMS.values()), *stale]


def serve(seed: int) -> None:
    """Be the service: print its address, and at the end of the input how many sessions run."""
    rng = random.Random(seed)
    behaviours = faults()

    def sometimes_fails(exchange: Exchange) -> None:
        with exchange.server.lock:
            behaviour = rng.choice(behaviours) if rng.random() < 0.15 else fault.normal
            if len(exchange.server.ledger.requests) > 1000:
                exchange.server.ledger.forget_requests()
        behaviour(exchange)

    with FaultServer() as server:
        for endpoint in fault.ENDPOINTS:
            server.on(endpoint, sometimes_fails)
        print(server.url, flush=True)
        sys.stdin.readline()
        print(len(server.running), len(set(server.ledger.starts)) == len(server.ledger.starts), flush=True)


@contextlib.contextmanager
def service(seed: int) -> Iterator[tuple[str, Any]]:
    """The service in a process of its own: its address, and a function that ends it and tells what runs."""
    process = processes.Popen(
        [sys.executable, "-m", "tests.faults.soak", "--serve", "--seed", str(seed)],
        cwd=ROOT,
        env=UNMEASURED,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), lambda: process.communicate("\n", timeout=60)[0].split()
    finally:
        process.kill()
        process.communicate()


def cycles(api: Any, number: int) -> int:
    """Open and close sessions; return how many calls failed."""
    failed = 0

    async def some(share: int) -> None:
        nonlocal failed
        for _ in range(share):
            try:
                async with api.api.session(session_request()):
                    pass
            except LiveAvatarError:
                failed += 1

    async def many() -> None:
        await asyncio.gather(*(some(number // AT_ONCE) for _ in range(AT_ONCE)))

    if hasattr(api, "runner"):
        api.runner.run(many())
    else:
        for _ in range(number):
            try:
                with api.session(session_request()):
                    pass
            except LiveAvatarError:
                failed += 1
    for _ in range(200):  # a stop may fail at random too
        if not api.open_sessions:
            break
        with contextlib.suppress(LiveAvatarError):
            api.close_all_sessions()
    assert api.open_sessions == ()
    return failed


def soak(flavour: str, number: int, seed: int) -> tuple[Figures, Figures, int]:
    """Run so many cycles; return the figures after the first tenth and at the end, and how many calls failed."""
    logger = logging.getLogger("liveavatar")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            service(seed) as (url, end),
            unittest.mock.patch("liveavatar._calls.random", types.SimpleNamespace(uniform=_uniform)),
            unittest.mock.patch("liveavatar._cleanup.CLEANUP_RETRY_DELAYS", (0.01, 0.02, 0.1, 0.5)),
            client(flavour, "CANARY-api-key", base_url=url, timeout=30.0) as api,
        ):
            # In tenths: sessions whose stop failed are closed at once after each, with a connection for each session.
            failed = cycles(api, number // 10)
            before = Figures.now()
            failed += sum(cycles(api, number // 10) for _ in range(9))
            after = Figures.now()
            running, started_once = end()
            assert running == "0", f"{running} sessions run on"
            assert started_once == "True", "a session was started twice"
        return before, after, failed
    finally:
        logger.setLevel(level)


def _uniform(low: float, high: float) -> float:
    return FastRetries().uniform(low, high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.seed)
        return 0
    flat = True
    print(f"{'client':<10}{'cycles':>8}{'failed':>8}{'files':>12}{'objects':>20}{'kilobytes':>20}")
    for flavour in FLAVOURS:
        before, after, failed = soak(flavour, options.cycles, options.seed)
        pairs = ((getattr(before, name), getattr(after, name)) for name in ("files", "objects", "kilobytes"))
        files, objects, kilobytes = (f"{first} -> {last}" for first, last in pairs)
        print(f"{flavour:<10}{options.cycles:>8}{failed:>8}{files:>12}{objects:>20}{kilobytes:>20}", flush=True)
        flat = flat and after.is_flat_since(before)
    print("flat" if flat else "NOT FLAT")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
