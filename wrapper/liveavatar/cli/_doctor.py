"""What stands between this machine and a session: looked at one after another, each with what mends it."""

from __future__ import annotations

import email.utils
import os
import platform
import re
import socket
import time
from collections.abc import Generator, Iterator
from importlib import metadata
from urllib.parse import urlsplit

import attrs
import httpx

from .._config import Config, parse_credential
from .._constants import API_KEY_VARIABLE
from .._proxies import proxy_from_environment
from .._redaction import redact
from ..errors import LiveAvatarError
from ..mock._settings import SANDBOX_AVATAR
from ..models import LiveAvatarNewSessionRequest
from ._failures import advised
from ._settings import Settings, connected, in_flags

_CONNECT, _ANSWER = 5.0, 15.0  # seconds
_SKEW = 60.0  # seconds by which a clock may be wrong without anybody noticing

OK, WARN, FAIL = "ok", "warn", "fail"


@attrs.frozen
class Finding:
    """One line of the report."""

    state: str
    what: str
    words: str
    fix: str = ""


def examine(settings: Settings, *, session: bool) -> Iterator[Finding]:
    """Look at everything that can be looked at; what needs something that failed is left out.

    Args:
        settings: what the command was told.
        session: open a session of the free sandbox avatar too, and close it.
    """
    yield Finding(OK, "Python", platform.python_version())
    yield _libraries()
    key = _key(settings)
    yield key
    try:
        url = Config.from_arguments("any", settings.base_url, 1, 0).base_url
    except ValueError as error:
        yield Finding(FAIL, "Base URL", in_flags(error), "Unset it for the live service.")
        return
    yield Finding(OK, "Base URL", f"{url} ({settings.url_from})")
    reached = yield from _way(url)
    if reached and key.state != FAIL:
        yield _account(settings, session=session)


def _libraries() -> Finding:
    """Whether what is installed is as new as our metadata asks."""
    old, seen = [], []
    for line in metadata.requires("liveavatar") or []:
        floor = re.match(r"([\w.-]+)>=([\d.]+)\s*(?:;\s*extra == .cli.)?$", line)
        if floor:
            name, least = floor.groups()
            version = metadata.version(name)
            seen.append(f"{name}=={version}")
            if _numbers(version) < _numbers(least):
                old.append(f"'{name}>={least}'")
    if old:
        return Finding(
            FAIL, "Libraries", f"too old for this package: {' '.join(seen)}", f"pip install {' '.join(old)}"
        )
    return Finding(OK, "Libraries", " ".join(seen))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _key(settings: Settings) -> Finding:
    fix = f"Set {API_KEY_VARIABLE} to the account's API key, in the environment or in a file .env here."
    if settings.key_from is None:
        return Finding(FAIL, "API key", "there is none", fix)
    value = os.environ[API_KEY_VARIABLE].strip()
    try:
        parse_credential(value, API_KEY_VARIABLE)
    except ValueError as error:
        return Finding(FAIL, "API key", str(error), fix)
    if value.startswith("eyJ"):
        return Finding(WARN, "API key", "looks like a token of one session", fix)
    if value[0] in "'\"<" or value[-1] in "'\">":
        return Finding(WARN, "API key", "has quotes or brackets around it", fix)
    return Finding(OK, "API key", f"set ({settings.key_from})")


def _way(url: str) -> Generator[Finding, None, bool]:
    """The way to the service; True when it has answered."""
    proxy = proxy_from_environment(url, required=False)
    target = urlsplit(proxy or url)
    host, port = target.hostname or "", target.port or (443 if target.scheme == "https" else 80)
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # a proxy's user and password stay out of it
    yield Finding(OK, "Proxy", f"through {shown}, from the environment" if proxy else "none")
    whose = "Check the proxy variables (HTTPS_PROXY, ALL_PROXY, NO_PROXY)." if proxy else ""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield Finding(
            FAIL, "DNS", f"{host} is not found: {error.strerror}", whose or "Check the network and the name."
        )
        return False
    yield Finding(OK, "DNS", f"{host} resolves")
    try:
        socket.create_connection((host, port), timeout=_CONNECT).close()
    except OSError as error:
        what = f"{shown} cannot be reached: {error.strerror or error}"
        yield Finding(FAIL, "TCP", what, whose or "Check the network, its firewall, and whether a proxy is needed.")
        return False
    yield Finding(OK, "TCP", f"{shown} can be reached")
    context = httpx.create_ssl_context()
    try:
        with (
            httpx.Client(verify=context, proxy=proxy, trust_env=False, timeout=_ANSWER) as client,
            client.stream("GET", url) as answer,
        ):
            tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
            yield Finding(OK, "TLS", tls.version() if tls else "none, as the service is on this machine")
            yield _answer(answer)
            yield _clock(answer.headers.get("date"))
    except (httpx.HTTPError, OSError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            fix = "If your network has a certificate authority of its own, name its file in SSL_CERT_FILE."
            yield Finding(FAIL, "TLS", "the certificate is not trusted", fix)
        else:
            yield Finding(FAIL, "HTTP", f"no answer: {redact(str(error)) or type(error).__name__}", whose)
        return False
    return True


def _answer(answer: httpx.Response) -> Finding:
    words = f"{answer.status_code} {answer.reason_phrase}".strip()
    if answer.status_code >= 500:
        return Finding(WARN, "HTTP", f"the service answers {words}", "The fault is at the service; try again later.")
    return Finding(OK, "HTTP", "the service answers")


def _clock(date: str | None) -> Finding:
    try:
        skew = time.time() - email.utils.parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return Finding(OK, "Clock", "not compared: the answer has no date")
    if abs(skew) > _SKEW:
        words = f"{abs(skew):.0f} seconds {'ahead of' if skew > 0 else 'behind'} the service's"
        return Finding(WARN, "Clock", words, "Set this machine's clock, best by NTP.")
    return Finding(OK, "Clock", "agrees with the service's")


def _account(settings: Settings, *, session: bool) -> Finding:
    """Whether the service lets the key in: minting a token costs nothing and starts nothing."""
    request = LiveAvatarNewSessionRequest(avatar_id=SANDBOX_AVATAR, is_sandbox=True)
    what = "Session" if session else "Account"
    try:
        with connected(settings, timeout=_ANSWER, max_retries=0) as api:
            if not session:
                api.create_session_token(request)
                return Finding(OK, what, "the key is accepted; --session opens a session too")
            begun = time.monotonic()
            api.new_session(request)
            took = time.monotonic() - begun
            api.close_all_sessions()
            return Finding(OK, what, f"opened in {took:.1f} s, and closed")
    except LiveAvatarError as error:
        return Finding(FAIL, what, advised(error))
