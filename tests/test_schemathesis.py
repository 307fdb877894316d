"""The mock server against the contract, with schemathesis.

The cases follow from the contract alone, and are the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from liveavatar.mock import MockServer, mock_server
from schemathesis.config import SchemathesisConfig
from schemathesis.core import NOT_SET
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

CONTRACT = Path(__file__).parent.parent / "openapi" / "liveavatar.yaml"
NIL = "00000000-0000-0000-0000-000000000000"
LITE: dict[str, Any] = {"mode": "LITE", "avatar_id": "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"}

schema = schemathesis.openapi.from_path(
    CONTRACT,
    config=SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "generation": {
                "deterministic": True,
                "max-examples": 30,
                "database": "none",
                "with-security-parameters": False,  # the credentials are ours to give
            },
            # 400: is_sandbox with another avatar than that of the trial, or a duration above the limit. The contract
            # rules them out in its descriptions.
            "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 400, 404]}},
        }
    ),
)


@pytest.fixture(scope="module")
def service() -> Iterator[MockServer]:
    with mock_server() as service:
        yield service


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, verify=False) as client:
        yield client


@schema.parametrize()
def test_contract(case: schemathesis.Case[Any], service: MockServer, http: httpx.Client) -> None:
    """The mock server accepts what the contract allows, refuses what it forbids, and responds as it says."""
    valid = case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE
    headers = {"X-API-KEY": service.api_key}
    if not case.path.endswith("/token"):
        session_id, token = session(service, http, start=not case.path.endswith("/start"))
        if valid and "session_id" in case.path_parameters:
            case.path_parameters["session_id"] = session_id  # the contract cannot know it
        if valid and isinstance(case.body, dict) and "session_id" in case.body:
            case.body["session_id"] = session_id
        elif case.method == "POST":
            headers = token
    response = case.call(base_url=service.url, headers=headers)
    case.validate_response(response, headers=headers)


def session(service: MockServer, http: httpx.Client, *, start: bool = False) -> tuple[str, dict[str, str]]:
    """Return the id of a new session, and its credential."""
    url = f"{service.base_url}/sessions"
    data = http.post(f"{url}/token", headers={"X-API-KEY": service.api_key}, json=LITE).json()["data"]
    token = {"Authorization": f"Bearer {data['session_token']}"}
    if start:
        http.post(f"{url}/start", headers=token)
    return data["session_id"], token


@pytest.mark.parametrize(
    ("status", "endpoint", "body", "settings"),
    [
        (400, "token", LITE | {"is_sandbox": True}, {}),
        (400, "token", LITE | {"max_session_duration": 9999}, {}),
        (404, "token", LITE | {"avatar_id": NIL}, {}),
        (429, "token", LITE, {"rate_limit": 1, "clock": lambda: 0.5}),
        (402, "start", None, {"credits": 0}),
        (403, "start", None, {"max_concurrent": 1}),
        (409, "start", None, {}),
        (403, "stop", {"session_id": LITE["avatar_id"]}, {}),
        (422, "stop", {"reason": "BORED"}, {}),
        (403, "keep-alive", {"session_id": LITE["avatar_id"]}, {}),
        (409, "keep-alive", None, {}),
        (422, "keep-alive", {"session_id": "wayne"}, {}),
    ],
)
def test_error(http: httpx.Client, status: int, endpoint: str, body: dict[str, Any] | None, settings: Any) -> None:
    """An error response is as the contract says."""
    with mock_server(**settings) as service:
        _, token = session(service, http, start=endpoint == "start")
        if "max_concurrent" in settings:
            _, token = session(service, http)
        headers = {"X-API-KEY": service.api_key} if endpoint == "token" else token
        case = schema[f"/v1/sessions/{endpoint}"]["POST"].Case(
            body=body or NOT_SET, media_type="application/json" if body else None
        )
        check(case, service, headers, status)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v1/sessions/{session_id}", "GET"),
        ("/v1/sessions/{session_id}/transcript", "GET"),
        ("/v1/sessions/{session_id}/events", "DELETE"),
    ],
)
@pytest.mark.parametrize(
    ("session_id", "key", "status"), [(NIL, "mock-key", 404), (NIL, "x", 401), ("x", "mock-key", 422)]
)
def test_error_of_one_session(
    service: MockServer, path: str, method: str, session_id: str, key: str, status: int
) -> None:
    """An error response about one session is as the contract says."""
    case = schema[path][method].Case(path_parameters={"session_id": session_id})
    check(case, service, {"X-API-KEY": key}, status)


def check(case: schemathesis.Case[Any], service: MockServer, headers: dict[str, str], status: int) -> None:
    response = case.call(base_url=service.url, headers=headers)
    assert response.status_code == status
    case.validate_response(
        response, headers=headers, excluded_checks=[positive_data_acceptance, negative_data_rejection]
    )


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/jsonp", "json", ""])
def test_not_said_to_be_json(service: MockServer, http: httpx.Client, kind: str) -> None:
    """A body of another content type is refused."""
    headers = {"X-API-KEY": service.api_key, "Content-Type": kind}
    response = http.post(f"{service.base_url}/sessions/token", headers=headers, content=b'{"mode": "LITE"}')
    assert response.status_code == 422
    assert "not JSON" in response.json()["message"]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"])
def test_said_to_be_json(service: MockServer, http: httpx.Client, kind: str) -> None:
    """Any content type of JSON is accepted."""
    headers = {"X-API-KEY": service.api_key, "Content-Type": kind}
    response = http.post(f"{service.base_url}/sessions/token", headers=headers, json=LITE)
    assert response.status_code == 200


@pytest.mark.parametrize("url", ["", "rooms.example.com", "wss:", "wss://a b", "wss://x/%4", "wss://ü"])
def test_room_address(service: MockServer, http: httpx.Client, url: str) -> None:
    """The address of a room is a URI."""
    room = {"livekit_url": url, "livekit_room": "r", "livekit_client_token": "t"}
    headers = {"X-API-KEY": service.api_key}
    response = http.post(f"{service.base_url}/sessions/token", headers=headers, json=LITE | {"livekit_config": room})
    assert response.status_code == 422
    assert response.json()["data"][0]["loc"] == ["body", "livekit_config", "livekit_url"]
