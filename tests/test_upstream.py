"""The comparison of the contract with the service's published OpenAPI document."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from scripts import upstream
from tests.contract import load_yaml
from tests.published import FLAG, NUMBER, TEXT, UUID, WHOLE, maybe, published

pytestmark = pytest.mark.scripts

Change = Callable[[dict[str, Any]], object]


def document(tmp_path: Path, change: Change = lambda _: None, name: str = "spec.json") -> Path:
    """Write the published document, changed, to a file."""
    content = published()
    change(content)
    file = tmp_path / name
    file.write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content), encoding="utf-8")
    return file


def schema(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a model of the document."""
    found: dict[str, Any] = content["components"]["schemas"][name]
    return found


def new_rows(output: str) -> list[str]:
    """Return the rows that are not on the list, with single spaces."""
    return [" ".join(row.split()[:-2]) for row in output.splitlines() if row.endswith("NOT LISTED")]


def test_published_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The contract differs from the published facts only as the list says, and the list holds nothing else."""
    assert upstream.main([str(document(tmp_path))]) == 0, capsys.readouterr().out
    output = capsys.readouterr().out
    assert "0 not listed; 0 stale entries" in output
    assert "1 other operations are not part of the contract" in output


def test_yaml(tmp_path: Path) -> None:
    """A document in YAML is read like one in JSON."""
    spec = document(tmp_path, name="spec.yaml")
    assert upstream.main([str(spec)]) == 0
    spec.write_text(re.sub(r"'(\d{3})':", r"\1:", spec.read_text("utf-8")), "utf-8")  # statuses as numbers
    assert upstream.main([str(spec)]) == 0


CHANGES: dict[str, tuple[Change, str]] = {
    "new field of a request": (
        lambda spec: schema(spec, "LiteConfig")["properties"].update(greeting=TEXT),
        "missing POST /v1/sessions/token request greeting string",
    ),
    "new object, named once": (
        lambda spec: schema(spec, "LiteConfig")["properties"].update(cartesia=schema(spec, "Agora")),
        "missing POST /v1/sessions/token request cartesia object",
    ),
    "new required field": (
        lambda spec: (
            schema(spec, "Room")["properties"].update(region=TEXT) or schema(spec, "Room")["required"].append("region")
        ),
        "missing POST /v1/sessions/token request livekit_config.region string, required",
    ),
    "new field of a response": (
        lambda spec: schema(spec, "StartData")["properties"].update(region=TEXT),
        "missing POST /v1/sessions/start response 201 data.region string",
    ),
    "new field in a list": (
        lambda spec: schema(spec, "Line")["properties"].update(language=TEXT),
        "missing GET /v1/sessions/{session_id}/transcript response 200 data.transcript_data[].language string",
    ),
    "new query parameter": (
        lambda spec: spec["paths"]["/v1/sessions"]["get"]["parameters"].append(
            {"name": "tag", "in": "query", "required": True, "schema": TEXT}
        ),
        "missing GET /v1/sessions query tag string, required",
    ),
    "field gone": (
        lambda spec: schema(spec, "StartData")["properties"].pop("ws_url"),
        "only here POST /v1/sessions/start response 201 data.ws_url string",
    ),
    "operation gone": (
        lambda spec: spec["paths"].pop("/v1/sessions/keep-alive"),
        "only here POST /v1/sessions/keep-alive the operation",
    ),
    "type": (
        lambda spec: schema(spec, "StartData")["properties"].update(max_session_duration=NUMBER),
        "changed POST /v1/sessions/start response 201 data.max_session_duration type number there, integer here",
    ),
    "format": (
        lambda spec: schema(spec, "StopSession")["properties"].update(session_id=TEXT),
        "changed POST /v1/sessions/stop request session_id format none there, uuid here",
    ),
    "default": (
        lambda spec: schema(spec, "VideoSettings")["properties"]["quality"].update(default="medium"),
        "changed POST /v1/sessions/token request video_settings.quality default medium there, high here",
    ),
    "default of a body": (
        lambda spec: spec["paths"]["/v1/sessions/stop"]["post"]["requestBody"]["content"]["application/json"][
            "schema"
        ].update(default={"reason": "UNKNOWN"}),
        "changed POST /v1/sessions/stop request default {reason: UNKNOWN} there, {reason: USER_CLOSED} here",
    ),
    "upper limit raised": (
        lambda spec: schema(spec, "Fish")["properties"]["speed"].update(maximum=2),
        "stricter POST /v1/sessions/token request avatar_persona.voice_settings<fish>.speed maximum 2 there, 1.2 here",
    ),
    "upper limit lowered": (
        lambda spec: spec["paths"]["/v1/sessions"]["get"]["parameters"][2]["schema"].update(maximum=50),
        "looser GET /v1/sessions query page_size maximum 50 there, 100 here",
    ),
    "lower limit raised": (
        lambda spec: schema(spec, "OpenAIRealtime")["properties"]["temperature"].update(minimum=0.7),
        "looser POST /v1/sessions/token request openai_realtime_config.temperature minimum 0.7 there, 0.6 here",
    ),
    "limit gone": (
        lambda spec: schema(spec, "ElevenLabs")["properties"]["style"].pop("maximum"),
        "stricter POST /v1/sessions/token request avatar_persona.voice_settings<elevenLabs>.style"
        " maximum none there, 1 here",
    ),
    "value gone": (
        lambda spec: schema(spec, "VideoSettings")["properties"]["encoding"].update(enum=["H264"]),
        "looser POST /v1/sessions/token request video_settings.encoding VP8 allowed only here",
    ),
    "new value": (
        lambda spec: schema(spec, "VideoSettings")["properties"]["encoding"]["enum"].append("AV1"),
        "stricter POST /v1/sessions/token request video_settings.encoding AV1 allowed only there",
    ),
    "required no more": (
        lambda spec: schema(spec, "TokenData").update(required=["session_id"]),
        "stricter POST /v1/sessions/token response 200 data.session_token required only here",
    ),
    "required from now on": (
        lambda spec: schema(spec, "VideoSettings").update(required=["encoding"]),
        "looser POST /v1/sessions/token request video_settings.encoding required only there",
    ),
    "null from now on": (
        lambda spec: schema(spec, "Agora")["properties"].update(agora_uid=maybe(TEXT)),
        "stricter POST /v1/sessions/token request agora_config.agora_uid null allowed only there",
    ),
    "another success status": (
        lambda spec: spec["paths"]["/v1/sessions/start"]["post"]["responses"].update(
            {"200": spec["paths"]["/v1/sessions/start"]["post"]["responses"].pop("201")}
        ),
        "changed POST /v1/sessions/start status 200 there, 201 here",
    ),
    "another credential": (
        lambda spec: spec["paths"]["/v1/sessions/start"]["post"]["security"].append({"Key": []}),
        "stricter POST /v1/sessions/start credentials X-API-KEY allowed only there",
    ),
    "body required": (
        lambda spec: spec["paths"]["/v1/sessions/stop"]["post"]["requestBody"].update(required=True),
        "looser POST /v1/sessions/stop request required only there",
    ),
    "deprecated": (
        lambda spec: schema(spec, "LiteConfig")["properties"]["agora_config"].update(deprecated=True),
        "changed POST /v1/sessions/token request agora_config deprecated only there",
    ),
    "nullable in the manner of OpenAPI 3.0": (
        lambda spec: schema(spec, "Room")["properties"].update(livekit_room={**TEXT, "nullable": True}),
        "stricter POST /v1/sessions/token request livekit_config.livekit_room null allowed only there",
    ),
    "type beside a reference in allOf": (
        lambda spec: (
            schema(spec, "LiteConfig")["properties"].update(
                max_session_duration={"allOf": [{"type": "number"}], "title": "Max Session Duration"}
            )
            or schema(spec, "FullConfig")["properties"].update(max_session_duration=NUMBER)
        ),
        "changed POST /v1/sessions/token request max_session_duration type number there, integer here",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A change at the service fails, and is shown with its place and both values."""
    change, row = CHANGES[name]
    assert upstream.main([str(document(tmp_path, change))]) == 1
    assert row in new_rows(capsys.readouterr().out)


def test_shared_values_stay_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A change of one branch of a union is reported for that branch alone."""
    change, row = CHANGES["upper limit raised"]
    upstream.main([str(document(tmp_path, change))])
    assert new_rows(capsys.readouterr().out) == [row]


def test_stale_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry that describes no difference any more fails, and is named."""
    entries = load_yaml(upstream.DIFFERENCES)
    entry = {"where": "POST /v1/sessions/start status", "difference": "changed: 200 there, 201 here", "reason": "Old."}
    listed = tmp_path / "differences.yaml"
    listed.write_text(yaml.safe_dump([*entries, entry]), "utf-8")
    assert upstream.main([str(document(tmp_path)), "--list", str(listed)]) == 1
    output = capsys.readouterr().out
    assert "STALE: no difference matches 'POST /v1/sessions/start status'" in output
    assert "0 not listed; 1 stale" in output


def test_reason_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each listed difference stands in the table with its reason."""
    upstream.main([str(document(tmp_path))])
    rows = [row for row in capsys.readouterr().out.splitlines() if " request mode " in row]
    assert any("The service still accepts CUSTOM, the former name of LITE." in row for row in rows)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not an OpenAPI 3 document"),
        ("[]", "is not an OpenAPI 3 document"),
        ('{"swagger": "2.0", "paths": {}}', "it has no 'openapi: 3.x'"),
        ('{"openapi": "3.1.0"}', "it has no 'paths'"),
        ("<html>{%</html>: [", "is neither JSON nor YAML: line"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        ('{"openapi": "3.1.0", "paths": {"/v1/sessions/start": {"$ref": "other.yaml#/a"}}}', "out of"),
    ],
)
def test_unusable_document(
    text: str | bytes, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not an OpenAPI document is refused in one line that says why."""
    file = tmp_path / "spec"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    assert upstream.main([str(file)]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("target", ["#/components/schemas/Absent", "#/components/schemas/Agora/absent", "x.json#/a"])
def test_broken_reference(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reference that cannot be followed is named."""
    spec = document(tmp_path, lambda spec: schema(spec, "LiteConfig")["properties"].update(memory={"$ref": target}))
    assert upstream.main([str(spec)]) == 2
    assert repr(target) in capsys.readouterr().err


def test_circular_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """References that lead to each other end in an error, not in a loop."""
    first, second = ({"$ref": f"#/components/schemas/{name}"} for name in ("First", "Second"))
    spec = document(
        tmp_path,
        lambda spec: spec["components"]["schemas"].update(First=second, Second=first, Agora=first),
    )
    assert upstream.main([str(spec)]) == 2
    assert "leads to itself" in capsys.readouterr().err


def test_recursive_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A schema that contains itself is compared once."""
    itself = {"type": "array", "items": {"$ref": "#/components/schemas/Line"}}
    spec = document(tmp_path, lambda spec: schema(spec, "Line")["properties"].update(replies=itself))
    assert upstream.main([str(spec)]) == 1
    place = "GET /v1/sessions/{session_id}/transcript response 200 data.transcript_data[].replies"
    assert new_rows(capsys.readouterr().out) == [f"missing {place} array"]


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that does not exist is named."""
    assert upstream.main([str(tmp_path / "absent.json")]) == 2
    assert "absent.json: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["text", {"where": "*"}, {"where": "*", "difference": "*", "reason": ""}])
def test_incomplete_entry(entry: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry of the list without a reason is refused."""
    listed = tmp_path / "differences.yaml"
    listed.write_text(yaml.safe_dump([entry]), "utf-8")
    assert upstream.main([str(document(tmp_path)), "--list", str(listed)]) == 2
    assert "entry 1: needs where, difference and reason" in capsys.readouterr().err


@pytest.fixture
def website() -> Iterator[str]:
    """Serve the document under /openapi.json, and 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/openapi.json"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(json.dumps(published()).encode() if found else b"")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_url(website: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A document is downloaded from a URL, and a failed download is explained."""
    assert upstream.main([f"{website}/openapi.json"]) == 0
    assert upstream.main([f"{website}/absent.json"]) == 2
    assert "the server responded 404" in capsys.readouterr().err


def test_refused_connection(website: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that cannot be reached is named, with the way to go on without it."""
    assert upstream.main(["http://127.0.0.1:9/openapi.json"]) == 2
    assert "SPEC=FILE compares with a file" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The help explains the verdicts, the list and the exit statuses."""
    with pytest.raises(SystemExit) as ended:
        upstream.main(["--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    for word in ("stricter", "openapi/differences.yaml", upstream.PUBLISHED, "exit status"):
        assert word in output


def test_contract_with_itself() -> None:
    """A document does not differ from itself."""
    content = load_yaml(upstream.CONTRACT)
    sides = (upstream.Document(copy.deepcopy(content), "one"), upstream.Document(content, "two"))
    assert upstream.compare(*sides) == []


def test_facts_are_the_published_types() -> None:
    """The document of these tests is in the published shape: references, titles and unions with null."""
    lite = schema(published(), "LiteConfig")["properties"]
    assert lite["avatar_id"] == {"title": "Avatar Id", **UUID}
    assert lite["max_session_duration"] == {"title": "Max Session Duration", **WHOLE}
    assert lite["is_sandbox"] == {"title": "Is Sandbox", **FLAG, "default": False}
    assert lite["livekit_config"]["anyOf"][1] == {"type": "null"}
