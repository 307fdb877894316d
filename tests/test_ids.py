"""Ids are checked before anything is sent, but never an id that the service has given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from liveavatar import LiveAvatarNewSessionRequest

from tests.clients import client

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
KNOWN = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"
REQUEST = LiveAvatarNewSessionRequest(avatar_id=AVATAR)
TIME = "2026-01-01T00:00:00Z"
INFO = {
    "created_at": TIME,
    "updated_at": TIME,
    "duration": 1,
    "source": "API",
    "mode": "LITE",
    "is_sandbox": False,
    "credits_consumed": 1,
}
NO_UUIDS = ["abc", "<id>", f"{KNOWN} ", KNOWN.replace("-", ""), f"{{{KNOWN}}}", "dd73ea75-1218-4ef3-92ce-606d5f7fbc0g"]


class OtherIds:
    """A service whose sessions have ids that are no UUIDs. It keeps what it has received."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str | None]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        endpoint = request.url.path.rpartition("/")[2]
        body = json.loads(request.content) if request.content else {}
        self.received.append((endpoint, body.get("session_id")))
        data: Any = None
        if endpoint in ("token", "start"):
            room = {"livekit_url": "wss://rooms.example.com", "livekit_client_token": "room-token"}
            data = {"session_id": "new_1", "session_token": "a-session-token", **room}
        elif endpoint == "sessions":
            data = {"count": 1, "results": [{"id": "listed_1", **INFO}]}
        elif request.method == "GET":
            data = {"id": endpoint, **INFO}
        return httpx.Response(200, json={"code": 1000, "data": data})


@pytest.fixture
def service() -> OtherIds:
    return OtherIds()


@pytest.fixture
def api(flavour: str, service: OtherIds) -> Iterator[Any]:
    kind = httpx.Client if flavour == "blocking" else httpx.AsyncClient
    with client(flavour, "the-key", http_client=kind(transport=httpx.MockTransport(service))) as api:
        yield api


@pytest.mark.parametrize("value", NO_UUIDS)
def test_no_uuid(value: str, api: Any, service: OtherIds) -> None:
    """A value that is no UUID is a ValueError that names the argument and says what to do. Nothing is sent."""
    calls = [
        lambda: api.stop_session(value),
        lambda: api.get_session(value),
        lambda: api.get_session_transcript(value),
        lambda: api.delete_session_events(value),
        lambda: api.keep_session_alive(value),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"^session_id is '.*'; it must be a UUID\. To send another value, use request\(\)\.$"
        ):
            call()
    for name in ("avatar_id", "context_id"):
        with pytest.raises(ValueError, match=rf"^{name} is '.*'; it must be a UUID\."):
            list(api.list_sessions(**{name: value}))
        with pytest.raises(TypeError, match=f"{name} must be a str, not int"):
            list(api.list_sessions(**{name: 7}))
    assert service.received == []


def test_upper_case(api: Any, service: OtherIds) -> None:
    """The case of a UUID does not matter."""
    api.stop_session(KNOWN.upper())
    assert service.received == [("stop", KNOWN.upper())]


def test_opened_here(api: Any, service: OtherIds) -> None:
    """An id of the service is accepted as it is, also once the client tracks its session no longer."""
    session = api.new_session(REQUEST)
    api.keep_session_alive(session.session_id)
    api.release_session(session.session_id)
    api.stop_session(session.session_id)
    api.adopt_session("of_another_process")
    api.close_session("of_another_process")
    assert service.received[2:] == [("keep-alive", "new_1"), ("stop", "new_1"), ("stop", "of_another_process")]


@pytest.mark.parametrize("step", ["token", "start", "list", "adopt"])
def test_seen_here(step: str, api: Any, service: OtherIds) -> None:
    """Once the service has given an id that is no UUID, any id is accepted."""
    with pytest.raises(ValueError, match="must be a UUID"):
        api.stop_session("listed_1")
    if step == "list":
        [entry] = list(api.list_sessions())
        assert entry.id == "listed_1"
    elif step == "token":
        api.create_session_token(REQUEST)
    elif step == "start":
        api.start_session("a-session-token")
    else:
        api.adopt_session("listed_1")
    api.stop_session("listed_1")
    assert api.get_session("listed_1").id == "listed_1"
    assert service.received[-2:] == [("stop", "listed_1"), ("listed_1", None)]


def test_with_its_token(api: Any, service: OtherIds) -> None:
    """With the session's own token, any id is accepted: a released session must not go on because of a check."""
    api.stop_session("released_elsewhere", "its-session-token")
    assert service.received == [("stop", "released_elsewhere")]


def test_way_around(api: Any, service: OtherIds) -> None:
    """`request()` sends any value."""
    api.request("POST", "/sessions/stop", json={"session_id": "abc"})
    assert service.received == [("stop", "abc")]


@pytest.mark.parametrize("secret", ["k" * 41, "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"])
def test_credential_in_place_of_an_id(secret: str, api: Any, service: OtherIds) -> None:
    """A token or a key that is passed in the place of an id does not show in the error."""
    calls = [api.stop_session, api.get_session, api.keep_session_alive, api.close_session, api.release_session]
    calls += [lambda value: list(api.list_sessions(avatar_id=value))]
    for call in calls:
        with pytest.raises(ValueError, match=r"\*\*\*") as caught:
            call(secret)
        assert secret[:8] not in str(caught.value)
    assert service.received == []
