"""Validates the settings of a client: arguments first, then the environment, then defaults."""

from __future__ import annotations

import os
import re
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from ._arguments import check_int, check_seconds
from ._constants import API_KEY_VARIABLE, BASE_URL, BASE_URL_VARIABLE
from ._proxies import is_loopback
from ._redaction import Secret
from .errors import LiveAvatarError

VCHAR = re.compile(r"[!-~]+")
"""Visible ASCII (RFC 5234): the characters of credentials, ids and URLs."""


_MAX_TIMEOUT = 1e9
"""Seconds. Sockets raise an OverflowError for a little more."""


@attrs.frozen
class Config:
    """The settings of one client."""

    api_key: Secret[str]
    base_url: str
    timeout: float
    """Seconds that one method call may take, retries and delays included."""
    max_retries: int
    """How many times a request that is safe to repeat is sent again."""

    @classmethod
    def from_arguments(
        cls,
        api_key: str | None,
        base_url: str | None,
        timeout: float,
        max_retries: int,
        default_base_url: str = BASE_URL,
    ) -> Self:
        """Return settings from a client's arguments.

        Raises:
            LiveAvatarError: There is no API key.
            ValueError, TypeError: An argument is not valid. The message never shows a credential.
        """
        seconds = min(_MAX_TIMEOUT, check_seconds(timeout, "timeout", positive=True))
        if check_int(max_retries, "max_retries") < 0:
            raise ValueError(f"max_retries must be 0 or more, not {max_retries}")
        return cls(_api_key(api_key), _base_url(base_url, default_base_url), seconds, max_retries)


def parse_credential(value: object, name: str) -> Secret[str]:
    """Return a credential that can be sent in a header.

    Raises:
        TypeError, ValueError: The value is not a str, is empty, or has a character that no credential has. The
            message does not show the value.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    value = value.strip()
    if not VCHAR.fullmatch(value):
        raise ValueError(f"{name} is empty, or has a space, a line break or another character that no credential has")
    return Secret(value)


def _api_key(argument: str | None) -> Secret[str]:
    if argument is not None and not isinstance(argument, str):
        raise TypeError(f"api_key must be a str, not {type(argument).__name__}")
    given = bool(argument and argument.strip())
    value = argument if argument and given else os.environ.get(API_KEY_VARIABLE, "")
    if not value.strip():
        raise LiveAvatarError(
            f"There is no API key: pass api_key=, or set the environment variable {API_KEY_VARIABLE}. "
            f"To try the client without an account, run the mock server: `python -m liveavatar.mock`."
        )
    return parse_credential(value, "the argument api_key" if given else f"api_key (from {API_KEY_VARIABLE})")


def _base_url(argument: str | None, default: str) -> str:
    if argument is not None and not isinstance(argument, str):
        raise TypeError(f"base_url must be a str, not {type(argument).__name__}")
    if argument is not None:
        return parse_base_url(argument, "the argument base_url")
    url = os.environ.get(BASE_URL_VARIABLE, "").strip()
    return parse_base_url(url or default, f"base_url (from {BASE_URL_VARIABLE})")


def parse_base_url(url: str, name: str) -> str:
    """Return a base URL in its normal form (RFC 3986), without a trailing slash, and with the path /v1 if it has none.

    Args:
        url: The URL.
        name: What it is, and where it comes from, for messages.

    Raises:
        ValueError: It is not valid. The message does not show it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port  # an invalid port raises here
    except ValueError:
        raise ValueError(f"{name} has an invalid host or port") from None
    if not host or port == 0 or not VCHAR.fullmatch(url) or "\\" in url:
        raise ValueError(f"{name} must look like {BASE_URL}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{name} must not have a user name or password")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ValueError(f"{name} must not have a query or a fragment")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{name} must start with https://, not {parts.scheme}://")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(
            f"{name} must start with https://, because http:// would show the API key and is for loopback only. "
            "To reach a mock server in another container, share its network: `network_mode: service:mock`."
        )
    if {".", ".."} & {*unquote(parts.path).split("/")}:
        raise ValueError(f"{name} must not have the segment . or .. in its path")
    authority = parts.netloc.lower().removesuffix({"https": ":443", "http": ":80"}[parts.scheme])
    path = parts.path.rstrip("/") or "/v1"
    return SplitResult(parts.scheme, authority, path, "", "").geturl()
