"""What all transports share, without a socket: deadlines, response heads, and the errors of a connection."""

from __future__ import annotations

import math
import ssl
import types
from typing import Any

import aiohttp
import h11
import httpx
import pytest
from liveavatar import LiveAvatarTimeoutError
from liveavatar._constants import CLEANUP_POOL_TIMEOUT, CONNECT_TIMEOUT
from liveavatar._redaction import Secret
from liveavatar._transports._base import Request, Response, connection_error, find_foreign

LOCAL = "http://127.0.0.1:8080/v1/sessions/start"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time, which stands still."""
    monkeypatch.setattr("liveavatar._transports._base.time", types.SimpleNamespace(monotonic=lambda: 1000.0))
    return 1000.0


def request(deadline: float = math.inf, url: str = LOCAL, **settings: Any) -> Request:
    """Return a request without content."""
    return Request(
        method="POST", url=url, headers=(), credential=("X-API-KEY", Secret("k")), deadline=deadline, **settings
    )


# ---- Deadlines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0.0, -1.0])
def test_no_time_left(left: float, now: float) -> None:
    """A request whose deadline has come is a timeout."""
    with pytest.raises(LiveAvatarTimeoutError, match=r"the call timed out \(TimeoutError\)$") as caught:
        request(now + left).remaining(sent=True)
    assert caught.value.request_sent is True


@pytest.mark.parametrize(("left", "connect"), [(2.0, 1.8), (100.0, CONNECT_TIMEOUT)])
def test_connect_timeout(left: float, connect: float, now: float) -> None:
    """An attempt to connect ends before the request does."""
    assert request(now + left).connect_timeout() == pytest.approx(connect)


@pytest.mark.parametrize(
    ("left", "is_cleanup", "pool"),
    [(100.0, False, 90.0), (100.0, True, CLEANUP_POOL_TIMEOUT), (0.2, True, 0.18)],
)
def test_pool_timeout(left: float, is_cleanup: bool, pool: float, now: float) -> None:
    """A cleanup waits for a connection of the caller's pool for a short time only."""
    assert request(now + left, is_cleanup=is_cleanup).pool_timeout() == pytest.approx(pool)


@pytest.mark.parametrize(("reused", "left"), [(3.0, 3.0), (math.inf, 8.0), (9.0, 8.0)])
def test_reused_deadline(reused: float, left: float, now: float) -> None:
    """A request on a connection that may have died ends at the earlier of its two deadlines."""
    limited = request(now + 8.0, reused_deadline=now + reused)
    assert limited.remaining_if_reused() == left
    limited.limit_to_reused()
    assert limited.remaining() == left


# ---- The head of a response --------------------------------------------------------------------------------


def test_repeated_header() -> None:
    """The values of a header that was sent more than once are joined."""
    pairs = [("Retry-After", "1"), ("X", "0"), ("retry-after", "2")]
    assert Response(503, aiohttp.typedefs.CIMultiDict(pairs)).header("retry-after") == "1, 2"
    assert Response(503, httpx.Headers(pairs)).header("retry-after") == "1, 2"


def test_long_encoding() -> None:
    """The name of an encoding is quoted up to its twentieth character."""
    refused = Response(200, {"content-encoding": "x" * 19 + "yz"})
    assert refused.unreadable == f"a body in the encoding '{'x' * 19}y', which was not asked for"


# ---- The error of a connection -----------------------------------------------------------------------------

HINT = "; is the mock server running at 127.0.0.1:8080? `python -m liveavatar.mock --port 8080` starts it"


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (OSError("refused"), "refused (OSError)"),
        (OSError(), "the connection broke (OSError)"),
        (OSError(" two\r\n words "), "two words (OSError)"),
        ("the session is closed", "the session is closed"),
        (h11.RemoteProtocolError("a secret"), "the response is incomplete, or not valid HTTP (RemoteProtocolError)"),
        (TimeoutError(), "the call timed out (TimeoutError)"),
    ],
)
def test_reason(cause: Exception | str, reason: str) -> None:
    """An error says what happened in one line, which quotes nothing that the service has sent."""
    error = connection_error(request(), cause, sent=True)
    assert str(error) == f"No response from {LOCAL}: {reason}"
    assert isinstance(error, LiveAvatarTimeoutError) is isinstance(cause, TimeoutError)
    assert error.__cause__ is None


def test_long_reason() -> None:
    """A long reason is cut off."""
    error = connection_error(request(), "x" * 299 + "yz", sent=True)
    assert str(error) == f"No response from {LOCAL}: {'x' * 299}y"


@pytest.mark.parametrize(
    ("url", "sent", "timed_out", "hint"),
    [
        (LOCAL, False, False, HINT),
        (LOCAL, True, False, ""),
        (LOCAL, False, True, ""),
        (
            "http://localhost/v1",
            False,
            False,
            "; is the mock server running at localhost? `python -m liveavatar.mock`",
        ),
        ("http://192.0.2.1/v1", False, False, ""),
    ],
)
def test_hint_of_mock_server(url: str, sent: bool, timed_out: bool, hint: str) -> None:
    """The mock server is mentioned if loopback has refused a connection, and in no other case."""
    error = connection_error(request(url=url), OSError("x"), sent=sent, timed_out=timed_out)
    end = " starts it" if url == "http://localhost/v1" else ""
    assert str(error) == f"No response from {url}: x (OSError){hint}{end}"
    assert error.request_sent is sent


def test_hint_of_scheme() -> None:
    """A failed TLS handshake asks whether the server expects http://."""
    error = connection_error(request(url="https://127.0.0.1:8080/v1"), ssl.SSLError("wrong version"), sent=False)
    assert str(error).endswith("; does the server at 127.0.0.1:8080 expect http://, not https://? Check base_url")


# ---- Exceptions that no library raised ---------------------------------------------------------------------


class OtherError(Exception):
    """An exception of a caller."""


class OtherOSError(OSError):
    """A connection error of a caller."""


def raised(error: Exception, file: str = __file__, cause: Exception | None = None) -> Exception:
    """Return an exception that the code of a file has raised, two calls deep."""
    code = "def inner():\n    raise error from cause\ndef outer():\n    inner()\nouter()"
    try:
        exec(compile(code, file, "exec"), {"error": error, "cause": cause})
    except Exception as caught:
        return caught
    raise AssertionError


@pytest.mark.parametrize("kind", [OtherError, OtherOSError, OSError, RuntimeError, UnicodeError])
def test_foreign(kind: type[Exception]) -> None:
    """An exception is foreign if the caller has defined it, or its code has raised it."""
    error = raised(kind("of a signal handler"))
    assert find_foreign(error) is error


@pytest.mark.parametrize("kind", [OtherOSError, OSError, RuntimeError])
def test_foreign_cause(kind: type[Exception]) -> None:
    """So is one that a library has wrapped, unless the caller was handling it already."""
    error = raised(kind("of a signal handler"))
    wrapper = raised(httpx.ReadError("x"), cause=error)
    assert find_foreign(wrapper) is error
    assert find_foreign(wrapper, error) is None


def test_cause_of_a_mocking_library() -> None:
    """The cause of a library's exception is not foreign if libraries wrap no such exception."""
    assert find_foreign(raised(httpx.ReadError("x"), cause=raised(OtherError()))) is None


@pytest.mark.parametrize("file", [ssl.__file__, httpx.__file__, "<string>", "uvloop/loop.pyx", "a.pxd", "a.pxi"])
def test_error_of_a_library(file: str) -> None:
    """An exception that the code of a library has raised is not foreign, compiled or not."""
    assert find_foreign(raised(ConnectionResetError("x"), file)) is None


def test_error_without_traceback() -> None:
    """An exception that nothing has raised is not foreign."""
    assert find_foreign(OSError("x")) is None
