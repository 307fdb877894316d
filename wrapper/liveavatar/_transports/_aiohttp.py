"""Sends requests through aiohttp: over our own pool, or the pool of the caller's session."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import weakref
from typing import cast

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError

from .._constants import CLEANUP_TIMEOUT, CONNECT_TIMEOUT, KEEPALIVE_EXPIRY
from .._proxies import proxy_from_environment
from ..errors import LiveAvatarConnectionError
from ._aiohttp_direct import (
    CheckedConnector,
    DirectSender,
    OpenResponse,
    can_bypass_session,
    can_wrap_connector,
)
from ._asyncio import AsyncTransport, Attempt, call_blocking, current_attempt
from ._base import Request, Response, connection_error

_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)

_DEFAULT_TIMEOUT = aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT)


class ThreadResolver(AbstractResolver):
    """Resolves host names in threads of its own. The event loop's executor may be busy, or shut down."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host."""
        found = await call_blocking(lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))
        return [
            {"hostname": host, "host": str(address[0]), "port": port, "family": kind, "proto": proto, "flags": 0}
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _own_trace() -> aiohttp.TraceConfig:
    """Return a trace that notes what happens to a request, before a trace of the caller could raise an error."""

    async def note_sent(*_: object) -> None:
        current_attempt.get().request.sent = True

    async def note_new_connection(*_: object) -> None:
        current_attempt.get().extend_to_new()

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(note_new_connection)
    trace.on_request_headers_sent.append(note_sent)
    trace.freeze()
    return trace


class AiohttpTransport(AsyncTransport):
    """Sends requests over aiohttp's connections, of our own pool or of the caller's session."""

    errors = (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError, UnicodeError)

    def __init__(self, base_url: str, caller: aiohttp.ClientSession | None, *, is_spare: bool = False) -> None:
        """Create a transport.

        Args:
            base_url: The client's base URL.
            caller: The caller's session; None for a pool of our own.
            is_spare: Whether it stops what another transport cannot. A proxy variable that is no URL is then ignored.
        """
        if caller is not None and not isinstance(caller, aiohttp.ClientSession):
            raise TypeError(f"session must be an aiohttp.ClientSession, not {type(caller).__name__}")
        self.owns_pool = caller is None
        self._base_url = base_url
        self._caller = caller
        self._proxy = proxy_from_environment(base_url, required=caller is None and not is_spare)
        self._loop: asyncio.AbstractEventLoop  # the one of the sessions
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # True for the one that opens new connections only
        self._direct = DirectSender(base_url)
        self._closed = False

    @functools.cached_property
    def _ssl_context(self) -> ssl.SSLContext | bool:
        # Loading the CA certificates takes 46 ms; skip it for http://.
        return httpx.create_ssl_context() if self._base_url.startswith("https:") else True

    def _session(self, *, new_connection: bool) -> aiohttp.ClientSession:
        """Return a session that adds nothing to a request: no cookies, no .netrc, no headers of the caller."""
        self._loop = asyncio.get_running_loop()
        new_connection = new_connection and self.owns_pool
        if new_connection in self._sessions:
            return self._sessions[new_connection]
        connector: aiohttp.BaseConnector | None
        if self._caller is not None:
            connector = self._caller.connector
        else:
            connector = aiohttp.TCPConnector(
                limit=0,
                ssl=self._ssl_context,
                resolver=ThreadResolver(),
                force_close=new_connection,
                keepalive_timeout=None if new_connection else KEEPALIVE_EXPIRY,
            )
        if connector is not None and can_wrap_connector():
            connector = cast(aiohttp.BaseConnector, CheckedConnector(connector))
        session = self._sessions[new_connection] = aiohttp.ClientSession(
            connector=connector,
            connector_owner=self._caller is None,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        if self._caller is not None:
            # Instrumentation adds a trace config to every new session. Only those of the caller's session apply, or
            # each request would be recorded twice.
            session.trace_configs[:] = self._caller.trace_configs
            # The connector belongs to the caller, so a client that is not closed must not warn.
            weakref.finalize(self, session.detach)
        if session.trace_configs or not can_wrap_connector():
            session.trace_configs.insert(0, _own_trace())
        return session

    async def _exchange(self, attempt: Attempt) -> None:
        request = attempt.request
        self._ensure_open(request)
        session = self._session(new_connection=request.new_connection)
        timeouts = self._timeouts(request)
        try:
            if self._proxy or session.trace_configs or not can_bypass_session():
                status, headers, content, release = await self._send_in_session(session, request, timeouts)
            else:
                status, headers, content, release = await self._direct.send(session, request, timeouts)
        except RuntimeError:
            self._ensure_open(request, sent=True)  # aiohttp's error for a session that is closed meanwhile
            raise
        try:
            response = attempt.response = Response(status, headers)
            while not (response.unreadable or content.at_eof()):
                response.feed(await content.readany())
        finally:
            release()  # the connection returns to the pool if the body was read to its end, and is closed if not

    def _timeouts(self, request: Request) -> aiohttp.ClientTimeout:
        if self.owns_pool and request.remaining() > CONNECT_TIMEOUT:
            return _DEFAULT_TIMEOUT
        return aiohttp.ClientTimeout(
            connect=None if self.owns_pool else request.pool_timeout(), sock_connect=request.connect_timeout()
        )

    async def _send_in_session(
        self, session: aiohttp.ClientSession, request: Request, timeouts: aiohttp.ClientTimeout
    ) -> OpenResponse:
        response = await session.request(
            request.method,
            request.url,
            data=request.content.reveal() or None,
            headers=dict(request.header_items()),
            skip_auto_headers=("content-type",),
            allow_redirects=False,
            proxy=self._proxy,
            timeout=timeouts,
        )
        return response.status, response.headers, response.content, response.close

    def _ensure_open(self, request: Request, *, sent: bool = False) -> None:
        if self.is_closed():
            raise connection_error(request, "the aiohttp session is closed", sent=sent)

    def _to_connection_error(
        self, request: Request, error: Exception, active: BaseException | None
    ) -> LiveAvatarConnectionError:
        return connection_error(request, error, sent=request.sent or not isinstance(error, _NOT_SENT), active=active)

    def _find_callers_exception(self, error: Exception, active: BaseException | None) -> BaseException | None:
        if isinstance(error, aiohttp.ClientConnectorDNSError):  # a resolver of the caller raises OSError, as it should
            return None
        return super()._find_callers_exception(error, active)

    def is_closed(self) -> bool:
        """Return whether our own pool, or the caller's session, is closed."""
        return self._closed or (self._caller is not None and self._caller.closed)

    def spare(self) -> AsyncTransport:
        """Return a transport with a pool of its own, to be closed after one request."""
        spare = AiohttpTransport(self._base_url, None, is_spare=True)
        if self.owns_pool:
            spare._ssl_context = self._ssl_context
        return spare

    async def close(self) -> None:
        """Close our own pool. The caller's session stays open."""
        self._closed = True
        for session in self._sessions.values():
            await _close_in_its_loop(session, self._loop)


async def _close_in_its_loop(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """Close a session whose event loop may be another one: running in another thread, at rest, or closed."""
    if loop is asyncio.get_running_loop():
        await session.close()
    elif loop.is_running():
        closing = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(session.close(), loop))
        await asyncio.wait([closing], timeout=CLEANUP_TIMEOUT)  # the loop may be blocked until this has ended
    else:
        with contextlib.suppress(RuntimeError):  # the connections are closed; their loop cannot confirm it
            await session.close()
