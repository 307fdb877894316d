"""A base URL with a host name, and an event loop whose executor is busy or shut down. Async only, as the names say."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx
import pytest
from liveavatar import AsyncLiveAvatarApi

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, FastRetries
from tests.faults.server import FaultServer

STATES = ("busy", "shut down")


@contextlib.asynccontextmanager
async def unusable_executor(state: str) -> AsyncIterator[None]:
    """The loop's executor, which resolves host names, is busy or shut down."""
    loop, gate = asyncio.get_running_loop(), threading.Event()
    executor = ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    if state == "busy":
        executor.submit(gate.wait)
    else:
        await loop.shutdown_default_executor()
    try:
        yield
    finally:
        gate.set()


@contextlib.asynccontextmanager
async def made(kind: str, server: FaultServer) -> AsyncIterator[AsyncLiveAvatarApi]:
    connector = aiohttp.TCPConnector(use_dns_cache=False)
    async with aiohttp.ClientSession(connector=connector) as session, httpx.AsyncClient(trust_env=False) as http:
        yield AsyncLiveAvatarApi(
            KEY,
            session if kind == "session" else None,
            base_url=server.url.replace("127.0.0.1", "localhost"),
            http_client=http if kind == "http_client" else None,
            timeout=2.0,
        )


@pytest.mark.row("H1")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", ["own", "session", "http_client"])
def test_async_close(kind: str, state: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A session is stopped over a new connection although the loop's executor cannot resolve the host's name."""

    async def main() -> None:
        async with made(kind, server) as api:
            server.on("start", fault.leaves)
            await api.new_session(session_request())
            async with unusable_executor(state):
                await api.aclose()
            assert api.open_sessions == ()

    asyncio.run(main())
    assert server.counts[1] == 1
    assert server.running == set()


@pytest.mark.row("H1")
@pytest.mark.parametrize("state", STATES)
def test_async_failed_start(state: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """The same for a session whose start has failed."""

    async def main() -> None:
        server.on("start", fault.hangs_up(acts=True))
        async with made("own", server) as api, unusable_executor(state):
            with pytest.raises(Exception, match="No response") as caught:
                await api.new_session(session_request())
            assert caught.value.session_may_be_running is False  # type: ignore[attr-defined]
            await api.aclose()

    asyncio.run(main())
    assert server.counts[1] == 1
    assert server.running == set()
