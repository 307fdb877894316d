"""Arguments are checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from liveavatar._arguments import check_int, check_params, check_request, check_seconds, check_session_id
from liveavatar._keep_alive import keep_alive_interval
from liveavatar.mock import MockServer, mock_server

from tests.clients import client
from tests.faults.cases import session_request

SESSION = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"


@pytest.fixture(scope="module")
def service() -> Iterator[MockServer]:
    with mock_server() as running:
        yield running


@pytest.mark.parametrize("session_id", ["", " ", "\t\n", ".", "..", None])
def test_session_id_value(session_id: Any) -> None:
    """An id that is empty, or that means another endpoint when it is part of a path, is a ValueError."""
    with pytest.raises(ValueError, match="session_id is"):
        check_session_id(session_id)


@pytest.mark.parametrize("session_id", [7, b"id", ["id"], {"session_id": "id"}, True])
def test_session_id_type(session_id: Any) -> None:
    """An id of another type than str is a TypeError that names the type."""
    with pytest.raises(TypeError, match=rf"session_id must be a str, not {type(session_id).__name__}"):
        check_session_id(session_id)


@pytest.mark.parametrize("value", [0, 1, 0.25, 3600])
def test_seconds(value: float) -> None:
    """A number of seconds is 0 or more."""
    assert check_seconds(value, "wait_for_slot") == value


@pytest.mark.parametrize("value", [-1, -0.001, math.inf, -math.inf, math.nan, 10**400])
def test_seconds_value(value: float) -> None:
    """A negative or infinite number of seconds is a ValueError that names the argument."""
    with pytest.raises(ValueError, match="wait_for_slot must be 0 or more seconds"):
        check_seconds(value, "wait_for_slot")


@pytest.mark.parametrize("value", [None, "5", True, False, [5]])
def test_seconds_type(value: Any) -> None:
    """A number of seconds that is no number is a TypeError that names the argument."""
    with pytest.raises(TypeError, match="wait_for_slot must be a number of seconds"):
        check_seconds(value, "wait_for_slot")


@pytest.mark.parametrize(("value", "seconds"), [(None, None), (False, None), (True, 120.0), (30, 30.0), (0.5, 0.5)])
def test_keep_alive(value: Any, seconds: float | None) -> None:
    """keep_alive is off, every 2 minutes, or a number of seconds."""
    assert keep_alive_interval(value) == seconds


@pytest.mark.parametrize("value", [0, -1, 0.0, math.inf, math.nan])
def test_keep_alive_value(value: float) -> None:
    """An interval that is not positive and finite is a ValueError."""
    with pytest.raises(ValueError, match="keep_alive must be a positive number of seconds"):
        keep_alive_interval(value)


@pytest.mark.parametrize("value", ["60", "yes", [1], {}])
def test_keep_alive_type(value: Any) -> None:
    """An interval that is no number is a TypeError."""
    with pytest.raises(TypeError, match="keep_alive must be a number of seconds"):
        keep_alive_interval(value)


@pytest.mark.parametrize("value", [0, -5, 1_750_000_000_000])
def test_timestamp(value: int) -> None:
    """A timestamp is any int; its unit is the service's."""
    assert check_int(value, "start_timestamp") == value


@pytest.mark.parametrize("value", ["1", 1.5, True, [1]])
def test_timestamp_type(value: Any) -> None:
    """A timestamp of another type is a TypeError that names the argument."""
    with pytest.raises(TypeError, match="start_timestamp must be an int"):
        check_int(value, "start_timestamp")


@pytest.mark.parametrize("method", ["GET", "get", "Post", "PUT", "PATCH", "DELETE"])
def test_request(method: str) -> None:
    """The method of a request may be in lower case."""
    assert check_request(method, "/users/credits") == (method.upper(), "/users/credits")


@pytest.mark.parametrize("method", ["", "HEAD", "OPTIONS", "TRACE", "CONNECT", "GET ", "GET\r\nX: 1", "GÉT"])
def test_request_method(method: str) -> None:
    """A method whose response has no JSON, or that is none, is a ValueError that names those allowed."""
    with pytest.raises(ValueError, match="it must be one of GET, POST, PUT, PATCH, DELETE"):
        check_request(method, "/users/credits")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "users/credits",
        "https://elsewhere.example/v1/users",
        "//elsewhere.example/users",
        "/\\elsewhere.example",
        "/users/../../admin",
        "/users/..",
        "/users?page=2",
        "/users#top",
        "/users/a b",
        "/users/a\r\nX-Evil: 1",
        "/users/\x00",
        "/users/é",
        "/users/credits\n",
    ],
)
def test_request_path(path: str) -> None:
    """A path that leaves the base URL, has a query, or cannot be sent as it is, is a ValueError."""
    with pytest.raises(ValueError, match=r"path must be relative to the base URL, such as"):
        check_request("GET", path)


def test_request_path_version() -> None:
    """A path with the version that the base URL has already is a ValueError that gives the right one."""
    with pytest.raises(ValueError, match="pass '/users/credits'"):
        check_request("GET", "/v1/users/credits")


@pytest.mark.parametrize(("method", "path"), [(None, "/a"), ("GET", None), (b"GET", "/a"), ("GET", 7)])
def test_request_type(method: Any, path: Any) -> None:
    """A method or path of another type is a TypeError."""
    with pytest.raises(TypeError, match="method and path must be str"):
        check_request(method, path)


def test_params() -> None:
    """Parameters that are None are left out; booleans are as JSON has them; a list repeats its name."""
    given = {"type": "active", "page": 2, "embed": None, "live": True, "tags": ["a", False]}
    assert check_params(given) == {"type": "active", "page": 2, "live": "true", "tags": ["a", "false"]}
    assert check_params(None) == {}


@pytest.mark.parametrize("params", ["page=2", [("page", 2)], 7])
def test_params_type(params: Any) -> None:
    """Parameters that are no mapping are a TypeError."""
    with pytest.raises(TypeError, match="params must be a dict"):
        check_params(params)


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *((name, ("..",), {}) for name in ("keep_session_alive", "get_session", "get_session_transcript")),
    ("delete_session_events", ("..",), {}),
    ("delete_session_events", ("",), {}),
    ("get_session", (None,), {}),
    ("get_session_transcript", (SESSION,), {"start_timestamp": "now"}),
    ("get_session_transcript", (SESSION,), {"end_timestamp": 1.5}),
    ("adopt_session", ("",), {}),
    ("adopt_session", (SESSION, "a token\r\nX-Evil: 1"), {}),
    ("list_sessions", ("running",), {}),
    ("list_sessions", (), {"page_size": 0}),
    ("list_sessions", (), {"page_size": 101}),
    ("list_sessions", (), {"page_size": "10"}),
    ("list_sessions", (), {"page_size": True}),
    ("request", ("HEAD", "/users"), {}),
    ("request", ("GET", "https://elsewhere.example/"), {}),
    ("request", ("POST", "/users"), {"json": {"number": math.nan}}),
    ("request", ("POST", "/users"), {"json": {1, 2}}),
    ("request", ("GET", "/users"), {"params": "page=2"}),
    ("new_session", (session_request(),), {"keep_alive": -1}),
    ("new_session", (session_request(),), {"keep_alive": "yes"}),
    ("new_session", (session_request(),), {"wait_for_slot": -1}),
    ("new_session", (session_request(),), {"wait_for_slot": None}),
]


@pytest.mark.parametrize(("name", "arguments", "keywords"), CALLS, ids=lambda value: str(value)[:40])
def test_nothing_is_sent(
    name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], flavour: str, service: MockServer
) -> None:
    """A call with an argument that cannot be right raises at once, and sends nothing."""
    before = sum(service.requests.values())
    with (
        client(flavour, service.api_key, base_url=service.base_url) as api,
        pytest.raises((TypeError, ValueError)) as caught,
    ):
        getattr(api, name)(*arguments, **keywords)
    assert type(caught.value) in (TypeError, ValueError)
    assert sum(service.requests.values()) == before
    assert service.running_sessions == []
