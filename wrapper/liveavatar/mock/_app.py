"""The three endpoints and the page, as an ASGI app."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any, Unpack

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from . import _contract
from ._credentials import Credentials, RateLimit
from ._sessions import RefusedError, Session, Sessions
from ._settings import Settings, SettingsKeywords

SUCCESS = 1000
_ROOM_URL = "wss://room.mock.invalid"  # a name that never resolves
_EVENTS_URL = "wss://events.mock.invalid"
_JSON = re.compile(r"application/([\w.-]+\+)?json\s*(;|$)", re.IGNORECASE)


def create_app(**settings: Unpack[SettingsKeywords]) -> Starlette:
    """The mock server as an ASGI app, to run under a server of your own.

    Args:
        **settings: see ``Settings``.

    Raises:
        ValueError: a setting is not possible.
    """
    return MockService(Settings(**settings)).app


class MockService:
    """The state behind the endpoints, and the app in front of it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sessions = Sessions(settings)
        self.requests: Counter[str] = Counter()
        self._credentials = Credentials(settings)
        self._rate_limit = RateLimit(settings)
        self.app = Starlette(
            routes=[
                Route("/v1/sessions/token", self._token, methods=["POST"]),
                Route("/v1/sessions/start", self._start, methods=["POST"]),
                Route("/v1/sessions/stop", self._stop, methods=["POST"]),
                Route("/", self._page),
                Route("/sessions.json", self._sessions_json),
            ],
            exception_handlers={RefusedError: _refusal, HTTPException: _refusal},
        )

    async def _token(self, request: Request) -> Response:
        self.requests["token"] += 1
        self._pace(request, self._credentials.api_key(request.headers), "token")
        session = self.sessions.create(await _body(request, "LiveAvatarNewSessionRequest"))
        token = self._credentials.session_token(session.id)
        return _answer(request, "SessionTokenResponse", {"session_id": session.id, "session_token": token})

    async def _start(self, request: Request) -> Response:
        self.requests["start"] += 1
        session_id = self._credentials.session_id(request.headers)
        self._pace(request, session_id, "start")
        session = self.sessions.start(session_id)
        return _answer(request, "LiveAvatarSessionResponse", self._room(session), status=201)

    async def _stop(self, request: Request) -> Response:
        self.requests["stop"] += 1
        by_key = "x-api-key" in request.headers and "authorization" not in request.headers
        read = self._credentials.api_key if by_key else self._credentials.session_id
        credential = read(request.headers)
        self._pace(request, credential, "stop")
        body = await _body(request, "StopSessionRequest", optional=True)
        session_id = body.get("session_id") or (None if by_key else credential)
        if session_id is None:
            fault = {"loc": ["body", "session_id"], "message": "is required with an API key"}
            raise RefusedError(422, "A stop with an API key wants a session_id.", [fault])
        if not by_key and session_id.lower() != credential:
            raise RefusedError(403, "The session token is another session's.")
        self.sessions.stop(session_id, body.get("reason") or "UNKNOWN")
        return _answer(request, "StopSessionResponse", None)

    async def _page(self, request: Request) -> Response:
        page, policy = _page()
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, **_VIEW_HEADERS})

    async def _sessions_json(self, request: Request) -> Response:
        sessions = [asdict(session) for session in reversed(self.sessions.snapshots())]
        facts = {"sessions": sessions, "credits": self.sessions.credits(), "requests": dict(self.requests)}
        return JSONResponse(facts, headers=_VIEW_HEADERS)

    def _pace(self, request: Request, credential: str, endpoint: str) -> None:
        allowed, request.state.headers = self._rate_limit.count(credential, endpoint)
        if not allowed:
            raise RefusedError(429, f"Rate limit exceeded: {self.settings.rate_limit} requests per second.")

    def _room(self, session: Session) -> dict[str, Any]:
        def token(identity: str) -> str:
            return self._credentials.room_token(session.id, identity, session.max_duration)

        room = {
            "livekit_url": _ROOM_URL,
            "livekit_client_token": token("client"),
            "livekit_agent_token": None,
            "ws_url": None,
        }
        if session.livekit_config:
            room |= {name: session.livekit_config[name] for name in ("livekit_url", "livekit_client_token")}
        if session.has_agent_room:
            room["livekit_agent_token"] = token("agent")
            room["ws_url"] = f"{_EVENTS_URL}/{session.id}?token={token('events')}"
        return {"session_id": session.id, "max_session_duration": session.max_duration, **room}


_VIEW_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def _body(request: Request, component: str, *, optional: bool = False) -> dict[str, Any]:
    """The request's JSON, once it has passed the contract."""
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise RefusedError(400, "The request broke off.") from None
    if optional and not raw:
        return {}
    try:
        body = json.loads(raw if _JSON.match(request.headers.get("content-type", "application/json")) else b"")
    except (ValueError, RecursionError):  # not JSON, not UTF-8, nested without end, or not said to be JSON
        raise RefusedError(422, "The body is not JSON.", [{"loc": ["body"], "message": "is not JSON"}]) from None
    faults = _contract.faults(component, body)
    if faults:
        where = ".".join(map(str, faults[0]["loc"]))
        raise RefusedError(422, f"Invalid request: {where}: {faults[0]['message']}", faults)
    return dict(body)


def _answer(request: Request, component: str, data: object, *, status: int = 200) -> Response:
    return _envelope(request, component, status, {"code": SUCCESS, "data": data, "message": "Success"})


async def _refusal(request: Request, refused: Exception) -> Response:
    if isinstance(refused, RefusedError):
        status, message, data = refused.status, refused.message, refused.faults
    else:
        assert isinstance(refused, HTTPException)  # what Starlette raises for a wrong path or method
        status, message, data = refused.status_code, refused.detail, None
        request.state.headers = refused.headers  # those a 405 owes: which methods there are
    return _envelope(request, "ErrorResponse", status, {"code": status * 10, "data": data, "message": message})


def _envelope(request: Request, component: str, status: int, envelope: dict[str, Any]) -> Response:
    _contract.check(component, envelope)
    return JSONResponse(envelope, status, headers=getattr(request.state, "headers", None))


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets its own style and script run and nothing else."""
    page = (files("liveavatar.mock") / "_page.html").read_text(encoding="utf-8")

    def hash_of(tag: str) -> str:
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"

    policy = {
        "default-src": "'none'",
        "style-src": hash_of("style"),
        "script-src": hash_of("script"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return page, "; ".join(f"{name} {value}" for name, value in policy.items())
