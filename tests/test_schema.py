"""Requests become JSON, and JSON becomes models, by the types of the generated models' fields."""

from __future__ import annotations

import inspect
import json
import typing
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from liveavatar import (
    AvatarPersona,
    CustomSDKLiveKitConfig,
    LiveAvatarNewSessionRequest,
    StopReason,
    VideoEncoding,
    VideoQuality,
    VideoSettings,
    _endpoints,
)
from liveavatar._redaction import secret_fields
from liveavatar._request_bodies import session_request, stop_request
from liveavatar._response_models import ContractViolationError, from_json
from liveavatar._schema import enum_member, fields

import liveavatar_client.models as generated
from liveavatar_client.types import Unset

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
ROOM = {"livekit_url": "wss://rooms.example.com", "livekit_room": "desk", "livekit_client_token": "room-token"}
VIDEO = {"encoding": "VP8", "quality": "high"}
PLAIN = {"mode": "LITE", "avatar_id": AVATAR, "is_sandbox": False, "video_settings": VIDEO}


def request(**given: Any) -> LiveAvatarNewSessionRequest:
    return LiveAvatarNewSessionRequest(avatar_id=AVATAR, **given)


def with_item(request: LiveAvatarNewSessionRequest, name: str, value: Any) -> LiveAvatarNewSessionRequest:
    request[name] = value
    return request


# ---- Requests ----------------------------------------------------------------------------------------------

BODIES: dict[str, tuple[LiveAvatarNewSessionRequest, dict[str, Any]]] = {
    "defaults": (request(), PLAIN),
    "no video settings": (request(video_settings=None), PLAIN | {"video_settings": {"encoding": "VP8"}}),
    "no mode": (request(mode=None), PLAIN),
    "a persona": (
        request(mode="FULL", avatar_persona=AvatarPersona(voice_id=AVATAR, context_id=None, language="de")),
        PLAIN | {"mode": "FULL", "avatar_persona": {"voice_id": AVATAR, "language": "de"}},
    ),
    "the default persona": (
        request(mode="FULL", avatar_persona=AvatarPersona()),
        PLAIN | {"mode": "FULL", "avatar_persona": {"language": "en"}},
    ),
    "a persona of a context": (
        request(mode="FULL", avatar_persona=AvatarPersona(context_id=AVATAR)),
        PLAIN | {"mode": "FULL", "avatar_persona": {"context_id": AVATAR, "language": "en"}},
    ),
    "no is_sandbox": (
        request(is_sandbox=None),
        {name: value for name, value in PLAIN.items() if name != "is_sandbox"},
    ),
    "the default quality": (
        request(video_settings=VideoSettings(VideoEncoding.H264)),
        PLAIN | {"video_settings": {"encoding": "H264", "quality": "high"}},
    ),
    "is_sandbox": (request(is_sandbox=True), PLAIN | {"is_sandbox": True}),
    "a room": (request(livekit_config=CustomSDKLiveKitConfig(**ROOM)), PLAIN | {"livekit_config": ROOM}),
    "a room as a dict": (request(livekit_config=ROOM), PLAIN | {"livekit_config": ROOM}),
    "a room with an unknown field": (
        request(livekit_config=ROOM | {"region": "eu"}),
        PLAIN | {"livekit_config": ROOM | {"region": "eu"}},
    ),
    "video as a dict": (
        request(video_settings={"encoding": "H264"}),
        PLAIN | {"video_settings": {"encoding": "H264", "quality": "high"}},
    ),
    "enums": (
        request(video_settings=VideoSettings(VideoEncoding.H264, VideoQuality.low)),
        PLAIN | {"video_settings": {"encoding": "H264", "quality": "low"}},
    ),
    "enums as text": (
        request(video_settings=VideoSettings("H264", "very_high")),  # type: ignore[arg-type]
        PLAIN | {"video_settings": {"encoding": "H264", "quality": "very_high"}},
    ),
    "a duration": (request(max_session_duration=60), PLAIN | {"max_session_duration": 60}),
    "an unknown field": (with_item(request(), "greeting", {"text": "Hi"}), PLAIN | {"greeting": {"text": "Hi"}}),
}


@pytest.mark.parametrize(("given", "body"), BODIES.values(), ids=BODIES)
def test_session_request(given: LiveAvatarNewSessionRequest, body: dict[str, Any]) -> None:
    """A request becomes JSON without the fields that are not set, and is not changed by that."""
    before = repr(given)
    assert session_request(given) == body
    assert json.loads(json.dumps(session_request(given))) == body
    assert repr(given) == before


@pytest.mark.parametrize("model", [LiveAvatarNewSessionRequest, AvatarPersona, VideoSettings])
def test_every_argument_is_kept(model: Any) -> None:
    """Each argument of a request model sets the field of its name."""
    for name in inspect.signature(model).parameters:
        required = {"avatar_id": AVATAR} if model is LiveAvatarNewSessionRequest else {}
        required |= {"encoding": "VP8"} if model is VideoSettings else {}
        value = object()
        assert getattr(model(**(required | {name: value})), name) is value, name


@pytest.mark.parametrize(
    ("given", "cls", "message"),
    [
        ({"avatar_id": AVATAR}, TypeError, "LiveAvatarNewSessionRequest, not builtins.dict"),
        (None, TypeError, "LiveAvatarNewSessionRequest, not builtins.NoneType"),
        (AVATAR, TypeError, "LiveAvatarNewSessionRequest, not builtins.str"),
        (LiveAvatarNewSessionRequest(avatar_id=""), ValueError, "avatar_id is empty"),
        (LiveAvatarNewSessionRequest(avatar_id="  "), ValueError, "avatar_id is empty"),
        (LiveAvatarNewSessionRequest(avatar_id=None), TypeError, "avatar_id is required, and is None"),  # type: ignore[arg-type]
        (LiveAvatarNewSessionRequest(avatar_id=7), TypeError, "avatar_id must be a str, not int"),  # type: ignore[arg-type]
        (
            request(video_settings=VideoSettings(encoding="AV1")),  # type: ignore[arg-type]
            ValueError,
            "video_settings.encoding is 'AV1'; it must be one of 'H264', 'VP8'",
        ),
        (
            request(video_settings=VideoSettings("VP8", "best")),  # type: ignore[arg-type]
            ValueError,
            "video_settings.quality is 'best'; it must be one of .*'high'",
        ),
        (
            request(video_settings=VideoSettings("VP8", 3)),  # type: ignore[arg-type]
            TypeError,
            "video_settings.quality must be one of .*, not int",
        ),
        (request(video_settings={"encoding": "AV1"}), ValueError, "video_settings.encoding is 'AV1'"),
        (request(video_settings="high"), TypeError, "video_settings must be VideoSettings or a dict, not str"),
        (
            request(livekit_config="room"),
            TypeError,
            "livekit_config must be CustomSDKLiveKitConfig or a dict, not str",
        ),
        (
            request(livekit_config={"livekit_url": "x"}),
            TypeError,
            "livekit_config.livekit_room is required, and is missing",
        ),
    ],
)
def test_invalid_session_request(given: object, cls: type[Exception], message: str) -> None:
    """The error for an invalid request names the field, and says what is allowed."""
    with pytest.raises(cls, match=message):
        session_request(given)


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        (None, {"session_id": "1"}),
        ("USER_CLOSED", {"session_id": "1", "reason": "USER_CLOSED"}),
        (StopReason.AGENT_HANG_UP, {"session_id": "1", "reason": "AGENT_HANG_UP"}),
    ],
)
def test_stop_request(reason: Any, body: dict[str, Any]) -> None:
    """A stop has the session's id and, if there is one, the reason."""
    assert stop_request("1", reason) == body


@pytest.mark.parametrize(("reason", "cls"), [("BORED", ValueError), ("", ValueError), (7, TypeError)])
def test_invalid_stop_request(reason: Any, cls: type[Exception]) -> None:
    """The error for an unknown reason names those that there are."""
    with pytest.raises(cls, match=r"reason.*'USER_CLOSED'"):
        stop_request("1", reason)


def test_enum_member() -> None:
    """A member of an enum may be given as itself or as its value; a long value is not repeated in full."""
    assert enum_member(VideoEncoding, "H264", "x") is VideoEncoding.H264
    assert enum_member(VideoEncoding, VideoEncoding.VP8, "x") is VideoEncoding.VP8
    with pytest.raises(ValueError, match=r"^x is 'y{40}'; it"):
        enum_member(VideoEncoding, "y" * 1000, "x")


# ---- Responses ---------------------------------------------------------------------------------------------

START = {"session_id": "1", "livekit_url": "wss://x", "livekit_client_token": "t"}
INFO: dict[str, Any] = {
    "id": "1",
    "created_at": "2030-01-01T12:00:00Z",
    "updated_at": "2030-01-01T12:00:05.5+00:00",
    "duration": 5,
    "source": "API",
    "mode": "LITE",
    "is_sandbox": False,
    "credits_consumed": 0.5,
}


def test_from_json() -> None:
    """A body becomes a model; unknown fields are kept at every level."""
    model = from_json(
        generated.LiveAvatarSessionResponse, {"code": 1, "data": START | {"region": "eu"}, "message": "m", "trace": 7}
    )
    assert (model.data.session_id, model.data["region"], model["trace"]) == ("1", "eu", 7)


@pytest.mark.parametrize("value", ["", " ", "a b", "a\nb", "é", "\0"])
@pytest.mark.parametrize("name", START)
def test_identifier(name: str, value: str) -> None:
    """Ids, URLs and tokens consist of visible ASCII."""
    with pytest.raises(ContractViolationError, match=f"^data.{name} is empty, or has other characters than"):
        from_json(generated.LiveAvatarSessionResponse, {"code": 1, "data": START | {name: value}, "message": ""})


@pytest.mark.parametrize(
    ("value", "type_name"),
    [(None, "null"), (7, "a number"), (1.5, "a number"), (True, "a boolean"), ([], "a list"), ({}, "an object")],
)
def test_required_type(value: Any, type_name: str) -> None:
    """A required field of another type is a violation that names the field and both types."""
    with pytest.raises(ContractViolationError) as caught:
        from_json(generated.SessionTokenData, {"session_id": "1", "session_token": value})
    assert str(caught.value) == f"session_token is not a string but {type_name}"


def test_optional_type() -> None:
    """An optional field of another type counts as absent."""
    data = from_json(generated.LiveAvatarSessionData, START | {"max_session_duration": "ten", "ws_url": 7})
    assert (data.max_session_duration, data.ws_url) == (None, None)


def test_types() -> None:
    """Dates, numbers and booleans are read; a whole number is a float where a float is expected."""
    info = from_json(generated.SessionInfo, INFO | {"credits_consumed": 2, "end_at": None})
    assert info.created_at == datetime(2030, 1, 1, 12, tzinfo=UTC)
    assert info.updated_at == datetime(2030, 1, 1, 12, 0, 5, 500_000, tzinfo=UTC)
    assert (info.duration, info.is_sandbox, info.credits_consumed, info.end_at) == (5, False, 2, None)


def test_id_alias() -> None:
    """The id of a session may be named `session_id`."""
    body = {name: value for name, value in INFO.items() if name != "id"} | {"session_id": "2"}
    assert from_json(generated.SessionInfo, body).id == "2"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("created_at", "yesterday", "created_at is not a date and time but a string"),
        ("created_at", "2030-99-01T12:00:00Z", "created_at is not a date and time but a string"),
        ("created_at", 7, "created_at is not a date and time but a number"),
        ("duration", 1.5, "duration is not an integer but a number"),
        ("duration", True, "duration is not an integer but a boolean"),
        ("credits_consumed", True, "credits_consumed is not a number but a boolean"),
        ("is_sandbox", 0, "is_sandbox is not a boolean but a number"),
    ],
)
def test_required_types(name: str, value: Any, message: str) -> None:
    """Each type has its own check."""
    with pytest.raises(ContractViolationError) as caught:
        from_json(generated.SessionInfo, INFO | {name: value})
    assert str(caught.value) == message


@pytest.mark.parametrize("value", ["yesterday", 7, True, []])
def test_optional_date(value: Any) -> None:
    """An invalid optional date counts as absent."""
    assert from_json(generated.SessionInfo, INFO | {"end_at": value}).end_at is None


def test_list() -> None:
    """The items of a list are checked, and the message names the place."""
    page = {"count": 1, "next": None, "previous": None, "results": [INFO]}
    assert from_json(generated.SessionPage, page).results[0].id == "1"
    with pytest.raises(ContractViolationError) as caught:
        from_json(generated.SessionPage, page | {"results": [INFO, INFO | {"mode": 7}]})
    assert str(caught.value) == "results[1].mode is not a string but a number"
    with pytest.raises(ContractViolationError, match=r"^results is not a list but an object"):
        from_json(generated.SessionPage, page | {"results": {}})


@pytest.mark.parametrize(("value", "read"), [("https://x/?page=2", "https://x/?page=2"), (None, None), (7, None)])
def test_name_in_json(value: Any, read: str | None) -> None:
    """A field whose name Python uses itself is read under its name in JSON."""
    page = from_json(generated.SessionPage, {"count": 0, "results": [], "next": value})
    assert page.next_ == read
    assert page.additional_properties == {}


@pytest.mark.parametrize(
    "model", [model for name in generated.__all__ if attrs.has(model := getattr(generated, name))]
)
def test_fields(model: type[Any]) -> None:
    """The fields of every generated model are understood."""
    for field in fields(model):
        assert field.types
        assert field.is_identifier or field.name not in secret_fields()
    assert {field.name for field in fields(model)} == {field.name for field in attrs.fields(model) if field.init}


@pytest.mark.parametrize(
    "endpoint", [row for row in vars(_endpoints).values() if isinstance(row, _endpoints.Endpoint)]
)
def test_no_unset_in_responses(endpoint: _endpoints.Endpoint[Any]) -> None:
    """A field that a response does not have is None, and no type of a response shows `Unset`."""
    models = [endpoint.model]
    for model in models:
        hints = typing.get_type_hints(model, localns=generated.__dict__ | {"Unset": Unset})
        for field in fields(model):
            assert Unset not in typing.get_args(hints[field.name]), f"{model.__name__}.{field.name}"
            models += [*field.models, *(field.item.models if field.item else ())]


def test_missing_field() -> None:
    """The generated client itself reads a missing field of a response as None, and `to_dict` has it as null."""
    info = generated.SessionInfo.from_dict(INFO)
    assert (info.end_at, info.end_reason) == (None, None)
    assert info.to_dict()["end_at"] is None
    assert "code" not in generated.StopSessionResponse().to_dict()


@pytest.mark.parametrize("mode", ["half", "full", "LITE ", ""])
def test_unknown_mode(mode: str) -> None:
    """An unknown mode is a ValueError that names the known ones. As an item, any mode is sent."""
    with pytest.raises(ValueError, match=r"^mode is .*; it must be one of 'LITE', 'FULL', 'CUSTOM'$"):
        session_request(request(mode=mode))
    assert session_request(with_item(request(), "mode", mode))["mode"] == mode


@pytest.mark.parametrize("model", [LiveAvatarNewSessionRequest, AvatarPersona, VideoSettings])
def test_rules_of_the_contract(model: Any) -> None:
    """A model with our own constructor keeps the contract's rules for every field."""
    (base,) = (each for each in model.__mro__ if each.__name__ == model.__name__ and each is not model)
    assert {field.name: field.rules for field in fields(model)} == {field.name: field.rules for field in fields(base)}
