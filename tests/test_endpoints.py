"""The table of endpoints and the methods of both clients say what the contract says, and nothing else."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi, _endpoints
from liveavatar._config import Config
from liveavatar._endpoints import CREATE_TOKEN, START, Endpoint
from liveavatar._flows import Flows
from liveavatar._redaction import Secret
from liveavatar._sessions import Session
from liveavatar._transports._base import Request, Response
from liveavatar.errors import LiveAvatarError

from tests.contract import CONTRACT
from tests.faults.cases import session_request

OPERATIONS: dict[str, dict[str, Any]] = {
    operation["operationId"]: {"method": method.upper(), "path": path, **operation}
    for path, item in CONTRACT["paths"].items()
    for method, operation in item.items()
    if "operationId" in operation
}
ROWS = {f"{row.method} {row.full_path}": row for row in vars(_endpoints).values() if isinstance(row, Endpoint)}
SESSION = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"
HEADERS = {"X-API-KEY": "apiKey", "Authorization": "sessionToken"}

in_each_operation = pytest.mark.parametrize("name", OPERATIONS)


def row_of(operation: dict[str, Any]) -> Endpoint[Any]:
    return ROWS[f"{operation['method']} {operation['path']}"]


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = CONTRACT
        for name in node["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        node = found
    return node


def schemas_of_success(operation: dict[str, Any]) -> set[str]:
    return {
        resolve(response)["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for status, response in operation["responses"].items()
        if str(status).startswith("2")
    }


def test_every_operation_has_a_row() -> None:
    """There is one row for each operation of the contract, and no other."""
    assert set(ROWS) == {f"{operation['method']} {operation['path']}" for operation in OPERATIONS.values()}


@in_each_operation
def test_model(name: str) -> None:
    """The model of a row is the one of the operation's success responses."""
    assert schemas_of_success(OPERATIONS[name]) == {row_of(OPERATIONS[name]).model.__name__}  # type: ignore[union-attr]


@in_each_operation
@pytest.mark.parametrize("client", [LiveAvatarApi, AsyncLiveAvatarApi])
def test_method(client: type, name: str) -> None:
    """Each operation has a method of its name in each client, which has its parameters and links its reference."""
    method = getattr(client, name)
    operation = OPERATIONS[name]
    assert operation["externalDocs"]["url"] in inspect.cleandoc(method.__doc__)
    given = {resolve(each)["name"] for each in operation.get("parameters", ())} - {"page", "embed_id"}
    assert given <= set(inspect.signature(method).parameters)


@in_each_operation
def test_retries(name: str) -> None:
    """What only reads is sent again if its response is lost; what opens a session never is."""
    row = row_of(OPERATIONS[name])
    assert row.retry_if_lost or row.method != "GET"
    assert row.retry_if_lost is (row is not START)
    assert not any(row.retry_statuses(status) for status in (200, 301, 400, 401, 402, 403, 404, 422))
    assert row.retry_statuses(429)


class RecordingIO:
    """Records requests, and refuses their credentials."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        return Response(401, {}, bytearray(b"{}"))

    def is_usable(self) -> bool:
        return True

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a 401 is not retried")

    async def shield(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return await work()

    shield_cleanup = shield


def sent(name: str) -> list[Request]:
    """Return the requests that an operation sends with each of its credentials."""
    io = RecordingIO()
    config = Config.from_arguments("key", "https://service.example/v1", 60.0, 0, "https://service.example/v1")
    flows = Flows(config, io)  # type: ignore[arg-type]
    token = Secret("token")
    session = Session(SESSION, token, start_sent=True, start_known=True, opened=True)
    flows.sessions._open[SESSION] = session
    works: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "create_session_token": lambda: flows.create_session_token(session_request()),
        "start_session": lambda: flows.start_session(token),
        "stop_session": lambda: flows.stop_leftover(session, time.monotonic() + 60),
        "keep_session_alive": lambda: flows.keep_session_alive(SESSION),
        "list_sessions": lambda: flows.list_page({"type": "active", "page": 1}),
        "get_session": lambda: flows.get_session(SESSION),
        "get_session_transcript": lambda: flows.get_session_transcript(SESSION, 1, 2),
        "delete_session_events": lambda: flows.delete_session_events(SESSION),
    }
    with pytest.raises(LiveAvatarError):
        asyncio.run(works[name]())
    return io.requests


@in_each_operation
def test_credential(name: str) -> None:
    """An operation is sent with each credential that the contract allows for it, one at a time, and no other."""
    allowed = [scheme for alternative in OPERATIONS[name]["security"] for scheme in alternative]
    assert sorted(HEADERS[request.credential[0]] for request in sent(name)) == sorted(allowed)


@in_each_operation
def test_request(name: str) -> None:
    """An operation is sent as the contract has it: method, path, query, and a body where there is one."""
    operation = OPERATIONS[name]
    path = operation["path"].format(session_id=SESSION)
    query = {each["name"] for each in map(resolve, operation.get("parameters", ())) if each["in"] == "query"}
    for request in sent(name):
        url, _, given = request.url.partition("?")
        assert (request.method, url) == (operation["method"], f"https://service.example{path}")
        assert set(re.findall(r"(?:^|&)([^=]+)=", given)) <= query
        assert bool(request.content.reveal()) == ("requestBody" in operation)


def test_further_operation() -> None:
    """A row needs no more than its method, path, model and retries: all else has a default."""
    needed = {name for name, each in inspect.signature(Endpoint).parameters.items() if each.default is each.empty}
    assert needed == {"method", "path", "model", "retry_statuses", "retry_if_lost"}
    assert CREATE_TOKEN.body_required
