"""The requests of further clients, as they arrive at the service: programs that have no package of their own."""

from __future__ import annotations

from typing import Any

import httpx
from liveavatar.mock import MockServer

from .operations import SANDBOX_AVATAR, operation

UNKNOWN_ID = "00000000-0000-0000-0000-000000000000"
PERSONA = {"voice_id": "7f3ee8b1-b2a7-4b0a-bd2f-2a8f3f3c51ab", "context_id": None, "language": "en"}
OWN_ROOM = {"livekit_url": "wss://own.invalid", "livekit_room": "lobby", "livekit_client_token": "room-token"}
OPTIONAL_FIELDS = (
    "video_settings",
    "max_session_duration",
    "livekit_config",
    "agora_config",
    "elevenlabs_agent_config",
    "openai_realtime_config",
    "gemini_realtime_config",
)


class Program:
    """One program's requests to the session endpoints."""

    def __init__(self, service: MockServer, *, always_key: bool = False, key_header: str = "X-API-KEY") -> None:
        self.key = {key_header: service.api_key}
        self.http = httpx.AsyncClient(base_url=service.base_url, headers=self.key if always_key else {})
        self.session_id = ""
        self.bearer: dict[str, str] = {}

    async def __aenter__(self) -> Program:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def send(self, method: str, path: str, *expected: int, **options: Any) -> Any:
        """Send a request, require one of the statuses and return the response's data.

        Raises:
            AssertionError: the status is another one, or a success is not in the service's envelope.
        """
        response = await self.http.request(method, path, **options)
        assert response.status_code in (expected or (200, 201)), f"{path}: {response.status_code} {response.text}"
        body = response.json()
        assert response.is_error or body["code"] == 1000, f"{path}: code {body['code']}"
        return body["data"] if response.is_success else body

    async def token(self, *expected: int, **body: Any) -> Any:
        """Create a session token; the avatar is the sandbox avatar."""
        body = {"avatar_id": SANDBOX_AVATAR, **body}
        data = await self.send("POST", "/sessions/token", *expected, json=body, headers=self.key)
        if "session_id" in data:
            self.session_id = data["session_id"]
            self.bearer = {"Authorization": f"Bearer {data['session_token']}"}
        return data

    async def start(self, *expected: int, **options: Any) -> Any:
        """Start the session with its token."""
        return await self.send("POST", "/sessions/start", *expected, headers=self.bearer, **options)

    async def stop(self, headers: dict[str, str] | None = None, **options: Any) -> Any:
        """Stop the session, by its token unless other headers are given."""
        headers = self.bearer if headers is None else headers
        return await self.send("POST", "/sessions/stop", headers=headers, **options)


STARTER = "HeyGen's Python starter"
BROWSER = "HeyGen's browser demo"
SERVER = "a web backend"


@operation(STARTER, "key and token together, stop by both")
async def starter(service: MockServer) -> None:
    async with Program(service, always_key=True) as program:
        await program.token(mode="LITE", is_sandbox=False, video_settings={"quality": "high", "encoding": "H264"})
        session = await program.start(json={})
        assert session["ws_url"]
        assert session["livekit_agent_token"]
        await program.stop(json={"session_id": program.session_id, "reason": "USER_CLOSED"})


@operation(STARTER, "own room, stop by key")
async def starter_own_room(service: MockServer) -> None:
    async with Program(service, always_key=True) as program:
        await program.token(mode="LITE", livekit_config=OWN_ROOM)
        session = await program.start(json={})
        assert session["ws_url"].startswith("wss://")
        await program.stop({}, json={"session_id": program.session_id, "reason": "USER_CLOSED"})


@operation(BROWSER, "CUSTOM, stop without a body")
async def browser_custom(service: MockServer) -> None:
    async with Program(service, key_header="x-api-key") as program:
        await program.token(mode="CUSTOM")
        await program.start(content=b"")
        await program.stop()
    assert [session.end_reason for session in service.sessions] == ["USER_CLOSED"]


@operation(BROWSER, "FULL with persona, stop with a reason")
async def browser_full(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(mode="FULL", avatar_persona=PERSONA, interactivity_type="CONVERSATIONAL")
        session = await program.start()
        assert session.get("ws_url") is None
        await program.send("POST", "/sessions/keep-alive", headers=program.bearer)
        await program.stop(json={"reason": "USER_CLOSED"})


@operation(BROWSER, "fields of another version (video_quality, system_prompt)")
async def browser_unknown_fields(service: MockServer) -> None:
    async with Program(service) as program:
        persona = {"language": "fr", "system_prompt": "You are a receptionist."}
        await program.token(mode="FULL", avatar_persona=persona, video_quality="high")
        await program.start()
        await program.stop(json={"session_id": program.session_id})


@operation(SERVER, "no mode: LITE by shape")
async def no_mode_lite(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token()
        session = await program.start()
        assert session["ws_url"]
        await program.stop()


@operation(SERVER, "no mode: FULL by shape")
async def no_mode_full(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(avatar_persona=PERSONA)
        await program.start()
        await program.stop()
    assert [session.mode for session in service.sessions] == ["FULL"]


@operation(SERVER, "null in every optional field")
async def nulls(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(mode="LITE", is_sandbox=True, **dict.fromkeys(OPTIONAL_FIELDS))
        session = await program.start()
        assert session["max_session_duration"] == 60
        await program.stop()


@operation(SERVER, "null in FULL's optional fields")
async def nulls_full(service: MockServer) -> None:
    async with Program(service) as program:
        persona = {**PERSONA, "voice_settings": None, "stt_config": None}
        await program.token(mode="FULL", avatar_persona=persona, memory=None, video_settings=None)
        await program.start()
        await program.stop()


@operation(SERVER, "quality without encoding")
async def quality_alone(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(mode="LITE", video_settings={"quality": "high"})
        await program.start()
        headers = {**program.key, "Content-Type": "application/json; charset=utf-8"}
        await program.stop(headers, json={"session_id": program.session_id})


@operation(SERVER, "a connector: no ws_url")
async def connector(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(
            mode="LITE", elevenlabs_agent_config={"secret_id": PERSONA["voice_id"], "agent_id": "agent"}
        )
        session = await program.start()
        assert session.get("ws_url") is None
        await program.stop()


@operation(SERVER, "longer than the sandbox allows: 400")
async def too_long(service: MockServer) -> None:
    async with Program(service) as program:
        body = await program.token(400, mode="LITE", is_sandbox=True, max_session_duration=600)
        assert body["code"] == 4000
        assert "exceeds the maximum allowed (60s)" in body["message"]


@operation(SERVER, "unknown LLM configuration: 400 at the start")
async def unknown_llm(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(mode="FULL", avatar_persona=PERSONA, llm_configuration_id=UNKNOWN_ID)
        await program.start(400)


@operation(SERVER, "keep-alive by token and by key; without an id 400")
async def keep_alive(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(mode="LITE")
        await program.start()
        path, body = "/sessions/keep-alive", {"session_id": program.session_id}
        await program.send("POST", path, headers=program.bearer)
        await program.send("POST", path, headers=program.bearer, json=body)
        await program.send("POST", path, headers=program.key, json=body)
        await program.send("POST", path, 400, headers=program.key, json={})
        await program.stop()


@operation(SERVER, "stops every active session first", max_concurrent=1)
async def stop_all_first(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(mode="LITE")
        await program.start()
        page = await program.send("GET", "/sessions", params={"type": "active"}, headers=program.key)
        for entry in page["results"]:
            session_id = entry.get("session_id") or entry.get("id")
            await program.stop(program.key, json={"session_id": session_id})
        await program.token(mode="LITE")
        await program.start()
        await program.stop()


@operation(SERVER, "DELETE of a session: 405, it goes on")
async def delete_session(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(mode="LITE")
        await program.start()
        await program.send("DELETE", f"/sessions/{program.session_id}", 405, headers=program.key)
        assert service.running_sessions == [program.session_id]
        await program.stop()


@operation(SERVER, "credits, transcript and events after the end")
async def afterwards(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(mode="FULL", avatar_persona=PERSONA)
        await program.start()
        await program.stop()
        session = f"/sessions/{program.session_id}"
        entry = await program.send("GET", session, headers=program.key)
        assert entry["credits_consumed"] >= 0
        transcript = await program.send("GET", f"{session}/transcript", headers=program.key)
        assert transcript["session_active"] is False
        page = await program.send("GET", "/sessions", params={"type": "historic", "page_size": 1}, headers=program.key)
        assert page["results"][0]["end_reason"] == "USER_CLOSED"
        await program.send("DELETE", f"{session}/events", headers=program.key)


@operation(SERVER, "a session token cannot create, a key cannot start: 401")
async def wrong_credential(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(mode="LITE")
        await program.send("POST", "/sessions/token", 401, headers=program.bearer, json={"avatar_id": SANDBOX_AVATAR})
        await program.send("POST", "/sessions/start", 401, headers=program.key)


@operation(
    BROWSER, "a page of an allowed origin, with the SDK's credentials mode", allow_origins=["http://localhost:3000"]
)
async def browser_page(service: MockServer) -> None:
    origin = {"Origin": "http://localhost:3000"}
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    async with Program(service) as program:
        await program.token(mode="LITE")
        for path in ("/sessions/start", "/sessions/keep-alive", "/sessions/stop"):
            asked = await program.http.options(path, headers=origin | preflight)
            assert asked.is_success, f"preflight of {path}: {asked.status_code}"
            sent = await program.http.post(path, headers=origin | program.bearer)
            assert sent.is_success, f"{path}: {sent.status_code}"
            for response in (asked, sent):
                allowed = response.headers.get("Access-Control-Allow-Origin")
                assert allowed == origin["Origin"], f"{path}: allowed is {allowed!r}"
                assert response.headers.get("Access-Control-Allow-Credentials") == "true", f"{path}: no credentials"


@operation(SERVER, "credentials in other cases, ids in capitals")
async def spelling(service: MockServer) -> None:
    async with Program(service, key_header="X-Api-Key") as program:
        await program.token(mode="LITE", avatar_id=SANDBOX_AVATAR.upper(), is_sandbox=True)
        token = program.bearer["Authorization"].removeprefix("Bearer ")
        program.bearer = {"authorization": f"bearer {token}"}
        await program.start()
        await program.stop(program.key, json={"session_id": program.session_id.upper()})


@operation(SERVER, "a start with the session's id, without a content type")
async def start_with_id(service: MockServer) -> None:
    async with Program(service) as program:
        await program.token(mode="LITE")
        await program.start(json={"session_id": program.session_id})
        await program.stop(content=b"")


@operation(SERVER, "pages of the list")
async def pages(service: MockServer) -> None:
    async with Program(service) as program:
        for _ in range(3):
            await program.token(mode="LITE")
            await program.start()
        seen: list[str] = []
        for page in (1, 2):
            params = {"type": "active", "page": page, "page_size": 2, "avatar_id": SANDBOX_AVATAR}
            data = await program.send("GET", "/sessions", params=params, headers=program.key)
            assert data["count"] == 3
            seen += [entry["id"] for entry in data["results"]]
        assert sorted(seen) == sorted(service.running_sessions)
        for session_id in seen:
            await program.stop(program.key, json={"session_id": session_id, "reason": "ZOMBIE_SESSION_REAP"})
