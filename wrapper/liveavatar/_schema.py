"""What the fields of the generated models are: types, and the rules of the contract."""

from __future__ import annotations

import difflib
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

T = TypeVar("T")


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
    json_name: str = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.name.removesuffix("_"), takes_self=True)
    )
    """Its name in JSON. The generator appends `_` to a name that Python uses itself."""
    plain_types: frozenset[type[Any]] = attrs.field(
        init=False, default=attrs.Factory(lambda self: _plain_types(self), takes_self=True)
    )
    """The types of its values that are JSON as they are, for a quick check of the usual value."""


def _plain_types(field: Field) -> frozenset[type[Any]]:
    return frozenset(field.types).intersection({str} if field.is_identifier else {str, int, float, bool})


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
        return model_from_mapping(field.models[0], value)
    return value


def model_from_mapping(model: type[T], value: Mapping[str, Any]) -> T:
    """Return a model with the values of a dict; required fields that are missing are UNSET.

    Raises:
        TypeError: A name looks like a misspelled field. Other unknown names may be new at the service.
    """
    by_name = {field.name: field for field in fields(model)}
    given = {name: inner for name, inner in value.items() if name in by_name}
    for name in value.keys() - by_name.keys():
        close = difflib.get_close_matches(str(name), by_name.keys() - given.keys(), n=1, cutoff=0.8)
        if close:
            raise TypeError(f"{model.__name__} has no field {name!r}; did you mean {close[0]!r}?")
    missing = {name: UNSET for name, field in by_name.items() if field.required and name not in given}
    instance = model(**given, **missing)
    instance.additional_properties = {  # type: ignore[attr-defined]
        name: inner for name, inner in value.items() if name not in by_name
    }
    for name, inner in given.items():
        setattr(instance, name, from_plain_value(model, name, inner))
    return instance


def enum_member(kind: type[enum.Enum], value: object, location: str) -> enum.Enum:
    """Return the member of an enum that has this value.

    Raises:
        TypeError, ValueError: There is none. The message names the location and what is allowed.
    """
    if isinstance(value, kind):
        return value
    if isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            pass
    allowed = ", ".join(repr(member.value) for member in kind)
    if isinstance(value, str):
        raise ValueError(f"{location} is {value[:40]!r}; it must be one of {allowed}")
    raise TypeError(f"{location} must be one of {allowed}, not {type(value).__name__}")


def is_instance(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is of a type; a bool is no number."""
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
