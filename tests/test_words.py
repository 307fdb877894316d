"""What an error tells a person: its one line, and what is kept of the answer behind it."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from liveavatar import (
    BadResponseError,
    InvalidRequestError,
    LiveAvatarApiError,
    RateLimitError,
    ServerError,
)
from liveavatar._answers import MAX_TEXT, read, retry_after
from liveavatar._sessions import check_session_id
from liveavatar._wire import Answer

ROOM = {"session_id": "1", "livekit_url": "wss://x", "livekit_client_token": "t"}


def error(status: int, body: Any, endpoint: str = "start", secrets: tuple[str, ...] = ()) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(LiveAvatarApiError) as caught:
        read(Answer(status, {}, bytearray(content)), endpoint, lambda: secrets)
    return caught.value


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (400, {"code": 4000, "message": "No such avatar"}, "400 (code 4000) No such avatar."),
        (400, {"message": "No such avatar"}, "400 No such avatar."),
        (400, {"message": "No such avatar."}, "400 No such avatar."),
        (400, {"message": "No!"}, "400 No!"),
        (400, {"message": "Which?"}, "400 Which?"),
        (400, b"", "400 Bad Request."),
        (599, b"", "599 an answer without words. The fault is at the service; try again later."),
        (201, b"", "201 the body is empty."),
        (201, b"{", "201 the body is not JSON."),
        (201, {"data": True}, "201 data is not an object but a boolean."),
        (201, {"data": {"session_id": {}}}, "201 data.session_id is not a string but an object."),
        (201, {"code": 100, "data": 1, "message": "Hm"}, "201 (code 100) data is not an object but a number: Hm."),
    ],
)
def test_an_error_is_one_line_for_a_person(status: int, body: Any, line: str) -> None:
    assert str(error(status, body)) == line


@pytest.mark.parametrize(
    ("body", "words"),
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
    ],
)
def test_plain_text_speaks_for_itself_and_markup_does_not(body: bytes, words: str) -> None:
    assert error(502, body).message == words


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    assert error(502, b"a " * 1000 + b"<html>").message.startswith("a a")
    assert error(502, b"a " * 997 + b"<html>").message == "Bad Gateway"


def test_the_answer_is_kept_as_far_as_it_is_readable() -> None:
    assert error(502, b"\xffx").response_text == "\N{REPLACEMENT CHARACTER}x"
    assert len(error(502, b"x" * (MAX_TEXT + 1)).response_text) == MAX_TEXT


def test_an_error_survives_being_copied_and_pickled() -> None:
    original = error(422, {"detail": [{"loc": ["body", "mode"], "msg": "Field required"}]})
    for twin in (copy.copy(original), pickle.loads(pickle.dumps(original))):
        assert type(twin) is InvalidRequestError
        assert str(twin) == str(original)
        assert vars(twin) == vars(original)
    made_by_hand = ServerError("500 Oh.", 500, "Oh")
    assert (made_by_hand.message, made_by_hand.status, made_by_hand.response_text) == ("500 Oh.", 500, "Oh")
    assert made_by_hand.args == ("500 Oh.", 500, "Oh")


def test_the_complaints_of_an_error_are_masked_and_not_endless() -> None:
    complaints = [{"loc": ["my-secret", place], "msg": "not my-secret"} for place in range(51)]
    found = error(422, {"detail": complaints}, secrets=("my-secret",)).errors
    assert found[0] == ("***.0", "not ***")
    assert len(found) == 50


def test_a_success_that_cannot_be_used_says_which_call_and_which_code() -> None:
    bad = error(200, {"code": 1000, "data": None}, "token")
    assert type(bad) is BadResponseError
    assert (bad.endpoint, bad.code) == ("/v1/sessions/token", 1000)


def test_the_statuses_of_success_end_at_299() -> None:
    body = {"code": 4000, "message": "Too many requests"}
    assert type(error(299, body)) is RateLimitError
    assert type(error(300, body)) is LiveAvatarApiError
    assert type(error(300, {"code": 100, "data": ROOM})) is LiveAvatarApiError
    assert read(Answer(299, {}, bytearray(json.dumps({"data": ROOM}).encode())), "start", tuple)["data"] == ROOM | {
        "livekit_agent_token": None,
        "ws_url": None,
        "max_session_duration": None,
    }


def test_words_decide_up_to_499() -> None:
    assert type(error(499, {"message": "No credits left"})).__name__ == "InsufficientCreditsError"


@pytest.mark.parametrize(("given", "kept"), [("Started", "Started"), (None, ""), (7, "")])
def test_the_message_of_a_success_is_kept_if_it_is_text(given: Any, kept: str) -> None:
    content = json.dumps({"code": 1000, "data": ROOM, "message": given}).encode()
    assert read(Answer(201, {}, bytearray(content)), "start", tuple)["message"] == kept


NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Tue, 01 Jan 2030 12:00:01 GMT", 1.0),
        ("Tue, 01 Jan 2030 12:00:00 GMT", None),
        ("Tue, 01 Jan 2030 11:59:59 GMT", None),
        ("Tuesday, 01-Jan-30 12:00:05 GMT", 5.0),
        ("Tue Jan  1 12:00:05 2030", 5.0),
        ("Tue, 01 Jan 2030 12:00:05 EST", 5.0),  # HTTP knows no other zone, whatever is written
        ("Tue, 01 Jan 2030 12:00:05 +0200", 5.0),
        ("Tue, 01 Jan 2030 12:00:05 GMT".replace(" GMT", " " * 32 + "GMT"), 5.0),
        ("Tue, 01 Jan 2030 12:00:05 GMT".replace(" GMT", " " * 33 + "GMT"), None),
    ],
)
def test_a_date_in_retry_after_is_how_long_to_wait(header: str, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


def test_a_wait_of_less_than_a_second_is_a_wait() -> None:
    assert retry_after("Tue, 01 Jan 2030 12:00:01 GMT", NOW.replace(microsecond=500_000)) == 0.5


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (None, ValueError, "session_id is None; it is the id of a session (UUID)"),
        ("", ValueError, "session_id is empty; it is the id of a session (UUID)"),
        (" ", ValueError, "session_id is empty; it is the id of a session (UUID)"),
        (7, TypeError, "session_id must be a str, not int"),
    ],
)
def test_an_impossible_session_id_is_named(given: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        check_session_id(given)
    assert str(caught.value) == words
