"""The clients that are compared. Each opens and closes sessions; what one cycle does is the same for all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

AVATAR = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
KEY = "benchmark"
BODY = {
    "mode": "LITE",
    "avatar_id": AVATAR,
    "is_sandbox": False,
    "video_settings": {"encoding": "VP8", "quality": "high"},
}

Cycle = Callable[[], None]
AsyncCycle = Callable[[], Awaitable[None]]


def trusted() -> ssl.SSLContext | None:
    """Return a TLS context that trusts the server. Clients that read SSL_CERT_FILE need none."""
    file = os.environ.get("SSL_CERT_FILE")
    return ssl.create_default_context(cafile=file) if file else None


@contextlib.contextmanager
def liveavatar_blocking(base: str) -> Iterator[Cycle]:
    """Open and close sessions with LiveAvatarApi."""
    from liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest

    with LiveAvatarApi(KEY, base_url=base) as api:
        request = LiveAvatarNewSessionRequest(avatar_id=AVATAR)

        def cycle() -> None:
            api.close_session(api.new_session(request).session_id)

        yield cycle


@contextlib.contextmanager
def ledger_blocking(base: str) -> Iterator[Cycle]:
    """Open and close sessions with LiveAvatarApi and a SqliteLedger."""
    from liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest
    from liveavatar.ledger import SqliteLedger

    with (
        tempfile.TemporaryDirectory() as folder,
        LiveAvatarApi(KEY, base_url=base, ledger=SqliteLedger(Path(folder, "ledger.db"))) as api,
    ):
        request = LiveAvatarNewSessionRequest(avatar_id=AVATAR)

        def cycle() -> None:
            api.close_session(api.new_session(request).session_id)

        yield cycle


@contextlib.contextmanager
def httpx_blocking(base: str) -> Iterator[Cycle]:
    """Send the same three requests through a bare httpx.Client."""
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    with httpx.Client(limits=limits, timeout=60) as client:

        def post(path: str, headers: dict[str, str], body: Any = None) -> Any:
            response = client.post(base + path, headers=headers, json=body)
            response.raise_for_status()
            return response.json()["data"]

        def cycle() -> None:
            created = post("/sessions/token", {"X-API-KEY": KEY}, BODY)
            bearer = {"Authorization": f"Bearer {created['session_token']}"}
            post("/sessions/start", bearer)
            post("/sessions/stop", bearer, {"session_id": created["session_id"]})

        yield cycle


@contextlib.asynccontextmanager
async def liveavatar_async(base: str) -> AsyncIterator[AsyncCycle]:
    """AsyncLiveAvatarApi."""
    from liveavatar import AsyncLiveAvatarApi, LiveAvatarNewSessionRequest

    async with AsyncLiveAvatarApi(KEY, base_url=base) as api:
        request = LiveAvatarNewSessionRequest(avatar_id=AVATAR)

        async def cycle() -> None:
            await api.close_session((await api.new_session(request)).session_id)

        yield cycle


@contextlib.asynccontextmanager
async def ledger_async(base: str) -> AsyncIterator[AsyncCycle]:
    """Open and close sessions with AsyncLiveAvatarApi and a SqliteLedger."""
    from liveavatar import AsyncLiveAvatarApi, LiveAvatarNewSessionRequest
    from liveavatar.ledger import SqliteLedger

    with tempfile.TemporaryDirectory() as folder:
        ledger = SqliteLedger(Path(folder, "ledger.db"))
        async with AsyncLiveAvatarApi(KEY, base_url=base, ledger=ledger) as api:
            request = LiveAvatarNewSessionRequest(avatar_id=AVATAR)

            async def cycle() -> None:
                await api.close_session((await api.new_session(request)).session_id)

            yield cycle


@contextlib.asynccontextmanager
async def aiohttp_bare(base: str) -> AsyncIterator[AsyncCycle]:
    """Send the same three requests through a bare aiohttp session."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=trusted() or True)) as session:

        async def post(path: str, headers: dict[str, str], body: Any = None) -> Any:
            async with session.post(base + path, headers=headers, json=body) as response:
                response.raise_for_status()
                return (await response.json())["data"]

        async def cycle() -> None:
            created = await post("/sessions/token", {"X-API-KEY": KEY}, BODY)
            bearer = {"Authorization": f"Bearer {created['session_token']}"}
            await post("/sessions/start", bearer)
            await post("/sessions/stop", bearer, {"session_id": created["session_id"]})

        yield cycle


@contextlib.asynccontextmanager
async def pipecat(base: str) -> AsyncIterator[AsyncCycle]:
    """Open and close sessions with Pipecat's LiveAvatarApi, with its log turned off."""
    import aiohttp
    from loguru import logger
    from pipecat.services.heygen.api_liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest

    logger.remove()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=trusted() or True)) as session:
        api = LiveAvatarApi(KEY, session)
        api.BASE_URL = base
        request = LiveAvatarNewSessionRequest(avatar_id=AVATAR)

        async def cycle() -> None:
            created = (await api.create_session_token(request)).data
            await api.start_session(created.session_token)
            await api.stop_session(created.session_id, created.session_token)

        yield cycle


@contextlib.asynccontextmanager
async def httpx_async(base: str) -> AsyncIterator[AsyncCycle]:
    """AsyncLiveAvatarApi over a caller's httpx.AsyncClient."""
    import httpx
    from liveavatar import AsyncLiveAvatarApi, LiveAvatarNewSessionRequest

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with (
        httpx.AsyncClient(limits=limits, timeout=60) as client,
        AsyncLiveAvatarApi(KEY, base_url=base, http_client=client) as api,
    ):
        request = LiveAvatarNewSessionRequest(avatar_id=AVATAR)

        async def cycle() -> None:
            await api.close_session((await api.new_session(request)).session_id)

        yield cycle


LEDGER = "liveavatar with a SqliteLedger"

BLOCKING = {"liveavatar": liveavatar_blocking, LEDGER: ledger_blocking, "bare httpx": httpx_blocking}
ASYNC = {
    "liveavatar": liveavatar_async,
    LEDGER: ledger_async,
    "Pipecat": pipecat,
    "bare aiohttp": aiohttp_bare,
    "liveavatar on httpx.AsyncClient": httpx_async,
}


async def at_once(cycle: AsyncCycle, concurrency: int, cycles: int) -> None:
    """`cycles` cycles, `concurrency` of them under way at any time."""

    async def worker(share: int) -> None:
        for _ in range(share):
            await cycle()

    await asyncio.gather(*(worker(cycles // concurrency) for _ in range(concurrency)))
