"""In the place of Pipecat's LiveAvatarApi: the same calls, the same bytes on the wire, the same fields.

Pipecat is an optional and heavy peer: what needs it is skipped where it is not installed
(`pip install 'pipecat-ai[heygen]'`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import json
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import aiohttp
import liveavatar
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from liveavatar.mock import MockServer, mock_server

VOICE = "1c9a5c0e-8d1f-4f57-9a52-7f0f3c2b6d11"
CONTEXT = "5b7f2d34-0a6e-4c1b-8f3a-2e9d4c7b8a90"
ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "pipecat_client.py"
DOCUMENT = ROOT / "docs" / "pipecat.md"
WAYNE = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
HOME = "pipecat.services.heygen.api_liveavatar"

# What people have written against Pipecat's class, and is to run with the import changed and nothing else.
OLD_CODE = f"""
from {HOME} import (
    AvatarPersona,
    CustomSDKLiveKitConfig,
    LiveAvatarApi,
    LiveAvatarApiError,
    LiveAvatarNewSessionRequest,
    LiveAvatarSessionResponse,
    SessionTokenResponse,
    VideoEncoding,
    VideoQuality,
    VideoSettings,
)


async def converse(session, key):
    api = LiveAvatarApi(key, session=session)
    request = LiveAvatarNewSessionRequest(
        mode="FULL",
        avatar_id="{WAYNE}",
        video_settings=VideoSettings(encoding=VideoEncoding.VP8, quality=VideoQuality.high),
        is_sandbox=True,
        avatar_persona=AvatarPersona(voice_id="7f3ee8b1-b2a7-4b0a-bd2f-2a8f3f3c51ab", context_id=None),
    )
    request.mode = "LITE"
    request.avatar_persona = None
    request.video_settings.quality = VideoQuality.medium

    minted = await api.create_session_token(request)
    assert isinstance(minted, SessionTokenResponse)
    started = await api.start_session(minted.data.session_token)
    assert isinstance(started, LiveAvatarSessionResponse)
    assert started.data.session_id == minted.data.session_id
    await api.stop_session(started.data.session_id, minted.data.session_token)

    new = await api.new_session(request_data=request)
    assert new.raw_response.data.max_session_duration == 60
    assert new.access_token == new.raw_response.data.livekit_client_token
    assert new.livekit_agent_token and new.ws_url.startswith("wss://")
    await api.close_session(new.session_id)

    request.livekit_config = CustomSDKLiveKitConfig(
        livekit_url="wss://own.invalid", livekit_room="lobby", livekit_client_token="room-token"
    )
    request.avatar_id = "00000000-0000-0000-0000-000000000000"
    try:
        await api.new_session(request)
    except LiveAvatarApiError as error:
        assert error.status == 404, error.status
        assert "is not known" in error.response_text
    else:
        raise AssertionError("it should have been refused")
    try:
        await api.stop_session("", "a-token")
    except ValueError:
        return VideoQuality.high.value + VideoQuality.very_high + str(VideoEncoding.H264)
"""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockServer]:
    with mock_server() as service:
        monkeypatch.setenv("LIVEAVATAR_BASE_URL", service.base_url)
        monkeypatch.setenv("LIVEAVATAR_API_KEY", service.api_key)
        yield service


@pytest.fixture
def pipecat(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Pipecat's module of its LiveAvatarApi."""
    return needed(HOME)


@pytest.fixture
def heygen(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Pipecat's module of its HeyGenClient, with our classes in it as docs/pipecat.md says."""
    module = needed("pipecat.services.heygen.client")
    monkeypatch.setattr(module, "LiveAvatarApi", liveavatar.AsyncLiveAvatarApi)
    monkeypatch.setattr(module, "LiveAvatarNewSessionRequest", liveavatar.LiveAvatarNewSessionRequest)
    return module


def needed(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pipecat's own, and its peers'
        reason = "Pipecat is not installed: pip install 'pipecat-ai[heygen]'"
        module: ModuleType = pytest.importorskip(name, reason=reason, exc_type=ImportError)
        importlib.import_module("loguru").logger.remove()  # it logs tokens
    return module


@pytest.mark.parametrize("whose", ["Pipecat's", "ours"])
def test_old_code_runs_with_another_import(
    whose: str, service: MockServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = OLD_CODE
    if whose == "ours":
        code = code.replace(HOME, "liveavatar").replace("LiveAvatarApi,", "AsyncLiveAvatarApi as LiveAvatarApi,")
    else:
        monkeypatch.setattr(request.getfixturevalue("pipecat").LiveAvatarApi, "BASE_URL", service.base_url)
    names: dict[str, Any] = {}
    exec(code, names)  # old code, as it stands in somebody's module

    async def run() -> object:
        async with aiohttp.ClientSession() as session:
            return await names["converse"](session, service.api_key)

    assert asyncio.run(run()) == "highvery_highH264"
    assert service.running_sessions == []


BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=["the API itself", "Pipecat's services"])
def test_what_the_documentation_shows_runs(block: str, service: MockServer) -> None:
    if "pipecat" in block:
        needed("pipecat.services.heygen.client")
    shown = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert service.running_sessions == []


def test_pydantic_methods() -> None:
    """The classes that Pipecat's code creates and gets name the replacement of a method of Pydantic models."""
    request = liveavatar.LiveAvatarNewSessionRequest(avatar_id=WAYNE)
    made_anew = liveavatar.LiveAvatarNewSessionRequest.from_dict({"avatar_id": WAYNE})
    assert made_anew == request
    assert made_anew.video_settings == request.video_settings
    assert request.video_settings != liveavatar.VideoSettings("H264")
    assert made_anew.to_dict() == request.to_dict()
    raw = {"code": 1000, "message": "Success", "data": {**(Recorder.ANSWERS["start"] or {}), "of_tomorrow": 1}}
    session = liveavatar.StandardSessionResponse(
        session_id="id",
        access_token="token",
        livekit_url="wss://room.invalid",
        raw_response=liveavatar.LiveAvatarSessionResponse.from_dict(raw),
    )
    plain = json.loads(json.dumps(session.to_dict()))
    assert plain["raw_response"] == raw
    assert liveavatar.StandardSessionResponse.from_dict(plain) == session
    replacements = {
        "model_dump": "to_dict",
        "model_dump_json": "json.dumps",
        "model_validate": "from_dict",
        "model_copy": "copy.deepcopy",
    }
    for model in (request, liveavatar.VideoSettings, liveavatar.AvatarPersona, session):
        for name, replacement in replacements.items():
            with pytest.raises(AttributeError, match=replacement):
                getattr(model, name)
            assert not hasattr(model, name)


def test_the_callers_aiohttp_session_is_used_and_stays_theirs(service: MockServer) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            for _ in range(3):
                api = liveavatar.AsyncLiveAvatarApi(service.api_key, session=session)
                opened = await api.new_session(liveavatar.LiveAvatarNewSessionRequest(avatar_id=WAYNE))
                await api.close_session(opened.session_id)
            assert not session.closed

    asyncio.run(run())
    assert service.connections == 1


def test_a_client_over_a_callers_session_need_not_be_closed(service: MockServer) -> None:
    """Pipecat's has no close(), so nobody who comes from there calls ours: that is to leave no complaint."""
    complaints: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        async with aiohttp.ClientSession() as session:
            api = liveavatar.AsyncLiveAvatarApi(service.api_key, session=session)
            opened = await api.new_session(liveavatar.LiveAvatarNewSessionRequest(avatar_id=WAYNE))
            await api.close_session(opened.session_id)
            del api
            gc.collect()

    asyncio.run(run())
    assert complaints == []


def test_a_subclass_may_say_where_the_service_is() -> None:
    """As with Pipecat's: whoever points it at a service of their own is not to meet the real one."""

    class Mine(liveavatar.AsyncLiveAvatarApi):
        BASE_URL = "http://127.0.0.1:9/v1"

    assert "http://127.0.0.1:9/v1" in repr(Mine("an-api-key"))


class Recorder:
    """A service that notes what it is sent, and answers every call with the same."""

    ANSWERS: dict[str, dict[str, object] | None] = {
        "token": {"session_id": "5d0b7a1c-2b1e-4c39-8e4b-0a4f2c5f2f11", "session_token": "a-session-token"},
        "start": {
            "session_id": "5d0b7a1c-2b1e-4c39-8e4b-0a4f2c5f2f11",
            "livekit_url": "wss://room.invalid",
            "livekit_client_token": "a-client-token",
            "livekit_agent_token": "an-agent-token",
            "max_session_duration": 600,
            "ws_url": "wss://events.invalid/1",
        },
        "stop": None,
    }

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], object]] = []
        self.refusal: tuple[int, str] | None = None

    async def answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        for name in ("host", "user-agent", "accept-encoding", "content-length"):
            headers.pop(name, None)
        if headers.get("content-type") == "application/octet-stream":
            del headers["content-type"]  # aiohttp's own word for a body that is not there
        body = await request.read()
        self.seen.append((f"{request.method} {request.path}", headers, json.loads(body) if body else None))
        if self.refusal:
            return web.Response(status=self.refusal[0], text=self.refusal[1], content_type="application/json")
        data = self.ANSWERS[request.path.rpartition("/")[2]]
        return web.json_response({"code": 1000, "data": data, "message": "Success"})

    def taken(self) -> list[tuple[str, dict[str, str], object]]:
        """What has been sent since it was asked last."""
        seen, self.seen = self.seen, []
        return seen


@contextlib.asynccontextmanager
async def side_by_side(pipecat: ModuleType) -> AsyncIterator[tuple[Recorder, Any, Any]]:
    """Pipecat's class and ours, over one aiohttp session, before one recorder."""
    recorder = Recorder()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", recorder.answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        theirs = pipecat.LiveAvatarApi("an-api-key", session)
        theirs.BASE_URL = str(server.make_url("/v1"))
        async with liveavatar.AsyncLiveAvatarApi(
            "an-api-key", session, base_url=theirs.BASE_URL, max_retries=0
        ) as ours:
            yield recorder, theirs, ours


def requests() -> Iterator[dict[str, Any]]:
    """Every field set, to each of what it may be; parts as (class, fields)."""
    own_room = {"livekit_url": "wss://own.invalid", "livekit_room": "lobby", "livekit_client_token": "room-token"}
    fields: dict[str, list[Any]] = {
        "mode": ["LITE", "FULL", "CUSTOM"],
        "avatar_id": [WAYNE],
        "video_settings": [
            ("VideoSettings", {"encoding": encoding, "quality": quality})
            for encoding in ("H264", "VP8")
            for quality in ("low", "medium", "high", "very_high")
        ],
        "is_sandbox": [True, False, None],
        "avatar_persona": [
            None,
            ("AvatarPersona", {"voice_id": None, "context_id": None, "language": "en"}),
            ("AvatarPersona", {"voice_id": VOICE, "context_id": None, "language": "de"}),
            ("AvatarPersona", {"voice_id": VOICE, "context_id": CONTEXT, "language": "pt-BR"}),
        ],
        "livekit_config": [None, ("CustomSDKLiveKitConfig", own_room)],
        "max_session_duration": [None, 600],
    }
    for values in itertools.product(*fields.values()):
        request = dict(zip(fields, values, strict=True))
        is_full = request["mode"] == "FULL"
        # Our client refuses a persona outside of FULL, a FULL session without one, and a room of the caller in FULL.
        if is_full == (request["avatar_persona"] is not None) and not (is_full and request["livekit_config"]):
            yield request


def made(module: ModuleType, fields: dict[str, Any]) -> Any:
    """The request of a module's classes."""

    def part(value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        name, of = value
        kinds = {"encoding": module.VideoEncoding, "quality": module.VideoQuality}
        return getattr(module, name)(**{key: kinds[key](item) if key in kinds else item for key, item in of.items()})

    return module.LiveAvatarNewSessionRequest(**{name: part(value) for name, value in fields.items()})


def test_both_send_the_same_for_every_request(pipecat: ModuleType) -> None:
    async def run() -> int:
        count = 0
        async with side_by_side(pipecat) as (recorder, theirs, ours):
            for fields in requests():
                await theirs.create_session_token(made(pipecat, fields))
                expected = recorder.taken()
                await ours.create_session_token(made(liveavatar, fields))
                assert recorder.taken() == expected, fields
                count += 1
        return count

    assert asyncio.run(run()) == (3 * 1 + 2 * 2) * 8 * 3 * 2


def test_both_send_and_return_the_same_from_a_session_s_beginning_to_its_end(pipecat: ModuleType) -> None:
    async def life(api: Any, module: ModuleType) -> list[object]:
        request = made(module, next(requests()))
        minted = await api.create_session_token(request)
        started = await api.start_session(minted.data.session_token)
        await api.stop_session(started.data.session_id, minted.data.session_token)
        new = await api.new_session(request)
        await api.close_session(new.session_id)
        return [
            (minted.code, minted.message, minted.data.session_id, minted.data.session_token),
            *(
                {name: getattr(answer.data, name) for name in Recorder.ANSWERS["start"] or ()}
                for answer in (started, new.raw_response)
            ),
            (started.code, started.message),
            [
                getattr(new, name)
                for name in ("session_id", "access_token", "livekit_agent_token", "livekit_url", "ws_url")
            ],
        ]

    async def run() -> None:
        async with side_by_side(pipecat) as (recorder, theirs, ours):
            expected = await life(theirs, pipecat), recorder.taken()
            assert len(expected[1]) == 6
            assert (await life(ours, liveavatar), recorder.taken()) == expected

    asyncio.run(run())


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422, 429, 500, 503, 520])
def test_both_raise_the_same_for_a_refusal(status: int, pipecat: ModuleType) -> None:
    async def refused(api: Any, module: ModuleType) -> tuple[object, ...]:
        with pytest.raises(module.LiveAvatarApiError) as caught:
            await api.new_session(made(module, next(requests())))
        with pytest.raises(ValueError, match=r"[Ss]ession"):
            await api.close_session("5d0b7a1c-2b1e-4c39-8e4b-0a4f2c5f2f11")
        with pytest.raises(ValueError, match=r"[Ss]ession"):
            await api.stop_session("", "a-session-token")
        return caught.value.status, caught.value.response_text

    async def run() -> None:
        async with side_by_side(pipecat) as (recorder, theirs, ours):
            recorder.refusal = status, '{"code": 4000, "data": null, "message": "No."}'
            expected = await refused(theirs, pipecat), recorder.taken()
            assert (await refused(ours, liveavatar), recorder.taken()) == expected

    asyncio.run(run())


def test_where_they_differ_is_what_the_documentation_says(pipecat: ModuleType) -> None:
    """A request that does not say how its video is to be encoded."""

    async def run() -> None:
        async with side_by_side(pipecat) as (recorder, theirs, ours):
            for settings, expected in ((..., {"quality": "high"}), (None, {})):
                for api, module, encoding in ((theirs, pipecat, "H264"), (ours, liveavatar, "VP8")):
                    fields = {"avatar_id": WAYNE} | ({} if settings is ... else {"video_settings": settings})
                    await api.create_session_token(made(module, fields))
                    ((_, _, body),) = recorder.taken()
                    assert isinstance(body, dict)
                    assert body["video_settings"] == {"encoding": encoding, **expected}

    asyncio.run(run())


class TestHeyGenClient:
    """Pipecat's HeyGenClient and HeyGenVideoService, up to the room, which the mock server does not have."""

    @contextlib.asynccontextmanager
    async def client(self, heygen: ModuleType, key: str, **options: Any) -> AsyncIterator[Any]:
        async def nothing(*_: object) -> None:
            pass

        names = ("on_connected", "on_participant_connected", "on_participant_disconnected")
        transport = importlib.import_module("pipecat.transports.base_transport")
        task_manager = importlib.import_module("pipecat.utils.asyncio.task_manager").TaskManager()
        setup = SimpleNamespace(task_manager=task_manager, audio_in_sample_rate=16000, audio_out_sample_rate=24000)
        async with aiohttp.ClientSession() as session:
            client = heygen.HeyGenClient(
                api_key=key,
                session=session,
                params=transport.TransportParams(),
                callbacks=heygen.HeyGenCallbacks(**dict.fromkeys(names, nothing)),
                service_type=heygen.ServiceType.LIVE_AVATAR,
                **options,
            )
            await client.setup(setup)
            try:
                yield client
            finally:
                await client.cleanup()

    def test_it_opens_and_closes_through_us(self, heygen: ModuleType, service: MockServer) -> None:
        request = liveavatar.LiveAvatarNewSessionRequest(avatar_id=WAYNE, is_sandbox=True)

        async def run() -> None:
            async with self.client(heygen, service.api_key, session_request=request) as client:
                assert isinstance(client._api, liveavatar.AsyncLiveAvatarApi)
                assert [session.avatar_id for session in service.sessions] == [WAYNE]
                assert service.running_sessions == list(client._api.open_sessions)
                assert len(service.running_sessions) == 1

        asyncio.run(run())
        assert service.running_sessions == []
        assert service.requests == {"token": 1, "start": 1, "stop": 1}

    def test_without_a_request_it_makes_one_of_ours(self, heygen: ModuleType, service: MockServer) -> None:
        async def run() -> None:
            async with self.client(heygen, service.api_key):
                assert len(service.running_sessions) == 1

        asyncio.run(run())
        assert service.running_sessions == []


@pytest.mark.parametrize("ended_by", ["itself", signal.SIGINT, signal.SIGTERM])
def test_the_example_leaves_no_session(ended_by: str | signal.Signals, service: MockServer) -> None:
    needed("pipecat.services.heygen.client")
    seconds = "0.5" if ended_by == "itself" else "60"
    with subprocess.Popen(
        [sys.executable, EXAMPLE, seconds], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as example:
        if isinstance(ended_by, signal.Signals):
            while not service.running_sessions:
                assert example.poll() is None
                time.sleep(0.02)
            example.send_signal(ended_by)
        text, log = example.communicate(timeout=60)
    assert (example.returncode, text) == (0, "closed\n"), log
    assert not re.search("eyJ|token=", log)
    assert service.requests == {"token": 1, "start": 1, "stop": 1}
    assert service.running_sessions == []
