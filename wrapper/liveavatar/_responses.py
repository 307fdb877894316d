"""Turns a response into a model, or into a typed error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from ._constants import SUCCESS_CODES
from ._endpoints import Endpoint
from ._error_responses import envelope_code, error, named_session, parse
from ._response_models import ContractViolationError, from_json
from ._transports._base import Response

T = TypeVar("T")


def read(response: Response, endpoint: Endpoint[T], base_url: str, secrets: Callable[[], Sequence[str]]) -> T:
    """Return the model of a successful response, or its `data` if the endpoint has no model.

    Required fields must be present and of the right type. Invalid optional fields become None, so that a running
    session is not lost to one. A stop needs no body.

    Args:
        response: What the service sent.
        endpoint: The endpoint that was called.
        base_url: The client's base URL, for hints.
        secrets: Returns what must not appear in an error.

    Raises:
        LiveAvatarApiError: The status, or the envelope's code, is an error.
        BadResponseError: The body violates the contract; the message names the field.
        LiveAvatarConnectionError: The body is needed and incomplete.
    """
    body, problem = parse(response.content)
    code = envelope_code(body)
    failed = _says_failed(body) if code is None and not endpoint.body_required else code not in (None, *SUCCESS_CODES)
    if not 200 <= response.status <= 299 or failed:
        raise error(response, endpoint, base_url, secrets())
    if not endpoint.body_required:
        body, problem = body if isinstance(body, dict) else {}, None
    elif response.read_error is not None:
        response.read_error._named_session = named_session(body)
        raise response.read_error
    elif response.unreadable:
        problem = f"the service sent {response.unreadable}"
    if problem is None and isinstance(body, dict) and endpoint.model is not None:
        if not isinstance(body.get("message"), str):
            body["message"] = ""
        if endpoint.body_required and not code:
            body["code"] = SUCCESS_CODES[0]
    try:
        is_empty = not (response.content or response.unreadable)
        if problem is not None and not (is_empty and endpoint.model is None):
            raise ContractViolationError(problem)
        if endpoint.model is None:
            is_envelope = isinstance(body, dict) and ("data" in body or code is not None)
            return cast(T, body.get("data") if is_envelope else body)
        return from_json(endpoint.model, body)
    except ContractViolationError as violation:
        problem = str(violation)
    raise error(response, endpoint, base_url, secrets(), problem)


def _says_failed(body: Any) -> bool:
    """Return whether a body without an integer code says that the request has failed."""
    if not isinstance(body, dict):
        return False
    code = body.get("code")
    if code is not None:
        return str(code).removesuffix(".0") not in map(str, SUCCESS_CODES)
    return bool(body.get("error") or body.get("detail")) or body.get("success") is False
