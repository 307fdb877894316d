"""Check what this project assumes about the live service and cannot prove without an account.

    LIVEAVATAR_API_KEY=... python scripts/live.py

A few sessions of the free sandbox avatar are opened and stopped; they cost nothing. Each assumption is reported as
confirmed, as refuted with what came instead, or as not tried with the reason. Plain httpx sends the requests, because
the service is examined here and not the client. Every session that was started is stopped at the end, after Ctrl-C
too. LIVEAVATAR_BASE_URL points the same checks at a mock server.

The exit status is 0 when nothing was refuted, 1 when something was or a session may still be running, and 2 when the
checks could not begin.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple

import httpx
from liveavatar import AsyncLiveAvatarApi

SANDBOX_AVATAR = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
SANDBOX_SECONDS = 60
TIMEOUT_SECONDS = 30
STOP_SECONDS = 10
RATE_LIMIT_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
LITE_OPTIONS = (
    "video_settings",
    "max_session_duration",
    "livekit_config",
    "agora_config",
    "elevenlabs_agent_config",
    "openai_realtime_config",
    "gemini_realtime_config",
)
ENTRY_FIELDS: dict[str, type | tuple[type, ...]] = {
    "created_at": str,
    "updated_at": str,
    "duration": int,
    "source": str,
    "mode": str,
    "is_sandbox": bool,
    "credits_consumed": (int, float),
}


class NotTriedError(Exception):
    """An assumption cannot be tried; the message says why."""


class Reply(NamedTuple):
    """A response of the service.

    Attributes:
        status: HTTP status.
        body: the parsed JSON, or None when it is not an object.
        headers: the response's headers.
    """

    status: int
    body: dict[str, Any] | None
    headers: httpx.Headers

    @property
    def data(self) -> Any:
        """The data in the envelope."""
        return (self.body or {}).get("data")

    @property
    def code(self) -> Any:
        """The code in the envelope."""
        return (self.body or {}).get("code")

    def __str__(self) -> str:
        message = (self.body or {}).get("message")
        return f"status {self.status}, code {self.code}, message {message!r}"


class Session(NamedTuple):
    """A session whose token has been created."""

    id: str
    token: str


class Service:
    """The service, and the sessions that were opened there."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.http = httpx.Client(base_url=base_url, timeout=TIMEOUT_SECONDS)
        self.key = {"X-API-KEY": api_key}
        self.running: list[str] = []  # ids of sessions whose start was sent and whose stop was not confirmed
        self.replies: list[Reply] = []

    def send(self, method: str, path: str, headers: dict[str, str], **options: Any) -> Reply:
        """Send a request; after a 429 wait as long as the service asks, and send it once more."""
        response = self.http.request(method, path, headers=headers, **options)
        if response.status_code == 429:
            time.sleep(min(float(response.headers.get("Retry-After", 1)), TIMEOUT_SECONDS))
            response = self.http.request(method, path, headers=headers, **options)
        try:
            body = response.json()
        except ValueError:
            body = None
        reply = Reply(response.status_code, body if isinstance(body, dict) else None, response.headers)
        self.replies.append(reply)
        return reply

    def token(self, **options: Any) -> Reply:
        """Create the token of a free sandbox session."""
        body = {"mode": "LITE", "avatar_id": SANDBOX_AVATAR, "is_sandbox": True, **options}
        return self.send("POST", "/sessions/token", self.key, json=body)

    def create(self, **options: Any) -> Session:
        """Return a new session that has not started.

        Raises:
            NotTriedError: the service refuses.
        """
        reply = self.token(**options)
        if not isinstance(reply.data, dict) or not {"session_id", "session_token"} <= reply.data.keys():
            raise NotTriedError(f"no session token: {reply}")
        return Session(reply.data["session_id"], reply.data["session_token"])

    def start(self, session: Session, *, both: bool = False, **options: Any) -> Reply:
        """Start a session with its token, or with token and API key in one request."""
        self.running.append(session.id)
        return self.send("POST", "/sessions/start", bearer(session) | (self.key if both else {}), **options)

    def stop(self, session: Session | None, headers: dict[str, str], **options: Any) -> Reply:
        """Stop a session with the given credentials; None for a stop that names no session of ours."""
        reply = self.send("POST", "/sessions/stop", headers, **options)
        if session and reply.status < 300:
            self.running = [session_id for session_id in self.running if session_id != session.id]
        return reply

    def stop_all(self) -> list[str]:
        """Stop every session that may still be running, and return the ids of those that could not be stopped."""
        left = []
        for session_id in dict.fromkeys(self.running):
            body = {"session_id": session_id, "reason": "USER_CLOSED"}
            try:
                reply = self.send("POST", "/sessions/stop", self.key, json=body, timeout=STOP_SECONDS)
            except httpx.HTTPError:
                left.append(session_id)
            else:
                if not (reply.status < 300 or reply.status in (404, 409)):
                    left.append(session_id)
        return left


def bearer(session: Session) -> dict[str, str]:
    """Return the header with a session's token."""
    return {"Authorization": f"Bearer {session.token}"}


class Report:
    """The verdicts, printed as they come."""

    def __init__(self) -> None:
        self.counts = {"confirmed": 0, "refuted": 0, "not tried": 0}

    def confirm(self, assumption: str, *, when: bool, else_came: object) -> None:
        """Report an assumption as confirmed, or as refuted with what came instead."""
        if when:
            self._line("confirmed", assumption)
        else:
            self._line("refuted", assumption, f"came: {else_came}")

    def not_tried(self, assumption: str, reason: object) -> None:
        """Report an assumption as not tried."""
        self._line("not tried", assumption, str(reason))

    def _line(self, verdict: str, assumption: str, detail: str = "") -> None:
        self.counts[verdict] += 1
        print(f"{verdict:<10} {assumption}" + (f"\n{'':<10} {detail}" if detail else ""), flush=True)


Check = Callable[[Service, Report], None]
CHECKS: dict[Check, tuple[str, ...]] = {}


def check(*assumptions: str) -> Callable[[Check], Check]:
    """Register a check, with what it is about when it cannot be tried."""

    def register(function: Check) -> Check:
        CHECKS[function] = assumptions
        return function

    return register


@check("credentials")
def credentials(service: Service, report: Report) -> None:
    """Check that a wrong credential is a 401 on every endpoint."""
    body = {"mode": "LITE", "avatar_id": SANDBOX_AVATAR, "is_sandbox": True}
    reply = service.send("POST", "/sessions/token", {"X-API-KEY": str(uuid.uuid4())}, json=body)
    report.confirm("token: a wrong API key is a 401", when=reply.status == 401, else_came=reply)
    session = service.create()
    reply = service.send("POST", "/sessions/token", bearer(session), json=body)
    report.confirm(
        "token: a session token in place of the API key is a 401", when=reply.status == 401, else_came=reply
    )
    reply = service.send("POST", "/sessions/start", service.key)
    report.confirm(
        "start: the API key in place of the session token is a 401", when=reply.status == 401, else_came=reply
    )


@check("token: limits and nulls")
def token(service: Service, report: Report) -> None:
    """Check the limits, nulls and defaults of a token's request."""
    reply = service.token(max_session_duration=600)
    words = str((reply.body or {}).get("message"))
    stated = re.search(r"max_session_duration \(600s\) exceeds the maximum allowed \((\d+)s\)", words)
    report.confirm(
        "token: a longer session than is allowed is a 400 with code 4000",
        when=(reply.status, reply.code) == (400, 4000),
        else_came=reply,
    )
    report.confirm("token: its message names the limit, 60 s", when=bool(stated) and "(60s)" in words, else_came=reply)
    reply = service.token(**dict.fromkeys(LITE_OPTIONS))
    report.confirm("token: null in an optional field means not given", when=reply.status < 300, else_came=reply)
    reply = service.token(video_settings={"quality": "high"})
    report.confirm("token: video_settings needs no encoding", when=reply.status < 300, else_came=reply)
    body = {"avatar_id": SANDBOX_AVATAR, "is_sandbox": True}
    reply = service.send("POST", "/sessions/token", service.key, json=body)
    report.confirm("token: a request needs no mode", when=reply.status < 300, else_came=reply)


@check("a LITE session, stopped by its token")
def lite(service: Service, report: Report) -> None:
    """Check one session from its token to after its end."""
    minted = service.token()
    report.confirm("token: success is status 200", when=minted.status == 200, else_came=minted)
    report.confirm("token: success is code 1000", when=minted.code == 1000, else_came=minted)
    if not isinstance(minted.data, dict):
        raise NotTriedError(f"no session token: {minted}")
    session = Session(str(minted.data.get("session_id")), str(minted.data.get("session_token")))
    claims = claims_of(session.token)
    mode = (claims.get("start_session_data") or {}).get("mode")
    report.confirm(
        "token: the session token is a JWT whose start_session_data holds the mode",
        when=mode == "LITE",
        else_came=f"claims {sorted(claims)}",
    )

    started = service.start(session, both=True)
    report.confirm(
        "start: API key and session token in one request are accepted", when=started.status < 300, else_came=started
    )
    if started.status >= 300:
        started = service.start(session)
    if started.status >= 300 or not isinstance(started.data, dict):
        raise NotTriedError(f"the session did not start: {started}")
    report.confirm("start: success is status 201", when=started.status == 201, else_came=started)
    report.confirm("start: success is code 1000", when=started.code == 1000, else_came=started)
    same = started.data.get("session_id") == session.id
    report.confirm("start: the token's session is meant", when=same, else_came=started.data.get("session_id"))
    given = [name for name in ("livekit_url", "livekit_client_token", "ws_url") if started.data.get(name)]
    report.confirm("start: ws_url is given in LITE", when="ws_url" in given, else_came=f"only {given}")
    agent = started.data.get("livekit_agent_token")
    report.confirm(
        "start: livekit_agent_token is given in a room of the service's own", when=bool(agent), else_came=agent
    )
    longest = started.data.get("max_session_duration")
    report.confirm("start: a sandbox session may last 60 s", when=longest == SANDBOX_SECONDS, else_came=longest)
    reply = service.start(session)
    report.confirm("start: a second start is a 409", when=reply.status == 409, else_came=reply)

    keep_alive(service, report, session)
    entries(service, report, session)
    reply = service.send("DELETE", f"/sessions/{session.id}", service.key)
    report.confirm("DELETE of a session is a 405", when=reply.status == 405, else_came=reply)

    reply = service.stop(session, bearer(session))
    report.confirm("stop: the session token needs no body", when=reply.status == 200, else_came=reply)
    report.confirm("stop: success is code 1000", when=reply.code == 1000, else_came=reply)
    reply = service.stop(session, bearer(session))
    report.confirm("stop: a second stop is a 409 or a 404", when=reply.status in (404, 409), else_came=reply)
    reply = service.send("POST", "/sessions/keep-alive", service.key, json={"session_id": session.id})
    report.confirm("keep-alive: after the end it is refused", when=400 <= reply.status < 500, else_came=reply)
    end_reason(service, report, session, "USER_CLOSED", "without a body")


def keep_alive(service: Service, report: Report, session: Session) -> None:
    """Check keep-alive while a session runs."""
    path, body = "/sessions/keep-alive", {"session_id": session.id}
    reply = service.send("POST", path, bearer(session))
    report.confirm("keep-alive: the session token needs no body", when=reply.status == 200, else_came=reply)
    reply = service.send("POST", path, service.key, json=body)
    report.confirm("keep-alive: the API key takes session_id", when=reply.status == 200, else_came=reply)
    reply = service.send("POST", path, service.key, json={})
    report.confirm("keep-alive: the API key with an empty body is a 400", when=reply.status == 400, else_came=reply)


def entries(service: Service, report: Report, session: Session) -> None:
    """Check list and get while a session runs."""
    reply = service.send("GET", "/sessions", service.key, params={"type": "active", "page_size": 100})
    page = reply.data if isinstance(reply.data, dict) else {}
    shaped = isinstance(page.get("count"), int) and isinstance(page.get("results"), list)
    report.confirm("list: data holds count and results", when=shaped, else_came=f"{reply}, fields {sorted(page)}")
    results: list[dict[str, Any]] = page["results"] if shaped else []
    found = [entry for entry in results if entry.get("id") == session.id]
    names = sorted({name for entry in results for name in entry})
    report.confirm("list: a running session is active, its id in 'id'", when=bool(found), else_came=f"fields {names}")
    reply = service.send("GET", f"/sessions/{session.id}", service.key)
    entry = reply.data if isinstance(reply.data, dict) else {}
    wrong = [name for name, kind in ENTRY_FIELDS.items() if not isinstance(entry.get(name), kind)]
    report.confirm(
        "get: an entry has the published fields",
        when=not wrong,
        else_came=f"{reply}, missing or of another type {wrong}",
    )
    reply = service.send("GET", f"/sessions/{uuid.uuid4()}", service.key)
    unknown = reply.status == 404 or (reply.status == 200 and reply.data is None)
    report.confirm("get: an unknown id is a 404 or data null", when=unknown, else_came=reply)


def end_reason(service: Service, report: Report, session: Session, expected: str, body: str) -> None:
    """Check the end reason that the service has noted for a session."""
    reply = service.send("GET", "/sessions", service.key, params={"type": "historic", "page_size": 100})
    results = reply.data.get("results") if isinstance(reply.data, dict) else None
    found = [entry.get("end_reason") for entry in results or () if entry.get("id") == session.id]
    report.confirm(
        f"stop: {body} the end reason is {expected}",
        when=found == [expected],
        else_came=f"{found[0] if found else 'no such historic session'}",
    )


@check("a LITE session, stopped with both credentials and an empty object")
def both_credentials(service: Service, report: Report) -> None:
    """Start with an empty object, and stop with both credentials."""
    session = service.create()
    reply = service.start(session, json={})
    report.confirm("start: an empty object as body does no harm", when=reply.status < 300, else_came=reply)
    reply = service.stop(session, bearer(session) | service.key, json={})
    report.confirm(
        "stop: API key and session token in one request are accepted, the token's session is meant",
        when=reply.status == 200,
        else_came=reply,
    )
    end_reason(service, report, session, "UNKNOWN", "with an empty object")


@check("a LITE session, stopped by the API key")
def stop_by_key(service: Service, report: Report) -> None:
    """Stop with the API key, and what it needs."""
    session = service.create()
    reply = service.start(session)
    if reply.status >= 300:
        raise NotTriedError(f"the session did not start: {reply}")
    reply = service.stop(None, service.key)
    report.confirm("stop: the API key without session_id is refused", when=reply.status in (400, 422), else_came=reply)
    reply = service.stop(None, service.key, json={"session_id": str(uuid.uuid4())})
    report.confirm("stop: an unknown id is a 404", when=reply.status == 404, else_came=reply)
    reply = service.stop(session, service.key, json={"session_id": session.id, "reason": "USER_CLOSED"})
    report.confirm("stop: the API key takes session_id and reason", when=reply.status == 200, else_came=reply)


@check("a session that never started")
def never_started(service: Service, report: Report) -> None:
    """Stop a session before its start."""
    session = service.create()
    reply = service.stop(session, bearer(session))
    report.confirm(
        "stop: a session that has not started is stopped, or refused with 404 or 409",
        when=reply.status in (200, 404, 409),
        else_came=reply,
    )
    if reply.status == 200:
        reply = service.start(session)
        report.confirm("start: after a stop it is refused", when=400 <= reply.status < 500, else_came=reply)


@check("start: ws_url is given in the caller's own LiveKit room")
def own_room(service: Service, report: Report) -> None:
    """Start in a LiveKit room of the caller's own."""
    names = ("LIVEKIT_URL", "LIVEKIT_ROOM", "LIVEKIT_TOKEN")
    url, room, room_token = (os.environ.get(name) for name in names)
    config = {
        "livekit_url": url or "wss://room.invalid",
        "livekit_room": room or "room",
        "livekit_client_token": room_token or "no-such-room-token",
    }
    session = service.create(livekit_config=config)
    reply = service.start(session)
    if reply.status >= 300:
        raise NotTriedError(f"the room was refused, {reply}; {', '.join(names)} name a room of your own")
    ws_url = reply.data.get("ws_url") if isinstance(reply.data, dict) else None
    report.confirm("start: ws_url is given in the caller's own LiveKit room", when=bool(ws_url), else_came=ws_url)
    service.stop(session, bearer(session))


@check("headers of rate limits")
def rate_limits(service: Service, report: Report) -> None:
    """Check that every response so far had the headers of the rate limit."""
    assumption = f"every response has {', '.join(RATE_LIMIT_HEADERS)}"
    replies = [reply for reply in service.replies if reply.status < 400]
    missing = [name for name in RATE_LIMIT_HEADERS if any(name not in reply.headers for reply in replies)]
    seen = any(name in reply.headers for reply in replies for name in RATE_LIMIT_HEADERS)
    if not seen and httpx.URL(str(service.http.base_url)).host in ("127.0.0.1", "localhost", "::1"):
        raise NotTriedError("the mock server sends them when it has a limit: --rate-limit")
    report.confirm(assumption, when=not missing, else_came=f"without {', '.join(missing)}")
    numbers = all(reply.headers.get(name, "").isdigit() for reply in replies for name in RATE_LIMIT_HEADERS)
    report.confirm("they are whole numbers", when=numbers, else_came=[dict(reply.headers) for reply in replies[:1]])


def claims_of(session_token: str) -> dict[str, Any]:
    """Return the claims of a JWT without verifying it; empty when it is not one."""
    parts = session_token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def run(service: Service) -> int:
    """Run all checks, stop what they opened and return the exit status."""
    report = Report()
    failure = None
    try:
        for function, assumptions in CHECKS.items():
            try:
                function(service, report)
            except NotTriedError as reason:
                for assumption in assumptions:
                    report.not_tried(assumption, reason)
    except httpx.HTTPError as error:
        failure = f"the checks broke off: {type(error).__name__}: {error}"
    except KeyboardInterrupt:
        failure = "interrupted"
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        left = service.stop_all()
        service.http.close()
    print(", ".join(f"{count} {verdict}" for verdict, count in report.counts.items()))
    if failure:
        print(f"live.py: {failure}", file=sys.stderr)
    if left:
        print(f"live.py: may still be running, for a minute at most: {' '.join(left)}", file=sys.stderr)
    return 1 if failure or left or report.counts["refuted"] else 0


def interrupt(number: int, frame: FrameType | None) -> None:
    """Treat SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks against the service that the environment names."""
    argparse.ArgumentParser(
        prog="live.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    api_key = os.environ.get("LIVEAVATAR_API_KEY", "").strip()
    base_url = os.environ.get("LIVEAVATAR_BASE_URL", "").strip() or AsyncLiveAvatarApi.BASE_URL
    if not api_key:
        print("live.py: LIVEAVATAR_API_KEY is not set. The sessions are free, but need an account.", file=sys.stderr)
        return 2
    try:
        service = Service(base_url if httpx.URL(base_url).path != "/" else f"{base_url.rstrip('/')}/v1", api_key)
    except (httpx.InvalidURL, ValueError) as wrong:
        print(f"live.py: {wrong}", file=sys.stderr)
        return 2
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGTERM, interrupt)
        print(f"{service.http.base_url}: free sandbox sessions of avatar {SANDBOX_AVATAR}")
        return run(service)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
