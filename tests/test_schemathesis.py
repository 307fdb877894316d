"""Test the mock server against the contract with schemathesis: what is allowed, what is forbidden, and each refusal.

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
            # 400: is_sandbox with an avatar that is not the trial's, which the contract rules out in words.
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
def test_the_mock_server_keeps_the_contract(
    case: schemathesis.Case[Any], service: MockServer, http: httpx.Client
) -> None:
    valid = case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE
    headers = {"X-API-KEY": service.api_key}
    if not case.path.endswith("/token"):
        session_id, token = session(service, http, start=case.path.endswith("/stop"))
        if valid and isinstance(case.body, dict) and "session_id" in case.body:
            case.body["session_id"] = session_id  # of which the contract cannot know
        else:
            headers = token
    response = case.call(base_url=service.url, headers=headers)
    case.validate_response(response, headers=headers)


def session(service: MockServer, http: httpx.Client, *, start: bool = False) -> tuple[str, dict[str, str]]:
    """The id of a new session, and the credential that is its own."""
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
        (404, "token", LITE | {"avatar_id": "00000000-0000-0000-0000-000000000000"}, {}),
        (429, "token", LITE, {"rate_limit": 1, "clock": lambda: 0.5}),
        (402, "start", None, {"credits": 0}),
        (403, "start", None, {"max_concurrent": 1}),
        (409, "start", None, {}),
        (403, "stop", {"session_id": LITE["avatar_id"]}, {}),
        (422, "stop", {"reason": "BORED"}, {}),
    ],
)
def test_a_refusal_keeps_the_contract(
    http: httpx.Client, status: int, endpoint: str, body: dict[str, Any] | None, settings: Any
) -> None:
    with mock_server(**settings) as service:
        _, token = session(service, http, start=endpoint == "start")
        if "max_concurrent" in settings:
            _, token = session(service, http)
        operation = schema[f"/v1/sessions/{endpoint}"]["POST"]
        case = operation.Case(body=body or NOT_SET, media_type="application/json" if body else None)
        headers = {"X-API-KEY": service.api_key} if endpoint == "token" else token
        response = case.call(base_url=service.url, headers=headers)
        assert response.status_code == status
        case.validate_response(
            response, headers=headers, excluded_checks=[positive_data_acceptance, negative_data_rejection]
        )


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/jsonp", "json", ""])
def test_a_body_that_is_not_said_to_be_json_is_refused(service: MockServer, http: httpx.Client, kind: str) -> None:
    headers = {"X-API-KEY": service.api_key, "Content-Type": kind}
    answer = http.post(f"{service.base_url}/sessions/token", headers=headers, content=b'{"mode": "LITE"}')
    assert answer.status_code == 422
    assert "not JSON" in answer.json()["message"]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"])
def test_a_body_may_be_said_to_be_any_json(service: MockServer, http: httpx.Client, kind: str) -> None:
    headers = {"X-API-KEY": service.api_key, "Content-Type": kind}
    answer = http.post(f"{service.base_url}/sessions/token", headers=headers, json=LITE)
    assert answer.status_code == 200


@pytest.mark.parametrize("url", ["", "rooms.example.com", "wss:", "wss://a b", "wss://x/%4", "wss://ü"])
def test_the_address_of_a_room_is_a_uri(service: MockServer, http: httpx.Client, url: str) -> None:
    room = {"livekit_url": url, "livekit_room": "r", "livekit_client_token": "t"}
    headers = {"X-API-KEY": service.api_key}
    answer = http.post(f"{service.base_url}/sessions/token", headers=headers, json=LITE | {"livekit_config": room})
    assert answer.status_code == 422
    assert answer.json()["data"][0]["loc"] == ["body", "livekit_config", "livekit_url"]
