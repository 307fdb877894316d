"""Checks of the settings and the connection, each with a suggested fix."""

from __future__ import annotations

import email.utils
import os
import platform
import re
import socket
import ssl
import time
from collections.abc import Generator, Iterator
from importlib import metadata
from urllib.parse import SplitResult, urlsplit

import attrs
import httpx

from .._constants import API_KEY_VARIABLE, BASE_URL
from .._proxies import is_loopback, proxy_from_environment
from .._redaction import redact
from ..errors import LiveAvatarError, NotFoundError
from ..mock._settings import SANDBOX_AVATAR
from ..models import LiveAvatarNewSessionRequest
from ._errors import user_message
from ._settings import Settings, open_client

_CONNECT_TIMEOUT, _TIMEOUT = 5.0, 15.0  # seconds
_MAX_SKEW = 60.0  # seconds
_MOCK_PORT = 8080  # the default of `liveavatar mock`

OK, WARN, FAIL = "ok", "warn", "fail"


@attrs.frozen
class CheckResult:
    """Result of one check."""

    state: str
    name: str
    message: str
    fix: str = ""


def run_checks(settings: Settings, *, session: bool) -> Iterator[CheckResult]:
    """Run the checks in order, and leave out those that need what has failed.

    Args:
        settings: settings of the command.
        session: open and close a free trial session, too.
    """
    yield CheckResult(OK, "Python", platform.python_version())
    yield _check_libraries()
    key = _check_key(settings)
    yield key
    try:
        url = settings.check_url()
    except ValueError as error:
        yield CheckResult(FAIL, "Base URL", str(error), "Unset it to use the live service.")
        return
    yield CheckResult(OK, "Base URL", f"{url} ({settings.url_from})")
    connected = yield from _check_connectivity(url)
    if connected and key.state != FAIL:
        yield _check_account(settings, url, session=session)


def _check_libraries() -> CheckResult:
    """Compare the installed libraries with the versions that the package accepts."""
    wrong, found = [], []
    for requirement in metadata.requires("liveavatar") or []:
        match = re.match(r"([\w.-]+)([\d.,<>=]*)\s*(?:;\s*extra == .cli.)?$", requirement)
        if match:
            name, bounds = match.groups()
            version = metadata.version(name)
            found.append(f"{name}=={version}")
            if not all(_within(version, *bound) for bound in re.findall(r"(>=|<)([\d.]+)", bounds)):
                wrong.append(f"'{name}{bounds}'")
    if wrong:
        message = f"not the versions that this package needs: {' '.join(found)}"
        return CheckResult(FAIL, "Libraries", message, f"pip install {' '.join(wrong)}")
    return CheckResult(OK, "Libraries", " ".join(found))


def _within(version: str, operator: str, bound: str) -> bool:
    older = _numbers(version) < _numbers(bound)
    return older if operator == "<" else not older


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _check_key(settings: Settings) -> CheckResult:
    fix = f"Set {API_KEY_VARIABLE} to the account's API key, in the environment or in the file .env of this folder."
    if settings.key_from is None:
        return CheckResult(FAIL, "API key", "is not set", f"{fix} {_mock_hint(_MOCK_PORT)}")
    value = os.environ[API_KEY_VARIABLE].strip()
    try:
        settings.check_key()
    except ValueError as error:
        return CheckResult(FAIL, "API key", str(error), fix)
    if value.startswith("eyJ"):
        return CheckResult(WARN, "API key", "looks like a session token", fix)
    if value[0] in "'\"<" or value[-1] in "'\">":
        return CheckResult(WARN, "API key", "has quotes or brackets around it", fix)
    return CheckResult(OK, "API key", f"set ({settings.key_from})")


def _check_connectivity(url: str) -> Generator[CheckResult, None, bool]:
    """Check the way to the service, and return whether it has responded."""
    try:
        proxy = proxy_from_environment(url, required=True)
    except (ValueError, LiveAvatarError) as error:
        yield CheckResult(FAIL, "Proxy", str(error))
        return False
    target = urlsplit(proxy or url)
    host, port = _address(target)
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # without the proxy's user and password
    yield CheckResult(OK, "Proxy", f"{shown}, from the environment" if proxy else "none")
    proxy_fix = "Check the proxy variables (HTTPS_PROXY, ALL_PROXY, NO_PROXY)." if proxy else ""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        fix = proxy_fix or "Check the network and the host name."
        yield CheckResult(FAIL, "DNS", f"{host} cannot be resolved: {error.strerror}", fix)
        return False
    yield CheckResult(OK, "DNS", f"{host} resolves")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT).close()
    except OSError as error:
        if is_loopback(host) and not proxy:
            yield CheckResult(FAIL, "TCP", f"no server listens at {shown}", _mock_hint(port))
        else:
            fix = proxy_fix or "Check the network and its firewall, and whether a proxy is needed."
            yield CheckResult(FAIL, "TCP", f"no connection to {shown}: {error.strerror or error}", fix)
        return False
    yield CheckResult(OK, "TCP", f"{shown} accepts connections")
    context = httpx.create_ssl_context()
    try:
        with (
            httpx.Client(verify=context, proxy=proxy, trust_env=False, timeout=_TIMEOUT) as client,
            client.stream("GET", url) as response,
        ):
            if not proxy and (mismatch := _scheme_mismatch(target, status=response.status_code)):
                yield mismatch
                return False
            tls = response.extensions["network_stream"].get_extra_info("ssl_object")
            yield CheckResult(OK, "TLS", tls.version() if tls else "not used, because the server is on this machine")
            yield _check_response(response)
            yield _check_clock(response.headers.get("date"))
    except (httpx.HTTPError, OSError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            fix = "If your network has a certificate authority of its own, set SSL_CERT_FILE to its certificate."
            yield CheckResult(FAIL, "TLS", "the certificate is not trusted", fix)
        elif not proxy and (mismatch := _scheme_mismatch(target)):
            yield mismatch
        else:
            reason = redact(str(error)) or type(error).__name__
            yield CheckResult(FAIL, "HTTP", f"no response: {reason}", proxy_fix)
        return False
    return True


def _scheme_mismatch(target: SplitResult, *, status: int | None = None) -> CheckResult | None:
    """Return a failure if the server speaks plain HTTP to an https:// address, or TLS to an http:// one.

    Args:
        target: the address.
        status: status of the response, if there was one.
    """
    host, port = _address(target)
    if target.scheme == "https":
        if status is None and _speaks_http(host, port):
            fix = (
                f"Change the base URL to http://{target.netloc}{target.path}."
                if is_loopback(host)
                else "Check the port."
            )
            return CheckResult(FAIL, "TLS", "the server speaks plain HTTP, but the base URL starts with https://", fix)
    elif status in (None, 400) and _speaks_tls(host, port):  # 400 is what many TLS servers send to plain HTTP
        fix = f"Change the base URL to https://{target.netloc}{target.path}."
        return CheckResult(FAIL, "TLS", "the server speaks TLS, but the base URL starts with http://", fix)
    return None


def _speaks_http(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT) as connection:
            connection.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(5) == b"HTTP/"
    except OSError:
        return False


def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only a handshake: nothing is sent
    try:
        with (
            socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return True
    except OSError:
        return False


def _address(target: SplitResult) -> tuple[str, int]:
    return target.hostname or "", target.port or (443 if target.scheme == "https" else 80)


def _mock_hint(port: int) -> str:
    """Say how to start the mock server, or to use one that runs at its default port."""
    running = f"http://127.0.0.1:{_MOCK_PORT}"
    try:
        sessions = httpx.get(f"{running}/sessions.json", trust_env=False, timeout=1).json()["sessions"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        sessions = None
    if isinstance(sessions, list):
        return f"A mock server runs at {running}: set the two variables that it has printed."
    option = "" if port == _MOCK_PORT else f" --port {port}"
    return f"To start a mock server, which needs no account, run `liveavatar mock{option}`."


def _check_response(response: httpx.Response) -> CheckResult:
    status = f"{response.status_code} {response.reason_phrase}".strip()
    if response.status_code >= 500:
        return CheckResult(WARN, "HTTP", f"the service responds with {status}", "Try again later.")
    if response.has_redirect_location:
        return CheckResult(
            WARN, "HTTP", f"the base URL redirects ({status})", f"Check the base URL; the live service is {BASE_URL}."
        )
    return CheckResult(OK, "HTTP", "the service responds")


def _check_clock(date: str | None) -> CheckResult:
    try:
        skew = time.time() - email.utils.parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return CheckResult(OK, "Clock", "not compared, because the response has no date")
    if abs(skew) > _MAX_SKEW:
        message = f"{abs(skew):.0f} seconds {'ahead of' if skew > 0 else 'behind'} the service's clock"
        return CheckResult(WARN, "Clock", message, "Set this machine's clock, for example by NTP.")
    return CheckResult(OK, "Clock", "agrees with the service's clock")


def _check_account(settings: Settings, url: str, *, session: bool) -> CheckResult:
    """Check that the service accepts the key. Creating a session token costs nothing and starts nothing."""
    request = LiveAvatarNewSessionRequest(avatar_id=SANDBOX_AVATAR, is_sandbox=True)
    name = "Session" if session else "Account"
    try:
        with open_client(settings, timeout=_TIMEOUT, max_retries=0) as api:
            if not session:
                api.create_session_token(request)
                return CheckResult(OK, name, "the key is accepted; --session opens a session, too")
            started = time.monotonic()
            api.new_session(request)
            seconds = time.monotonic() - started
            api.close_all_sessions()
            return CheckResult(OK, name, f"opened in {seconds:.1f} s, and closed")
    except NotFoundError as error:
        # The request names nothing but an avatar that the service has.
        parts = urlsplit(url)
        right = BASE_URL if not is_loopback(parts.hostname) else f"{parts.scheme}://{parts.netloc}/v1"
        fix = "Check the base URL." if right == url else f"Set the base URL to {right}."
        return CheckResult(FAIL, "Base URL", f"the API is not at {url} ({error.status} {error.message})", fix)
    except LiveAvatarError as error:
        return CheckResult(FAIL, name, user_message(error))
