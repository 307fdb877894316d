"""H9. Cancellation that is repeated until the block ends costs no CPU, and leaves no session. Async only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import aiohttp
import anyio
import pytest
from liveavatar import AsyncLiveAvatarApi

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, FastRetries
from tests.faults.server import FaultServer

pytestmark = pytest.mark.row("H9")

STOP_TIME = 0.3
"""Seconds that the service takes for a stop in these tests."""

CPU_LIMIT = 0.15
"""CPU seconds that one block may cost; a loop that spins during the stop costs all of STOP_TIME."""

LOOPS = ["asyncio", "uvloop", *(["eager tasks"] if sys.version_info >= (3, 12) else [])]


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        return pytest.importorskip("uvloop").new_event_loop()  # type: ignore[no-any-return]
    loop = asyncio.new_event_loop()
    if kind == "eager tasks":
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    return loop


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run a coroutine in an event loop of each kind."""
    with asyncio.Runner(loop_factory=partial(new_loop, request.param)) as runner:
        yield runner.run


class Meter:
    """CPU seconds that the event loop's thread has used inside a `with` block."""

    def __enter__(self) -> Meter:
        self._began = time.thread_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.thread_time() - self._began


@contextlib.asynccontextmanager
async def made(server: FaultServer) -> AsyncIterator[AsyncLiveAvatarApi]:
    async with AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10.0) as api:
        await api.create_session_token(session_request())  # imports and connects
        yield api


async def opens(api: AsyncLiveAvatarApi) -> None:
    await api.new_session(session_request())


async def is_inside_a_block(api: AsyncLiveAvatarApi) -> None:
    async with api.session(session_request()):
        await anyio.sleep(60)


async def closes(api: AsyncLiveAvatarApi) -> None:
    await api.close_session(api.open_sessions[0])


async def closes_all(api: AsyncLiveAvatarApi) -> None:
    await api.close_all_sessions()


async def leaves(api: AsyncLiveAvatarApi) -> None:
    await api.aclose()


WORK: dict[str, tuple[Callable[[AsyncLiveAvatarApi], Awaitable[None]], str]] = {
    "new_session": (opens, "start"),
    "session": (is_inside_a_block, "start"),
    "close_session": (closes, "stop"),
    "close_all_sessions": (closes_all, "stop"),
    "aclose": (leaves, "stop"),
}
"""What is cancelled, and the endpoint whose request it waits for then."""


@pytest.mark.parametrize("name", WORK)
def test_anyio_scope_ends_with_the_stop(name: str, run: Any, server: FaultServer) -> None:
    """An anyio scope that is cancelled ends when the stop has ended, and the loop does not spin until then."""
    work, endpoint = WORK[name]

    async def main() -> float:
        async with made(server) as api:
            if endpoint == "stop":
                await opens(api)
            elif name == "new_session":
                server.on("start", fault.holds(acts=True), 1)
            server.on("stop", fault.delays(STOP_TIME))
            with Meter() as meter, anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:

                    async def canceller() -> None:
                        await asyncio.to_thread(server.arrived, endpoint)
                        await anyio.sleep(0.05)
                        scope.cancel()

                    group.start_soon(canceller)
                    await work(api)
            server.settle()
            assert server.ledger.running == set()
            assert api.open_sessions == ()
            return meter.seconds

    assert run(main()) < CPU_LIMIT
    assert server.running == set()


@pytest.mark.parametrize("way", ["move_on_after", "fail_after", "asyncio.timeout", "wait_for"])
def test_time_limit_ends_with_the_stop(way: str, server: FaultServer) -> None:
    """A time limit over a start without a response ends when its session has been stopped."""

    async def main() -> float:
        async with made(server) as api:
            server.on("start", fault.holds(acts=True), 1)
            server.on("stop", fault.delays(STOP_TIME))
            with Meter() as meter, contextlib.suppress(TimeoutError):
                if way == "wait_for":
                    await asyncio.wait_for(opens(api), 0.1)
                elif way == "asyncio.timeout":
                    async with asyncio.timeout(0.1):
                        await opens(api)
                else:
                    with getattr(anyio, way)(0.1):
                        await opens(api)
            assert server.ledger.running == set()
            assert api.open_sessions == ()
            return meter.seconds

    assert asyncio.run(main()) < CPU_LIMIT
    assert server.running == set()


@pytest.mark.parametrize("name", WORK)
def test_task_cancelled_in_a_loop_ends_with_the_stop(name: str, run: Any, server: FaultServer) -> None:
    """A task that is cancelled again and again ends with its stop, not when the cleanup's time is over."""
    work, endpoint = WORK[name]

    async def main() -> None:
        async with made(server) as api:
            if endpoint == "stop":
                await opens(api)
            elif name == "new_session":
                server.on("start", fault.holds(acts=True), 1)
            server.on("stop", fault.delays(0.1))
            task = asyncio.ensure_future(work(api))
            await asyncio.to_thread(server.arrived, endpoint)
            server.settle()
            began = time.monotonic()
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            assert time.monotonic() - began < 3.0, "the block outlived its stop"
            with pytest.raises(asyncio.CancelledError):
                await task
            assert server.ledger.running == set()
            assert api.open_sessions == ()

    run(main())
    assert server.counts[:2] == (2, 1)
    assert server.running == set()


def test_group_of_many_ends_with_the_stops(run: Any, server: FaultServer) -> None:
    """A task group with 30 sessions that fails stops them all at once, without spinning."""

    async def main() -> float:
        async with made(server) as api:
            server.on("stop", fault.delays(STOP_TIME))
            with contextlib.suppress(ExceptionGroup), Meter() as meter:
                async with anyio.create_task_group() as group:
                    for _ in range(30):
                        group.start_soon(is_inside_a_block, api)
                    while len(api.open_sessions) < 30 or len(server.ledger.starts) < 30:
                        await anyio.sleep(0.01)
                    raise RuntimeError("the caller's own")
            assert server.ledger.running == set()
            assert api.open_sessions == ()
            return meter.seconds

    assert run(main()) < 2 * CPU_LIMIT
    assert server.counts == (31, 30, 30)


def test_hook_that_fails_inside_a_cancelled_scope(run: Any, server: FaultServer) -> None:
    """A stop that a hook of the caller breaks is sent again inside a cancelled anyio scope, without spinning."""
    failures = iter(range(2))

    async def fail(session: object, context: object, params: aiohttp.TraceRequestStartParams) -> None:
        if params.url.path.endswith("/stop") and next(failures, None) is not None:
            raise ArithmeticError("a hook of the caller fails")

    async def main() -> float:
        config = aiohttp.TraceConfig()
        config.on_request_start.append(fail)
        async with aiohttp.ClientSession(trace_configs=[config]) as session:
            api = AsyncLiveAvatarApi(KEY, session=session, base_url=server.url)
            server.on("start", fault.holds(acts=True), 1)
            with Meter() as meter, anyio.move_on_after(0.05):
                await api.new_session(session_request())
            assert api.open_sessions == ()
            await api.aclose()
            return meter.seconds

    assert run(main()) < CPU_LIMIT
    assert server.counts == (1, 1, 1)
    assert server.running == set()


def test_shielded_block_inside_a_cancelled_scope(run: Any, server: FaultServer) -> None:
    """A caller's own shield inside a cancelled scope is kept: the session is opened and closed in it."""

    async def main() -> None:
        async with made(server) as api:
            with anyio.CancelScope() as scope:
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    async with api.session(session_request()) as session:
                        assert session.session_id in api.open_sessions
            assert api.open_sessions == ()

    run(main())
    assert server.counts == (2, 1, 1)
    assert server.running == set()


def test_scope_cancelled_before_the_call_sends_nothing(run: Any, server: FaultServer) -> None:
    """In a scope that is cancelled already, no session is started."""

    async def main() -> None:
        async with made(server) as api:
            with anyio.move_on_after(0):
                await anyio.sleep(0)
                await opens(api)
            assert api.open_sessions == ()

    run(main())
    assert server.running == set()


def test_task_that_is_eager_opens_and_closes(run: Any, server: FaultServer, fast_retries: FastRetries) -> None:
    """Sessions opened and closed in tasks, some of which fail or are cancelled at once, leave none running."""

    async def main() -> None:
        async with made(server) as api:
            server.on("start", fault.answers(500, acts=True), 2)
            tasks = [asyncio.create_task(opens(api)) for _ in range(6)]
            cancelled = [asyncio.create_task(opens(api)) for _ in range(3)]
            for task in cancelled:
                task.cancel()
            await asyncio.wait({*tasks, *cancelled})
            await asyncio.gather(*(api.close_session(session_id) for session_id in api.open_sessions))
            assert api.open_sessions == ()

    run(main())
    assert server.running == set()


# ---------------------------------------------------------------------------------------------------------------
# A web framework: each caller of a streaming endpoint holds a session, and leaves when it likes.


@contextlib.contextmanager
def web_service(loop: str, app: Any) -> Iterator[int]:
    """Serve an app with uvicorn in a thread; the port."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, loop=loop, log_level="error", timeout_graceful_shutdown=5, lifespan="on")
    service = uvicorn.Server(config)
    thread = threading.Thread(target=service.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        service.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def get(port: int, path: str) -> socket.socket:
    """Send a GET; the connection, for its response to be read, or left."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    return connection


def fetched(port: int, path: str) -> Any:
    with get(port, path) as connection:
        response = b""
        while chunk := connection.recv(65536):
            response += chunk
    return json.loads(response.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_callers_of_a_streaming_endpoint_leave(loop: str, server: FaultServer) -> None:
    """FastAPI: when a caller leaves a streaming response, its session is stopped, and the service does not spin."""
    fastapi = pytest.importorskip("fastapi")
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    from starlette.responses import StreamingResponse

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10) as api:
            app.state.api = api
            yield

    app = fastapi.FastAPI(lifespan=lifespan)

    @app.get("/cpu")
    async def cpu() -> float:
        return time.thread_time()

    @app.get("/talk")
    async def talk() -> StreamingResponse:
        async def words() -> AsyncIterator[bytes]:
            async with app.state.api.session(session_request()) as session:
                yield session.session_id.encode()
                while True:
                    await asyncio.sleep(0.05)
                    yield b"."

        return StreamingResponse(words())

    server.on("stop", fault.delays(STOP_TIME))
    with web_service(loop, app) as port:
        fetched(port, "/cpu")
        callers = [get(port, "/talk") for _ in range(10)]
        for caller in callers[:5]:  # these leave in the middle of the response, the others before they hear of it
            while b"00000000-" not in caller.recv(65536):
                pass
        deadline = time.monotonic() + 20
        while len(server.ledger.starts) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        before = fetched(port, "/cpu")
        for caller in callers:
            caller.close()
        while server.ledger.running:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(STOP_TIME)  # time to spin in, if anything does
        assert fetched(port, "/cpu") - before < 2 * CPU_LIMIT
        assert server.counts == (10, 10, 10)
    assert server.running == set()
