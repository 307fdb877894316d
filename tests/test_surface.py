"""The surface of the Pipecat client, whose users change one import: names, defaults, bodies, headers and responses."""

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

from tests.clients import client

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
VOICE = "3b1f3a52-9d1e-4f5c-8a1b-6f0d2c7e9a10"
CONTEXT = "e2d4b6a8-1c3e-4a5f-9b7d-0f1e2d3c4b5a"
ROOM = {"livekit_url": "wss://rooms.example.com", "livekit_room": "desk", "livekit_client_token": "room-token"}


# ---- A service that records its requests -------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """One request, as it was received."""

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
        """The only header that authenticates the request."""
        (found,) = [(n.lower(), v) for n, v in self.headers if n.lower() in ("x-api-key", "authorization", "cookie")]
        return found


class RecordingServer:
    """A service on 127.0.0.1 that records its requests, and whose responses a test may replace."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.open = 0
        self.replies: dict[str, tuple[int, Any]] = {}
        """Status and body (text, or a value for JSON) of the responses to an endpoint."""
        self.headers: dict[str, str] = {}
        """Headers of every response."""
        self.sessions = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"recorder": self}))
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> RecordingServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoints(self) -> list[str]:
        """The endpoints that were called, in order."""
        return [request.path.rsplit("/", 1)[1] for request in self.received]

    def respond(self, request: Received) -> tuple[int, Any]:
        endpoint = request.path.rsplit("/", 1)[-1]
        if endpoint in self.replies:
            return self.replies[endpoint]
        if endpoint == "token":
            self.sessions += 1
            data = {"session_id": session_id(self.sessions), "session_token": f"session-token-{self.sessions}"}
            return 200, {"code": 1000, "data": data, "message": "Created"}
        if endpoint == "start":
            number = int(request.header("authorization")[0].rsplit("-", 1)[1])
            return 201, {"code": 1000, "data": started(number), "message": "Started"}
        return 200, {"code": 1000, "data": None, "message": "Stopped"}


class _Handler(BaseHTTPRequestHandler):
    recorder: RecordingServer
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # a response is sent in one piece
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.recorder.connections += 1
        self.recorder.open += 1

    def finish(self) -> None:
        self.recorder.open -= 1
        super().finish()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        request = Received(self.command, self.path, tuple(self.headers.items()), body)
        self.recorder.received.append(request)
        status, content = self.recorder.respond(request)
        text = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | self.recorder.headers).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if status != 204:
            self.wfile.write(text)

    def do_GET(self) -> None:
        self.do_POST()

    def do_DELETE(self) -> None:
        self.do_POST()

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
def service() -> Iterator[RecordingServer]:
    with RecordingServer() as service:
        yield service


@pytest.fixture
def api(flavour: str, service: RecordingServer) -> Iterator[Any]:
    with client(flavour, "the-key", base_url=service.url) as api:
        yield api
        for session in api.open_sessions:
            api.release_session(session)


# ---- Models ------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    """The models have the defaults of the reference."""
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
def test_required(kind: Any, required: str) -> None:
    """A field that the reference requires is required."""
    given = {"avatar_id": AVATAR} if kind is Request else {"encoding": "VP8"} if kind is VideoSettings else dict(ROOM)
    kind(**given)
    del given[required]
    with pytest.raises(TypeError, match=required):
        kind(**given)


def test_enums() -> None:
    """The enums are strings, with the members of the reference."""
    assert [each.value for each in VideoEncoding] == ["H264", "VP8"]
    assert VideoEncoding.H264 == "H264"
    assert {each.value for each in VideoQuality} == {"low", "medium", "high", "very_high"}
    for name in ("low", "medium", "high", "very_high"):
        assert getattr(VideoQuality, name) == name


def test_fields_can_be_set(service: RecordingServer) -> None:
    """The fields of a request can be set after it was created."""
    request = Request(avatar_id="x")
    request.avatar_id = AVATAR
    request.mode = "FULL"
    request.avatar_persona = AvatarPersona()
    request.avatar_persona.voice_id = VOICE
    with client("blocking", "k", base_url=service.url) as api:
        api.create_session_token(request)
    assert service.received[0].json["avatar_id"] == AVATAR
    assert service.received[0].json["avatar_persona"] == {"voice_id": VOICE, "language": "en"}


def test_response_models() -> None:
    """The models of responses are created with keyword arguments."""
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


# ---- Requests ----------------------------------------------------------------------------------------------

PLAIN = {
    "mode": "LITE",
    "avatar_id": AVATAR,
    "is_sandbox": False,
    "video_settings": {"encoding": "VP8", "quality": "high"},
}


def test_body(api: Any, service: RecordingServer) -> None:
    """The body is that of the reference; the caller's request is not changed."""
    persona = AvatarPersona(voice_id=VOICE, context_id=CONTEXT, language="de")
    request = Request(avatar_id=AVATAR, mode="FULL", avatar_persona=persona)
    request["greeting"] = {"text": "Hi"}
    before = repr(request)
    api.create_session_token(request)
    assert service.received[0].json == PLAIN | {
        "avatar_persona": {"voice_id": VOICE, "context_id": CONTEXT, "language": "de"},
        "mode": "FULL",
        "greeting": {"text": "Hi"},
    }
    assert repr(request) == before


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda request: pickle.loads(pickle.dumps(request))])
def test_copy_of_request(api: Any, service: RecordingServer, twin: Any) -> None:
    """A copy of a request is sent like the request."""
    api.create_session_token(twin(Request(avatar_id=AVATAR)))
    assert service.received[0].json == PLAIN


def test_headers(api: Any, service: RecordingServer) -> None:
    """Every request has one credential, and the headers of the reference."""
    session = api.new_session(Request(avatar_id=AVATAR))
    api.stop_session(session.session_id, "session-token-1")
    api.stop_session(session.session_id)
    token, start, stop, stop_by_key = service.received
    assert {request.method for request in service.received} == {"POST"}
    assert [request.path for request in service.received] == [
        "/v1/sessions/token",
        "/v1/sessions/start",
        "/v1/sessions/stop",
        "/v1/sessions/stop",
    ]
    assert token.credential == stop_by_key.credential == ("x-api-key", "the-key")
    assert start.credential == stop.credential == ("authorization", "Bearer session-token-1")
    for request in service.received:
        assert request.header("accept") == ["application/json"]
        assert request.header("content-type") == (["application/json"] if request.body else [])
        assert request.header("transfer-encoding") == []
    assert start.body == b""
    assert stop.json == stop_by_key.json == {"session_id": session.session_id}


@pytest.mark.parametrize("reason", ["USER_CLOSED", StopReason.USER_CLOSED])
def test_stop_reason(api: Any, service: RecordingServer, reason: Any) -> None:
    """A stop may give its reason."""
    api.stop_session(session_id(1), "t", reason=reason)
    assert service.received[0].json == {"session_id": session_id(1), "reason": "USER_CLOSED"}


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_base_url(flavour: str, service: RecordingServer, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client uses the base URL that is given, with or without /v1."""
    if given == "environment":
        monkeypatch.setenv("LIVEAVATAR_BASE_URL", service.url)
    with client(flavour, "k", base_url=service.url if given == "argument" else None) as api:
        api.create_session_token(Request(avatar_id=AVATAR))
    assert service.received[0].path == "/v1/sessions/token"


def test_base_url_with_path(flavour: str, service: RecordingServer) -> None:
    """A base URL with a path keeps it."""
    with client(flavour, "k", base_url=f"{service.url}/proxy/v2") as api:
        api.create_session_token(Request(avatar_id=AVATAR))
    assert service.received[0].path == "/proxy/v2/sessions/token"


def test_default_base_url(flavour: str) -> None:
    """The base URL is a constant of the class, and that of the live service."""
    kind = LiveAvatarApi if flavour == "blocking" else AsyncLiveAvatarApi
    assert kind.BASE_URL == "https://api.liveavatar.com/v1"
    with client(flavour, "k") as api:
        assert kind.BASE_URL in repr(api)


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_api_key(flavour: str, service: RecordingServer, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client uses the API key that is given, without the whitespace around it."""
    monkeypatch.setenv("LIVEAVATAR_API_KEY", " the-key\n" if given == "environment" else "another")
    arguments = (" the-key\n",) if given == "argument" else ()
    with client(flavour, *arguments, base_url=service.url) as api:
        api.create_session_token(Request(avatar_id=AVATAR))
    assert service.received[0].credential == ("x-api-key", "the-key")


# ---- Responses ---------------------------------------------------------------------------------------------


def test_responses(api: Any) -> None:
    """Each method returns the service's response."""
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


def test_open_session(api: Any) -> None:
    """An open session has the fields of the reference, and more."""
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


def test_meet_url(api: Any) -> None:
    """The address of the meeting page has the server and the token."""
    page = urlsplit(api.new_session(Request(avatar_id=AVATAR)).meet_url)
    assert (page.scheme, page.netloc, page.path) == ("https", "meet.livekit.io", "/custom")
    assert parse_qs(page.query) == {"liveKitUrl": ["wss://rooms.example.com"], "token": ["client-token-1"]}


def test_repr(api: Any) -> None:
    """No token is in the repr of a session, a response or a client."""
    session = api.new_session(Request(avatar_id=AVATAR))
    token = api.create_session_token(Request(avatar_id=AVATAR))
    shown = f"{session!r}{session.raw_response!r}{token!r}{api!r}"
    assert session_id(1) in shown
    assert not re.search(r"(client|agent|session)-token-|events\.example|meet\.livekit|the-key", shown)


@pytest.mark.parametrize("missing", [{}, {"livekit_agent_token": None, "ws_url": None, "max_session_duration": None}])
def test_optional_fields(api: Any, service: RecordingServer, missing: dict[str, None]) -> None:
    """A field that the service does not always send may be missing."""
    required = {name: started(1)[name] for name in ("session_id", "livekit_url", "livekit_client_token")}
    service.replies["start"] = 201, {"code": 100, "data": required | missing}
    session = api.new_session(Request(avatar_id=AVATAR))
    for name in ("livekit_agent_token", "ws_url", "max_session_duration"):
        assert getattr(session, name) is None
        assert not getattr(session.raw_response.data, name)


def test_unknown_fields(api: Any, service: RecordingServer) -> None:
    """Fields that the client does not know are kept."""
    service.replies["start"] = 201, {"code": 1000, "data": {**started(1), "region": "eu"}, "trace": 7}
    answer = api.new_session(Request(avatar_id=AVATAR)).raw_response
    assert (answer["trace"], answer.data["region"]) == (7, "eu")


def test_stop_without_body(api: Any, service: RecordingServer) -> None:
    """A stop whose response has no body is a success."""
    service.replies["stop"] = 204, ""
    answer = api.stop_session(session_id(1))
    assert answer.code is None


# ---- Errors ------------------------------------------------------------------------------------------------


def test_api_error() -> None:
    """A LiveAvatarApiError has its message, status and body."""
    error = LiveAvatarApiError("the message", 418, '{"a": 1}')
    assert str(error) == "the message"
    assert (error.message, error.status, error.response_text) == ("the message", 418, '{"a": 1}')


def test_error(api: Any, service: RecordingServer) -> None:
    """An error has the service's own message, and everything known about the request."""
    body = '{"code": 4000, "data": null, "message": "avatar_id is not a UUID"}'
    service.replies["token"] = 400, body
    service.headers = {"X-Request-Id": "r-1"}
    with pytest.raises(BadRequestError, match="avatar_id is not a UUID") as caught:
        api.create_session_token(Request(avatar_id=AVATAR))
    error = caught.value
    assert (error.status, error.response_text, error.code, error.request_id) == (400, body, 4000, "r-1")
    assert (error.endpoint, error.attempts) == ("/v1/sessions/token", 1)
    assert error.message == "avatar_id is not a UUID"
    assert str(error) == "400 (code 4000) avatar_id is not a UUID."


def test_close_unknown_session(api: Any, service: RecordingServer) -> None:
    """Closing a session without a token is a ValueError that names stop_session."""
    with pytest.raises(ValueError, match="stop_session") as caught:
        api.close_session(session_id(9))
    assert isinstance(caught.value, SessionTokenNotFoundError)
    assert service.received == []


ERRORS: list[Any] = [
    each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, LiveAvatarError)
]


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("twin", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_errors_can_be_copied(kind: type[LiveAvatarError], twin: Any) -> None:
    """An exception can be pickled and copied, with all of its attributes."""
    error = kind("words", 418, "body") if issubclass(kind, LiveAvatarApiError) else kind("words")
    error.session_id, error.attempts, error.session_may_be_running = session_id(1), 3, True
    error.add_note("a note")
    other = twin(error)
    assert type(other) is kind
    assert str(other) == str(error) == "words"
    assert vars(other) == vars(error)


# ---- Sessions ----------------------------------------------------------------------------------------------


def test_session_token(api: Any) -> None:
    """The property session_token is the token of the latest session that is still open."""
    seen = [api.session_token]
    api.create_session_token(Request(avatar_id=AVATAR))  # which opens no session
    seen.append(api.session_token)
    for _ in range(2):
        api.new_session(Request(avatar_id=AVATAR))
        seen.append(api.session_token)
    for number in (3, 2):
        api.close_session(session_id(number))
        seen.append(api.session_token)
    assert seen == [None, None, "session-token-2", "session-token-3", "session-token-2", None]


def test_close_in_any_order(api: Any, service: RecordingServer) -> None:
    """Sessions are closed in any order, each with its own token."""
    ids = [api.new_session(Request(avatar_id=AVATAR)).session_id for _ in range(3)]
    assert api.open_sessions == tuple(ids)
    for index in (1, 2, 0):
        api.close_session(ids[index])
    stops = [(stop.json["session_id"], stop.credential[1]) for stop in service.received[-3:]]
    assert stops == [(session_id(n), f"Bearer session-token-{n}") for n in (2, 3, 1)]
    assert api.open_sessions == ()


def test_release_session(api: Any, service: RecordingServer) -> None:
    """A released session goes on, and its token is handed over."""
    session = api.new_session(Request(avatar_id=AVATAR)).session_id
    assert api.release_session(session) == "session-token-1"
    assert (api.open_sessions, api.session_token) == ((), None)
    with pytest.raises(SessionTokenNotFoundError):
        api.release_session(session)
    with pytest.raises(SessionTokenNotFoundError):
        api.close_session(session)
    assert service.endpoints == ["token", "start"]


def test_with_client(flavour: str, service: RecordingServer) -> None:
    """Leaving the `with` block of a client closes the sessions that it has opened and not released."""
    with client(flavour, "k", base_url=service.url) as api:
        for _ in range(3):
            api.new_session(Request(avatar_id=AVATAR))
        api.release_session(session_id(2))
    assert sorted(stop.json["session_id"] for stop in service.received[6:]) == [session_id(1), session_id(3)]
    assert service.endpoints[6:] == ["stop"] * 2


def test_with_session(api: Any, service: RecordingServer) -> None:
    """A session() is closed when its block ends."""
    with api.session(Request(avatar_id=AVATAR)) as session:
        assert api.open_sessions == (session.session_id,)
    assert service.endpoints == ["token", "start", "stop"]


def test_close(flavour: str, service: RecordingServer) -> None:
    """Closing a client closes its sessions, and it can open no further one."""
    api = client(flavour, "k", base_url=service.url)
    api.new_session(Request(avatar_id=AVATAR))
    api.close()
    with pytest.raises(LiveAvatarError, match="closed"):
        api.new_session(Request(avatar_id=AVATAR))
    assert service.endpoints == ["token", "start", "stop"]
    if hasattr(api, "runner"):
        api.runner.close()


# ---- The two clients ---------------------------------------------------------------------------------------


def public(kind: type) -> dict[str, Any]:
    found = {name: value for name, value in inspect.getmembers_static(kind) if not name.startswith("_")}
    return {{"aclose": "close"}.get(name, name): value for name, value in found.items()}


def arguments(text: str) -> str:
    return text.partition("Args:")[2].partition("Returns:")[0].partition("Raises:")[0]


def unwrapped(value: Any) -> Any:
    return inspect.unwrap(value) if callable(value) else value


def test_same_names() -> None:
    """The two clients have the same public names."""
    assert public(LiveAvatarApi).keys() == public(AsyncLiveAvatarApi).keys()


@pytest.mark.parametrize("name", public(LiveAvatarApi))
def test_same_methods(name: str) -> None:
    """A method of one client is like that of the other, except for await."""
    one, other = public(LiveAvatarApi)[name], public(AsyncLiveAvatarApi)[name]
    if not callable(one):
        assert one is other
        return
    assert inspect.signature(one).parameters == inspect.signature(other).parameters
    said, said_too = (inspect.getdoc(each) or "" for each in (one, other))
    assert said.partition("Raises:")[2] == said_too.partition("Raises:")[2]
    assert arguments(said) == arguments(said_too)
    iterates = str(inspect.signature(other).return_annotation).startswith("AsyncIterator")
    waits = inspect.iscoroutinefunction(unwrapped(other)) or iterates
    assert waits == (one is not other), "a method that both share does no I/O"


def test_constructors() -> None:
    """The constructors differ by `session`, which the reference has."""
    one = inspect.signature(LiveAvatarApi).parameters
    other = dict(inspect.signature(AsyncLiveAvatarApi).parameters)
    assert list(other)[:2] == ["api_key", "session"]
    assert other.pop("session").kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert list(one) == list(other) == ["api_key", "base_url", "timeout", "max_retries", "http_client", "ledger"]
    assert {n: (p.default, p.kind) for n, p in one.items()} == {n: (p.default, p.kind) for n, p in other.items()}


# ---- Cost of the import ------------------------------------------------------------------------------------


def test_import() -> None:
    """Importing the package loads no library but attrs."""
    script = "import sys, httpx; before = set(sys.modules); import liveavatar; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    assert loaded <= {"liveavatar", "liveavatar_client", "attr", "attrs"}


def test_import_of_the_blocking_client() -> None:
    """Importing the blocking client loads no event loop, no HTTP library but httpx, and no part of a request."""
    script = (
        "import sys, httpx; before = set(sys.modules); from liveavatar import LiveAvatarApi;"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "liveavatar.client" in loaded
    assert not loaded & {
        "asyncio",
        "aiohttp",
        "httpcore",
        "liveavatar_client.client",
        "liveavatar_client.models.voice_agent",
    }


SESSION = """
import sys, httpx
from liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest

def respond(request):
    name = request.url.path.rpartition("/")[2]
    data = {"session_id": "s-1", "session_token": "t", "livekit_url": "wss://r", "livekit_client_token": "c"}
    return httpx.Response(200, json={"code": 1000, "data": data if name in ("token", "start") else None})

request = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a")
with httpx.Client(transport=httpx.MockTransport(respond)) as http:
    api = LiveAvatarApi("key", http_client=http)
    before = set(sys.modules)
    api.close_session(api.new_session(request).session_id)
    print(*(name for name in set(sys.modules) - before if name.startswith("liveavatar_client")))
"""


def test_no_import_while_a_session_runs() -> None:
    """Opening and closing a session imports no model, which could fail for lack of file descriptors."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", SESSION], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
