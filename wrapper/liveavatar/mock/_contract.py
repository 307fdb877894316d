"""The contract, as a judge of what comes in and what goes out."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT202012

_CONTRACT = "urn:liveavatar:contract"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+", re.ASCII)  # RFC 3986
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is ten times as fast, but not everywhere


class ContractError(Exception):
    """The mock server was about to send an answer that the contract does not allow: a fault of the mock server."""


def faults(component: str, body: Any) -> list[dict[str, Any]]:
    """Where ``body`` breaks the contract's schema ``component``: a ``{"loc", "message"}`` for each place."""
    return [_fault(error) for error in _validator(component).iter_errors(body)]


def check(component: str, body: Any) -> None:
    """Raise ``ContractError`` if an answer is not what the contract's schema ``component`` says."""
    found = faults(component, body)
    if found:
        raise ContractError(f"{component}: {found}")


@cache
def _registry() -> Registry[Any]:
    text = (files("liveavatar_client") / "openapi.yaml").read_text(encoding="utf-8")
    contract = yaml.load(text, Loader=_Loader)  # noqa: S506, both loaders are the safe ones
    registry: Registry[Any] = Registry().with_resource(_CONTRACT, DRAFT202012.create_resource(contract))
    return registry


@cache
def _validator(component: str) -> Draft202012Validator:
    schema = {"$ref": f"{_CONTRACT}#/components/schemas/{component}"}
    formats = FormatChecker()
    # jsonschema looks at this one only where a further package is installed.
    formats.checks("uri")(lambda value: not isinstance(value, str) or _URI.fullmatch(value) is not None)
    return Draft202012Validator(schema, registry=_registry(), format_checker=formats)


def _fault(error: ValidationError) -> dict[str, Any]:
    # Of what an anyOf or oneOf holds, the error of the branch that was meant: not that of a discriminator,
    # and the deeper the better. A rule across fields stands in a "then": its own description tells most.
    while error.context and "then" not in error.absolute_schema_path:
        error = max(error.context, key=lambda each: (each.validator not in ("type", "const", "not"), len(each.path)))
    return {"loc": ["body", *error.absolute_path], "message": _words(error)}


def _words(error: ValidationError) -> str:
    if error.validator == "required" or not isinstance(error.instance, dict | list):
        return error.message
    # jsonschema's own words would quote the whole object: too long, and a room's token may be in it.
    if error.validator == "type":
        return f"is not of type {error.validator_value!r}"
    schema = error.schema if isinstance(error.schema, dict) else {}
    return str(schema.get("description", f"does not fulfil {error.validator}")).strip()
