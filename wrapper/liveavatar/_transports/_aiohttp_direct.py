"""Uses internals of aiohttp, and falls back to its public interface where they are not as expected.

The fast path writes requests directly to a pooled connection, because a ClientSession does more for each request than
ours need. With a newer version of aiohttp than those tested, its public session sends the requests. That costs more
CPU time, and idle connections are not polled before they are used again.
"""

from __future__ import annotations

import asyncio
import functools
import re
import select
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import aiohttp
import yarl
from aiohttp import client as aiohttp_client  # also there if an interrupt has ended an earlier import of aiohttp

from ._asyncio import current_attempt
from ._base import Request, connection_error, is_original

_VERSION = tuple(int(number) for number in re.findall(r"\d+", aiohttp.__version__)[:2])
_MAX_TESTED_VERSION = (3, 14)
"""The newest aiohttp that this module is tested with. A newer one is used through its public interface only."""

OpenResponse: TypeAlias = tuple[int, Mapping[str, str], aiohttp.StreamReader, Callable[[], None]]
"""A response whose body is still to be read: status, headers, body, and what releases the connection."""


def can_wrap_connector() -> bool:
    """Return whether the connectors of this aiohttp version are known well enough to be wrapped."""
    return _VERSION <= _MAX_TESTED_VERSION


def can_bypass_session() -> bool:
    """Return whether requests may bypass ClientSession: a tested version, whose methods vcrpy has not replaced."""
    return can_wrap_connector() and is_original(aiohttp.ClientSession._request, aiohttp_client)


class CheckedConnector:
    """A connector that discards idle connections on which anything has arrived.

    Bytes that arrive on an idle connection would be taken for the response to the next request.
    """

    def __init__(self, inner: aiohttp.BaseConnector) -> None:
        self._inner = inner
        self._polls: weakref.WeakKeyDictionary[Any, Callable[[], bool]] = weakref.WeakKeyDictionary()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Return a connection of the pool on which nothing has arrived, or a new one."""
        while True:
            connection = await self._inner.connect(*args, **kwargs)
            protocol = connection.protocol
            if protocol is None:
                raise connection_error(current_attempt.get().request, "the connection was closed", sent=False)
            is_readable = self._polls.get(protocol)
            if is_readable is None:
                self._polls[protocol] = _poll(connection.transport)
                current_attempt.get().extend_to_new()
            elif protocol.should_close or is_readable():
                connection.close()
                continue
            current_attempt.get().request.sent = True
            return connection


def _poll(transport: asyncio.Transport | None) -> Callable[[], bool]:
    """Return a function that says whether the server has sent or closed anything that is not read yet."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return lambda: True
    if not hasattr(select, "poll"):  # on Windows and under eventlet
        return lambda: sock.fileno() < 0 or bool(select.select([sock.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return lambda: bool(poll.poll(0))


class DirectSender:
    """Writes requests to a connection of an aiohttp connector, and has aiohttp parse the responses."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._origin = "/".join(base_url.split("/")[:3])

    @functools.cached_property
    def _connect_request(self) -> aiohttp.ClientRequest:
        # It says where to connect, and can be created only while an event loop runs.
        return aiohttp.ClientRequest("POST", yarl.URL(self._base_url))

    async def send(
        self, session: aiohttp.ClientSession, request: Request, timeouts: aiohttp.ClientTimeout
    ) -> OpenResponse:
        """Send a request and return the response, its body still to be read."""
        connector = session.connector
        assert connector is not None
        try:
            connection: Any = await connector.connect(self._connect_request, [], timeouts)
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from None
        try:
            transport, protocol = connection.transport, connection.protocol
            if transport is None or transport.is_closing():
                raise connection_error(request, "the connection was closed", sent=False)
            protocol.set_response_params(read_until_eof=True, auto_decompress=False)
            transport.write(self._serialize(request))
            message, content = await protocol.read()
            while 100 <= message.code <= 199 and message.code != 101:
                message, content = await protocol.read()
        except BaseException:
            connection.close()
            raise
        return message.code, message.headers, content, connection.release

    def _serialize(self, request: Request) -> bytes:
        """Return the bytes of a request. Its headers are validated where they are set: no value breaks a line."""
        target, content = request.url.removeprefix(self._origin), request.content.reveal()
        name, credential = request.credential
        length = f"Content-Length: {len(content)}\r\n" if content or request.method not in ("GET", "DELETE") else ""
        host = self._connect_request.headers["Host"]
        head = (
            f"{request.method} {target} HTTP/1.1\r\nHost: {host}\r\n{_lines(request.headers)}"
            f"{name}: {credential.reveal()}\r\n{length}\r\n"
        )
        return head.encode("ascii") + content


@functools.lru_cache(16)
def _lines(headers: tuple[tuple[str, str], ...]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers)
