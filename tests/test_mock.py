"""What the mock server promises, asked of it over a real socket."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import httpx
import pytest
from liveavatar import mock
from liveavatar.mock import (
    ContractError,
    MockServer,
    Settings,
    _app,
    _contract,
    _sessions,
    create_app,
    mock_server,
)
from liveavatar.mock.__main__ import main
from liveavatar.mock._settings import SettingsKeywords

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
WAYNE = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
LITE: dict[str, Any] = {"mode": "LITE", "avatar_id": AVATAR}
FULL: dict[str, Any] = {"mode": "FULL", "avatar_id": AVATAR, "avatar_persona": {"language": "en"}}
TRIAL: dict[str, Any] = {"mode": "LITE", "avatar_id": WAYNE, "is_sandbox": True}
OWN_ROOM: dict[str, Any] = LITE | {
    "livekit_config": {
        "livekit_url": "wss://rooms.example.com",
        "livekit_room": "front-desk",
        "livekit_client_token": "ROOM-TOKEN",
    }
}


class Clock:
    """A time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.25

    def __call__(self) -> float:
        return self.now


class Caller:
    """A client without manners: sends what a test says and hands back what came."""

    def __init__(self, service: MockServer) -> None:
        self.service = service
        self.http = httpx.Client(base_url=service.base_url, trust_env=False, verify=False)

    def post(self, endpoint: str, *, key: str = "", token: str = "", **body: Any) -> httpx.Response:
        headers = {"X-API-KEY": key} if key else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return self.http.post(f"/sessions/{endpoint}", headers=headers, **body)

    def token(self, request: object = LITE) -> httpx.Response:
        return self.post("token", key=self.service.api_key, json=request)

    def mint(self, request: object = LITE) -> tuple[str, str]:
        answer = self.token(request)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["session_id"], answer.json()["data"]["session_token"]

    def start(self, token: str) -> httpx.Response:
        return self.post("start", token=token)

    def open(self, request: object = LITE) -> tuple[str, str]:
        session_id, token = self.mint(request)
        assert self.start(token).status_code == 201
        return session_id, token


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Iterator[Any]:
    """Callers of services with the settings a test names."""
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
    """A caller of a service of its own, with the settings as they come."""
    result: Caller = make()
    return result


@pytest.fixture(scope="module")
def refused() -> Iterator[Caller]:
    """A caller whose requests all fail, so that many tests may share it."""
    with mock_server() as service:
        caller = Caller(service)
        yield caller
        caller.http.close()
        assert service.sessions == []


def is_error(answer: httpx.Response, status: int, words: str) -> bool:
    envelope = answer.json()
    assert answer.status_code == status, answer.text
    assert set(envelope) == {"code", "data", "message"}
    assert 4000 <= envelope["code"] < 5000
    assert words in envelope["message"]
    return True


def state(caller: Caller, session_id: str) -> tuple[str, str | None]:
    return next((each.state, each.end_reason) for each in caller.service.sessions if each.id == session_id)


# ---- The three endpoints -----------------------------------------------------------------------------------


def test_a_session_is_created_started_and_stopped(caller: Caller) -> None:
    session_id, token = caller.mint()
    assert state(caller, session_id) == ("created", None)

    started = caller.start(token)
    assert started.status_code == 201
    assert started.json()["code"] == 1000
    assert started.json()["data"]["session_id"] == session_id
    assert caller.service.running_sessions == [session_id]

    body = {"session_id": session_id, "reason": "USER_CLOSED"}
    stopped = caller.post("stop", token=token, json=body)
    assert stopped.status_code == 200
    assert stopped.json() == {"code": 1000, "data": None, "message": "Success"}
    assert state(caller, session_id) == ("ended", "USER_CLOSED")
    assert caller.service.running_sessions == []
    assert caller.service.requests == {"token": 1, "start": 1, "stop": 1}


def test_a_lite_session_in_the_services_room_has_places_for_the_callers_agent(caller: Caller) -> None:
    data = caller.start(caller.mint()[1]).json()["data"]
    assert data["ws_url"].startswith("wss://")
    assert data["livekit_agent_token"].count(".") == data["livekit_client_token"].count(".") == 2
    assert data["livekit_url"].startswith("wss://")
    assert data["max_session_duration"] == 1200


def test_a_full_session_has_none(caller: Caller) -> None:
    data = caller.start(caller.mint(FULL)[1]).json()["data"]
    assert data["ws_url"] is None
    assert data["livekit_agent_token"] is None


def test_the_callers_own_room_comes_back_in_the_answer(caller: Caller) -> None:
    data = caller.start(caller.mint(OWN_ROOM)[1]).json()["data"]
    assert data["livekit_url"] == "wss://rooms.example.com"
    assert data["livekit_client_token"] == "ROOM-TOKEN"
    assert data["ws_url"] is None


def test_custom_is_the_old_name_of_lite(caller: Caller) -> None:
    caller.mint(LITE | {"mode": "CUSTOM"})
    assert [each.mode for each in caller.service.sessions] == ["LITE"]


def test_a_stop_with_the_token_needs_no_body(caller: Caller) -> None:
    session_id, token = caller.open()
    assert caller.post("stop", token=token).status_code == 200
    assert state(caller, session_id) == ("ended", "UNKNOWN")


def test_a_stop_with_the_api_key_needs_the_id(caller: Caller) -> None:
    session_id, _ = caller.open()
    key = caller.service.api_key
    assert is_error(caller.post("stop", key=key), 422, "session_id")
    assert caller.post("stop", key=key, json={"session_id": session_id.upper()}).status_code == 200
    assert caller.service.running_sessions == []


# ---- Credentials -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["token", "start", "stop"])
@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({}, 401, "missing"),
        ({"X-API-KEY": "wrong"}, 401, "API key"),
        ({"Authorization": "Bearer mock-key"}, 401, "token"),
        ({"Authorization": "Bearer"}, 401, "token"),
        ({"Authorization": "Basic c2FuZA=="}, 401, "Bearer"),
        ({"X-API-KEY": "mock-key", "Authorization": "Bearer x"}, 400, "not both"),
    ],
)
def test_a_wrong_credential_is_refused(
    refused: Caller, endpoint: str, headers: dict[str, str], status: int, words: str
) -> None:
    before = refused.service.requests[endpoint]
    answer = refused.http.post(f"/sessions/{endpoint}", headers=headers, json=LITE)
    assert is_error(answer, status, words)
    assert refused.service.requests[endpoint] == before + 1


def test_each_endpoint_takes_its_own_credential_only(caller: Caller) -> None:
    _, token = caller.mint()
    assert is_error(caller.post("start", key=caller.service.api_key), 401, "not an API key")
    assert is_error(caller.post("token", token=token, json=LITE), 401, "not a session token")


def test_further_keys_can_be_let_in(make: Any) -> None:
    caller = make(api_keys=["first", "second"])
    assert caller.service.api_key == "first"
    assert caller.post("token", key="second", json=LITE).status_code == 200
    assert is_error(caller.post("token", key="mock-key", json=LITE), 401, "not valid")


def test_a_session_token_expires(make: Any, clock: Clock) -> None:
    caller = make(token_lifetime=30)
    _, token = caller.mint()
    clock.now += 31
    assert is_error(caller.start(token), 401, "expired")


def test_another_services_token_and_a_room_token_start_nothing(caller: Caller, make: Any) -> None:
    _, foreign = make().mint()
    room_token = caller.start(caller.mint()[1]).json()["data"]["livekit_client_token"]
    assert is_error(caller.start(foreign), 401, "not valid")
    assert is_error(caller.start(room_token), 401, "not valid")


def test_a_token_stops_its_own_session_only(caller: Caller) -> None:
    first, _ = caller.open()
    _, token = caller.open()
    assert is_error(caller.post("stop", token=token, json={"session_id": first}), 403, "another session")


# ---- States ------------------------------------------------------------------------------------------------


def test_a_session_starts_once(caller: Caller) -> None:
    _, token = caller.open()
    assert is_error(caller.start(token), 409, "already")
    caller.post("stop", token=token)
    assert is_error(caller.start(token), 409, "already")


def test_a_session_stops_once(caller: Caller) -> None:
    _, token = caller.open()
    assert caller.post("stop", token=token).status_code == 200
    assert is_error(caller.post("stop", token=token), 409, "already")


def test_a_session_that_never_started_can_be_stopped_and_then_starts_no_more(caller: Caller) -> None:
    session_id, token = caller.mint()
    assert caller.post("stop", token=token).status_code == 200
    assert is_error(caller.start(token), 409, "already")
    assert caller.service.sessions[0].id == session_id
    assert caller.service.sessions[0].credits == 0


def test_what_is_not_known_is_not_found(refused: Caller) -> None:
    stop = refused.post("stop", key=refused.service.api_key, json={"session_id": AVATAR})
    assert is_error(stop, 404, AVATAR)
    unknown = LITE | {"avatar_id": "00000000-0000-0000-0000-000000000000"}
    assert is_error(refused.token(unknown), 404, "Avatar")
    assert is_error(refused.post("keep-alive"), 404, "")
    assert is_error(refused.http.get("/sessions/token"), 405, "")


def test_the_sandbox_avatar_ends_after_a_minute_and_costs_nothing(caller: Caller, clock: Clock) -> None:
    session_id, token = caller.mint(TRIAL)
    assert caller.start(token).json()["data"]["max_session_duration"] == 60
    clock.now += 59.9
    assert state(caller, session_id) == ("started", None)
    clock.now += 0.1
    assert state(caller, session_id) == ("ended", "MAX_DURATION_REACHED")
    assert is_error(caller.post("stop", token=token), 409, "already")
    assert caller.service.sessions[0].credits == 0


def test_is_sandbox_wants_the_mock_server_avatar(refused: Caller) -> None:
    assert is_error(refused.token(LITE | {"is_sandbox": True}), 400, WAYNE)


def test_a_session_ends_at_its_maximum_duration(make: Any, clock: Clock) -> None:
    caller = make(max_session_duration=120)
    short, token = caller.mint(LITE | {"max_session_duration": 10})
    assert caller.start(token).json()["data"]["max_session_duration"] == 10
    long, token = caller.mint(LITE | {"max_session_duration": 9999})
    assert caller.start(token).json()["data"]["max_session_duration"] == 120
    clock.now += 10
    assert state(caller, short) == ("ended", "MAX_DURATION_REACHED")
    assert caller.service.running_sessions == [long]


def test_a_session_ends_when_idle_unless_that_is_switched_off(make: Any, clock: Clock) -> None:
    idle, patient = make(), make(idle_timeout=None)
    session_id, _ = idle.open()
    other, _ = patient.open()
    clock.now += 300
    assert state(idle, session_id) == ("ended", "IDLE_TIMEOUT")
    assert state(patient, other) == ("started", None)


@pytest.mark.parametrize(("request_", "per_minute"), [(FULL, 2), (LITE, 1), (TRIAL, 0)])
def test_every_begun_minute_is_counted_at_the_modes_price(
    caller: Caller, clock: Clock, request_: dict[str, Any], per_minute: int
) -> None:
    _, token = caller.mint(request_)
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


# ---- Limits ------------------------------------------------------------------------------------------------


def test_the_concurrency_limit_holds_until_a_session_ends(make: Any) -> None:
    caller = make(max_concurrent=1)
    _, first = caller.open()
    _, second = caller.mint()
    assert is_error(caller.start(second), 403, "Concurrency limit")
    caller.post("stop", token=first)
    assert caller.start(second).status_code == 201


def test_a_session_starts_only_with_credits_for_a_minute(make: Any, clock: Clock) -> None:
    caller = make(credits=2)
    _, token = caller.open()
    assert is_error(caller.start(caller.mint(FULL)[1]), 402, "credits")
    clock.now += 90
    caller.post("stop", token=token)
    assert is_error(caller.start(caller.mint()[1]), 402, "credits")
    assert caller.start(caller.mint(TRIAL)[1]).status_code == 201


def test_requests_are_limited_per_credential_endpoint_and_second(make: Any, clock: Clock) -> None:
    caller = make(rate_limit=2, api_keys=["one", "two"])
    first, second, third = (caller.post("token", key="one", json=LITE) for _ in range(3))
    assert first.headers["X-RateLimit-Remaining"] == "1"
    assert second.status_code == 200
    assert is_error(third, 429, "Rate limit")
    limits = ("Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
    assert [third.headers[name] for name in limits] == ["1", "2", "0", "1"]

    assert caller.post("token", key="two", json=LITE).status_code == 200
    assert caller.start(first.json()["data"]["session_token"]).status_code == 201
    clock.now += 0.75
    assert caller.post("token", key="one", json=LITE).status_code == 200


def test_nothing_is_limited_unless_asked_for(caller: Caller) -> None:
    answers = [caller.token() for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert "X-RateLimit-Limit" not in answers[0].headers


# ---- The contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "loc", "words"),
    [
        ({"mode": "LITE"}, [], "avatar_id"),
        (LITE | {"avatar_id": "x"}, ["avatar_id"], "'x'"),
        (LITE | {"mode": "HALF"}, ["mode"], "HALF"),
        (LITE | {"video_settings": {"encoding": "AV1"}}, ["video_settings", "encoding"], "AV1"),
        (LITE | {"livekit_config": {"livekit_url": "wss://x"}}, ["livekit_config"], "required"),
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
def test_a_request_that_breaks_the_contract_is_refused_and_told_where(
    refused: Caller, body: object, loc: list[str], words: str
) -> None:
    answer = refused.token(body)
    assert is_error(answer, 422, words)
    fault = next(each for each in answer.json()["data"] if words in each["message"])
    assert fault["loc"] == ["body", *loc]


def test_the_words_about_a_bad_object_do_not_repeat_what_is_in_it(refused: Caller) -> None:
    answer = refused.token(LITE | {"agora_config": ["A-SECRET"]})
    assert is_error(answer, 422, "object")
    assert "A-SECRET" not in answer.text


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(refused: Caller, raw: bytes) -> None:
    assert is_error(refused.post("token", key=refused.service.api_key, content=raw), 422, "not JSON")


def test_a_field_that_the_contract_does_not_know_is_let_through(caller: Caller) -> None:
    assert caller.token(LITE | {"mood": "sunny"}).status_code == 200


def test_a_stop_reason_is_one_of_the_services(caller: Caller) -> None:
    _, token = caller.open()
    assert is_error(caller.post("stop", token=token, json={"reason": "BORED"}), 422, "BORED")


def test_an_answer_that_breaks_the_contract_is_the_mock_server_own_fault(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ContractError, match="session_token"):
        _contract.check("SessionTokenResponse", {"code": 1000, "data": {"session_id": AVATAR}})
    monkeypatch.setattr(_app, "SUCCESS", "success")
    assert caller.token().status_code == 500


# ---- The page ----------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere_and_runs_only_its_own_script(caller: Caller) -> None:
    answer = caller.http.get(caller.service.url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http:" not in answer.text
    assert "https:" not in answer.text
    assert "innerHTML" not in answer.text


def test_the_page_is_told_of_every_session_and_of_no_secret(caller: Caller, clock: Clock) -> None:
    ended, token = caller.open(OWN_ROOM)
    clock.now += 61
    caller.post("stop", token=token, json={"reason": "USER_CLOSED"})
    fresh, other = caller.mint(FULL)
    answer = caller.http.get(f"{caller.service.url}/sessions.json")
    assert answer.json()["requests"] == {"token": 2, "start": 1, "stop": 1}
    assert answer.json()["credits"] == 2
    assert [each["id"] for each in answer.json()["sessions"]] == [fresh, ended]
    assert answer.json()["sessions"][1] == {
        "id": ended,
        "mode": "LITE",
        "avatar_id": AVATAR,
        "is_sandbox": False,
        "state": "ended",
        "age": 61.0,
        "seconds": 61.0,
        "credits": 2,
        "end_reason": "USER_CLOSED",
    }
    for secret in (token, other, caller.service.api_key, "ROOM-TOKEN"):
        assert secret not in answer.text + caller.http.get(caller.service.url).text


# ---- In process --------------------------------------------------------------------------------------------


def test_a_hundred_sessions_pass_over_one_connection(caller: Caller) -> None:
    for _ in range(100):
        _, token = caller.open()
        caller.post("stop", token=token)
    assert caller.service.connections == 1
    assert caller.service.requests == {"token": 100, "start": 100, "stop": 100}


def test_old_sessions_are_forgotten_but_not_what_they_cost(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "REMEMBERED", 3)
    caller = make(credits=5)
    kept, _ = caller.mint()
    for _ in range(5):
        caller.post("stop", token=caller.open()[1])
    assert len(caller.service.sessions) == 3
    assert caller.service.sessions[0].id == kept
    assert is_error(caller.start(caller.mint()[1]), 402, "0 left")


def test_a_service_comes_and_goes_quickly_and_leaves_nothing() -> None:
    with mock_server():
        pass  # the first one reads the contract
    threads = threading.enumerate()
    begin = time.perf_counter()
    with mock_server() as service:
        assert time.perf_counter() - begin < 0.3
        assert httpx.get(service.url, trust_env=False).status_code == 200
    assert threading.enumerate() == threads
    with pytest.raises(httpx.ConnectError):
        httpx.get(service.url, trust_env=False)
    gc.collect()  # a socket left open would be a ResourceWarning here


def test_leaving_does_not_wait_for_a_client_that_stays() -> None:
    with mock_server() as service:
        client = socket.create_connection((service.host, service.port))
        client.sendall(b"POST /v1/sessions/token HTTP/1.1\r\nHost: x\r\n")
        begin = time.perf_counter()
    assert time.perf_counter() - begin < 2
    client.close()


def test_a_caller_who_hangs_up_in_mid_request_makes_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    with mock_server() as service:
        with socket.create_connection((service.host, service.port)) as client:
            head = f"POST /v1/sessions/token HTTP/1.1\r\nHost: x\r\nX-API-KEY: {service.api_key}"
            client.sendall(f"{head}\r\nContent-Length: 99\r\n\r\n{{".encode())
            while not service.requests["token"]:
                time.sleep(0.001)
        assert httpx.get(service.url, trust_env=False).status_code == 200
    assert service.sessions == []
    assert caplog.records == []


def test_services_do_not_share_anything(make: Any) -> None:
    one, other = make(), make()
    one.mint()
    assert len(one.service.sessions) == 1
    assert other.service.sessions == []
    assert other.service.requests == {"token": 0, "start": 0, "stop": 0}


def test_it_listens_on_loopback_only() -> None:
    for host in ("0.0.0.0", "192.0.2.1", "example.com"):
        with pytest.raises(ValueError, match="loopback"):
            MockServer(host=host)
    with mock_server(host="localhost") as service:
        assert service.base_url == f"http://127.0.0.1:{service.port}/v1"
    assert MockServer(8080, host="::1").base_url == "http://[::1]:8080/v1"


@pytest.mark.parametrize(
    "setting",
    [{"api_keys": ()}, {"api_keys": "key"}, {"api_keys": [""]}, {"rate_limit": 0}, {"credits": -1}],
)
def test_an_impossible_setting_is_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        Settings(**setting)


def test_every_setting_is_a_keyword_too() -> None:
    assert [each.name for each in fields(Settings)] == list(SettingsKeywords.__annotations__)


def test_the_app_runs_under_another_server_as_well() -> None:
    import asyncio

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(api_keys=["k"]))
        async with httpx.AsyncClient(transport=transport, base_url="http://mock") as client:
            return await client.post("/v1/sessions/token", headers={"X-API-KEY": "k"}, json=LITE)

    assert asyncio.run(call()).status_code == 200


def test_every_public_name_is_there_and_no_other() -> None:
    for name in mock.__all__:
        assert getattr(mock, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = mock.nothing_of_the_kind


# ---- On the command line -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
def test_the_command_says_what_to_set_serves_and_ends_cleanly_on_ctrl_c() -> None:
    command = [
        sys.executable,
        "-m",
        "liveavatar.mock",
        "--port",
        "0",
        "--api-key",
        "k",
        "--rate-limit",
        "9",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, key, page = (process.stdout.readline().strip() for _ in range(3))
        assert key == "export LIVEAVATAR_API_KEY=k"
        base_url = url.removeprefix("export LIVEAVATAR_BASE_URL=")
        answer = httpx.post(f"{base_url}/sessions/token", headers={"X-API-KEY": "k"}, json=LITE, trust_env=False)
        assert answer.headers["X-RateLimit-Limit"] == "9"
        assert base_url.removesuffix("/v1") in page
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_taken_port_is_one_line(caller: Caller) -> None:
    said = main(["--port", str(caller.service.port)])
    assert isinstance(said, str)
    assert str(caller.service.port) in said
    assert "\n" not in said


def test_a_wrong_argument_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "loopback" in str(main(["--host", "0.0.0.0", "--port", "0"]))
    assert "rate_limit" in str(main(["--rate-limit", "0", "--port", "0"]))
    with pytest.raises(SystemExit):
        main(["--port", "70000"])
    assert "not a port" in capsys.readouterr().err


def test_ctrl_c_is_a_good_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(service: MockServer) -> None:
        assert httpx.get(service.url, trust_env=False).status_code == 200
        raise KeyboardInterrupt

    monkeypatch.setattr(MockServer, "wait", interrupted)
    assert main(["--port", "0"]) == 0
    assert "export LIVEAVATAR_API_KEY=mock-key" in capsys.readouterr().out


def test_a_missing_extra_is_one_line_that_says_what_to_install() -> None:
    script = (
        "import runpy, sys; sys.modules['uvicorn'] = None;runpy.run_module('liveavatar.mock', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "uvicorn" in done.stderr
    assert "pip install 'liveavatar[mock]'" in done.stderr
