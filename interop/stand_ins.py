"""Stand-ins for the rooms and media servers that the mock server does not have."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import MagicMock

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from livekit import rtc


class MediaServer:
    """The far end of a session's WebSocket: it reports "connected" and takes whatever it is sent."""

    def __init__(self) -> None:
        self.address = ""
        self.events: list[dict[str, Any]] = []

    async def accept(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "session.state_updated", "state": "connected"})
        async for message in socket:
            self.events.append(json.loads(message.data))
        return socket


@asynccontextmanager
async def media_server() -> AsyncIterator[MediaServer]:
    """Run a media server on loopback."""
    media = MediaServer()
    app = web.Application()
    app.router.add_get("/", media.accept)
    async with TestServer(app) as server:
        media.address = str(server.make_url("/")).replace("http", "ws", 1)
        yield media


class Http:
    """An aiohttp session whose WebSockets lead to a media server, and that can lose the response of a start.

    Attributes:
        ws_urls: addresses that WebSockets were opened to.
    """

    def __init__(self, session: aiohttp.ClientSession, media: MediaServer | None = None, *, lose: str = "") -> None:
        self._session = session
        self._media = media
        self._lose = lose
        self.ws_urls: list[str] = []

    @asynccontextmanager
    async def post(self, url: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; the response to the first one whose path ends in ``lose`` is lost."""
        async with self._session.post(url, **options) as response:
            if self._lose and url.endswith(self._lose):
                self._lose = ""
                raise aiohttp.ServerDisconnectedError
            yield response

    async def ws_connect(self, url: str) -> aiohttp.ClientWebSocketResponse:
        """Connect to the media server; without one the connection is refused."""
        assert url.startswith("wss://"), f"ws_url is {url!r}"
        self.ws_urls.append(url)
        if self._media is None:
            raise aiohttp.ClientConnectionError("the media server refuses the connection")
        return await self._session.ws_connect(self._media.address)


def room(name: str = "lobby") -> Any:
    """Return a LiveKit room that is connected, and that nobody joins."""
    stand_in = MagicMock(spec=rtc.Room)
    stand_in.name = name
    stand_in.isconnected.return_value = True
    stand_in.local_participant.identity = "agent"
    stand_in.remote_participants = {}
    return stand_in


class AgentSession(rtc.EventEmitter[str]):
    """The part of LiveKit's AgentSession that an avatar needs."""

    def __init__(self) -> None:
        super().__init__()
        self.output = MagicMock()
