"""Speaks HTTP, blocking: over our own pool, or the caller's httpx.Client."""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

from ._config import environment_proxy
from ._httpx import failure, leave_no_cookies, outgoing, refuse_closed
from ._wire import KEEP_ALIVE, Answer, WireRequest, settled
from .errors import LiveAvatarConnectionError

_limits: ContextVar[WireRequest] = ContextVar("liveavatar_limits")


class BlockingTransport:
    """Sends one request and reads its answer, within the request's deadline."""

    def __init__(self, base_url: str, client: httpx.Client | None) -> None:
        self._client = client
        self._proxy = environment_proxy(base_url, needed=client is None)
        self._speaks_tls = bool(self._proxy) or base_url.startswith("https:")
        self._pool = self._new_pool() if client is None else None

    def send(self, request: WireRequest) -> Answer:
        """The answer to `request`.

        Raises:
            LiveAvatarConnectionError: there was none.
        """
        if self._pool is not None:
            return _exchange(request, self._pool.handle_request)
        try:
            return _exchange(request, functools.partial(self._send_through_caller, request))
        except LiveAvatarConnectionError as error:
            if error.request_sent or not request.urgent:
                raise
        # The caller's pool has no connection to give, and a session may be running: open one beside it.
        with contextlib.closing(self._new_pool()) as spare:
            return _exchange(request, spare.handle_request)

    def _send_through_caller(self, request: WireRequest, prepared: httpx.Request) -> httpx.Response:
        assert self._client is not None
        refuse_closed(request, self._client)
        # Without its auth and redirects: the credential is ours to set, and goes to one place.
        response = self._client.send(prepared, stream=True, auth=None, follow_redirects=False)
        leave_no_cookies(self._client, response)
        return response

    def close(self) -> None:
        """Close our own pool; a caller's client is the caller's."""
        if self._pool is not None:
            self._pool.close()

    def _new_pool(self) -> _OwnTransport:
        # A context is costly: none is filled with CAs where there is no TLS to speak.
        context = httpx.create_ssl_context() if self._speaks_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return _OwnTransport(context, self._proxy)


def _exchange(request: WireRequest, send: Callable[[httpx.Request], httpx.Response]) -> Answer:
    prepared = outgoing(request)
    answer = None
    token = _limits.set(request)
    try:
        with contextlib.closing(send(prepared)) as response:
            answer = Answer(response.status_code, response.headers)
            if not answer.refused:
                # A hook of the caller's client may have read it.
                for chunk in [response.content] if response.is_stream_consumed else response.iter_raw():
                    if not answer.takes(chunk):
                        break
                    request.remaining()
        return answer
    except LiveAvatarConnectionError as late:
        problem = late
    except Exception as error:  # of whatever class: there is no answer
        problem = failure(request, error)
    finally:
        _limits.reset(token)
    return settled(answer, problem)


class _OwnTransport(httpx.HTTPTransport):
    """httpx's transport, over our own stack of connections, which keep the deadline of the call."""

    def __init__(self, context: ssl.SSLContext, proxy: str | None) -> None:
        super().__init__(verify=context, limits=httpx.Limits(keepalive_expiry=KEEP_ALIVE), proxy=proxy)
        # httpcore takes a backend at construction, which httpx does not pass on.
        self._pool._network_backend = _Bounded(self._pool._network_backend)  # type: ignore[assignment]
        self._pool = _Connections(self._pool)  # type: ignore[assignment]


class _Connections:
    """Connections to one origin; the idle ones lie on a stack.

    httpcore's pool looks at each of its connections at each request, and under a lock: a thousand threads wait for one
    another, and a Ctrl-C inside the lock leaves it shut for ever. Here a connection belongs to one request or to
    nobody, and a deque's own steps are atomic.
    """

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._new = pool.create_connection
        self._idle: deque[httpcore.ConnectionInterface] = deque()
        self._closed = False

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        connection = self._take() or self._new(request.url.origin)
        try:
            response = connection.handle_request(request)
        except BaseException:
            connection.close()
            raise
        response.stream = _Body(response.stream, functools.partial(self._give_back, connection))
        return response

    def _take(self) -> httpcore.ConnectionInterface | None:
        """The connection that was used last of those that are still good."""
        with contextlib.suppress(IndexError):
            while (connection := self._idle.pop()).has_expired():
                connection.close()
            return connection
        return None

    def _give_back(self, connection: httpcore.ConnectionInterface) -> None:
        if not connection.is_idle() or _has_more(connection):
            connection.close()
            return
        self._idle.append(connection)
        # Looked at where it lies: taken out for that, it would be missing to another thread.
        with contextlib.suppress(IndexError, ValueError):  # that thread has taken it
            while (oldest := self._idle[0]).has_expired():
                self._idle.remove(oldest)
                oldest.close()
        if self._closed:
            self.close()

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()


def _has_more(connection: httpcore.ConnectionInterface) -> bool:
    """Whether more came than the answer, which would be taken for the next one; it does not say so itself."""
    parser = getattr(getattr(connection, "_connection", None), "_h11_state", None)
    return parser is not None and parser.trailing_data[0] != b""


class _Body:
    """The body of an answer, which gives its connection back when it is closed."""

    def __init__(self, stream: Any, give_back: Callable[[], None]) -> None:
        self._stream = stream
        self._give_back = give_back

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        self._stream.close()
        self._give_back()


class _Bounded:
    """httpcore's network backend, or a stream of it, whose every wait ends with the call's time.

    httpx bounds each read by itself: a peer that drips a byte now and then would never end.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def connect_tcp(self, **options: Any) -> _Bounded:
        return _Bounded(self._inner.connect_tcp(**options | {"timeout": _limits.get().connect_limit()}))

    # By position behind a proxy, by name elsewhere.
    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str, timeout: float | None = None) -> _Bounded:
        return _Bounded(self._inner.start_tls(ssl_context, server_hostname, _limits.get().connect_limit()))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _limits.get().remaining(sent=True))  # type: ignore[no-any-return]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _limits.get().remaining(sent=True))
