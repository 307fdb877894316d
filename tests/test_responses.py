"""What a response becomes: a model, or a typed error with one line for a person."""

from __future__ import annotations

import json
import pickle
import queue
import threading
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import attrs
import httpx
import pytest
from liveavatar import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ConcurrencyLimitError,
    ConflictError,
    InsufficientCreditsError,
    InvalidRequestError,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarTimeoutError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SessionDurationError,
)
from liveavatar._constants import MAX_ERROR_TEXT, MAX_RESPONSE_BYTES
from liveavatar._endpoints import (
    CREATE_TOKEN,
    DELETE_EVENTS,
    GET,
    KEEP_ALIVE,
    LIST,
    START,
    STOP,
    Endpoint,
    custom,
    has_ended,
    is_unknown_path,
)
from liveavatar._error_responses import retry_after
from liveavatar._redaction import Secret
from liveavatar._response_models import ContractViolationError, from_json
from liveavatar._responses import read
from liveavatar._transports._base import Request, Response, find_callers_exception, with_read_error

from liveavatar_client.models import LiveAvatarSessionData, VideoEncoding
from liveavatar_client.types import UNSET, Unset

BASE_URL = "https://service.example/v1"
SESSION = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"
TOKEN_DATA = {"session_id": SESSION, "session_token": "t"}
START_DATA = {"session_id": SESSION, "livekit_url": "wss://rooms.example.com", "livekit_client_token": "c"}
HTML = "<html><head><title>Oh</title></head><body><h1>Bad Gateway</h1></body></html>"
NAMES = {"token": CREATE_TOKEN, "start": START, "stop": STOP}


def response(status: int, body: Any = "", **headers: str) -> Response:
    """Return a response with a body of bytes, text, or what is sent as JSON."""
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    content = text if isinstance(text, bytes) else text.encode()
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, bytearray(content))


def envelope(message: str | None, code: int = 4000, data: Any = None) -> dict[str, Any]:
    return {"code": code, "data": data, "message": message}


def success(given: Response, endpoint: Endpoint[Any] = START) -> Any:
    return read(given, endpoint, BASE_URL, tuple)


def error_of(given: Response, endpoint: Endpoint[Any] = START, secrets: tuple[str, ...] = ()) -> Any:
    with pytest.raises(LiveAvatarApiError) as caught:
        read(given, endpoint, BASE_URL, lambda: secrets)
    return caught.value


# ---- The class of an error ---------------------------------------------------------------------------------

CLASSES: list[tuple[int, str, type[LiveAvatarApiError]]] = [
    (300, "Too many requests", LiveAvatarApiError),
    (301, "", LiveAvatarApiError),
    (308, "", LiveAvatarApiError),
    (400, "The avatar id is malformed", BadRequestError),
    (400, "Not enough credits", InsufficientCreditsError),
    (400, "max_session_duration exceeds the maximum of 1200", SessionDurationError),
    (401, "Unauthorized", AuthenticationError),
    (402, "Payment Required", InsufficientCreditsError),
    (402, "", InsufficientCreditsError),
    (403, "Your plan does not include this", PermissionDeniedError),
    (403, "No credit left", InsufficientCreditsError),
    (403, "Concurrency limit reached", ConcurrencyLimitError),
    (404, "Avatar not found", NotFoundError),
    (409, "Session already started", ConflictError),
    (409, "Too many concurrent sessions", ConcurrencyLimitError),
    (410, "Gone", LiveAvatarApiError),
    (418, "", LiveAvatarApiError),
    (422, "avatar_id: Field required", InvalidRequestError),
    (422, "max_session_duration exceeds the maximum of 1200", InvalidRequestError),
    (429, "Slow down", RateLimitError),
    (429, "Concurrent session limit reached", ConcurrencyLimitError),
    (499, "No credits left", InsufficientCreditsError),
    (500, "Internal Server Error", ServerError),
    (500, "The credits service is down", ServerError),
    (502, HTML, ServerError),
    (503, "Concurrency control failed", ServerError),
    (504, "", ServerError),
    (520, HTML, ServerError),
    (599, "", ServerError),
    (200, "Concurrency limit reached", ConcurrencyLimitError),
    (200, "Insufficient credits", InsufficientCreditsError),
    (200, "max_session_duration is above the maximum", SessionDurationError),
    (201, "Rate limit exceeded", RateLimitError),
    (299, "Too many requests", RateLimitError),
    (200, "Invalid session token", AuthenticationError),
    (200, "Session not found", NotFoundError),
    (201, "Session already stopped", ConflictError),
    (200, "Something else", LiveAvatarApiError),
]


@pytest.mark.parametrize("endpoint", NAMES)
@pytest.mark.parametrize(("status", "message", "cls"), CLASSES)
def test_error_class(endpoint: str, status: int, message: str, cls: type[LiveAvatarApiError]) -> None:
    """The status and the message of a response decide the class of its error."""
    page = message.startswith("<")
    error = error_of(response(status, message if page else envelope(message)), NAMES[endpoint])
    assert type(error) is cls
    assert error.status == status
    assert error.endpoint == f"/v1/sessions/{endpoint}"
    assert "<" not in str(error)
    if message and not page:
        assert message in str(error)


def test_error_class_takes_linear_time() -> None:
    """A long message that repeats itself does not stop the program for minutes."""
    began = time.process_time()
    error = error_of(response(400, envelope("max_session_duration " * 20_000)))
    assert type(error) is BadRequestError
    assert time.process_time() - began < 5.0


def test_find_foreign_ends() -> None:
    """An exception that is the cause of its own context is examined once, not for ever."""
    wrapped = ConnectionResetError("the connection broke")
    wrapper = httpx.ConnectError("no connection")
    wrapper.__cause__, wrapped.__context__ = wrapped, wrapper
    found = queue.Queue[object]()
    threading.Thread(target=lambda: found.put(find_callers_exception(wrapped)), daemon=True).start()
    assert found.get(timeout=10) is None


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422, 429, 500, 502, 520])
@pytest.mark.parametrize("body", ["", "\0", "null", "[]", '"text"', "7", '{"code":', HTML, "{}", '{"detail": 7}'])
def test_error_class_without_message(status: int, body: str) -> None:
    """The status alone is enough, whatever the body."""
    error = error_of(response(status, body))
    assert type(error) is type(error_of(response(status)))
    assert str(error).startswith(str(status))
    assert "\n" not in str(error)
    assert error.response_text == body


@pytest.mark.parametrize("code", [100, 1000])
def test_redirect_is_no_success(code: int) -> None:
    """A success is a 2xx: a 3xx is an error, even with an envelope of success."""
    assert type(error_of(response(300, {"code": code, "data": START_DATA}))) is LiveAvatarApiError


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("max_session_duration must not exceed the maximum of 1200 seconds", 1200),
        ("max_session_duration exceeds the maximum allowed duration (60s)", 60),
        ("max_session_duration: 99999 is greater than the maximum", None),
        ("Your max_session_duration\nis above the Maximum: 600", 600),
    ],
)
def test_max_allowed(message: str, limit: int | None) -> None:
    """The longest duration that is allowed is read from the message."""
    error = error_of(response(400, envelope(message)), CREATE_TOKEN)
    assert type(error) is SessionDurationError
    assert error.max_allowed == limit
    assert SessionDurationError.hint in str(error)


# ---- The message of an error -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (400, {"code": 4000, "message": "No such avatar"}, "400 (code 4000) No such avatar."),
        (400, {"message": "No such avatar"}, "400 No such avatar."),
        (400, {"message": "No such avatar."}, "400 No such avatar."),
        (400, {"message": "No!"}, "400 No!"),
        (400, {"message": "Which?"}, "400 Which?"),
        (400, b"", "400 Bad Request."),
        (403, {"code": 4031, "message": "No"}, f"403 (code 4031) No. {PermissionDeniedError.hint}"),
        (599, b"", f"599 no message. {ServerError.hint}"),
        (201, b"", "201 the body is empty."),
        (201, b"{", "201 the body is not JSON."),
        (201, {"data": True}, "201 data is not an object but a boolean."),
        (201, {"data": {"session_id": {}}}, "201 data.session_id is not a string but an object."),
        (201, {"code": 100, "data": 1, "message": "Hm"}, "201 (code 100) data is not an object but a number: Hm."),
    ],
)
def test_str(status: int, body: Any, line: str) -> None:
    """An error is one line for a person: status, code, message and hint."""
    assert str(error_of(response(status, body))) == line


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (envelope("avatar is unknown"), "avatar is unknown"),
        (envelope("Invalid", data=[{"loc": "avatar_id", "message": "bad uuid"}]), "Invalid; avatar_id: bad uuid"),
        (envelope("Invalid", data=[{"message": "bad uuid"}]), "Invalid; bad uuid"),
        (envelope("Invalid: bad uuid", data=[{"loc": "a", "message": "bad uuid"}]), "Invalid: bad uuid"),
        (envelope(None, data=[{"loc": ["a", 0], "message": "bad"}]), "a.0: bad"),
        ({"detail": [{"loc": ["body", "mode"], "msg": "Field required", "type": "x"}]}, "body.mode: Field required"),
        ({"detail": "Not allowed here"}, "Not allowed here"),
        ({"error": "Invalid UUID"}, "Invalid UUID"),
        ("plain text", "plain text"),
        (envelope("two\nlines\tand\0more"), "two lines and more"),
        (envelope(""), HTTPStatus(422).phrase),
        (HTML, HTTPStatus(422).phrase),
        ("", HTTPStatus(422).phrase),
        ("\ufeff" + json.dumps(envelope("with a byte order mark")), "with a byte order mark"),
    ],
)
def test_message(body: Any, message: str) -> None:
    """The service's own message is found in any shape."""
    error = error_of(response(422, body))
    assert error.message == message
    assert message in str(error)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"Upstream is away", "Upstream is away"),
        (b"  Upstream\n\tis away ", "Upstream is away"),
        (b"Caf\xff", "Caf\N{REPLACEMENT CHARACTER}"),
        (b"x" * 3000, "x" * 500),
        (b"<p>Away</p>", "Bad Gateway"),
        (b"Away <HTML>", "Bad Gateway"),
        (b'{"message": "cut', "Bad Gateway"),
        (b'["cut', "Bad Gateway"),
        (b'"cut', "Bad Gateway"),
        (b"XRAY", "XRAY"),
        (b"a " * 998 + b"<html>", "a " * 249 + "a"),
        (b"a " * 997 + b"<html>", "Bad Gateway"),
    ],
)
def test_message_of_text(body: bytes, message: str) -> None:
    """A plain-text body is the message; HTML and malformed JSON are not. Only its beginning is read."""
    assert error_of(response(502, body)).message.strip() == message


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (envelope("Invalid", data=[{"loc": "avatar_id", "message": "bad"}]), (("avatar_id", "bad"),)),
        (
            {"detail": [{"loc": ["body", "a"], "msg": "x"}, {"loc": ["b", 1], "msg": "y"}]},
            (("body.a", "x"), ("b.1", "y")),
        ),
        ({"detail": "text"}, ()),
        ({"detail": [7, None, {"msg": 7}, {"loc": ["a"]}]}, ()),
        (HTML, ()),
        ("", ()),
    ],
)
def test_errors(body: Any, errors: tuple[tuple[str, str], ...]) -> None:
    """The list of violations of an invalid request is read."""
    error = error_of(response(422, body))
    assert isinstance(error, InvalidRequestError)
    assert error.errors == errors


def test_errors_bounded() -> None:
    """The list of violations is redacted, and bounded."""
    entries = [{"loc": ["my-secret", place], "msg": "not my-secret"} for place in range(51)]
    found = error_of(response(422, {"detail": entries}), secrets=("my-secret",)).errors
    assert found[0] == ("***.0", "not ***")
    assert len(found) == 50


def test_request_id() -> None:
    """An error has the envelope's code and the request's id, from the service or from its gateway."""
    error = error_of(response(403, envelope("No", 4031), x_request_id="r-1"))
    assert (error.code, error.request_id) == (4031, "r-1")
    error = error_of(response(502, HTML, cf_ray="ray-1"))
    assert (error.code, error.request_id) == (None, "ray-1")
    assert error_of(response(502)).request_id is None


@pytest.mark.parametrize("code", ["4000", True, None, 4000.5])
def test_invalid_code(code: Any) -> None:
    """A code that is not an integer is None."""
    assert error_of(response(400, {"code": code, "message": "m"})).code is None


@pytest.mark.parametrize("length", [MAX_ERROR_TEXT, MAX_ERROR_TEXT + 1, MAX_ERROR_TEXT + 1000])
def test_response_text(length: int) -> None:
    """An error keeps a bounded part of the body, as far as it is readable."""
    error = error_of(response(500, b"\xff" + b"x" * (length - 1)))
    assert error.response_text == "\N{REPLACEMENT CHARACTER}" + "x" * (MAX_ERROR_TEXT - 1)
    assert len(str(error)) < 1000


def test_error_of_a_caller() -> None:
    """An error that a caller makes, or gets from another process, has all that it was made of."""
    error = ServerError("503 Away.", 503, "Away")
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert (each.message, each.status, each.response_text) == ("503 Away.", 503, "Away")
        assert repr(each) == "ServerError('503 Away.', 503, 'Away')"


# ---- Hints -------------------------------------------------------------------------------------------------


def test_hint_of_authentication() -> None:
    """The hint of a 401 depends on the credential."""
    lines = {name: str(error_of(response(401), endpoint)) for name, endpoint in NAMES.items()}
    assert "LIVEAVATAR_API_KEY" in lines["token"]
    assert "new one" in lines["start"]
    assert "API key" in lines["stop"]


@pytest.mark.parametrize(
    ("body", "hinted"),
    [
        (HTML, True),
        ({"detail": "Not Found"}, True),
        ("404 page not found", True),
        (envelope("Not found"), True),
        (envelope("x"), False),
    ],
)
def test_hint_of_base_url(body: Any, hinted: bool) -> None:
    """A 404 that is not from the service's application asks whether the base URL is right."""
    assert (f"Is base_url right? It is {BASE_URL}" in str(error_of(response(404, body)))) is hinted


def test_hint_of_path() -> None:
    """A 404 of a path that the caller has given asks whether the service has it."""
    error = error_of(response(404, HTML), custom("GET", "/avatars", idempotent=True))
    assert str(error) == f"404 Not Found. Does the service have this path? The URL is {BASE_URL}/avatars"


@pytest.mark.parametrize("status", [400, 422])
def test_hint_of_vp8(status: int) -> None:
    """An error about VP8 says what to use in its place."""
    error = error_of(response(status, envelope("VP8 is not supported")), CREATE_TOKEN)
    hint = "The service is about to drop VP8: use VideoEncoding.H264 in video_settings."
    assert str(error) == f"{status} (code 4000) VP8 is not supported. {hint}"


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (402, "No", InsufficientCreditsError.hint),
        (403, "No", PermissionDeniedError.hint),
        (403, "Concurrency limit", ConcurrencyLimitError.hint),
        (429, "No", RateLimitError.hint),
        (500, "No", ServerError.hint),
    ],
)
def test_hint(status: int, message: str, hint: str) -> None:
    """The error of a class that has a hint ends with it."""
    assert hint
    assert str(error_of(response(status, envelope(message)))).endswith(f". {hint}")


# ---- The model of a success --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 299])
@pytest.mark.parametrize("code", [100, 1000, None])
@pytest.mark.parametrize(("endpoint", "data"), [("token", TOKEN_DATA), ("start", START_DATA)])
def test_success(status: int, code: int | None, endpoint: str, data: dict[str, Any]) -> None:
    """A 2xx with the required fields is a success."""
    model = success(response(status, {"data": data} | ({} if code is None else {"code": code})), NAMES[endpoint])
    assert isinstance(model, NAMES[endpoint].model)  # type: ignore[arg-type]
    assert {name: getattr(model.data, name) for name in data} == data
    assert model.code == (code or 100)
    assert model.message == ""


@pytest.mark.parametrize(("given", "kept"), [("Started", "Started"), (None, ""), (7, "")])
def test_success_message(given: Any, kept: str) -> None:
    """The message of a success is kept if it is text."""
    assert success(response(201, {"code": 1000, "data": START_DATA, "message": given})).message == kept


@pytest.mark.parametrize("given", [".", ".."])
def test_id_that_no_method_takes(given: str) -> None:
    """An id that close_session would refuse is not handed out."""
    error = error_of(response(201, {"data": START_DATA | {"session_id": given}}))
    assert type(error) is BadResponseError
    assert "data.session_id" in str(error)


def test_success_with_byte_order_mark() -> None:
    """A body that begins with a byte order mark is read."""
    assert success(response(201, "\ufeff" + json.dumps({"data": START_DATA}))).data.session_id == SESSION


@pytest.mark.parametrize("invalid", [None, 7, [], {}, True])
@pytest.mark.parametrize("name", ["livekit_agent_token", "ws_url"])
def test_invalid_optional_text(name: str, invalid: Any) -> None:
    """An optional text of another type is None, so that the session is not lost to it."""
    assert getattr(success(response(201, {"data": START_DATA | {name: invalid}})).data, name) is None


@pytest.mark.parametrize("invalid", [None, "600", 1.5, True, [], {}])
def test_invalid_duration(invalid: Any) -> None:
    """A duration that is not an integer is None."""
    data: LiveAvatarSessionData = success(response(201, {"data": START_DATA | {"max_session_duration": invalid}})).data
    assert data.max_session_duration is None


@pytest.mark.parametrize(
    ("body", "violation"),
    [
        ("", "empty"),
        (HTML, "not JSON"),
        ('{"code":1000,"da', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("null", "the body is not an object but null"),
        ("[]", "the body is not an object but a list"),
        ('"x"', "the body is not an object but a string"),
        ("7", "a number"),
        ("true", "a boolean"),
        ({"code": 1000}, "data is not an object but null"),
        ({"code": 1000, "data": "x", "message": "Oh dear"}, "data is not an object but a string: Oh dear"),
        ({"code": 1000, "data": []}, "data is not an object but a list"),
        *[({"data": START_DATA | {name: None}}, f"data.{name} is not a string but null") for name in START_DATA],
        *[({"data": START_DATA | {name: 7}}, f"data.{name} is not a string but a number") for name in START_DATA],
        *[
            ({"data": START_DATA | {name: " "}}, f"data.{name} is empty, or has other characters than visible ASCII")
            for name in START_DATA
        ],
    ],
)
def test_violation(body: Any, violation: str) -> None:
    """A success that violates the contract is an error that names the place."""
    error = error_of(response(201, body))
    assert type(error) is BadResponseError
    assert violation in str(error)
    assert error.__context__ is None


@pytest.mark.parametrize("name", TOKEN_DATA)
def test_violation_of_token(name: str) -> None:
    """A token needs both of its fields; its error has the endpoint and the code."""
    data = {key: value for key, value in TOKEN_DATA.items() if key != name}
    error = error_of(response(200, {"code": 1000, "data": data}), CREATE_TOKEN)
    assert type(error) is BadResponseError
    assert name in str(error)
    assert (error.endpoint, error.code) == ("/v1/sessions/token", 1000)


@pytest.mark.parametrize("fault", [KeyError("room"), TypeError("room"), ValueError("room"), AttributeError("room")])
def test_generated_parser_fails(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that the generated parser cannot read is a BadResponseError, without its secrets."""

    def fail(body: Any) -> Any:
        raise fault

    monkeypatch.setattr(START.model, "from_dict", fail)
    given = response(201, {"code": 1000, "data": START_DATA, "message": "for its-token"})
    error = error_of(given, START, ("its-token",))
    assert type(error) is BadResponseError
    assert "violates the contract at" in str(error)
    assert "room" in str(error)
    assert "its-token" not in str(error)
    assert error.__context__ is None


@pytest.mark.parametrize("body", ["", HTML, "null", "[]", '{"code":', "{}", '{"data": 7}'])
def test_stop_needs_no_body(body: str) -> None:
    """A stop is a success whatever its body."""
    assert type(success(response(200, body), STOP)) is STOP.model


@pytest.mark.parametrize("endpoint", [STOP, KEEP_ALIVE, DELETE_EVENTS])
@pytest.mark.parametrize(
    ("body", "failed"),
    [
        ({"code": "4000"}, True),
        ({"code": "1000"}, False),
        ({"code": 1000.0}, False),
        ({"code": 100.0}, False),
        ({"code": 4000.0}, True),
        ({"code": "error"}, True),
        ({"code": True}, True),
        ({"code": None, "error": ""}, False),
        ({"code": None, "error": "no"}, True),
        ({"error": "no"}, True),
        ({"detail": "no"}, True),
        ({"detail": [{"msg": "no"}]}, True),
        ({"detail": [], "error": None}, False),
        ({"success": False}, True),
        ({"success": True}, False),
        ({"success": None}, False),
        ({"success": 0}, False),
        (["error"], False),
        ('"error"', False),
    ],
)
def test_failure_without_code(endpoint: Endpoint[Any], body: Any, failed: bool) -> None:
    """A 2xx that needs no body is an error if its body says so without an integer code."""
    given = response(200, body)
    if failed:
        assert error_of(given, endpoint).status == 200
    else:
        assert type(success(given, endpoint)) is endpoint.model


@pytest.mark.parametrize(
    ("body", "ended", "unknown_path"),
    [
        (envelope("Session not found"), True, False),
        (envelope("Not found"), True, True),
        (envelope("NOT FOUND"), True, True),
        (envelope("Nothing here"), True, False),
        (envelope(""), True, True),
        ({"detail": "Session not found"}, True, True),
        ({"detail": "Not Found"}, True, True),
        ("", True, True),
        ("No such session", True, True),
        ("404 page not found", False, True),
        ({"message": "no Route matched with those values"}, False, True),
        ("The app has been stopped.", False, True),
        ("The session has ended.", True, True),
        (HTML, False, True),
        (f"\r\n {HTML}", False, True),
    ],
)
def test_404(body: Any, ended: bool, unknown_path: bool) -> None:
    """A 404 means that the session does not run, unless it is the page or the text of a proxy."""
    error = error_of(response(404, body), STOP)
    assert type(error) is NotFoundError
    assert has_ended(error) is ended
    assert has_ended(error, start_known=False) is ("has ended" in error.message)
    assert is_unknown_path(error) is unknown_path
    assert not is_unknown_path(error_of(response(409, body), STOP))


@pytest.mark.parametrize(("message", "ended"), [("Session not found", True), ("Not found", False), ("Session", False)])
def test_end_under_success(message: str, ended: bool) -> None:
    """An error envelope under a 2xx ends a session if its message says so of the session."""
    assert has_ended(error_of(response(200, envelope(message)), STOP)) is ended


RECORD = {
    "id": SESSION,
    "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05Z",
    "duration": 61,
    "source": "API",
    "mode": "LITE",
    "is_sandbox": False,
    "credits_consumed": 2,
}


@pytest.mark.parametrize(
    ("name", "invalid", "violation"),
    [
        ("id", None, "is not a string but null"),
        ("created_at", 7, "is not a date and time but a number"),
        ("updated_at", "yesterday", "is not a date and time but a string"),
        ("duration", "61", "is not an integer but a string"),
        ("duration", True, "is not an integer but a boolean"),
        ("credits_consumed", "2", "is not a number but a string"),
        ("is_sandbox", 0, "is not a boolean but a number"),
        ("mode", {}, "is not a string but an object"),
        ("source", [], "is not a string but a list"),
    ],
)
def test_violation_of_record(name: str, invalid: Any, violation: str) -> None:
    """The error of an invalid record names the field, the type that it must have, and the type that it has."""
    record = RECORD | {name: invalid}
    assert f"data.{name} {violation}" in str(error_of(response(200, envelope("", 1000, record)), GET))
    page = {"count": 2, "next": None, "previous": None, "results": [RECORD, record]}
    assert f"data.results[1].{name} {violation}" in str(error_of(response(200, envelope("", 1000, page)), LIST))


def test_violation_of_list() -> None:
    """The error of an invalid list says so."""
    for results, violation in (("x", "a string"), ({}, "an object"), (None, "null")):
        page = {"count": 1, "next": None, "previous": None, "results": results}
        error = error_of(response(200, envelope("", 1000, page)), LIST)
        assert f"data.results is not a list but {violation}" in str(error)
    page = {"count": 1, "next": None, "previous": None, "results": ["x"]}
    error = error_of(response(200, envelope("", 1000, page)), LIST)
    assert "data.results[0] is not an object but a string" in str(error)


def test_id_under_another_name() -> None:
    """A record may name its id `session_id`."""
    record = {name: value for name, value in RECORD.items() if name != "id"} | {"session_id": SESSION}
    assert success(response(200, envelope("", 1000, record)), GET).data.id == SESSION


@attrs.define
class Options:
    """A model whose fields may be missing, but not null."""

    first: str | Unset = UNSET
    second: int | Unset = UNSET
    third: str | Unset = UNSET
    id: str | Unset = UNSET

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Options:
        return cls(**{name: value for name, value in values.items() if name != "session_id"})


@pytest.mark.parametrize("first", [None, 7])
def test_invalid_optional_value(first: Any) -> None:
    """An optional field that is null or invalid counts as missing, and the others are checked all the same."""
    assert from_json(Options, {"first": first, "second": "7", "third": "x"}) == Options(third="x")
    assert from_json(Options, {"third": "x", "session_id": 7}) == Options(third="x")


@attrs.define
class Choice:
    """A model whose field has one of a few values."""

    encoding: VideoEncoding

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Choice:
        return cls(VideoEncoding(values["encoding"]))


def test_violation_of_enum() -> None:
    """A value that is none of the known ones is an error that says so."""
    assert from_json(Choice, {"encoding": "H264"}) == Choice(VideoEncoding.H264)
    with pytest.raises(ContractViolationError) as caught:
        from_json(Choice, {"encoding": "VHS"})
    assert str(caught.value) == "encoding is not a known value but a string"


def test_record() -> None:
    """A record has dates, and numbers as they were sent."""
    found = success(response(200, envelope("", 1000, RECORD | {"end_at": "soon", "end_reason": 7})), GET).data
    assert found.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (found.duration, found.credits_consumed, found.is_sandbox) == (61, 2, False)
    assert not found.end_at
    assert not found.end_reason


@pytest.mark.parametrize("idempotent", [True, False])
def test_custom_endpoint(idempotent: bool) -> None:
    """An endpoint that has no method is retried only if that is safe."""
    row = custom("PUT", "/avatars", idempotent=idempotent)
    assert (row.method, row.path, row.full_path, row.model) == ("PUT", "/avatars", "/v1/avatars", None)
    assert row.retry_if_lost is idempotent
    assert [row.retry_statuses(status) for status in (429, 408, 500, 400)] == [True, idempotent, idempotent, False]
    assert not row.may_be_running(LiveAvatarConnectionError("broken"))


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (envelope("", 1000, [7]), [7]),
        ({"code": 1000}, None),
        ({"data": [7]}, [7]),
        ({"name": "x"}, {"name": "x"}),
        (["data"], ["data"]),
        ("null", None),
        ("", None),
    ],
)
def test_data_of_custom_endpoint(body: Any, data: Any) -> None:
    """An endpoint that has no method returns the data of an envelope, other JSON as it is, and None for no body."""
    assert success(response(200, body), custom("GET", "/x", idempotent=True)) == data


def test_violation_of_custom_endpoint() -> None:
    """A body that is not JSON is an error of an endpoint that has no method, too."""
    assert "not JSON" in str(error_of(response(200, HTML), custom("GET", "/x", idempotent=True)))


# ---- Incomplete and unreadable bodies ----------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, gzip", "X" * 500])
def test_encoding(encoding: str) -> None:
    """A body in an encoding that was not asked for is an error."""
    error = error_of(response(201, {"data": START_DATA}, content_encoding=encoding))
    assert type(error) is BadResponseError
    assert encoding.lower()[:20] in str(error)
    assert len(str(error)) < 200


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_no_encoding(encoding: str) -> None:
    """A body that is not encoded is read."""
    assert success(response(201, {"data": START_DATA}, content_encoding=encoding)).data.session_id == SESSION


def test_body_too_large() -> None:
    """A body that does not end is refused, and not kept."""
    endless = Response(201, {})
    chunks = 0
    while endless.feed(b"x" * 65536):
        chunks += 1
    assert chunks == MAX_RESPONSE_BYTES // 65536
    assert not endless.content
    assert type(error_of(endless)) is BadResponseError


@pytest.mark.parametrize("body", ['{"data":', '{"code": 1000, "data": null, "message": ""}'])
def test_body_truncated(body: str) -> None:
    """A truncated body is a connection error, unless the status has said enough."""
    truncated = response(201, body)
    truncated.read_error = LiveAvatarConnectionError("cut off")
    with pytest.raises(LiveAvatarConnectionError, match="cut off"):
        success(truncated)
    assert type(success(truncated, STOP)) is STOP.model
    truncated.status = 503
    assert type(error_of(truncated)) is ServerError


def test_timeout_after_head() -> None:
    """A request that has a response was sent, even if its time is over right after.

    Otherwise a start whose body arrives too late would pass for one that was never sent.
    """
    request = Request(
        method="POST",
        url="http://127.0.0.1/v1/sessions/start",
        headers={},
        credential=("X-API-KEY", Secret("k")),
        deadline=time.monotonic() - 1,
    )
    with pytest.raises(LiveAvatarTimeoutError) as late:
        request.remaining()
    assert not late.value.request_sent
    problem = with_read_error(Response(201, {}), late.value).read_error
    assert problem is not None
    assert problem.request_sent
    with pytest.raises(LiveAvatarTimeoutError):
        with_read_error(None, late.value)


# ---- Secrets -----------------------------------------------------------------------------------------------


def test_secrets() -> None:
    """No secret of the request or of the response appears in an error."""
    body = {"code": 4000, "message": "the-api-key is bad", "data": {"ws_url": "wss://s3cret", "input": "room-token"}}
    error = error_of(response(400, body, x_request_id="the-api-key"), secrets=("the-api-key", "room-token"))
    shown = f"{error} {error!r} {error.message} {error.response_text} {error.request_id}"
    assert not any(secret in shown for secret in ("the-api-key", "s3cret", "room-token"))
    assert "*** is bad" in str(error)


# ---- Retry-After -------------------------------------------------------------------------------------------

NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1.0),
        (" 30 ", 30.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("3600", 3600.0),
        ("999999999", 999999999.0),
        ("Tue, 01 Jan 2030 12:00:01 GMT", 1.0),
        ("Tue, 01 Jan 2030 12:00:00 GMT", None),
        ("Tue, 01 Jan 2030 11:59:59 GMT", None),
        ("Tuesday, 01-Jan-30 12:00:05 GMT", 5.0),
        ("Tue Jan  1 12:00:05 2030", 5.0),
        ("Tue, 01 Jan 2030 12:00:05 EST", 5.0),  # HTTP has no other zone, whatever a server writes
        ("Tue, 01 Jan 2030 12:00:05 +0200", 5.0),
        ("Tue, 01 Jan 2030 12:00:05" + " " * 32 + "GMT", 5.0),
        ("Tue, 01 Jan 2030 12:00:05" + " " * 33 + "GMT", None),
        ("Tue, 99 Jan 2030 12:00:05 GMT", None),
        ("Tue, 99 Foo 2030 25:61:61 GMT", None),
        ("Tue, 01 Jan", None),
        ("Monday", None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("0x10", None),
        ("5 seconds", None),
        ("1, 2", None),
        ("\xb2", None),
        ("9" * 400, None),
        ("9" * 3000, None),
        ("Tue, " * 40, None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Retry-After is a number of seconds or an HTTP date; anything else counts as absent."""
    assert retry_after(value, NOW) == seconds


def test_retry_after_fraction() -> None:
    """A date less than a second ahead is a wait of less than a second."""
    assert retry_after("Tue, 01 Jan 2030 12:00:01 GMT", NOW.replace(microsecond=500_000)) == 0.5


def test_retry_after_now() -> None:
    """A date is compared with the present time."""
    assert (retry_after("Fri, 31 Dec 9999 00:00:00 GMT") or 0) > 1e9
