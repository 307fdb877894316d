"""Checks the arguments of the clients' methods before anything is sent."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from ._redaction import MASK

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PATH = re.compile(r"/[!-~]*")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_MAX_SHOWN = 40
"""Characters of an id that a message shows. A UUID in braces has 38."""


def check_session_id(session_id: object) -> str:
    """Return `session_id` if it can be one.

    Raises:
        TypeError, ValueError: It cannot.
    """
    if session_id is None:
        raise ValueError("session_id is None; it must be the id of a session (UUID)")
    if not isinstance(session_id, str):
        raise TypeError(f"session_id must be a str, not {type(session_id).__name__}")
    if not session_id.strip():
        raise ValueError("session_id is empty; it must be the id of a session (UUID)")
    if session_id in (".", ".."):  # in a path, they mean another endpoint
        raise ValueError(f"session_id is {session_id!r}; it must be the id of a session (UUID)")
    return session_id


def is_uuid(value: str) -> bool:
    """Return whether `value` is a UUID, as the service writes it."""
    return _UUID.fullmatch(value) is not None


def shown(value: str) -> str:
    """Return a value for a message. A longer one than an id may be a token or a key, and is masked."""
    return repr(value) if len(value) <= _MAX_SHOWN else MASK


def check_uuid(value: object, name: str) -> str:
    """Return `value` if it is a UUID.

    Raises:
        TypeError, ValueError: It is not one.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not is_uuid(value):
        raise ValueError(f"{name} is {shown(value)}; it must be a UUID. To send another value, use request().")
    return value


def check_seconds(value: object, name: str, *, positive: bool = False) -> float:
    """Return a number of seconds, 0 or more, or more than 0.

    Raises:
        TypeError, ValueError: It is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value <= sys.float_info.max or (positive and value == 0):
        allowed = "a positive number of" if positive else "0 or more"
        raise ValueError(f"{name} must be {allowed} seconds, not {value}")
    return float(value)


def check_int(value: object, name: str) -> int:
    """Return `value` if it is an int.

    Raises:
        TypeError: It is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    return value


def check_request(method: object, path: object) -> tuple[str, str]:
    """Return the method, in upper case, and the path of a request.

    Raises:
        TypeError, ValueError: One of them cannot be sent.
    """
    if not isinstance(method, str) or not isinstance(path, str):
        raise TypeError("method and path must be str")
    if method.upper() not in _METHODS:
        raise ValueError(f"method is {method[:20]!r}; it must be one of {', '.join(_METHODS)}")
    if not _PATH.fullmatch(path) or path.startswith("//") or ".." in path.split("/") or re.search(r"[?#\\]", path):
        raise ValueError('path must be relative to the base URL, such as "/users/credits"; use params= for a query')
    if path.startswith("/v1/"):
        raise ValueError(f"path is below the base URL, which ends in /v1: pass {path.removeprefix('/v1')!r}")
    return method.upper(), path


def check_params(params: object) -> dict[str, Any]:
    """Return the parameters of a query, without those that are None.

    Raises:
        TypeError: They are not a mapping.
    """
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict, not {type(params).__name__}")
    return {str(name): _query_value(value) for name, value in params.items() if value is not None}


def _query_value(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return [_query_value(each) for each in value] if isinstance(value, list | tuple) else value
