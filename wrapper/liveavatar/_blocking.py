"""Speaks HTTP, blocking: over our own pool, or the caller's httpx.Client."""

from __future__ import annotations

import functools
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
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
        self._proxy = environment_proxy(base_url)
        self._speaks_tls = bool(self._proxy) or base_url.startswith("https:")
        self._context: ssl.SSLContext | None = None
        self._pool = self._new_pool() if client is None else None

    def send(self, request: WireRequest) -> Answer:
        """The answer to `request`.

        Raises:
            LiveAvatarConnectionError: there was none.
        """
        if self._pool is not None:
            try:
                return _exchange(request, self._pool.handle_request)
            except Exception:
                raise
            except BaseException:
                # Ctrl-C may have struck while the pool was changing: what stops the session starts afresh.
                self._pool = self._new_pool()
                raise
        try:
            return _exchange(request, functools.partial(self._send_through_caller, request))
        except LiveAvatarConnectionError as error:
            if error.request_sent or not request.urgent:
                raise
        # The caller's pool has no connection to give, and a session may be running: open one beside it.
        with closing(self._new_pool()) as spare:
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

    def _new_pool(self) -> _DeadlineTransport:
        if self._context is None:  # it is costly to make, and the CAs to load more so
            self._context = httpx.create_ssl_context() if self._speaks_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return _DeadlineTransport(self._context, self._proxy)


def _exchange(request: WireRequest, send: Callable[[httpx.Request], httpx.Response]) -> Answer:
    prepared = outgoing(request)
    answer = None
    token = _limits.set(request)
    try:
        with closing(send(prepared)) as response:
            answer = Answer(response.status_code, response.headers)
            if not answer.refused:
                for chunk in response.iter_raw():
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


class _DeadlineTransport(httpx.HTTPTransport):
    """httpx's transport, over streams that keep the deadline of the call.

    httpx bounds each read by itself: a peer that drips a byte now and then would never end.
    """

    def __init__(self, context: ssl.SSLContext, proxy: str | None) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE)
        super().__init__(verify=context, limits=limits, proxy=proxy)
        # httpcore takes a backend at construction, which httpx does not pass on.
        self._pool._network_backend = _DeadlineBackend(self._pool._network_backend)
        # httpcore's lock is written in Python: a Ctrl-C inside it would leave it locked for ever.
        self._pool._optional_thread_lock = threading.Lock()  # type: ignore[assignment]


class _DeadlineBackend(httpcore.NetworkBackend):
    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        limit = _limits.get().connect_limit()
        return _DeadlineStream(self._backend.connect_tcp(host, port, limit, local_address, socket_options))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(httpcore.WriteTimeout))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        limit = _limits.get().connect_limit()
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, limit))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()


def _left(late: type[Exception]) -> float:
    left = _limits.get().deadline - time.monotonic()
    if left <= 0:
        raise late("the call's time is used up")
    return left
