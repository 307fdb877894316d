"""Sends requests and runs flows in blocking code: over our own pool, or the caller's httpx.Client."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import ssl
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import httpx

from .._constants import CLEANUP_TIMEOUT, INTERRUPT_INTERVAL
from .._proxies import proxy_from_environment
from ..errors import LedgerError, LiveAvatarConnectionError, LiveAvatarTimeoutError
from ._base import Request, Response, find_callers_exception, is_original, with_read_error
from ._httpcore import PooledTransport, current_request
from ._httpx import (
    ERRORS,
    build_request,
    discard_cookies,
    ensure_open,
    has_trailing_data,
    is_of_another_request,
    response_of,
    to_connection_error,
    trace,
)

T = TypeVar("T")


class BlockingTransport:
    """Sends one request and reads its response, within the request's deadline."""

    def __init__(self, base_url: str, client: httpx.Client | None) -> None:
        self._client = client
        self._proxy = proxy_from_environment(base_url, required=client is None)
        self._uses_tls = bool(self._proxy) or base_url.startswith("https:")
        self._pool = self._new_pool() if client is None else None
        self._thread = threading.local()

    def send(self, request: Request) -> Response:
        """Send a request and return its response.

        Raises:
            LiveAvatarConnectionError: There was no response.
        """
        if self._pool is not None:
            return _send(request, functools.partial(_send_through_pool, self._pool))
        # A signal handler or finalizer may call while this thread holds a lock of the caller's pool.
        nested = getattr(self._thread, "is_sending", False)
        if not nested and not request.beside_pool:
            self._thread.is_sending = True
            try:
                request.limit_to_reused()
                return _send(request, self._send_through_caller, is_callers_pool=True)
            except LiveAvatarConnectionError as error:
                is_closed = request.is_stop and self._client is not None and self._client.is_closed
                if error.request_sent or not (request.is_cleanup or is_closed):
                    raise
            finally:
                self._thread.is_sending = False
        # The caller's pool has no usable connection, and a session may be running: open one beside it.
        request.extend_to_new()
        with contextlib.closing(self._new_pool()) as spare:
            return _send(request, functools.partial(_send_through_pool, spare))

    def _send_through_caller(self, prepared: httpx.Request) -> httpx.Response:
        assert self._client is not None
        ensure_open(current_request.get(), self._client)
        # Disable the caller's auth and redirects: only our credential is sent, and only to the base URL.
        try:
            response = self._client.send(prepared, stream=True, auth=None, follow_redirects=False)
        except httpx.HTTPStatusError as error:
            response = response_of(error, prepared)
        except httpx.RequestError as error:
            # If a hook has raised the error of another request, ours may have been sent.
            current_request.get().sent |= is_of_another_request(error, prepared)
            raise
        discard_cookies(self._client, response)
        return response

    def close(self) -> None:
        """Close our own pool. A caller's client stays open."""
        if self._pool is not None:
            self._pool.close()

    def _new_pool(self) -> PooledTransport:
        # Loading the CA certificates takes 46 ms; skip it for http://.
        context = httpx.create_ssl_context() if self._uses_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return PooledTransport(context, self._proxy)


def _send_through_pool(pool: PooledTransport, prepared: httpx.Request) -> httpx.Response:
    """Send a request through httpx.Client if instrumentation expects it there, and else directly, which is faster."""
    if _is_observed():
        return pool.client.send(prepared, stream=True)
    return pool.handle_request(prepared)


def _send(
    request: Request, send: Callable[[httpx.Request], httpx.Response], *, is_callers_pool: bool = False
) -> Response:
    response = None
    active = sys.exception()
    token = current_request.set(request)
    try:
        prepared = build_request(request)
        if is_callers_pool:  # our own pool notes the same itself
            prepared.extensions["trace"] = trace(request, functools.partial(_extend_to_new, request, prepared))
        with contextlib.closing(send(prepared)) as incoming:
            response = Response(incoming.status_code, incoming.headers)
            if not response.unreadable:
                # An event hook of the caller's client may have read the body.
                for chunk in [incoming.content] if incoming.is_stream_consumed else incoming.iter_raw():
                    if not response.feed(chunk):
                        break
                    request.remaining()  # raises at the deadline
            if is_callers_pool and has_trailing_data(incoming.stream):  # our own pool checks it itself
                incoming.extensions["network_stream"].close()
        return response
    except LiveAvatarConnectionError as error:
        failure = error
    except ERRORS as error:
        # An exception that a signal handler raised in the socket call is the caller's, not a connection error.
        foreign = find_callers_exception(error, active)
        if foreign is not None:
            raise foreign from None
        failure = to_connection_error(request, error, active)
    finally:
        current_request.reset(token)
    return with_read_error(response, failure)


def _extend_to_new(request: Request, prepared: httpx.Request) -> None:
    request.extend_to_new()
    left = request.remaining()
    prepared.extensions.get("timeout", {}).update(read=left, write=left)  # a hook of the caller may have removed it


def _is_observed() -> bool:
    """Return True if instrumentation or a mocking library has replaced a method that it expects requests at."""
    send, route = httpx.Client.send, getattr(httpx.Client, "_transport_for_url", None)
    return not (is_original(send, httpx._client) and is_original(route, httpx._client))


class BlockingIO:
    """Performs the I/O of flows in blocking code. Its coroutines never suspend."""

    def __init__(self, transport: BlockingTransport) -> None:
        self._transport = transport

    async def send(self, request: Request) -> Response:
        """Send a request and return its response."""
        return self._transport.send(request)

    def is_usable(self) -> bool:
        """Return True: there is no event loop that could end."""
        return True

    async def sleep(self, seconds: float) -> None:
        """Wait. The clock may stand still in the tests of a user."""
        while seconds > 0:
            time.sleep(min(seconds, INTERRUPT_INTERVAL))  # noqa: ASYNC251  # blocking by design
            seconds -= INTERRUPT_INTERVAL

    async def run_all(self, works: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Do one piece of work after another."""
        for work in works:
            await work()

    async def call_ledger(self, function: Callable[[], T], seconds: float | None) -> T:
        """Call a function that uses a ledger where no signal reaches it, so that the ledger is not left half done."""
        if seconds is None:
            if threading.current_thread() is not threading.main_thread():
                return function()
            seconds = threading.TIMEOUT_MAX
        late = LedgerError(f"The ledger does not respond within {seconds:g} seconds.")
        return run_in_thread(function, seconds, late)

    async def shield(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do work in this thread. The work handles interrupts itself."""
        return await work()

    async def shield_cleanup(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do work in a thread, where no signal reaches it; an interrupt is raised after the work has ended."""
        if threading.current_thread() is not threading.main_thread():
            return await work()
        late = LiveAvatarTimeoutError("The cleanup did not end in time.")
        return run_in_thread(lambda: run(work), CLEANUP_TIMEOUT + 1.0, late)  # it ends by itself before that


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine that never suspends, and return its result."""
    try:
        work().send(None)  # in one expression, so that Ctrl-C does not leave an un-awaited coroutine
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise RuntimeError("a flow of the blocking client has suspended")


def run_in_thread(work: Callable[[], T], seconds: float, late: Exception) -> T:
    """Run work where no signal reaches it. An interrupt is raised after its end, and `late` if it takes too long.

    After an interrupt, the work may take CLEANUP_TIMEOUT, and a second more, in which it can end by itself.
    """
    results: list[T] = []
    failures: list[BaseException] = []
    claim, running = threading.Lock(), threading.Lock()  # implemented in C: an interrupt cannot half acquire them
    running.acquire()

    def claimed_work() -> None:
        if claim.acquire(blocking=False):  # once, even if starting the thread is interrupted and repeated
            try:
                results.append(work())
            except BaseException as error:
                failures.append(error)
            running.release()

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(claimed_work,), name="liveavatar-cleanup", daemon=True)
    interruption: BaseException | None = None
    cannot_start = False
    until = time.monotonic() + seconds
    while not (results or failures) and time.monotonic() < until:
        try:
            if cannot_start:
                claimed_work()
            elif thread.ident is None:
                thread.start()
            running.acquire(timeout=max(0.0, min(INTERRUPT_INTERVAL, until - time.monotonic())))
        except BaseException as error:
            if type(error) is RuntimeError and thread.ident is None and not cannot_start:
                cannot_start = True  # the interpreter is shutting down, or out of threads
            else:
                interruption = error
                until = min(until, time.monotonic() + CLEANUP_TIMEOUT + 1.0)
    if interruption is not None:
        raise interruption
    if failures:
        raise failures[0]
    if not results:
        raise late
    return results[0]
