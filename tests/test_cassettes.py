"""What has been recorded replays in both clients, without a network, and holds no secret.

Each scenario below is one cassette. `make record` plays them with the blocking client against a service and writes
the cassettes; here they are replayed by both clients.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import vcr as vcrpy  # type: ignore[import-untyped]
import yaml
from liveavatar import (
    AuthenticationError,
    AvatarPersona,
    BadRequestError,
    BadResponseError,
    ConcurrencyLimitError,
    ConflictError,
    CustomSDKLiveKitConfig,
    InsufficientCreditsError,
    InvalidRequestError,
    LiveAvatarApiError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SessionDurationError,
    VideoEncoding,
    VideoSettings,
    testing,
)
from liveavatar import LiveAvatarNewSessionRequest as Request
from liveavatar.mock import MockServer, _contract, mock_server

from liveavatar_client.models import AgoraConfig
from tests import processes
from tests.clients import client
from tests.contract import CONTRACT, load_yaml

CASSETTES = Path(__file__).parent / "cassettes"

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
WAYNE = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
NOBODY = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"
LITE = Request(avatar_id=AVATAR)
TRIAL = Request(avatar_id=WAYNE, is_sandbox=True)


# ---- Scenarios ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """One cassette: what a client does, and what it is recorded against."""

    name: str
    play: Callable[[Any], None]
    live: bool = False
    """Whether `make record` may play it against the live service: it costs nothing and needs nothing set up there."""
    right_key: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    """The mock server's settings."""
    gateway: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    """Status, content type and body that are answered in the mock server's place, by endpoint."""
    breaks: tuple[str, str] = ("", "")
    """The endpoint, and "request" or "answer": what is not as the contract says, and is there for that."""


SCENARIOS: list[Scenario] = []


def scenario(**facts: Any) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def add(play: Callable[[Any], None]) -> Callable[[Any], None]:
        SCENARIOS.append(Scenario(play.__name__, play, **facts))
        return play

    return add


def error_envelope(status: int, code: int, message: str) -> tuple[int, str, str]:
    return status, "application/json", json.dumps({"code": code, "data": None, "message": message})


@scenario()
def lite(api: Any) -> None:
    request = Request(avatar_id=AVATAR, video_settings=VideoSettings(encoding=VideoEncoding.H264))
    session = api.new_session(request)
    assert session.access_token
    assert session.livekit_agent_token
    assert session.ws_url
    assert session.livekit_url.startswith("wss://")
    assert api.open_sessions == (session.session_id,)
    api.close_session(session.session_id)
    assert api.open_sessions == ()


@scenario(live=True)
def full(api: Any) -> None:
    request = Request(mode="FULL", avatar_id=WAYNE, is_sandbox=True, avatar_persona=AvatarPersona(language="en"))
    session = api.new_session(request)
    assert session.access_token
    assert session.ws_url is None
    api.close_session(session.session_id)


@scenario(live=True)
def trial(api: Any) -> None:
    with api.session(TRIAL) as session:
        assert session.max_session_duration
        assert session.raw_response.data.session_id == session.session_id
    assert api.session_token is None


@scenario()
def own_room(api: Any) -> None:
    room = CustomSDKLiveKitConfig(
        livekit_url="wss://rooms.example.com",
        livekit_room="front-desk",
        livekit_client_token="eyJhbGciOi.eyJ.s",
    )
    session = api.new_session(Request(avatar_id=AVATAR, livekit_config=room))
    assert session.livekit_url == room.livekit_url
    assert session.ws_url
    api.close_session(session.session_id)


@scenario()
def three_sessions(api: Any) -> None:
    one, two, three = (api.new_session(LITE).session_id for _ in range(3))
    assert len({one, two, three}) == 3
    for session_id in (two, three, one):
        api.close_session(session_id)
    assert api.open_sessions == ()


@scenario(live=True)
def stop_with_the_api_key(api: Any) -> None:
    session_id = api.new_session(TRIAL).session_id
    api.stop_session(session_id, reason="USER_CLOSED")
    api.release_session(session_id)


@scenario(live=True)
def keep_alive(api: Any) -> None:
    with api.session(TRIAL) as session:
        api.keep_session_alive(session.session_id)
    with pytest.raises(LiveAvatarApiError, match="ended"):
        api.keep_session_alive(session.session_id)


@scenario()
def lists(api: Any) -> None:
    ids = [api.new_session(LITE).session_id for _ in range(3)]
    found = listed(api, "active", page_size=2)
    assert [each.id for each in found] == ids[::-1]
    assert {(each.mode, each.source, each.is_sandbox) for each in found} == {("LITE", "API", False)}
    for session_id in ids:
        api.close_session(session_id)
    assert listed(api, "active") == []
    ended = listed(api, "historic", avatar_id=AVATAR)
    assert {each.id for each in ended} == set(ids)
    assert all(each.end_at >= each.created_at for each in ended)


def listed(api: Any, kind: str, **filters: Any) -> list[Any]:
    sessions = api.list_sessions(kind, **filters)
    if not hasattr(sessions, "__aiter__"):
        return list(sessions)

    async def collect() -> list[Any]:
        return [session async for session in sessions]

    return list(api.runner.run(collect()))


@scenario()
def record_and_transcript(api: Any) -> None:
    request = Request(mode="FULL", avatar_id=AVATAR, avatar_persona=AvatarPersona(language="en"))
    session_id = api.new_session(request).session_id
    running = api.get_session(session_id)
    assert (running.id, running.mode, running.credits_consumed) == (session_id, "FULL", 2)
    transcript = api.get_session_transcript(session_id, start_timestamp=0)
    assert transcript.session_active
    api.delete_session_events(session_id)
    api.close_session(session_id)
    assert api.get_session(session_id).end_reason
    with pytest.raises(NotFoundError):
        api.get_session(NOBODY)


@scenario(settings={"max_session_duration": 60})
def too_long(api: Any) -> None:
    with pytest.raises(SessionDurationError) as caught:
        api.new_session(Request(avatar_id=AVATAR, max_session_duration=600))
    assert caught.value.max_allowed == 60


@scenario(live=True)
def bad_request(api: Any) -> None:
    with pytest.raises(BadRequestError, match="avatar"):
        api.new_session(Request(avatar_id=AVATAR, is_sandbox=True))


@scenario(live=True, right_key=False)
def wrong_key(api: Any) -> None:
    with pytest.raises(AuthenticationError, match="LIVEAVATAR_API_KEY"):
        api.new_session(TRIAL)


@scenario(settings={"credits": 0})
def no_credits(api: Any) -> None:
    with pytest.raises(InsufficientCreditsError, match="Add credits") as caught:
        api.new_session(LITE)
    assert caught.value.session_may_be_running is False


@scenario(gateway={"token": error_envelope(403, 4030, "Your plan does not include FULL mode.")})
def not_in_the_plan(api: Any) -> None:
    with pytest.raises(PermissionDeniedError, match="Your plan does not include FULL mode"):
        api.new_session(Request(mode="FULL", avatar_id=AVATAR, avatar_persona=AvatarPersona()))


@scenario(settings={"max_concurrent": 1})
def too_many_at_once(api: Any) -> None:
    with api.session(LITE), pytest.raises(ConcurrencyLimitError, match="Close a session"):
        api.new_session(LITE)


@scenario(live=True)
def unknown_session(api: Any) -> None:
    with pytest.raises(NotFoundError) as caught:
        api.stop_session(NOBODY)
    assert caught.value.session_id == NOBODY


@scenario(live=True)
def started_twice(api: Any) -> None:
    token = api.create_session_token(TRIAL).data
    api.start_session(token.session_token)
    with pytest.raises(ConflictError, match="already"):
        api.start_session(token.session_token)
    api.stop_session(token.session_id, token.session_token)


@scenario(breaks=("token", "request"))
def full_without_persona(api: Any) -> None:
    request = Request(avatar_id=AVATAR)
    request["mode"] = "FULL"  # as an item, so that the client sends the request without a check of its mode
    with pytest.raises(InvalidRequestError) as caught:
        api.new_session(request)
    assert caught.value.errors


@scenario(
    gateway={
        "token": (
            422,
            "application/json",
            '{"detail":[{"loc":["body","avatar_id"],"msg":"Input should be a valid UUID","type":"uuid_parsing"}]}',
        )
    }
)
def refused_by_the_framework(api: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"body\.avatar_id: Input should be a valid UUID") as caught:
        api.new_session(LITE)
    assert caught.value.errors == (("body.avatar_id", "Input should be a valid UUID"),)


@scenario(settings={"rate_limit": 1, "clock": lambda: 1000.25})
def too_fast(api: Any) -> None:
    api.create_session_token(LITE)
    with pytest.raises(RateLimitError) as caught:
        api.create_session_token(LITE)
    assert caught.value.retry_after == 1


@scenario(gateway={"token": (500, "text/plain; charset=utf-8", "Internal Server Error")})
def service_fails(api: Any) -> None:
    with pytest.raises(ServerError, match="500 Internal Server Error"):
        api.new_session(LITE)


@scenario(gateway={"start": (502, "text/html", "<html><body><h1>502 Bad Gateway</h1></body></html>")})
def gateway_fails_at_the_start(api: Any) -> None:
    with pytest.raises(ServerError, match="502 Bad Gateway") as caught:
        api.new_session(LITE)
    assert "<" not in str(caught.value)
    assert caught.value.session_may_be_running is False


@scenario(gateway={"token": (200, "text/html", "<html>Back soon</html>")}, breaks=("token", "answer"))
def page_in_place_of_an_answer(api: Any) -> None:
    with pytest.raises(BadResponseError, match="not JSON"):
        api.new_session(LITE)


@scenario(gateway={"start": error_envelope(200, 4000, "The avatar is being trained.")}, breaks=("start", "answer"))
def error_under_success(api: Any) -> None:
    with pytest.raises(LiveAvatarApiError, match="The avatar is being trained") as caught:
        api.new_session(LITE)
    assert (caught.value.status, caught.value.code) == (200, 4000)
    assert caught.value.session_may_be_running is False


# ---- Replay ------------------------------------------------------------------------------------------------


@pytest.fixture
def vcr_config() -> dict[str, Any]:
    return testing.vcr_config


@pytest.fixture
def vcr_cassette_dir() -> str:
    return str(CASSETTES)


@pytest.fixture
def default_cassette_name(request: pytest.FixtureRequest) -> str:
    name: str = request.node.callspec.params["scenario"].name
    return name


@pytest.mark.vcr
@pytest.mark.block_network
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_cassette_replays_in_both_clients(scenario: Scenario, flavour: str, vcr: Any) -> None:
    with client(flavour, "whatever-key", max_retries=0) as api:
        scenario.play(api)
    assert vcr.all_played


# ---- The cassettes themselves ------------------------------------------------------------------------------

RECORDED = {path.stem: path.read_text("utf-8") for path in sorted(CASSETTES.glob("*.yaml"))}
# What must not be found, and an example of it.
SECRETS = {
    "a JWT": (r"eyJ[\w-]{4,}", "string: eyJhbGciOiJIUzI1NiJ9.e30.c2ln"),
    "a bearer token": (r"[Bb]earer (?!\*\*\*)", "- Bearer some-token"),
    "an API key": (r"(?i)x-api-key:\s+- (?!'\*\*\*')", "X-Api-Key:\n      - some-key"),
    "the value of a secret field": (
        r"\"(session_token|livekit_client_token|livekit_agent_token|access_token|agora_token|ws_url)\":\s*\""
        r"(?!\*\*\*)",
        '"ws_url": "wss://events.example.com"',
    ),
    "a socket's address with its credential": (r"wss?://[^\s\"']*[?@]", "wss://events.example.com/?t=1"),
    "a cookie": (r"(?i)cookie:", "Set-Cookie:"),
    "the mock server's usual key": (r"mock-key", "mock-key"),
}


def test_every_scenario_has_its_cassette_and_every_cassette_its_scenario() -> None:
    assert sorted(RECORDED) == sorted(scenario.name for scenario in SCENARIOS)


@pytest.mark.parametrize("name", RECORDED)
def test_a_cassette_says_what_it_was_recorded_against_and_when(name: str) -> None:
    said = r"# Recorded \d{4}-\d\d-\d\d against (the live service|the mock server) by `make record`\."
    assert re.match(said, RECORDED[name])
    assert "http://" not in RECORDED[name], "a mock server is recorded under the address of the live service"


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("what", SECRETS)
def test_no_cassette_holds_a_secret(name: str, what: str) -> None:
    pattern, _ = SECRETS[what]
    assert not re.search(pattern, RECORDED[name])


@pytest.mark.parametrize(("pattern", "example"), SECRETS.values(), ids=SECRETS)
def test_a_secret_would_be_found(pattern: str, example: str) -> None:
    assert re.search(pattern, example)


def recorded_pairs() -> Iterator[Any]:
    for scenario in SCENARIOS:
        pairs = load_yaml(RECORDED.get(scenario.name, "interactions: []"))["interactions"]
        for number, pair in enumerate(pairs, 1):
            path = httpx.URL(pair["request"]["uri"]).path
            endpoint, broken = scenario.breaks
            breaks = broken if path.endswith(f"/{endpoint}") else None
            yield pytest.param(path, pair, breaks, id=f"{scenario.name}-{number}")


@pytest.mark.parametrize(("path", "pair", "breaks"), list(recorded_pairs()))
def test_every_recorded_pair_is_as_the_contract_says_but_for_what_is_to_break_it(
    path: str, pair: dict[str, Any], breaks: str | None
) -> None:
    operation = operation_at(path, pair["request"]["method"])
    assert credential(pair["request"]["headers"]) in allowed_credentials(operation)
    assert bool(request_faults(operation, pair["request"])) == (breaks == "request")
    assert bool(answer_faults(operation, pair["response"])) == (breaks == "answer")


def operation_at(path: str, method: str) -> dict[str, Any]:
    """Return the operation of the contract that a recorded request calls."""
    template = path if path in CONTRACT["paths"] else re.sub(r"/[0-9a-f-]{36}(?=/|$)", "/{session_id}", path)
    operation: dict[str, Any] = CONTRACT["paths"][template][method.lower()]
    return operation


def credential(headers: dict[str, list[str]]) -> str:
    (name,) = headers.keys() & {"x-api-key", "authorization"}
    return str(name)


def allowed_credentials(operation: dict[str, Any]) -> set[str]:
    schemes = CONTRACT["components"]["securitySchemes"]
    named = [schemes[name] for each in operation["security"] for name in each]
    return {scheme.get("name", "authorization").lower() for scheme in named}


def request_faults(operation: dict[str, Any], request: dict[str, Any]) -> list[Any]:
    if "requestBody" not in operation:
        return ["no body is to come"] if request["body"] else []
    return faults(operation["requestBody"], request["headers"]["content-type"][0], request["body"])


def answer_faults(operation: dict[str, Any], response: dict[str, Any]) -> list[Any]:
    status = str(response["status"]["code"])
    answers = operation["responses"]
    answer = answers[status] if status in answers else answers[f"{status[0]}XX"]
    answer = CONTRACT["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
    return faults(answer, response["headers"]["content-type"][0].split(";")[0], response["body"]["string"])


def faults(message: dict[str, Any], media_type: str, text: str) -> list[Any]:
    if media_type not in message["content"]:
        return [f"no {media_type} is to come"]
    reference = message["content"][media_type]["schema"].get("$ref")
    return _contract.violations(reference.rsplit("/", 1)[1], json.loads(text)) if reference else []


# ---- vcr_config --------------------------------------------------------------------------------------------

liveavatar_mock = testing.liveavatar_mock
OWN_ROOM = Request(
    avatar_id=AVATAR,
    livekit_config=CustomSDKLiveKitConfig(
        livekit_url="wss://rooms.example.com", livekit_room="desk", livekit_client_token="room-token-of-the-avatar"
    ),
    agora_config=AgoraConfig(agora_app_id="1", agora_token="agora-\\\"token'", agora_channel="1", agora_uid="1"),
)


def use(path: Path, mode: str) -> Any:
    return vcrpy.VCR(**testing.vcr_config).use_cassette(str(path), record_mode=mode)


def test_what_one_client_records_the_other_replays_with_another_key_and_base_url(
    flavour: str, liveavatar_mock: MockServer, tmp_path: Path
) -> None:
    secrets = {liveavatar_mock.api_key, "room-token-of-the-avatar", "agora-"}

    def play(api: Any) -> None:
        session = api.new_session(LITE)
        secrets.update({api.session_token, session.access_token, session.livekit_agent_token, session.ws_url})
        api.stop_session(session.session_id)
        assert api.new_session(OWN_ROOM).session_id != session.session_id
        with pytest.raises(ConflictError):
            api.stop_session(session.session_id)
        api.release_session(session.session_id)

    with use(tmp_path / "c.yaml", "all"), client(flavour, max_retries=0) as api:
        play(api)
    recorded = (tmp_path / "c.yaml").read_text("utf-8")
    assert [secret for secret in secrets if secret in recorded] == []
    other = {"blocking": "async", "async": "blocking"}[flavour]
    settings = {"base_url": "https://api.liveavatar.com", "max_retries": 0}
    with use(tmp_path / "c.yaml", "none") as cassette, client(other, "my-key", **settings) as api:
        play(api)
    assert cassette.all_played


def test_a_callers_own_httpx_client_records_and_replays_the_same_cassette(
    liveavatar_mock: MockServer, tmp_path: Path
) -> None:
    def play(mode: str, flavour: str, **settings: Any) -> None:
        with use(tmp_path / "c.yaml", mode), client(flavour, **settings) as api, api.session(LITE):
            pass

    with httpx.Client(trust_env=False) as mine:
        play("all", "blocking", http_client=mine)
    play("none", "async")
    play("none", "blocking")


def test_sessions_opened_at_once_stay_apart_in_one_cassette(
    flavour: str, liveavatar_mock: MockServer, tmp_path: Path
) -> None:
    opened: list[str] = []
    with use(tmp_path / "c.yaml", "all"), client(flavour) as api:
        opened = open_at_once(api, 5)
    data = load_yaml(tmp_path / "c.yaml")
    starts = [each for each in data["interactions"] if each["request"]["uri"].endswith("/start")]
    for session_id, start in zip(sorted(opened), sorted(starts, key=session_of), strict=True):
        assert session_of(start) == session_id
        assert start["request"]["headers"]["authorization"] == [f"Bearer ***{session_id}"]

    # Whatever the order they were answered in: each start gets the answer of its own session.
    data["interactions"].sort(key=lambda each: not each["request"]["uri"].endswith("/token"))
    tokens, others = data["interactions"][:5], data["interactions"][5:]
    data["interactions"] = tokens + others[::-1]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(data), "utf-8")
    with use(tmp_path / "c.yaml", "none"), client(flavour) as api:
        assert sorted(open_at_once(api, 5)) == sorted(opened)
        for session_id in opened:
            api.close_session(session_id)


def open_at_once(api: Any, number: int) -> list[str]:
    if hasattr(api, "runner"):

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*(api.api.new_session(LITE) for _ in range(number)))

        return [session.session_id for session in api.runner.run(all_of_them())]
    with ThreadPoolExecutor(number) as pool:
        return [session.session_id for session in pool.map(api.new_session, [LITE] * number)]


def session_of(start: dict[str, Any]) -> str:
    return str(json.loads(start["response"]["body"]["string"])["data"]["session_id"])


def clean_response(body: bytes, **headers: Any) -> dict[str, Any]:
    response = {"status": {"code": 200, "message": "OK"}, "headers": headers, "body": {"string": body}}
    result: dict[str, Any] = testing.vcr_config["before_record_response"](response)
    assert testing.vcr_config["before_record_response"](result) == result, "a second time changes nothing"
    return result


def clean_request(body: Any, uri: str = "https://api.liveavatar.com/v1/sessions/stop", **headers: str) -> Any:
    request = vcrpy.request.Request("POST", uri, body, headers)
    return testing.vcr_config["before_record_request"](request)


def test_headers_that_may_hold_secrets_or_differ_between_clients_are_left_out() -> None:
    request = clean_request(b"", Cookie="a=b", Accept="*/*", **{"Proxy-Authorization": "Basic eA==", "X-API-KEY": "k"})
    assert dict(request.headers) == {"x-api-key": "***"}
    kept = {"Retry-After": ["1"], "x-ratelimit-limit": ["9"], "CONTENT-TYPE": "text/html"}
    response = clean_response(b"", **kept, **{"Set-Cookie": ["id=1"], "Content-Length": ["10"], "Date": ["now"]})
    assert response["headers"] == {"retry-after": ["1"], "x-ratelimit-limit": ["9"], "content-type": ["text/html"]}


def test_an_empty_body_is_the_same_however_a_client_says_it() -> None:
    assert clean_request(None).body is clean_request(b"").body is None


def test_a_credential_that_the_service_quotes_is_masked_too() -> None:
    clean_request(b"", Authorization="Bearer opaque-token-1")
    clean_request(b"", **{"X-API-KEY": "key-of-the-account"})
    body = clean_response(b'{"message":"opaque-token-1 is not a token, key-of-the-account no key"}')["body"]["string"]
    assert body == b'{"message":"*** is not a token, *** no key"}'


SECRET = "s3cret-Value-of-a-token"
QUOTED = "".join(f"%{byte:02X}" for byte in SECRET.encode())
NOT_UNDERSTOOD = {
    "UTF-16": json.dumps({"session_token": SECRET}).encode("utf-16"),
    "UTF-16 without a byte order mark": json.dumps({"session_token": SECRET}).encode("utf-16-le"),
    "UTF-32": json.dumps({"session_token": SECRET}).encode("utf-32"),
    "YAML": f"data:\n  session_token: {SECRET}\n".encode(),
    "YAML with another name": f"data:\n  value: {SECRET}-{SECRET}\n".encode(),
    "XML": f"<data><SessionToken>{SECRET}</SessionToken></data>".encode(),
    "a form": f"session_token={SECRET}&a=b".encode(),
    "a form in CamelCase": f"sessionToken={SECRET}&a=b".encode(),
    "truncated JSON": f'{{"data": {{"session_token": "{SECRET[:12]}'.encode(),
    "JSON lines": f'{{"session_token": "{SECRET}"}}\n{{"a": 1}}'.encode(),
    "JavaScript": f"callback({{sessionToken: '{SECRET}'}})".encode(),
    "a token alone": (SECRET * 2).encode(),
    "a token in quotes": json.dumps(SECRET * 2).encode(),
    "HTML": f"<input name='session-token' value='{SECRET}'>".encode(),
    "binary": b"\xff\xfe\x00" + SECRET.encode(),
    "MessagePack": b"\x81\xadsession_token\xb7" + SECRET.encode(),
}


@pytest.mark.parametrize("form", NOT_UNDERSTOOD)
def test_body_that_is_not_understood_is_left_out(form: str) -> None:
    """A body in which secrets cannot be recognized does not get into a cassette."""
    assert clean_response(NOT_UNDERSTOOD[form])["body"]["string"] == b""
    assert clean_request(NOT_UNDERSTOOD[form]).body is None


def test_body_in_an_unknown_encoding_and_a_stream_are_left_out() -> None:
    """An encoded body, and a body that is streamed, do not get into a cassette."""
    assert clean_response(b"fine", **{"Content-Encoding": ["zz"]})["body"]["string"] == b""
    assert list(clean_request(iter([SECRET.encode()])).body) == []


@pytest.mark.parametrize("text", ["Internal Server Error", "<html><h1>502 Bad Gateway</h1></html>", "Zu früh: später"])
def test_plain_words_are_kept(text: str) -> None:
    """The page of a gateway and a short message are kept: they hold no secret."""
    assert clean_response(text.encode())["body"]["string"].decode() == text


JSON_SECRETS = {
    "snake case": {"session_token": SECRET},
    "camel case": {"data": {"sessionToken": SECRET, "livekitClientToken": SECRET, "wsUrl": f"wss://x/{SECRET}"}},
    "Pascal case": {"Data": [{"LivekitAgentToken": SECRET, "AccessToken": SECRET}]},
    "kebab case": {"session-token": SECRET, "X-Api-Key": SECRET},
    "a list": {"session_token": [SECRET, SECRET]},
    "an echo": {"session_token": SECRET, "message": f"no {SECRET} here"},
    "an echo in a name": {"session_token": SECRET, SECRET: 1},
    "an address": {"url": f"https://meet.example.com/?liveKitUrl=wss://x&token={SECRET}"},
    "a quoted address": {"url": f"https%3A%2F%2Fmeet.example.com%2F%3FliveKitUrl%3Dx%26token%3D{SECRET}"},
    "an address quoted twice": {"url": f"https%253A%252F%252Fmeet.example.com%252F%253Ftoken%253D{SECRET}"},
    "a quoted token": {"session_token": SECRET, "text": f"see {QUOTED}"},
    "JSON in a string": {"text": json.dumps({"session_token": SECRET})},
    "JSON in a string in a string": {"text": json.dumps({"text": json.dumps({"sessionToken": SECRET})})},
}


@pytest.mark.parametrize("form", JSON_SECRETS)
@pytest.mark.parametrize("escaped", [False, True], ids=["plain", "escaped"])
def test_secrets_in_json_are_masked(form: str, escaped: bool) -> None:
    """Secrets in JSON are recognized by their names in any spelling, and masked wherever they are repeated."""
    text = json.dumps(JSON_SECRETS[form])
    if escaped:  # letters too may be written as escapes
        text = text.replace("s3cret", "\\u00733cret").replace("ken", "\\u006ben")
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode()):
        for clean in (clean_response(content)["body"]["string"], clean_request(content).body):
            assert clean
            assert b"3cret" not in clean
            assert QUOTED.encode() not in clean
            json.loads(clean)


@pytest.mark.parametrize(
    "query", ["session_token={0}", "sessionToken={0}&a=b", "a=b&api_key={0}", "X-API-KEY={0}", "next=%3Ftoken%3D{0}"]
)
def test_secrets_in_addresses_are_masked(query: str) -> None:
    """Secrets in the query of an address, or in an address inside it, are masked."""
    uri = clean_request(b"", f"https://api.liveavatar.com/v1/sessions?{query.format(SECRET)}").uri
    assert SECRET not in uri
    assert uri.startswith("https://api.liveavatar.com/v1/sessions?")
    located = clean_response(b"", Location=[f"https://example.com/?{query.format(SECRET)}"])
    if "token" in query.lower():
        assert SECRET not in str(located["headers"])


def test_only_a_mock_server_is_recorded_under_another_address() -> None:
    assert (
        clean_request(b"", "http://[::1]:8080/v1/sessions/stop").uri == "https://api.liveavatar.com/v1/sessions/stop"
    )
    assert clean_request(b"", "http://127.0.0.1:8080/other").uri == "http://127.0.0.1:8080/other"
    assert clean_request(b"", "https://example.com/?token=abcd").uri == "https://example.com/?token=***"


def test_a_token_answer_that_is_odd_is_masked_as_any_other() -> None:
    for data in ('{"session_token":"s3cret-token"}', '{"session_token":"s3cret-token","session_id":1}', "[]", "null"):
        text = clean_response(b'{"data":' + data.encode() + b"}")["body"]["string"]
        assert b"s3cret" not in text


# ---- In the tests of a user --------------------------------------------------------------------------------

CONFTEST = 'pytest_plugins = ["liveavatar.testing"]\n'
USERS_TESTS = """
import pytest
from liveavatar import ConcurrencyLimitError, LiveAvatarApi, LiveAvatarNewSessionRequest

REQUEST = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a", is_sandbox=True)

def test_with_the_mock_server(liveavatar_mock):
    with LiveAvatarApi() as api:
        session = api.new_session(REQUEST)
        assert liveavatar_mock.running_sessions == [session.session_id]
    assert liveavatar_mock.running_sessions == []

@pytest.mark.parametrize("liveavatar_mock", [{"max_concurrent": 1}], indirect=True)
def test_with_a_mock_server_set_up(liveavatar_mock):
    with LiveAvatarApi() as api, api.session(REQUEST), pytest.raises(ConcurrencyLimitError):
        api.new_session(REQUEST)

@pytest.mark.vcr
def test_with_a_cassette():
    with LiveAvatarApi("my-key", max_retries=0) as api, api.session(REQUEST) as session:
        assert session.livekit_url
"""


def users_pytest(folder: Path, *arguments: str, **environment: str) -> str:
    """The output of a user's test run, which must be a success."""
    done = processes.run_pytest("-p", "no:cacheprovider", *arguments, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_one_line_in_a_conftest_brings_the_mock_server_and_cassettes(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST, "utf-8")
    (tmp_path / "test_mine.py").write_text(USERS_TESTS, "utf-8")
    with mock_server(api_keys=["my-key"]) as service:
        users_pytest(tmp_path, "--record-mode=once", LIVEAVATAR_BASE_URL=service.base_url)
    cassette = tmp_path / "cassettes" / "test_mine" / "test_with_a_cassette.yaml"
    assert "my-key" not in cassette.read_text("utf-8")
    assert "3 passed" in users_pytest(tmp_path, "--block-network")


def test_a_vcr_config_of_the_users_own_may_build_on_ours(tmp_path: Path) -> None:
    own = """
from liveavatar.testing import vcr_config as liveavatar_config

@pytest.fixture
def vcr_config():
    return {**liveavatar_config, "record_mode": "none", "mine": True}
"""
    (tmp_path / "conftest.py").write_text(f"import pytest\n{own}\n{CONFTEST}", "utf-8")
    (tmp_path / "test_mine.py").write_text("def test_mine(vcr_config): assert vcr_config['mine']", "utf-8")
    assert "1 passed" in users_pytest(tmp_path)


def test_without_pytest_the_plugin_says_what_to_install() -> None:
    code = "import sys; sys.modules['pytest'] = None; import liveavatar.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'liveavatar[testing]'" in done.stderr.splitlines()[-1]
