"""Sends requests and runs flows on asyncio: what every async transport has."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from .._constants import CLEANUP_TIMEOUT
from ..errors import LedgerError, LiveAvatarConnectionError
from ._base import Request, Response, find_callers_exception, with_read_error

T = TypeVar("T")

_MAX_CONCURRENT = 50
"""How many requests of one piece of background work are sent at the same time."""


class Attempt:
    """One request that is being sent, and the part of its response that has arrived."""

    def __init__(self, request: Request, scope: asyncio.Timeout) -> None:
        self.request = request
        self.response: Response | None = None
        self._scope = scope

    def extend_to_new(self) -> None:
        """Apply the deadline of an attempt on a new connection, which cannot have died while it was idle."""
        if self.request.reused_deadline < self.request.deadline:
            self._scope.reschedule(asyncio.get_running_loop().time() + self.request.remaining())


current_attempt: ContextVar[Attempt] = ContextVar("liveavatar_attempt")


class AsyncTransport(ABC):
    """Sends one request and reads its response, within the request's deadline."""

    owns_pool: bool = True
    """False if the pool belongs to the caller and may be exhausted."""
    errors: tuple[type[Exception], ...]
    """What the library raises when there is no response."""

    async def send(self, request: Request) -> Response:
        """Send a request and return its response.

        Raises:
            LiveAvatarConnectionError: There was no response.
        """
        if not self.owns_pool and request.beside_pool:
            return await self._send_beside_pool(request)
        attempt = None
        token = None
        active = sys.exception()
        try:
            async with asyncio.timeout(request.remaining_if_reused()) as scope:
                attempt = Attempt(request, scope)
                token = current_attempt.set(attempt)
                await self._exchange(attempt)
            assert attempt.response is not None
            return attempt.response
        except LiveAvatarConnectionError as error:
            failure = error
        except Exception as error:
            if not isinstance(error, self.errors):
                raise
            callers = self._find_callers_exception(error, active)
            if callers is not None:  # raised by a signal handler or a hook of the caller
                raise callers from callers.__cause__
            failure = self._to_connection_error(request, error, active)
        finally:
            if token is not None:
                with contextlib.suppress(ValueError):  # the coroutine was abandoned, and is closed in another context
                    current_attempt.reset(token)
        response = attempt.response if attempt else None
        is_beside = (request.is_stop and self.is_closed()) or (request.is_cleanup and not self.owns_pool)
        if is_beside and response is None and not failure.request_sent:
            return await self._send_beside_pool(request)
        return with_read_error(response, failure)

    async def _send_beside_pool(self, request: Request) -> Response:
        """Send a request on a connection of its own: the pool has none, and a session may be running."""
        spare = self.spare()
        try:
            return await spare.send(request)
        finally:
            await spare.close()

    @abstractmethod
    async def _exchange(self, attempt: Attempt) -> None:
        """Send the request; set `attempt.response` when its head has arrived, then read the body."""

    @abstractmethod
    def _to_connection_error(
        self, request: Request, error: Exception, active: BaseException | None
    ) -> LiveAvatarConnectionError: ...

    def _find_callers_exception(self, error: Exception, active: BaseException | None) -> BaseException | None:
        return find_callers_exception(error, active)

    @abstractmethod
    def is_closed(self) -> bool:
        """Return whether the pool, ours or the caller's, is closed."""

    @abstractmethod
    def spare(self) -> AsyncTransport:
        """Return a transport with a pool of its own, to be closed after one request."""

    @abstractmethod
    async def close(self) -> None:
        """Close our own pool. A caller's pool stays open."""


class AsyncIO:
    """Performs the I/O of flows on asyncio.

    Args:
        transport: What sends the requests.
        ledger_calls: Where calls of the ledger are put, to be made later; None to make them.
    """

    def __init__(self, transport: AsyncTransport, ledger_calls: list[Callable[[], object]] | None = None) -> None:
        self.send = transport.send
        self._ledger_calls = ledger_calls

    def is_usable(self) -> bool:
        """Return whether there is a running event loop."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return False
        return True

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def run_all(self, works: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Do the work in a limited number of tasks."""
        waiting = deque(works)

        async def worker() -> None:
            while waiting:
                await waiting.popleft()()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(waiting), _MAX_CONCURRENT)):
                group.create_task(worker())

    async def call_ledger(self, function: Callable[[], T], seconds: float | None) -> T:
        """Call a function that uses a ledger, in a thread; wait until its end, for `seconds` at most."""
        if self._ledger_calls is not None:
            self._ledger_calls.append(function)
            return cast(T, None)
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                return await call_blocking(function)
        except TimeoutError:
            if scope.expired():
                raise LedgerError(f"The ledger does not respond within {seconds:g} seconds.") from None
            raise

    async def shield(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do work in a task of its own, so that cancelling the caller's task does not reach it."""
        (task,) = await shield_all([work])
        return task.result()

    async def shield_cleanup(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do work as shield does: no signal interrupts a task of its own."""
        return await self.shield(work)


async def call_blocking(function: Callable[[], T]) -> T:
    """Call a function that may block in a thread of its own; the loop's executor may be busy or shut down."""
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()  # from here on, a cancellation of the caller does not reach it

    def work() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=work, name="liveavatar-blocking-call", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is shutting down, or out of threads
        return function()
    return await asyncio.wrap_future(result)


_background_tasks: set[asyncio.Task[Any]] = set()
"""Tasks that outlive their callers. The event loop keeps only weak references to tasks."""


async def shield_all(works: Iterable[Callable[[], Coroutine[Any, Any, T]]]) -> list[asyncio.Task[T]]:
    """Do work in tasks that a cancellation of the caller does not reach, and return the tasks when they are done.

    A task that was cancelled before its first step, as the end of asyncio.run may do, is created once more.

    Raises:
        asyncio.CancelledError: The caller was cancelled; raised at the end.
    """
    loop = asyncio.get_running_loop()  # first, so that no un-awaited coroutine remains if there is no loop
    cancelled: asyncio.CancelledError | None = None
    begun: set[int] = set()

    async def begin(number: int, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        begun.add(number)
        return await work()

    works = list(works)
    tasks = {number: loop.create_task(begin(number, work)) for number, work in enumerate(works)}
    for may_repeat in (True, False):
        try:
            await wait_shielded(tasks.values())
        except asyncio.CancelledError as error:
            cancelled = error
        skipped = [number for number, task in tasks.items() if number not in begun and task.cancelled()]
        if not (skipped and may_repeat):
            break
        tasks.update({number: loop.create_task(begin(number, works[number])) for number in skipped})
    if cancelled is not None:
        raise cancelled
    return list(tasks.values())


async def wait_shielded(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait for tasks. If cancelled, wait CLEANUP_TIMEOUT longer, then let them finish in the background.

    Raises:
        asyncio.CancelledError: The wait was cancelled; raised at the end.
    """
    tasks = list(tasks)
    pending = len(tasks)
    loop = asyncio.get_running_loop()
    all_done: asyncio.Future[None] = loop.create_future()

    def on_done(task: asyncio.Task[Any]) -> None:
        nonlocal pending
        pending -= 1
        if pending == 0 and not all_done.done():
            all_done.set_result(None)

    for task in tasks:
        task.add_done_callback(on_done)
    try:
        if tasks:
            await all_done
        return
    except asyncio.CancelledError as error:
        cancelled = error
    until = time.monotonic() + CLEANUP_TIMEOUT
    all_done = loop.create_future()  # the first was cancelled with the task
    with _stop_anyio_cancellation():
        while pending and (remaining := until - time.monotonic()) > 0:
            try:
                await asyncio.wait([all_done], timeout=remaining)
            except asyncio.CancelledError as error:
                cancelled = error
    for task in tasks:
        keep_task(task)
    raise cancelled


def _stop_anyio_cancellation() -> contextlib.AbstractContextManager[Any]:
    """Return a scope in which anyio does not cancel the task at every turn of the loop."""
    scope = getattr(sys.modules.get("anyio"), "CancelScope", None)  # None also while another thread imports anyio
    return contextlib.nullcontext() if scope is None else scope(shield=True)


def keep_task(task: asyncio.Task[T]) -> asyncio.Task[T]:
    """Keep a reference to a task until it is done, and return the task."""
    _background_tasks.add(task)
    task.add_done_callback(_on_task_done)
    return task


def _on_task_done(task: asyncio.Task[Any]) -> None:
    _background_tasks.discard(task)
    if not task.cancelled():
        task.exception()  # the flow has logged it, and no caller is left to raise it to
