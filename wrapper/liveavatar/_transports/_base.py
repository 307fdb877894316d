"""A request, a response, and the errors of a connection, for every transport."""

from __future__ import annotations

import itertools
import math
import os
import ssl
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from urllib.parse import urlsplit

import attrs

from .._constants import CLEANUP_POOL_TIMEOUT, CONNECT_TIMEOUT, MAX_RESPONSE_BYTES
from .._proxies import is_loopback
from .._redaction import Secret, exception_chain, redact
from ..errors import LiveAvatarConnectionError, LiveAvatarTimeoutError


@attrs.define(kw_only=True)
class Request:
    """An HTTP request."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    """All headers but the credential."""
    credential: tuple[str, Secret[str]]
    """The name and the value of the header that authenticates the request."""
    content: Secret[bytes] = attrs.field(factory=lambda: Secret(b""))
    deadline: float
    """Time on `time.monotonic` at which the response must be complete."""
    reused_deadline: float = math.inf
    """The same for an attempt on a connection that may have died while it was idle."""
    is_cleanup: bool = False
    """Whether it stops a session that may be running unnoticed. It waits CLEANUP_POOL_TIMEOUT at most for the pool."""
    new_connection: bool = False
    """Whether it must not use an idle connection: it is a cleanup, or the previous attempt got no response."""
    is_stop: bool = False
    """Whether it stops a session. It may then use a connection beside a caller's pool that is closed."""
    beside_pool: bool = False
    """Whether it is sent on a connection of its own, because the caller's pool got no response before."""
    _new_deadline: float = attrs.field(init=False, default=attrs.Factory(lambda self: self.deadline, takes_self=True))
    sent: bool = False
    """True once it may have been sent. A connect error is then of another request, made by a hook or handler."""

    def header_items(self) -> list[tuple[str, str]]:
        """Return all headers, with the credential in clear."""
        return [*self.headers, (self.credential[0], self.credential[1].reveal())]

    def remaining(self, *, sent: bool = False) -> float:
        """Return the seconds left.

        Raises:
            LiveAvatarTimeoutError: No time is left. Its `request_sent` is `sent`.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise connection_error(self, TimeoutError(), sent=sent)
        return left

    def connect_timeout(self) -> float:
        """Return the seconds to connect in.

        They are 10 % below the time left, so that "not connected" is distinguishable from "no response".
        """
        return min(CONNECT_TIMEOUT, 0.9 * self.remaining())

    def pool_timeout(self) -> float:
        """Return the seconds to wait for a connection of a caller's pool."""
        return min(CLEANUP_POOL_TIMEOUT if self.is_cleanup else math.inf, 0.9 * self.remaining())

    def remaining_if_reused(self) -> float:
        """Return the seconds left on a connection that may have died while it was idle."""
        return min(self.remaining(), self.reused_deadline - time.monotonic())

    def limit_to_reused(self) -> None:
        """Apply the deadline of an attempt on a connection that may have died while it was idle."""
        self.deadline = min(self.deadline, self.reused_deadline)

    def extend_to_new(self) -> None:
        """Take back `limit_to_reused`: the connection is new."""
        self.deadline = self._new_deadline


@attrs.define
class Response:
    """An HTTP response; the body may be incomplete."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    """The headers, in a mapping that ignores the case of their names."""
    content: bytearray = attrs.field(factory=bytearray, repr=False)
    unreadable: str | None = None
    """Why the body was not read to its end, if it is too large or in an encoding that was not asked for."""
    read_error: LiveAvatarConnectionError | None = None
    """The connection error that truncated the body, if one did."""

    def __attrs_post_init__(self) -> None:
        if "content-encoding" in self.headers:
            encoding = self.header("content-encoding").strip().lower()
            if encoding not in ("", "identity"):
                self.unreadable = f"a body in the encoding {encoding[:20]!r}, which was not asked for"

    def header(self, name: str) -> str:
        """Return a header; its values are joined if the service has sent it more than once.

        Args:
            name: Its name in lower case.
        """
        return ", ".join(value for each, value in self.headers.items() if each.lower() == name)

    def feed(self, chunk: bytes) -> bool:
        """Add a part of the body; return False once the body is too large."""
        self.content += chunk
        if len(self.content) > MAX_RESPONSE_BYTES:
            self.unreadable = f"a body of more than {MAX_RESPONSE_BYTES} bytes"
            self.content.clear()
        return self.unreadable is None


_PARSERS = {"h11._util", "aiohttp.http_exceptions"}
"""The modules of exceptions whose messages quote what the service has sent, which may be a secret.

So does an exception with a response, which has headers, among its arguments.
"""


def connection_error(
    request: Request,
    cause: BaseException | str,
    *,
    sent: bool,
    timed_out: bool = False,
    active: BaseException | None = None,
) -> LiveAvatarConnectionError:
    """Return the error for a request that got no response, or an incomplete one.

    The transport's own exception is described and not chained, because it holds the request's headers.

    Args:
        request: The request.
        cause: What the transport raised, or what happened.
        sent: Whether the service may have received the request.
        timed_out: Whether its time was over.
        active: The exception that the caller was handling when it called; it and its causes are left out.
    """
    timed_out = timed_out or isinstance(cause, TimeoutError)
    chain = list(_chain_until(cause, active))
    if any(type(each).__module__ in _PARSERS or any(map(_is_head, each.args)) for each in chain):
        reason = "the response is incomplete, or not valid HTTP"
    else:
        reason = str(cause) or ("the call timed out" if timed_out else "the connection broke")
    if isinstance(cause, BaseException):
        reason = f"{reason} ({type(cause).__name__})"
    reason = redact(" ".join(reason.split()), [request.credential[1].reveal().removeprefix("Bearer ")])[:300]
    untrusted = any(isinstance(each, ssl.SSLCertVerificationError) for each in chain)
    if untrusted:
        reason = f"the service's certificate is not trusted: {reason}"
    else:
        reason += _connection_hint(request.url, chain, sent=sent, timed_out=timed_out)
    cls = LiveAvatarTimeoutError if timed_out else LiveAvatarConnectionError
    error = cls(f"No response from {request.url}: {reason}")
    error.request_sent = sent
    error.certificate_rejected = untrusted
    return error


def _is_head(argument: object) -> bool:
    """Return whether an argument of an exception is the head of a response."""
    return hasattr(argument, "headers") and hasattr(argument, "reason")


def _chain_until(error: object, active: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, its cause or context, and so on, but nothing that the caller was handling when it called."""
    return itertools.takewhile(lambda each: each is not active, exception_chain(error))


def _connection_hint(url: str, chain: list[BaseException], *, sent: bool, timed_out: bool) -> str:
    """Return what may be wrong with the base URL."""
    parts = urlsplit(url)
    if any(isinstance(each, ssl.SSLError) for each in chain):
        return f"; does the server at {parts.netloc} expect http://, not https://? Check base_url"
    if chain and not (sent or timed_out) and is_loopback(parts.hostname):
        port = "" if parts.port is None else f" --port {parts.port}"
        return f"; is the mock server running at {parts.netloc}? `python -m liveavatar.mock{port}` starts it"
    return ""


_LIBRARY_FOLDERS = tuple(
    f"{folder}{os.sep}"
    for folder in {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {str(Path(__file__).parents[1]), str(Path(attrs.__file__).parents[1])}
)
_LIBRARIES = {"aiohttp", "anyio", "asyncio", "builtins", "h11", "httpcore", "httpx", "socket", "ssl", "uvloop"}


def find_callers_exception(error: BaseException, active: BaseException | None = None) -> BaseException | None:
    """Return the exception that no HTTP library raised, for example one raised by a signal handler.

    The libraries wrap OSError only. Other causes are those that a mocking library has added. asyncio raises
    RuntimeError if a loop's executor is shut down, and the libraries do so if they were closed.

    Args:
        error: What a transport raised.
        active: The exception that the caller was handling when it called; it and its causes are left out.
    """
    for current in _chain_until(error, active):
        is_known = type(current).__module__.partition(".")[0] in _LIBRARIES
        if not is_known and (current is error or isinstance(current, OSError)):
            return current
        if isinstance(current, OSError | RuntimeError | UnicodeError) and _is_raised_by_caller(current):
            return current
    return None


def _is_raised_by_caller(error: BaseException) -> bool:
    """Return whether code outside of libraries has raised an exception, for example a signal handler."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    if traceback.tb_frame.f_globals.get("__name__") == "__main__":
        return True  # also if it was typed at a prompt
    file = traceback.tb_frame.f_code.co_filename
    is_compiled = file.startswith("<") or file.endswith((".pyx", ".pxd", ".pxi"))  # uvloop and aiohttp are, in part
    return not (is_compiled or file.startswith(_LIBRARY_FOLDERS))


def is_original(method: object, module: ModuleType) -> bool:
    """Return whether a method is that of a library's module, not one of instrumentation or of a mocking library."""
    # The exact type, because wrappers pretend to be functions.
    return type(method) is FunctionType and method.__code__.co_filename == module.__file__


def with_read_error(response: Response | None, error: LiveAvatarConnectionError) -> Response:
    """Return the part of a response that arrived before the connection broke.

    Raises:
        LiveAvatarConnectionError: Nothing arrived, or a signal handler or a hook has raised the error of another call.
    """
    if response is None or error.attempts:
        raise error
    error.request_sent = True  # a response head arrived, so the request was sent
    response.read_error = error
    return response
