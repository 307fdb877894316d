"""Turns requests into JSON bodies, and refuses what the contract rules out."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import attrs

import liveavatar_client.models as generated
from liveavatar_client.types import Unset

from ._schema import Field, enum_member, fields, is_instance, model_from_mapping

_PYTHON_NAMES = {str: "a str", int: "an int", float: "a number", bool: "a bool"}


def session_request(request: object) -> dict[str, Any]:
    """Return the JSON body that creates a session token for `request`.

    Raises:
        TypeError, ValueError: A field is not valid. The message names it and what is allowed.
    """
    if not isinstance(request, generated.LiveAvatarNewSessionRequest):
        given = f"{type(request).__module__}.{type(request).__qualname__}"
        raise TypeError(f"the request must be a liveavatar.LiveAvatarNewSessionRequest, not {given}")
    body = {"mode": "LITE", **to_json(request)}
    _check_mode(request, body)
    if request.video_settings is None:
        body.setdefault("video_settings", {"encoding": generated.VideoEncoding.VP8.value})
    return body


def _check_mode(request: generated.LiveAvatarNewSessionRequest, body: Mapping[str, Any]) -> None:
    """Check that the request has the fields of its mode, and no others."""
    if "mode" in request.additional_properties:
        return  # a mode that this version may not know
    mode = body["mode"]
    other = "FULL" if mode in ("LITE", "CUSTOM") else "LITE"
    wrong = _fields_of_mode(other).intersection(body).difference(request.additional_properties)
    if wrong:
        raise ValueError(f"{min(wrong)} is for mode={other!r}, and the mode is {mode!r}")
    if mode == "FULL" and (body.get("avatar_persona") is None) == (body.get("voice_agent") is None):
        raise ValueError("mode='FULL' needs exactly one of avatar_persona and voice_agent")


@functools.cache
def _fields_of_mode(mode: str) -> frozenset[str]:
    """Return the names of the fields that only sessions of a mode have."""
    every = fields(generated.LiveAvatarNewSessionRequest)
    return frozenset(field.json_name for field in every if field.rules.get("mode") == mode)


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
    if type(value) not in field.plain_types and attrs.has(type(value)):
        return to_json(value, f"{location}.")
    if not field.models:
        _check_value(field, value, location)
        return value
    if not isinstance(value, Mapping):
        allowed = " or ".join(model.__name__ for model in field.models)
        raise TypeError(f"{location} must be {allowed} or a dict, not {type(value).__name__}")
    if len(field.models) > 1:
        return dict(value)  # the service decides which model it is
    return to_json(model_from_mapping(field.models[0], value), f"{location}.")  # pyright: ignore[reportGeneralTypeIssues]


def _check_value(field: Field, value: Any, location: str) -> None:
    """Check a plain value by its type and by the rules of the contract."""
    if type(value) not in field.plain_types and not any(
        is_instance(value, kind) or kind is dict for kind in field.types
    ):
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
