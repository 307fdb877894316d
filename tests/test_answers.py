"""The pure part, shown by literals: what an answer means, what a request becomes, what is allowed, what is hidden."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

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
    LiveAvatarError,
    LiveAvatarTimeoutError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SessionTokenNotFoundError,
)
from liveavatar._answers import MAX_TEXT, read, retry_after
from liveavatar._config import BASE_URL, configure
from liveavatar._requests import stop_reason
from liveavatar._secrets import MASK, Secret, masked, secrets_in
from liveavatar._sessions import Sessions
from liveavatar._wire import MAX_BODY, Answer, WireRequest, settled

from liveavatar_client.models import StopReason
from liveavatar_client.types import UNSET

SESSION = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"
TOKEN_DATA = {"session_id": SESSION, "session_token": "t"}
START_DATA = {"session_id": SESSION, "livekit_url": "wss://rooms.example.com", "livekit_client_token": "c"}
HTML = "<html><head><title>Oh</title></head><body><h1>Bad Gateway</h1></body></html>"


def answer(status: int, body: Any = "", **headers: str) -> Answer:
    text = body if isinstance(body, str) else json.dumps(body)
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, bytearray(text.encode()))


def envelope(message: str | None, code: int = 4000, data: Any = None) -> dict[str, Any]:
    return {"code": code, "data": data, "message": message}


def error_of(given: Answer, endpoint: str = "start", secrets: tuple[str, ...] = ()) -> LiveAvatarApiError:
    with pytest.raises(LiveAvatarApiError) as caught:
        read(given, endpoint, lambda: secrets)
    return caught.value


# ---- Which error -------------------------------------------------------------------------------------------

KINDS: list[tuple[int, str, type[LiveAvatarApiError]]] = [
    (301, "", LiveAvatarApiError),
    (308, "", LiveAvatarApiError),
    (400, "The avatar id is malformed", BadRequestError),
    (400, "Not enough credits", InsufficientCreditsError),
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
    (429, "Slow down", RateLimitError),
    (429, "Concurrent session limit reached", ConcurrencyLimitError),
    (500, "Internal Server Error", ServerError),
    (500, "The credits service is down", ServerError),
    (502, HTML, ServerError),
    (503, "Concurrency control failed", ServerError),
    (504, "", ServerError),
    (520, HTML, ServerError),
    (599, "", ServerError),
    (200, "Concurrency limit reached", ConcurrencyLimitError),
    (200, "Insufficient credits", InsufficientCreditsError),
    (201, "Rate limit exceeded", RateLimitError),
    (200, "Invalid session token", AuthenticationError),
    (200, "Session not found", NotFoundError),
    (201, "Session already stopped", ConflictError),
    (200, "Something else", LiveAvatarApiError),
]


@pytest.mark.parametrize("endpoint", ["token", "start", "stop"])
@pytest.mark.parametrize(("status", "words", "kind"), KINDS)
def test_the_status_and_the_words_of_an_answer_decide_which_error_it_is(
    endpoint: str, status: int, words: str, kind: type[LiveAvatarApiError]
) -> None:
    page = words.startswith("<")
    error = error_of(answer(status, words if page else envelope(words)), endpoint)
    assert type(error) is kind
    assert error.status == status
    assert error.endpoint == f"/v1/sessions/{endpoint}"
    assert "<" not in str(error)
    if words and not page:
        assert words in str(error)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422, 429, 500, 502, 520])
@pytest.mark.parametrize("body", ["", "\0", "null", "[]", '"text"', "7", '{"code":', HTML, "{}", '{"detail": 7}'])
def test_the_status_alone_is_enough(status: int, body: str) -> None:
    error = error_of(answer(status, body))
    assert type(error) is type(error_of(answer(status)))
    assert str(error).startswith(str(status))
    assert "\n" not in str(error)
    assert error.response_text == body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (envelope("avatar is unknown"), "avatar is unknown"),
        (envelope("Invalid", data=[{"loc": "avatar_id", "message": "bad uuid"}]), "Invalid; avatar_id: bad uuid"),
        (envelope("Invalid", data=[{"message": "bad uuid"}]), "Invalid; bad uuid"),
        (envelope(None, data=[{"loc": ["a", 0], "message": "bad"}]), "a.0: bad"),
        ({"detail": [{"loc": ["body", "mode"], "msg": "Field required", "type": "x"}]}, "body.mode: Field required"),
        ({"detail": "Not allowed here"}, "Not allowed here"),
        ({"error": "Invalid UUID"}, "Invalid UUID"),
        ("plain words", "plain words"),
        (envelope("two\nlines\tand\0more"), "two lines and more"),
        (envelope(""), HTTPStatus(422).phrase),
        (HTML, HTTPStatus(422).phrase),
        ("", HTTPStatus(422).phrase),
    ],
)
def test_the_services_own_words_are_found_in_any_shape(body: Any, words: str) -> None:
    error = error_of(answer(422, body))
    assert error.message == words
    assert words in str(error)


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
def test_the_list_of_an_invalid_request_is_read(body: Any, errors: tuple[tuple[str, str], ...]) -> None:
    error = error_of(answer(422, body))
    assert isinstance(error, InvalidRequestError)
    assert error.errors == errors


def test_an_error_has_the_envelopes_code_and_the_id_of_the_request() -> None:
    error = error_of(answer(403, envelope("No", 4031), x_request_id="r-1"))
    assert (error.code, error.request_id) == (4031, "r-1")
    assert str(error) == "403 (code 4031) No. Check what the account's plan allows."
    error = error_of(answer(502, HTML, cf_ray="ray-1"))
    assert (error.code, error.request_id) == (None, "ray-1")


@pytest.mark.parametrize("code", ["4000", True, None, 4000.5])
def test_a_code_that_is_no_number_is_none(code: Any) -> None:
    assert error_of(answer(400, {"code": code, "message": "m"})).code is None


def test_an_error_keeps_a_bounded_part_of_the_body_and_of_the_words() -> None:
    error = error_of(answer(500, "x" * (MAX_TEXT + 1000)))
    assert len(error.response_text) == MAX_TEXT
    assert len(str(error)) < 1000


def test_401_says_what_to_do_for_each_credential() -> None:
    said = {endpoint: str(error_of(answer(401), endpoint)) for endpoint in ("token", "start", "stop")}
    assert "LIVEAVATAR_API_KEY" in said["token"]
    assert "new one" in said["start"]
    assert "API key" in said["stop"]


# ---- Which value -------------------------------------------------------------------------------------------


def success(given: Answer, endpoint: str) -> dict[str, Any]:
    return read(given, endpoint, tuple)


@pytest.mark.parametrize("status", [200, 201, 202, 299])
@pytest.mark.parametrize("code", [100, 1000, None])
@pytest.mark.parametrize(("endpoint", "data"), [("token", TOKEN_DATA), ("start", START_DATA)])
def test_a_2xx_with_what_is_required_is_success(
    status: int, code: int | None, endpoint: str, data: dict[str, Any]
) -> None:
    body = success(answer(status, {"data": data} | ({} if code is None else {"code": code})), endpoint)
    assert data.items() <= body["data"].items()
    assert body["code"] == (code or 100)
    assert body["message"] == ""


@pytest.mark.parametrize("odd", [None, 7, [], {}, True])
@pytest.mark.parametrize("name", ["livekit_agent_token", "ws_url"])
def test_what_is_optional_and_odd_is_none(name: str, odd: Any) -> None:
    assert success(answer(201, {"data": START_DATA | {name: odd}}), "start")["data"][name] is None


@pytest.mark.parametrize("odd", [None, "600", 1.5, True, [], {}])
def test_a_duration_that_is_no_number_of_seconds_is_none(odd: Any) -> None:
    assert (
        success(answer(201, {"data": START_DATA | {"max_session_duration": odd}}), "start")["data"][
            "max_session_duration"
        ]
        is None
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "empty"),
        (HTML, "not JSON"),
        ('{"code":1000,"da', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("null", "null"),
        ("[]", "a list"),
        ('"x"', "a string"),
        ("7", "a number"),
        ("true", "a boolean"),
        ({"code": 1000}, "data is not an object but null"),
        ({"code": 1000, "data": "x", "message": "Oh dear"}, "data is not an object but a string: Oh dear"),
        ({"code": 1000, "data": []}, "data is not an object but a list"),
        *[({"data": START_DATA | {name: None}}, f"data.{name} is not a string but null") for name in START_DATA],
        *[({"data": START_DATA | {name: 7}}, f"data.{name} is not a string but a number") for name in START_DATA],
        *[({"data": START_DATA | {name: " "}}, f"data.{name} is empty, or not plain text") for name in START_DATA],
    ],
)
def test_a_success_that_breaks_the_contract_is_an_error_that_names_the_place(body: Any, words: str) -> None:
    error = error_of(answer(201, body), "start")
    assert type(error) is BadResponseError
    assert words in str(error)


@pytest.mark.parametrize("name", TOKEN_DATA)
def test_a_token_answer_needs_both_its_fields(name: str) -> None:
    data = {key: value for key, value in TOKEN_DATA.items() if key != name}
    assert type(error_of(answer(200, {"data": data}), "token")) is BadResponseError


@pytest.mark.parametrize("body", ["", HTML, "null", "[]", '{"code":', "{}", '{"data": 7}'])
def test_a_stop_is_success_whatever_its_body(body: str) -> None:
    assert isinstance(success(answer(200, body), "stop"), dict)


def test_a_body_in_an_encoding_that_was_not_asked_for_is_refused() -> None:
    error = error_of(answer(201, {"data": START_DATA}, content_encoding="gzip"))
    assert type(error) is BadResponseError
    assert "gzip" in str(error)


def test_a_body_without_end_is_refused_and_not_kept() -> None:
    endless = Answer(201, {})
    chunks = 0
    while endless.takes(b"x" * 65536):
        chunks += 1
    assert chunks == MAX_BODY // 65536
    assert not endless.content
    assert type(error_of(endless)) is BadResponseError


def test_a_body_that_did_not_come_whole_is_a_broken_connection_but_the_status_counts_first() -> None:
    broken = answer(201, '{"data":')
    broken.problem = LiveAvatarConnectionError("cut off")
    with pytest.raises(LiveAvatarConnectionError, match="cut off"):
        success(broken, "start")
    assert success(broken, "stop") == {}
    broken.status = 503
    assert type(error_of(broken)) is ServerError


NOW = datetime(2026, 10, 21, 7, 28, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1.0),
        (" 30 ", 30.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("3600", 3600.0),
        ("Wed, 21 Oct 2026 07:28:02 GMT", 2.0),
        ("Wednesday, 21-Oct-26 07:28:02 GMT", 2.0),
        ("Wed Oct 21 07:28:02 2026", 2.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", None),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("9" * 400, None),
        ("Wed, 99 Oct 2026 07:28:02 GMT", None),
        ("Wed, " * 40, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_nonsense_is_nothing(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


# ---- Settings ----------------------------------------------------------------------------------------------


def config(**given: Any) -> Any:
    return configure(**({"api_key": "key", "base_url": None, "timeout": 60.0, "max_retries": 2} | given))


@pytest.mark.parametrize("key", [None, "", "  ", "\n"])
@pytest.mark.parametrize("variable", [None, "", " \n"])
def test_without_an_api_key_the_argument_and_the_variable_are_named(
    key: str | None, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("LIVEAVATAR_API_KEY", variable)
    with pytest.raises(LiveAvatarError, match=r"api_key=.*LIVEAVATAR_API_KEY"):
        config(api_key=key)


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", " ", "\t", "\x7f", "é", "€", "\ud800", "\u200b"])
def test_a_key_with_a_character_that_no_key_has_is_refused_and_not_shown(bad: str) -> None:
    with pytest.raises(ValueError, match="api_key") as caught:
        config(api_key=f"s3cret{bad}s3cret")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (None, BASE_URL),
        ("https://api.example.com", "https://api.example.com/v1"),
        ("https://api.example.com/", "https://api.example.com/v1"),
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("https://api.example.com:8443/proxy/v2", "https://api.example.com:8443/proxy/v2"),
        ("HTTPS://api.example.com", "https://api.example.com/v1"),
        ("http://localhost:8080", "http://localhost:8080/v1"),
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"),
        ("http://127.1.2.3", "http://127.1.2.3/v1"),
        ("http://[::1]:8080", "http://[::1]:8080/v1"),
    ],
)
def test_base_urls_that_are_taken(given: str | None, taken: str) -> None:
    assert config(base_url=given).base_url == taken


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "api.liveavatar.com",
        "//api.liveavatar.com",
        "ftp://api.liveavatar.com",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://api.liveavatar.com:port",
        "https://api.liveavatar.com:0",
        "https://api.liveavatar.com:99999",
        "https://user:s3cret@api.liveavatar.com",
        "https://s3cret@api.liveavatar.com",
        "https://api.liveavatar.com?a=s3cret",
        "https://api.liveavatar.com/v1#s3cret",
        "https://api.liveavatar.com/?",
        "https://api.liveavatar.com/#",
        "https://api.liveavatar .com",
        "https://api.liveavatar.com\\@evil.example",
        "https://api.liveavatar.com/v1\r\nX: y",
        "https://[::1",
        "http://api.liveavatar.com",
        "http://10.0.0.1",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://0.0.0.0",
    ],
)
def test_base_urls_that_are_refused_without_being_shown(bad: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        config(base_url=bad)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"api_key": 7}, TypeError, "api_key must be a str, not int"),
        ({"api_key": b"key"}, TypeError, "api_key must be a str, not bytes"),
        ({"base_url": 7}, TypeError, "base_url must be a str, not int"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": float("inf")}, ValueError, "timeout"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"timeout": "60"}, TypeError, "timeout"),
        ({"timeout": None}, TypeError, "timeout"),
        ({"timeout": True}, TypeError, "timeout"),
        ({"max_retries": -1}, ValueError, "max_retries"),
        ({"max_retries": 1.5}, TypeError, "max_retries"),
        ({"max_retries": True}, TypeError, "max_retries"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(given: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        config(**given)


@pytest.mark.parametrize(
    ("given", "sent"),
    [(None, UNSET), ("USER_CLOSED", StopReason.USER_CLOSED), (StopReason.AGENT_HANG_UP, StopReason.AGENT_HANG_UP)],
)
def test_a_stop_reason_is_one_of_the_services(given: Any, sent: Any) -> None:
    assert stop_reason(given) is sent


@pytest.mark.parametrize(("given", "kind"), [("BORED", ValueError), (7, TypeError)])
def test_another_stop_reason_is_refused_and_the_services_are_named(given: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"reason.*'USER_CLOSED'"):
        stop_reason(given)


# ---- Secrets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"session_token": "s3cret"}', '{"session_token": "***"}'),
        ('{"ws_url":"wss://s3cret","a":1}', '{"ws_url":"***","a":1}'),
        ("{'livekit_client_token': 's3cret'}", "{'livekit_client_token': '***'}"),
        (r'{"body": "{\"agora_token\": \"s3cret\"}"}', r'{"body": "{\"agora_token\": \"***\"}"}'),
        ('{"livekit_agent_token": "s3cret', '{"livekit_agent_token": "***'),
        ('{"ws_url": null, "session_id": "7"}', '{"ws_url": null, "session_id": "7"}'),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln is bad", "token *** is bad"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdW", "token ***"),
        ("https://meet.example/?token=s3cret&a=1", "https://meet.example/?token=***&a=1"),
        ("https://meet.example/?access_token=s3cret", "https://meet.example/?access_token=***"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("""{"ws_url": "wss://s3cret/?a='s3cret'", "b": 1}""", '{"ws_url": "***", "b": 1}'),
        (r'{"session_token": "s3cret\"s3cret", "b": 1}', '{"session_token": "***", "b": 1}'),
        (
            r'{"body": "{\"agora_token\": \"s3cret\\\"s3cret\", \"b\": 1}"}',
            r'{"body": "{\"agora_token\": \"***\", \"b\": 1}"}',
        ),
    ],
)
def test_a_quote_inside_a_secret_is_not_its_end(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text", ["key a/b+c=d!", "key a%2Fb%2Bc%3Dd%21", "key a/b%2Bc%3Dd%21", '{"k": "a/b+c=d!"}'], ids=range(4)
)
def test_a_known_secret_is_masked_in_any_escaping(text: str) -> None:
    assert masked(text, ["a/b+c=d!"]) == text[: text.index("a")] + MASK + ('"}' if text[0] == "{" else "")


def test_a_secret_too_short_to_be_one_does_not_mask_words() -> None:
    assert masked("a session token", ["a", "ses"]) == "a session token"


def test_secrets_are_found_anywhere_in_a_request() -> None:
    request = {"livekit_config": {"livekit_client_token": "one"}, "list": [{"agora_token": "two"}], "ws_url": None}
    assert sorted(secrets_in(request)) == ["one", "two"]


def test_the_answers_secrets_do_not_show_in_an_error() -> None:
    body = {"code": 4000, "message": "the-api-key is bad", "data": {"ws_url": "wss://s3cret", "input": "room-token"}}
    error = error_of(answer(400, body, x_request_id="the-api-key"), secrets=("the-api-key", "room-token"))
    shown = f"{error} {error!r} {error.message} {error.response_text} {error.request_id}"
    assert not any(secret in shown for secret in ("the-api-key", "s3cret", "room-token"))
    assert "*** is bad" in str(error)


def test_a_secret_shows_as_stars() -> None:
    assert f"{Secret('s3cret')} {Secret('s3cret')!r}" == "*** ***"
    assert Secret("s3cret").reveal() == "s3cret"


# ---- Sessions ----------------------------------------------------------------------------------------------


def test_a_session_is_open_until_it_is_forgotten() -> None:
    sessions = Sessions()
    session = sessions.remember("1", Secret("t"))
    seen = [(sessions.ids, sessions.latest_token)]  # it is the caller's only once it has started
    sessions.started(session, "1")
    seen.append((sessions.ids, sessions.latest_token))
    sessions.forget(session)
    seen.append((sessions.ids, sessions.latest_token))
    assert seen == [(("1",), None), (("1",), "t"), ((), None)]


def test_a_session_is_known_by_the_id_that_its_start_gives_it() -> None:
    sessions = Sessions()
    session = sessions.remember("minted", Secret("t"))
    sessions.started(session, "started")
    assert sessions.ids == ("started",)
    assert sessions.find("started") is session


def test_a_session_that_ended_is_told_from_one_that_was_never_here() -> None:
    sessions = Sessions()
    sessions.forget(sessions.remember("1", Secret("t")))
    with pytest.raises(SessionTokenNotFoundError, match="closed already"):
        sessions.find("1")
    with pytest.raises(SessionTokenNotFoundError, match="did not open it") as caught:
        sessions.find("2")
    assert caught.value.session_id == "2"


def test_the_memory_of_ended_sessions_is_bounded() -> None:
    sessions = Sessions()
    for number in range(3000):
        sessions.forget(sessions.remember(str(number), Secret("t")))
    assert len(sessions._ended) < 2000
    with pytest.raises(SessionTokenNotFoundError, match="closed already"):
        sessions.find("2999")


def test_no_token_shows_in_the_repr_of_what_is_remembered() -> None:
    sessions = Sessions()
    session = sessions.remember("1", Secret("s3cret"))
    assert "s3cret" not in f"{sessions!r} {session!r}"


def test_a_request_that_has_an_answer_was_sent_even_if_its_time_ran_out_right_after() -> None:
    """Else a start whose body drips past the deadline would pass for one that never left."""
    request = WireRequest("http://127.0.0.1/v1/sessions/start", {}, b"", deadline=time.monotonic() - 1)
    with pytest.raises(LiveAvatarTimeoutError) as late:
        request.remaining()
    assert not late.value.request_sent
    problem = settled(Answer(201, {}), late.value).problem
    assert problem is not None
    assert problem.request_sent
