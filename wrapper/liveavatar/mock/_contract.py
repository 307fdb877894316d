"""Checks of requests and responses against the OpenAPI contract of the service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT202012

_URN = "urn:liveavatar:contract"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+", re.ASCII)  # RFC 3986
_INTEGER = re.compile(r"-?\d{1,4000}", re.ASCII)  # as many digits as int() takes
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is ten times as fast, but not everywhere


class ContractError(Exception):
    """The mock server was about to send a response that violates the contract. It is a bug of the mock server."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """What the contract says about one endpoint.

    Attributes:
        method: HTTP method in upper case.
        path: path below the host, with ``{parameters}``.
        credentials: security schemes that the endpoint accepts: "apiKey", "sessionToken".
        parameters: where each parameter is ("path" or "query"), its name and its schema's place in the contract.
        body: name of the request body's schema; None if there is no body.
        default_body: what a request without a body means; None if the body is required.
        status: HTTP status of success.
        response: name of the schema of a successful response.
    """

    method: str
    path: str
    credentials: frozenset[str]
    parameters: tuple[Parameter, ...]
    body: str | None
    default_body: Any
    status: int
    response: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One parameter of an endpoint."""

    name: str
    location: str
    required: bool
    is_integer: bool
    pointer: str
    default: Any


@cache
def operation(operation_id: str) -> Operation:
    """Return what the contract says about the endpoint with this ``operationId``."""
    for path, methods in _contract()["paths"].items():
        for method, described in methods.items():
            if described["operationId"] == operation_id:
                return _read_operation(path, method, described)
    raise LookupError(f"the contract has no operation {operation_id}")


def violations(component: str, body: Any) -> list[dict[str, Any]]:
    """Return where ``body`` violates the schema ``component``, as ``{"loc", "message"}`` for each place."""
    validator = _validator(f"/components/schemas/{component}")
    return [_violation(error, "body") for error in validator.iter_errors(body)]


def read_parameters(
    operation: Operation, given: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the values of an operation's parameters, and where they violate the contract.

    Args:
        operation: the operation.
        given: the parameters of the request by location ("path", "query") and name. Unknown ones are ignored.
    """
    values: dict[str, Any] = {}
    found: list[dict[str, Any]] = []
    for parameter in operation.parameters:
        value: Any = given[parameter.location].get(parameter.name)
        if value is None:
            if parameter.required:
                found.append({"loc": [parameter.location, parameter.name], "message": "is required"})
            values[parameter.name] = parameter.default
            continue
        if parameter.is_integer and _INTEGER.fullmatch(value):
            value = int(value)
        for error in _validator(parameter.pointer).iter_errors(value):
            found.append(_violation(error, parameter.location, parameter.name))
        values[parameter.name] = value
    return values, found


def check(component: str, body: Any) -> None:
    """Check a response.

    Raises:
        ContractError: the response violates the schema ``component``.
    """
    found = violations(component, body)
    if found:
        raise ContractError(f"{component}: {found}")


@cache
def _contract() -> dict[str, Any]:
    text = (files("liveavatar_client") / "openapi.yaml").read_text(encoding="utf-8")
    return dict(yaml.load(text, Loader=_Loader))  # noqa: S506, both loaders are the safe ones


@cache
def _registry() -> Registry[Any]:
    registry: Registry[Any] = Registry().with_resource(_URN, DRAFT202012.create_resource(_contract()))
    return registry


def _resolve(node: dict[str, Any], pointer: str) -> tuple[dict[str, Any], str]:
    """Follow a reference. Return the node and its place in the contract."""
    if "$ref" not in node:
        return node, pointer
    pointer = node["$ref"].removeprefix("#")
    target: Any = _contract()
    for step in pointer.split("/")[1:]:
        target = target[step]
    return target, pointer


def _read_operation(path: str, method: str, described: dict[str, Any]) -> Operation:
    parameters = []
    for index, each in enumerate(described.get("parameters", ())):
        place = f"/paths/{path.replace('/', '~1')}/{method}/parameters/{index}"
        parameter, pointer = _resolve(each, place)
        schema = parameter["schema"]
        parameters.append(
            Parameter(
                name=parameter["name"],
                location=parameter["in"],
                required=parameter.get("required", False),
                is_integer=schema.get("type") == "integer",
                pointer=f"{pointer}/schema",
                default=schema.get("default"),
            )
        )
    body = described.get("requestBody")
    body_schema = body["content"]["application/json"]["schema"] if body else {}
    status = next(status for status in described["responses"] if status.startswith("2"))
    success, _ = _resolve(described["responses"][status], "")
    return Operation(
        method=method.upper(),
        path=path,
        credentials=frozenset(name for each in described["security"] for name in each),
        parameters=tuple(parameters),
        body=_name(body_schema) if body else None,
        default_body=None if not body or body["required"] else body_schema["default"],
        status=int(status),
        response=_name(success["content"]["application/json"]["schema"]),
    )


def _name(schema: dict[str, Any]) -> str:
    return str(schema["$ref"].rpartition("/")[2])


@cache
def _validator(pointer: str) -> Draft202012Validator:
    formats = FormatChecker()
    # jsonschema checks this format only if a further package is installed.
    formats.checks("uri")(lambda value: not isinstance(value, str) or _URI.fullmatch(value) is not None)
    return Draft202012Validator({"$ref": f"{_URN}#{pointer}"}, registry=_registry(), format_checker=formats)


def _violation(error: ValidationError, *location: str) -> dict[str, Any]:
    # Of the branches of an anyOf or oneOf, report the one that was meant: not that of a discriminator, and the
    # deepest. A rule across fields is in a "then", whose description is the best message.
    while error.context and "then" not in error.absolute_schema_path:
        error = max(error.context, key=lambda each: (each.validator not in ("type", "const", "not"), len(each.path)))
    return {"loc": [*location, *error.absolute_path], "message": _message(error)}


def _message(error: ValidationError) -> str:
    if error.validator == "pattern":
        pattern = str(error.validator_value)
        is_uuid = pattern == _contract()["x-patterns"]["uuid"]
        allowed = "a UUID" if is_uuid else f"one of {pattern.strip('^()$').replace('|', ', ')}"
        return f"{error.instance!r} is not {allowed}"
    if error.validator == "required" or not isinstance(error.instance, dict | list):
        return error.message
    # jsonschema's message would quote the whole object. That is too long, and it may contain a room's token.
    if error.validator == "type":
        return f"is not of type {error.validator_value!r}"
    schema = error.schema if isinstance(error.schema, dict) else {}
    return str(schema.get("description", f"violates {error.validator}")).strip()
