"""What to send: a caller's request, checked and in the form that the generated client sends."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

import liveavatar_client.models as generated
from liveavatar_client.types import UNSET, Unset

T = TypeVar("T")


class _Given(dict[str, Any]):
    """A part of a request given as a plain dict; it goes out as it is."""

    def to_dict(self) -> dict[str, Any]:
        return dict(self)


def session_request(request: object) -> generated.LiveAvatarNewSessionRequest:
    """A copy of a caller's request that is ready to be sent.

    Raises:
        TypeError, ValueError: a field cannot be sent; the message names it and what is allowed.
    """
    if not isinstance(request, generated.LiveAvatarNewSessionRequest):
        given = f"{type(request).__module__}.{type(request).__qualname__}"
        raise TypeError(f"the request must be a liveavatar.LiveAvatarNewSessionRequest, not {given}")
    if not isinstance(request.avatar_id, str):
        raise TypeError(f"avatar_id must be a str, not {type(request.avatar_id).__name__}")
    if not request.avatar_id.strip():
        raise ValueError("avatar_id is empty; it is the avatar's id (UUID)")
    ready = _ready(request, "")
    if isinstance(ready.mode, Unset):
        ready.mode = "LITE"
    if request.video_settings is None:
        # An encoding must be named; the quality is then the service's choice.
        ready.video_settings = generated.VideoSettings(encoding=generated.VideoEncoding.VP8, quality=UNSET)
    return ready


def stop_reason(reason: object) -> generated.StopReason | Unset:
    """The reason to give with a stop.

    Raises:
        TypeError, ValueError: the service has no such reason.
    """
    return UNSET if reason is None else _member(generated.StopReason, reason, "reason")


@functools.cache
def _fields(kind: type[Any]) -> tuple[tuple[str, type[enum.Enum] | None, list[type[Any]]], ...]:
    """Of each field of a model: its name, the enum it takes, if any, and the models it takes.

    Read off the annotations, so that a field which the contract gains needs nothing here.
    """
    found = []
    for field in attrs.fields(kind):
        if field.init:
            named = [getattr(generated, name, None) for name in re.findall(r"\w+", str(field.type))]
            enums = [item for item in named if isinstance(item, type) and issubclass(item, enum.Enum)]
            models = [item for item in named if isinstance(item, type) and attrs.has(item)]
            found.append((field.name, enums[0] if enums else None, models))
    return tuple(found)


def _ready(model: T, where: str) -> T:
    """A copy of a model without what is None, its plain strings turned into the contract's enums."""
    copy = object.__new__(type(model))
    for name, takes_enum, takes_models in _fields(type(model)):  # type: ignore[arg-type]
        value = getattr(model, name)
        if value is None or isinstance(value, Unset):
            value = UNSET
        elif takes_enum is not None:
            value = _member(takes_enum, value, where + name)
        elif takes_models:
            value = _part(value, takes_models, where + name)
        setattr(copy, name, value)
    copy.additional_properties = model.additional_properties  # type: ignore[attr-defined]
    return copy


def _part(value: Any, takes: list[type[Any]], where: str) -> Any:
    if attrs.has(type(value)):
        return _ready(value, where + ".")
    if not isinstance(value, Mapping):
        allowed = " or ".join(kind.__name__ for kind in takes)
        raise TypeError(f"{where} must be {allowed} or a dict, not {type(value).__name__}")
    if len(takes) > 1:  # which of them it is, the service tells
        return _Given(value)
    kind = takes[0]
    names = {name for name, _, _ in _fields(kind)}  # type: ignore[arg-type]
    try:
        part = kind(**{name: given for name, given in value.items() if name in names})
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None
    part.additional_properties = {name: given for name, given in value.items() if name not in names}
    return _ready(part, where + ".")


def _member(kind: type[enum.Enum], value: object, where: str) -> Any:
    if isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            pass
    allowed = ", ".join(repr(member.value) for member in kind)
    if isinstance(value, str):
        raise ValueError(f"{where} is {value[:40]!r}; it must be one of {allowed}")
    raise TypeError(f"{where} must be one of {allowed}, not a {type(value).__name__}")
