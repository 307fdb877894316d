"""What each method of a client does, as coroutines over its I/O; and the cleanup that no failure skips.

The async client awaits these coroutines. The blocking client runs them to their end in one step, because its I/O never
suspends. This is the one place that knows that a session may be running, and stops it.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from liveavatar_client.models import (
    LiveAvatarSessionResponse,
    SessionInfo,
    SessionPage,
    SessionTokenData,
    SessionTokenResponse,
    SessionTranscript,
    StopReason,
    StopSessionResponse,
)

from ._arguments import check_params, check_request, check_seconds, check_session_id, check_timestamp
from ._calls import IO, Body, call, logger
from ._config import Config
from ._constants import (
    CLEANUP_RETRY_DELAYS,
    CLEANUP_TIMEOUT,
    MAX_SLOT_DELAY,
    MIN_SLOT_DELAY,
    RECOVERED_START_AGE,
)
from ._endpoints import (
    CREATE_TOKEN,
    DELETE_EVENTS,
    GET,
    KEEP_ALIVE,
    LIST,
    START,
    STOP,
    TRANSCRIPT,
    custom,
    has_ended,
    is_unknown,
    is_unknown_path,
    never_started,
)
from ._redaction import Secret, redact
from ._schema import session_request, stop_request
from ._sessions import Session, Sessions
from .errors import (
    AuthenticationError,
    ConcurrencyLimitError,
    LedgerError,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    NotFoundError,
)
from .models import StandardSessionResponse

if TYPE_CHECKING:
    from ._recovery import AccountLedger
    from .ledger._protocol import LedgerEntry

T = TypeVar("T")

_MAX_INTERRUPTS = 10
"""How many exceptions may interrupt the stop of a session before it is given up."""


class Recovery(Protocol):
    """The recovery that a client runs in the background."""

    async def first(self) -> None:
        """Wait until the first recovery has ended, for a short time at most."""


class Flows:
    """The flows of one client, and the sessions that it has opened."""

    def __init__(self, config: Config, io: IO, sessions: Sessions | None = None) -> None:
        self._config = config
        self.io = io
        self.sessions = Sessions() if sessions is None else sessions
        self.recovery: Recovery | None = None
        """The recovery of sessions that dead processes have left, if there is a ledger."""

    async def create_session_token(self, request: object) -> SessionTokenResponse:
        """Create a session token."""
        body = Secret(session_request(request))
        return await call(self.io, self._config, CREATE_TOKEN, None, self._deadline(), body)

    async def start_session(self, token: Secret[str]) -> LiveAvatarSessionResponse:
        """Start the session of a token, without retries: only the owner of the token knows whether one is right."""
        return await call(self.io, self._config, START, token, self._deadline(), max_retries=0)

    async def stop_session(
        self, session_id: str, token: Secret[str] | None, reason: StopReason | str | None
    ) -> StopSessionResponse:
        """Stop any session of the account."""
        body = Secret(stop_request(check_session_id(session_id), reason))
        return await call(self.io, self._config, STOP, token, self._deadline(), body, session_id=session_id)

    async def new_session(self, request: object, wait_for_slot: float = 0.0) -> StandardSessionResponse:
        """Open a session. At the account's concurrency limit, try again for `wait_for_slot` seconds."""
        self.sessions.ensure_open()
        body = Secret(session_request(request))
        until = time.monotonic() + check_seconds(wait_for_slot, "wait_for_slot")
        delay = MIN_SLOT_DELAY
        created: SessionTokenData | None = None
        while True:
            reused, deadline = created is not None, self._deadline()
            try:
                if created is None:
                    created = (await call(self.io, self._config, CREATE_TOKEN, None, deadline, body)).data
                if self.recovery is not None:
                    await self.recovery.first()  # it may free the slot that this session needs
                return await self._start(created, deadline)
            except ConcurrencyLimitError as error:
                remaining = until - time.monotonic()
                if remaining <= 0 or error.session_may_be_running:
                    raise
                if not never_started(error):
                    created = None  # the session was stopped, in case it had started
            except (AuthenticationError, NotFoundError):
                if not reused:
                    raise
                created = None  # its token has expired while there was no slot
                continue
            await self.io.sleep(min(remaining, delay * random.uniform(0.75, 1.0)))
            delay = min(MAX_SLOT_DELAY, 2 * delay)

    async def _start(self, created: SessionTokenData, deadline: float) -> StandardSessionResponse:
        """Start a session; if it cannot be returned to the caller, stop it."""
        session = self.sessions.add(created.session_id, Secret(created.session_token))
        try:
            await self._write_down(session)
            self.sessions.mark_starting(session)
            response = await call(self.io, self._config, START, session.token, deadline, session_id=session.id)
            self.sessions.mark_started(session, response.data.session_id)
            if session.id != created.session_id:
                await self._write_down(session)
                await self._remove_from_ledger(created.session_id)
            return StandardSessionResponse.from_response(session.id, response)
        except BaseException as error:
            await self._compensate(session, error)
            raise

    async def close_session(self, session_id: str, reason: StopReason | str | None = None) -> StopSessionResponse:
        """Stop a session that new_session has opened. A cancellation does not interrupt the stop."""
        if self.sessions.find(check_session_id(session_id)) is None and self.sessions.take_ended(session_id):
            return StopSessionResponse(message="The session has already ended.")
        session = self.sessions.get(session_id)
        body, deadline = Secret(stop_request(session.id, reason)), self._deadline()
        try:
            return await self.io.shield(lambda: self._stop_despite_interrupts(session, deadline, body))
        except BaseException as error:
            if session in self.sessions:
                error.session_id, error.session_may_be_running = session.id, True  # type: ignore[attr-defined]
                _warn(session, error)
            raise

    async def keep_session_alive(self, session_id: str) -> None:
        """Reset the idle timer of a session, with its token if this client has opened it."""
        session = self.sessions.find(check_session_id(session_id)) or Session(session_id, None)
        try:
            await self._keep_alive(session, self._deadline(), None)
        except LiveAvatarError as error:
            await self._note_end(session, error)
            raise

    async def keep_alive_once(self, session: Session, seconds: float) -> bool:
        """Reset the idle timer of a session of this client; return False if the session has ended."""
        try:
            await self._keep_alive(session, time.monotonic() + min(seconds, self._config.timeout), 0)
        except LiveAvatarError as error:
            if not await self._note_end(session, error):
                raise
            return False
        return True

    async def _keep_alive(self, session: Session, deadline: float, max_retries: int | None) -> None:
        body = Secret({"session_id": session.id})
        for token in _credentials(session):
            try:
                await call(
                    self.io,
                    self._config,
                    KEEP_ALIVE,
                    token,
                    deadline,
                    body,
                    session_id=session.id,
                    max_retries=max_retries,
                )
                return
            except AuthenticationError:
                if token is None:
                    raise

    async def _note_end(self, session: Session, error: LiveAvatarError) -> bool:
        """Remove a session that has ended, as an error says; return whether it does."""
        ended = has_ended(error) and not is_unknown_path(error)
        if ended and self.sessions.discard_ended(session):
            logger.info("Session %s has ended: %s", session.id, _message(error))
            await self._remove_from_ledger(session.id)
        return ended

    async def list_page(self, query: Mapping[str, Any]) -> SessionPage:
        """Return one page of the list of sessions."""
        return (await call(self.io, self._config, LIST, None, self._deadline(), query=query)).data

    async def get_session(self, session_id: str) -> SessionInfo:
        """Return what the service records about a session."""
        path = {"session_id": check_session_id(session_id)}
        response = await call(self.io, self._config, GET, None, self._deadline(), path=path, session_id=session_id)
        if response.data is None:
            error = NotFoundError("200 The service has no such session.", 200, "")
            error.endpoint, error.session_id = GET.full_path, session_id
            raise error
        return response.data

    async def get_session_transcript(self, session_id: str, start: int | None, end: int | None) -> SessionTranscript:
        """Return the transcript of a session."""
        path = {"session_id": check_session_id(session_id)}
        query = {
            "start_timestamp": check_timestamp(start, "start_timestamp"),
            "end_timestamp": check_timestamp(end, "end_timestamp"),
        }
        response = await call(
            self.io, self._config, TRANSCRIPT, None, self._deadline(), path=path, query=query, session_id=session_id
        )
        return response.data

    async def delete_session_events(self, session_id: str) -> None:
        """Delete the stored events of a session."""
        path = {"session_id": check_session_id(session_id)}
        await call(self.io, self._config, DELETE_EVENTS, None, self._deadline(), path=path, session_id=session_id)

    async def request(
        self, method: str, path: str, json: object, params: Mapping[str, Any] | None, idempotent: bool | None
    ) -> Any:
        """Call an endpoint that has no method."""
        method, path = check_request(method, path)
        endpoint = custom(method, path, idempotent=method == "GET" if idempotent is None else idempotent)
        body = None if json is None else Secret(json)
        return await call(self.io, self._config, endpoint, None, self._deadline(), body, query=check_params(params))

    async def close_opening_session(self, session: Session) -> None:
        """Stop a session whose start has no response yet, because the client is closed."""
        deadline = time.monotonic() + CLEANUP_TIMEOUT
        await self.io.shield(lambda: self.stop_leftover(session, deadline))

    async def stop_leftover(self, session: Session, deadline: float) -> None:
        """Stop a session that the caller does not have; one that was not started yet is not started any more."""
        if not session.start_sent:
            await self._discard(session)
            return
        body = Secret(stop_request(session.id))
        await self._stop_despite_interrupts(session, deadline, body, is_cleanup=True)

    async def adopt_session(self, session_id: str, token: Secret[str] | None) -> None:
        """Make a running session of another client or process this client's own."""
        check_session_id(session_id)
        self.sessions.ensure_open()
        if self.sessions.ledger is not None:
            await self._in_ledger(lambda ledger: ledger.add(session_id))
        self.sessions.adopt(session_id, token)

    async def recover_sessions(self, stopped: list[str]) -> None:
        """Stop the sessions whose owners are dead, and append their ids to `stopped`.

        Raises:
            LedgerError: The ledger could not be read or written.
            LiveAvatarError: A session could not be stopped. It belongs to this client now, and the next call tries it
                again.
        """
        failures: list[LiveAvatarError] = []

        async def stop(session: Session | None) -> None:
            if session is not None:
                try:
                    await self._stop_recovered(session, stopped)
                except LiveAvatarConnectionError:
                    raise  # the others are left to the next call, or to another process
                except LiveAvatarError as error:
                    failures.append(error)

        for session in self.sessions.all:
            if session.to_recover:
                await stop(session)
        for entry in await self._in_ledger(lambda ledger: ledger.abandoned()):
            if self.sessions.closed:
                break
            await stop(await self.io.shield(functools.partial(self._claim, entry)))
        if failures:
            raise failures[0]

    async def _claim(self, entry: LedgerEntry) -> Session | None:
        if not await self._in_ledger(lambda ledger: ledger.claim(entry.session_id)):
            return None
        age = (datetime.now(UTC) - entry.started_at).total_seconds()
        # The last request of a process that has just died may still be on its way.
        delay = CLEANUP_TIMEOUT if age < RECOVERED_START_AGE else 0.0
        return self.sessions.claim(entry.session_id, time.monotonic() + delay)

    async def _stop_recovered(self, session: Session, stopped: list[str]) -> None:
        body, deadline = Secret(stop_request(session.id)), self._deadline()
        try:
            await self.io.shield(lambda: self._stop_despite_interrupts(session, deadline, body))
        finally:
            if session.ended:
                stopped.append(session.id)
                logger.info("Session %s was left by a process that has died. It does not run any more.", session.id)

    async def _compensate(self, session: Session, error: BaseException) -> None:
        """Stop a session that new_session does not return, unless it certainly never started."""
        refused = isinstance(error, LiveAvatarError) and never_started(error) and not session.start_known
        if refused or not session.start_sent:
            await self._discard(session)
            return
        begun = False

        async def cleanup() -> None:
            nonlocal begun
            begun = True
            await self.stop_leftover(session, time.monotonic() + CLEANUP_TIMEOUT)

        failure = latest = error
        # A stop that was confirmed before the start was carried out has not ended the session.
        stopped = session.ended and not session.start_known
        # An interrupt may arrive before the cleanup has begun: then try again. Once it has begun, it is finished.
        for _ in range(_MAX_INTERRUPTS):
            if begun or stopped or isinstance(latest, GeneratorExit):
                break
            try:
                await self.io.shield_cleanup(cleanup)
            except LiveAvatarError as caught:
                failure = caught
            except BaseException as interruption:
                failure = latest = interruption
        unconfirmed = session in self.sessions
        if unconfirmed:
            _warn(session, failure)
        _annotate(latest, session.id, failure if unconfirmed else None)
        if latest is not error:
            raise latest

    async def _stop_despite_interrupts(
        self, session: Session, deadline: float, body: Body, *, is_cleanup: bool = False
    ) -> StopSessionResponse:
        """Stop a session. If interrupted, keep trying for CLEANUP_TIMEOUT, then re-raise the interruption."""
        interruption: BaseException | None = None
        for _ in range(_MAX_INTERRUPTS):
            try:
                response = await self._stop_and_discard(session, deadline, body, is_cleanup)
                if interruption is None:
                    return response
                break
            except GeneratorExit:  # the event loop is gone, and with it what could send a request
                raise
            except LiveAvatarError:
                if interruption is None:
                    raise
                break
            except BaseException as error:
                if interruption is None:
                    deadline = min(deadline, time.monotonic() + CLEANUP_TIMEOUT)
                interruption = error
                if time.monotonic() >= deadline:
                    break
        assert interruption is not None
        raise interruption

    async def _stop_and_discard(
        self, session: Session, deadline: float, body: Body, is_cleanup: bool
    ) -> StopSessionResponse:
        """Stop a session, and remove it from the registry once the service says that it does not run."""
        delays = iter(CLEANUP_RETRY_DELAYS)
        while True:
            try:
                response = await self._stop(session, deadline, body, is_cleanup)
                break
            except LiveAvatarApiError as error:
                if session.ended or has_ended(error, start_known=session.start_settled):
                    response = StopSessionResponse(message=error.message)
                    break
                # The stop may have reached the service before the start: send it again.
                delay = next(delays, CLEANUP_RETRY_DELAYS[-1])
                if not is_unknown(error) or time.monotonic() + delay >= deadline:
                    raise
            await self.io.sleep(delay)
        await self._discard(session)
        return response

    async def _stop(self, session: Session, deadline: float, body: Body, is_cleanup: bool) -> StopSessionResponse:
        """Stop a session with its own token or, if that is no longer valid, with the API key."""
        for token in _credentials(session):
            try:
                return await call(
                    self.io, self._config, STOP, token, deadline, body, session_id=session.id, is_cleanup=is_cleanup
                )
            except AuthenticationError:
                if token is None:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _write_down(self, session: Session) -> None:
        """Write a session down in the ledger, if there is one.

        Raises:
            LedgerError: It is not written down.
        """
        if self.sessions.ledger is not None:
            session.in_ledger = True
            try:
                await self._in_ledger(lambda ledger: ledger.add(session.id))
            except LedgerError:
                session.in_ledger = False
                raise

    async def _discard(self, session: Session) -> None:
        """Remove a session that is known not to run from the registry and from the ledger."""
        self.sessions.discard(session)
        if session.in_ledger:
            await self._remove_from_ledger(session.id)

    async def _remove_from_ledger(self, session_id: str) -> None:
        if self.sessions.ledger is not None:
            await self._in_ledger(lambda ledger: ledger.remove(session_id))

    async def _in_ledger(self, operation: Callable[[AccountLedger], T]) -> T:
        """Perform an operation on the ledger. A cancellation does not leave it half done."""
        ledger = self.sessions.ledger
        if ledger is None:
            raise LiveAvatarError("This client has no ledger: pass ledger= when you create it.")
        return await self.io.shield(lambda: self.io.call_blocking(lambda: operation(ledger)))

    def _deadline(self) -> float:
        return time.monotonic() + self._config.timeout


def _credentials(session: Session) -> tuple[Secret[str] | None, ...]:
    """Return the tokens to try for a session; None is the API key."""
    return (None,) if session.token is None else (session.token, None)


def _warn(session: Session, error: BaseException) -> None:
    logger.warning("Session %s may still be running: %s", session.id, _message(error))


def _annotate(error: BaseException, session_id: str, failure: BaseException | None) -> None:
    """Set on an exception, of whatever class, what became of the session."""
    error.session_id = session_id  # type: ignore[attr-defined]
    error.session_may_be_running = failure is not None  # type: ignore[attr-defined]
    if failure is not None:
        cause = "" if failure is error else f", because its stop failed too: {_message(failure)}"
        error.add_note(f"Session {session_id} may still be running{cause}. close_session() tries again.")


def _message(error: BaseException) -> str:
    return redact(str(error)) or type(error).__name__
