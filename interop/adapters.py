"""This project's client, alone and inside the plugins of LiveKit and Vision Agents."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi, LiveAvatarNewSessionRequest
from liveavatar.mock import MockServer

from .operations import SANDBOX_AVATAR, operation, refused
from .published import (
    RtcManager,
    break_start,
    cancel_while_connecting,
    converse,
    fail_to_connect,
    sockets_to,
)
from .stand_ins import Http, media_server

OURS = "liveavatar"
EXAMPLES = Path(__file__).parents[1] / "examples"
SANDBOX = LiveAvatarNewSessionRequest(avatar_id=SANDBOX_AVATAR, is_sandbox=True)


def example(name: str) -> ModuleType:
    """Import an example."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@operation(OURS, "async: open, close")
async def ours_async(service: MockServer) -> None:
    async with AsyncLiveAvatarApi(service.api_key, base_url=service.base_url) as api, api.session(SANDBOX) as session:
        assert session.ws_url


@operation(OURS, "blocking: open, close by key")
async def ours_blocking(service: MockServer) -> None:
    def life() -> None:
        with LiveAvatarApi(service.api_key, base_url=service.base_url) as api:
            session_id = api.new_session(SANDBOX).session_id
            api.release_session(session_id)
            api.stop_session(session_id, reason="USER_CLOSED")

    await asyncio.to_thread(life)


def livekit_avatar(service: MockServer, http: Http) -> tuple[Any, AsyncLiveAvatarApi]:
    """Return the avatar session of the example, and its client."""
    client = AsyncLiveAvatarApi(service.api_key, base_url=service.base_url)
    avatar = example("livekit_plugin").AvatarSession(client, avatar_id=SANDBOX_AVATAR, is_sandbox=True)
    avatar._api._session = http
    return avatar, client


@operation(f"{OURS} in LiveKit's plugin", "AvatarSession from start to end")
async def in_livekit(service: MockServer) -> None:
    async with media_server() as media, aiohttp.ClientSession() as session:
        avatar, client = livekit_avatar(service, Http(session, media))
        async with client:
            await converse(avatar, media)
            assert service.running_sessions == []


@operation(f"{OURS} in LiveKit's plugin", "AvatarSession, WebSocket refused")
async def in_livekit_no_socket(service: MockServer) -> None:
    async with aiohttp.ClientSession() as session:
        avatar, client = livekit_avatar(service, Http(session))
        async with client:
            await fail_to_connect(avatar)
            assert service.running_sessions == []


@operation(f"{OURS} in LiveKit's plugin", "AvatarSession, start fails half-way")
async def in_livekit_broken_start(service: MockServer) -> None:
    async with aiohttp.ClientSession() as session:
        avatar, client = livekit_avatar(service, Http(session))

        async with client:
            await refused(break_start(avatar), RuntimeError)
            assert service.running_sessions == []


def vision_avatar(service: MockServer, behaviour: str = "works") -> tuple[Any, AsyncLiveAvatarApi]:
    """Return the avatar of the example, and its client."""
    client = AsyncLiveAvatarApi(service.api_key, base_url=service.base_url)
    avatar = example("vision_agents_plugin").Avatar(client, avatar_id=SANDBOX_AVATAR)
    avatar._rtc_manager = RtcManager(behaviour)
    return avatar, client


@operation(f"{OURS} in Vision Agents' plugin", "Avatar from start to close")
async def in_vision(service: MockServer) -> None:
    async with media_server() as media, sockets_to(media):
        avatar, client = vision_avatar(service)
        async with client:
            await avatar.start()
            assert len(service.running_sessions) == 1
            await avatar.close()
            assert service.running_sessions == []
    assert [event["type"] for event in media.events] == ["start"]


@operation(f"{OURS} in Vision Agents' plugin", "Avatar, room refused")
async def in_vision_no_room(service: MockServer) -> None:
    avatar, client = vision_avatar(service, "fails")
    async with client:
        await refused(avatar.start(), ConnectionError)
        assert service.running_sessions == []


@operation(f"{OURS} in Vision Agents' plugin", "Avatar, cancelled while it connects")
async def in_vision_cancelled(service: MockServer) -> None:
    avatar, client = vision_avatar(service)
    async with client:
        await cancel_while_connecting(avatar)
        assert service.running_sessions == []
