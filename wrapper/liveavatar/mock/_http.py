"""The handling of every request, before its endpoint: the log, the Host check and the limit of a body."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._errors import ApiError

MAX_BODY_BYTES = 1024 * 1024
_MAX_DISCARDED_BYTES = 16 * MAX_BODY_BYTES  # what is still read of a body that is too large
_MAX_LOGGED_SEGMENT = 40  # characters; a longer part of a path may be a token

logger = logging.getLogger("liveavatar.mock")
_JSON = re.compile(r"application/([\w.-]+\+)?json\s*(;|$)", re.IGNORECASE)


class RequestLog:
    """Logs one line for each request: method, path, status, session and error. It logs no header and no body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or not logger.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        logged = False

        def log(status: int) -> None:
            nonlocal logged
            logged = True
            segments = scope.get("raw_path", scope["path"].encode()).decode("ascii", "replace").split("/")
            path = "/".join(each if len(each) <= _MAX_LOGGED_SEGMENT else "..." for each in segments)
            session = f" session={state['session_id']}" if state.get("session_id") else ""
            error = f" {state['error']}" if "error" in state else ""
            logger.info("%s %s %s%s%s", scope["method"], path, status, session, error)

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                log(message["status"])  # before the client can see the response
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            if not logged:
                log(500)


class LoopbackHost:
    """Refuses a request that arrives on a loopback address but names another host.

    Otherwise a web page could point a host name of its own at this machine and use the API with the well-known key
    (DNS rebinding).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http" and is_loopback((scope.get("server") or ("",))[0]):
            host = Request(scope).headers.get("host", "")
            name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
            if host and not is_loopback(name.strip("[]")):
                scope.setdefault("state", {})["error"] = "The Host header names another machine."
                error = ApiError(421, "The Host header must name this machine, for example 127.0.0.1 or localhost.")
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Say whether a host name or IP address is this machine's own."""
    host = host.lower().removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def read_body(request: Request) -> bytes:
    """Read the body of a request.

    Raises:
        ApiError: the body is larger than ``MAX_BODY_BYTES``, or the client has disconnected.
    """
    body, size = bytearray(), 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= MAX_BODY_BYTES:
                body += chunk
            elif size > _MAX_DISCARDED_BYTES:
                break
    except ClientDisconnect:
        raise ApiError(400, "The client disconnected.") from None
    if size > MAX_BODY_BYTES:
        raise ApiError(413, f"The body is larger than {MAX_BODY_BYTES} bytes.", headers={"Connection": "close"})
    return bytes(body)


def parse_json(request: Request, raw: bytes) -> Any:
    """Return the JSON of a body.

    Raises:
        ApiError: it is not JSON, or does not say that it is.
    """
    try:
        return json.loads(raw if _JSON.match(request.headers.get("content-type", "application/json")) else b"")
    except (ValueError, RecursionError):  # not JSON, not UTF-8, nested too deeply, or of another content type
        raise ApiError(422, "The body is not JSON.", [{"loc": ["body"], "message": "is not JSON"}]) from None


def error_response(error: ApiError, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the response for an error."""
    envelope = {"code": error.status * 10, "data": error.violations, "message": error.message}
    return JSONResponse(envelope, error.status, headers={**(headers or {}), **error.headers})
