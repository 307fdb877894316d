"""Record the cassettes of the tests again: `make record`.

With LIVEAVATAR_API_KEY set, scenarios that cost nothing are recorded against the live service: the free trial,
and errors. All others, and all without a key, are recorded against the mock server. The first line of each cassette
says which. A scenario that fails leaves its cassette unchanged.
"""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from liveavatar import LiveAvatarApi
from liveavatar.mock import mock_server
from liveavatar.testing import vcr_config
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from vcr import VCR  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.test_cassettes import CASSETTES, SCENARIOS, Scenario


class Gateway:
    """Responds in place of the mock server, where a scenario says so."""

    def __init__(self, app: ASGIApp, scenario: Scenario) -> None:
        self.app = app
        self.responses = {f"/v1/sessions/{endpoint}": response for endpoint, response in scenario.gateway.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["path"] in self.responses:
            status, content_type, body = self.responses[scope["path"]]
            app = Response(body, status, {"content-type": content_type})
        await app(scope, receive, send)


@contextmanager
def service(scenario: Scenario, live_key: str | None) -> Iterator[tuple[str, str | None, str]]:
    """Yield what a scenario is recorded against: the API key, the base URL and its name."""
    if live_key and scenario.live:
        yield live_key, LiveAvatarApi.BASE_URL, "the live service"
        return
    key = f"key-{uuid.uuid4()}"
    with mock_server(api_keys=[key], **scenario.settings) as mock:
        mock._service.app.add_middleware(Gateway, scenario=scenario)
        yield key, mock.base_url, "the mock server"


def record(scenario: Scenario, live_key: str | None, folder: Path) -> str:
    """Write the cassette of a scenario. Return the name of what it was recorded against."""
    scratch = folder / f"{scenario.name}.yaml"
    with service(scenario, live_key) as (key, base_url, name), VCR(**vcr_config).use_cassette(str(scratch)):
        used = key if scenario.right_key else f"wrong-{uuid.uuid4()}"
        with LiveAvatarApi(used, base_url=base_url, max_retries=0) as api:
            scenario.play(api)
    text = scratch.read_text("utf-8")
    assert key not in text, "the API key is in the cassette"
    assert used not in text, "the API key is in the cassette"
    head = f"# Recorded {datetime.now(UTC):%Y-%m-%d} against {name} by `make record`.\n"
    (CASSETTES / scratch.name).write_text(head + text, "utf-8", newline="\n")
    return name


def main() -> int:
    """Record all scenarios, and remove cassettes without a scenario."""
    live_key = os.environ.get("LIVEAVATAR_API_KEY", "").strip() or None
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for scenario in SCENARIOS:
            try:
                print(f"{scenario.name}: recorded against {record(scenario, live_key, Path(folder))}", flush=True)
            except Exception as error:
                failed += 1
                print(f"{scenario.name}: not recorded: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    for stale in {*CASSETTES.glob("*.yaml")} - {CASSETTES / f"{scenario.name}.yaml" for scenario in SCENARIOS}:
        stale.unlink()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
