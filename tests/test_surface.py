"""Who used the Pipecat client changes an import and goes on: the same names, defaults, bodies, headers and answers."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import liveavatar
import pytest
from liveavatar import (
    AsyncLiveAvatarApi,
    AvatarPersona,
    BadRequestError,
    CustomSDKLiveKitConfig,
    LiveAvatarApi,
    LiveAvatarApiError,
    LiveAvatarError,
    LiveAvatarSessionData,
    LiveAvatarSessionResponse,
    SessionTokenData,
    SessionTokenNotFoundError,
    SessionTokenResponse,
    StandardSessionResponse,
    StopReason,
    VideoEncoding,
    VideoQuality,
    VideoSettings,
    errors,
)
from liveavatar import LiveAvatarNewSessionRequest as Request

from liveavatar_client.types import UNSET
from tests.clients import client

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
ROOM = {"livekit_url": "wss://rooms.example.com", "livekit_room": "desk", "livekit_client_token": "room-token"}


# ---- A service that notes what it is sent ------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """One request as it came over the socket."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each.lower() == name]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def credential(self) -> tuple[str, str]:
        """The one header that says who is calling."""
        (found,) = [(n.lower(), v) for n, v in self.headers if n.lower() in ("x-api-key", "authorization", "cookie")]
        return found


class Wire:
    """A service on 127.0.0.1 that answers well, unless a test says otherwise, and keeps what it was sent."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.answers: dict[str, tuple[int, Any]] = {}
        """Status, and body: text, or what is sent as JSON; by endpoint."""
        self.headers: dict[str, str] = {}
        """Sent with every answer."""
        self.sessions = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"wire": self}))
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Wire:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoints(self) -> list[str]:
        """Which were called, in order."""
        return [request.path.rsplit("/", 1)[1] for request in self.received]

    def answer(self, request: Received) -> tuple[int, Any]:
        endpoint = request.path.rsplit("/", 1)[-1]
        if endpoint in self.answers:
            return self.answers[endpoint]
        if endpoint == "token":
            self.sessions += 1
            data = {"session_id": session_id(self.sessions), "session_token": f"session-token-{self.sessions}"}
            return 200, {"code": 1000, "data": data, "message": "Created"}
        if endpoint == "start":
            number = int(request.header("authorization")[0].rsplit("-", 1)[1])
            return 201, {"code": 1000, "data": started(number), "message": "Started"}
        return 200, {"code": 1000, "data": None, "message": "Stopped"}


class _Handler(BaseHTTPRequestHandler):
    wire: Wire
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # an answer leaves in one piece
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.wire.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        request = Received(self.command, self.path, tuple(self.headers.items()), body)
        self.wire.received.append(request)
        status, content = self.wire.answer(request)
        text = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | self.wire.headers).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if status != 204:
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def session_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def started(number: int) -> dict[str, Any]:
    return {
        "session_id": session_id(number),
        "livekit_url": "wss://rooms.example.com",
        "livekit_client_token": f"client-token-{number}",
        "livekit_agent_token": f"agent-token-{number}",
        "max_session_duration": 600,
        "ws_url": f"wss://events.example.com/{number}?token=t",
    }


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


@pytest.fixture
def api(flavour: str, wire: Wire) -> Iterator[Any]:
    with client(flavour, "the-key", base_url=wire.url) as api:
        yield api
        for session in api.open_sessions:
            api.release_session(session)


# ---- Models ------------------------------------------------------------------------------------------------


def test_the_models_have_the_defaults_of_the_reference() -> None:
    persona = AvatarPersona()
    assert (persona.voice_id, persona.context_id, persona.language) == (None, None, "en")
    assert VideoSettings(encoding=VideoEncoding.H264).quality is VideoQuality.high
    request = Request(avatar_id=AVATAR)
    assert (request.mode, request.is_sandbox) == ("LITE", False)
    assert request.video_settings == VideoSettings(encoding=VideoEncoding.VP8, quality=VideoQuality.high)
    assert request.avatar_persona is None
    assert request.livekit_config is None


@pytest.mark.parametrize(
    ("kind", "required"),
    [
        (Request, "avatar_id"),
        (VideoSettings, "encoding"),
        *[(CustomSDKLiveKitConfig, name) for name in ROOM],
    ],
)
def test_what_the_reference_requires_is_required(kind: Any, required: str) -> None:
    given = {"avatar_id": AVATAR} if kind is Request else {"encoding": "VP8"} if kind is VideoSettings else dict(ROOM)
    kind(**given)
    del given[required]
    with pytest.raises(TypeError, match=required):
        kind(**given)


def test_the_enums_are_strings_with_the_members_of_the_reference() -> None:
    assert [each.value for each in VideoEncoding] == ["H264", "VP8"]
    assert VideoEncoding.H264 == "H264"
    assert {each.value for each in VideoQuality} == {"low", "medium", "high", "very_high"}
    for name in ("low", "medium", "high", "very_high"):
        assert getattr(VideoQuality, name) == name


def test_fields_can_be_written(wire: Wire) -> None:
    request = Request(avatar_id="x")
    request.avatar_id = AVATAR
    request.mode = "FULL"
    request.avatar_persona = AvatarPersona()
    request.avatar_persona.voice_id = "v"
    with client("blocking", "k", base_url=wire.url) as api:
        api.create_session_token(request)
    assert wire.received[0].json["avatar_id"] == AVATAR
    assert wire.received[0].json["avatar_persona"] == {"voice_id": "v", "language": "en"}


def test_the_answers_models_take_keywords() -> None:
    token = SessionTokenResponse(code=1000, data=SessionTokenData(session_id="i", session_token="t"), message="m")
    assert (token.code, token.data.session_id, token.data.session_token, token.message) == (1000, "i", "t", "m")
    data = LiveAvatarSessionData(**started(1))
    answer = LiveAvatarSessionResponse(code=1000, data=data, message="m")
    opened = StandardSessionResponse(
        session_id="i",
        access_token="t",
        livekit_agent_token="a",
        livekit_url="u",
        ws_url="w",
        raw_response=answer,
    )
    assert opened.raw_response.data.ws_url == data.ws_url


# ---- What goes out -----------------------------------------------------------------------------------------

VIDEO = {"encoding": "VP8", "quality": "high"}
PERSONA = AvatarPersona(voice_id="v", context_id="c", language="de")
PLAIN = {"mode": "LITE", "avatar_id": AVATAR, "is_sandbox": False, "video_settings": VIDEO}


def with_item(name: str, value: Any) -> Request:
    request = Request(avatar_id=AVATAR)
    request[name] = value
    return request


BODIES: dict[str, tuple[Request, dict[str, Any]]] = {
    "as it comes": (Request(avatar_id=AVATAR), PLAIN),
    "no video settings": (
        Request(avatar_id=AVATAR, video_settings=None),
        PLAIN | {"video_settings": {"encoding": "VP8"}},
    ),
    "no mode": (Request(avatar_id=AVATAR, mode=None), PLAIN),  # type: ignore[arg-type]
    "mode FULL": (
        Request(avatar_id=AVATAR, mode="FULL", avatar_persona=AvatarPersona()),
        PLAIN | {"mode": "FULL", "avatar_persona": {"language": "en"}},
    ),
    "a whole persona": (
        Request(avatar_id=AVATAR, mode="FULL", avatar_persona=PERSONA),
        PLAIN | {"mode": "FULL", "avatar_persona": {"voice_id": "v", "context_id": "c", "language": "de"}},
    ),
    "a persona of a context": (
        Request(avatar_id=AVATAR, mode="FULL", avatar_persona=AvatarPersona(context_id="c")),
        PLAIN | {"mode": "FULL", "avatar_persona": {"context_id": "c", "language": "en"}},
    ),
    "is_sandbox": (Request(avatar_id=AVATAR, is_sandbox=True), PLAIN | {"is_sandbox": True}),
    "is_sandbox None": (
        Request(avatar_id=AVATAR, is_sandbox=None),
        {name: value for name, value in PLAIN.items() if name != "is_sandbox"},
    ),
    "an own room": (
        Request(avatar_id=AVATAR, livekit_config=CustomSDKLiveKitConfig(**ROOM)),
        PLAIN | {"livekit_config": ROOM},
    ),
    "other video": (
        Request(avatar_id=AVATAR, video_settings=VideoSettings(encoding=VideoEncoding.H264, quality=VideoQuality.low)),
        PLAIN | {"video_settings": {"encoding": "H264", "quality": "low"}},
    ),
    "the default quality": (
        Request(avatar_id=AVATAR, video_settings=VideoSettings(encoding=VideoEncoding.H264)),
        PLAIN | {"video_settings": {"encoding": "H264", "quality": "high"}},
    ),
    "plain strings for enums": (
        Request(
            avatar_id=AVATAR,
            video_settings=VideoSettings(encoding="H264", quality="very_high"),  # type: ignore[arg-type]
        ),
        PLAIN | {"video_settings": {"encoding": "H264", "quality": "very_high"}},
    ),
    "dicts for parts": (
        Request(avatar_id=AVATAR, video_settings=VIDEO, livekit_config=ROOM),  # type: ignore[arg-type]
        PLAIN | {"livekit_config": ROOM},
    ),
    "a field of the contract": (
        Request(avatar_id=AVATAR, max_session_duration=60),
        PLAIN | {"max_session_duration": 60},
    ),
    "a field nobody knows yet": (with_item("greeting", {"text": "Hi"}), PLAIN | {"greeting": {"text": "Hi"}}),
}


@pytest.mark.parametrize(("request_data", "body"), BODIES.values(), ids=BODIES)
def test_create_token_sends_the_body_of_the_reference(
    api: Any, wire: Wire, request_data: Request, body: dict[str, Any]
) -> None:
    before = repr(request_data)
    api.create_session_token(request_data)
    assert wire.received[0].json == body
    assert repr(request_data) == before, "the caller's request is the caller's"


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda request: pickle.loads(pickle.dumps(request))])
def test_a_copy_of_a_request_is_as_good_as_the_request(api: Any, wire: Wire, twin: Any) -> None:
    api.create_session_token(twin(Request(avatar_id=AVATAR)))
    assert wire.received[0].json == PLAIN


def test_every_request_has_one_credential_and_the_headers_of_the_reference(api: Any, wire: Wire) -> None:
    session = api.new_session(Request(avatar_id=AVATAR))
    api.stop_session(session.session_id, "session-token-1")
    api.stop_session(session.session_id)
    token, start, stop, stop_by_key = wire.received
    assert {request.method for request in wire.received} == {"POST"}
    assert [request.path for request in wire.received] == [
        "/v1/sessions/token",
        "/v1/sessions/start",
        "/v1/sessions/stop",
        "/v1/sessions/stop",
    ]
    assert token.credential == stop_by_key.credential == ("x-api-key", "the-key")
    assert start.credential == stop.credential == ("authorization", "Bearer session-token-1")
    for request in wire.received:
        assert request.header("accept") == ["application/json"]
        assert request.header("content-type") == (["application/json"] if request.body else [])
        assert request.header("transfer-encoding") == []
    assert start.body == b""
    assert stop.json == stop_by_key.json == {"session_id": session.session_id}


@pytest.mark.parametrize("reason", ["USER_CLOSED", StopReason.USER_CLOSED])
def test_a_stop_may_give_its_reason(api: Any, wire: Wire, reason: Any) -> None:
    api.stop_session(session_id(1), "t", reason=reason)
    assert wire.received[0].json == {"session_id": session_id(1), "reason": "USER_CLOSED"}


@pytest.mark.parametrize("written", ["{}", "{}/", "{}/v1", "{}/v1/"])
@pytest.mark.parametrize("given", ["argument", "environment"])
def test_a_base_url_may_be_written_in_several_ways(
    flavour: str, wire: Wire, written: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_url = written.format(wire.url)
    if given == "environment":
        monkeypatch.setenv("LIVEAVATAR_BASE_URL", base_url)
    with client(flavour, "k", base_url=base_url if given == "argument" else None) as api:
        api.create_session_token(Request(avatar_id=AVATAR))
    assert wire.received[0].path == "/v1/sessions/token"


def test_a_base_url_with_a_path_keeps_it(flavour: str, wire: Wire) -> None:
    with client(flavour, "k", base_url=f"{wire.url}/proxy/v2") as api:
        api.create_session_token(Request(avatar_id=AVATAR))
    assert wire.received[0].path == "/proxy/v2/sessions/token"


def test_the_base_url_is_the_live_service_and_a_constant_of_the_class(flavour: str) -> None:
    kind = LiveAvatarApi if flavour == "blocking" else AsyncLiveAvatarApi
    assert kind.BASE_URL == "https://api.liveavatar.com/v1"
    with client(flavour, "k") as api:
        assert kind.BASE_URL in repr(api)


@pytest.mark.parametrize("key", ["the-key", " the-key\n", "the-key\r\n"])
@pytest.mark.parametrize("given", ["argument", "environment"])
def test_blanks_around_a_key_are_no_part_of_it(
    flavour: str, wire: Wire, key: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_API_KEY", key if given == "environment" else "another")
    arguments = (key,) if given == "argument" else ()
    with client(flavour, *arguments, base_url=wire.url) as api:
        api.create_session_token(Request(avatar_id=AVATAR))
    assert wire.received[0].credential == ("x-api-key", "the-key")


# ---- What comes back ---------------------------------------------------------------------------------------


def test_each_method_returns_what_the_service_said(api: Any) -> None:
    token = api.create_session_token(Request(avatar_id=AVATAR))
    assert isinstance(token, SessionTokenResponse)
    assert (token.code, token.message) == (1000, "Created")
    assert (token.data.session_id, token.data.session_token) == (session_id(1), "session-token-1")

    answer = api.start_session("session-token-1")
    assert isinstance(answer, LiveAvatarSessionResponse)
    assert (answer.code, answer.message) == (1000, "Started")
    assert {name: getattr(answer.data, name) for name in started(1)} == started(1)

    stopped = api.stop_session(session_id(1), "session-token-1")
    assert (stopped.code, stopped.data, stopped.message) == (1000, None, "Stopped")


def test_an_open_session_has_the_fields_of_the_reference_and_more(api: Any) -> None:
    session = api.new_session(Request(avatar_id=AVATAR))
    assert isinstance(session, StandardSessionResponse)
    assert session.session_id == session_id(1)
    assert session.access_token == "client-token-1"
    assert session.livekit_agent_token == "agent-token-1"
    assert session.livekit_url == "wss://rooms.example.com"
    assert session.ws_url == "wss://events.example.com/1?token=t"
    assert session.max_session_duration == 600
    assert session.raw_response.code == 1000
    assert session.raw_response.data.livekit_client_token == "client-token-1"


def test_the_meeting_page_has_server_and_token_filled_in(api: Any) -> None:
    page = urlsplit(api.new_session(Request(avatar_id=AVATAR)).meet_url)
    assert (page.scheme, page.netloc, page.path) == ("https", "meet.livekit.io", "/custom")
    assert parse_qs(page.query) == {"liveKitUrl": ["wss://rooms.example.com"], "token": ["client-token-1"]}


def test_no_token_shows_in_a_repr(api: Any) -> None:
    session = api.new_session(Request(avatar_id=AVATAR))
    token = api.create_session_token(Request(avatar_id=AVATAR))
    shown = f"{session!r}{session.raw_response!r}{token!r}{api!r}"
    assert session_id(1) in shown
    assert not re.search(r"(client|agent|session)-token-|events\.example|meet\.livekit|the-key", shown)


@pytest.mark.parametrize("missing", [{}, {"livekit_agent_token": None, "ws_url": None, "max_session_duration": None}])
def test_what_the_service_does_not_always_send_may_be_missing(api: Any, wire: Wire, missing: dict[str, None]) -> None:
    required = {name: started(1)[name] for name in ("session_id", "livekit_url", "livekit_client_token")}
    wire.answers["start"] = 201, {"code": 100, "data": required | missing}
    session = api.new_session(Request(avatar_id=AVATAR))
    for name in ("livekit_agent_token", "ws_url", "max_session_duration"):
        assert getattr(session, name) is None
        assert not getattr(session.raw_response.data, name)


def test_fields_nobody_knows_yet_can_be_reached(api: Any, wire: Wire) -> None:
    wire.answers["start"] = 201, {"code": 1000, "data": {**started(1), "region": "eu"}, "trace": 7}
    answer = api.new_session(Request(avatar_id=AVATAR)).raw_response
    assert (answer["trace"], answer.data["region"]) == (7, "eu")


@pytest.mark.parametrize("status", [200, 201, 202, 203, 226, 299])
def test_any_2xx_is_success(api: Any, wire: Wire, status: int) -> None:
    data = {"session_id": session_id(1), "session_token": "session-token-1"}
    wire.answers = {
        "token": (status, {"code": 1000, "data": data, "message": "m"}),
        "start": (status, {"code": 1000, "data": started(1), "message": "m"}),
        "stop": (status, "OK"),
    }
    session = api.new_session(Request(avatar_id=AVATAR))
    api.close_session(session.session_id)
    assert wire.endpoints == ["token", "start", "stop"]


def test_a_stop_without_a_body_is_success(api: Any, wire: Wire) -> None:
    wire.answers["stop"] = 204, ""
    answer = api.stop_session(session_id(1))
    assert answer.code is UNSET


# ---- Errors ------------------------------------------------------------------------------------------------


def test_an_api_error_has_its_message_status_and_body() -> None:
    error = LiveAvatarApiError("the message", 418, '{"a": 1}')
    assert str(error) == "the message"
    assert (error.message, error.status, error.response_text) == ("the message", 418, '{"a": 1}')


def test_an_error_says_what_the_service_said(api: Any, wire: Wire) -> None:
    body = '{"code": 4000, "data": null, "message": "avatar_id is not a UUID"}'
    wire.answers["token"] = 400, body
    wire.headers = {"X-Request-Id": "r-1"}
    with pytest.raises(BadRequestError, match="avatar_id is not a UUID") as caught:
        api.create_session_token(Request(avatar_id=AVATAR))
    error = caught.value
    assert (error.status, error.response_text, error.code, error.request_id) == (400, body, 4000, "r-1")
    assert (error.endpoint, error.attempts) == ("/v1/sessions/token", 1)
    assert error.message == "avatar_id is not a UUID"
    assert str(error) == "400 (code 4000) avatar_id is not a UUID."


@pytest.mark.parametrize("empty", ["", None, "  "])
def test_a_stop_without_a_session_is_a_value_error_and_sends_nothing(api: Any, wire: Wire, empty: Any) -> None:
    for call in (api.stop_session, api.close_session):
        with pytest.raises(ValueError, match="session_id"):
            call(empty)
    assert wire.received == []


def test_closing_a_session_without_a_token_is_a_value_error_that_names_the_way_out(api: Any, wire: Wire) -> None:
    with pytest.raises(ValueError, match="stop_session") as caught:
        api.close_session(session_id(9))
    assert isinstance(caught.value, SessionTokenNotFoundError)
    assert wire.received == []


@pytest.mark.parametrize(
    ("request_data", "kind", "words"),
    [
        (Request(avatar_id=""), ValueError, "avatar_id"),
        (Request(avatar_id=None), TypeError, "avatar_id"),  # type: ignore[arg-type]
        (
            Request(avatar_id=AVATAR, video_settings=VideoSettings(encoding="AV1")),  # type: ignore[arg-type]
            ValueError,
            "'AV1'.*'H264', 'VP8'",
        ),
        (
            Request(avatar_id=AVATAR, video_settings=VideoSettings(VideoEncoding.VP8, "best")),  # type: ignore[arg-type]
            ValueError,
            "quality.*'best'.*'high'",
        ),
        (Request(avatar_id=AVATAR, livekit_config="room"), TypeError, "livekit_config"),  # type: ignore[arg-type]
        ({"avatar_id": AVATAR}, TypeError, "LiveAvatarNewSessionRequest"),
        (None, TypeError, "LiveAvatarNewSessionRequest"),
    ],
)
def test_a_request_that_cannot_be_sent_is_an_error_before_anything_is_sent(
    api: Any, wire: Wire, request_data: Any, kind: type[Exception], words: str
) -> None:
    for call in (api.create_session_token, api.new_session):
        with pytest.raises(kind, match=words):
            call(request_data)
    assert wire.received == []


ERRORS: list[Any] = [
    each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, LiveAvatarError)
]


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("twin", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_errors_pickle_and_copy_with_all_they_carry(kind: type[LiveAvatarError], twin: Any) -> None:
    error = kind("words", 418, "body") if issubclass(kind, LiveAvatarApiError) else kind("words")
    error.session_id, error.attempts, error.session_may_be_running = session_id(1), 3, True
    error.add_note("a note")
    other = twin(error)
    assert type(other) is kind
    assert str(other) == str(error) == "words"
    assert vars(other) == vars(error)


def test_every_error_is_public_and_derives_from_one() -> None:
    for kind in ERRORS:
        assert getattr(liveavatar, kind.__name__) is kind
        assert kind.__name__ in liveavatar.__all__


# ---- Sessions ----------------------------------------------------------------------------------------------


def test_session_token_is_that_of_the_latest_session_still_open(api: Any) -> None:
    seen = [api.session_token]
    api.create_session_token(Request(avatar_id=AVATAR))  # which opens nothing
    seen.append(api.session_token)
    for _ in range(2):
        api.new_session(Request(avatar_id=AVATAR))
        seen.append(api.session_token)
    for number in (3, 2):
        api.close_session(session_id(number))
        seen.append(api.session_token)
    assert seen == [None, None, "session-token-2", "session-token-3", "session-token-2", None]


def test_sessions_are_closed_in_any_order_each_with_its_own_token(api: Any, wire: Wire) -> None:
    ids = [api.new_session(Request(avatar_id=AVATAR)).session_id for _ in range(3)]
    assert api.open_sessions == tuple(ids)
    for index in (1, 2, 0):
        api.close_session(ids[index])
    stops = [(stop.json["session_id"], stop.credential[1]) for stop in wire.received[-3:]]
    assert stops == [(session_id(n), f"Bearer session-token-{n}") for n in (2, 3, 1)]
    assert api.open_sessions == ()


def test_a_released_session_goes_on_and_its_token_is_handed_over(api: Any, wire: Wire) -> None:
    session = api.new_session(Request(avatar_id=AVATAR)).session_id
    assert api.release_session(session) == "session-token-1"
    assert (api.open_sessions, api.session_token) == ((), None)
    with pytest.raises(SessionTokenNotFoundError):
        api.release_session(session)
    with pytest.raises(SessionTokenNotFoundError):
        api.close_session(session)
    assert wire.endpoints == ["token", "start"]


def test_leaving_the_client_closes_what_it_opened_and_nothing_else(flavour: str, wire: Wire) -> None:
    with client(flavour, "k", base_url=wire.url) as api:
        for _ in range(3):
            api.new_session(Request(avatar_id=AVATAR))
        api.release_session(session_id(2))
    assert sorted(stop.json["session_id"] for stop in wire.received[6:]) == [session_id(1), session_id(3)]
    assert wire.endpoints[6:] == ["stop"] * 2


def test_session_closes_when_its_block_ends(api: Any, wire: Wire) -> None:
    with api.session(Request(avatar_id=AVATAR)) as session:
        assert api.open_sessions == (session.session_id,)
    assert wire.endpoints == ["token", "start", "stop"]


def test_closing_the_client_stops_what_it_opened(flavour: str, wire: Wire) -> None:
    api = client(flavour, "k", base_url=wire.url)
    api.new_session(Request(avatar_id=AVATAR))
    api.close()
    with pytest.raises(LiveAvatarError, match="closed"):
        api.new_session(Request(avatar_id=AVATAR))
    assert wire.endpoints == ["token", "start", "stop"]
    if hasattr(api, "runner"):
        api.runner.close()


# ---- The two clients ---------------------------------------------------------------------------------------


def public(kind: type) -> dict[str, Any]:
    found = {name: value for name, value in inspect.getmembers_static(kind) if not name.startswith("_")}
    return {{"aclose": "close"}.get(name, name): value for name, value in found.items()}


def unwrapped(value: Any) -> Any:
    return inspect.unwrap(value) if callable(value) else value


def test_the_clients_have_the_same_public_names() -> None:
    assert public(LiveAvatarApi).keys() == public(AsyncLiveAvatarApi).keys()
    names = {"create_session_token", "start_session", "stop_session", "new_session", "close_session", "session"}
    names |= {"session_token", "open_sessions", "close_all_sessions", "release_session", "close", "BASE_URL"}
    assert names == public(LiveAvatarApi).keys()


@pytest.mark.parametrize("name", public(LiveAvatarApi))
def test_a_method_of_one_client_is_that_of_the_other_but_for_await(name: str) -> None:
    one, other = public(LiveAvatarApi)[name], public(AsyncLiveAvatarApi)[name]
    if not callable(one):
        assert one is other
        return
    assert inspect.signature(one).parameters == inspect.signature(other).parameters
    said, said_too = (inspect.getdoc(each) or "" for each in (one, other))
    assert said.partition("Raises:")[2] == said_too.partition("Raises:")[2]
    assert said.partition("Args:")[2] == said_too.partition("Args:")[2]
    waits = inspect.iscoroutinefunction(unwrapped(other)) or inspect.isasyncgenfunction(unwrapped(other))
    assert waits == (one is not other), "what both share does no I/O"


def test_the_constructors_differ_by_the_session_of_the_reference() -> None:
    one = inspect.signature(LiveAvatarApi).parameters
    other = dict(inspect.signature(AsyncLiveAvatarApi).parameters)
    assert list(other)[:2] == ["api_key", "session"]
    assert other.pop("session").kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert list(one) == list(other) == ["api_key", "base_url", "timeout", "max_retries", "http_client"]
    assert {n: (p.default, p.kind) for n, p in one.items()} == {n: (p.default, p.kind) for n, p in other.items()}


# ---- Cost of the import ------------------------------------------------------------------------------------


def test_importing_us_loads_little_more_than_httpx_does() -> None:
    script = "import sys, httpx; before = set(sys.modules); import liveavatar; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    assert loaded <= {"liveavatar", "liveavatar_client", "attr", "attrs"}
