"""Both clients behind one interface, so that each test is written once and runs with both."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi

FLAVOURS = ("blocking", "async")


class SyncFacade:
    """An AsyncLiveAvatarApi whose methods are called without await, in one event loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.runner = asyncio.Runner()
        self.api = AsyncLiveAvatarApi(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.api, {"close": "aclose"}.get(name, name))
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            if inspect.isawaitable(result):
                return self.runner.run(_awaited(result))
            if isinstance(result, contextlib.AbstractAsyncContextManager):
                return self._blocking(result)
            if isinstance(result, AsyncIterator):
                return self._iterate(result)
            return result

        return call

    @contextlib.contextmanager
    def _blocking(self, manager: contextlib.AbstractAsyncContextManager[Any]) -> Iterator[Any]:
        entered = self.runner.run(_awaited(manager.__aenter__()))
        try:
            yield entered
        except BaseException as error:
            if not self.runner.run(_awaited(manager.__aexit__(type(error), error, error.__traceback__))):
                raise
        else:
            self.runner.run(_awaited(manager.__aexit__(None, None, None)))

    def _iterate(self, iterator: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                yield self.runner.run(_awaited(anext(iterator)))
        except StopAsyncIteration:
            pass

    def __enter__(self) -> SyncFacade:
        self.runner.run(_awaited(self.api.__aenter__()))
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self.runner.run(_awaited(self.api.__aexit__(*error)))
        finally:
            self.runner.close()

    def __repr__(self) -> str:
        return repr(self.api)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def client(flavour: str, *args: Any, **kwargs: Any) -> Any:
    """Return a client of the flavour, for a `with` block."""
    return {"blocking": LiveAvatarApi, "async": SyncFacade}[flavour](*args, **kwargs)


def wait_until(api: Any, condition: Callable[[], object]) -> None:
    """Wait for something that happens in the background."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        if hasattr(api, "runner"):
            api.runner.run(asyncio.sleep(0.01))
        else:
            time.sleep(0.01)


def workers(api: Any) -> list[object]:
    """Return the threads, tasks and timers that keep sessions alive."""
    name = "liveavatar-keep-alive"
    if hasattr(api, "runner"):
        timer = api.api._worker and api.api._worker._timer
        tasks = [task for task in asyncio.all_tasks(api.runner.get_loop()) if task.get_name() == name]
        return [timer, *tasks] if timer else tasks
    return [thread for thread in threading.enumerate() if thread.name == name]


def interrupt_start(thread_name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first start of a thread with this name raise an error, as Ctrl-C does that comes during the start."""
    start = threading.Thread.start
    errors = [error]

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == thread_name and errors:
            raise errors.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)


def observe_aiohttp(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace a method of aiohttp, as cassettes and tracers do; return the list of the paths that are requested."""
    request = aiohttp.ClientSession._request
    seen: list[str] = []

    @functools.wraps(request)
    async def observed(session: aiohttp.ClientSession, method: str, url: Any, **settings: Any) -> Any:
        seen.append(aiohttp.client.URL(url).path)
        return await request(session, method, url, **settings)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", observed)
    return seen
