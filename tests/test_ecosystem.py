"""Instrumentation sees each request of both clients once and no secret, and mocking libraries work in users' tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from liveavatar.mock import MockServer, mock_server


@pytest.fixture
def mock() -> Iterator[MockServer]:
    with mock_server() as mock:
        yield mock


# ---- Instrumentation ---------------------------------------------------------------------------------------

REQUESTS = ["POST token", "POST start", "POST keep-alive", "GET sessions", "POST stop", "POST stop"]
"""The requests of one use of a client, by method and last part of the path. The last stop is refused."""

LOST_START = ["POST token", "POST start", "POST stop"]
"""The requests of a client whose start is lost."""


def short(call: str) -> str:
    method, _, url = call.partition(" ")
    return f"{method} {url.rpartition('/')[2].partition('?')[0]}"


SENTRY_CASES = [
    *[("blocking", moment) for moment in ("before the import", "before the clients", "before the first request")],
    ("blocking", "after the first request"),
    *[("async", moment) for moment in ("before the import", "before the clients", "before the first request")],
]


@pytest.mark.parametrize(("flavour", "moment"), SENTRY_CASES)
def test_sentry(flavour: str, moment: str, mock: MockServer) -> None:
    """Sentry records each request once, whenever it is initialised, and no secret.

    aiohttp's sessions are instrumented when they are created: a caller's session that was created before is not.
    """
    pytest.importorskip("sentry_sdk")
    program = subprocess.run(
        [sys.executable, "-m", "tests.traced", flavour, moment],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"LIVEAVATAR_BASE_URL": mock.base_url, "LIVEAVATAR_API_KEY": mock.api_key},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (program.returncode, program.stderr) == (0, "")
    recorded = json.loads(program.stdout)
    calls = {name: [short(call) for call in calls] for name, calls in recorded["calls"].items()}
    if flavour == "blocking":
        assert calls == {
            "blocking own": REQUESTS,
            "blocking http_client": REQUESTS,
            "blocking spare": LOST_START,
        }
    else:
        assert calls == {
            "async own": REQUESTS,
            "async session": [] if moment == "before the first request" else REQUESTS,
            "async http_client": REQUESTS,
        }
    assert mock.running_sessions == []
    assert len(recorded["errors"]) == len(recorded["calls"])
    events = json.dumps([recorded["calls"], recorded["errors"]])
    secrets = [mock.api_key, *recorded["secrets"]]
    assert len(set(secrets)) >= 5
    assert [secret for secret in secrets if secret in events] == []
