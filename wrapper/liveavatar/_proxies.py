"""Reads the proxy for a URL from the environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.request
from urllib.parse import urlsplit

from .errors import LiveAvatarError


def is_loopback(host: str | None) -> bool:
    """Return whether `host` is this machine."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def proxy_from_environment(url: str, *, required: bool) -> str | None:
    """Return the URL of the HTTP proxy that the environment names for `url`, or None.

    Args:
        url: The URL that requests go to.
        required: Whether requests cannot be sent without the proxy. If not, an unusable one is ignored.

    Raises:
        ValueError: The proxy's URL is not valid; the message names the variable and not its value.
        LiveAvatarError: The proxy is of a kind that is not supported, for example SOCKS.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or _bypasses_proxy(host, parts.port or {"http": 80, "https": 443}[parts.scheme]):
        return None
    proxies = urllib.request.getproxies()
    name = next((name for name in (parts.scheme, "all") if proxies.get(name)), None)
    if name is None:
        return None
    proxy = proxies[name].strip()
    try:
        return _valid_proxy(proxy if "://" in proxy else f"http://{proxy}", _variable(name))
    except (ValueError, LiveAvatarError):
        if required:
            raise
        return None


def _valid_proxy(proxy: str, variable: str) -> str:
    invalid = ValueError(f"{variable} is not the URL of a proxy; it must look like http://host:port")
    try:
        parts = urlsplit(proxy)
        valid = bool(parts.hostname) and parts.port != 0 and re.fullmatch(r"[!-~]+", proxy) is not None
    except ValueError:
        raise invalid from None
    if not valid:
        raise invalid
    if parts.scheme.lower() not in ("http", "https"):
        raise LiveAvatarError(
            f"{variable} names a {parts.scheme} proxy, which is not supported. Pass http_client= with a client that "
            "supports it (httpx[socks]), or list the host in NO_PROXY."
        )
    return proxy


def _variable(name: str) -> str:
    """Return the environment variable that sets the proxy for `name`."""
    variable = f"{name}_proxy"
    return next((each for each in (variable, variable.upper()) if os.environ.get(each)), variable.upper())


def _bypasses_proxy(host: str, port: int) -> bool:
    """Return whether NO_PROXY excludes the host, by the rules of curl and requests."""
    no_proxy = urllib.request.getproxies_environment().get("no")
    if no_proxy is None:
        return bool(urllib.request.proxy_bypass(host))  # the settings of macOS or Windows
    return any(_excludes(entry, host.lower(), port) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def _excludes(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, colon, digits = entry.rpartition(":")
    if colon and digits.isdecimal():
        if int(digits) != port:
            return False
        entry = name.strip("[]")
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))
