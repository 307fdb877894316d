"""Instrumentation sees each request of both clients once and no secret, and mocking libraries work in users' tests."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import subprocess
import sys
import unittest.mock
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from liveavatar import (
    AsyncLiveAvatarApi,
    ConcurrencyLimitError,
    LiveAvatarApi,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarNewSessionRequest,
    LiveAvatarTimeoutError,
)
from liveavatar.mock import MockServer, mock_server

from tests import processes
from tests.clients import SyncFacade

REQUEST = LiveAvatarNewSessionRequest(avatar_id="7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742")
SESSION = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"


@pytest.fixture
def mock() -> Iterator[MockServer]:
    with mock_server() as mock:
        yield mock


# ---- Instrumentation ---------------------------------------------------------------------------------------

REQUESTS = ["POST token", "POST start", "POST keep-alive", "GET sessions", "POST stop", "POST stop"]
"""The requests of one use of a client, by method and last part of the path. The last stop is refused."""

LOST_START = ["POST token", "POST start", "POST stop"]
"""The requests of a client whose start is lost."""


def short(call: str) -> str:
    method, _, url = call.partition(" ")
    return f"{method} {url.rpartition('/')[2].partition('?')[0]}"


MOMENTS = ["before the import", "before the clients", "before the first request", "after the first request"]
"""When Sentry is initialised. After the first request, only the blocking clients are used."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_sentry(moment: str, mock: MockServer) -> None:
    """Sentry records each request once, whenever it is initialised, and no secret.

    aiohttp's sessions are instrumented when they are created: a caller's session that was created before is not.
    """
    pytest.importorskip("sentry_sdk")
    program = (subprocess if moment == "before the import" else processes).run(
        [sys.executable, "-m", "tests.traced", moment],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"LIVEAVATAR_BASE_URL": mock.base_url, "LIVEAVATAR_API_KEY": mock.api_key},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (program.returncode, program.stderr) == (0, "")
    recorded = json.loads(program.stdout)
    calls = {name: [short(call) for call in calls] for name, calls in recorded["calls"].items()}
    expected = {"blocking own": REQUESTS, "blocking http_client": REQUESTS, "blocking spare": LOST_START}
    if moment != "after the first request":
        expected |= {
            "async own": REQUESTS,
            "async session": [] if moment == "before the first request" else REQUESTS,
            "async http_client": REQUESTS,
        }
    assert calls == expected
    assert mock.running_sessions == []
    assert len(recorded["errors"]) == len(recorded["calls"])
    events = json.dumps([recorded["calls"], recorded["errors"]])
    secrets = [mock.api_key, *recorded["secrets"]]
    assert len(set(secrets)) >= (5 if moment == "after the first request" else 11)
    assert [secret for secret in secrets if secret in events] == []


@contextlib.contextmanager
def instrumented() -> Iterator[Callable[[], list[Any]]]:
    """Instrument httpx and aiohttp with OpenTelemetry; the function returns the spans so far."""
    pytest.importorskip("opentelemetry.sdk")
    aiohttp_client = pytest.importorskip("opentelemetry.instrumentation.aiohttp_client")
    instrumented_httpx = pytest.importorskip("opentelemetry.instrumentation.httpx")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentors = (aiohttp_client.AioHttpClientInstrumentor(), instrumented_httpx.HTTPXClientInstrumentor())
    for each in instrumentors:
        each.instrument(tracer_provider=provider)
    try:
        yield lambda: list(exporter.get_finished_spans())
    finally:
        for each in instrumentors:
            each.uninstrument()
        provider.shutdown()


CLIENTS = ("blocking own", "blocking http_client", "async own", "async session", "async http_client")
"""The client, and where its connections come from."""


@contextlib.contextmanager
def client_of(kind: str, mock: MockServer) -> Iterator[Any]:
    """Return a client of one of CLIENTS, its methods called without await."""
    settings: dict[str, Any] = {"api_key": mock.api_key, "base_url": mock.base_url}
    if kind.startswith("blocking"):
        with httpx.Client() as http:
            settings |= {"http_client": http} if kind.endswith("http_client") else {}
            with LiveAvatarApi(**settings) as api:
                yield api
        return
    facade = SyncFacade(**settings)

    async def with_pool(pool_class: Callable[[], Any], argument: str) -> Any:
        pool = await pool_class().__aenter__()
        facade.api = AsyncLiveAvatarApi(**settings, **{argument: pool})
        return pool

    pool: Any = None
    if kind == "async session":
        pool = facade.runner.run(with_pool(aiohttp.ClientSession, "session"))
    elif kind == "async http_client":
        pool = facade.runner.run(with_pool(httpx.AsyncClient, "http_client"))
    with facade:
        yield facade
        if pool is not None:
            facade.runner.run(pool.__aexit__(None, None, None))


@pytest.mark.parametrize("kind", CLIENTS)
def test_opentelemetry(kind: str, mock: MockServer) -> None:
    """OpenTelemetry records each request once, and no secret."""
    with instrumented() as spans, client_of(kind, mock) as api:
        with api.session(REQUEST) as session:
            api.keep_session_alive(session.session_id)
            assert [each.id for each in api.list_sessions()] == [session.session_id]
            token = api.release_session(session.session_id)
            api.adopt_session(session.session_id, token)
        with pytest.raises(LiveAvatarApiError):
            api.stop_session(SESSION)
        calls = [span.attributes for span in spans()]
        texts = " ".join(span.to_json() for span in spans())
    assert [short(f"{call['http.method']} {call['http.url']}") for call in calls] == REQUESTS
    assert [call["http.status_code"] for call in calls] == [200, 201, 200, 200, 200, 404]
    assert [secret for secret in (mock.api_key, token, session.livekit_agent_token) if secret in texts] == []


def test_opentelemetry_later(mock: MockServer) -> None:
    """A client that was used before is instrumented too if it is the blocking one, or has an httpx.AsyncClient."""
    for kind, number in {"blocking own": 1, "async http_client": 1, "async own": 0}.items():
        with client_of(kind, mock) as api, api.session(REQUEST) as session, instrumented() as spans:
            api.keep_session_alive(session.session_id)
            assert len(spans()) == number


def test_opentelemetry_before_the_first_request(mock: MockServer) -> None:
    """The async client is instrumented if it has sent no request yet."""
    with client_of("async own", mock) as api, instrumented() as spans, api.session(REQUEST):
        assert len(spans()) == 2


# ---- Mocking libraries -------------------------------------------------------------------------------------

URL = "https://api.liveavatar.com/v1/sessions"

TOKEN = {"code": 1000, "data": {"session_id": SESSION, "session_token": "a-token"}, "message": "ok"}
STARTED = {
    "code": 1000,
    "data": {"session_id": SESSION, "livekit_url": "wss://rooms.example.com", "livekit_client_token": "a-room-token"},
    "message": "ok",
}
STOPPED = {"code": 1000, "data": None, "message": "ok"}
REFUSED = {"code": 4032, "data": None, "message": "Session concurrency limit reached"}


async def use_async(**settings: Any) -> None:
    async with AsyncLiveAvatarApi("a-key", **settings) as api:
        async with api.session(REQUEST) as session:
            assert session.session_id == SESSION
        with pytest.raises(ConcurrencyLimitError):
            await api.create_session_token(REQUEST)


async def use_async_httpx() -> None:
    async with httpx.AsyncClient() as http:
        await use_async(http_client=http)


def use() -> None:
    with LiveAvatarApi("a-key") as api:
        with api.session(REQUEST) as session:
            assert session.session_id == SESSION
        with pytest.raises(ConcurrencyLimitError):
            api.create_session_token(REQUEST)


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
@pytest.mark.parametrize("flavour", ["blocking", "async"])
def test_respx(flavour: str, using: str) -> None:
    """Respx, by either of its ways, mocks the blocking client, and the async one over an httpx.AsyncClient."""
    respx = pytest.importorskip("respx")
    with respx.mock(using=using, base_url=URL) as router:
        token = router.post("/token", headers={"x-api-key": "a-key"})
        token.side_effect = [httpx.Response(200, json=TOKEN), httpx.Response(403, json=REFUSED)]
        start = router.post("/start", headers={"authorization": "Bearer a-token"}).respond(201, json=STARTED)
        stop = router.post("/stop").respond(json=STOPPED)
        use() if flavour == "blocking" else asyncio.run(use_async_httpx())
    assert (token.call_count, start.call_count, stop.call_count) == (2, 1, 1)
    assert json.loads(token.calls[0].request.content)["avatar_id"] == REQUEST.avatar_id


@pytest.fixture
def pytest_httpx_mock(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("pytest_httpx")
    return request.getfixturevalue("httpx_mock")


@pytest.mark.parametrize("flavour", ["blocking", "async"])
def test_pytest_httpx(flavour: str, pytest_httpx_mock: Any) -> None:
    """pytest-httpx mocks the blocking client, and the async one over an httpx.AsyncClient."""
    pytest_httpx_mock.add_response(method="POST", url=f"{URL}/token", match_headers={"X-API-KEY": "a-key"}, json=TOKEN)
    pytest_httpx_mock.add_response(method="POST", url=f"{URL}/start", status_code=201, json=STARTED)
    pytest_httpx_mock.add_response(method="POST", url=f"{URL}/stop", json=STOPPED)
    pytest_httpx_mock.add_response(method="POST", url=f"{URL}/token", status_code=403, json=REFUSED)
    use() if flavour == "blocking" else asyncio.run(use_async_httpx())
    paths = [request.url.path.rpartition("/")[2] for request in pytest_httpx_mock.get_requests()]
    assert paths == ["token", "start", "stop", "token"]


class MockedResponse(aiohttp.ClientResponse):
    """A response as docs/testing.md shows it: aioresponses 0.7.9 does not know an argument of aiohttp 3.14."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "stream_writer" in inspect.signature(aiohttp.ClientResponse).parameters:
            kwargs.setdefault("stream_writer", unittest.mock.Mock(output_size=0))
        super().__init__(*args, **kwargs)


@pytest.mark.parametrize("has_session", [False, True])
def test_aioresponses(has_session: bool) -> None:
    """Aioresponses mocks the async client, over its own aiohttp session or the caller's."""
    aioresponses = pytest.importorskip("aioresponses")

    async def main() -> None:
        if not has_session:
            return await use_async()
        async with aiohttp.ClientSession() as session:
            return await use_async(session=session)

    with aioresponses.aioresponses() as mocked:
        post = partial(mocked.post, response_class=MockedResponse)
        post(f"{URL}/token", payload=TOKEN)
        post(f"{URL}/start", status=201, payload=STARTED)
        post(f"{URL}/stop", payload=STOPPED)
        post(f"{URL}/token", status=403, payload=REFUSED)
        asyncio.run(main())
        paths = [url.path.rpartition("/")[2] for (_, url), calls in mocked.requests.items() for _ in calls]
    assert paths == ["token", "token", "start", "stop"]


@pytest.mark.parametrize("using", ["httpcore", "httpx"])
def test_respx_connection_error(using: str) -> None:
    """A connection error from respx becomes one of the package's exceptions."""
    respx = pytest.importorskip("respx")
    with respx.mock(using=using) as router, LiveAvatarApi("a-key", max_retries=0) as api:
        router.post(f"{URL}/token").mock(side_effect=httpx.ConnectError("mocked"))
        with pytest.raises(LiveAvatarConnectionError, match="mocked") as caught:
            api.new_session(REQUEST)
    assert not caught.value.session_may_be_running


def test_pytest_httpx_connection_error(pytest_httpx_mock: Any) -> None:
    """A connection error from pytest-httpx becomes one of the package's exceptions."""
    pytest_httpx_mock.add_exception(httpx.ReadTimeout("mocked"))
    with LiveAvatarApi("a-key", max_retries=0) as api, pytest.raises(LiveAvatarTimeoutError, match="mocked"):
        api.new_session(REQUEST)


def test_aioresponses_connection_error() -> None:
    """A connection error from aioresponses becomes one of the package's exceptions."""
    aioresponses = pytest.importorskip("aioresponses")

    async def main() -> None:
        async with AsyncLiveAvatarApi("a-key", max_retries=0) as api:
            with pytest.raises(LiveAvatarConnectionError, match="mocked"):
                await api.new_session(REQUEST)

    with aioresponses.aioresponses() as mocked:
        mocked.post(f"{URL}/token", exception=aiohttp.ClientConnectionError("mocked"))
        asyncio.run(main())


# ---- Event loops -------------------------------------------------------------------------------------------

LOOPS = ["uvloop", *(["eager tasks"] if sys.version_info >= (3, 12) else [])]


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        return pytest.importorskip("uvloop").new_event_loop()  # type: ignore[no-any-return]
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
    return loop


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run a coroutine in an event loop of each kind."""
    with asyncio.Runner(loop_factory=partial(new_loop, request.param)) as runner:
        yield runner.run


def test_loop_opens_and_closes(run: Any, mock: MockServer) -> None:
    """Sessions are opened, kept alive, listed and closed, in blocks, by hand and with the client."""

    async def main() -> None:
        async with AsyncLiveAvatarApi(mock.api_key, base_url=mock.base_url) as api:
            async with api.session(REQUEST, keep_alive=True) as session:
                assert mock.running_sessions == [session.session_id]
                assert [each.id async for each in api.list_sessions()] == [session.session_id]
            opened = await asyncio.gather(*(asyncio.create_task(api.new_session(REQUEST)) for _ in range(5)))
            await asyncio.gather(*(api.close_session(each.session_id) for each in opened[:3]))
            assert len(mock.running_sessions) == 2

    run(main())
    assert mock.running_sessions == []


def test_loop_cancellation(run: Any, mock: MockServer) -> None:
    """A block that is cancelled after any delay, during its start too, leaves no session."""

    async def hold(api: AsyncLiveAvatarApi, reached: list[str]) -> None:
        async with api.session(REQUEST) as session:
            reached.append(session.session_id)
            await asyncio.sleep(60)

    async def main() -> None:
        async with AsyncLiveAvatarApi(mock.api_key, base_url=mock.base_url) as api:
            await api.create_session_token(REQUEST)  # imports and connects
            reached: list[str] = []
            turns = 0
            while len(reached) < 2:
                task = asyncio.create_task(hold(api, reached))
                for _ in range(turns):
                    await asyncio.sleep(0.0002)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert api.open_sessions == ()
                turns += 1

    run(main())
    assert mock.running_sessions == []
