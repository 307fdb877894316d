"""Converts between JSON and the generated models, by the types of the models' fields."""

from __future__ import annotations

import enum
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

import attrs

import liveavatar_client.models as generated
from liveavatar_client.types import UNSET, Unset

from ._config import VCHAR

T = TypeVar("T")

_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
_PYTHON_NAMES = {str: "a str", int: "an int", float: "a number", bool: "a bool"}
_ALIASES = {"id": "session_id"}


class ContractViolationError(ValueError):
    """A response body violates the contract; the message names the field."""


class _Violation(ValueError):  # noqa: N818  # never leaves this module
    """What is wrong with a value, and where the value is."""

    location = ""

    def inside(self, name: str) -> _Violation:
        """Return the violation as one of the object or list that contains the value."""
        self.location = f"{name}.{self.location}".removesuffix(".").replace(".[", "[")
        return self


@attrs.frozen
class Field:
    """One field of a model."""

    name: str
    required: bool
    nullable: bool
    types: tuple[Any, ...]
    """The types of its values, `Unset` and `None` left out."""
    enum: type[enum.Enum] | None
    """The enum that its values belong to, if any."""
    models: tuple[type[Any], ...]
    """The models that its values belong to, if any."""
    item: Field | None
    """The items of its values, if those are lists."""
    is_identifier: bool
    """Whether it is an id, a URL or a credential, which consists of visible ASCII."""
    rules: Mapping[str, Any]
    """The contract's rules for its values: pattern, minimum, maximum, mode."""

    @property
    def json_name(self) -> str:
        """Its name in JSON. The generator appends `_` to a name that Python uses itself."""
        return self.name.removesuffix("_")


def _field(
    name: str, hint: Any, *, required: bool, is_identifier: bool = False, rules: Mapping[str, Any] | None = None
) -> Field:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if union else (hint,)
    kinds = tuple(option for option in options if option not in (Unset, type(None)))
    lists = [kind for kind in kinds if typing.get_origin(kind) is list]
    classes = [kind for kind in kinds if isinstance(kind, type)]
    return Field(
        name=name,
        required=required,
        nullable=type(None) in options or Any in options,
        types=kinds,
        enum=next((kind for kind in classes if issubclass(kind, enum.Enum)), None),
        models=tuple(kind for kind in classes if attrs.has(kind)),
        item=_field(name, *typing.get_args(lists[0]), required=True) if lists else None,
        is_identifier=is_identifier,
        rules=rules or {},
    )


def _fields(model: type[Any]) -> tuple[Field, ...]:
    words = {word for field in attrs.fields(model) for word in re.findall(r"\w+", str(field.type))}
    named = words.intersection(generated.__all__)  # all others need not be imported
    hints = typing.get_type_hints(model, localns={name: getattr(generated, name) for name in named})
    return tuple(
        _field(
            field.name,
            hints[field.name],
            required=field.default is attrs.NOTHING,
            is_identifier=not field.repr or field.name == "id" or field.name.endswith(("_id", "_url")),
            rules=field.metadata,
        )
        for field in attrs.fields(model)
        if field.init
    )


fields = cast(Callable[[type[Any]], tuple[Field, ...]], functools.cache(_fields))
"""Return the fields of a model."""


def load(model: type[Any]) -> None:
    """Import the models that a model contains, and read the types of all fields.

    Otherwise, both happen when the first response is read: a session may be running then.
    """
    for field in fields(model):
        for inner in field.models or (field.item.models if field.item else ()):
            load(inner)


# ---- Requests ----------------------------------------------------------------------------------------------


def from_plain_value(model: type[Any], name: str, value: Any) -> Any:
    """Return a value for a field of a model: a dict becomes a model, and text an enum member, where that is possible.

    What is not valid stays as it is, to be refused when it is sent.
    """
    field = next((field for field in fields(model) if field.name == name), None)
    if field is None:
        return value
    if field.enum is not None and type(value) is str:
        return next((member for member in field.enum if member.value == value), value)
    if len(field.models) == 1 and isinstance(value, Mapping):
        return _model_from_mapping(field.models[0], value)
    return value


def _model_from_mapping(model: type[T], value: Mapping[str, Any]) -> T:
    by_name = {field.name: field for field in fields(model)}
    given = {name: inner for name, inner in value.items() if name in by_name}
    missing = {name: UNSET for name, field in by_name.items() if field.required and name not in given}
    made = model(**given, **missing)
    made.additional_properties = {  # type: ignore[attr-defined]
        name: inner for name, inner in value.items() if name not in by_name
    }
    for name, inner in given.items():
        setattr(made, name, from_plain_value(model, name, inner))
    return made


def session_request(request: object) -> dict[str, Any]:
    """Return the JSON body that creates a session token for `request`.

    Raises:
        TypeError, ValueError: A field is not valid. The message names it and what is allowed.
    """
    if not isinstance(request, generated.LiveAvatarNewSessionRequest):
        given = f"{type(request).__module__}.{type(request).__qualname__}"
        raise TypeError(f"the request must be a liveavatar.LiveAvatarNewSessionRequest, not {given}")
    body = {"mode": "LITE", **to_json(request)}
    if request.video_settings is None:
        body.setdefault("video_settings", {"encoding": generated.VideoEncoding.VP8.value})
    _check_mode(request, str(body["mode"]))
    return body


def _check_mode(request: generated.LiveAvatarNewSessionRequest, mode: str) -> None:
    """Check that the request has the fields of its mode, and no others."""
    if "mode" in request.additional_properties:
        return  # a mode that this version may not know
    other = "FULL" if mode in ("LITE", "CUSTOM") else "LITE"
    for field in fields(type(request)):
        if field.rules.get("mode") == other and getattr(request, field.name) not in (None, UNSET):
            raise ValueError(f"{field.name} is for mode={other!r}, and the mode is {mode!r}")
    personas = [name for name in ("avatar_persona", "voice_agent") if _is_given(request, name)]
    if mode == "FULL" and len(personas) != 1:
        raise ValueError("mode='FULL' needs exactly one of avatar_persona and voice_agent")


def _is_given(request: generated.LiveAvatarNewSessionRequest, name: str) -> bool:
    value = request.additional_properties.get(name, getattr(request, name))
    return value is not None and not isinstance(value, Unset)


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
    body: dict[str, Any] = {}
    for field in fields(type(model)):
        if field.json_name in model.additional_properties:
            continue  # an item replaces the field, and is not checked
        value = getattr(model, field.name)
        if value is not None and not isinstance(value, Unset):
            body[field.json_name] = _value_to_json(field, value, location + field.name)
        elif field.required:
            raise TypeError(f"{location}{field.name} is required, and is {value!r}".replace("UNSET", "missing"))
    return {**body, **model.additional_properties}


def _value_to_json(field: Field, value: Any, location: str) -> Any:
    if field.enum is not None:
        return enum_member(field.enum, value, location).value
    if attrs.has(type(value)):
        return to_json(value, f"{location}.")
    if not field.models:
        _check_value(field, value, location)
        return value
    if not isinstance(value, Mapping):
        allowed = " or ".join(model.__name__ for model in field.models)
        raise TypeError(f"{location} must be {allowed} or a dict, not {type(value).__name__}")
    if len(field.models) > 1:
        return dict(value)  # the service decides which model it is
    return to_json(_model_from_mapping(field.models[0], value), f"{location}.")


def _check_value(field: Field, value: Any, location: str) -> None:
    """Check a plain value by its type and by the rules of the contract."""
    if not any(_is_instance(value, kind) or kind is dict for kind in field.types):
        names = " or ".join(_PYTHON_NAMES.get(kind, str(kind)) for kind in field.types)
        raise TypeError(f"{location} must be {names}, not {type(value).__name__}")
    rules = field.rules
    if isinstance(value, str):
        if field.required and not value.strip():
            raise ValueError(f"{location} is empty")
        if "pattern" in rules and not re.search(rules["pattern"], value):
            raise ValueError(f"{location} is {value[:40]!r}; it must be {_pattern_in_words(rules['pattern'])}")
    elif "minimum" in rules and value < rules["minimum"]:
        raise ValueError(f"{location} is {value}; it must be at least {rules['minimum']}")
    elif "maximum" in rules and value > rules["maximum"]:
        raise ValueError(f"{location} is {value}; it must be at most {rules['maximum']}")


def _pattern_in_words(pattern: str) -> str:
    """Describe a pattern of the contract to a person."""
    choices = re.fullmatch(r"\^\(([\w|]+)\)\$", pattern)
    if choices:
        return "one of " + ", ".join(repr(choice) for choice in choices[1].split("|"))
    return "a UUID" if "{8}-" in pattern else "in the format that the service's reference gives"


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
    raise TypeError(f"{location} must be one of {allowed}, not {type(value).__name__}")


# ---- Responses ---------------------------------------------------------------------------------------------


def from_json(model: type[T], body: Any) -> T:
    """Return the model that a response body describes.

    Required fields must be present and of the right type. Invalid optional fields count as absent, so that a running
    session is not lost to one. Unknown fields are kept in `additional_properties`.

    Raises:
        ContractViolationError: A required field is missing or of the wrong type.
    """
    try:
        valid = _valid_object(model, body)
        return model.from_dict(valid)  # type: ignore[attr-defined, no-any-return]
    except _Violation as violation:
        raise ContractViolationError(f"{violation.location or 'the body'} {violation}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ContractViolationError(f"the body violates the contract at {error}") from None


def _valid_object(model: type[Any], value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Violation(f"is not an object but {_type_name(value)}")
    valid = dict(value)
    for field in fields(model):
        name = field.json_name
        inner = value.get(name)
        if inner is None:
            if field.nullable:
                valid[name] = None
                continue
            if name in _ALIASES:
                inner = value.get(_ALIASES[name])
            elif not field.required:
                valid.pop(name, None)
                continue
        try:
            valid[name] = _valid_value(field, inner)
        except _Violation as violation:
            if field.required:
                raise violation.inside(name) from None
            valid.pop(name, None)
            if field.nullable:
                valid[name] = None
    return valid


def _valid_value(field: Field, value: Any) -> Any:
    if field.models:
        return _valid_object(field.models[0], value)
    if field.item is not None and isinstance(value, list):
        return [_valid_item(field.item, inner, index) for index, inner in enumerate(value)]
    for kind in field.types:
        if _is_instance(value, kind):
            if field.is_identifier and isinstance(value, str) and not VCHAR.fullmatch(value):
                raise _Violation("is empty, or not plain text")
            return value
    raise _Violation(f"is not {_expected(field)} but {_type_name(value)}")


def _valid_item(field: Field, value: Any, index: int) -> Any:
    try:
        return _valid_value(field, value)
    except _Violation as violation:
        raise violation.inside(f"[{index}]") from None


def _is_instance(value: Any, kind: Any) -> bool:
    if kind is str:
        return isinstance(value, str)
    if kind is datetime:
        return isinstance(value, str) and _is_datetime(value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is Any:
        return True
    if not isinstance(kind, type):
        return False
    if issubclass(kind, enum.Enum):
        return any(value == member.value for member in kind)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _is_datetime(value: str) -> bool:
    from dateutil.parser import isoparse  # imported when first needed: few responses have dates

    try:
        isoparse(value)
    except (ValueError, OverflowError):
        return False
    return True


def _expected(field: Field) -> str:
    names = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", datetime: "a date and time"}
    return "a list" if field.item is not None else names.get(field.types[0], "a known value")


def _type_name(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), "a number")
