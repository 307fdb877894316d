"""Converts between JSON and the generated models, by the types of the models' fields."""

from __future__ import annotations

import enum
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

import attrs

import liveavatar_client.models as generated
from liveavatar_client.types import Unset

from ._config import VCHAR

T = TypeVar("T")

_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
_ALIASES = {"id": "session_id"}


class ContractViolationError(ValueError):
    """A response body violates the contract; the message names the field."""


@attrs.frozen
class Field:
    """One field of a model."""

    name: str
    required: bool
    nullable: bool
    types: tuple[Any, ...]
    """The types of its values, `Unset` and `None` left out."""
    is_identifier: bool
    """Whether it is an id, a URL or a credential, which consists of visible ASCII."""

    @property
    def enum(self) -> type[enum.Enum] | None:
        """The enum that its values belong to."""
        return next((each for each in self.types if isinstance(each, type) and issubclass(each, enum.Enum)), None)

    @property
    def models(self) -> list[type[Any]]:
        """The models that its values belong to."""
        return [each for each in self.types if attrs.has(each)]


def _fields(model: type[Any]) -> tuple[Field, ...]:
    hints = typing.get_type_hints(model, localns={name: getattr(generated, name) for name in generated.__all__})
    return tuple(_iterate_fields(model, hints))


fields = cast(Callable[[type[Any]], tuple[Field, ...]], functools.cache(_fields))
"""Return the fields of a model."""


def _iterate_fields(model: type[Any], hints: dict[str, Any]) -> Iterator[Field]:
    for field in attrs.fields(model):
        if field.init:
            hint = hints[field.name]
            union = typing.get_origin(hint) in (typing.Union, types.UnionType)
            options = typing.get_args(hint) if union else (hint,)
            yield Field(
                name=field.name,
                required=field.default is attrs.NOTHING,
                nullable=type(None) in options,
                types=tuple(option for option in options if option not in (Unset, type(None))),
                is_identifier=not field.repr or field.name == "id" or field.name.endswith(("_id", "_url")),
            )


# ---- Requests ----------------------------------------------------------------------------------------------


def session_request(request: object) -> dict[str, Any]:
    """Return the JSON body that creates a session token for `request`.

    Raises:
        TypeError, ValueError: A field is not valid. The message names it and what is allowed.
    """
    if not isinstance(request, generated.LiveAvatarNewSessionRequest):
        given = f"{type(request).__module__}.{type(request).__qualname__}"
        raise TypeError(f"the request must be a liveavatar.LiveAvatarNewSessionRequest, not {given}")
    if not isinstance(request.avatar_id, str):
        raise TypeError(f"avatar_id must be a str, not {type(request.avatar_id).__name__}")
    if not request.avatar_id.strip():
        raise ValueError("avatar_id is empty; it is the avatar's id (UUID)")
    body = to_json(request)
    body.setdefault("mode", "LITE")
    if request.video_settings is None:
        body["video_settings"] = {"encoding": generated.VideoEncoding.VP8.value}
    return body


def stop_request(session_id: str, reason: object = None) -> dict[str, Any]:
    """Return the JSON body that stops a session.

    Raises:
        TypeError, ValueError: There is no such reason.
    """
    body: dict[str, Any] = {"session_id": session_id}
    if reason is not None:
        body["reason"] = enum_member(generated.StopReason, reason, "reason").value
    return body


def to_json(model: Any, location: str = "") -> dict[str, Any]:
    """Return a model as JSON, without the fields that are not set or None.

    Raises:
        TypeError, ValueError: A field is not valid. The message names it and what is allowed.
    """
    body: dict[str, Any] = dict(model.additional_properties)
    for field in fields(type(model)):
        value = getattr(model, field.name)
        if value is not None and not isinstance(value, Unset):
            body[field.name] = _value_to_json(field, value, location + field.name)
    return body


def _value_to_json(field: Field, value: Any, location: str) -> Any:
    if field.enum is not None:
        return enum_member(field.enum, value, location).value
    if attrs.has(type(value)):
        return to_json(value, f"{location}.")
    if not field.models:
        return value
    if not isinstance(value, Mapping):
        allowed = " or ".join(model.__name__ for model in field.models)
        raise TypeError(f"{location} must be {allowed} or a dict, not {type(value).__name__}")
    if len(field.models) > 1:
        return dict(value)  # the service decides which model it is
    return to_json(_model_from_mapping(field.models[0], value, location), f"{location}.")


def _model_from_mapping(model: type[T], value: Mapping[str, Any], location: str) -> T:
    names = {field.name for field in fields(model)}
    try:
        made = model(**{name: inner for name, inner in value.items() if name in names})
    except TypeError as error:
        raise TypeError(f"{location}: {error}") from None
    made.additional_properties = {  # type: ignore[attr-defined]
        name: inner for name, inner in value.items() if name not in names
    }
    return made


def enum_member(kind: type[enum.Enum], value: object, location: str) -> enum.Enum:
    """Return the member of an enum that has this value.

    Raises:
        TypeError, ValueError: There is none. The message names the location and what is allowed.
    """
    if isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            pass
    allowed = ", ".join(repr(member.value) for member in kind)
    if isinstance(value, str):
        raise ValueError(f"{location} is {value[:40]!r}; it must be one of {allowed}")
    raise TypeError(f"{location} must be one of {allowed}, not a {type(value).__name__}")


# ---- Responses ---------------------------------------------------------------------------------------------


def from_json(model: type[T], body: Any) -> T:
    """Return the model that a response body describes.

    Required fields must be present and of the right type. Invalid optional fields count as absent, so that a running
    session is not lost to one. Unknown fields are kept in `additional_properties`.

    Raises:
        ContractViolationError: A required field is missing or of the wrong type.
    """
    valid = _valid_object(model, body, "")
    try:
        return model.from_dict(valid)  # type: ignore[attr-defined, no-any-return]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ContractViolationError(f"the body violates the contract at {error}") from None


def _valid_object(model: type[Any], value: Any, location: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ContractViolationError(f"{location or 'the body'} is not an object but {_type_name(value)}")
    valid = dict(value)
    for field in fields(model):
        inner = value.get(field.name)
        if inner is None and field.name in _ALIASES:
            inner = value.get(_ALIASES[field.name])
        try:
            valid[field.name] = _valid_value(field, inner, f"{location}.{field.name}".lstrip("."))
        except ContractViolationError:
            if field.required:
                raise
            valid.pop(field.name, None)
            if field.nullable:
                valid[field.name] = None
    return valid


def _valid_value(field: Field, value: Any, location: str) -> Any:
    if value is None and field.nullable:
        return None
    for kind in field.types:
        if attrs.has(kind):
            return _valid_object(kind, value, location)
        if typing.get_origin(kind) is list:
            if not isinstance(value, list):
                break
            item = attrs.evolve(field, types=typing.get_args(kind), nullable=False)
            return [_valid_value(item, inner, f"{location}[{index}]") for index, inner in enumerate(value)]
        if _is_instance(value, kind):
            if field.is_identifier and isinstance(value, str) and not VCHAR.fullmatch(value):
                raise ContractViolationError(f"{location} is empty, or not plain text")
            return value
    raise ContractViolationError(f"{location} is not {_expected(field.types[0])} but {_type_name(value)}")


def _is_instance(value: Any, kind: Any) -> bool:
    if kind is datetime:
        return isinstance(value, str) and _is_datetime(value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return any(value == member.value for member in kind)
    return kind is Any or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool)))


def _is_datetime(value: str) -> bool:
    from dateutil.parser import isoparse  # imported when first needed: few responses have dates

    try:
        isoparse(value)
    except (ValueError, OverflowError):
        return False
    return True


def _expected(kind: Any) -> str:
    names = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", datetime: "a date and time"}
    return names.get(kind, "a list" if typing.get_origin(kind) is list else "a known value")


def _type_name(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), "a number")
