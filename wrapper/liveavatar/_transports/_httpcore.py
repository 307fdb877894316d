"""The blocking client's own connection pool, on httpcore's connections."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

from .._constants import INTERRUPT_INTERVAL, KEEPALIVE_EXPIRY
from ._base import Request, find_callers_exception
from ._httpx import has_trailing_data, trace

current_request: ContextVar[Request] = ContextVar("liveavatar_request")
"""The request whose deadline the connections keep."""


class PooledTransport(httpx.HTTPTransport):
    """httpx's transport over a stack of connections that keep the deadline of the request.

    Should httpx or httpcore change what this relies on, httpx's own pool and timeouts remain.
    """

    def __init__(self, ssl_context: ssl.SSLContext, proxy: str | None) -> None:
        super().__init__(verify=ssl_context, limits=httpx.Limits(keepalive_expiry=KEEPALIVE_EXPIRY), proxy=proxy)
        create_connection = getattr(_new_pool(ssl_context, proxy), "create_connection", None)
        if hasattr(self, "_pool") and create_connection is not None:
            self._pool = _ConnectionStack(create_connection)  # type: ignore[assignment]

    @functools.cached_property
    def client(self) -> httpx.Client:
        """A client over this transport, for instrumentation that expects requests at httpx.Client."""
        return httpx.Client(transport=self, trust_env=False, follow_redirects=False)


def _new_pool(ssl_context: ssl.SSLContext, proxy: str | None) -> httpcore.ConnectionPool:
    """Return a pool of httpcore, for its way to make connections."""
    backend = _DeadlineBackend(httpcore.SyncBackend())
    if proxy is None:
        return httpcore.ConnectionPool(
            ssl_context=ssl_context, keepalive_expiry=KEEPALIVE_EXPIRY, network_backend=backend
        )
    parsed = httpx.Proxy(proxy)
    return httpcore.HTTPProxy(
        proxy_url=str(parsed.url),
        proxy_auth=parsed.raw_auth,
        ssl_context=ssl_context,
        keepalive_expiry=KEEPALIVE_EXPIRY,
        network_backend=backend,
    )


class _ConnectionStack:
    """Connections to one origin; the idle ones lie on a stack.

    httpcore's pool walks all its connections at each request, under a lock: with a thousand threads they wait for each
    other, and a Ctrl-C inside the lock leaves it locked. Here a connection belongs to one request or to none, and the
    operations of a deque are atomic.
    """

    def __init__(self, create_connection: Callable[[httpcore.Origin], httpcore.ConnectionInterface]) -> None:
        self._create_connection = create_connection
        self._idle: deque[httpcore.ConnectionInterface] = deque()
        self._closed = False

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request on an idle connection, or on a new one."""
        connection = self._acquire()
        if connection is None:
            connection = self._create_connection(request.url.origin)
            request.extensions["trace"] = trace(current_request.get())
        else:
            current_request.get().sent = True
        try:
            response = connection.handle_request(request)
        except BaseException:
            connection.close()
            raise
        # Every cleanup opens a connection. If they were kept, they would pile up after many failures.
        keep = not current_request.get().new_connection
        release = functools.partial(self._release, connection) if keep else connection.close
        response.stream = _PooledStream(response.stream, release)
        return response

    def _acquire(self) -> httpcore.ConnectionInterface | None:
        """Return the connection that was used last and is still usable."""
        request = current_request.get()
        if request.new_connection:
            return None
        with contextlib.suppress(IndexError):
            while (connection := self._idle.pop()).has_expired():  # also if the server has sent or closed anything
                connection.close()
            request.limit_to_reused()
            return connection
        return None

    def _release(self, connection: httpcore.ConnectionInterface) -> None:
        if not connection.is_idle() or has_trailing_data(connection) is not False:
            connection.close()
            return
        self._idle.append(connection)
        # Peek, do not pop: another thread may need this connection meanwhile.
        with contextlib.suppress(IndexError, ValueError):  # another thread has taken it
            while (oldest := self._idle[0]).has_expired():
                self._idle.remove(oldest)
                oldest.close()
        if self._closed:
            self.close()

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are released."""
        self._closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()


class _PooledStream:
    """The body of a response, which releases its connection when it is closed."""

    def __init__(self, stream: Any, release: Callable[[], None]) -> None:
        self._stream = stream
        self._release = release

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        self._stream.close()
        self._release()


class _DeadlineBackend(httpcore.NetworkBackend):
    """A network backend whose connections keep the deadline of the request.

    httpx bounds each read by itself: a server that sends a byte now and then would never reach its timeout.
    """

    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> _DeadlineStream:  # type: ignore[override]
        """Connect to the first address that accepts; each has an equal share of the time that is left."""
        try:
            addresses = list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, port)))
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        active = sys.exception()
        while True:
            limit = current_request.get().connect_timeout() / len(addresses)
            try:
                return _DeadlineStream(self._inner.connect_tcp(addresses.pop(0), port, timeout=limit, **options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                if not addresses or find_callers_exception(error, active) is not None:
                    raise


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose every operation ends at the deadline of the request."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _DeadlineStream:
        limit = current_request.get().connect_timeout()
        return _DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, limit))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        active = sys.exception()
        request = current_request.get()
        left = request.remaining(sent=True)
        while True:
            try:
                return self._inner.read(max_bytes, min(left, INTERRUPT_INTERVAL))
            except httpcore.ReadTimeout as error:
                if find_callers_exception(error, active) is not None:
                    raise  # a signal handler has raised a subclass of TimeoutError
                if left <= INTERRUPT_INTERVAL:
                    raise
                # The clock may stand still in the tests of a user.
                left = min(left - INTERRUPT_INTERVAL, request.remaining(sent=True))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, current_request.get().remaining(sent=True))

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
