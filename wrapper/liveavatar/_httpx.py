"""Requests and failures in httpx's terms: for our own pool, and for a caller's client of either flavour."""

from __future__ import annotations

import contextlib
import functools

import httpx

from ._wire import WireRequest, lost
from .errors import LiveAvatarConnectionError

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


_parsed = functools.lru_cache(httpx.URL)  # costs as much as the rest of a request, and there are three


def failure(request: WireRequest, error: Exception) -> LiveAvatarConnectionError:
    """The error for a request that `error` left without an answer, or without the whole of it."""
    return lost(request, error, sent=not isinstance(error, _NOT_SENT), late=isinstance(error, httpx.TimeoutException))


def outgoing(request: WireRequest) -> httpx.Request:
    """`request` for httpx, with each of its waits bounded by the time that is left."""
    left = request.remaining()
    timeout = {"connect": request.connect_limit(), "read": left, "write": left, "pool": request.pool_limit()}
    return httpx.Request(
        "POST", _parsed(request.url), headers=request.headers, content=request.content, extensions={"timeout": timeout}
    )


def leave_no_cookies(client: httpx.Client | httpx.AsyncClient, response: httpx.Response) -> None:
    """Take back what httpx has put into the jar of a caller's client: the service's cookies are not kept."""
    for cookie in response.cookies.jar:
        with contextlib.suppress(KeyError):
            client.cookies.jar.clear(cookie.domain, cookie.path, cookie.name)


def refuse_closed(request: WireRequest, client: httpx.Client | httpx.AsyncClient) -> None:
    """Raise, as for a request that did not leave, when the caller has closed the client it gave us."""
    if client.is_closed:
        raise lost(request, "the http_client is closed", sent=False)
