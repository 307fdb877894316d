"""Check what this project assumes about the live service and cannot prove without an account.

    LIVEAVATAR_API_KEY=... python scripts/live.py

A few sessions of the free sandbox avatar are opened and stopped; they cost nothing. Each assumption is reported as
confirmed, as refuted with what came instead, or as not tried with the reason. Plain httpx sends the requests, because
the service is examined here and not the client. Every session that was started is stopped at the end, after Ctrl-C
too. LIVEAVATAR_BASE_URL points the same checks at a mock server, which confirms all of them.

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
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
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


class Assumption(StrEnum):
    """What the project assumes about the service, in the order in which it is checked."""

    WRONG_KEY = "token: a wrong API key is a 401"
    TOKEN_AS_KEY = "token: a session token in place of the API key is a 401"
    KEY_AS_TOKEN = "start: the API key in place of the session token is a 401"
    TOO_LONG = "token: a longer session than is allowed is a 400 with code 4000"
    LIMIT_IN_WORDS = "token: its message names the limit, 60 s"
    NULL = "token: null in an optional field means not given"
    NO_ENCODING = "token: video_settings needs no encoding"
    NO_MODE = "token: a request needs no mode"
    TOKEN_STATUS = "token: success is status 200"
    TOKEN_CODE = "token: success is code 1000"
    TOKEN_CLAIMS = "token: the session token is a JWT whose start_session_data holds the mode"
    START_BOTH = "start: API key and session token in one request are accepted"
    START_STATUS = "start: success is status 201"
    START_CODE = "start: success is code 1000"
    START_ID = "start: the token's session is meant"
    WS_URL = "start: ws_url is given in LITE"
    AGENT_TOKEN = "start: livekit_agent_token is given in a room of the service's own"
    SANDBOX_LIMIT = "start: a sandbox session may last 60 s"
    START_TWICE = "start: a second start is a 409"
    KEEP_ALIVE_TOKEN = "keep-alive: the session token needs no body"
    KEEP_ALIVE_KEY = "keep-alive: the API key takes session_id"
    KEEP_ALIVE_EMPTY = "keep-alive: the API key with an empty body is a 400"
    LIST_SHAPE = "list: data holds count and results"
    LIST_ID = "list: a running session is active, its id in 'id'"
    ENTRY = "get: an entry has the published fields"
    UNKNOWN_ENTRY = "get: an unknown id is a 404 or data null"
    DELETE = "DELETE of a session is a 405"
    STOP_TOKEN = "stop: the session token needs no body"
    STOP_CODE = "stop: success is code 1000"
    STOP_TWICE = "stop: a second stop is a 409 or a 404"
    KEEP_ALIVE_ENDED = "keep-alive: after the end it is refused"
    REASON_WITHOUT_BODY = "stop: without a body the end reason is USER_CLOSED"
    START_EMPTY = "start: an empty object as body does no harm"
    STOP_BOTH = "stop: API key and session token in one request are accepted, the token's session is meant"
    REASON_EMPTY = "stop: with an empty object the end reason is UNKNOWN"
    STOP_WITHOUT_ID = "stop: the API key without session_id is refused"
    STOP_UNKNOWN = "stop: an unknown id is a 404"
    STOP_KEY = "stop: the API key takes session_id and reason"
    STOP_BEFORE_START = "stop: a session that has not started is stopped, or refused with 404 or 409"
    START_AFTER_STOP = "start: after a stop it is refused"
    FULL_WS_URL = "start: ws_url is not given in FULL"
    TRANSCRIPT = "transcript: data holds session_active and transcript_data"
    OWN_ROOM_WS_URL = "start: ws_url is given in the caller's own LiveKit room"
    RATE_LIMITS = "every response has X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset"
    RATE_LIMIT_NUMBERS = "the headers of the rate limit are whole numbers"


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
            seconds = response.headers.get("Retry-After", "")
            time.sleep(min(int(seconds) if seconds.isdecimal() else 1, TIMEOUT_SECONDS))
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
        self.verdicts: dict[Assumption, str] = {}

    def confirm(self, assumption: Assumption, *, when: bool, else_came: object) -> None:
        """Report an assumption as confirmed, or as refuted with what came instead."""
        self._line(assumption, "confirmed" if when else "refuted", "" if when else f"came: {else_came}")

    def not_tried(self, assumptions: Iterable[Assumption], reason: object) -> None:
        """Report those of the assumptions that have no verdict as not tried."""
        for assumption in assumptions:
            if assumption not in self.verdicts:
                self._line(assumption, "not tried", str(reason))

    def count(self, verdict: str) -> int:
        """Return how many assumptions have a verdict."""
        return list(self.verdicts.values()).count(verdict)

    def _line(self, assumption: Assumption, verdict: str, detail: str) -> None:
        self.verdicts[assumption] = verdict
        print(f"{verdict:<10} {assumption}" + (f"\n{'':<10} {detail}" if detail else ""), flush=True)


Check = Callable[[Service, Report], None]
CHECKS: dict[Check, tuple[Assumption, ...]] = {}


def check(first: Assumption, last: Assumption) -> Callable[[Check], Check]:
    """Register a check of the assumptions from the first to the last."""
    every = list(Assumption)

    def register(function: Check) -> Check:
        CHECKS[function] = tuple(every[every.index(first) : every.index(last) + 1])
        return function

    return register


@check(Assumption.WRONG_KEY, Assumption.KEY_AS_TOKEN)
def credentials(service: Service, report: Report) -> None:
    """Check that a wrong credential is a 401 on every endpoint."""
    body = {"mode": "LITE", "avatar_id": SANDBOX_AVATAR, "is_sandbox": True}
    reply = service.send("POST", "/sessions/token", {"X-API-KEY": str(uuid.uuid4())}, json=body)
    report.confirm(Assumption.WRONG_KEY, when=reply.status == 401, else_came=reply)
    session = service.create()
    reply = service.send("POST", "/sessions/token", bearer(session), json=body)
    report.confirm(Assumption.TOKEN_AS_KEY, when=reply.status == 401, else_came=reply)
    reply = service.send("POST", "/sessions/start", service.key)
    report.confirm(Assumption.KEY_AS_TOKEN, when=reply.status == 401, else_came=reply)


@check(Assumption.TOO_LONG, Assumption.NO_MODE)
def token(service: Service, report: Report) -> None:
    """Check the limits, nulls and defaults of a token's request."""
    reply = service.token(max_session_duration=600)
    words = str((reply.body or {}).get("message"))
    stated = re.search(r"max_session_duration \(600s\) exceeds the maximum allowed \((\d+)s\)", words)
    report.confirm(
        Assumption.TOO_LONG,
        when=(reply.status, reply.code) == (400, 4000),
        else_came=reply,
    )
    report.confirm(Assumption.LIMIT_IN_WORDS, when=bool(stated) and "(60s)" in words, else_came=reply)
    reply = service.token(**dict.fromkeys(LITE_OPTIONS))
    report.confirm(Assumption.NULL, when=reply.status < 300, else_came=reply)
    reply = service.token(video_settings={"quality": "high"})
    report.confirm(Assumption.NO_ENCODING, when=reply.status < 300, else_came=reply)
    body = {"avatar_id": SANDBOX_AVATAR, "is_sandbox": True}
    reply = service.send("POST", "/sessions/token", service.key, json=body)
    report.confirm(Assumption.NO_MODE, when=reply.status < 300, else_came=reply)


@check(Assumption.TOKEN_STATUS, Assumption.REASON_WITHOUT_BODY)
def lite(service: Service, report: Report) -> None:
    """Check one session from its token to after its end."""
    created = service.token()
    report.confirm(Assumption.TOKEN_STATUS, when=created.status == 200, else_came=created)
    report.confirm(Assumption.TOKEN_CODE, when=created.code == 1000, else_came=created)
    if not isinstance(created.data, dict):
        raise NotTriedError(f"no session token: {created}")
    session = Session(str(created.data.get("session_id")), str(created.data.get("session_token")))
    claims = claims_of(session.token)
    mode = (claims.get("start_session_data") or {}).get("mode")
    report.confirm(
        Assumption.TOKEN_CLAIMS,
        when=mode == "LITE",
        else_came=f"claims {sorted(claims)}",
    )

    started = service.start(session, both=True)
    report.confirm(Assumption.START_BOTH, when=started.status < 300, else_came=started)
    if started.status >= 300:
        started = service.start(session)
    if started.status >= 300 or not isinstance(started.data, dict):
        raise NotTriedError(f"the session did not start: {started}")
    report.confirm(Assumption.START_STATUS, when=started.status == 201, else_came=started)
    report.confirm(Assumption.START_CODE, when=started.code == 1000, else_came=started)
    same = started.data.get("session_id") == session.id
    report.confirm(Assumption.START_ID, when=same, else_came=started.data.get("session_id"))
    given = [name for name in ("livekit_url", "livekit_client_token", "ws_url") if started.data.get(name)]
    report.confirm(Assumption.WS_URL, when="ws_url" in given, else_came=f"only {given}")
    agent = started.data.get("livekit_agent_token")
    report.confirm(Assumption.AGENT_TOKEN, when=bool(agent), else_came=agent)
    longest = started.data.get("max_session_duration")
    report.confirm(Assumption.SANDBOX_LIMIT, when=longest == SANDBOX_SECONDS, else_came=longest)
    reply = service.start(session)
    report.confirm(Assumption.START_TWICE, when=reply.status == 409, else_came=reply)

    keep_alive(service, report, session)
    entries(service, report, session)
    reply = service.send("DELETE", f"/sessions/{session.id}", service.key)
    report.confirm(Assumption.DELETE, when=reply.status == 405, else_came=reply)

    reply = service.stop(session, bearer(session))
    report.confirm(Assumption.STOP_TOKEN, when=reply.status == 200, else_came=reply)
    report.confirm(Assumption.STOP_CODE, when=reply.code == 1000, else_came=reply)
    reply = service.stop(session, bearer(session))
    report.confirm(Assumption.STOP_TWICE, when=reply.status in (404, 409), else_came=reply)
    reply = service.send("POST", "/sessions/keep-alive", service.key, json={"session_id": session.id})
    report.confirm(Assumption.KEEP_ALIVE_ENDED, when=400 <= reply.status < 500, else_came=reply)
    end_reason(service, report, session, Assumption.REASON_WITHOUT_BODY, "USER_CLOSED")


def keep_alive(service: Service, report: Report, session: Session) -> None:
    """Check keep-alive while a session runs."""
    path, body = "/sessions/keep-alive", {"session_id": session.id}
    reply = service.send("POST", path, bearer(session))
    report.confirm(Assumption.KEEP_ALIVE_TOKEN, when=reply.status == 200, else_came=reply)
    reply = service.send("POST", path, service.key, json=body)
    report.confirm(Assumption.KEEP_ALIVE_KEY, when=reply.status == 200, else_came=reply)
    reply = service.send("POST", path, service.key, json={})
    report.confirm(Assumption.KEEP_ALIVE_EMPTY, when=reply.status == 400, else_came=reply)


def entries(service: Service, report: Report, session: Session) -> None:
    """Check list and get while a session runs."""
    reply = service.send("GET", "/sessions", service.key, params={"type": "active", "page_size": 100})
    page = reply.data if isinstance(reply.data, dict) else {}
    shaped = isinstance(page.get("count"), int) and isinstance(page.get("results"), list)
    report.confirm(Assumption.LIST_SHAPE, when=shaped, else_came=f"{reply}, fields {sorted(page)}")
    results: list[dict[str, Any]] = page["results"] if shaped else []
    found = [entry for entry in results if entry.get("id") == session.id]
    names = sorted({name for entry in results for name in entry})
    report.confirm(Assumption.LIST_ID, when=bool(found), else_came=f"fields {names}")
    reply = service.send("GET", f"/sessions/{session.id}", service.key)
    entry = reply.data if isinstance(reply.data, dict) else {}
    wrong = [name for name, kind in ENTRY_FIELDS.items() if not isinstance(entry.get(name), kind)]
    report.confirm(
        Assumption.ENTRY,
        when=not wrong,
        else_came=f"{reply}, missing or of another type {wrong}",
    )
    reply = service.send("GET", f"/sessions/{uuid.uuid4()}", service.key)
    unknown = reply.status == 404 or (reply.status == 200 and reply.data is None)
    report.confirm(Assumption.UNKNOWN_ENTRY, when=unknown, else_came=reply)


def end_reason(service: Service, report: Report, session: Session, assumption: Assumption, expected: str) -> None:
    """Check the end reason that the service has noted for a session."""
    reply = service.send("GET", "/sessions", service.key, params={"type": "historic", "page_size": 100})
    results = reply.data.get("results") if isinstance(reply.data, dict) else None
    found = [entry.get("end_reason") for entry in results or () if entry.get("id") == session.id]
    report.confirm(
        assumption,
        when=found == [expected],
        else_came=f"{found[0] if found else 'no such historic session'}",
    )


@check(Assumption.START_EMPTY, Assumption.REASON_EMPTY)
def both_credentials(service: Service, report: Report) -> None:
    """Start with an empty object, and stop with both credentials."""
    session = service.create()
    reply = service.start(session, json={})
    report.confirm(Assumption.START_EMPTY, when=reply.status < 300, else_came=reply)
    reply = service.stop(session, bearer(session) | service.key, json={})
    report.confirm(
        Assumption.STOP_BOTH,
        when=reply.status == 200,
        else_came=reply,
    )
    end_reason(service, report, session, Assumption.REASON_EMPTY, "UNKNOWN")


@check(Assumption.STOP_WITHOUT_ID, Assumption.STOP_KEY)
def stop_by_key(service: Service, report: Report) -> None:
    """Stop with the API key, and what it needs."""
    session = service.create()
    reply = service.start(session)
    if reply.status >= 300:
        raise NotTriedError(f"the session did not start: {reply}")
    reply = service.stop(None, service.key)
    report.confirm(Assumption.STOP_WITHOUT_ID, when=reply.status in (400, 422), else_came=reply)
    reply = service.stop(None, service.key, json={"session_id": str(uuid.uuid4())})
    report.confirm(Assumption.STOP_UNKNOWN, when=reply.status == 404, else_came=reply)
    reply = service.stop(session, service.key, json={"session_id": session.id, "reason": "USER_CLOSED"})
    report.confirm(Assumption.STOP_KEY, when=reply.status == 200, else_came=reply)


@check(Assumption.STOP_BEFORE_START, Assumption.START_AFTER_STOP)
def never_started(service: Service, report: Report) -> None:
    """Stop a session before its start."""
    session = service.create()
    reply = service.stop(session, bearer(session))
    report.confirm(
        Assumption.STOP_BEFORE_START,
        when=reply.status in (200, 404, 409),
        else_came=reply,
    )
    if reply.status == 200:
        reply = service.start(session)
        report.confirm(Assumption.START_AFTER_STOP, when=400 <= reply.status < 500, else_came=reply)


@check(Assumption.FULL_WS_URL, Assumption.TRANSCRIPT)
def full(service: Service, report: Report) -> None:
    """Check a FULL session."""
    session = service.create(mode="FULL", avatar_persona={"language": "en"})
    reply = service.start(session)
    if reply.status >= 300 or not isinstance(reply.data, dict):
        raise NotTriedError(f"the session did not start: {reply}")
    ws_url = "a ws_url" if reply.data.get("ws_url") else None
    report.confirm(Assumption.FULL_WS_URL, when=ws_url is None, else_came=ws_url)
    reply = service.send("GET", f"/sessions/{session.id}/transcript", service.key)
    fields = reply.data if isinstance(reply.data, dict) else {}
    shaped = isinstance(fields.get("session_active"), bool) and isinstance(fields.get("transcript_data"), list)
    report.confirm(Assumption.TRANSCRIPT, when=shaped, else_came=f"{reply}, fields {sorted(fields)}")
    service.stop(session, bearer(session))


@check(Assumption.OWN_ROOM_WS_URL, Assumption.OWN_ROOM_WS_URL)
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
    report.confirm(Assumption.OWN_ROOM_WS_URL, when=bool(ws_url), else_came=ws_url)
    service.stop(session, bearer(session))


@check(Assumption.RATE_LIMITS, Assumption.RATE_LIMIT_NUMBERS)
def rate_limits(service: Service, report: Report) -> None:
    """Check that every response so far had the headers of the rate limit."""
    replies = [reply for reply in service.replies if reply.status < 400]
    missing = [name for name in RATE_LIMIT_HEADERS if any(name not in reply.headers for reply in replies)]
    report.confirm(Assumption.RATE_LIMITS, when=not missing, else_came=f"without {', '.join(missing)}")
    values = sorted({reply.headers[name] for reply in replies for name in RATE_LIMIT_HEADERS if name in reply.headers})
    numbers = bool(values) and all(value.isdigit() for value in values)
    report.confirm(Assumption.RATE_LIMIT_NUMBERS, when=numbers, else_came=values)


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
                report.not_tried(assumptions, reason)
    except httpx.HTTPError as error:
        failure = f"the checks broke off: {type(error).__name__}: {error}"
    except KeyboardInterrupt:
        failure = "interrupted"
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        left = service.stop_all()
        service.http.close()
    report.not_tried(Assumption, failure or "a request before it did not go as expected")
    print(", ".join(f"{report.count(verdict)} {verdict}" for verdict in ("confirmed", "refuted", "not tried")))
    if failure:
        print(f"live.py: {failure}", file=sys.stderr)
    if left:
        print(f"live.py: may still be running, for a minute at most: {' '.join(left)}", file=sys.stderr)
    return 1 if failure or left or report.count("refuted") else 0


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
