"""Serve avatars to the users of a web service.

    POST /avatars          {"avatar_id": "..."}: opens a session, and returns 201 and how to join its room
    DELETE /avatars/{id}   closes the session, and returns 204 once it has ended

    pip install . starlette uvicorn  # in the root of the repository
    export LIVEAVATAR_API_KEY=...
    uvicorn async_service:app --workers 2

Any worker can close any session: its own with the session's token, another worker's with the API key. A worker that
shuts down (SIGTERM, Ctrl-C, a reload) closes every session that it opened. The service has no authentication: add your
own before you expose it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import uuid
from collections.abc import AsyncIterator

from liveavatar import (
    AsyncLiveAvatarApi,
    BadRequestError,
    ConcurrencyLimitError,
    ConflictError,
    InsufficientCreditsError,
    InvalidRequestError,
    LiveAvatarApiError,
    LiveAvatarError,
    LiveAvatarNewSessionRequest,
    LiveAvatarTimeoutError,
    NotFoundError,
    RateLimitError,
    SessionTokenNotFoundError,
)
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

logger = logging.getLogger(__name__)


async def open_avatar(request: Request) -> Response:
    """Open a session for a user."""
    api: AsyncLiveAvatarApi = request.app.state.api
    session = await api.new_session(await read_request(request))
    if await request.is_disconnected():  # the user is gone and will never close it
        await api.close_session(session.session_id)
        return Response(status_code=499)
    return JSONResponse(
        {
            "id": session.session_id,
            "livekit_url": session.livekit_url,
            "access_token": session.access_token,  # for this room only; the session token stays here
            "seconds": session.max_session_duration,
        },
        status_code=201,
        headers={"location": f"/avatars/{session.session_id}", "cache-control": "no-store"},
    )


async def close_avatar(request: Request) -> Response:
    """Close a session that any worker opened."""
    api: AsyncLiveAvatarApi = request.app.state.api
    session_id = str(request.path_params["id"])
    try:
        await api.close_session(session_id)
    except SessionTokenNotFoundError:  # opened by another worker: use the API key
        try:
            await api.stop_session(session_id, reason="USER_CLOSED")
        except LiveAvatarApiError as error:
            if error.session_may_be_running:  # otherwise it has already ended
                raise
    return Response(status_code=204)


async def read_request(request: Request) -> LiveAvatarNewSessionRequest:
    """Return the session that the user asks for."""
    try:
        body = await request.json()
    except ValueError:
        body = None
    avatar_id = body.get("avatar_id") if isinstance(body, dict) else None
    try:
        avatar_id = str(uuid.UUID(avatar_id))  # new_session raises ValueError for an id that is no UUID
    except (AttributeError, TypeError, ValueError):
        raise HTTPException(422, 'The body must be like {"avatar_id": "<UUID>"}.') from None
    return LiveAvatarNewSessionRequest(avatar_id=avatar_id, is_sandbox=body.get("is_sandbox") is True)


# The status and message for each exception, the more specific class first. None stands for the service's own message,
# because it is about what the user sent.
RESPONSES: tuple[tuple[type[LiveAvatarError], int, str | None], ...] = (
    (BadRequestError, 422, None),
    (InvalidRequestError, 422, None),
    (NotFoundError, 422, None),  # the requested avatar
    (RateLimitError, 429, "Too many requests at once."),
    (ConflictError, 409, "The session cannot be closed now."),
    (ConcurrencyLimitError, 503, "All avatars are in use. Try again later."),
    (InsufficientCreditsError, 503, "No avatar is available."),
    (LiveAvatarTimeoutError, 504, "The avatar service did not respond in time."),
    (LiveAvatarError, 502, "The avatar service failed."),
)


async def respond_to_error(request: Request, error: Exception) -> Response:
    """Tell the user what failed, and log the details."""
    status, message = next((status, message) for cls, status, message in RESPONSES if isinstance(error, cls))
    if message is None and isinstance(error, LiveAvatarApiError):
        message = error.message
    if status >= 500:
        logger.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    headers = {}
    if status in (429, 503):
        seconds = getattr(error, "retry_after", None) or (1 if status == 429 else 30)
        headers["retry-after"] = str(math.ceil(seconds))
    return JSONResponse({"error": message}, status, headers)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Share one client between all requests of this worker, and close its sessions at shutdown."""
    async with AsyncLiveAvatarApi(timeout=20) as api:
        app.state.api = api
        yield


app = Starlette(
    routes=[
        Route("/avatars", open_avatar, methods=["POST"]),
        Route("/avatars/{id:uuid}", close_avatar, methods=["DELETE"]),
    ],
    lifespan=lifespan,
    exception_handlers={LiveAvatarError: respond_to_error},
)
