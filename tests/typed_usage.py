"""The types of the public API, for mypy and pyright. This is not run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any, assert_type

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
    SessionDurationError,
    SessionInfo,
    SessionTokenData,
    SessionTokenNotFoundError,
    SessionTokenResponse,
    SessionTranscript,
    StandardSessionResponse,
    StopReason,
    StopSessionResponse,
    TranscriptLine,
    VideoEncoding,
    VideoQuality,
    VideoSettings,
    __version__,
    graceful_shutdown,
)


def requests() -> LiveAvatarNewSessionRequest:
    """Requests are created with keyword arguments, and their fields are attributes."""
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
    assert_type(request.max_session_duration, int | None)
    if request.max_session_duration is not None:
        assert_type(request.max_session_duration, int)
    request.mode = None
    request.video_settings = {"encoding": "H264"}
    request.avatar_persona = {"voice_id": "..."}
    request.interactivity_type = "PUSH_TO_TALK"
    settings = VideoSettings(encoding="H264")
    settings.quality = "high"
    assert_type(settings.quality, VideoQuality | None)
    assert_type(settings.encoding, VideoEncoding)
    persona = AvatarPersona()
    persona.stt_config = {"provider": "deepgram"}
    assert_type(persona.language, str | None)
    return request


def parts(request: LiveAvatarNewSessionRequest) -> None:
    """The parts of a request are read as models, and accept dicts."""
    assert_type(request.video_settings, VideoSettings | None)
    assert_type(request.avatar_persona, AvatarPersona | None)
    assert_type(request.livekit_config, CustomSDKLiveKitConfig | None)


def blocking(request: LiveAvatarNewSessionRequest) -> None:
    """The blocking client."""
    graceful_shutdown()
    LiveAvatarApi("key", base_url="https://...", timeout=5, max_retries=0, http_client=httpx.Client())
    with LiveAvatarApi() as api:
        assert_type(api, LiveAvatarApi)
        assert_type(api.create_session_token(request), SessionTokenResponse)
        assert_type(api.start_session("token"), LiveAvatarSessionResponse)
        assert_type(api.stop_session("id"), StopSessionResponse)
        assert_type(api.stop_session("id", "token", reason=StopReason.USER_CLOSED), StopSessionResponse)
        assert_type(api.stop_session("id", None, reason="USER_CLOSED"), StopSessionResponse)
        assert_type(api.new_session(request_data=request), StandardSessionResponse)
        assert_type(api.new_session(request, keep_alive=60, wait_for_slot=30.0), StandardSessionResponse)
        assert_type(api.close_session("id"), StopSessionResponse)
        assert_type(api.close_session("id", reason=StopReason.USER_CLOSED), StopSessionResponse)
        api.keep_session_alive("id")
        assert_type(api.list_sessions("historic", page_size=10), Iterator[SessionInfo])
        assert_type(api.get_session("id"), SessionInfo)
        assert_type(api.get_session("id").end_at, datetime | None)
        assert_type(api.get_session("id").end_reason, str | None)
        assert_type(api.get_session_transcript("id").next_timestamp, int | None)
        assert_type(api.stop_session("id").message, str | None)
        assert_type(api.get_session_transcript("id", start_timestamp=1), SessionTranscript)
        api.delete_session_events("id")
        assert_type(api.request("GET", "/users/credits", params={"a": 1}), Any)
        api.adopt_session("id", "token")
        assert_type(api.recover_sessions(), list[str])
        with api.session(request) as session:
            assert_type(session, StandardSessionResponse)
        assert_type(api.session_token, str | None)
        assert_type(api.open_sessions, tuple[str, ...])
        assert_type(api.release_session("id"), str)
        api.close_all_sessions()
    api.close()


async def awaited(request: LiveAvatarNewSessionRequest, session: aiohttp.ClientSession) -> None:
    """The async client; its methods are coroutines, so that tasks can run them."""
    AsyncLiveAvatarApi("key", session)
    AsyncLiveAvatarApi(base_url="https://...", timeout=5.0, max_retries=0, http_client=httpx.AsyncClient())
    async with AsyncLiveAvatarApi(session=session) as api:
        assert_type(api, AsyncLiveAvatarApi)
        assert_type(await api.create_session_token(request), SessionTokenResponse)
        assert_type(await api.start_session("token"), LiveAvatarSessionResponse)
        assert_type(await api.stop_session("id"), StopSessionResponse)
        assert_type(await api.stop_session("id", "token", reason=StopReason.USER_CLOSED), StopSessionResponse)
        assert_type(await api.new_session(request_data=request), StandardSessionResponse)
        assert_type(await api.new_session(request, keep_alive=True, wait_for_slot=30), StandardSessionResponse)
        assert_type(await api.close_session("id"), StopSessionResponse)
        assert_type(await api.close_session("id", reason="USER_CLOSED"), StopSessionResponse)
        await api.keep_session_alive("id")
        assert_type(api.list_sessions(avatar_id="id"), AsyncIterator[SessionInfo])
        assert_type(await api.get_session("id"), SessionInfo)
        assert_type(await api.get_session_transcript("id"), SessionTranscript)
        await api.delete_session_events("id")
        assert_type(await api.request("POST", "/path", json={"a": 1}, idempotent=True), Any)
        await api.adopt_session("id")
        assert_type(await api.recover_sessions(), list[str])
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


def responses(created: SessionTokenResponse, session: StandardSessionResponse, transcript: SessionTranscript) -> None:
    """The fields of responses."""
    assert_type(transcript.transcript_data, list[TranscriptLine])
    assert_type(created.data, SessionTokenData)
    assert_type(created.data.session_id, str)
    assert_type(created.data.session_token, str)
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
    """The attributes of exceptions."""
    try:
        api.new_session(request)
    except SessionDurationError as error:
        assert_type(error.max_allowed, int | None)
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
