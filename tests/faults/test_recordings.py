"""H17. Cassettes that are recorded from a service that speaks in other formats hold no secret."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from liveavatar import LiveAvatarError

from tests.contract import load_yaml
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries, opened
from tests.faults.server import FaultServer

vcr = pytest.importorskip("vcr")
testing = pytest.importorskip("liveavatar.testing")

pytestmark = pytest.mark.row("H17")


def camel(value: Any) -> Any:
    """The same JSON with names in CamelCase."""
    if isinstance(value, dict):
        return {"".join(part.title() for part in name.split("_")): camel(each) for name, each in value.items()}
    return value


def xml(body: dict[str, Any]) -> str:
    return "<data>" + "".join(f"<{name}>{value}</{name}>" for name, value in (body["data"] or {}).items()) + "</data>"


FORMATS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "UTF-16": lambda body: json.dumps(body).encode("utf-16"),
    "UTF-16 without a byte order mark": lambda body: json.dumps(body).encode("utf-16-be"),
    "UTF-32": lambda body: json.dumps(body).encode("utf-32"),
    "UTF-8 with a byte order mark": lambda body: b"\xef\xbb\xbf" + json.dumps(body).encode(),
    "YAML": lambda body: yaml.safe_dump(body).encode(),
    "XML": lambda body: xml(body).encode(),
    "CamelCase": lambda body: json.dumps(camel(body)).encode(),
    "escapes": lambda body: json.dumps(body).replace("CANARY", "\\u0043\\u0041NARY").encode(),
    "an address that is quoted": lambda body: json.dumps(
        body | {"next": quote(f"https://example.com/?access_token={(body['data'] or {}).get('session_token')}")}
    ).encode(),
    "latin-1": lambda body: b"\xe9" + json.dumps(body).encode(),
}


@pytest.mark.parametrize("form", FORMATS)
def test_cassette_holds_no_secret(
    form: str, flavour: str, server: FaultServer, tmp_path: Path, fast_retries: FastRetries
) -> None:
    """Whatever the format of the responses, no secret gets into a cassette."""
    cassette = tmp_path / "cassette.yaml"
    settings = {**testing.vcr_config, "record_mode": "all"}
    with vcr.VCR(**settings).use_cassette(str(cassette)), opened(flavour, server, max_retries=0) as api:
        for on in ("start", "token"):
            server.on(on, fault.replaces(FORMATS[form]), 1)
            with contextlib.suppress(LiveAvatarError):
                api.new_session(session_request())
            with contextlib.suppress(LiveAvatarError):
                api.close_all_sessions()
    recorded = load_yaml(cassette)
    assert len(recorded["interactions"]) >= 3
    for shown in (cassette.read_text("utf-8"), repr(recorded)):
        assert "CANARY" not in shown
        assert "CANARY" not in shown.replace("\\x00", "").replace("\\0", "")
    assert server.running == set()
