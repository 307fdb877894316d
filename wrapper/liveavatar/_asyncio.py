"""Speaks HTTP, asyncio: over aiohttp (our pool, or the caller's session's), or the caller's httpx.AsyncClient."""

from __future__ import annotations

import asyncio
import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import TypeAlias

import aiohttp
import httpx
import yarl

from . import _httpx
from ._config import environment_proxy
from ._wire import CONNECT_LIMIT, KEEP_ALIVE, Answer, WireRequest, lost, settled
from .errors import LiveAvatarConnectionError

_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)

_USUAL_LIMITS = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT)


class AsyncTransport(ABC):
    """Sends one request and reads its answer, within the request's deadline."""

    borrowed = False
    """Whether the pool is the caller's, which may have no connection to give."""
    closed = False
    """Whether our own pool is closed."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    async def send(self, request: WireRequest) -> Answer:
        """The answer to `request`.

        Raises:
            LiveAvatarConnectionError: there was none.
        """
        try:
            return await self._exchange(request)
        except LiveAvatarConnectionError as error:
            if not (request.urgent and (self.borrowed or self.closed)) or error.request_sent:
                raise
        # The pool has no connection to give, or is closed, and a session may be running: open one beside it.
        spare = AiohttpTransport(self._base_url, None)
        try:
            return await spare.send(request)
        finally:
            await spare.close()

    async def _exchange(self, request: WireRequest) -> Answer:
        # Filled by _receive: what has come counts, even if the rest does not.
        come: list[Answer] = []
        try:
            async with asyncio.timeout(request.remaining()):
                await self._receive(request, come)
            return come[0]
        except LiveAvatarConnectionError as error:
            problem = error
        except Exception as error:  # of whatever class: there is no answer
            problem = self._failure(request, error)
        return settled(come[0] if come else None, problem)

    @abstractmethod
    async def _receive(self, request: WireRequest, come: list[Answer]) -> None: ...

    @abstractmethod
    def _failure(self, request: WireRequest, error: Exception) -> LiveAvatarConnectionError: ...

    @abstractmethod
    async def close(self) -> None:
        """Close our own pool; a caller's is the caller's."""


_VERSION = tuple(int(number) for number in re.findall(r"\d+", aiohttp.__version__)[:2])
_TRIED = (3, 14)
"""The newest aiohttp whose connections we are known to use well; a newer one is asked through its session."""

_Begun: TypeAlias = tuple[int, Mapping[str, str], aiohttp.StreamReader, Callable[[], None]]
"""An answer whose body is still to come: status, headers, body, and what gives the connection back."""


class AiohttpTransport(AsyncTransport):
    """Over aiohttp's connections, of a pool of our own or of the caller's session.

    Three fixed requests need little of what an aiohttp session does for each: they are written to a connection of
    its pool, and answered by its parser. Where somebody waits for them in the session, they go through it.
    """

    def __init__(self, base_url: str, caller: aiohttp.ClientSession | None) -> None:
        if caller is not None and not isinstance(caller, aiohttp.ClientSession):
            raise TypeError(f"session must be an aiohttp.ClientSession, not {type(caller).__name__}")
        super().__init__(base_url)
        self.borrowed = caller is not None
        self._caller = caller
        self._session: aiohttp.ClientSession | None = None
        self._targets: dict[str, aiohttp.ClientRequest] = {}
        self._proxy = environment_proxy(base_url)

    def _open(self) -> aiohttp.ClientSession:
        """A session that adds nothing to a request: no cookies, no .netrc, no headers of the caller's."""
        if self._caller is not None:
            connector = self._caller.connector
        else:
            # A context is costly: none is made where there is no TLS to speak.
            context = httpx.create_ssl_context() if self._base_url.startswith("https:") else True
            connector = aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=KEEP_ALIVE)
        session = aiohttp.ClientSession(
            connector=connector,
            connector_owner=self._caller is None,
            trace_configs=self._caller.trace_configs if self._caller is not None else None,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        if self._caller is not None:
            # Code that never closes its client owes nothing: the connections are its own session's.
            weakref.finalize(self, session.detach)
        return session

    async def _receive(self, request: WireRequest, come: list[Answer]) -> None:
        if self.closed or (self._caller is not None and self._caller.closed):
            raise lost(request, "the aiohttp session is closed", sent=False)
        if self._session is None:
            self._session = self._open()
        limits = _USUAL_LIMITS
        if self.borrowed or request.remaining() <= CONNECT_LIMIT:
            limits = aiohttp.ClientTimeout(
                total=None,
                connect=request.pool_limit() if self.borrowed else None,
                sock_connect=request.connect_limit(),
            )
        direct = not self._proxy and not self._session.trace_configs and _is_as_known()
        begin = self._begin_on_connection if direct else self._begin_in_session
        status, headers, content, done = await begin(self._session, request, limits)
        try:
            answer = Answer(status, headers)
            come.append(answer)
            while not answer.refused and (chunk := await content.readany()):
                answer.takes(chunk)
        finally:
            done()  # the connection goes back to the pool when the body was read to its end, and is closed if not

    async def _begin_in_session(
        self, session: aiohttp.ClientSession, request: WireRequest, limits: aiohttp.ClientTimeout
    ) -> _Begun:
        response = await session.post(
            request.url,
            data=request.content,
            headers=request.headers,
            skip_auto_headers=("content-type",),  # a start has no body to describe
            allow_redirects=False,
            proxy=self._proxy,
            timeout=limits,
        )
        return response.status, response.headers, response.content, response.close

    async def _begin_on_connection(
        self, session: aiohttp.ClientSession, request: WireRequest, limits: aiohttp.ClientTimeout
    ) -> _Begun:
        target = self._targets.get(request.url)
        if target is None:
            target = aiohttp.ClientRequest("POST", yarl.URL(request.url), loop=asyncio.get_running_loop())
            self._targets[request.url] = target
        assert session.connector is not None
        try:
            connection = await session.connector.connect(target, [], limits)
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from None
        try:
            assert connection.transport is not None
            assert connection.protocol is not None
            connection.protocol.set_response_params(read_until_eof=True, auto_decompress=False)
            connection.transport.write(_head(target, request) + request.content)
            message, content = await connection.protocol.read()
            while 100 <= message.code <= 199 and message.code != 101:
                message, content = await connection.protocol.read()
        except BaseException:
            connection.close()
            raise
        return message.code, message.headers, content, connection.release

    def _failure(self, request: WireRequest, error: Exception) -> LiveAvatarConnectionError:
        return lost(request, error, sent=not isinstance(error, _NOT_SENT))

    async def close(self) -> None:
        """Close our own pool; a caller's session is the caller's."""
        self.closed = True
        if self._session is not None:
            await self._session.close()


def _is_as_known() -> bool:
    """Whether this is an aiohttp we know, whose sessions nobody has changed, as cassettes and tracers do."""
    method: object = aiohttp.ClientSession._request
    # The exact type: wrappers pass themselves off as functions.
    own = type(method) is FunctionType and method.__code__.co_filename == aiohttp.client.__file__
    return own and _VERSION <= _TRIED


def _head(target: aiohttp.ClientRequest, request: WireRequest) -> bytes:
    """The head of a request. Its headers were checked where they came in: no value can break a line."""
    headers = {"Host": target.headers["Host"], **request.headers, "Content-Length": len(request.content)}
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"POST {target.url.raw_path_qs} HTTP/1.1\r\n{lines}\r\n".encode("ascii")


class HttpxTransport(AsyncTransport):
    """Over the caller's httpx.AsyncClient."""

    borrowed = True

    def __init__(self, base_url: str, client: httpx.AsyncClient) -> None:
        super().__init__(base_url)
        self._client = client

    async def _receive(self, request: WireRequest, come: list[Answer]) -> None:
        _httpx.refuse_closed(request, self._client)
        # Without its auth and redirects: the credential is ours to set, and goes to one place.
        response = await self._client.send(_httpx.outgoing(request), stream=True, auth=None, follow_redirects=False)
        try:
            _httpx.leave_no_cookies(self._client, response)
            answer = Answer(response.status_code, response.headers)
            come.append(answer)
            if response.is_stream_consumed:  # a hook of the caller's client has read it
                answer.takes(response.content)
            elif not answer.refused:
                async for chunk in response.aiter_raw():
                    if not answer.takes(chunk):
                        break
        finally:
            await response.aclose()

    def _failure(self, request: WireRequest, error: Exception) -> LiveAvatarConnectionError:
        return _httpx.failure(request, error)

    async def close(self) -> None:
        """Nothing to do: the client is the caller's."""
