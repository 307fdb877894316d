"""Both clients over every kind of connection pool, driven from several threads or tasks at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import tempfile
import threading
import unittest.mock
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import trustme
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi, LiveAvatarError

from tests.faults.server import FaultServer, cork, readable

KEY = "CANARY-api-key"

POOLS = (
    "blocking own",
    "blocking http_client",
    "blocking proxy",
    "async own",
    "async session",
    "async traced session",
    "async http_client",
    "async proxy",
)
"""The client and where its connections come from. A traced aiohttp session is called through its public methods."""

FEW_POOLS = ("blocking own", "blocking http_client", "async own", "async traced session", "async http_client")
"""One of each way to send a request, for tests that take long."""

DIRECT_POOLS = tuple(pool for pool in POOLS if not pool.endswith("proxy"))

HOST = "api.liveavatar.test"
"""The host that the tunnel of a proxy leads to; no name server knows it."""


class Driver:
    """A client whose methods can be begun, and waited for later, from any thread."""

    api: Any

    @property
    def open_sessions(self) -> tuple[str, ...]:
        """Return the sessions that the client knows."""
        return tuple(self.api.open_sessions)

    def begin(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a method in a thread or task of its own."""
        raise NotImplementedError

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method and wait for its result."""
        return self.begin(method, *args, **kwargs).result(60)

    def close_pool(self) -> None:
        """Close the caller's pool."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the client and what it was built on."""
        raise NotImplementedError


class BlockingDriver(Driver):
    """The blocking client; each call runs in a thread of its own."""

    def __init__(self, kind: str, url: str, **settings: Any) -> None:
        self.http = httpx.Client(trust_env=False) if kind == "http_client" else None
        self.api = LiveAvatarApi(KEY, base_url=url, http_client=self.http, **settings)

    def begin(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        if method == "leave":
            return in_thread(self.api.__exit__, None, None, None)
        return in_thread(getattr(self.api, method), *args, **kwargs)

    def close_pool(self) -> None:
        if self.http is not None:
            self.http.close()

    def close(self) -> None:
        with contextlib.suppress(LiveAvatarError), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.api.close()
        self.close_pool()


class LoopThread:
    """An event loop that runs in a thread of its own until it is closed."""

    def __init__(self, factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self.loop = factory()
        self.thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)
        self.thread.start()

    def begin(self, awaitable: Awaitable[Any]) -> Future[Any]:
        """Run an awaitable as a task of the loop; cancelling the future cancels the task."""
        return asyncio.run_coroutine_threadsafe(_awaited(awaitable), self.loop)

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run an awaitable and wait for its result."""
        return self.begin(awaitable).result(60)

    def close(self) -> None:
        async def finish() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.loop.shutdown_asyncgens()
            await self.loop.shutdown_default_executor()

        self.run(finish())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.loop.close()


class AsyncDriver(Driver):
    """The async client, in an event loop that goes on running between the calls."""

    def __init__(self, kind: str, url: str, **settings: Any) -> None:
        self.thread = LoopThread()
        self.session: aiohttp.ClientSession | None = None
        self.http: httpx.AsyncClient | None = None

        async def make() -> AsyncLiveAvatarApi:
            if kind == "http_client":
                self.http = httpx.AsyncClient(trust_env=False)
            elif kind.endswith("session"):
                traced = [aiohttp.TraceConfig()] if kind == "traced session" else None
                self.session = aiohttp.ClientSession(trace_configs=traced)
            return AsyncLiveAvatarApi(KEY, self.session, base_url=url, http_client=self.http, **settings)

        self.api = self.thread.run(make())

    def begin(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        name = {"close": "aclose", "leave": "__aexit__"}.get(method, method)
        given = (None, None, None) if method == "leave" else args

        async def call() -> Any:
            result = getattr(self.api, name)(*given, **kwargs)
            return await result if isinstance(result, Awaitable) else result

        return self.thread.begin(call())

    def close_pool(self) -> None:
        if self.session is not None:
            self.thread.run(self.session.close())
        if self.http is not None:
            self.thread.run(self.http.aclose())

    def close(self) -> None:
        with contextlib.suppress(LiveAvatarError), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.call("close")
        self.close_pool()
        self.thread.close()


def in_thread(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call a function in a daemon thread: one that hangs fails its test, and does not stop the test run."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="test-call", daemon=True).start()
    return future


@contextlib.contextmanager
def driven(pool: str, **settings: Any) -> Iterator[tuple[FaultServer, Any]]:
    """A fault server, and a client of it over this kind of pool."""
    with contextlib.ExitStack() as stack:
        if pool.endswith("proxy"):
            server = stack.enter_context(FaultServer(server_context()))
            tunnel = stack.enter_context(Tunnel(server.port))
            server.is_calm_too.append(tunnel.is_calm)
            proxied = {"HTTPS_PROXY": tunnel.url, "SSL_CERT_FILE": authority_file()}
            stack.enter_context(unittest.mock.patch.dict(os.environ, proxied))
            for name in ("https_proxy", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
                os.environ.pop(name, None)
            url = f"https://{HOST}:{server.port}/v1"
        else:
            server = stack.enter_context(FaultServer())
            url = server.url
        made = stack.enter_context(started(pool, url, **settings))
        try:
            yield server, made
        finally:
            server.heal()


@contextlib.contextmanager
def started(pool: str, url: str, **settings: Any) -> Iterator[Any]:
    """A client of the service at `url`, over this kind of pool."""
    flavour, _, kind = pool.partition(" ")
    made = {"blocking": BlockingDriver, "async": AsyncDriver}[flavour](kind, url, **{"timeout": 10.0} | settings)
    try:
        yield made
    finally:
        made.close()


class Tunnel:
    """An HTTP proxy that connects every tunnel to one port of this machine."""

    def __init__(self, port: int | None) -> None:
        self._port = port
        self.answer: bytes | None = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
        """What it says without a port to lead to; None is nothing at all."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._sources: set[socket.socket] = set()
        self._busy = 0
        """Chunks that have been read and not been passed on yet."""
        self._lock = threading.Lock()
        self.heads: list[str] = []
        """The requests for tunnels."""

    def __enter__(self) -> Tunnel:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                chunk = near.recv(4096)
                if not chunk:
                    return
                head += chunk
            self.heads.append(head.decode("latin-1"))
            if self._port is None:
                if self.answer is None:
                    readable([near], 10)
                else:
                    near.sendall(self.answer)
                near.shutdown(socket.SHUT_RDWR)
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            self._sockets.append(far)
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=self._pump, args=(far, near), daemon=True).start()
            self._pump(near, far)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        self._sources.add(source)
        with contextlib.suppress(OSError):
            while True:
                if not readable([source], 30):
                    continue
                with self._lock:
                    chunk = source.recv(65536)
                    self._busy += 1
                try:
                    if not chunk:
                        break
                    with contextlib.suppress(BlockingIOError):
                        if not source.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                            cork(sink)  # the end has arrived together with these bytes, and leaves with them
                    sink.sendall(chunk)
                finally:
                    self._busy -= 1
        with self._lock:
            self._sources.discard(source)
        with contextlib.suppress(OSError):  # a reset on one side ends the other
            sink.shutdown(socket.SHUT_WR)

    @property
    def targets(self) -> list[str]:
        """Where each tunnel was asked to lead."""
        return [head.split()[1] for head in self.heads]

    def is_calm(self) -> bool:
        """Return whether nothing is on its way through a tunnel."""
        with self._lock:
            return not self._busy and not (self._sources and readable(list(self._sources), 0))


@lru_cache
def _authority() -> trustme.CA:
    return trustme.CA()


@lru_cache
def authority_file() -> str:
    path = Path(tempfile.mkdtemp(prefix="liveavatar-tests-")) / "ca.pem"
    _authority().cert_pem.write_to_path(str(path))
    return str(path)


@lru_cache
def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _authority().issue_cert(HOST).configure_cert(context)
    return context


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def outcome(future: Future[Any], seconds: float = 60) -> tuple[Any, BaseException | None]:
    """Wait for a call; return its value and its exception, one of them None."""
    error = future.exception(seconds)
    return (None, error) if error is not None else (future.result(), None)
