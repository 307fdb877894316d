"""The async client."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from liveavatar_client.models import (
    LiveAvatarNewSessionRequest,
    LiveAvatarSessionResponse,
    SessionTokenResponse,
    StopReason,
    StopSessionResponse,
)

from ._base import BaseApi, note, raise_first
from ._calls import Call, Flow, Step, Wait
from ._config import credential, environment_proxy
from ._flows import RESCUE_TIME
from ._secrets import without_locals, without_locals_async
from .errors import LiveAvatarError, SessionTokenNotFoundError
from .models import StandardSessionResponse

if TYPE_CHECKING:
    import aiohttp

    from ._asyncio import AsyncTransport

T = TypeVar("T")


class AsyncLiveAvatarApi(BaseApi):
    """Opens and closes LiveAvatar sessions, on asyncio. One client serves any number of tasks of one event loop.

    Args:
        api_key: the account's API key; without it the environment variable LIVEAVATAR_API_KEY.
        session: your own aiohttp.ClientSession, whose connections and trace configs are then used, and nothing else
            of it (no headers, cookies, middlewares or proxy); it is never closed here.
        base_url: where the service is; without it LIVEAVATAR_BASE_URL, then `BASE_URL`.
        timeout: seconds one method call may take, retries and waits included.
        max_retries: how many more times a request that is safe to repeat is tried; 0 turns retries off.
        http_client: your own httpx.AsyncClient in place of aiohttp; it is never closed or changed here.

    Raises:
        LiveAvatarError: there is no API key.
        ValueError, TypeError: an argument cannot be used.

    Leaving `async with AsyncLiveAvatarApi() as api:` stops the sessions it opened that are still open.
    """

    @without_locals
    def __init__(
        self,
        api_key: str | None = None,
        session: aiohttp.ClientSession | None = None,
        *,
        base_url: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 2,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        if http_client is not None and not isinstance(http_client, httpx.AsyncClient):
            raise TypeError(f"http_client must be an httpx.AsyncClient, not {type(http_client).__name__}")
        if session is not None and http_client is not None:
            raise ValueError("session and http_client are two ways to send a request: give one of them")
        self._session = session
        self._http_client = http_client
        super().__init__(api_key, base_url, timeout, max_retries)

    def _begin(self) -> None:
        from ._asyncio import AiohttpTransport, HttpxTransport  # loaded when a client is made: it takes its time

        super()._begin()
        self._transport: AsyncTransport
        if self._http_client is not None:
            self._transport = HttpxTransport(self._config.base_url, self._http_client)
        else:
            environment_proxy(self._config.base_url, needed=self._session is None)
            self._transport = AiohttpTransport(self._config.base_url, self._session)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unfinished: set[asyncio.Task[Any]] = set()

    @without_locals_async
    async def create_session_token(self, request_data: LiveAvatarNewSessionRequest) -> SessionTokenResponse:
        """Mint a session token, which costs nothing.

        Args:
            request_data: what the session is to be.

        Raises:
            LiveAvatarError: the service refused, or gave no answer.
            TypeError, ValueError: the request cannot be sent.

        Reference: https://docs.liveavatar.com/reference/create_session_token_v1_sessions_token_post
        """
        return await self._run(self._flows.create_session_token(request_data))

    @without_locals_async
    async def start_session(self, session_token: str) -> LiveAvatarSessionResponse:
        """Start the session of a token: from here it costs credits by the minute, until it is stopped.

        One request is sent and never repeated, and nothing is stopped when it fails: the token is yours.
        `error.session_may_be_running` says whether the session may run all the same.

        Args:
            session_token: from `create_session_token`.

        Raises:
            LiveAvatarError: the service refused, or gave no answer.
            ValueError, TypeError: the token cannot be one.

        Reference: https://docs.liveavatar.com/reference/start_session_v1_sessions_start_post
        """
        return await self._run(self._flows.start_session(credential(session_token, "session_token")))

    @without_locals_async
    async def stop_session(
        self, session_id: str, session_token: str | None = None, *, reason: StopReason | str | None = None
    ) -> StopSessionResponse:
        """Stop any session of the account, and report what the service says.

        Args:
            session_id: id of the session (UUID).
            session_token: the session's own token; without it the API key is the credential.
            reason: why, for the account's statistics: a `StopReason` or its value.

        Raises:
            LiveAvatarError: the service refused (NotFoundError: it does not know the session), or gave no answer.
            ValueError, TypeError: an argument cannot be used.

        Reference: https://docs.liveavatar.com/reference/stop_session_v1_sessions_stop_post
        """
        token = None if session_token is None else credential(session_token, "session_token")
        return await self._run(self._flows.stop_session(session_id, token, reason))

    @without_locals_async
    async def new_session(self, request_data: LiveAvatarNewSessionRequest) -> StandardSessionResponse:
        """Open a session: create its token, remember it, start it.

        If the session cannot be handed to you, it is stopped before this raises: `error.session_may_be_running`
        is True only if that could not be confirmed, and `close_session(error.session_id)` then tries again.

        Args:
            request_data: what the session is to be.

        Raises:
            LiveAvatarError: the service refused, or gave no answer.
            TypeError, ValueError: the request cannot be sent.
        """
        return await self._run(self._flows.new_session(request_data))

    @without_locals_async
    async def close_session(self, session_id: str) -> StopSessionResponse:
        """Stop a session that `new_session` opened. One that has ended by itself is no error.

        Args:
            session_id: the id that new_session gave.

        Raises:
            SessionTokenNotFoundError: this client did not open the session, or has closed it; a ValueError too.
            LiveAvatarError: the stop failed; the session is remembered, and this may be called again.
        """
        return await self._run(self._flows.close_session(session_id))

    @contextlib.asynccontextmanager
    async def session(self, request_data: LiveAvatarNewSessionRequest) -> AsyncIterator[StandardSessionResponse]:
        """A session that is closed when the `async with` block ends, whatever happens inside.

        Args:
            request_data: what the session is to be.

        Raises:
            LiveAvatarError: as new_session and close_session; after an exception of the block, that exception
                is raised, with a note if the session could not be closed.
        """
        opened = await self.new_session(request_data)
        try:
            yield opened
        except BaseException as error:
            try:
                await self._close_if_open(opened.session_id)
            except Exception as failure:
                note(error, failure)
            raise
        await self._close_if_open(opened.session_id)

    async def close_all_sessions(self) -> None:
        """Stop every session this client opened that is still open, at the same time; all are tried.

        Raises:
            LiveAvatarError: of the first that could not be stopped, with a note for each other.
        """
        stops = {asyncio.ensure_future(self._close_if_open(session_id)) for session_id in self.open_sessions}
        await self._patiently(stops)
        raise_first([error for stop in stops if (error := stop.exception())])

    async def aclose(self) -> None:
        """Close the local connection pool. Open sessions go on; a ResourceWarning names them."""
        if not self._closed:
            self._warn_of_open_sessions()
            self._closed = True
            await self._transport.close()

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._closed:
                await self.close_all_sessions()
        except Exception as failure:
            if error is None:
                raise
            note(error, failure)
        finally:
            await self.aclose()

    async def _close_if_open(self, session_id: str) -> None:
        with contextlib.suppress(SessionTokenNotFoundError):  # closed meanwhile, by the block or another task
            await self.close_session(session_id)

    async def _run(self, flow: Flow[T]) -> T:
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise LiveAvatarError("This client belongs to another event loop: make one client per loop.")
        return await self._drive(flow)

    async def _drive(self, flow: Flow[T]) -> T:
        proceed: Callable[[], Step] = functools.partial(next, flow)
        while True:
            try:
                step = proceed()
                while True:
                    step = flow.send(await self._perform(step))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            except BaseException as error:
                if inspect.getgeneratorstate(flow) == inspect.GEN_CLOSED:  # it is the flow that ended with this
                    raise
                if isinstance(error, GeneratorExit):  # the loop is gone, and with it what could perform a step
                    flow.close()
                    raise
                proceed = functools.partial(flow.throw, error)

    async def _perform(self, step: Step) -> object:
        if isinstance(step, Call):
            return step.result(await self._transport.send(step.request()))
        if isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
            return None
        return await self._drive_apart(step.flow)

    async def _drive_apart(self, flow: Flow[T]) -> T:
        """Perform a flow in a task of its own, so that cancelling this one does not reach it."""
        loop = asyncio.get_running_loop()  # before the coroutine is made: without a loop, none is to be left
        task = loop.create_task(self._drive(flow))
        await self._patiently({task})
        return task.result()

    async def _patiently(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Wait until tasks are done; cancelled, for as long as a stop may take, and then leave them to finish.

        Raises:
            asyncio.CancelledError: at the end, if it came meanwhile.
        """
        cancelled: asyncio.CancelledError | None = None
        until: float | None = None
        pending = tasks
        while pending and (until is None or until > time.monotonic()):
            try:
                _, pending = await asyncio.wait(pending, timeout=until and until - time.monotonic())
            except asyncio.CancelledError as error:
                cancelled = error
                until = until or time.monotonic() + RESCUE_TIME
        if cancelled is not None:
            for task in tasks:
                self._unfinished.add(task)  # the loop itself keeps only weak references
                task.add_done_callback(self._finish)
            raise cancelled

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._unfinished.discard(task)
        if not task.cancelled():
            task.exception()  # the flow has logged it; nobody else is left to tell
