"""The mock server, seen through a real socket."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt
import pytest
from liveavatar import mock
from liveavatar.mock import (
    ContractError,
    MockServer,
    Settings,
    _app,
    _contract,
    _endpoints,
    _sessions,
    create_app,
    mock_server,
)
from liveavatar.mock.__main__ import main
from liveavatar.mock._settings import SettingsKeywords

from tests import processes

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
CONTEXT = "c81d25e6-7a3f-4d09-8e4b-1f60a2b9c5d7"
WAYNE = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
NIL = str(uuid.UUID(int=0))
LITE: dict[str, Any] = {"mode": "LITE", "avatar_id": AVATAR}
FULL: dict[str, Any] = {"mode": "FULL", "avatar_id": AVATAR, "avatar_persona": {"context_id": CONTEXT}}
TRIAL: dict[str, Any] = {"mode": "LITE", "avatar_id": WAYNE, "is_sandbox": True}
ROOM = {"livekit_url": "wss://rooms.example.com", "livekit_room": "desk", "livekit_client_token": "ROOM-TOKEN"}
OWN_ROOM: dict[str, Any] = LITE | {"livekit_config": ROOM}
AGORA = {"agora_app_id": "a", "agora_token": "AGORA-TOKEN", "agora_channel": "c", "agora_uid": "1"}
ELEVENLABS = {"secret_id": CONTEXT, "agent_id": "agent"}
FAMILY = {
    "token": ("POST", "/sessions/token"),
    "start": ("POST", "/sessions/start"),
    "stop": ("POST", "/sessions/stop"),
    "keep-alive": ("POST", "/sessions/keep-alive"),
    "list": ("GET", "/sessions?type=active"),
    "get": ("GET", f"/sessions/{AVATAR}"),
    "transcript": ("GET", f"/sessions/{AVATAR}/transcript"),
    "delete-events": ("DELETE", f"/sessions/{AVATAR}/events"),
}


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.25

    def __call__(self) -> float:
        return self.now


class Caller:
    """A plain HTTP client of one mock server."""

    def __init__(self, service: MockServer) -> None:
        self.service = service
        self.http = httpx.Client(base_url=service.base_url, trust_env=False, verify=False)

    def post(self, endpoint: str, *, key: str = "", token: str = "", **body: Any) -> httpx.Response:
        headers = {"X-API-KEY": key} if key else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return self.http.post(f"/sessions/{endpoint}", headers=headers, **body)

    def get(self, path: str = "", **params: Any) -> httpx.Response:
        return self.http.get(f"/sessions{path}", headers={"X-API-KEY": self.service.api_key}, params=params)

    def data(self, path: str = "", **params: Any) -> Any:
        response = self.get(path, **params)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def token(self, request: object = LITE) -> httpx.Response:
        return self.post("token", key=self.service.api_key, json=request)

    def create(self, request: object = LITE) -> tuple[str, str]:
        response = self.token(request)
        assert response.status_code == 200, response.text
        return response.json()["data"]["session_id"], response.json()["data"]["session_token"]

    def start(self, token: str) -> httpx.Response:
        return self.post("start", token=token)

    def room(self, request: object = LITE) -> Any:
        return self.start(self.create(request)[1]).json()["data"]

    def open(self, request: object = LITE) -> tuple[str, str]:
        session_id, token = self.create(request)
        assert self.start(token).status_code == 201
        return session_id, token


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Iterator[Any]:
    """Make callers of mock servers with the settings that a test names."""
    opened: list[Caller] = []

    def caller(**settings: Any) -> Caller:
        opened.append(Caller(MockServer(**({"clock": clock} | settings)).__enter__()))
        return opened[-1]

    yield caller
    for each in opened:
        each.http.close()
        each.service.__exit__(None, None, None)


@pytest.fixture
def caller(make: Any) -> Caller:
    """A caller of a mock server with the default settings."""
    result: Caller = make()
    return result


@pytest.fixture(scope="module")
def refused() -> Iterator[Caller]:
    """A caller whose requests all fail, so that many tests can share it."""
    with mock_server() as service:
        caller = Caller(service)
        yield caller
        caller.http.close()
        assert service.sessions == []


def is_error(response: httpx.Response, status: int, words: str) -> bool:
    envelope = response.json()
    assert response.status_code == status, response.text
    assert set(envelope) == {"code", "data", "message"}
    assert 4000 <= envelope["code"] < 5000
    assert words in envelope["message"]
    return True


def state(caller: Caller, session_id: str) -> tuple[str, str | None]:
    return next((each.state, each.end_reason) for each in caller.service.sessions if each.id == session_id)


# ---- Token, start, stop ------------------------------------------------------------------------------------


def test_life(caller: Caller) -> None:
    """A session is created, started and stopped."""
    session_id, token = caller.create()
    assert state(caller, session_id) == ("created", None)

    started = caller.start(token)
    assert started.status_code == 201
    assert started.json()["code"] == 1000
    assert started.json()["data"]["session_id"] == session_id
    assert caller.service.running_sessions == [session_id]

    body = {"session_id": session_id, "reason": "USER_DISCONNECTED"}
    stopped = caller.post("stop", token=token, json=body)
    assert stopped.status_code == 200
    assert stopped.json() == {"code": 1000, "data": None, "message": "Success"}
    assert state(caller, session_id) == ("ended", "USER_DISCONNECTED")
    assert caller.service.running_sessions == []
    assert caller.service.requests == {"token": 1, "start": 1, "stop": 1}


def test_lite_room(caller: Caller) -> None:
    """A LITE session gets a room, a token for the caller's agent, and a socket for events."""
    data = caller.room()
    assert data["ws_url"].startswith("wss://")
    assert data["livekit_agent_token"].count(".") == data["livekit_client_token"].count(".") == 2
    assert data["livekit_url"].startswith("wss://")
    assert data["max_session_duration"] == 1200


def test_full_room(caller: Caller) -> None:
    """A FULL session has neither an agent token nor a socket."""
    data = caller.room(FULL)
    assert data["ws_url"] is None
    assert data["livekit_agent_token"] is None
    assert data["livekit_client_token"].count(".") == 2


def test_own_room(caller: Caller) -> None:
    """The caller's own room comes back in the response, with a socket and without an agent token."""
    data = caller.room(OWN_ROOM)
    assert data["livekit_url"] == "wss://rooms.example.com"
    assert data["livekit_client_token"] == "ROOM-TOKEN"
    assert data["ws_url"].startswith("wss://")
    assert data["livekit_agent_token"] is None
    assert caller.room(LITE | {"agora_config": AGORA})["ws_url"].startswith("wss://")


@pytest.mark.parametrize(
    "connector",
    [
        {"elevenlabs_agent_config": ELEVENLABS},
        {"openai_realtime_config": {"secret_id": CONTEXT}},
        {"gemini_realtime_config": {"secret_id": CONTEXT}},
        {"cartesia_agent_config": {"secret_id": CONTEXT}},
        {"elevenlabs_agent_config": ELEVENLABS, "livekit_config": ROOM},
    ],
)
def test_connector(caller: Caller, connector: dict[str, Any]) -> None:
    """A connector leads the conversation, so the session has no socket."""
    assert caller.room(LITE | connector)["ws_url"] is None


@pytest.mark.parametrize(
    ("request_", "mode"),
    [
        (LITE | {"mode": "CUSTOM"}, "LITE"),
        ({"avatar_id": AVATAR}, "LITE"),
        ({"avatar_id": AVATAR, "livekit_config": ROOM}, "LITE"),
        ({"avatar_id": AVATAR, "avatar_persona": {}}, "FULL"),
        ({"avatar_id": AVATAR, "avatar_persona": None}, "LITE"),
        ({"avatar_id": AVATAR, "voice_agent": {"id": CONTEXT}}, "FULL"),
    ],
)
def test_mode(caller: Caller, request_: dict[str, Any], mode: str) -> None:
    """CUSTOM is the old name of LITE, and a request without a mode has that of its shape."""
    caller.create(request_)
    assert [each.mode for each in caller.service.sessions] == [mode]


NULLABLE = [
    "video_settings", "is_sandbox", "avatar_persona", "livekit_config", "max_session_duration", "agora_config",
    "elevenlabs_agent_config", "openai_realtime_config", "gemini_realtime_config", "voice_agent",
    "interactivity_type", "llm_configuration_id", "dynamic_variables", "memory",
]  # fmt: skip


def test_null(caller: Caller) -> None:
    """Null in a request means that the field is not given."""
    data = caller.room(LITE | dict.fromkeys(NULLABLE))
    assert data["ws_url"].startswith("wss://")
    assert data["max_session_duration"] == 1200
    nested = FULL | {"avatar_persona": {"voice_settings": None, "stt_config": None}, "memory": None}
    assert caller.token(nested).status_code == 200


@pytest.mark.parametrize("settings", [{}, {"quality": "low"}, {"encoding": "VP8"}])
def test_video_settings(caller: Caller, settings: dict[str, str]) -> None:
    """Encoding and quality of the video have defaults."""
    assert caller.token(LITE | {"video_settings": settings}).status_code == 200


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({}, "USER_CLOSED"),
        ({"headers": {"Content-Type": "application/json"}}, "USER_CLOSED"),
        ({"json": {}}, "UNKNOWN"),
        ({"json": {"reason": "AGENT_HANG_UP"}}, "AGENT_HANG_UP"),
    ],
)
def test_stop_reason(caller: Caller, sent: dict[str, Any], reason: str) -> None:
    """USER_CLOSED is the default of the whole body, UNKNOWN that of an object without a reason."""
    session_id, token = caller.open()
    headers = {"Authorization": f"Bearer {token}"} | sent.pop("headers", {})
    assert caller.http.post("/sessions/stop", headers=headers, **sent).status_code == 200
    assert state(caller, session_id) == ("ended", reason)


@pytest.mark.parametrize("endpoint", ["stop", "keep-alive"])
def test_session_id_with_a_key(caller: Caller, endpoint: str) -> None:
    """A call with the API key needs the id of the session."""
    session_id, _ = caller.open()
    key = caller.service.api_key
    assert is_error(caller.post(endpoint, key=key), 400, "session_id")
    assert is_error(caller.post(endpoint, key=key, json={}), 400, "session_id")
    assert caller.post(endpoint, key=key, json={"session_id": session_id.upper()}).status_code == 200


@pytest.mark.parametrize("body", [{}, {"session_id": AVATAR}, "text"])
def test_start_ignores_a_body(caller: Caller, body: object) -> None:
    """A start has no body, and ignores one."""
    _, token = caller.create()
    assert caller.post("start", token=token, json=body).status_code == 201


def test_token_claims(caller: Caller) -> None:
    """The session token tells a web client the mode and the connector of the session."""

    def claim(request: dict[str, Any]) -> Any:
        token = caller.create(request)[1]
        return jwt.decode(token, options={"verify_signature": False})["start_session_data"]

    assert claim(LITE) == {"mode": "LITE", "agent_type": None}
    assert claim(LITE | {"mode": "CUSTOM"})["mode"] == "LITE"
    assert claim(FULL) == {"mode": "FULL", "agent_type": "FULL"}
    assert claim(LITE | {"elevenlabs_agent_config": ELEVENLABS}) == {
        "mode": "LITE",
        "agent_type": "ELEVENLABS_AGENT",
        "elevenlabs_agent_config": ELEVENLABS,
    }


# ---- Credentials -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", FAMILY)
@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "missing"),
        ({"X-API-KEY": "wrong"}, "API key"),
        ({"Authorization": "Bearer mock-key"}, "token"),
        ({"Authorization": "Bearer"}, "token"),
        ({"Authorization": "Basic c2FuZA=="}, "Bearer"),
        ({"X-API-KEY": "wrong", "Authorization": "Bearer x"}, "not valid"),
    ],
)
def test_wrong_credential(refused: Caller, endpoint: str, headers: dict[str, str], words: str) -> None:
    """A wrong credential is refused with 401, and the request is counted."""
    method, path = FAMILY[endpoint]
    before = refused.service.requests.get(endpoint, 0)
    assert is_error(refused.http.request(method, path, headers=headers), 401, words)
    assert refused.service.requests[endpoint] == before + 1


def test_own_credential(caller: Caller) -> None:
    """The API key does not start a session, and a session token does nothing else than handle its session."""
    session_id, token = caller.create()
    assert is_error(caller.post("start", key=caller.service.api_key), 401, "not an API key")
    for name in ("token", "list", "get", "transcript", "delete-events"):
        method, path = FAMILY[name]
        response = caller.http.request(method, path, headers={"Authorization": f"Bearer {token}"})
        assert is_error(response, 401, "not a session token"), name
    assert state(caller, session_id) == ("created", None)


@pytest.mark.parametrize("key", ["mock-key", "wrong"])
def test_both_credentials(caller: Caller, key: str) -> None:
    """With both credentials, start, keep-alive and stop mean the session of the token."""
    other, _ = caller.open()
    session_id, token = caller.create()
    both: dict[str, str] = {"key": key, "token": token}
    assert caller.post("start", **both).json()["data"]["session_id"] == session_id
    assert caller.post("keep-alive", **both).status_code == 200
    assert is_error(caller.post("stop", **both, json={"session_id": other}), 403, "another session")
    assert caller.post("stop", **both, json={"session_id": session_id}).status_code == 200
    assert caller.service.running_sessions == [other]


def test_key_beside_a_token(caller: Caller) -> None:
    """With both credentials, the endpoints that take the API key use it."""
    session_id, token = caller.open()
    headers = {"X-API-KEY": caller.service.api_key, "Authorization": f"Bearer {token}"}
    assert caller.http.post("/sessions/token", headers=headers, json=LITE).status_code == 200
    assert caller.http.get(f"/sessions/{session_id}", headers=headers).status_code == 200


def test_api_keys(make: Any) -> None:
    """Several API keys can be accepted."""
    caller = make(api_keys=["first", "second"])
    assert caller.service.api_key == "first"
    assert caller.post("token", key="second", json=LITE).status_code == 200
    assert is_error(caller.post("token", key="mock-key", json=LITE), 401, "not valid")


def test_token_lifetime(make: Any, clock: Clock) -> None:
    """A session token expires."""
    caller = make(token_lifetime=30)
    _, token = caller.create()
    clock.now += 31
    assert is_error(caller.start(token), 401, "expired")


def test_foreign_tokens(caller: Caller, make: Any) -> None:
    """The token of another service and the token of a room start nothing."""
    _, foreign = make().create()
    assert is_error(caller.start(foreign), 401, "not valid")
    assert is_error(caller.start(caller.room()["livekit_client_token"]), 401, "not valid")


@pytest.mark.parametrize("endpoint", ["stop", "keep-alive"])
def test_token_of_another_session(caller: Caller, endpoint: str) -> None:
    """A session token is valid for its own session only."""
    first, _ = caller.open()
    _, token = caller.open()
    assert is_error(caller.post(endpoint, token=token, json={"session_id": first}), 403, "another session")


# ---- States ------------------------------------------------------------------------------------------------


def test_start_twice(caller: Caller) -> None:
    """A session starts once."""
    _, token = caller.open()
    assert is_error(caller.start(token), 409, "already")
    caller.post("stop", token=token)
    assert is_error(caller.start(token), 409, "already")


def test_stop_twice(caller: Caller) -> None:
    """A session stops once."""
    _, token = caller.open()
    assert caller.post("stop", token=token).status_code == 200
    assert is_error(caller.post("stop", token=token), 409, "already")


def test_stop_before_start(caller: Caller) -> None:
    """A session that never started can be stopped, and then does not start."""
    session_id, token = caller.create()
    assert caller.post("stop", token=token).status_code == 200
    assert is_error(caller.start(token), 409, "already")
    assert caller.service.sessions[0].id == session_id
    assert caller.service.sessions[0].credits == 0


def test_not_found(refused: Caller) -> None:
    """Unknown sessions, avatars and paths are 404."""
    key = refused.service.api_key
    for endpoint in ("stop", "keep-alive"):
        assert is_error(refused.post(endpoint, key=key, json={"session_id": AVATAR}), 404, AVATAR)
    for name in ("get", "transcript", "delete-events"):
        method, path = FAMILY[name]
        assert is_error(refused.http.request(method, path, headers={"X-API-KEY": key}), 404, AVATAR)
    assert is_error(refused.token(LITE | {"avatar_id": NIL}), 404, "Avatar")
    assert is_error(refused.post("pause"), 405, "")
    assert is_error(refused.http.get("/avatars"), 404, "")


def test_method_not_allowed(caller: Caller) -> None:
    """DELETE of a session is a 405, and the session goes on."""
    session_id, _ = caller.open()
    response = caller.http.delete(f"/sessions/{session_id}", headers={"X-API-KEY": caller.service.api_key})
    assert is_error(response, 405, "")
    assert "GET" in response.headers["allow"]
    assert caller.service.running_sessions == [session_id]
    for method in ("GET", "PUT", "DELETE"):
        assert is_error(caller.http.request(method, "/sessions/token"), 405, "")


def test_avatar_ids(make: Any) -> None:
    """With a list of avatars, others do not exist; that of the free trial always does."""
    caller = make(avatar_ids=[AVATAR.upper()])
    assert caller.token().status_code == caller.token(TRIAL).status_code == 200
    assert is_error(caller.token(LITE | {"avatar_id": CONTEXT}), 404, CONTEXT)


def test_llm_configuration(caller: Caller) -> None:
    """An unknown LLM configuration is refused when the session starts."""
    session_id, token = caller.create(FULL | {"llm_configuration_id": NIL})
    assert is_error(caller.start(token), 400, "LLM configuration")
    assert state(caller, session_id) == ("created", None)
    assert caller.room(FULL | {"llm_configuration_id": CONTEXT})


def test_trial(caller: Caller, clock: Clock) -> None:
    """A free trial session ends after a minute and costs nothing."""
    session_id, token = caller.create(TRIAL)
    assert caller.start(token).json()["data"]["max_session_duration"] == 60
    clock.now += 59.9
    assert state(caller, session_id) == ("running", None)
    clock.now += 0.1
    assert state(caller, session_id) == ("ended", "MAX_DURATION_REACHED")
    assert is_error(caller.post("stop", token=token), 409, "already")
    assert caller.service.sessions[0].credits == 0


def test_trial_avatar(refused: Caller) -> None:
    """The free trial works with its own avatar only."""
    assert is_error(refused.token(LITE | {"is_sandbox": True}), 400, WAYNE)


@pytest.mark.parametrize(("request_", "longest"), [(LITE, 300), (TRIAL, 60)])
def test_duration_above_the_limit(make: Any, request_: dict[str, Any], longest: int) -> None:
    """A duration above the limit is refused with code 4000, and the message names both."""
    caller = make(max_session_duration=300)
    response = caller.token(request_ | {"max_session_duration": 600})
    assert is_error(response, 400, f"max_session_duration (600s) exceeds the maximum allowed ({longest}s)")
    assert response.json()["code"] == 4000
    assert caller.room(request_ | {"max_session_duration": longest})["max_session_duration"] == longest


def test_maximum_duration(make: Any, clock: Clock) -> None:
    """A session ends at its maximum duration, however often it is kept alive."""
    caller = make(max_session_duration=120)
    short, token = caller.create(LITE | {"max_session_duration": 10})
    assert caller.start(token).json()["data"]["max_session_duration"] == 10
    long, _ = caller.open()
    clock.now += 9
    assert caller.post("keep-alive", token=token).status_code == 200
    clock.now += 1
    assert state(caller, short) == ("ended", "MAX_DURATION_REACHED")
    assert caller.service.running_sessions == [long]


# ---- Idle sessions -----------------------------------------------------------------------------------------


def test_idle_timeout(make: Any, clock: Clock) -> None:
    """A session ends when it has been idle for too long, unless that is switched off."""
    idle, patient = make(), make(idle_timeout=None)
    session_id, _ = idle.open()
    other, _ = patient.open()
    clock.now += 300
    assert state(idle, session_id) == ("ended", "IDLE_TIMEOUT")
    assert state(patient, other) == ("running", None)


def test_keep_alive(caller: Caller, clock: Clock) -> None:
    """The idle time counts from the last keep-alive."""
    session_id, token = caller.open()
    quiet, _ = caller.open()
    for sent in (
        {"token": token},
        {"token": token, "json": {}},
        {"key": "mock-key", "json": {"session_id": session_id}},
    ):
        clock.now += 200
        response = caller.post("keep-alive", **sent)
        assert response.status_code == 200
        assert response.json() == {"code": 1000, "data": None, "message": "Success"}
        assert caller.service.sessions[0].idle == 0
    assert state(caller, quiet) == ("ended", "IDLE_TIMEOUT")
    clock.now += 299
    assert caller.service.sessions[0].idle == 299
    assert caller.service.running_sessions == [session_id]
    clock.now += 1
    assert state(caller, session_id) == ("ended", "IDLE_TIMEOUT")
    assert caller.service.sessions[0].seconds == 900
    assert caller.service.requests == {"token": 2, "start": 2, "stop": 0, "keep-alive": 3}


def test_keep_alive_of_a_session_that_does_not_run(caller: Caller) -> None:
    """A session that has not started or has ended cannot be kept alive."""
    _, token = caller.create()
    assert is_error(caller.post("keep-alive", token=token), 409, "not started")
    caller.post("stop", token=token)
    assert is_error(caller.post("keep-alive", token=token), 409, "already ended")


# ---- Credits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("request_", "per_minute"), [(FULL, 2), (LITE, 1), (TRIAL, 0)])
def test_price(caller: Caller, clock: Clock, request_: dict[str, Any], per_minute: int) -> None:
    """Every minute that has begun costs the price of the mode."""
    _, token = caller.create(request_)
    clock.now += 500
    assert caller.service.sessions[0].credits == 0
    caller.start(token)
    assert caller.service.sessions[0].credits == per_minute
    clock.now += 59
    caller.post("stop", token=token)
    clock.now += 500
    assert caller.service.sessions[0].credits == per_minute
    assert caller.service.sessions[0].seconds == 59

    _, token = caller.open(FULL)
    clock.now += 60.5
    caller.post("stop", token=token)
    assert caller.service.sessions[1].credits == 4


def test_no_credits_at_start(make: Any, clock: Clock) -> None:
    """A session starts only with credits for a minute."""
    caller = make(credits=2)
    _, token = caller.open()
    assert is_error(caller.start(caller.create(FULL)[1]), 402, "credits")
    clock.now += 90
    caller.post("stop", token=token)
    assert is_error(caller.start(caller.create()[1]), 402, "credits")
    assert caller.start(caller.create(TRIAL)[1]).status_code == 201


def test_credits_run_out(make: Any, clock: Clock) -> None:
    """When the credits run out, running sessions end with NO_CREDITS at the minute that they cannot pay."""
    caller = make(credits=5, idle_timeout=None)
    first, _ = caller.open()
    clock.now += 30
    second, _ = caller.open(FULL)
    trial, _ = caller.open(TRIAL)
    clock.now += 29
    assert caller.service.running_sessions == [first, second, trial]
    clock.now += 500
    assert state(caller, first) == ("ended", "NO_CREDITS")
    assert state(caller, second) == ("ended", "NO_CREDITS")
    assert state(caller, trial) == ("ended", "MAX_DURATION_REACHED")
    # The first pays for a second minute at 60 s; then one credit is left, too little for the second at 90 s.
    assert [(each.seconds, each.credits) for each in caller.service.sessions[:2]] == [(180, 3), (60, 2)]
    assert is_error(caller.start(caller.create()[1]), 402, "0 left")


def test_unused_credits_come_back(make: Any, clock: Clock) -> None:
    """A session that stops exactly at the end of a minute does not pay for the next one."""
    caller = make(credits=2)
    session_id, token = caller.open()
    clock.now += 60
    assert caller.service.running_sessions == [session_id]
    assert caller.post("stop", token=token).status_code == 200
    assert caller.start(caller.create()[1]).status_code == 201


# ---- Limits ------------------------------------------------------------------------------------------------


def test_max_concurrent(make: Any, clock: Clock) -> None:
    """The concurrency limit holds until a session ends, by a stop or by itself."""
    caller = make(max_concurrent=1)
    _, first = caller.open()
    _, second = caller.create()
    assert is_error(caller.start(second), 403, "Concurrency limit")
    caller.post("stop", token=first)
    assert caller.start(second).status_code == 201
    clock.now += 300
    assert caller.open()


LIMITS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def test_rate_limit(make: Any, clock: Clock) -> None:
    """Requests are limited per credential, endpoint and second."""
    caller = make(rate_limit=2, api_keys=["one", "two"])
    first, second, third = (caller.post("token", key="one", json=LITE) for _ in range(3))
    assert first.headers["X-RateLimit-Remaining"] == "1"
    assert second.status_code == 200
    assert is_error(third, 429, "Rate limit")
    assert [third.headers[name] for name in ("Retry-After", *LIMITS)] == ["1", "2", "0", "1"]

    assert caller.post("token", key="two", json=LITE).status_code == 200
    assert caller.start(first.json()["data"]["session_token"]).status_code == 201
    clock.now += 0.75
    assert caller.post("token", key="one", json=LITE).status_code == 200


def test_rate_limit_per_session_token(make: Any) -> None:
    """Calls about a session count per session token."""
    caller = make(rate_limit=2)
    tokens = [caller.open()[1] for _ in range(2)]
    statuses = [caller.post("keep-alive", token=token).status_code for token in tokens for _ in range(3)]
    assert statuses == [200, 200, 429, 200, 200, 429]


def test_rate_limit_headers(make: Any) -> None:
    """Every response of the API reports the rate limit, that of a refused request included."""
    caller = make(rate_limit=100)
    session_id, token = caller.open()
    responses = [
        caller.post("keep-alive", token=token),
        caller.get(type="active"),
        caller.get(f"/{session_id}"),
        caller.get(),
        caller.token({}),
        caller.post("stop", token="wrong"),
        caller.http.get("/avatars"),
        caller.http.put("/sessions/token"),
    ]
    assert [each.status_code for each in responses] == [200, 200, 200, 422, 422, 401, 404, 405]
    assert all(name in each.headers for each in responses for name in LIMITS)


def test_no_rate_limit(caller: Caller) -> None:
    """Nothing is limited by default, and the headers report a limit all the same, as the service does."""
    responses = [caller.token() for _ in range(20)]
    assert {response.status_code for response in responses} == {200}
    assert all(name in each.headers for each in responses for name in LIMITS)


# ---- List --------------------------------------------------------------------------------------------------


def test_list(caller: Caller, clock: Clock) -> None:
    """Active sessions run, historic ones have ended; each comes with its record, the newest first."""
    caller.create()
    first, token = caller.open()
    clock.now += 61
    second, _ = caller.open(FULL)
    caller.post("stop", token=token, json={"reason": "USER_CLOSED"})
    active, historic = caller.data(type="active"), caller.data(type="historic")
    assert (active["count"], active["next"], active["previous"]) == (1, None, None)
    assert active["results"] == [
        {
            "id": second,
            "created_at": "1970-01-01T00:17:41.250000Z",
            "updated_at": "1970-01-01T00:17:41.250000Z",
            "duration": 0,
            "source": "API",
            "mode": "FULL",
            "is_sandbox": False,
            "credits_consumed": 2,
        }
    ]
    assert historic["count"] == 1
    (entry,) = historic["results"]
    assert (entry["id"], entry["duration"], entry["credits_consumed"]) == (first, 61, 2)
    assert (entry["end_at"], entry["end_reason"]) == ("1970-01-01T00:17:41.250000Z", "USER_CLOSED")
    assert datetime.fromisoformat(entry["created_at"]) == datetime.fromtimestamp(1000.25, UTC)


def test_end_reasons(make: Any, clock: Clock) -> None:
    """Historic sessions tell why they ended, and what they cost."""
    caller = make(idle_timeout=100, credits=7)
    caller.open(TRIAL)
    caller.open(LITE | {"max_session_duration": 30})
    caller.open()
    clock.now += 1000
    caller.open(FULL)
    clock.now += 1000
    results = caller.data(type="historic")["results"]
    assert [(each["end_reason"], each["credits_consumed"]) for each in results] == [
        ("IDLE_TIMEOUT", 4),
        ("IDLE_TIMEOUT", 2),
        ("MAX_DURATION_REACHED", 0),
        ("MAX_DURATION_REACHED", 1),
    ]


@pytest.mark.parametrize("kind", ["active", "historic"])
def test_pages(caller: Caller, kind: str) -> None:
    """A list comes in pages that lead to one another."""
    ids = []
    for _ in range(5):
        session_id, token = caller.open()
        ids.append(session_id)
        if kind == "historic":
            caller.post("stop", token=token)
    assert len(caller.data(type=kind)["results"]) == 5
    found, page = [], caller.data(type=kind, page_size=2)
    while True:
        found.append([each["id"] for each in page["results"]])
        assert page["count"] == 5
        if page["next"] is None:
            break
        following = caller.http.get(page["next"], headers={"X-API-KEY": caller.service.api_key}).json()["data"]
        back = caller.http.get(following["previous"], headers={"X-API-KEY": caller.service.api_key}).json()["data"]
        assert back == page
        page = following
    assert found == [ids[:2:-1], ids[2:0:-1], ids[:1]]
    assert caller.data(type=kind, page=9, page_size=2)["results"] == []


def test_filters(caller: Caller) -> None:
    """Filters combine, and count."""
    wayne, _ = caller.open(LITE | {"avatar_id": WAYNE})
    full, _ = caller.open(FULL)
    realtime, _ = caller.open(LITE | {"openai_realtime_config": {"secret_id": AVATAR, "context_id": CONTEXT}})

    def ids(**filters: str) -> list[str]:
        page = caller.data(type="active", page_size=1, **filters)
        rest = caller.data(type="active", **filters)["results"]
        assert page["count"] == len(rest)
        return [each["id"] for each in rest]

    assert ids(avatar_id=WAYNE) == [wayne]
    assert ids(context_id=CONTEXT.upper()) == [realtime, full]
    assert ids(context_id=CONTEXT, avatar_id=WAYNE) == []
    assert ids(embed_id=CONTEXT) == []
    assert ids(colour="red") == [realtime, full, wayne]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({}, "type"),
        ({"type": "all"}, "type"),
        ({"type": "active", "page": "0"}, "page"),
        ({"type": "active", "page": "x"}, "page"),
        ({"type": "active", "page": "9" * 5000}, "page"),
        ({"type": "active", "page_size": "101"}, "page_size"),
    ],
)
def test_wrong_query(refused: Caller, query: dict[str, str], name: str) -> None:
    """A wrong parameter is refused, and named."""
    response = refused.get(**query)
    assert is_error(response, 422, f"query.{name}")
    assert [each["loc"] for each in response.json()["data"]] == [["query", name]]


# ---- One session -------------------------------------------------------------------------------------------


def test_get(caller: Caller, clock: Clock) -> None:
    """The record of a session follows its life."""
    session_id, token = caller.create()
    created = caller.data(f"/{session_id}")
    assert (created["id"], created["duration"], created["credits_consumed"]) == (session_id, 0, 0)
    caller.start(token)
    clock.now += 100.5
    caller.post("keep-alive", token=token)
    running = caller.data(f"/{session_id.upper()}")
    assert (running["duration"], running["credits_consumed"]) == (100, 2)
    assert "end_reason" not in running
    assert running["created_at"] == created["created_at"] < running["updated_at"]
    clock.now += 300
    ended = caller.data(f"/{session_id}")
    assert (ended["end_reason"], ended["duration"]) == ("IDLE_TIMEOUT", 400)
    assert ended["end_at"] == ended["updated_at"] > running["updated_at"]


def test_wrong_id(refused: Caller) -> None:
    """An id that is not a UUID is refused."""
    assert is_error(refused.get("/wayne"), 422, "path.session_id")
    assert is_error(refused.get("/wayne/transcript"), 422, "path.session_id")


def test_transcript(caller: Caller, clock: Clock) -> None:
    """A FULL session has a transcript, which says that it is made up."""
    session_id, token = caller.create(FULL)
    assert caller.data(f"/{session_id}/transcript") == {
        "session_active": False, "next_timestamp": None, "transcript_data": [],
    }  # fmt: skip
    caller.start(token)
    clock.now += 9
    running = caller.data(f"/{session_id}/transcript")
    assert running["session_active"] is True
    assert [each["role"] for each in running["transcript_data"]] == ["avatar", "user"]
    assert [each["relative_timestamp"] for each in running["transcript_data"]] == [2, 6]
    assert [each["absolute_timestamp"] for each in running["transcript_data"]] == [1002, 1006]
    assert all("made up by the mock server" in each["transcript"] for each in running["transcript_data"])

    clock.now += 5
    caller.post("stop", token=token)
    clock.now += 100
    rest = caller.data(f"/{session_id}/transcript", start_timestamp=running["next_timestamp"])
    assert [each["absolute_timestamp"] for each in rest["transcript_data"]] == [1010, 1014]
    assert (rest["session_active"], rest["next_timestamp"]) == (False, None)
    middle = caller.data(f"/{session_id}/transcript", start_timestamp=1003, end_timestamp=1010)
    assert [each["absolute_timestamp"] for each in middle["transcript_data"]] == [1006, 1010]


def test_long_transcript(make: Any, clock: Clock) -> None:
    """A long transcript is read in parts, without a gap."""
    caller = make(idle_timeout=None)
    session_id, _ = caller.open(FULL)
    clock.now += 1200
    seen: list[int] = []
    start: int | None = 0
    while start is not None:
        part = caller.data(f"/{session_id}/transcript", start_timestamp=start)
        seen += [each["relative_timestamp"] for each in part["transcript_data"]]
        start = part["next_timestamp"]
    assert seen == list(range(2, 1201, 4))


def test_no_transcript(caller: Caller, clock: Clock) -> None:
    """A LITE session has no transcript."""
    session_id, _ = caller.open()
    clock.now += 60
    assert caller.data(f"/{session_id}/transcript")["transcript_data"] == []


def test_delete_events(caller: Caller, clock: Clock) -> None:
    """Deleting the events deletes what has been said so far, and nothing else."""
    session_id, _ = caller.open(FULL)
    clock.now += 9
    key = {"X-API-KEY": caller.service.api_key}
    response = caller.http.delete(f"/sessions/{session_id}/events", headers=key)
    assert (response.status_code, response.json()["data"]) == (200, None)
    assert caller.data(f"/{session_id}/transcript")["transcript_data"] == []
    clock.now += 2
    lines = caller.data(f"/{session_id}/transcript")["transcript_data"]
    assert [each["relative_timestamp"] for each in lines] == [10]
    assert caller.service.running_sessions == [session_id]
    assert caller.http.delete(f"/sessions/{session_id}/events", headers=key).status_code == 200


# ---- Hosts, origins, sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:8080", "[::1]", "mine.localhost:9"])
def test_host_of_this_machine(caller: Caller, host: str) -> None:
    """A request may name this machine in any way."""
    assert caller.http.get(caller.service.url, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["example.com", "example.com:8080", "127.0.0.1.example.com", "192.0.2.1", "[2001:db8::1]"]
)
def test_host_of_another_machine(caller: Caller, host: str) -> None:
    """A web page cannot reach the server under a name of its own (DNS rebinding)."""
    for path in ("/", "/sessions.json", "/v1/sessions?type=active"):
        headers = {"Host": host, "X-API-KEY": caller.service.api_key}
        assert is_error(caller.http.get(caller.service.url + path, headers=headers), 421, "this machine")


PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_no_cors(caller: Caller) -> None:
    """By default a web page of another origin may not use the API."""
    origin = {"Origin": "http://localhost:3000"}
    assert caller.http.options("/sessions/start", headers=origin | PREFLIGHT).status_code == 405
    response = caller.http.get(caller.service.url, headers=origin)
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_cors(make: Any) -> None:
    """Origins that are allowed may use the API, with credentials as the service's web SDK does."""
    caller = make(allow_origins=["http://localhost:3000"], rate_limit=9)
    origin = {"Origin": "http://localhost:3000"}
    preflight = caller.http.options("/sessions/start", headers=origin | PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin["Origin"]
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    assert "POST" in preflight.headers["access-control-allow-methods"]
    for token, status in ((caller.create()[1], 201), ("wrong", 401)):
        headers = origin | {"Authorization": f"Bearer {token}"}
        response = caller.http.post("/sessions/start", headers=headers)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == origin["Origin"]
        assert "X-RateLimit-Remaining" in response.headers["access-control-expose-headers"]
    other = {"Origin": "http://localhost:4000"}
    assert caller.http.options("/sessions/start", headers=other | PREFLIGHT).status_code == 400
    assert "access-control-allow-origin" not in caller.http.get(caller.service.url, headers=other).headers


MIB = 1024 * 1024


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 4096):
        yield b" " * 4096


def test_body_limit(caller: Caller) -> None:
    """A body over 1 MiB is refused, whether its length is announced or not; a smaller one is read."""
    headers = {"X-API-KEY": caller.service.api_key}
    for content in (b" " * (MIB + 1), b" " * (3 * MIB), chunks(2 * MIB)):
        response = caller.http.post("/sessions/token", headers=headers, content=content)
        assert is_error(response, 413, str(MIB))
        assert response.json()["code"] == 4130
    _, token = caller.create()
    assert is_error(caller.post("start", token=token, content=b" " * (MIB + 1)), 413, "larger")
    padded = json.dumps(LITE).encode().ljust(MIB)
    assert caller.http.post("/sessions/token", headers=headers, content=padded).status_code == 200


# ---- The contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "loc", "words"),
    [
        ({"mode": "LITE"}, [], "avatar_id"),
        (LITE | {"avatar_id": "x"}, ["avatar_id"], "'x' is not a UUID"),
        (LITE | {"mode": "HALF"}, ["mode"], "'HALF' is not one of LITE, FULL, CUSTOM"),
        (LITE | {"video_settings": {"encoding": "AV1"}}, ["video_settings", "encoding"], "AV1"),
        (LITE | {"livekit_config": {"livekit_url": "wss://x"}}, ["livekit_config"], "required"),
        (LITE | {"max_session_duration": 0}, ["max_session_duration"], "0 is less"),
        ({"mode": "FULL", "avatar_id": AVATAR}, [], "avatar_persona"),
        (FULL | {"voice_agent": {"id": AVATAR}}, [], "exactly one"),
        (FULL | {"dynamic_variables": dict.fromkeys(map(str, range(51)), "")}, ["dynamic_variables"], "50"),
        ([LITE], [], "object"),
        (LITE | {"livekit_config": "wss://x"}, ["livekit_config"], "object"),
        (
            FULL | {"avatar_persona": {"voice_settings": {"provider": "fish", "speed": 5}}},
            ["avatar_persona", "voice_settings", "speed"],
            "5 is greater",
        ),
    ],
)
def test_violation(refused: Caller, body: object, loc: list[str], words: str) -> None:
    """A request that violates the contract is refused, and told where."""
    response = refused.token(body)
    assert is_error(response, 422, words)
    violation = next(each for each in response.json()["data"] if words in each["message"])
    assert violation["loc"] == ["body", *loc]


def test_violation_of_an_object(refused: Caller) -> None:
    """The message about an invalid object does not repeat its content."""
    response = refused.token(LITE | {"agora_config": ["A-SECRET"]})
    assert is_error(response, 422, "object")
    assert "A-SECRET" not in response.text


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000])
def test_not_json(refused: Caller, raw: bytes) -> None:
    """A body that is not JSON is refused."""
    assert is_error(refused.post("token", key=refused.service.api_key, content=raw), 422, "not JSON")


def test_unknown_field(caller: Caller) -> None:
    """A field that the contract does not list is accepted."""
    assert caller.token(LITE | {"mood": "sunny"}).status_code == 200


def test_unknown_stop_reason(caller: Caller) -> None:
    """A stop reason is one of the published ones."""
    _, token = caller.open()
    assert is_error(caller.post("stop", token=token, json={"reason": "BORED"}), 422, "BORED")


def test_contract_error(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that violates the contract is a bug of the mock server, and becomes a 500."""
    with pytest.raises(ContractError, match="session_token"):
        _contract.check("SessionTokenResponse", {"code": 1000, "data": {"session_id": AVATAR}})
    monkeypatch.setattr(_app, "SUCCESS", "success")
    assert caller.token().status_code == 500


def test_every_operation_is_served() -> None:
    """The mock server has a handler for every operation of the contract, and for no other."""
    paths = _contract._contract()["paths"].values()
    described = {operation["operationId"] for path in paths for operation in path.values()}
    assert {each.operation_id for each in _endpoints.ENDPOINTS} == described
    assert [each.name for each in _endpoints.ENDPOINTS] == list(FAMILY)
    with pytest.raises(LookupError, match="pause_session"):
        _contract.operation("pause_session")


# ---- The request log ---------------------------------------------------------------------------------------


def test_log(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """Each request is one line with method, path, status, session and error, and without a secret."""
    caplog.set_level(logging.INFO, "liveavatar.mock")
    session_id, token = caller.create(OWN_ROOM)
    caller.start(token)
    caller.post("stop", key=caller.service.api_key, json={"session_id": session_id})
    caller.token(LITE | {"avatar_id": "A-SECRET", "livekit_config": ROOM | {"livekit_url": "ANOTHER"}})
    caller.post("start", token="wrong-token")
    caller.http.get(f"/sessions/{token}?token={token}", headers={"X-API-KEY": caller.service.api_key})
    caller.http.get("/avatars%0Afake", headers={"Host": "example.com"})
    assert [re.sub("session=.{36}", "session=ID", record.getMessage()) for record in caplog.records] == [
        "POST /v1/sessions/token 200 session=ID",
        "POST /v1/sessions/start 201 session=ID",
        "POST /v1/sessions/stop 200 session=ID",
        "POST /v1/sessions/token 422 Invalid request: body.avatar_id, body.livekit_config.livekit_url",
        "POST /v1/sessions/start 401 The session token is not valid.",
        "GET /v1/sessions/... 422 Invalid request: path.session_id",
        "GET /v1/avatars%0Afake 421 The Host header names another machine.",
    ]
    for secret in (token, caller.service.api_key, "ROOM-TOKEN", "A-SECRET", "wrong-token"):
        assert secret not in caplog.text


def test_log_of_a_crash(caller: Caller, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that fails inside the mock server is logged as well."""
    caplog.set_level(logging.INFO, "liveavatar.mock")
    monkeypatch.setattr(_app, "SUCCESS", "success")
    caller.token()
    assert [each for each in caplog.messages if each.startswith("POST /v1/sessions/token 500")]


def test_log_of_tls(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """A client that speaks TLS is told so in the log."""
    caplog.set_level(logging.INFO, "liveavatar.mock")
    with pytest.raises(httpx.ConnectError):
        caller.http.get(caller.service.url.replace("http://", "https://"))
    assert [each for each in caplog.messages if "https://" in each]


# ---- The page ----------------------------------------------------------------------------------------------


def test_page(caller: Caller) -> None:
    """The page loads nothing from elsewhere and runs only its own script."""
    response = caller.http.get(caller.service.url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http:" not in response.text
    assert "https:" not in response.text
    assert "innerHTML" not in response.text


def test_sessions_json(make: Any, clock: Clock) -> None:
    """The page learns of every session and of no secret."""
    caller = make(api_keys=["my-own-key"])
    ended, token = caller.open(OWN_ROOM)
    clock.now += 61
    caller.post("stop", token=token)
    fresh, other = caller.create(FULL)
    response = caller.http.get(f"{caller.service.url}/sessions.json")
    facts = response.json()
    assert facts["requests"] == {"token": 2, "start": 1, "stop": 1}
    assert (facts["running"], facts["ended"], facts["credits"], facts["api_key"]) == (0, 1, 2, None)
    assert [each["id"] for each in facts["sessions"]] == [fresh, ended]
    assert facts["sessions"][1] == {
        "id": ended,
        "mode": "LITE",
        "avatar_id": AVATAR,
        "is_sandbox": False,
        "state": "ended",
        "age": 61.0,
        "seconds": 61.0,
        "idle": None,
        "credits": 2,
        "end_reason": "USER_CLOSED",
        "closed_by_client": True,
    }
    for secret in (token, other, caller.service.api_key, "ROOM-TOKEN"):
        assert secret not in response.text + caller.http.get(caller.service.url).text


def test_default_key_on_the_page(caller: Caller) -> None:
    """The default API key is no secret, so that the page can show it for copying."""
    assert caller.http.get(f"{caller.service.url}/sessions.json").json()["api_key"] == "mock-key"


# ---- In process --------------------------------------------------------------------------------------------


def test_one_connection(caller: Caller) -> None:
    """A hundred sessions pass over one connection."""
    for _ in range(100):
        _, token = caller.open()
        caller.post("stop", token=token)
    assert caller.service.connections == 1
    assert caller.service.requests == {"token": 100, "start": 100, "stop": 100}


def test_old_sessions(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old ended sessions are dropped, but not what they cost."""
    monkeypatch.setattr(_sessions, "MAX_ENDED", 3)
    caller = make(credits=5)
    kept, _ = caller.create()
    for _ in range(5):
        caller.post("stop", token=caller.open()[1])
    assert len(caller.service.sessions) == 4
    assert caller.service.sessions[0].id == kept
    assert is_error(caller.start(caller.create()[1]), 402, "0 left")
    totals = caller.http.get(f"{caller.service.url}/sessions.json").json()
    assert (totals["ended"], totals["credits"]) == (5, 5)


def test_thousands_of_sessions(clock: Clock) -> None:
    """Thousands of sessions run at once, end when they are due, and leave a bounded memory."""
    sessions = _sessions.Sessions(Settings(clock=clock, max_concurrent=5000))
    ids = [sessions.create(LITE).id for _ in range(5000)]
    for session_id in ids:
        sessions.start(session_id)
    clock.now += 200
    for session_id in ids[:2000]:
        sessions.keep_alive(session_id)
    clock.now += 100
    assert sessions.running_ids() == ids[:2000]
    clock.now += 200
    assert sessions.running_ids() == []
    assert len(sessions.snapshots()) == _sessions.MAX_ENDED
    assert sessions.totals() == {"running": 0, "ended": 5000, "credits": 3000 * 5 + 2000 * 9}


def test_reading_from_another_thread(make: Any) -> None:
    """The sessions can be read while requests change them."""
    caller = make(clock=time.time, idle_timeout=0.01)
    stop, errors = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                assert len(caller.service.running_sessions) <= len(caller.service.sessions)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(50):
        caller.open()
    stop.set()
    thread.join()
    assert errors == []


def test_comes_and_goes() -> None:
    """A mock server starts and ends quickly, and leaves nothing."""
    threads = threading.enumerate()
    with mock_server() as service:
        assert httpx.get(service.url, trust_env=False).status_code == 200
    assert threading.enumerate() == threads
    with pytest.raises(httpx.ConnectError):
        httpx.get(service.url, trust_env=False)
    gc.collect()  # a socket left open would be a ResourceWarning here


def test_leaving_with_a_client_connected() -> None:
    """Leaving the block does not wait for a client that stays connected."""
    with mock_server() as service:
        client = socket.create_connection((service.host, service.port))
        client.sendall(b"POST /v1/sessions/token HTTP/1.1\r\nHost: localhost\r\n")
        begin = time.perf_counter()
    assert time.perf_counter() - begin < 20
    client.close()


def test_client_disconnects(caplog: pytest.LogCaptureFixture) -> None:
    """A client that disconnects in the middle of a request causes no error."""
    with mock_server() as service:
        with socket.create_connection((service.host, service.port)) as client:
            head = f"POST /v1/sessions/token HTTP/1.1\r\nHost: localhost\r\nX-API-KEY: {service.api_key}"
            client.sendall(f"{head}\r\nContent-Length: 99\r\n\r\n{{".encode())
            until = time.monotonic() + 30
            while not service.requests["token"] and time.monotonic() < until:
                time.sleep(0.001)
        assert service.requests["token"] == 1
        assert httpx.get(service.url, trust_env=False).status_code == 200
    assert service.sessions == []
    assert caplog.records == []


def test_nothing_shared(make: Any) -> None:
    """Two mock servers share nothing."""
    one, other = make(), make()
    one.create()
    assert len(one.service.sessions) == 1
    assert other.service.sessions == []
    assert other.service.requests == {"token": 0, "start": 0, "stop": 0}


def test_host() -> None:
    """A mock server listens on loopback, unless another address is given."""
    for host in ("", "example.com", "127.0.0.1:80"):
        with pytest.raises(ValueError, match="host must be an IP address or localhost"):
            MockServer(host=host)
    with mock_server() as service:
        assert service.host == "127.0.0.1"
    with mock_server(host="localhost") as service:
        assert service.base_url == f"http://127.0.0.1:{service.port}/v1"
    assert MockServer(8080, host="::1").base_url == "http://[::1]:8080/v1"
    assert MockServer(8080, host="::").base_url == "http://[::1]:8080/v1"
    with mock_server(host="0.0.0.0") as service:
        assert service.base_url == f"http://127.0.0.1:{service.port}/v1"
        assert httpx.get(f"{service.url}/sessions.json", trust_env=False).json()["sessions"] == []


@pytest.mark.parametrize(
    "setting",
    [
        {"api_keys": ()},
        {"api_keys": "key"},
        {"api_keys": [""]},
        {"avatar_ids": AVATAR},
        {"avatar_ids": ["wayne"]},
        {"allow_origins": "http://localhost"},
        {"rate_limit": 0},
        {"credits": -1},
    ],
)
def test_invalid_setting(setting: dict[str, Any]) -> None:
    """An invalid setting is named."""
    with pytest.raises(ValueError, match=next(iter(setting))):
        Settings(**setting)


def test_settings_are_keywords() -> None:
    """Every setting is a keyword."""
    assert [each.name for each in fields(Settings)] == list(SettingsKeywords.__annotations__)


def test_another_server() -> None:
    """The app runs under another server, whatever its host name."""

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(api_keys=["k"]))
        async with httpx.AsyncClient(transport=transport, base_url="http://mock") as client:
            return await client.post("/v1/sessions/token", headers={"X-API-KEY": "k"}, json=LITE)

    assert asyncio.run(call()).status_code == 200


def test_public_names() -> None:
    """Every public name is there, and no other."""
    for name in mock.__all__:
        assert getattr(mock, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = mock.nothing_of_the_kind


# ---- On the command line -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
@pytest.mark.parametrize("quiet", [False, True])
def test_command(quiet: bool) -> None:
    """The command prints what to set, serves, logs requests unless told not to, and ends cleanly on Ctrl-C."""
    command = [sys.executable, "-m", "liveavatar.mock", "--port", "0", "--api-key", "k", "--rate-limit", "9"]
    command += ["--avatar-id", AVATAR, "--quiet"] if quiet else ["--avatar-id", AVATAR]
    with processes.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url, key, page = (process.stdout.readline().strip() for _ in range(3))
        assert key == "export LIVEAVATAR_API_KEY=k"
        base_url = url.removeprefix("export LIVEAVATAR_BASE_URL=")
        response = httpx.post(f"{base_url}/sessions/token", headers={"X-API-KEY": "k"}, json=TRIAL, trust_env=False)
        assert response.headers["X-RateLimit-Limit"] == "9"
        assert base_url.removesuffix("/v1") in page
        with socket.create_connection(("127.0.0.1", httpx.URL(base_url).port or 0)) as client:
            client.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 400")
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in err.splitlines()]
    assert len(lines) == (0 if quiet else 2)
    assert quiet or "POST /v1/sessions/token 200" in lines[0]
    assert quiet or "https://" in lines[1]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names every setting that has a flag, with its default."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.replace("-\n", "-").split())
    flags = re.findall(r"(--[a-z-]+) (?:[A-Z]+ )?[a-z]", text.partition("options:")[2])
    settings = {each.name for each in fields(Settings)} - {"clock"}
    assert {flag.strip("-").replace("-", "_") for flag in flags} >= {name.removesuffix("s") for name in settings} - {
        "credit"
    }
    assert text.count("(default: ") == len(settings) + 2
    assert "(default: 300)" in text


def test_taken_port(caller: Caller) -> None:
    """A port that is in use is one line."""
    said = main(["--port", str(caller.service.port)])
    assert isinstance(said, str)
    assert said == (
        f"cannot listen on 127.0.0.1, port {caller.service.port}: {os.strerror(errno.EADDRINUSE)}; "
        "--port 0 takes a free port"
    )


def test_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is one line."""
    assert "IP address" in str(main(["--host", "example.com", "--port", "0"]))
    assert "rate_limit" in str(main(["--rate-limit", "0", "--port", "0"]))
    with pytest.raises(SystemExit):
        main(["--port", "70000"])
    assert "not a port" in capsys.readouterr().err


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C is a success, and leaves logging as it was."""
    logger = logging.getLogger("liveavatar.mock")
    before = logger.level, logger.propagate, list(logger.handlers)

    def interrupted(service: MockServer) -> None:
        assert httpx.get(service.url, trust_env=False).status_code == 200
        raise KeyboardInterrupt

    monkeypatch.setattr(MockServer, "wait", interrupted)
    assert main(["--port", "0"]) == 0
    said = capsys.readouterr()
    assert "export LIVEAVATAR_API_KEY=mock-key" in said.out
    assert "GET / 200" in said.err
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_missing_extra() -> None:
    """A missing extra is one line that tells what to install."""
    script = (
        "import runpy, sys; sys.modules['uvicorn'] = None;runpy.run_module('liveavatar.mock', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "uvicorn" in done.stderr
    assert "pip install 'liveavatar[mock]'" in done.stderr


def test_help_breaks_no_value(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of the help ends inside a word with a hyphen."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "(default: mock-key)" in " ".join(said.split())
    assert not re.search(r"\w-$", said, re.MULTILINE)
