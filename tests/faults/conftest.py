"""The fault server for every test here, clients for it, and the report of what is covered."""

from __future__ import annotations

import contextlib
import os
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from liveavatar import LiveAvatarError, SessionTokenNotFoundError, _shutdown

from tests.clients import FLAVOURS, client
from tests.faults.rows import ASYNC_ONLY, ROWS
from tests.faults.server import FaultServer

KEY = "CANARY-api-key"
"""Every secret of these tests begins so, for `canaries.leaks` to find."""

UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
"""An environment without coverage's tracer. A signal that strikes inside its lock would stop the process for good, and
it remembers every thread."""

HERE = Path(__file__).parent
REPORT = HERE.parents[1] / "build" / "fault-matrix.md"


@contextlib.contextmanager
def opened(flavour: str, server: FaultServer | str, **settings: Any) -> Iterator[Any]:
    """A client of the server; at the end its sessions are released and its pool is closed."""
    url = server if isinstance(server, str) else server.url
    key = settings.pop("api_key", KEY)
    api = client(flavour, key, **{"base_url": url, "timeout": 10.0} | settings)
    try:
        yield api
    finally:
        for session_id in api.open_sessions:
            with contextlib.suppress(SessionTokenNotFoundError):
                api.release_session(session_id)
        with contextlib.suppress(LiveAvatarError):
            api.close()
        if hasattr(api, "runner"):
            api.runner.close()


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    """Keep clients that a test leaves open from stopping sessions, and logging that, during a later test."""
    yield
    for leftovers in list(_shutdown._watched):
        leftovers.take("the tests")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def api(flavour: str, server: FaultServer) -> Iterator[Any]:
    """A client of the server with the usual settings."""
    with opened(flavour, server) as made:
        yield made


class FastRetries:
    """Short waits in place of the real ones; `on_wait` is called as each is decided."""

    def __init__(self) -> None:
        self.waits: list[tuple[float, float]] = []
        self.on_wait: Callable[[], object] = lambda: None

    def uniform(self, low: float, high: float) -> float:
        self.waits.append((low, high))
        self.on_wait()
        return low if low < 0.5 else 0.01  # the jitter of a Retry-After stays; a backoff's factor shrinks


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> FastRetries:
    """Backoff in milliseconds. This, with `short_cleanup`, is the one place that makes waits short."""
    fast = FastRetries()
    monkeypatch.setattr("liveavatar._calls.random", types.SimpleNamespace(uniform=fast.uniform))
    return fast


@pytest.fixture
def short_cleanup(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time a stop may take behind the caller's back, shortened."""
    seconds = 0.6
    transports = [f"_transports.{name}" for name in ("_blocking", "_asyncio", "_aiohttp")]
    for module in ("_flows", "_cleanup", "_shutdown", *transports):
        monkeypatch.setattr(f"liveavatar.{module}.CLEANUP_TIMEOUT", seconds)
    return seconds


# ---------------------------------------------------------------------------------------------------------------
# The report: which row is shown by which test, from the tests that ran.

_outcomes: dict[str, dict[str, str]] = defaultdict(dict)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(*ids): the rows of tests/faults/rows.py that the test shows")
    config.addinivalue_line("markers", "observed: the test runs while aiohttp is instrumented")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        rows = [row for mark in item.iter_markers("row") for row in mark.args]
        unknown = [row for row in rows if row not in ROWS]
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: no such row: {unknown}")
        if rows:
            item.user_properties.append(("rows", " ".join(rows)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    rows = dict(report.user_properties).get("rows")
    if rows and (report.when == "call" or not report.passed):
        for row in str(rows).split():
            if _outcomes[row].get(report.nodeid) != "failed":
                _outcomes[row][report.nodeid] = report.outcome


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not _outcomes or session.config.option.collectonly:
        return
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(_report()) + "\n", encoding="utf-8")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _outcomes:
        shown = sum(_verdict(row).startswith("shown") for row in ROWS)
        terminalreporter.write_line(
            f"faults: {shown} of {len(ROWS)} rows shown; see {REPORT.relative_to(HERE.parents[1])}"
        )


def flavours_of(nodeid: str) -> set[str]:
    """The clients a test is about, by its name; both where it names none."""
    inside = nodeid.partition("::")[2]
    return {flavour for flavour in FLAVOURS if flavour in inside} or set(FLAVOURS)


def _verdict(row: str) -> str:
    tests = _outcomes.get(row, {})
    if any(outcome == "failed" for outcome in tests.values()):
        return "FAILED"
    passed = [nodeid for nodeid, outcome in tests.items() if outcome == "passed"]
    if not passed:
        return "not run"
    missing = set(FLAVOURS) - {flavour for nodeid in passed for flavour in flavours_of(nodeid)}
    if row in ASYNC_ONLY:
        missing.discard("blocking")
    return f"not run: {', '.join(sorted(missing))}" if missing else "shown"


def _report() -> Iterator[str]:
    yield "# Faults and the tests that show what happens"
    yield ""
    yield "Written by the test run, from the tests that ran in it."
    yield ""
    yield "| row | fault | verdict | tests |"
    yield "| --- | --- | --- | --- |"
    for row, words in ROWS.items():
        yield f"| {row} | {words} | {_verdict(row)} | {len(_outcomes.get(row, {}))} |"
    for row, words in ROWS.items():
        yield ""
        yield f"## {row} {words}"
        yield ""
        for nodeid, outcome in _outcomes.get(row, {}).items():
            yield f"- {outcome}: `{nodeid.removeprefix('tests/faults/')}`"
        if not _outcomes.get(row):
            yield "- none in this run"
