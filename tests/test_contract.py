"""The contract, and the client that is generated from it."""

import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from liveavatar_client import models
from liveavatar_client.client import AuthenticatedClient, Client
from liveavatar_client.types import Response
from tests.contract import CONTRACT, CONTRACT_FILE, ROOT, load_yaml

PACKAGE = ROOT / "liveavatar_client"
REGISTRY = Registry().with_resource("urn:contract", DRAFT202012.create_resource(CONTRACT))

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
REQUEST = "/components/schemas/LiveAvatarNewSessionRequest"


def fits(schema: str, value: Any) -> bool:
    """Say whether a value fits the schema at this place in the contract."""
    validator = Draft202012Validator(
        {"$ref": f"urn:contract#{schema}"}, registry=REGISTRY, format_checker=FormatChecker()
    )
    return validator.is_valid(value)


def nodes(node: Any = CONTRACT, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in the contract with its place."""
    yield pointer, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from nodes(child, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Return the component that a reference names, or the node itself."""
    while "$ref" in node:
        target: Any = CONTRACT
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = target
    return node


def operations() -> Iterator[dict[str, Any]]:
    """Yield each operation of the contract."""
    for path in CONTRACT["paths"].values():
        yield from path.values()


def examples() -> Iterator[Any]:
    """Yield each example of the contract, with the schema it is an example of."""
    for pointer, node in nodes():
        if not isinstance(node, dict) or "/examples/" in pointer:
            continue
        if "schema" in node:  # a body or a header
            values = [node["example"]] if "example" in node else []
            named = node.get("examples", {}).values()
            values += [CONTRACT["components"]["examples"][n["$ref"].rsplit("/", 1)[1]]["value"] for n in named]
            assert values, f"{pointer} has no example"
            for i, value in enumerate(values):
                yield pytest.param(f"{pointer}/schema", value, id=f"{pointer}-{i}")
        elif isinstance(node.get("examples"), list):  # a schema
            for value in node["examples"]:
                yield pytest.param(pointer, value, id=f"{pointer}-{value}")


# ---- The contract --------------------------------------------------------------------------------


def test_valid():
    """The contract is valid OpenAPI."""
    validate(CONTRACT)


@pytest.mark.parametrize(("schema", "value"), list(examples()))
def test_example(schema, value):
    """Every example fits its schema."""
    assert fits(schema, value)


@pytest.mark.parametrize(
    ("fields", "good"),
    [
        ({"mode": "LITE"}, True),
        ({"mode": "CUSTOM"}, True),
        ({"mode": "LITE", "avatar_persona": None, "livekit_config": None, "video_settings": None}, True),
        ({"mode": "FULL", "avatar_persona": {}}, True),
        ({"mode": "FULL", "voice_agent": {"id": AVATAR}}, True),
        ({"mode": "FULL", "voice_agent": {"id": AVATAR}, "avatar_persona": None}, True),
        ({"mode": "FULL"}, False),
        ({"mode": "FULL", "avatar_persona": None}, False),
        ({"mode": "FULL", "voice_agent": {"id": AVATAR}, "avatar_persona": {}}, False),
        ({"mode": "SOMETHING"}, False),
        ({"mode": "LITE", "avatar_id": "wayne"}, False),
        ({"mode": "LITE", "avatar_id": AVATAR.upper()}, True),
        ({"mode": "LITE", "dynamic_variables": {"x" * 65: "long name"}}, False),
        ({}, True),
        ({"avatar_persona": {}}, True),
        ({"avatar_persona": {}, "voice_agent": {"id": AVATAR}}, False),
        ({"video_settings": {}}, True),
        ({"video_settings": {"quality": "low"}}, True),
        ({"video_settings": {"encoding": "AV1"}}, False),
        ({"max_session_duration": 0}, False),
    ],
)
def test_mode_rules(fields, good):
    """The contract has the rules of the two modes."""
    assert fits(REQUEST, {"avatar_id": AVATAR, **fields}) is good


@pytest.mark.parametrize(
    "field",
    [
        "video_settings", "is_sandbox", "avatar_persona", "livekit_config", "max_session_duration", "agora_config",
        "elevenlabs_agent_config", "openai_realtime_config", "gemini_realtime_config", "voice_agent",
        "interactivity_type", "llm_configuration_id", "dynamic_variables", "memory",
    ],
)  # fmt: skip
def test_null_in_a_request(field):
    """Null means that an optional field is not given."""
    body = {"avatar_id": AVATAR, field: None}
    assert fits(REQUEST, body)
    assert models.LiveAvatarNewSessionRequest.from_dict(body).to_dict() == body


@pytest.mark.parametrize(
    "part",
    [
        {"avatar_persona": {"voice_id": None, "context_id": None, "voice_settings": None, "stt_config": None}},
        {"voice_agent": {"id": AVATAR, "language": None, "dynamic_variables": None}},
        {"memory": {"prev_session_id": None, "session_memory_id": None}},
        {"openai_realtime_config": {"secret_id": AVATAR, "context_id": None}},
        {"gemini_realtime_config": {"secret_id": AVATAR, "context_id": None, "model": None}},
        {
            "elevenlabs_agent_config": {
                "secret_id": AVATAR,
                "agent_id": "a",
                "voice_id": None,
                "dynamic_variables": None,
            }
        },
    ],
)
def test_null_in_a_part_of_a_request(part):
    """Null means the same in the parts of a request."""
    body = {"avatar_id": AVATAR, **part}
    assert fits(REQUEST, body)
    assert within(part, models.LiveAvatarNewSessionRequest.from_dict(body).to_dict())


INFO = {
    "id": AVATAR,
    "created_at": "2026-10-05T09:30:00Z",
    "updated_at": "2026-10-05T09:32:10.25+00:00",
    "duration": 130,
    "source": "API",
    "mode": "LITE",
    "is_sandbox": False,
    "credits_consumed": 2.5,
}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"end_at": None, "end_reason": None},
        {"end_at": "2026-10-05T09:32:10Z", "end_reason": "IDLE_TIMEOUT"},
        {"end_reason": "DISPATCH_FAILED", "source": "KIOSK", "mode": "AUDIO"},
        {"session_id": AVATAR, "avatar": {"id": AVATAR}},
    ],
)
def test_session_info(fields):
    """The record of a session is read with its dates, and keeps values and fields that are not known."""
    info = models.SessionInfo.from_dict(INFO | fields)
    assert fits("/components/schemas/SessionInfo", INFO | fields)
    assert info.created_at == datetime(2026, 10, 5, 9, 30, tzinfo=UTC)
    assert info.updated_at - info.created_at == timedelta(seconds=130.25)
    kept = info.to_dict()
    assert {name: kept[name] for name in fields if name != "end_at"} == {
        name: value for name, value in fields.items() if name != "end_at"
    }


def test_stop_reasons():
    """The ten published reasons can be given with a stop, and none else."""
    assert len(models.StopReason) == 10
    assert not fits("/components/schemas/StopSessionRequest", {"reason": "DISPATCH_FAILED"})


def test_transcript_line_of_an_unknown_role():
    """A role that the service adds does not break a transcript."""
    line = {"role": "narrator", "transcript": "…", "absolute_timestamp": 1, "relative_timestamp": 0}
    transcript = {"session_active": True, "transcript_data": [line]}
    assert fits("/components/schemas/SessionTranscript", transcript)
    assert models.SessionTranscript.from_dict(transcript).transcript_data[0].role == "narrator"


@pytest.mark.parametrize("operation", list(operations()), ids=lambda operation: operation["operationId"])
def test_operation(operation):
    """Every operation documents its success, every kind of error, and the rate limit on both."""
    responses = {name: resolve(each) for name, each in operation["responses"].items()}
    success = "201" if operation["operationId"] == "start_session" else "200"
    assert responses[success] == responses["2XX"]
    assert {"400", "401", "402", "403", "404", "409", "422", "429", "4XX", "500", "5XX"} <= responses.keys()
    for status in (success, "429"):
        assert {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"} <= responses[status][
            "headers"
        ].keys()


def within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    return part == whole


@pytest.mark.parametrize(
    "fields",
    [
        {"not_in_the_contract": {"yet": 1}},
        {"openai_realtime_config": {"secret_id": AVATAR, "voice": "new", "model": "new"}},
        {"gemini_realtime_config": {"secret_id": AVATAR, "voice": "new", "model": "new"}},
        {"avatar_persona": {"language": "tlh", "stt_config": {"provider": "new"}}},
        {"avatar_persona": {"voice_settings": {"provider": "new", "warmth": 3}}},
        {"avatar_persona": {"voice_settings": {"provider": "fish", "model": "s3"}}},
    ],
)
def test_unknown_values(fields):
    """Fields and values that the contract does not list pass through the client."""
    body = {"mode": "LITE", "avatar_id": AVATAR, **fields}
    assert fits(REQUEST, body)
    sent = models.LiveAvatarNewSessionRequest.from_dict(body).to_dict()
    assert within(fields, sent)


@pytest.mark.parametrize("provider", ["elevenLabs", "fish", "other"])
def test_voice_settings(provider):
    """Voice settings are read as those of their provider."""
    persona = models.AvatarPersona.from_dict({"voice_settings": {"provider": provider}})
    assert type(persona.voice_settings).__name__.lower() == f"{provider}VoiceSettings".lower()


def test_no_real_token():
    """No example looks like a real token."""
    assert "eyJ" not in CONTRACT_FILE.read_text("utf-8")


# ---- The generated client ------------------------------------------------------------------------


def marked_secrets() -> set[str]:
    return {p.rsplit("/", 2)[-2] for p, value in nodes() if p.endswith("/format") and value == "password"}


def model_classes() -> list[type[attrs.AttrsInstance]]:
    return [model for name in models.__all__ if attrs.has(model := getattr(models, name))]


def test_models():
    """Every object of the contract is a model of the same name."""
    objects = {name for name, schema in CONTRACT["components"]["schemas"].items() if schema.get("type") == "object"}
    enums = {name for name, schema in CONTRACT["components"]["schemas"].items() if "enum" in schema}
    assert objects | enums == set(models.__all__)


@pytest.mark.parametrize("model", model_classes())
def test_repr_of_a_model(model):
    """The repr of a model shows no secret."""
    secret = marked_secrets() | {"additional_properties"}
    values = {f.name: "s3cret" if f.name in secret else "shown" for f in attrs.fields(model) if f.init}
    instance: Any = model(**values)
    instance.additional_properties = {"token": "s3cret"}
    assert "s3cret" not in repr(instance)
    assert repr(instance).count("shown") == list(values.values()).count("shown")


def test_secrets():
    """The contract marks the known secrets."""
    assert marked_secrets() == {
        "session_token", "livekit_client_token", "livekit_agent_token", "ws_url", "agora_token",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [Client, AuthenticatedClient])
def test_repr_of_a_client(kind):
    """The repr of a client shows no credential."""
    token = {"token": "s3cret"} if kind is AuthenticatedClient else {}
    client = kind("http://test", headers={"X-API-KEY": "s3cret"}, cookies={"id": "s3cret"}, **token)
    with client:
        assert "s3cret" not in repr(client)


def test_repr_of_a_response():
    """The repr of a response shows no secret."""
    data = models.SessionTokenData(session_id=AVATAR, session_token="s3cret")
    response = Response(200, b"s3cret", {"set-cookie": "s3cret"}, models.SessionTokenResponse(1000, data))
    assert "s3cret" not in repr(response)
    assert AVATAR in repr(response)


def test_video_quality_names():
    """Video qualities have their names in both cases."""
    assert models.VideoQuality.high is models.VideoQuality.HIGH
    assert models.VideoQuality.very_high is models.VideoQuality("very_high")
    assert len(models.VideoQuality) == 4


def test_defaults():
    """The defaults of the models are those of the contract."""
    request = models.LiveAvatarNewSessionRequest(avatar_id=AVATAR)
    assert request.to_dict() == {"mode": "LITE", "avatar_id": AVATAR, "is_sandbox": False}
    settings = models.VideoSettings(models.VideoEncoding.VP8)
    assert settings.to_dict() == {"encoding": "VP8", "quality": "high"}


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in files}


def test_generated_header():
    """Every generated file says that it is generated, and how."""
    files = tree(PACKAGE)
    assert {"py.typed", "openapi.yaml", "client.py", "api/sessions/stop_session.py"} <= files.keys()
    for name, text in files.items():
        first = text.splitlines()[0]
        assert first.startswith("# Generated by openapi-python-client"), name
        assert "make generate" in first, name


def test_packaged_contract():
    """The package contains its contract."""
    assert load_yaml(PACKAGE / "openapi.yaml") == CONTRACT


# ---- From contract to client ---------------------------------------------------------------------


def run(script: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True)


@pytest.mark.scripts
def test_drift():
    """The committed client is what the contract gives."""
    result = run("generate.py", "--check")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.scripts
def test_hand_edit(tmp_path, monkeypatch, capsys):
    """A hand edit is found and undone, and other files are not touched.

    What the contract gives is in liveavatar_client/, as `test_drift` shows: it is copied in place of three more runs
    of the generator.
    """

    def copied(contract: Path, package: Path) -> None:
        assert contract == CONTRACT_FILE
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))

    def generates(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, arguments)])
        generate["main"]()
        return capsys.readouterr().out

    generate = runpy.run_path(str(ROOT / "scripts" / "generate.py"))
    monkeypatch.setitem(generate["main"].__globals__, "generate", copied)
    copy = tmp_path / "a folder" / "liveavatar_client"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.py")}
    edited, stale = copy / "models" / "voice_agent.py", copy / "models" / "stale.py"
    edited.write_text(edited.read_text("utf-8").replace("str", "int", 1), "utf-8")
    stale.touch()

    with pytest.raises(SystemExit, match="make generate"):
        generates("--check", "--output", copy)
    assert "voice_agent.py" in capsys.readouterr().out
    assert stale.exists()

    printed = generates("--output", copy)
    name, files = copy.name, len(tree(PACKAGE))
    assert printed.splitlines() == [
        f"removed  {name}/models/stale.py",
        f"changed  {name}/models/voice_agent.py",
        f"{name}: {files} files",
    ]
    assert tree(copy) == tree(PACKAGE)
    after = {path: path.stat().st_mtime_ns for path in copy.rglob("*.py")}
    assert {path for path in before if before[path] != after[path]} == {edited}
    assert generates("--output", copy) == f"{name}: {files} files, none changed\n"


def test_names_of_a_package():
    """A package has its public names before their modules are imported, and no others."""
    assert {*models.__all__} <= {*dir(models)}
    assert all(getattr(models, name).__name__ == name for name in models.__all__)
    assert models.session_info.SessionInfo is models.SessionInfo
    with pytest.raises(AttributeError, match="no attribute 'Avatar'"):
        _ = models.Avatar


def test_broken_module_of_a_package(monkeypatch):
    """The import of a name says why its module cannot be imported."""
    monkeypatch.delitem(vars(models), "SessionPage", raising=False)
    monkeypatch.delitem(vars(sys.modules["liveavatar_client.models.session_page"]), "SessionPage")
    with pytest.raises(ImportError, match=r"session_page cannot be imported: .*SessionPage"):
        _ = models.SessionPage


USE_OF_THE_CHANGED_CLIENT = """
import httpx, liveavatar_client
from liveavatar_client.api.sessions import ping_session
from liveavatar_client.models import LiveAvatarNewSessionRequest, VideoQuality

print(liveavatar_client.__file__)
assert LiveAvatarNewSessionRequest("id", greeting="Hello").to_dict()["greeting"] == "Hello"
assert VideoQuality.ultra is VideoQuality.ULTRA is VideoQuality("ultra")
client = liveavatar_client.AuthenticatedClient("http://test", token="t")
transport = httpx.MockTransport(lambda request: httpx.Response(204 if "ping" in request.url.path else 404))
with httpx.Client(transport=transport, base_url="http://test") as http:
    assert ping_session.sync_detailed(client=client.set_httpx_client(http)).status_code == 204
"""


@pytest.mark.scripts
def test_changed_contract(tmp_path):
    """A changed contract changes the client."""
    changed = load_yaml(CONTRACT_FILE)
    schemas = changed["components"]["schemas"]
    schemas["LiveAvatarNewSessionRequest"]["properties"]["greeting"] = {"type": "string"}
    schemas["VideoQuality"]["enum"].append("ultra")
    changed["paths"]["/v1/sessions/ping"] = {
        "post": {
            "operationId": "ping_session",
            "tags": ["sessions"],
            "security": [{"sessionToken": []}],
            "responses": {"204": {"description": "The session was pinged."}},
        }
    }
    contract = tmp_path / "changed contract.yaml"
    contract.write_text(yaml.safe_dump(changed), "utf-8")
    result = run("generate.py", "--contract", contract, "--output", tmp_path / "liveavatar_client")
    assert result.returncode == 0, result.stderr

    command = [sys.executable, "-W", "error", "-c", USE_OF_THE_CHANGED_CLIENT]
    used = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert used.returncode == 0, used.stderr
    assert used.stdout.startswith(str(tmp_path))


@pytest.mark.scripts
def test_hidden_secret(tmp_path):
    """A secret that cannot be hidden stops the generation."""
    contract = tmp_path / "contract.yaml"
    contract.write_text("components: {schemas: {A: {properties: {lost: {format: password}}}}}", "utf-8")
    package = tmp_path / "liveavatar_client"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    result = run("finish_client.py", contract, cwd=package)
    assert result.returncode != 0
    assert "no `lost` of any model" in result.stderr
