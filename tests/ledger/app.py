"""A web application that opens a session on each request, and holds it until it shuts down."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from liveavatar import AsyncLiveAvatarApi, _recovery_task
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.ledger.programs import request
from tests.ledger.support import KEY, make

_recovery_task.RECOVERY_INTERVAL = 0.5  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    ledger = make(os.environ["TEST_LEDGER"])
    async with AsyncLiveAvatarApi(KEY, base_url=os.environ["TEST_SERVICE"], ledger=ledger) as api:
        app.state.api = api
        yield


async def open_session(incoming: Request) -> JSONResponse:
    session = await incoming.app.state.api.new_session(request())
    return JSONResponse({"worker": os.getpid(), "session_id": session.session_id})


app = Starlette(routes=[Route("/open", open_session, methods=["POST"])], lifespan=lifespan)
