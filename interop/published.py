"""The published Python clients: Pipecat's, LiveKit's and Vision Agents'."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any
from unittest.mock import MagicMock, patch

import aiohttp
from liveavatar.mock import MockServer
from livekit.agents import APIConnectOptions, APIStatusError
from livekit.plugins.liveavatar import AvatarSession
from livekit.plugins.liveavatar.api import LiveAvatarAPI
from pipecat.services.heygen import api_liveavatar as pipecat
from vision_agents.plugins.liveavatar import Avatar, liveavatar_avatar
from vision_agents.plugins.liveavatar.exceptions import LiveAvatarAPIError
from vision_agents.plugins.liveavatar.liveavatar_client import LiveAvatarClient
from vision_agents.plugins.liveavatar.liveavatar_websocket import LiveAvatarWebSocket

from .operations import SANDBOX_AVATAR, operation, refused
from .stand_ins import AgentSession, Http, MediaServer, media_server, room

PIPECAT = f"Pipecat {version('pipecat-ai')}"
LIVEKIT = f"LiveKit {version('livekit-plugins-liveavatar')}"
VISION = f"Vision Agents {version('vision-agents-plugins-liveavatar')}"
LIVEKIT_ROOM = {"livekit_url": "wss://own.invalid", "livekit_api_key": "key", "livekit_api_secret": "secret" * 6}


# ---- Pipecat


@asynccontextmanager
async def pipecat_api(service: MockServer, key: str | None = None) -> AsyncIterator[Any]:
    """Yield Pipecat's client."""
    async with aiohttp.ClientSession() as session:
        api = pipecat.LiveAvatarApi(key or service.api_key, session)
        api.BASE_URL = service.base_url
        yield api


async def open_and_close(api: Any, **fields: Any) -> None:
    """Open a session with Pipecat's client and close it."""
    opened = await api.new_session(pipecat.LiveAvatarNewSessionRequest(avatar_id=SANDBOX_AVATAR, **fields))
    await api.close_session(opened.session_id)


@operation(PIPECAT, "LITE")
async def pipecat_lite(service: MockServer) -> None:
    async with pipecat_api(service) as api:
        await open_and_close(api)


@operation(PIPECAT, "LITE, sandbox avatar, 60 s")
async def pipecat_sandbox(service: MockServer) -> None:
    async with pipecat_api(service) as api:
        await open_and_close(api, is_sandbox=True, max_session_duration=60)


@operation(PIPECAT, "LITE, own room")
async def pipecat_own_room(service: MockServer) -> None:
    own = {"livekit_url": "wss://own.invalid", "livekit_room": "lobby", "livekit_client_token": "room-token"}
    async with pipecat_api(service) as api:
        # Its models need livekit_agent_token as well, which the service gives in its own rooms only.
        token = await api.create_session_token(
            pipecat.LiveAvatarNewSessionRequest(
                avatar_id=SANDBOX_AVATAR, livekit_config=pipecat.CustomSDKLiveKitConfig(**own)
            )
        )
        started = await api._request("POST", "/sessions/start", bearer_token=token.data.session_token)
        assert started["data"]["ws_url"].startswith("wss://")
        await api.stop_session(token.data.session_id, token.data.session_token)


@operation(PIPECAT, "FULL", fault="its models require ws_url, and it loses the session")
async def pipecat_full(service: MockServer) -> None:
    persona = pipecat.AvatarPersona(language="en")
    async with pipecat_api(service) as api:
        await open_and_close(api, mode="FULL", avatar_persona=persona)


@operation(PIPECAT, "wrong key")
async def pipecat_wrong_key(service: MockServer) -> None:
    async with pipecat_api(service, "wrong-key") as api:
        await refused(open_and_close(api), pipecat.LiveAvatarApiError, 401)


@operation(PIPECAT, "too many at once", max_concurrent=1)
async def pipecat_too_many(service: MockServer) -> None:
    request = pipecat.LiveAvatarNewSessionRequest(avatar_id=SANDBOX_AVATAR)
    async with pipecat_api(service) as api, pipecat_api(service) as other:
        opened = await api.new_session(request)
        await refused(other.new_session(request), pipecat.LiveAvatarApiError)
        await api.close_session(opened.session_id)
        await open_and_close(other)


# ---- LiveKit


@asynccontextmanager
async def livekit_api(
    service: MockServer, key: str | None = None, **stand_in: Any
) -> AsyncIterator[tuple[LiveAvatarAPI, Http]]:
    """Yield LiveKit's API class and the HTTP session that it uses."""
    async with aiohttp.ClientSession() as session:
        http = Http(session, **stand_in)
        options = APIConnectOptions(max_retry=3, retry_interval=0.05)
        yield (
            LiveAvatarAPI(
                key or service.api_key, api_url=f"{service.base_url}/sessions", conn_options=options, session=http
            ),
            http,
        )


async def livekit_token(api: LiveAvatarAPI) -> tuple[str, str]:
    """Create a token with LiveKit's API class; return the session's id and token."""
    response = await api.create_streaming_session(
        livekit_url="wss://own.invalid",
        livekit_token="room-token",
        room=room(),
        avatar_id=SANDBOX_AVATAR,
        is_sandbox=True,
        video_quality="high",
    )
    return response["data"]["session_id"], response["data"]["session_token"]


@operation(LIVEKIT, "own room, stop by token")
async def livekit_own_room(service: MockServer) -> None:
    async with livekit_api(service) as (api, _):
        session_id, token = await livekit_token(api)
        started = await api.start_streaming_session(session_id, token)
        assert started["data"]["ws_url"].startswith("wss://")
        await api.stop_streaming_session(session_id, token)


@operation(LIVEKIT, "wrong key")
async def livekit_wrong_key(service: MockServer) -> None:
    async with livekit_api(service, "wrong-key") as (api, _):
        await refused(livekit_token(api), APIStatusError, 401)


@operation(LIVEKIT, "too many at once", max_concurrent=1)
async def livekit_too_many(service: MockServer) -> None:
    async with livekit_api(service) as (api, _):
        first, second = await livekit_token(api), await livekit_token(api)
        await api.start_streaming_session(*first)
        await refused(api.start_streaming_session(*second), APIStatusError)
        await api.stop_streaming_session(*first)
        await api.start_streaming_session(*second)
        await api.stop_streaming_session(*second)


@operation(LIVEKIT, "response of the start is lost", fault="it starts again, is refused and gives up")
async def livekit_lost_start(service: MockServer) -> None:
    async with livekit_api(service, lose="/start") as (api, _):
        await api.start_streaming_session(*await livekit_token(api))


async def converse(avatar: Any, media: MediaServer) -> None:
    """Start an avatar session in a room, wait until it is connected, and end it as the agent's end does."""
    agent = AgentSession()
    await avatar.start(agent, room(), **LIVEKIT_ROOM)
    await asyncio.wait_for(avatar._session_connected.wait(), 10)
    agent.emit("agent_state_changed", MagicMock(new_state="idle"))
    agent.emit("close", MagicMock())
    await asyncio.wait_for(avatar._main_atask, 10)
    assert "agent.stop_listening" in [event["type"] for event in media.events]
    await avatar.aclose()


async def fail_to_connect(avatar: Any) -> None:
    """Start an avatar session whose WebSocket is refused."""
    await avatar.start(AgentSession(), room(), **LIVEKIT_ROOM)
    await asyncio.wait([avatar._main_atask], timeout=10)
    assert isinstance(avatar._main_atask.exception(), aiohttp.ClientConnectionError)


async def break_start(avatar: Any) -> None:
    """Start an avatar session for an agent that has gone by the time the session runs."""

    def on(event: str, *_: object) -> Any:
        if event == "close":
            raise RuntimeError("the agent has gone")
        return lambda handler: handler

    agent = MagicMock()
    agent.on.side_effect = on
    await avatar.start(agent, room(), **LIVEKIT_ROOM)


@operation(LIVEKIT, "AvatarSession from start to end")
async def livekit_avatar_session(service: MockServer) -> None:
    async with media_server() as media, livekit_api(service, media=media) as (api, http):
        avatar = AvatarSession(avatar_id=SANDBOX_AVATAR, api_key=service.api_key, is_sandbox=True)
        avatar._api = api
        await converse(avatar, media)
        assert len(http.ws_urls) == 1


@operation(LIVEKIT, "AvatarSession, WebSocket refused", fault="it does not stop the session")
async def livekit_no_socket(service: MockServer) -> None:
    async with livekit_api(service) as (api, _):
        avatar = AvatarSession(avatar_id=SANDBOX_AVATAR, api_key=service.api_key, is_sandbox=True)
        avatar._api = api
        await fail_to_connect(avatar)


@operation(LIVEKIT, "AvatarSession, start fails half-way", fault="it does not stop the session")
async def livekit_broken_start(service: MockServer) -> None:
    async with livekit_api(service) as (api, _):
        avatar = AvatarSession(avatar_id=SANDBOX_AVATAR, api_key=service.api_key, is_sandbox=True)
        avatar._api = api
        await refused(break_start(avatar), RuntimeError)


# ---- Vision Agents


@operation(VISION, "LITE, sandbox avatar, stop by key")
async def vision_lite(service: MockServer) -> None:
    async with LiveAvatarClient(service.api_key, service.url) as client:
        token = await client.create_session_token(SANDBOX_AVATAR, max_session_duration=60)
        session = await client.start_session(token.session_token)
        assert session.ws_url.startswith("wss://")
        assert session.livekit_agent_token
        await client.stop_session(session_id=session.session_id)


@operation(VISION, "wrong key")
async def vision_wrong_key(service: MockServer) -> None:
    async with LiveAvatarClient("wrong-key", service.url) as client:
        await refused(client.create_session_token(SANDBOX_AVATAR), LiveAvatarAPIError, 401)


@operation(VISION, "too many at once", max_concurrent=1)
async def vision_too_many(service: MockServer) -> None:
    async with LiveAvatarClient(service.api_key, service.url) as client:
        first, second = [await client.create_session_token(SANDBOX_AVATAR) for _ in range(2)]
        session = await client.start_session(first.session_token)
        await refused(client.start_session(second.session_token), LiveAvatarAPIError)
        await client.stop_session(session_id=session.session_id)
        session = await client.start_session(second.session_token)
        await client.stop_session(session_id=session.session_id)


@operation(VISION, "longer than the sandbox allows")
async def vision_duration(service: MockServer) -> None:
    async with LiveAvatarClient(service.api_key, service.url) as client:
        error = await refused(
            client.create_session_token(SANDBOX_AVATAR, max_session_duration=600), LiveAvatarAPIError, 400
        )
        assert "max_session_duration (600s) exceeds the maximum allowed (60s)" in str(error)


class RtcManager:
    """Vision Agents' connection to the room; it can fail or wait for ever."""

    def __init__(self, behaviour: str = "works") -> None:
        self.behaviour = behaviour
        self.connecting = asyncio.Event()

    async def connect(self, url: str, token: str) -> None:
        """Join the room."""
        assert url
        assert token
        self.connecting.set()
        if self.behaviour == "fails":
            raise ConnectionError("no such room")
        if self.behaviour == "waits":
            await asyncio.Event().wait()

    async def close(self) -> None:
        """Leave the room."""


@asynccontextmanager
async def sockets_to(media: MediaServer) -> AsyncIterator[None]:
    """Let Vision Agents' WebSockets lead to a media server."""

    def connection(url: str) -> LiveAvatarWebSocket:
        assert url.startswith("wss://"), f"ws_url is {url!r}"
        return LiveAvatarWebSocket(media.address)

    with patch.object(liveavatar_avatar, "LiveAvatarWebSocket", connection):
        yield


async def cancel_while_connecting(avatar: Any) -> None:
    """Cancel an avatar's start while it joins the room."""
    avatar._rtc_manager = RtcManager("waits")
    starting = asyncio.create_task(avatar.start())
    await asyncio.wait_for(avatar._rtc_manager.connecting.wait(), 10)
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()


@operation(VISION, "Avatar from start to close")
async def vision_avatar(service: MockServer) -> None:
    async with media_server() as media, sockets_to(media):
        avatar = Avatar(SANDBOX_AVATAR, service.api_key, service.url)
        avatar._rtc_manager = RtcManager()
        await avatar.start()
        await avatar.close()
    assert [event["type"] for event in media.events] == ["start"]


@operation(VISION, "Avatar, room refused")
async def vision_no_room(service: MockServer) -> None:
    avatar = Avatar(SANDBOX_AVATAR, service.api_key, service.url)
    avatar._rtc_manager = RtcManager("fails")
    await refused(avatar.start(), ConnectionError)
    await avatar._client.close()


@operation(VISION, "Avatar, cancelled while it connects", fault="it does not stop the session")
async def vision_cancelled(service: MockServer) -> None:
    avatar = Avatar(SANDBOX_AVATAR, service.api_key, service.url)
    await cancel_while_connecting(avatar)
    await avatar._client.close()
