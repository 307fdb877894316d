"""What a client was told at construction: arguments, then the environment, then defaults; all checked here."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import urllib.request
from urllib.parse import SplitResult, urlsplit

import attrs

from ._secrets import Secret
from .errors import LiveAvatarError

BASE_URL = "https://api.liveavatar.com/v1"
KEY_VARIABLE = "LIVEAVATAR_API_KEY"
URL_VARIABLE = "LIVEAVATAR_BASE_URL"

VISIBLE = re.compile(r"[!-~]+")
"""What a credential, an id and an address consist of."""


@attrs.frozen
class Config:
    """The settings of one client."""

    api_key: Secret
    base_url: str
    timeout: float
    """Seconds one method call may take, retries and waits included."""
    max_retries: int
    """How many more times a request that may be repeated is tried."""


def configure(
    api_key: str | None, base_url: str | None, timeout: float, max_retries: int, default_url: str = BASE_URL
) -> Config:
    """Settings from a client's arguments.

    Raises:
        LiveAvatarError: there is no API key.
        ValueError, TypeError: an argument cannot be used; the message never shows a credential.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if not (timeout > 0 and math.isfinite(timeout)):
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
    if isinstance(max_retries, bool) or not isinstance(max_retries, int):
        raise TypeError(f"max_retries must be an int, not {type(max_retries).__name__}")
    if max_retries < 0:
        raise ValueError(f"max_retries must be 0 or more, not {max_retries}")
    return Config(_api_key(api_key), _base_url(base_url, default_url), float(timeout), max_retries)


def credential(value: object, name: str) -> Secret:
    """A header-safe credential.

    Raises:
        TypeError, ValueError: it is not a str, is empty, or holds a character no credential has;
            the message does not show the value.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    value = value.strip()
    if not VISIBLE.fullmatch(value):
        raise ValueError(
            f"{name} is empty, or holds a blank, a line break or another character that no credential has"
        )
    return Secret(value)


def _api_key(given: str | None) -> Secret:
    if given is not None and not isinstance(given, str):
        raise TypeError(f"api_key must be a str, not {type(given).__name__}")
    value = given if given and given.strip() else os.environ.get(KEY_VARIABLE, "")
    if not value.strip():
        raise LiveAvatarError(
            f"There is no API key: pass api_key=, or set the environment variable {KEY_VARIABLE}. "
            f"Without an account, `python -m liveavatar.mock` gives one."
        )
    return credential(value, "api_key")


def _base_url(given: str | None, default: str) -> str:
    if given is not None and not isinstance(given, str):
        raise TypeError(f"base_url must be a str, not {type(given).__name__}")
    url = given if given is not None else os.environ.get(URL_VARIABLE, "").strip() or default
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port  # an unusable port raises here
    except ValueError:
        raise ValueError("base_url has a host or port that cannot be used") from None
    if not host or port == 0 or not VISIBLE.fullmatch(url) or "\\" in url:
        raise ValueError(f"base_url must look like {BASE_URL}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url must not hold a user name or password")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ValueError("base_url must not have a query or a fragment")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"base_url must begin with https://, not {parts.scheme}://")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("base_url must begin with https://; http:// is for loopback only")
    path = parts.path.rstrip("/") or "/v1"
    return SplitResult(parts.scheme, parts.netloc, path, "", "").geturl()


def is_loopback(host: str | None) -> bool:
    """Whether `host` is this machine."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def environment_proxy(url: str, *, needed: bool = False) -> str | None:
    """The HTTP proxy that the environment names for `url`, as HTTPS_PROXY, ALL_PROXY and NO_PROXY say.

    Raises:
        LiveAvatarError: it names one of another kind, and `needed` says that there is no way around it.
    """
    parts = urlsplit(url)
    if is_loopback(parts.hostname) or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    kind, sign, _ = (proxy or "").partition("://")
    if not sign:
        return proxy and f"http://{proxy}"
    if kind.lower() in ("http", "https"):
        return proxy
    if needed:
        raise LiveAvatarError(
            f"The environment's proxy for {parts.scheme}:// is of the kind {kind}, which is not spoken here. "
            "Give http_client= with a client that does (httpx[socks]), or except the host in NO_PROXY."
        )
    return None
