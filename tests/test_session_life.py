"""The life of a session between its start and its end, against the mock server, in both clients."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from liveavatar import (
    AvatarPersona,
    BadRequestError,
    ConcurrencyLimitError,
    ConflictError,
    LiveAvatarError,
    LiveAvatarNewSessionRequest,
    NotFoundError,
    SessionDurationError,
    SessionTokenNotFoundError,
    VideoEncoding,
    VideoSettings,
)
from liveavatar.mock import MockServer, mock_server
from liveavatar.mock._sessions import Sessions

from tests.clients import client, wait_until, workers

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
OTHER_AVATAR = "0f6c3b19-58ad-4e72-b3c0-61e9a7d24f85"
SANDBOX_AVATAR = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
CONTEXT = "3a9d5e71-0c46-4f8b-9a2d-e4b7c6108f53"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class Clock:
    """The time of a mock server, which passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def shared_service(clock: Clock) -> Iterator[MockServer]:
    with mock_server(clock=clock, token_lifetime=1_000_000, max_session_duration=100_000) as running:
        yield running


@pytest.fixture
def service(shared_service: MockServer) -> MockServer:
    """A mock server that has no sessions and has had no requests."""
    inner = shared_service._service
    inner.sessions = Sessions(inner.settings)
    inner.requests.clear()
    return shared_service


@pytest.fixture
def api(flavour: str, service: MockServer) -> Iterator[Any]:
    with client(flavour, service.api_key, base_url=service.base_url, timeout=20.0) as made:
        yield made


@pytest.fixture
def colleague(service: MockServer) -> Iterator[Any]:
    """Another client of the same account, whose session must never be touched."""
    with client("blocking", service.api_key, base_url=service.base_url, timeout=20.0) as made:
        theirs = made.new_session(request()).session_id
        yield made
        assert theirs in service.running_sessions


def request(avatar_id: str = AVATAR, **fields: Any) -> LiveAvatarNewSessionRequest:
    settings = VideoSettings(encoding=VideoEncoding.H264)
    return LiveAvatarNewSessionRequest(avatar_id=avatar_id, video_settings=settings, **fields)


def full_request() -> LiveAvatarNewSessionRequest:
    return request(mode="FULL", avatar_persona=AvatarPersona(context_id=CONTEXT, voice_id=CONTEXT))


# ---- Keep-alive --------------------------------------------------------------------------------------------


def test_keep_session_alive(api: Any, service: MockServer, clock: Clock) -> None:
    """A keep-alive resets the idle timer of a session; without one, the session ends."""
    session_id = api.new_session(request()).session_id
    for _ in range(3):
        clock.now += 290
        api.keep_session_alive(session_id)
    assert service.running_sessions == [session_id]
    clock.now += 301
    with pytest.raises(ConflictError) as caught:
        api.keep_session_alive(session_id)
    assert caught.value.session_may_be_running is False
    assert api.open_sessions == ()


def test_keep_alive_of_another_client(api: Any, service: MockServer, clock: Clock, colleague: Any) -> None:
    """The API key keeps any session of the account alive, without taking it over."""
    [session_id] = service.running_sessions
    clock.now += 290
    api.keep_session_alive(session_id)
    clock.now += 290
    assert service.running_sessions == [session_id]
    assert api.open_sessions == ()


def test_keep_alive_of_an_ended_session(api: Any, service: MockServer, clock: Clock) -> None:
    """That a session has ended does not make it one that this client has closed, if it is not the client's own."""
    session_id = api.new_session(request()).session_id
    api.release_session(session_id)
    clock.now += 301
    with pytest.raises(ConflictError):
        api.keep_session_alive(session_id)
    with pytest.raises(SessionTokenNotFoundError, match="did not open it"):
        api.close_session(session_id)


@pytest.mark.parametrize("opening", ["new_session", "session"])
def test_automatic(opening: str, api: Any, service: MockServer, clock: Clock) -> None:
    """With keep_alive, a session outlives many idle timeouts, and its requests end with it."""
    if opening == "session":
        with api.session(request(), keep_alive=0.05) as session:
            _outlive(api, service, clock, session.session_id)
    else:
        session = api.new_session(request(), keep_alive=0.05)
        _outlive(api, service, clock, session.session_id)
        api.close_session(session.session_id)
    assert service.running_sessions == []
    wait_until(api, lambda: not workers(api))
    assert service.sessions[0].end_reason == "UNKNOWN"
    assert service.sessions[0].closed_by_client


def _outlive(api: Any, service: MockServer, clock: Clock, session_id: str) -> None:
    for _ in range(4):
        clock.now += 200
        before = service.requests.get("keep-alive", 0)
        wait_until(api, lambda: service.requests.get("keep-alive", 0) > before + 1)  # noqa: B023
        assert service.running_sessions == [session_id]
    wait_until(api, lambda: len(workers(api)) == 1)


def test_without_keep_alive(api: Any, service: MockServer, clock: Clock) -> None:
    """Keep-alive is opt-in: otherwise a quiet session ends, and closing it then is no error."""
    session_id = api.new_session(request()).session_id
    assert workers(api) == []
    clock.now += 301
    assert service.running_sessions == []
    assert api.open_sessions == (session_id,)
    api.close_session(session_id)
    assert api.open_sessions == ()
    assert "keep-alive" not in service.requests


def test_ended_by_the_service(api: Any, service: MockServer, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """When the service has ended a session, the client learns it, says so once, and closing it is no error."""
    caplog.set_level(logging.INFO, "liveavatar")
    session_id = api.new_session(request(), keep_alive=0.05).session_id
    clock.now += 301
    wait_until(api, lambda: api.open_sessions == ())
    wait_until(api, lambda: not workers(api))
    messages = [record.getMessage() for record in caplog.records if record.name == "liveavatar"]
    assert [session_id in message and "has ended" in message for message in messages] == [True]
    stops = service.requests["stop"]
    assert "ended" in str(api.close_session(session_id).message)
    assert service.requests["stop"] == stops
    with pytest.raises(SessionTokenNotFoundError, match="closed already"):
        api.close_session(session_id)


def test_ended_by_the_service_in_a_block(api: Any, service: MockServer, clock: Clock) -> None:
    """A block whose session the service has ended is left without an error."""
    with api.session(request(), keep_alive=0.05):
        clock.now += 301
        wait_until(api, lambda: api.open_sessions == ())
    assert service.sessions[0].end_reason == "IDLE_TIMEOUT"


def test_many_share_one_worker(api: Any, service: MockServer) -> None:
    """Any number of sessions is kept alive by one thread or task, which ends when the last of them is closed."""
    sessions = [api.new_session(request(), keep_alive=0.05) for _ in range(5)]
    wait_until(api, lambda: service.requests.get("keep-alive", 0) > 10)
    wait_until(api, lambda: len(workers(api)) == 1)
    for session in sessions[:-1]:
        api.close_session(session.session_id)
    before = service.requests["keep-alive"]
    wait_until(api, lambda: service.requests["keep-alive"] > before + 1)
    wait_until(api, lambda: len(workers(api)) == 1)
    api.release_session(sessions[-1].session_id)
    wait_until(api, lambda: not workers(api))
    assert service.running_sessions == [sessions[-1].session_id]


def test_again_after_the_worker_has_ended(api: Any, service: MockServer) -> None:
    """A session that is opened when no other is kept alive any more is kept alive as well."""
    for _ in range(2):
        with api.session(request(), keep_alive=0.05):
            before = service.requests.get("keep-alive", 0)
            wait_until(api, lambda: service.requests.get("keep-alive", 0) > before)  # noqa: B023
        wait_until(api, lambda: not workers(api))


# ---- Lists and records -------------------------------------------------------------------------------------


def test_list(api: Any, service: MockServer, clock: Clock, colleague: Any) -> None:
    """The active sessions are those that run, of every client; their dates are datetimes."""
    mine = api.new_session(request()).session_id
    api.close_session(api.new_session(request()).session_id)
    clock.now += 90
    listed = {info.id: info for info in api.list_sessions()}
    assert set(listed) == set(service.running_sessions)
    assert len(listed) == 2
    info = listed[mine]
    assert (info.duration, info.credits_consumed, info.source, info.mode) == (90, 2, "API", "LITE")
    assert info.created_at == datetime.fromtimestamp(clock.now, UTC) - timedelta(seconds=90)
    assert not info.end_at


def test_list_historic(api: Any, clock: Clock, colleague: Any) -> None:
    """The historic sessions are those that have ended, with the reason and the time of their end."""
    idle = api.new_session(request()).session_id
    clock.now += 200
    for info in colleague.list_sessions():
        if info.id != idle:
            colleague.keep_session_alive(info.id)
    clock.now += 101
    closed = api.new_session(request()).session_id
    api.close_session(closed, reason="AGENT_HANG_UP")
    listed = {info.id: info for info in api.list_sessions("historic")}
    assert {info.id: info.end_reason for info in listed.values()} == {idle: "IDLE_TIMEOUT", closed: "AGENT_HANG_UP"}
    assert listed[closed].end_at == datetime.fromtimestamp(clock.now, UTC)
    assert listed[idle].credits_consumed == 5


def test_list_filters(api: Any) -> None:
    """A list can be limited to an avatar, or to a context."""
    lite = api.new_session(request(OTHER_AVATAR)).session_id
    full = api.new_session(full_request()).session_id
    assert [info.id for info in api.list_sessions(avatar_id=OTHER_AVATAR)] == [lite]
    assert [info.id for info in api.list_sessions(context_id=CONTEXT)] == [full]
    assert list(api.list_sessions(avatar_id=OTHER_AVATAR, context_id=CONTEXT)) == []


def test_list_pages(api: Any, service: MockServer) -> None:
    """The pages of a list are fetched when they are needed, and no more of them."""
    ids = [api.new_session(request()).session_id for _ in range(5)]
    sessions = api.list_sessions(page_size=2)
    assert "list" not in service.requests
    found = [next(sessions).id, next(sessions).id]
    assert service.requests["list"] == 1
    found += [info.id for info in sessions]
    assert service.requests["list"] == 3
    assert found == ids[::-1]


def test_list_of_a_closed_client(flavour: str, service: MockServer) -> None:
    """A list that is read on after its client was closed raises an error, and sends nothing."""
    with client(flavour, service.api_key, base_url=service.base_url) as api:
        for _ in range(3):
            api.release_session(api.new_session(request()).session_id)
        sessions = api.list_sessions(page_size=1)
        next(sessions)
        api.close()
        with pytest.raises(LiveAvatarError, match="closed"):
            next(sessions)
        with pytest.raises(LiveAvatarError, match="closed"):
            api.list_sessions()
    assert service.requests["list"] == 1


def test_get_session(api: Any, clock: Clock) -> None:
    """A record says how long a session has run and what it has cost; after its end, why it ended."""
    session_id = api.new_session(request()).session_id
    clock.now += 61
    info = api.get_session(session_id)
    assert (info.id, info.duration, info.credits_consumed, info.is_sandbox) == (session_id, 61, 2, False)
    assert not info.end_reason
    clock.now += 239
    assert api.get_session(session_id).end_reason == "IDLE_TIMEOUT"
    assert api.get_session(session_id).credits_consumed == 5
    assert api.get_session(session_id).end_at == datetime.fromtimestamp(clock.now, UTC)


@pytest.mark.parametrize("name", ["get_session", "get_session_transcript", "delete_session_events"])
def test_unknown_session(name: str, api: Any) -> None:
    """A session that the service does not know is a NotFoundError that names it."""
    with pytest.raises(NotFoundError, match=UNKNOWN) as caught:
        getattr(api, name)(UNKNOWN)
    assert caught.value.session_id == UNKNOWN
    assert caught.value.attempts == 1


@pytest.mark.parametrize("session_id", ["a/b", "a?b", "a%2Fb", "a b", "é", "#"])
def test_session_id_in_a_path(session_id: str, api: Any, service: MockServer) -> None:
    """An id is one segment of the path, whatever its characters are."""
    api.adopt_session(session_id)  # from now on, any id is accepted
    api.release_session(session_id)
    with pytest.raises(LiveAvatarError):
        api.get_session(session_id)
    with pytest.raises(LiveAvatarError):
        api.get_session_transcript(session_id)
    with pytest.raises(LiveAvatarError):
        api.delete_session_events(session_id)
    assert set(service.requests) <= {"token", "start", "stop", "get", "transcript", "delete-events"}


def test_transcript(api: Any, clock: Clock) -> None:
    """A FULL session has a transcript, which can be limited in time and read on from where it ended."""
    session_id = api.new_session(full_request()).session_id
    clock.now += 30
    transcript = api.get_session_transcript(session_id)
    lines = transcript.transcript_data
    assert transcript.session_active
    assert {line.role for line in lines} == {"user", "avatar"}
    assert len(lines) > 4
    middle = lines[2].absolute_timestamp
    later = api.get_session_transcript(session_id, start_timestamp=middle).transcript_data
    earlier = api.get_session_transcript(session_id, end_timestamp=middle - 1).transcript_data
    assert earlier + later == lines
    clock.now += 10
    more = api.get_session_transcript(session_id, start_timestamp=transcript.next_timestamp).transcript_data
    assert more
    assert lines + more == api.get_session_transcript(session_id).transcript_data


def test_transcript_of_a_lite_session(api: Any, clock: Clock) -> None:
    """A LITE session has no transcript."""
    session_id = api.new_session(request()).session_id
    clock.now += 30
    assert api.get_session_transcript(session_id).transcript_data == []


def test_delete_session_events(api: Any, service: MockServer, clock: Clock) -> None:
    """Deleting the events of a session deletes what was said, and leaves the session running."""
    session_id = api.new_session(full_request()).session_id
    clock.now += 30
    assert api.get_session_transcript(session_id).transcript_data
    api.delete_session_events(session_id)
    assert api.get_session_transcript(session_id).transcript_data == []
    assert service.running_sessions == [session_id]


# ---- Other requests ----------------------------------------------------------------------------------------


def test_request(api: Any) -> None:
    """A request to any endpoint returns the `data` of its envelope."""
    session_id = api.new_session(request()).session_id
    data = api.request("GET", "/sessions", params={"type": "active", "page_size": 5, "avatar_id": None})
    assert [entry["id"] for entry in data["results"]] == [session_id]
    assert api.request("post", "/sessions/keep-alive", json={"session_id": session_id}) is None
    assert api.request("DELETE", f"/sessions/{session_id}/events") is None


def test_request_error(api: Any) -> None:
    """An error response to any request is a typed error with the path that was called."""
    with pytest.raises(NotFoundError) as caught:
        api.request("GET", "/users/credits")
    assert caught.value.endpoint == "/v1/users/credits"
    with pytest.raises(LiveAvatarError, match="type"):
        api.request("GET", "/sessions", params={"type": "unheard-of"})


# ---- Handing over ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_token", [True, False], ids=["token", "API key"])
def test_adopt_session(with_token: bool, api: Any, flavour: str, service: MockServer, clock: Clock) -> None:
    """A session that one client has released is another's, once it has adopted it, with its token or the API key."""
    session_id = api.new_session(request()).session_id
    token = api.release_session(session_id)
    with client(flavour, service.api_key, base_url=service.base_url) as other:
        other.adopt_session(session_id, token if with_token else None)
        assert other.open_sessions == (session_id,)
        assert other.session_token == (token if with_token else None)
        clock.now += 290
        other.keep_session_alive(session_id)
        clock.now += 290
        assert service.running_sessions == [session_id]
    assert service.running_sessions == []
    assert service.requests["stop"] == 1


def test_adopt_session_on_a_closed_client(flavour: str, service: MockServer) -> None:
    """A closed client adopts nothing, because it would never close it."""
    with client(flavour, service.api_key, base_url=service.base_url) as api:
        api.close()
        with pytest.raises(LiveAvatarError, match="closed"):
            api.adopt_session(UNKNOWN)


def test_adopt_session_again(api: Any, service: MockServer, clock: Clock) -> None:
    """An id that the client once saw end is closed like any other after it was adopted."""
    session_id = api.new_session(request(), keep_alive=0.05).session_id
    clock.now += 301
    wait_until(api, lambda: api.open_sessions == ())
    api.adopt_session(session_id)
    api.close_session(session_id)
    assert service.requests["stop"] == 1
    assert api.open_sessions == ()


# ---- Limits of the account ---------------------------------------------------------------------------------


@pytest.fixture
def full_account(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockServer]:
    """An account with one slot; the delay between two attempts is short."""
    monkeypatch.setattr("liveavatar._flows.MIN_SLOT_DELAY", 0.05)
    with mock_server(max_concurrent=1) as running:
        yield running


@pytest.mark.parametrize("opening", ["new_session", "session"])
def test_wait_for_slot(opening: str, flavour: str, full_account: MockServer) -> None:
    """A session opens as soon as there is a slot, with one token for all attempts; nothing else is stopped."""
    with (
        client("blocking", full_account.api_key, base_url=full_account.base_url) as colleague,
        client(flavour, full_account.api_key, base_url=full_account.base_url) as api,
    ):
        theirs = colleague.new_session(request()).session_id

        def leave_after_two_attempts() -> None:
            end = time.monotonic() + 20
            while full_account.requests["start"] < 3 and time.monotonic() < end:
                time.sleep(0.01)
            colleague.close_session(theirs)

        leaving = threading.Thread(target=leave_after_two_attempts)
        leaving.start()
        if opening == "new_session":
            opened = api.new_session(request(), wait_for_slot=30)
            assert full_account.running_sessions == [opened.session_id] == list(api.open_sessions)
        else:
            with api.session(request(), wait_for_slot=30) as opened:
                assert full_account.running_sessions == [opened.session_id]
        leaving.join()
    assert full_account.requests["token"] == 2
    assert full_account.requests["stop"] == 2
    assert full_account.running_sessions == []


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_no_slot(seconds: float, flavour: str, full_account: MockServer) -> None:
    """If there is no slot in time, the error is the ConcurrencyLimitError; the sessions of others go on."""
    with (
        client("blocking", full_account.api_key, base_url=full_account.base_url) as colleague,
        client(flavour, full_account.api_key, base_url=full_account.base_url) as api,
    ):
        theirs = colleague.new_session(request()).session_id
        with pytest.raises(ConcurrencyLimitError, match="list_sessions") as caught:
            api.new_session(request(), wait_for_slot=seconds)
        assert caught.value.session_may_be_running is False
        assert api.open_sessions == ()
        assert full_account.running_sessions == [theirs]
        assert full_account.requests["stop"] == 0
        assert full_account.requests["start"] == 2 if seconds == 0 else full_account.requests["start"] > 2
    assert full_account.requests["token"] == 2


@pytest.mark.parametrize("sandbox", [True, False])
def test_duration_above_the_limit(sandbox: bool, flavour: str) -> None:
    """A duration above the limit is a SessionDurationError with the longest duration in seconds."""
    avatar = SANDBOX_AVATAR if sandbox else AVATAR
    with (
        mock_server(max_session_duration=90) as service,
        client(flavour, service.api_key, base_url=service.base_url) as api,
    ):
        with pytest.raises(SessionDurationError, match=re.escape("max_session_duration (600s)")) as caught:
            api.new_session(request(avatar, is_sandbox=sandbox, max_session_duration=600))
        assert caught.value.max_allowed == (60 if sandbox else 90)
        assert isinstance(caught.value, BadRequestError)
        opened = api.new_session(request(avatar, is_sandbox=sandbox, max_session_duration=caught.value.max_allowed))
        assert opened.max_session_duration == caught.value.max_allowed


def test_request_to_an_unknown_path(api: Any, service: MockServer) -> None:
    """The error for a path that the service does not have shows the whole URL."""
    with pytest.raises(NotFoundError) as caught:
        api.request("GET", "/users/nothing")
    assert str(caught.value).endswith(f"Does the service have this path? The URL is {service.base_url}/users/nothing")
