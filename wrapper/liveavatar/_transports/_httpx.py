"""Requests, errors and cookies in httpx's terms, for both httpx.Client and httpx.AsyncClient."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpcore
import httpx

from ..errors import LiveAvatarConnectionError
from ._base import Request, connection_error

ERRORS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, RuntimeError, UnicodeError)
"""What httpx and its transports raise when there is no response."""

_NOT_SENT = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout, httpcore.ProxyError)
"""What httpcore raises before it sends a request. Other transports use httpx's own classes for lost responses, too."""

_CONNECTED = (
    "connection.connect_tcp.complete",
    "connection.connect_unix_socket.complete",
    "socks.connect_tcp.complete",
)
"""httpcore's events of a new connection."""

_OF_THE_BODY = {"content-encoding", "content-length", "transfer-encoding"}
"""Headers that are not true of a body that httpx has read, or has closed."""

_parse_url = functools.lru_cache(64)(httpx.URL)  # parsing costs as much as the rest of a request


def build_request(request: Request) -> httpx.Request:
    """Return the request for httpx, each of its timeouts bounded by the time left."""
    left = request.remaining()
    timeout = {"connect": request.connect_timeout(), "read": left, "write": left, "pool": request.pool_timeout()}
    return httpx.Request(
        request.method.upper(),
        _parse_url(request.url),
        headers=request.header_items(),
        content=request.content.reveal() or None,
        extensions={"timeout": timeout},
    )


def _on_event(request: Request, on_connect: Callable[[], None] | None, event: str, info: Mapping[str, Any]) -> None:
    """Note that httpcore sends the request: not the CONNECT to a proxy, and not before there is a connection."""
    if event.endswith(".send_request_headers.started") and info["request"].method != b"CONNECT":
        request.sent = True
    elif on_connect is not None and event in _CONNECTED:
        on_connect()


def trace(request: Request, on_connect: Callable[[], None] | None = None) -> Callable[[str, Mapping[str, Any]], None]:
    """Return httpcore's hook for the events of a request.

    Args:
        request: The request. It is noted in it that it is sent.
        on_connect: Called when a new connection has been opened for it.
    """
    return functools.partial(_on_event, request, on_connect)


def async_trace(
    request: Request, on_connect: Callable[[], None]
) -> Callable[[str, Mapping[str, Any]], Awaitable[None]]:
    """Return the hook for httpcore's async connections."""

    async def on_event(event: str, info: Mapping[str, Any]) -> None:
        _on_event(request, on_connect, event, info)

    return on_event


def has_trailing_data(part: object) -> bool | None:
    """Return whether bytes follow a response, which httpcore would parse as the next one; None if that is unknown.

    Args:
        part: The connection of the response, or its stream.
    """
    for _ in range(8):  # the stream of a response wraps that of its connection, which wraps its parser
        parser = getattr(part, "_h11_state", None)
        if parser is not None:
            return bool(parser.trailing_data[0])
        for name in ("_connection", "_stream", "_httpcore_stream"):
            if (inner := getattr(part, name, None)) is not None:
                part = inner
                break
    return None


def to_connection_error(request: Request, error: Exception, active: BaseException | None) -> LiveAvatarConnectionError:
    """Return the error for a request that `error` left without a complete response."""
    return connection_error(
        request,
        error,
        sent=request.sent or (not isinstance(error.__cause__, _NOT_SENT) and not isinstance(error, httpx.InvalidURL)),
        timed_out=isinstance(error, httpx.TimeoutException),
        active=active,
    )


def is_of_another_request(error: httpx.RequestError, sent: httpx.Request) -> bool:
    """Return whether a hook has raised an error: that of a request which it has made, or one without a request."""
    try:
        return error.request is not sent
    except RuntimeError:
        return True


def response_of(error: httpx.HTTPStatusError, sent: httpx.Request) -> httpx.Response:
    """Return the response for which an event hook of the caller's client called `raise_for_status`.

    httpx has closed it. Its body is there only if the hook has read it.

    Args:
        error: What the hook has raised.
        sent: Our own request.

    Raises:
        httpx.HTTPStatusError: It is the response to another request, which the hook has made.
    """
    if error.request is not sent:
        raise error
    content = error.response.content if error.response.is_stream_consumed else b""
    headers = [(name, value) for name, value in error.response.headers.multi_items() if name not in _OF_THE_BODY]
    return httpx.Response(error.response.status_code, headers=headers, content=content, request=sent)


def discard_cookies(client: httpx.Client | httpx.AsyncClient, response: httpx.Response) -> None:
    """Remove the service's cookies from the jar of a caller's client, where httpx has put them."""
    for cookie in response.cookies.jar:
        with contextlib.suppress(KeyError):
            client.cookies.jar.clear(cookie.domain, cookie.path, cookie.name)


def ensure_open(request: Request, client: httpx.Client | httpx.AsyncClient) -> None:
    """Check that the caller has not closed the client.

    Raises:
        LiveAvatarConnectionError: It is closed; the request was not sent.
    """
    if client.is_closed:
        raise connection_error(request, "the http_client is closed", sent=False)
