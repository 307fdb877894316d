"""What each method of a client does, as coroutines over its I/O; and the cleanup that no failure skips.

The async client awaits these coroutines. The blocking client runs them to their end in one step, because its I/O never
suspends. This is the one place that knows that a session may be running, and stops it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

from liveavatar_client.models import (
    LiveAvatarSessionResponse,
    SessionTokenResponse,
    StopReason,
    StopSessionResponse,
)

from ._calls import IO, Body, call, logger
from ._config import Config
from ._constants import CLEANUP_RETRY_DELAYS, CLEANUP_TIMEOUT, RECOVERED_START_AGE
from ._endpoints import CREATE_TOKEN, START, STOP, has_ended, is_unknown, never_started
from ._redaction import Secret, redact
from ._schema import session_request, stop_request
from ._sessions import Session, Sessions, check_session_id
from .errors import (
    AuthenticationError,
    LedgerError,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
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
        self._io = io
        self.sessions = Sessions() if sessions is None else sessions
        self.recovery: Recovery | None = None
        """The recovery of sessions that dead processes have left, if there is a ledger."""

    async def create_session_token(self, request: object) -> SessionTokenResponse:
        """Create a session token."""
        body = Secret(session_request(request))
        return await call(self._io, self._config, CREATE_TOKEN, None, self._deadline(), body)

    async def start_session(self, token: Secret[str]) -> LiveAvatarSessionResponse:
        """Start the session of a token, without retries: only the owner of the token knows whether one is right."""
        return await call(self._io, self._config, START, token, self._deadline(), max_retries=0)

    async def stop_session(
        self, session_id: str, token: Secret[str] | None, reason: StopReason | str | None
    ) -> StopSessionResponse:
        """Stop any session of the account."""
        body = Secret(stop_request(check_session_id(session_id), reason))
        return await call(self._io, self._config, STOP, token, self._deadline(), body, session_id=session_id)

    async def new_session(self, request: object) -> StandardSessionResponse:
        """Open a session; if it cannot be returned to the caller, stop it."""
        self.sessions.ensure_open()
        deadline = self._deadline()
        body = Secret(session_request(request))
        created = (await call(self._io, self._config, CREATE_TOKEN, None, deadline, body)).data
        if self.recovery is not None:
            await self.recovery.first()  # it may free the slot that this session needs
        session = self.sessions.add(created.session_id, Secret(created.session_token))
        try:
            await self._write_down(session)
            self.sessions.mark_starting(session)
            response = await call(self._io, self._config, START, session.token, deadline, session_id=session.id)
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
        session = self.sessions.get(session_id)
        body, deadline = Secret(stop_request(session.id, reason)), self._deadline()
        try:
            return await self._io.shield(lambda: self._stop_despite_interrupts(session, deadline, body))
        except BaseException as error:
            if session in self.sessions:
                error.session_id, error.session_may_be_running = session.id, True  # type: ignore[attr-defined]
                _warn(session, error)
            raise

    async def close_opening_session(self, session: Session) -> None:
        """Stop a session whose start has not been answered yet, because the client is closed."""
        deadline = time.monotonic() + CLEANUP_TIMEOUT
        await self._io.shield(lambda: self.stop_leftover(session, deadline))

    async def stop_leftover(self, session: Session, deadline: float) -> None:
        """Stop a session that the caller does not have; one that was not started yet is not started any more."""
        if not session.start_sent:
            await self._discard(session)
            return
        body = Secret(stop_request(session.id))
        await self._stop_despite_interrupts(session, deadline, body, is_cleanup=True)

    async def adopt_session(self, session_id: str, token: Secret[str] | None) -> None:
        """Make a running session of another process this client's own."""
        self.sessions.ensure_open()
        check_session_id(session_id)
        if self.sessions.ledger is not None:
            await self._in_ledger(lambda ledger: ledger.add(session_id))
        session = self.sessions.adopt(session_id, token)
        session.start_known = True
        session.token = token or session.token

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
            await stop(await self._io.shield(functools.partial(self._claim, entry)))
        if failures:
            raise failures[0]

    async def _claim(self, entry: LedgerEntry) -> Session | None:
        if not await self._in_ledger(lambda ledger: ledger.claim(entry.session_id)):
            return None
        session = self.sessions.adopt(entry.session_id, None)
        session.to_recover = True
        age = (datetime.now(UTC) - entry.started_at).total_seconds()
        # The last request of a process that has just died may still be on its way.
        session.start_deadline = time.monotonic() + (CLEANUP_TIMEOUT if age < RECOVERED_START_AGE else 0.0)
        return session

    async def _stop_recovered(self, session: Session, stopped: list[str]) -> None:
        body, deadline = Secret(stop_request(session.id)), self._deadline()
        try:
            await self._io.shield(lambda: self._stop_despite_interrupts(session, deadline, body))
        finally:
            session.to_recover = not session.ended
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
        # An interrupt may arrive before the cleanup has begun: then try again. Once it has begun, it is finished.
        for _ in range(_MAX_INTERRUPTS):
            if begun or session.ended or isinstance(latest, GeneratorExit):
                break
            try:
                await self._io.shield_cleanup(cleanup)
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
            await self._io.sleep(delay)
        await self._discard(session)
        return response

    async def _stop(self, session: Session, deadline: float, body: Body, is_cleanup: bool) -> StopSessionResponse:
        """Stop a session with its own token or, if that is no longer valid, with the API key."""
        for token in (session.token, None) if session.token else (None,):
            try:
                return await call(
                    self._io, self._config, STOP, token, deadline, body, session_id=session.id, is_cleanup=is_cleanup
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
        await self._in_ledger(lambda ledger: ledger.remove(session_id))

    async def _in_ledger(self, operation: Callable[[AccountLedger], T]) -> T:
        """Perform an operation on the ledger. A cancellation does not leave it half done."""
        ledger = self.sessions.ledger
        if ledger is None:
            raise LiveAvatarError("This client has no ledger: pass ledger= when you create it.")
        return await self._io.shield(lambda: self._io.call_blocking(lambda: operation(ledger)))

    def _deadline(self) -> float:
        return time.monotonic() + self._config.timeout


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
