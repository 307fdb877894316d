"""The blocking client."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from liveavatar_client.models import LiveAvatarNewSessionRequest, StopReason, StopSessionResponse

from ._account_api import AccountApi
from ._base import add_failure_note, raise_first
from ._calls import IO
from ._config import parse_credential
from ._constants import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, LEDGER_TIMEOUT
from ._keep_alive import ThreadWorker, keep_alive_interval
from ._log import log
from ._redaction import scrub_traceback
from ._sessions import Session
from .errors import LedgerError, SessionTokenNotFoundError
from .models import StandardSessionResponse

if TYPE_CHECKING:
    from ._flows import Flows
    from ._recovery import RecoveryThread
    from .ledger import Ledger

T = TypeVar("T")


class LiveAvatarApi(AccountApi):
    """Opens and closes LiveAvatar sessions in blocking code. Any number of threads may share one client.

    Closing the client, or leaving `with LiveAvatarApi() as api:`, stops the sessions that it has opened.

    Args:
        api_key: The account's API key. Default: the environment variable LIVEAVATAR_API_KEY.
        base_url: Base URL of the service. Default: LIVEAVATAR_BASE_URL, then `BASE_URL`.
        timeout: Seconds that one method call may take, retries and delays included.
        max_retries: How many times a request that is safe to repeat is sent again; 0 turns retries off.
        http_client: Your own httpx.Client, for proxies, CA certificates or instrumentation. The client never closes or
            changes it.
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
        *,
        base_url: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_MAX_RETRIES,
        http_client: httpx.Client | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        if http_client is not None and not isinstance(http_client, httpx.Client):
            raise TypeError(f"http_client must be an httpx.Client, not {type(http_client).__name__}")
        self._http_client = http_client
        super().__init__(api_key, base_url, timeout, max_retries, ledger)

    def _new_recovery(self, flows: Flows) -> RecoveryThread:
        from ._recovery import RecoveryThread

        return RecoveryThread(self, flows)

    def _call_ledger(self, operation: Callable[[], None]) -> None:
        try:
            self._run(lambda: self._flows.io.call_ledger(operation, LEDGER_TIMEOUT))
        except LedgerError as error:  # the operation goes on in its thread
            log(logging.WARNING, "%s A session that is released now may stay in it for a while.", error)

    def _new_io(self) -> tuple[IO, IO | None]:
        from ._transports._blocking import BlockingIO, BlockingTransport  # imported late, to keep our import light

        self._transport = BlockingTransport(self._config.base_url, self._http_client)
        io = BlockingIO(self._transport)
        self._worker: ThreadWorker | None = None
        return io, None if self._http_client is None else io

    @scrub_traceback
    def new_session(
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
        self._start_recovery()
        opened = self._run(lambda: self._flows.new_session(request_data, wait_for_slot))
        if interval is not None:
            try:
                self._keep_alive(opened.session_id, interval)
            except BaseException as error:  # Ctrl-C, while the thread starts
                self._close_after(error, opened.session_id)
                raise
        return opened

    @scrub_traceback
    def close_session(self, session_id: str, *, reason: StopReason | str | None = None) -> StopSessionResponse:
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
        return self._run(lambda: self._flows.close_session(session_id, reason))

    @contextlib.contextmanager
    def session(
        self,
        request_data: LiveAvatarNewSessionRequest,
        *,
        keep_alive: bool | float = False,
        wait_for_slot: float = 0.0,
    ) -> Iterator[StandardSessionResponse]:
        """Open a session that is closed when the `with` block ends, whatever happens inside.

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
        opened = self.new_session(request_data, keep_alive=keep_alive, wait_for_slot=wait_for_slot)
        try:
            yield opened
        except BaseException as error:
            self._close_after(error, opened.session_id)
            raise
        self._close_if_open(opened.session_id)

    @scrub_traceback
    def adopt_session(self, session_id: str, token: str | None = None) -> None:
        """Take over a running session that another client or process has opened: this client now closes it.

        Ctrl-C does not leave it half done: it is raised after the session was written down in the ledger and
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
        self._run(lambda: self._flows.adopt_session(session_id, credential))
        self._start_recovery()

    @scrub_traceback
    def recover_sessions(self) -> list[str]:
        """Stop the sessions in the ledger whose processes have died, with the API key as the credential.

        Only sessions of this client's account and base URL are stopped. If several processes recover at once, each
        session is stopped by one of them.

        A client with a ledger does the same in the background: when its `with` block is entered or its first
        session is opened or adopted, and then every 10 seconds until it is closed. The first session that is opened
        waits up to 5 seconds for it, because it may need the slot.

        Returns:
            The ids of all sessions recovered since the last call, including those recovered in the background.

        Raises:
            LedgerError: The ledger could not be read or written.
            LiveAvatarError: There is no ledger, or a session could not be stopped; the next call tries it again.
        """
        stopped: list[str] = self._recovery_of_ledger().recover()
        return stopped

    def close_all_sessions(self) -> None:
        """Stop every session that this client has opened and that is still open, one by one; try all of them.

        The stops share one `timeout`. When it is over, or after Ctrl-C, each of the others still has up to 5 seconds,
        or one after a signal that `graceful_shutdown` handles.

        Raises:
            LiveAvatarError: The first that could not be stopped, with a note for each that may still be running.
        """
        failures: list[BaseException] = []
        deadline = self._flows.stop_deadline()
        for session in self._flows.sessions.all:
            try:
                self._close_tracked(session, deadline)
            except Exception as error:
                failures.append(error)
            except BaseException as error:  # Ctrl-C: the other sessions are stopped all the same
                failures.append(error)
                deadline = 0.0
        raise_first(failures)

    def close(self) -> None:
        """Stop the sessions that this client has opened and not released, then close the connection pool.

        A session that is being opened by another thread is stopped too. To let a session go on, call
        `release_session` first.

        Raises:
            LiveAvatarError: The first session that could not be stopped, with a note for each that may still run. The
                client is closed all the same.
        """
        self._flows.sessions.close()
        try:
            self.close_all_sessions()
        finally:
            try:
                if self._flows.recovery is not None:
                    self._recovery.close()
            finally:
                self._transport.close()

    def __enter__(self) -> Self:
        self._flows.sessions.ensure_open()
        self._start_recovery()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            add_failure_note(error, failure)

    @scrub_traceback
    def _close_tracked(self, session: Session, deadline: float) -> None:
        self._run(lambda: self._flows.close_tracked(session, deadline))

    def _close_after(self, error: BaseException, session_id: str) -> None:
        """Close a session because of an exception, which gets a note if that fails."""
        try:
            self._close_if_open(session_id)
        except Exception as failure:
            add_failure_note(error, failure)

    def _close_if_open(self, session_id: str) -> None:
        with contextlib.suppress(SessionTokenNotFoundError):  # closed meanwhile, by the block or another thread
            self.close_session(session_id)

    def _keep_alive(self, session_id: str, interval: float) -> None:
        session = self._flows.sessions.find(session_id)
        if session is not None:
            self._worker = self._worker or ThreadWorker(self._flows)
            self._worker.add(session, interval)

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        from ._transports._blocking import run

        return run(work)
