"""The checks of the live service, run against the mock server: one that is true to it, and one that is not."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from liveavatar.mock import MockServer, mock_server

from scripts import live

pytestmark = pytest.mark.scripts

SCRIPT = Path(live.__file__)
Body = dict[str, Any]
Change = Callable[[int, Body], tuple[int, Body]]


class Between(httpx.HTTPTransport):
    """A transport that changes what comes back from the mock server, and counts what it sends."""

    change: Callable[[httpx.Request, int, Body], tuple[int, Body]] | None = None
    interrupt_at: int | None = None
    signal = signal.SIGINT
    sent = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        self.sent += 1
        if self.sent == self.interrupt_at:
            response.read()
            signal.raise_signal(self.signal)
        if self.change is None:
            return response
        status, body = self.change(request, response.status_code, json.loads(response.read()))
        response.close()
        return httpx.Response(status, json=body, headers={"X-RateLimit-Limit": "20"})


@pytest.fixture
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockServer]:
    """Run a mock server for clients made without arguments."""
    with mock_server(**getattr(request, "param", {})) as service:
        monkeypatch.setenv("LIVEAVATAR_BASE_URL", service.base_url)
        monkeypatch.setenv("LIVEAVATAR_API_KEY", service.api_key)
        yield service


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    """Send the requests of the checks through a transport of the test."""
    transport = Between()
    monkeypatch.setattr("httpx.Client", functools.partial(httpx.Client, transport=transport))
    return transport


def verdicts(output: str) -> dict[str, tuple[str, str]]:
    """Return verdict and detail of each assumption."""
    found, last = {}, ""
    for line in output.splitlines()[1:-1]:
        verdict, text = line[:10].strip(), line[10:].strip()
        if verdict:
            last, found[text] = text, (verdict, "")
        else:
            found[last] = (found[last][0], text)
    return found


def test_mock_server(service: MockServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The mock server confirms every assumption about the service, and nothing is left running."""
    assert live.main([]) == 0
    output = capsys.readouterr().out
    found = verdicts(output)
    assert found == dict.fromkeys(map(str, live.Assumption), ("confirmed", "")), output
    assert output.endswith(f"\n{len(live.Assumption)} confirmed, 0 refuted, 0 not tried\n")
    assert service.running_sessions == []
    assert all(session.is_sandbox for session in service.sessions)


def test_base_url_without_a_path(
    service: MockServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base URL without a path means the same as one ending in /v1."""
    monkeypatch.setenv("LIVEAVATAR_BASE_URL", service.url)
    assert live.main([]) == 0
    assert "0 refuted" in capsys.readouterr().out


def status(new: int) -> Change:
    """Return a change of the status."""
    return lambda _, body: (new, body)


def data(**fields: Any) -> Change:
    """Return a change of fields in the data."""
    return lambda status, body: (status, {**body, "data": {**body["data"], **fields}})


def failed(new: int, code: int, message: str) -> Change:
    """Return a change into a refusal."""
    return lambda *_: (new, {"code": code, "data": None, "message": message})


LIES: dict[str, tuple[str, Callable[[httpx.Request, int], bool], Change, str, str]] = {
    "status of start": (
        "/sessions/start",
        lambda _, status: status == 201,
        status(200),
        "start: success is status 201",
        "came: status 200, code 1000",
    ),
    "success code": (
        "/sessions/start",
        lambda _, status: status == 201,
        lambda status, body: (status, {**body, "code": 100}),
        "start: success is code 1000",
        "code 100",
    ),
    "both credentials": (
        "/sessions/start",
        lambda request, _: "x-api-key" in request.headers and "authorization" in request.headers,
        failed(400, 4000, "not both"),
        "start: API key and session token in one request are accepted",
        "came: status 400, code 4000, message 'not both'",
    ),
    "ws_url": (
        "/sessions/start",
        lambda _, status: status == 201,
        data(ws_url=None),
        "start: ws_url is given in LITE",
        "came: only ['livekit_url', 'livekit_client_token']",
    ),
    "words of the limit": (
        "/sessions/token",
        lambda _, status: status == 400,
        lambda status, body: (status, {**body, "message": "Too long."}),
        "token: its message names the limit, 60 s",
        "message 'Too long.'",
    ),
    "status of the limit": (
        "/sessions/token",
        lambda _, status: status == 400,
        status(422),
        "token: a longer session than is allowed is a 400 with code 4000",
        "came: status 422",
    ),
    "second stop": (
        "/sessions/stop",
        lambda _, status: status == 409,
        status(500),
        "stop: a second stop is a 409 or a 404",
        "came: status 500",
    ),
    "unknown id": (
        "/sessions/stop",
        lambda _, status: status == 404,
        status(200),
        "stop: an unknown id is a 404",
        "came: status 200",
    ),
    "empty keep-alive": (
        "/sessions/keep-alive",
        lambda _, status: status == 400,
        status(200),
        "keep-alive: the API key with an empty body is a 400",
        "came: status 200",
    ),
    "page without a count": (
        "/sessions",
        lambda request, _: "active" in str(request.url.query),
        lambda status, body: (status, {**body, "data": {"sessions": []}}),
        "list: data holds count and results",
        "fields ['sessions']",
    ),
    "another end reason": (
        "/sessions",
        lambda request, _: "historic" in str(request.url.query),
        lambda status, body: (
            status,
            {
                **body,
                "data": {
                    **body["data"],
                    "results": [{**entry, "end_reason": "UNKNOWN"} for entry in body["data"]["results"]],
                },
            },
        ),
        "stop: without a body the end reason is USER_CLOSED",
        "came: UNKNOWN",
    ),
    "null refused": (
        "/sessions/token",
        lambda request, _: b"null" in request.content,
        failed(422, 4220, "not null"),
        "token: null in an optional field means not given",
        "message 'not null'",
    ),
    "plain token": (
        "/sessions/token",
        lambda _, status: status == 200,
        data(session_token="not-a-jwt"),
        "token: the session token is a JWT whose start_session_data holds the mode",
        "came: claims []",
    ),
    "headers of the rate limit": (
        "/sessions/stop",
        lambda *_: True,
        lambda status, body: (status, body),
        live.Assumption.RATE_LIMITS,
        "came: without X-RateLimit-Remaining, X-RateLimit-Reset",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_refuted(name: str, service: MockServer, between: Between, capsys: pytest.CaptureFixture[str]) -> None:
    """What the server does otherwise is refuted, with what came instead; nothing is left running."""
    path, concerned, change, assumption, came = LIES[name]

    def lie(request: httpx.Request, status: int, body: Body) -> tuple[int, Body]:
        return (
            change(status, body) if request.url.path.endswith(path) and concerned(request, status) else (status, body)
        )

    between.change = lie
    assert live.main([]) == 1
    verdict, detail = verdicts(capsys.readouterr().out)[assumption]
    assert verdict == "refuted"
    assert came in detail
    assert service.running_sessions == []


def test_not_tried(service: MockServer, between: Between, capsys: pytest.CaptureFixture[str]) -> None:
    """A room that the service refuses is not tried, and the reason names what to set."""

    def refuse_rooms(request: httpx.Request, status: int, body: Body) -> tuple[int, Body]:
        if b"livekit_config" in request.content and b"null" not in request.content:
            return 500, {"code": 5000, "data": None, "message": "no such room"}
        return status, body

    between.change = refuse_rooms
    live.main([])
    verdict, detail = verdicts(capsys.readouterr().out)["start: ws_url is given in the caller's own LiveKit room"]
    assert verdict == "not tried"
    assert "no such room" in detail


@pytest.mark.parametrize("service", [{}], indirect=True, ids=["no rate limit"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(
    number: signal.Signals, service: MockServer, between: Between, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever response a signal follows, every session is stopped; it does not break off the stops."""
    between.signal = number
    assert live.main([]) == 0
    for interrupted_at in range(1, between.sent + 1):
        between.sent, between.interrupt_at = 0, interrupted_at
        assert live.main([]) == 1 or between.sent == interrupted_at
        assert service.running_sessions == []
    assert "interrupted" in capsys.readouterr().err


def test_stop_fails(service: MockServer, between: Between, capsys: pytest.CaptureFixture[str]) -> None:
    """A session that cannot be stopped is named, and is a failure."""

    def refuse_stops(request: httpx.Request, status: int, body: Body) -> tuple[int, Body]:
        return (503, {"code": 5030}) if request.url.path.endswith("/stop") else (status, body)

    between.change = refuse_stops
    assert live.main([]) == 1
    error = capsys.readouterr().err
    assert "may still be running, for a minute at most" in error
    assert service.sessions[0].id in error or any(session.id in error for session in service.sessions)


def test_connection_lost(service: MockServer, between: Between, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken connection ends the checks in one line that says so."""

    def break_off(request: httpx.Request, status: int, body: Body) -> tuple[int, Body]:
        if request.url.path.endswith("/keep-alive"):
            raise httpx.ReadError("connection reset")
        return status, body

    between.change = break_off
    assert live.main([]) == 1
    streams = capsys.readouterr()
    assert "the checks broke off: ReadError: connection reset" in streams.err
    assert verdicts(streams.out)[live.Assumption.STOP_TOKEN][0] == "not tried"
    assert service.running_sessions == []


@pytest.mark.parametrize("path", ["/sessions/token", "/sessions/start"])
def test_every_assumption_has_a_verdict(
    path: str, service: MockServer, between: Between, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the service refuses a call altogether, what depends on it is not tried, and says so."""

    def refuse(request: httpx.Request, status: int, body: Body) -> tuple[int, Body]:
        refusal = {"code": 4030, "data": None, "message": "not in your plan"}
        return (403, refusal) if request.url.path.endswith(path) else (status, body)

    between.change = refuse
    assert live.main([]) == 1
    found = verdicts(capsys.readouterr().out)
    assert set(found) == set(map(str, live.Assumption))
    verdict, detail = found[live.Assumption.WS_URL]
    assert verdict == "not tried"
    assert "not in your plan" in detail


def test_no_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a key the checks do not begin, and say what is missing."""
    monkeypatch.setenv("LIVEAVATAR_API_KEY", " ")
    assert live.main([]) == 2
    assert "LIVEAVATAR_API_KEY is not set" in capsys.readouterr().err


def test_no_secret(service: MockServer, between: Between, capsys: pytest.CaptureFixture[str]) -> None:
    """No key and no token is printed, whatever is refuted."""
    seen: list[str] = []

    def remember(request: httpx.Request, status: int, body: Body) -> tuple[int, Body]:
        if isinstance(body.get("data"), dict):
            seen.extend(value for name, value in body["data"].items() if "token" in name and value)
            seen.extend(value for name, value in body["data"].items() if name == "ws_url" and value)
        return status + 1, {**body, "code": 100}

    between.change = remember
    assert live.main([]) == 1
    streams = capsys.readouterr()
    assert seen
    assert not [secret for secret in [*seen, service.api_key] if secret in streams.out + streams.err]


def test_command(service: MockServer) -> None:
    """The command prints its report; SIGINT at any moment leaves no session."""
    with subprocess.Popen([sys.executable, SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        while not service.running_sessions and run.poll() is None:
            time.sleep(0.005)
        run.send_signal(signal.SIGINT)
        output, error = run.communicate(timeout=60)
    assert run.returncode in (0, 1), error
    assert "Traceback" not in error
    assert "refuted" in output
    assert service.running_sessions == []


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The help says what is opened, what it costs and what is set."""
    with pytest.raises(SystemExit) as ended:
        live.main(["--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    for word in ("cost nothing", "LIVEAVATAR_API_KEY", "LIVEAVATAR_BASE_URL", "exit status"):
        assert word in output
