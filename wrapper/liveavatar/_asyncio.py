"""Speaks HTTP, asyncio: over aiohttp (our own pool, or the caller's session's), or the caller's httpx.AsyncClient."""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol

import aiohttp
import httpx

from . import _httpx
from ._config import environment_proxy
from ._wire import KEEP_ALIVE, Answer, Body, WireRequest, caused_by, lost, name_of
from .errors import LiveAvatarConnectionError

_FAILURES = (aiohttp.ClientError, OSError)  # a wait that ran out is among them: TimeoutError is an OSError
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


class Transport(Protocol):
    """Sends one request and reads its answer, within the request's deadline."""

    async def send(self, request: WireRequest) -> Answer:
        """The answer to `request`.

        Raises:
            LiveAvatarConnectionError: there was none.
        """
        ...

    async def close(self) -> None:
        """Close our own pool, if there is one; a caller's is the caller's."""
        ...


def transport(
    base_url: str, session: aiohttp.ClientSession | None, http_client: httpx.AsyncClient | None
) -> Transport:
    """What carries the requests of one client."""
    if http_client is not None:
        return HttpxTransport(base_url, http_client)
    if session is not None and not isinstance(session, aiohttp.ClientSession):
        raise TypeError(f"session must be an aiohttp.ClientSession, not {type(session).__name__}")
    return AiohttpTransport(base_url, session)


class AiohttpTransport:
    """Sends one request and reads its answer, within the request's deadline."""

    def __init__(self, base_url: str, session: aiohttp.ClientSession | None) -> None:
        self._base_url = base_url
        self._proxy = environment_proxy(base_url)
        self._borrowed = session
        self._own: aiohttp.ClientSession | None = None

    async def send(self, request: WireRequest) -> Answer:
        """The answer to `request`.

        Raises:
            LiveAvatarConnectionError: there was none.
        """
        try:
            if self._borrowed is not None and self._borrowed.closed:
                raise lost(request, "the aiohttp session is closed", sent=False)
            if self._own is None:
                self._own = self._session(self._borrowed)
            return await self._exchange(request, self._own)
        except LiveAvatarConnectionError as error:
            if self._borrowed is None or error.request_sent or not request.urgent:
                raise
        # The caller's pool has no connection to give, and a session may be running: open one beside it.
        async with self._session(None) as spare:
            return await self._exchange(request, spare)

    def _session(self, borrowed: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
        """A session that adds nothing to a request: no cookies, no .netrc, no headers of its own."""
        if borrowed is None:
            context = httpx.create_ssl_context() if self._base_url.startswith("https:") else True
            connector: aiohttp.BaseConnector | None = aiohttp.TCPConnector(
                limit=0, ssl=context, keepalive_timeout=KEEP_ALIVE
            )
        else:
            connector = borrowed.connector
        return aiohttp.ClientSession(
            connector=connector,
            connector_owner=borrowed is None,
            trace_configs=None if borrowed is None else borrowed.trace_configs,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def _exchange(self, request: WireRequest, session: aiohttp.ClientSession) -> Answer:
        timeout = aiohttp.ClientTimeout(
            total=None,
            connect=request.pool_limit() if request.urgent else None,
            sock_connect=request.connect_limit(),
        )
        try:
            async with asyncio.timeout(request.remaining()):
                response = await session.post(
                    request.url,
                    data=request.content,
                    headers=request.headers,
                    allow_redirects=False,
                    proxy=self._proxy,
                    timeout=timeout,
                )
        except _FAILURES as error:
            failure = _failure(request, error)
        else:
            return await _read_aiohttp(request, response)
        raise failure

    async def close(self) -> None:
        """Close our own pool; a caller's session is the caller's."""
        if self._own is not None:
            await self._own.close()


async def _read_aiohttp(request: WireRequest, response: aiohttp.ClientResponse) -> Answer:
    body = Body(response.headers)
    problem = None
    try:
        if body.refused is None:
            async with asyncio.timeout(request.remaining()):
                async for chunk in response.content.iter_any():
                    if not body.takes(chunk):
                        break
    except _FAILURES as error:
        problem = _failure(request, error)
    except LiveAvatarConnectionError as late:
        problem = late
    finally:
        if problem or body.refused or not response.content.at_eof():
            response.close()
        else:
            response.release()
    return Answer(response.status, response.headers, bytes(body.content), problem, body.refused)


def _failure(request: WireRequest, error: Exception) -> LiveAvatarConnectionError:
    return lost(
        request,
        name_of(error),
        sent=not isinstance(error, _NOT_SENT),
        late=isinstance(error, TimeoutError),
        certificate=caused_by(error, ssl.SSLCertVerificationError),
    )


class HttpxTransport:
    """The same over a caller's httpx.AsyncClient."""

    def __init__(self, base_url: str, client: httpx.AsyncClient) -> None:
        self._client = client
        self._spare = AiohttpTransport(base_url, None)
        self._urls: dict[str, httpx.URL] = {}

    async def send(self, request: WireRequest) -> Answer:
        """The answer to `request`.

        Raises:
            LiveAvatarConnectionError: there was none.
        """
        try:
            _httpx.refuse_closed(request, self._client)
            return await self._exchange(request)
        except LiveAvatarConnectionError as error:
            if error.request_sent or not request.urgent:
                raise
        try:
            return await self._spare.send(request)
        finally:
            await self._spare.close()

    async def _exchange(self, request: WireRequest) -> Answer:
        url = self._urls.get(request.url) or self._urls.setdefault(request.url, httpx.URL(request.url))
        prepared = _httpx.outgoing(request, url)
        try:
            async with asyncio.timeout(request.remaining()):
                response = await self._client.send(prepared, stream=True, auth=None, follow_redirects=False)
        except _httpx.FAILURES as error:
            failure = _httpx.failure(request, error)
        else:
            return await self._read(request, response)
        raise failure

    async def _read(self, request: WireRequest, response: httpx.Response) -> Answer:
        body = Body(response.headers)
        problem = None
        try:
            if body.refused is None:
                async with asyncio.timeout(request.remaining()):
                    async for chunk in response.aiter_raw():
                        if not body.takes(chunk):
                            break
        except _httpx.FAILURES as error:
            problem = _httpx.failure(request, error)
        except LiveAvatarConnectionError as late:
            problem = late
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, bytes(body.content), problem, body.refused)

    async def close(self) -> None:
        """Nothing: the client is the caller's."""
