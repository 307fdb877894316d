"""A Celery worker whose tasks leave sessions open: its processes stop them when they end.

Celery is not in the development environment, as its packages need an older python-dateutil. `make interop` runs this.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi, LiveAvatarNewSessionRequest
from liveavatar.mock import MockServer, mock_server

celery = pytest.importorskip("celery")

REQUEST = LiveAvatarNewSessionRequest(avatar_id="7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742")
BROKER = "LIVEAVATAR_TESTS_BROKER"
"""The environment variable with the folder that is the broker."""

app = celery.Celery(__name__, broker="filesystem://")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        f"{name}_folder{end}": os.environ.get(BROKER, "")
        for name, end in (("data", "_in"), ("data", "_out"), ("control", ""))
    },
    task_ignore_result=True,
)
at_import = LiveAvatarApi(os.environ["LIVEAVATAR_API_KEY"]) if BROKER in os.environ else None
kept: list[LiveAvatarApi | AsyncLiveAvatarApi] = []


@app.task  # type: ignore[untyped-decorator]
def leave_session_open(client: str) -> None:
    """Open a session with a client that nothing closes."""
    if client == "async":
        api = AsyncLiveAvatarApi()
        kept.append(api)
        asyncio.run(_open(api))
    else:
        blocking = at_import if client == "created at import" and at_import else LiveAvatarApi()
        kept.append(blocking)
        blocking.new_session(REQUEST)


async def _open(api: AsyncLiveAvatarApi) -> None:
    await api.new_session(REQUEST)


@pytest.fixture
def mock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockServer]:
    with mock_server() as mock:
        monkeypatch.setenv("LIVEAVATAR_BASE_URL", mock.base_url)
        monkeypatch.setenv("LIVEAVATAR_API_KEY", mock.api_key)
        monkeypatch.setenv(BROKER, str(tmp_path))
        yield mock


@pytest.mark.parametrize("client", ["blocking", "created at import", "async"])
@pytest.mark.parametrize("end", ["warm shutdown", "one task per process"])
def test_process_of_a_pool_ends(end: str, client: str, mock: MockServer, tmp_path: Path) -> None:
    """A process of the prefork pool stops its sessions, and names them in a WARNING."""
    options = ["--pool=prefork", "--concurrency=1", "--loglevel=INFO"]
    if end == "one task per process":
        options.append("--max-tasks-per-child=1")
    log = tmp_path / "worker.log"
    with log.open("w") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "--app", "tests.test_celery", "worker", *options],
            cwd=Path(__file__).parents[1],
            stdout=output,
            stderr=output,
        )
    try:
        call = f"from tests.test_celery import leave_session_open; leave_session_open.delay({client!r})"
        subprocess.run([sys.executable, "-c", call], cwd=Path(__file__).parents[1], check=True, timeout=100)
        wait_until(lambda: len(mock.sessions) == 1)
        if end == "warm shutdown":
            wait_until(lambda: "succeeded" in log.read_text())
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=60) == 0
        wait_until(lambda: "Still open when" in log.read_text())
    finally:
        worker.kill()
        worker.wait()
    assert mock.running_sessions == []
    assert f"session {mock.sessions[0].id}. Stopped now." in log.read_text()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.05)
