"""A web service that opens and closes avatars for its users.

    POST /avatars          {"avatar_id": "..."}: opens a session; 201 and how to join its room
    DELETE /avatars/{id}   closes it; 204 once it does not run, whoever ended it

    pip install liveavatar starlette uvicorn
    export LIVEAVATAR_API_KEY=...
    uvicorn async_service:app --workers 2

Any worker closes any session: its own with the token it remembers, another worker's with the API key. A worker that
shuts down (SIGTERM, Ctrl-C, a reload) closes every session that it opened. Who may open and close what is for you to
add in front: as it stands, whoever reaches the service may.
"""

from __future__ import annotations

import contextlib
import logging
import math
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
    session = await api.new_session(await wanted(request))
    if await request.is_disconnected():  # the user has given up: nobody would ever close it
        await api.close_session(session.session_id)
        return Response(status_code=499)
    return JSONResponse(
        {
            "id": session.session_id,
            "livekit_url": session.livekit_url,
            "access_token": session.access_token,  # of this room alone; the session's own token stays here
            "seconds": session.max_session_duration,
        },
        status_code=201,
        headers={"location": f"/avatars/{session.session_id}", "cache-control": "no-store"},
    )


async def close_avatar(request: Request) -> Response:
    """Close a session, whichever worker opened it."""
    api: AsyncLiveAvatarApi = request.app.state.api
    session_id = str(request.path_params["id"])
    try:
        await api.close_session(session_id)
    except SessionTokenNotFoundError:  # another worker's: the API key stops it
        try:
            await api.stop_session(session_id, reason="USER_CLOSED")
        except LiveAvatarApiError as error:
            if error.session_may_be_running:  # else it has ended already, which is what was asked for
                raise
    return Response(status_code=204)


async def wanted(request: Request) -> LiveAvatarNewSessionRequest:
    """What the user asks for."""
    try:
        body = await request.json()
    except ValueError:
        body = None
    avatar_id = body.get("avatar_id") if isinstance(body, dict) else None
    if not isinstance(avatar_id, str) or not avatar_id.strip():
        raise HTTPException(422, 'The body must be like {"avatar_id": "..."}.')
    return LiveAvatarNewSessionRequest(avatar_id=avatar_id, is_sandbox=body.get("is_sandbox") is True)


# What a failure means to the user, the special before the general. None: the service's own words, for they are about
# what the user sent.
ANSWERS: tuple[tuple[type[LiveAvatarError], int, str | None], ...] = (
    (BadRequestError, 422, None),
    (InvalidRequestError, 422, None),
    (NotFoundError, 422, None),  # the avatar that was asked for
    (RateLimitError, 429, "Too many requests at once."),
    (ConflictError, 409, "The session cannot be closed just now."),
    (ConcurrencyLimitError, 503, "All avatars are taken; try again later."),
    (InsufficientCreditsError, 503, "No avatar can be opened at present."),
    (LiveAvatarTimeoutError, 504, "The avatar service did not answer in time."),
    (LiveAvatarError, 502, "The avatar service failed."),
)


async def failed(request: Request, error: Exception) -> Response:
    """Answer with what a failure means to the user; the log says what it means to us."""
    status, words = next((status, words) for kind, status, words in ANSWERS if isinstance(error, kind))
    if words is None and isinstance(error, LiveAvatarApiError):
        words = error.message
    if status >= 500:
        logger.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    headers = {}
    if status in (429, 503):
        seconds = getattr(error, "retry_after", None) or (1 if status == 429 else 30)
        headers["retry-after"] = str(math.ceil(seconds))
    return JSONResponse({"error": words}, status, headers)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """One client for all requests of this worker; leaving its block closes what is still open."""
    async with AsyncLiveAvatarApi(timeout=20) as api:
        app.state.api = api
        yield


app = Starlette(
    routes=[
        Route("/avatars", open_avatar, methods=["POST"]),
        Route("/avatars/{id:uuid}", close_avatar, methods=["DELETE"]),
    ],
    lifespan=lifespan,
    exception_handlers={LiveAvatarError: failed},
)
