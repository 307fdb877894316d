"""The async client."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from liveavatar_client.models import LiveAvatarNewSessionRequest, StopReason, StopSessionResponse

from ._async_account_api import AsyncAccountApi
from ._background import BackgroundCalls
from ._base import add_failure_note, raise_first
from ._calls import IO
from ._config import parse_credential
from ._constants import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, MAX_CONCURRENT_STOPS
from ._flows import Flows
from ._keep_alive import keep_alive_interval
from ._keep_alive_task import TaskWorker
from ._redaction import scrub_traceback
from ._sessions import Session
from .errors import LiveAvatarError, SessionTokenNotFoundError
from .models import StandardSessionResponse

if TYPE_CHECKING:
    import aiohttp

    from ._recovery_task import RecoveryTask
    from ._transports._asyncio import AsyncTransport
    from .ledger import Ledger

T = TypeVar("T")


class AsyncLiveAvatarApi(AsyncAccountApi):
    """Opens and closes LiveAvatar sessions on asyncio. Any number of tasks in one event loop may share one client.

    Closing the client, or leaving `async with AsyncLiveAvatarApi() as api:`, stops the sessions that it has opened.

    Args:
        api_key: The account's API key. Default: the environment variable LIVEAVATAR_API_KEY.
        session: Your own aiohttp.ClientSession. Only its connector and trace configs are used, not its headers,
            cookies, middlewares or proxy. The client never closes it.
        base_url: Base URL of the service. Default: LIVEAVATAR_BASE_URL, then `BASE_URL`.
        timeout: Seconds that one method call may take, retries and delays included.
        max_retries: How many times a request that is safe to repeat is sent again; 0 turns retries off.
        http_client: Your own httpx.AsyncClient in place of aiohttp. The client never closes or changes it.
        ledger: A record of open sessions that outlives the process, such as `liveavatar.ledger.SqliteLedger(path)`.
            The sessions that a killed process leaves running are then stopped by the next one.

    Raises:
        LiveAvatarError: There is no API key.
        ValueError, TypeError: An argument is not valid.
    """

    @scrub_traceback
    def __init__(
        self,
        api_key: str | None = None,
        session: aiohttp.ClientSession | None = None,
        *,
        base_url: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_MAX_RETRIES,
        http_client: httpx.AsyncClient | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        if http_client is not None and not isinstance(http_client, httpx.AsyncClient):
            raise TypeError(f"http_client must be an httpx.AsyncClient, not {type(http_client).__name__}")
        if session is not None and http_client is not None:
            raise ValueError("session and http_client are alternatives: pass one of them")
        self._session = session
        self._http_client = http_client
        super().__init__(api_key, base_url, timeout, max_retries, ledger)

    def _new_recovery(self, flows: Flows) -> RecoveryTask:
        from ._recovery_task import RecoveryTask

        return RecoveryTask(self, flows)

    def _call_ledger(self, operation: Callable[[], None]) -> None:
        self._ledger_removals.add(operation)

    def _new_io(self) -> tuple[IO, IO | None]:
        from ._transports._aiohttp import AiohttpTransport  # imported late, to keep our import light
        from ._transports._async_httpx import HttpxTransport
        from ._transports._asyncio import AsyncIO

        self._transport: AsyncTransport
        if self._http_client is not None:
            self._transport = HttpxTransport(self._config.base_url, self._http_client)
        else:
            self._transport = AiohttpTransport(self._config.base_url, self._session)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = 0
        self._closed = False
        self._ledger_removals = BackgroundCalls()  # of released sessions
        self._worker: TaskWorker | None = None
        return AsyncIO(self._transport), None

    @scrub_traceback
    async def new_session(
        self,
        request_data: LiveAvatarNewSessionRequest,
        *,
        keep_alive: bool | float = False,
        wait_for_slot: float = 0.0,
    ) -> StandardSessionResponse:
        """Open a session: create its token, remember the token, start the session.

        If the session cannot be returned to you, it is stopped before this raises. `error.session_may_be_running`
        is True only if the stop could not be confirmed; `close_session(error.session_id)` then tries again.

        Args:
            request_data: The session's configuration.
            keep_alive: Keep the session from ending as idle, which also keeps it costing credits: True for a
                keep-alive request every 2 minutes, or the seconds between two.
            wait_for_slot: Seconds to go on trying while the account has too many sessions. Each attempt may take
                `timeout` seconds.

        Returns:
            The open session.

        Raises:
            LiveAvatarError: The service responded with an error, or not at all.
            TypeError, ValueError: The request is not valid.
        """
        interval = keep_alive_interval(keep_alive)
        opened = await self._run(lambda: self._new_session(request_data, wait_for_slot))
        if interval is not None:
            self._keep_alive(opened.session_id, interval)
        return opened

    @scrub_traceback
    async def close_session(self, session_id: str, *, reason: StopReason | str | None = None) -> StopSessionResponse:
        """Stop a session that `new_session` has opened. A session that has ended by itself is not an error.

        Args:
            session_id: The id that new_session has returned.
            reason: The reason for the account's statistics: a `StopReason` or its value.

        Returns:
            The response of the service.

        Raises:
            SessionTokenNotFoundError: This client did not open the session, or has closed it. Also a ValueError.
            LiveAvatarError: The stop failed. The client keeps its token, so you can call this again.
        """
        return await self._run_closing(lambda flows: flows.close_session(session_id, reason))

    @contextlib.asynccontextmanager
    async def session(
        self,
        request_data: LiveAvatarNewSessionRequest,
        *,
        keep_alive: bool | float = False,
        wait_for_slot: float = 0.0,
    ) -> AsyncIterator[StandardSessionResponse]:
        """Open a session that is closed when the `async with` block ends, whatever happens inside.

        Args:
            request_data: The session's configuration.
            keep_alive: As for new_session.
            wait_for_slot: As for new_session.

        Yields:
            The open session.

        Raises:
            LiveAvatarError: As for new_session and close_session. After an exception in the block, that exception is
                raised, with a note if the session could not be closed.
        """
        opened = await self.new_session(request_data, keep_alive=keep_alive, wait_for_slot=wait_for_slot)
        try:
            yield opened
        except BaseException as error:
            try:
                await self._close_if_open(opened.session_id)
            except Exception as failure:
                add_failure_note(error, failure)
            raise
        await self._close_if_open(opened.session_id)

    @scrub_traceback
    async def adopt_session(self, session_id: str, token: str | None = None) -> None:
        """Take over a running session that another client or process has opened: this client now closes it.

        A cancellation does not leave it half done: it is raised after the session was written down in the ledger and
        taken over.

        Args:
            session_id: Id of the session (UUID).
            token: Its session token, as `release_session` has returned it. Default: the API key is the credential.

        Raises:
            LedgerError: The session could not be written down in the ledger. It was not taken over.
            LiveAvatarError: The client is closed.
            ValueError, TypeError: An argument is not valid.
        """
        credential = parse_credential(token, "token") if token else None
        del token
        await self._run(lambda: self._flows.adopt_session(session_id, credential))
        self._start_recovery()

    @scrub_traceback
    async def recover_sessions(self) -> list[str]:
        """Stop the sessions in the ledger whose processes have died, with the API key as the credential.

        Only sessions of this client's account and base URL are stopped. If several processes recover at once, each
        session is stopped by one of them.

        A client with a ledger does the same in the background: when its `async with` block is entered or its first
        session is opened or adopted, and then every 10 seconds until it is closed. The first session that is opened
        waits up to 5 seconds for it, because it may need the slot.

        Returns:
            The ids of all sessions recovered since the last call, including those recovered in the background.

        Raises:
            LedgerError: The ledger could not be read or written.
            LiveAvatarError: There is no ledger, or a session could not be stopped; the next call tries it again.
        """
        stopped: list[str] = await self._run(self._recovery_of_ledger().recover)
        return stopped

    @scrub_traceback
    async def close_all_sessions(self) -> None:
        """Stop every session that this client has opened and that is still open; try all of them.

        Up to 100 are stopped at the same time. They share one `timeout`. When it is over, each of the others still has
        up to 5 seconds, or one after a signal that `graceful_shutdown` handles.

        Raises:
            LiveAvatarError: The first that could not be stopped, with a note for each that may still be running.
        """
        from ._transports._asyncio import shield_all

        sessions = self._flows.sessions.all
        if not sessions:
            return
        deadline = self._flows.stop_deadline()
        limit = asyncio.Semaphore(MAX_CONCURRENT_STOPS)

        async def close(flows: Flows, session: Session) -> None:
            cancelled = None
            try:
                await limit.acquire()
            except asyncio.CancelledError as error:  # something has cancelled all tasks of the loop
                cancelled = error
            try:
                await flows.close_tracked(session, deadline)
            finally:
                if cancelled is None:
                    limit.release()
            if cancelled is not None:
                raise cancelled

        stops = await self._run_closing(
            lambda flows: shield_all([functools.partial(close, flows, session) for session in sessions])
        )
        failures = [asyncio.CancelledError() if stop.cancelled() else stop.exception() for stop in stops]
        raise_first([failure for failure in failures if failure is not None])

    async def aclose(self) -> None:
        """Stop the sessions that this client has opened and not released, then close the connection pool.

        A session that is being opened by another task is stopped too. To let a session go on, call
        `release_session` first.

        Raises:
            LiveAvatarError: The first session that could not be stopped, with a note for each that may still run. The
                client is closed all the same.
        """
        self._flows.sessions.close()
        self._closing += 1
        try:
            await self.close_all_sessions()
            if self._ledger_removals.under_way():
                await self._flows.io.call_ledger(self._ledger_removals.wait, None)
        finally:
            try:
                if self._flows.recovery is not None:
                    await self._recovery.close()
            finally:
                self._closing -= 1
                self._closed = True
                if self._closing == 0:  # another task that closes the client needs the connections
                    await self._transport.close()

    async def __aenter__(self) -> Self:
        self._flows.sessions.ensure_open()
        self._start_recovery()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except Exception as failure:
            if error is None:
                raise
            add_failure_note(error, failure)

    async def _close_if_open(self, session_id: str) -> None:
        with contextlib.suppress(SessionTokenNotFoundError):  # closed meanwhile, by the block or another task
            await self.close_session(session_id)

    def _keep_alive(self, session_id: str, interval: float) -> None:
        session = self._flows.sessions.find(session_id)
        if session is not None:
            self._worker = self._worker or TaskWorker(self._flows)
            self._worker.add(session, interval)

    def _new_session(self, request_data: object, wait_for_slot: float) -> Coroutine[Any, Any, StandardSessionResponse]:
        self._start_recovery()
        return self._flows.new_session(request_data, wait_for_slot)

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
        """Do work in the event loop to which the client belongs: the first that uses it, or the first after a fork."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise LiveAvatarError("The async client runs on asyncio, and there is no running event loop.") from None
        if self._loop is not loop:
            self._reset_after_fork()
            if self._loop is not None:
                raise LiveAvatarError("This client belongs to another event loop: create one client per loop.")
            self._loop = loop
        return work()

    def _run_closing(self, work: Callable[[Flows], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
        """Do work that stops sessions, even if the client is closed or belongs to another event loop."""
        if not self._closed and self._loop in (None, asyncio.get_running_loop()):
            return work(self._flows)
        return self._run_beside_pool(work)

    async def _run_beside_pool(self, work: Callable[[Flows], Coroutine[Any, Any, T]]) -> T:
        from ._transports._asyncio import AsyncIO

        transport = self._transport.spare()
        try:
            return await work(Flows(self._config, AsyncIO(transport), self._flows.sessions))
        finally:
            await transport.close()
