"""What type checkers are to see of the public API. Nothing runs this: mypy and pyright read it."""

from __future__ import annotations

import asyncio
from typing import assert_type

import aiohttp
import httpx
from liveavatar import (
    AsyncLiveAvatarApi,
    AvatarPersona,
    ConcurrencyLimitError,
    CustomSDKLiveKitConfig,
    InvalidRequestError,
    LiveAvatarApi,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    LiveAvatarNewSessionRequest,
    LiveAvatarSessionData,
    LiveAvatarSessionResponse,
    RateLimitError,
    SessionTokenData,
    SessionTokenNotFoundError,
    SessionTokenResponse,
    StandardSessionResponse,
    StopReason,
    StopSessionResponse,
    VideoEncoding,
    VideoQuality,
    VideoSettings,
    __version__,
)


def requests() -> LiveAvatarNewSessionRequest:
    """Requests are made with keywords, and their fields are attributes."""
    LiveAvatarNewSessionRequest(avatar_id="...")
    LiveAvatarNewSessionRequest(
        mode="FULL",
        avatar_id="...",
        video_settings=None,
        is_sandbox=None,
        avatar_persona=AvatarPersona(voice_id="...", context_id=None, language="de"),
        livekit_config=None,
    )
    request = LiveAvatarNewSessionRequest(
        avatar_id="...",
        video_settings=VideoSettings(encoding=VideoEncoding.H264, quality=VideoQuality.very_high),
        is_sandbox=True,
        livekit_config=CustomSDKLiveKitConfig(livekit_url="...", livekit_room="...", livekit_client_token="..."),
        max_session_duration=600,
    )
    request.avatar_persona = AvatarPersona()
    request.video_settings = VideoSettings(VideoEncoding.VP8)
    request["a_field_of_tomorrow"] = 1
    assert_type(request.avatar_id, str)
    assert_type(request.mode, str)
    return request


def blocking(request: LiveAvatarNewSessionRequest) -> None:
    """The blocking client."""
    LiveAvatarApi("key", base_url="https://...", timeout=5, max_retries=0, http_client=httpx.Client())
    with LiveAvatarApi() as api:
        assert_type(api, LiveAvatarApi)
        assert_type(api.create_session_token(request), SessionTokenResponse)
        assert_type(api.start_session("token"), LiveAvatarSessionResponse)
        assert_type(api.stop_session("id"), StopSessionResponse)
        assert_type(api.stop_session("id", "token", reason=StopReason.USER_CLOSED), StopSessionResponse)
        assert_type(api.stop_session("id", None, reason="USER_CLOSED"), StopSessionResponse)
        assert_type(api.new_session(request_data=request), StandardSessionResponse)
        assert_type(api.close_session("id"), StopSessionResponse)
        with api.session(request) as session:
            assert_type(session, StandardSessionResponse)
        assert_type(api.session_token, str | None)
        assert_type(api.open_sessions, tuple[str, ...])
        assert_type(api.release_session("id"), str)
        api.close_all_sessions()
    api.close()


async def awaited(request: LiveAvatarNewSessionRequest, session: aiohttp.ClientSession) -> None:
    """The async client; its methods are coroutines, so that tasks can be made of them."""
    AsyncLiveAvatarApi("key", session)
    AsyncLiveAvatarApi(base_url="https://...", timeout=5.0, max_retries=0, http_client=httpx.AsyncClient())
    async with AsyncLiveAvatarApi(session=session) as api:
        assert_type(api, AsyncLiveAvatarApi)
        assert_type(await api.create_session_token(request), SessionTokenResponse)
        assert_type(await api.start_session("token"), LiveAvatarSessionResponse)
        assert_type(await api.stop_session("id"), StopSessionResponse)
        assert_type(await api.stop_session("id", "token", reason=StopReason.USER_CLOSED), StopSessionResponse)
        assert_type(await api.new_session(request_data=request), StandardSessionResponse)
        assert_type(await api.close_session("id"), StopSessionResponse)
        task = asyncio.create_task(api.new_session(request))
        assert_type(task, asyncio.Task[StandardSessionResponse])
        both = await asyncio.gather(api.new_session(request), api.new_session(request))
        assert_type(both, tuple[StandardSessionResponse, StandardSessionResponse])
        async with api.session(request) as opened:
            assert_type(opened, StandardSessionResponse)
        assert_type(api.session_token, str | None)
        assert_type(api.open_sessions, tuple[str, ...])
        assert_type(api.release_session("id"), str)
        await api.close_all_sessions()
    await api.aclose()


def answers(minted: SessionTokenResponse, session: StandardSessionResponse) -> None:
    """The fields of what comes back."""
    assert_type(minted.data, SessionTokenData)
    assert_type(minted.data.session_id, str)
    assert_type(minted.data.session_token, str)
    assert_type(session.session_id, str)
    assert_type(session.access_token, str)
    assert_type(session.livekit_url, str)
    assert_type(session.livekit_agent_token, str | None)
    assert_type(session.ws_url, str | None)
    assert_type(session.max_session_duration, int | None)
    assert_type(session.meet_url, str)
    assert_type(session.raw_response, LiveAvatarSessionResponse)
    assert_type(session.raw_response.data, LiveAvatarSessionData)
    texts: list[str] = [VideoQuality.high, VideoQuality.high.value, VideoEncoding.H264, __version__]
    assert_type(texts, list[str])


def errors(api: LiveAvatarApi, request: LiveAvatarNewSessionRequest) -> None:
    """The attributes of what is raised."""
    try:
        api.new_session(request)
    except InvalidRequestError as error:
        assert_type(error.errors, tuple[tuple[str, str], ...])
    except (RateLimitError, ConcurrencyLimitError) as error:
        assert_type(error.retry_after, float | None)
    except LiveAvatarApiError as error:
        assert_type(error.status, int)
        assert_type(error.response_text, str)
        assert_type(error.message, str)
        assert_type(error.code, int | None)
        assert_type(error.request_id, str | None)
    except LiveAvatarConnectionError as error:
        assert_type(error.request_sent, bool)
    except LiveAvatarError as error:
        assert_type(error.endpoint, str | None)
        assert_type(error.attempts, int)
        assert_type(error.session_id, str | None)
        assert_type(error.session_may_be_running, bool)
    try:
        api.close_session("id")
    except SessionTokenNotFoundError as error:
        not_found: ValueError = error
        raise LiveAvatarApiError("a line", 404, "the body") from not_found
