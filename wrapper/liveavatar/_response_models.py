"""Turns JSON bodies into the generated models, by the types of their fields."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, TypeVar

from ._schema import Field, fields, is_instance

T = TypeVar("T")

_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
_ALIASES = {"id": "session_id"}

_IDENTIFIER = re.compile(r"(?!\.{1,2}\Z)[!-~]+")
"""An id, URL or credential: visible ASCII. The methods take no "." and "..", which mean another endpoint in a path."""


class ContractViolationError(ValueError):
    """A response body violates the contract; the message names the field."""


class _Violation(ValueError):  # noqa: N818  # never leaves this module
    """What is wrong with a value, and where the value is."""

    location = ""

    def inside(self, name: str) -> _Violation:
        """Return the violation as one of the object or list that contains the value."""
        self.location = f"{name}.{self.location}".removesuffix(".").replace(".[", "[")
        return self


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
        inner: Any = value.get(name)
        if type(inner) in field.plain_types and (not field.is_identifier or _IDENTIFIER.fullmatch(inner)):
            continue
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
        if is_instance(value, kind):
            if field.is_identifier and isinstance(value, str) and not _IDENTIFIER.fullmatch(value):
                raise _Violation("is empty, or has other characters than visible ASCII")
            return value
    raise _Violation(f"is not {_expected(field)} but {_type_name(value)}")


def _valid_item(field: Field, value: Any, index: int) -> Any:
    try:
        return _valid_value(field, value)
    except _Violation as violation:
        raise violation.inside(f"[{index}]") from None


def _expected(field: Field) -> str:
    names = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", datetime: "a date and time"}
    return "a list" if field.item is not None else names.get(field.types[0], "a known value")


def _type_name(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), "a number")
