"""L. Lists, records, transcripts and other requests under every fault: a value or a typed error, in bounded time."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import pytest
from liveavatar import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ConflictError,
    InvalidRequestError,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    LiveAvatarTimeoutError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)

from tests.clients import observe_aiohttp
from tests.faults import server as fault
from tests.faults.canaries import leaks
from tests.faults.cases import HTML, session_request
from tests.faults.conftest import KEY, FastRetries, opened
from tests.faults.server import Behaviour, FaultServer, serving


@dataclass(frozen=True)
class Call:
    """A method that is tried, and its endpoint in the fault server."""

    endpoint: str
    do: Callable[[Any, str], Any]
    is_body_required: bool = True
    path: str = "/v1/sessions/{session_id}"


CALLS = (
    Call("keep-alive", lambda api, id: api.keep_session_alive(id), False, "/v1/sessions/keep-alive"),
    Call("list", lambda api, id: list(api.list_sessions()), path="/v1/sessions"),
    Call("get", lambda api, id: api.get_session(id)),
    Call("transcript", lambda api, id: api.get_session_transcript(id), path="/v1/sessions/{session_id}/transcript"),
    Call("events", lambda api, id: api.delete_session_events(id), False, "/v1/sessions/{session_id}/events"),
    Call("other", lambda api, id: api.request("GET", "/other", params={"a": 1}), path="/v1/other"),
)
READING = tuple(call for call in CALLS if call.is_body_required)


@pytest.fixture
def session_id(api: Any) -> str:
    return str(api.new_session(session_request()).session_id)


@pytest.fixture(autouse=True)
def _fast(fast_retries: FastRetries) -> None:
    """Retries follow at once."""


def arm(server: FaultServer, call: Call, behaviour: Behaviour, times: int | None = None) -> None:
    server.heal()
    server.settle()
    server.ledger.forget_requests()
    server.on(call.endpoint, behaviour, times)


def failure(call: Call, api: Any, session_id: str) -> LiveAvatarError:
    with pytest.raises(LiveAvatarError) as caught:
        call.do(api, session_id)
    error = caught.value
    assert error.endpoint == call.path, call
    assert "\n" not in str(error)
    return error


def check_requests(server: FaultServer) -> None:
    """Each request carried one credential: the API key, or for a keep-alive the session's token."""
    for request in server.ledger.requests:
        assert (request.api_key is None) != (request.bearer is None)
        assert request.api_key in (None, KEY)
        assert request.bearer is None or request.endpoint in ("start", "stop", "keep-alive")
        assert request.header("cookie") is None
        assert request.header("accept-encoding") == "identity"


LOST: dict[str, Behaviour] = {
    "reset": fault.resets(),
    "closed": fault.hangs_up(),
    "half a head": fault.cut_head(b"HTTP/1.1 20"),
    "no HTTP": fault.sends(b"SSH-2.0-OpenSSH_9.6\r\n"),
}


@pytest.mark.row("L7")
@pytest.mark.parametrize("name", LOST)
def test_lost(name: str, api: Any, session_id: str, server: FaultServer) -> None:
    """A call whose response is lost is sent again; if all are lost, it is a connection error."""
    for call in CALLS:
        arm(server, call, LOST[name], 1)
        call.do(api, session_id)
        assert len(server.ledger.of(call.endpoint)) == 2, call
        arm(server, call, LOST[name])
        error = failure(call, api, session_id)
        assert type(error) is LiveAvatarConnectionError, call
        assert error.attempts == len(server.ledger.of(call.endpoint)) == 3, call
        check_requests(server)


@pytest.mark.row("L7", "L8")
@pytest.mark.parametrize(("part", "reset"), [(0, False), (0.5, False), (0.5, True), (0.99, False)])
def test_cut(part: float, reset: bool, api: Any, session_id: str, server: FaultServer) -> None:
    """A response that is cut is lost, unless its status alone says that the call was carried out."""
    for call in CALLS:
        arm(server, call, fault.cut(part, reset=reset), 1)
        call.do(api, session_id)
        assert len(server.ledger.of(call.endpoint)) == (2 if call.is_body_required else 1), call
    for call in READING:
        arm(server, call, fault.cut(part, reset=reset))
        assert type(failure(call, api, session_id)) is LiveAvatarConnectionError, call
        assert len(server.ledger.of(call.endpoint)) == 3, call


@pytest.mark.row("L7")
@pytest.mark.parametrize("where", ["nothing", "half a body", "headers", "chunked"])
def test_slow(where: str, flavour: str, server: FaultServer) -> None:
    """A call ends at its timeout, whatever the service sends meanwhile."""
    behaviour = {"nothing": fault.holds(), "half a body": fault.holds_body}.get(where) or fault.drips(where)
    with opened(flavour, server, timeout=0.1, max_retries=0) as api:
        for call in CALLS if where == "nothing" else READING[:1]:
            arm(server, call, behaviour)
            begun = time.monotonic()
            assert type(failure(call, api, "00000000-0000-4000-8000-000000000001")) is LiveAvatarTimeoutError, call
            assert time.monotonic() - begun < 10


STATUSES: tuple[tuple[int, object, type[LiveAvatarApiError], bool], ...] = (
    (400, {"code": 4000, "data": None, "message": "Bad"}, BadRequestError, False),
    (403, {"code": 4030, "data": None, "message": "Not in your plan"}, PermissionDeniedError, False),
    (404, {"code": 4040, "data": None, "message": "Session not found"}, NotFoundError, False),
    (404, HTML, NotFoundError, False),
    (405, b"", LiveAvatarApiError, False),
    (408, HTML, LiveAvatarApiError, True),
    (410, HTML, LiveAvatarApiError, False),
    (422, {"detail": [{"loc": ["query", "type"], "msg": "Field required"}]}, InvalidRequestError, False),
    (429, {"code": 4290, "data": None, "message": "Slow down"}, RateLimitError, True),
    (500, {"code": 5000, "data": None, "message": "It broke"}, ServerError, True),
    (502, HTML, ServerError, True),
    (520, b"", ServerError, True),
    (599, "It broke", ServerError, True),
)


@pytest.mark.row("L7")
@pytest.mark.parametrize(("status", "body", "kind", "is_retried"), STATUSES, ids=lambda value: str(value)[:30])
def test_status(
    status: int,
    body: object,
    kind: type[LiveAvatarApiError],
    is_retried: bool,
    api: Any,
    session_id: str,
    server: FaultServer,
) -> None:
    """Each error status is its error, and is retried as the table of endpoints says."""
    for call in CALLS:
        arm(server, call, fault.answers(status, body))
        error = failure(call, api, session_id)
        assert type(error) is kind, call
        assert error.status == status  # type: ignore[attr-defined]
        assert "<" not in str(error)
        assert error.attempts == len(server.ledger.of(call.endpoint)) == (3 if is_retried else 1), call
        if is_retried:
            arm(server, call, fault.answers(status, body), 1)
            call.do(api, session_id)
            assert len(server.ledger.of(call.endpoint)) == 2, call
        check_requests(server)


@pytest.mark.row("L7")
def test_conflict(api: Any, session_id: str, server: FaultServer) -> None:
    """A 409 is retried for a keep-alive, as for a stop, and for nothing else."""
    for call in CALLS:
        arm(server, call, fault.refuses(409, "Session is busy"))
        assert type(failure(call, api, session_id)) is ConflictError, call
        assert len(server.ledger.of(call.endpoint)) == (3 if call.endpoint == "keep-alive" else 1), call


@pytest.mark.row("L7")
def test_credential_is_refused(api: Any, session_id: str, server: FaultServer) -> None:
    """A 401 is not retried; a keep-alive is tried with the session's token, then with the API key."""
    for call in CALLS:
        arm(server, call, fault.refuses(401, "Invalid"))
        error = failure(call, api, session_id)
        assert type(error) is AuthenticationError, call
        assert "LIVEAVATAR_API_KEY" in str(error)
        keys = [request.api_key for request in server.ledger.of(call.endpoint)]
        assert keys == ([None, KEY] if call.endpoint == "keep-alive" else [KEY]), call


@pytest.mark.row("L7")
def test_redirect(api: Any, session_id: str, server: FaultServer) -> None:
    """A redirect is an error, and is not followed."""
    with serving() as elsewhere:
        for call in CALLS:
            arm(server, call, fault.redirects(307, elsewhere.url))
            assert failure(call, api, session_id).status == 307  # type: ignore[attr-defined]
        assert elsewhere.ledger.connections == 0


@pytest.mark.row("L7")
@pytest.mark.parametrize("on", ["429", "503"])
def test_long_retry_after(on: str, api: Any, session_id: str, server: FaultServer) -> None:
    """A Retry-After that is too long to wait for is raised at once."""
    for call in CALLS:
        arm(server, call, fault.answers(int(on), HTML, {"Retry-After": "3600"}))
        error = failure(call, api, session_id)
        assert error.retry_after == 3600  # type: ignore[attr-defined]
        assert error.attempts == 1


UNREADABLE: dict[str, Behaviour] = {
    "truncated JSON": fault.replaces(lambda body: json.dumps(body).encode()[:-5]),
    "HTML": fault.replaces(lambda body: HTML),
    "gzip": fault.encoded(),
    "endless": fault.endless("chunked"),
    "endless after a length": fault.endless("announced"),
    "no UTF-8": fault.replaces(lambda body: b'{"data": "\xff\xfe"}'),
    "too deep": fault.replaces(lambda body: b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
}


@pytest.mark.row("L7")
@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable(name: str, api: Any, session_id: str, server: FaultServer) -> None:
    """A body that cannot be read is a BadResponseError, unless the status alone says enough."""
    for call in CALLS:
        arm(server, call, UNREADABLE[name])
        if call.is_body_required:
            assert type(failure(call, api, session_id)) is BadResponseError, call
        else:
            call.do(api, session_id)
        assert len(server.ledger.of(call.endpoint)) == 1, call
    assert server.ledger.bytes_sent < 64 * 1024 * 1024


@pytest.mark.row("L7")
@pytest.mark.parametrize("content", [b"[]", b'"text"', b"12", b"null", b"true", b"", b'{"data": []}', b'{"data": 7}'])
def test_wrong_shape(content: bytes, api: Any, session_id: str, server: FaultServer) -> None:
    """A body of another shape is a BadResponseError for what the contract describes, and a value for the rest."""
    for call in CALLS:
        arm(server, call, fault.replaces(lambda body: content))
        if call.endpoint == "other":
            body = json.loads(content or b"null")
            assert call.do(api, session_id) == (body["data"] if isinstance(body, dict) else body)
        elif call.is_body_required:
            assert type(failure(call, api, session_id)) is BadResponseError, call
        else:
            call.do(api, session_id)
        assert len(server.ledger.of(call.endpoint)) == 1, call


@pytest.mark.row("L7")
def test_no_data(api: Any, session_id: str, server: FaultServer) -> None:
    """`data` may be null where the contract says so: a record that is null is no session."""
    for call in CALLS:
        arm(server, call, fault.edits(lambda body: body.update(data=None)))
        if call.endpoint in ("list", "transcript"):
            assert type(failure(call, api, session_id)) is BadResponseError
        elif call.endpoint == "get":
            error = failure(call, api, session_id)
            assert type(error) is NotFoundError
            assert error.session_id == session_id
        else:
            assert call.do(api, session_id) is None


@pytest.mark.row("L7")
def test_error_code(api: Any, session_id: str, server: FaultServer) -> None:
    """An error code under a success status is the error that its words say."""
    for call in CALLS:
        arm(server, call, fault.answers(200, {"code": 4290, "data": None, "message": "Rate limit exceeded"}))
        assert type(failure(call, api, session_id)) is RateLimitError, call


def edited(**values: Any) -> Behaviour:
    """Set fields of every entry; None removes them."""

    def change(body: dict[str, Any]) -> None:
        data = body["data"]
        for entry in data.get("results", [data]):
            for name, value in values.items():
                entry.pop(name, None)
                if value is not None:
                    entry[name] = value

    return fault.edits(change)


def records(api: Any, session_id: str, server: FaultServer, behaviour: Behaviour) -> Iterator[Any]:
    """The record of the session from both calls that return it, from a service that behaves so."""
    server.on("list", behaviour).on("get", behaviour)
    yield from api.list_sessions()
    yield api.get_session(session_id)


@pytest.mark.row("L7")
@pytest.mark.parametrize(
    ("name", "value"),
    [("source", "KIOSK"), ("mode", "HOLOGRAM"), ("end_reason", "DISPATCH_FAILED"), ("end_reason", "ECLIPSE")],
)
def test_unknown_value(name: str, value: str, api: Any, session_id: str, server: FaultServer) -> None:
    """A source, mode or end reason that the service adds later is a value like any other."""
    found = list(records(api, session_id, server, edited(**{name: value})))
    assert [getattr(record, name) for record in found] == [value, value]


@pytest.mark.row("L7")
@pytest.mark.parametrize("value", ["yesterday", 17, {}, ""])
def test_bad_optional_field(value: Any, api: Any, session_id: str, server: FaultServer) -> None:
    """An optional field that cannot be read counts as absent."""
    for record in records(api, session_id, server, edited(end_at=value)):
        assert not record.end_at
        assert record.id == session_id


@pytest.mark.row("L7")
@pytest.mark.parametrize(
    ("name", "value"),
    [("created_at", "now"), ("updated_at", None), ("duration", "90"), ("is_sandbox", 0), ("id", None), ("id", 7)],
)
def test_bad_required_field(name: str, value: Any, api: Any, session_id: str, server: FaultServer) -> None:
    """A required field that is missing or of the wrong type is a BadResponseError that names it."""
    server.on("list", edited(**{name: value})).on("get", edited(**{name: value}))
    with pytest.raises(BadResponseError, match=rf"data\.results\[0\]\.{name}"):
        list(api.list_sessions())
    with pytest.raises(BadResponseError, match=rf"data\.{name}"):
        api.get_session(session_id)


@pytest.mark.row("L7")
def test_further_fields(api: Any, session_id: str, server: FaultServer) -> None:
    """An id may be called session_id; further fields are kept."""
    for record in records(api, session_id, server, edited(id=None, session_id=session_id, region="eu")):
        assert record.id == session_id
        assert record["region"] == "eu"


@pytest.mark.row("L7")
@pytest.mark.parametrize("form", ["json", "escaped", "fields", "fastapi", "detail", "html", "text"])
@pytest.mark.parametrize("status", [400, 401, 500])
def test_no_secret_shows(
    form: str, status: int, api: Any, session_id: str, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that repeats the credentials of a request does not bring them into errors or logs."""
    caplog.set_level(logging.DEBUG, "liveavatar")
    for call in CALLS:
        arm(server, call, fault.echoes(status, form=form))
        assert leaks(failure(call, api, session_id), api, caplog) == [], call


@pytest.mark.row("L7")
def test_request_body_is_no_secret_in_errors(api: Any, server: FaultServer) -> None:
    """Tokens in the body of any request are redacted in its error."""
    server.on("other", fault.echoes(400))
    body = {"livekit_client_token": server.tokens.client, "api_key": KEY}
    with pytest.raises(BadRequestError) as caught:
        api.request("POST", "/other", json=body)
    assert leaks(caught.value) == []


@pytest.mark.row("L7")
@pytest.mark.parametrize(
    ("method", "idempotent", "is_repeated"),
    [
        ("GET", None, True),
        ("GET", False, False),
        ("POST", None, False),
        ("POST", True, True),
        ("PUT", None, False),
        ("PATCH", None, False),
        ("DELETE", None, False),
        ("DELETE", True, True),
    ],
)
def test_request_is_repeated_where_that_is_safe(
    method: str, idempotent: bool | None, is_repeated: bool, api: Any, server: FaultServer
) -> None:
    """Any request but GET is sent once if its response is lost, unless the caller knows better; a 429 is no loss."""
    for behaviour in (fault.resets(acts=True), fault.answers(500), fault.answers(408)):
        server.heal()
        server.ledger.forget_requests()
        server.on("other", behaviour)
        with pytest.raises(LiveAvatarError) as caught:
            api.request(method, "/other", idempotent=idempotent)
        server.settle()
        assert caught.value.attempts == len(server.ledger.of("other")) == (3 if is_repeated else 1)
    server.heal()
    server.on("other", fault.answers(429), 1)
    assert api.request(method, "/other", idempotent=idempotent)["path"] == "/v1/other"


@pytest.mark.row("L7")
def test_request_sends_what_it_is_told(api: Any, server: FaultServer) -> None:
    """A request has the method, path, query and body that it was given, and returns what the service has."""
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        body = None if method == "GET" else {"name": "é", "list": [1, None]}
        data = api.request(method, "/other/a%20b/~x'", params={"q": "a b&c=é", "n": 1, "none": None}, json=body)
        assert data == {"path": "/v1/other/a%20b/~x'", "query": {"q": "a b&c=é", "n": "1"}, "json": body}
        assert server.ledger.requests[-1].method == method
    check_requests(server)


@pytest.mark.row("L7")
@pytest.mark.parametrize("way", ["blocking httpx", "async httpx", "async aiohttp", "async observed"])
def test_every_pool(way: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call works over the caller's own client or session as well, and where aiohttp is observed."""
    flavour = way.split()[0]
    if way == "async observed":
        seen = observe_aiohttp(monkeypatch)
    with opened(flavour, server) as plain:
        session_id = plain.new_session(session_request()).session_id
        expected = [call.do(plain, session_id) for call in CALLS]
        plain_requests = [_sent(request) for request in server.ledger.requests[2:]]
        server.ledger.forget_requests()
        settings: dict[str, Any] = {}
        if way == "blocking httpx":
            settings["http_client"] = httpx.Client()
        elif way == "async httpx":
            settings["http_client"] = httpx.AsyncClient()
        elif way == "async aiohttp":
            settings["session"] = plain.runner.run(_new_session())
        with opened(flavour, server, **settings) as api:
            if hasattr(api, "runner"):
                api.runner.close()
                api.runner = plain.runner
            api.adopt_session(session_id, plain.session_token)
            assert [call.do(api, session_id) for call in CALLS] == expected
            if "http_client" in settings:
                closing = settings["http_client"].close if flavour == "blocking" else None
                closing() if closing else plain.runner.run(settings["http_client"].aclose())
            if "session" in settings:
                plain.runner.run(settings["session"].close())
            api.release_session(session_id)
            if hasattr(api, "runner"):
                plain.runner.run(api.api.aclose())
                api.runner = asyncio.Runner()
        assert [_sent(request) for request in server.ledger.requests] == plain_requests
    if way == "async observed":
        assert "/v1/sessions/keep-alive" in seen


async def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


def _sent(request: Any) -> tuple[Any, ...]:
    return request.method, request.path, request.query, request.json, request.api_key, request.bearer


# ---- Pages -------------------------------------------------------------------------------------------------


def page_of(ids: list[str], count: int, next_page: str | None = None) -> dict[str, Any]:
    results = [fault.session_info(each, "running") for each in ids]
    return {"code": 1000, "data": {"count": count, "next": next_page, "results": results}, "message": "Sessions"}


@pytest.mark.row("L8")
@pytest.mark.parametrize("kind", ["cut", "lost", "500"])
def test_page_fails_once(kind: str, api: Any, server: FaultServer) -> None:
    """A page that fails once is fetched again; the list is complete and has no duplicates."""
    ids = [api.new_session(session_request()).session_id for _ in range(5)]
    server.on("list", fault.normal, 1)
    server.on("list", {"cut": fault.cut(), "lost": fault.resets(), "500": fault.answers(500)}[kind], 1)
    assert [record.id for record in api.list_sessions(page_size=2)] == ids
    assert [request.query["page"] for request in server.ledger.of("list")] == ["1", "2", "2", "3"]


@pytest.mark.row("L8")
def test_page_fails_for_ever(api: Any, server: FaultServer) -> None:
    """A page that keeps failing raises after the entries of the pages before it were returned."""
    ids = [api.new_session(session_request()).session_id for _ in range(5)]
    server.on("list", fault.normal, 1)
    server.on("list", fault.answers(500))
    sessions = api.list_sessions(page_size=2)
    assert [next(sessions).id, next(sessions).id] == ids[:2]
    with pytest.raises(ServerError):
        next(sessions)
    assert len(server.ledger.of("list")) == 4


@pytest.mark.row("L8")
@pytest.mark.parametrize(
    ("count", "found"), [(2, 2), (0, 2), (1_000_000, 2)], ids=["right count", "count too low", "count too high"]
)
def test_endless_next(count: int, found: int, api: Any, server: FaultServer) -> None:
    """A service that names a next page for ever, and repeats its entries, does not keep a list from ending."""
    ids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(2)]
    server.on("list", fault.answers(200, page_of(ids, count, f"{server.url}/sessions?page=2")))
    assert [record.id for record in api.list_sessions(page_size=2)] == ids[:found]
    assert len(server.ledger.of("list")) < 10


@pytest.mark.row("L8")
def test_unsteady_count(api: Any, server: FaultServer) -> None:
    """A count that is lower on every other page loses no session and lists none twice."""
    ids = [api.new_session(session_request()).session_id for _ in range(9)]
    counts = itertools.cycle([9, 4])
    server.on("list", fault.edits(lambda envelope: envelope["data"].update(count=next(counts))))
    assert [record.id for record in api.list_sessions(page_size=2)] == ids
    assert len(server.ledger.of("list")) < 20


@pytest.mark.row("L8")
def test_next_page_elsewhere(api: Any, server: FaultServer) -> None:
    """The address of the next page is not followed: no credential goes to another host."""
    with serving() as elsewhere:
        server.on("list", fault.answers(200, page_of(["a"], 2, f"{elsewhere.url}/sessions?page=2")), 1)
        server.on("list", fault.answers(200, page_of(["b"], 2)))
        assert [record.id for record in api.list_sessions(page_size=1)] == ["a", "b"]
        assert elsewhere.ledger.connections == 0
