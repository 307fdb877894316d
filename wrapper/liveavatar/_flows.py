"""Opens, closes and adopts sessions, and tells the caller when a session may still be running.

The async client awaits these coroutines. The blocking client runs each of them in one step, because its I/O never
suspends.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from typing import Protocol

from liveavatar_client.models import SessionTokenData, StopReason, StopSessionResponse

from ._arguments import check_seconds, check_session_id
from ._calls import call
from ._cleanup import ALREADY_ENDED, Cleanup
from ._constants import CLEANUP_TIMEOUT, LEDGER_TIMEOUT, MAX_RETRY_AFTER, MAX_SLOT_DELAY, MIN_SLOT_DELAY
from ._endpoints import CREATE_TOKEN, START, is_error_of, never_started
from ._log import log
from ._operations import add_note, message
from ._redaction import Secret
from ._request_bodies import session_request, stop_request
from ._sessions import Session
from .errors import (
    AuthenticationError,
    ConcurrencyLimitError,
    LedgerError,
    LiveAvatarError,
    NotFoundError,
    SessionTokenNotFoundError,
)
from .models import StandardSessionResponse


class Recovery(Protocol):
    """The recovery that a client runs in the background."""

    async def wait_for_first(self, deadline: float) -> None:
        """Wait for the first recovery. No wait goes on later than CLEANUP_TIMEOUT after the first wait began.

        Args:
            deadline: Time on `time.monotonic`. At most half of the time until then is used.
        """


class Flows(Cleanup):
    """Opens and closes sessions."""

    recovery: Recovery | None = None
    """The recovery of sessions that dead processes have left, if there is a ledger."""

    async def new_session(self, request: object, wait_for_slot: float = 0.0) -> StandardSessionResponse:
        """Open a session. At the account's concurrency limit, try again for `wait_for_slot` seconds."""
        self.sessions.ensure_accepts_sessions()
        body = Secret(session_request(request))
        until = time.monotonic() + check_seconds(wait_for_slot, "wait_for_slot")
        delay = MIN_SLOT_DELAY
        created: SessionTokenData | None = None
        while True:
            reused = created is not None
            deadline = self.deadline()
            session = None
            try:
                if created is None:
                    created = (await call(self.io, self._config, CREATE_TOKEN, None, deadline, body)).data
                if self.recovery is not None:
                    await self.recovery.wait_for_first(deadline)  # it may free the slot that this session needs
                session = self.sessions.add(created.session_id, Secret(created.session_token))
                return await self._start(session, deadline)
            except (AuthenticationError, ConcurrencyLimitError, NotFoundError) as error:
                # A hook or a signal handler may have raised the error of another call.
                is_own = session.start_failed if session else is_error_of(error, CREATE_TOKEN, (None,))
                if error.session_may_be_running or not is_own:
                    raise
                if not isinstance(error, ConcurrencyLimitError):
                    if not reused:
                        raise
                    created = None  # the token expired during the wait for a slot
                    continue
                remaining = until - time.monotonic()
                if remaining <= 0:
                    raise
                if session is not None and not _is_refused(error, session.id):
                    created = None  # the session may have started, so it was stopped, and its token is used up
                wait = max(delay * random.uniform(0.75, 1.0), min(error.retry_after or 0.0, MAX_RETRY_AFTER))
            await self.io.sleep(min(remaining, wait))
            delay = min(MAX_SLOT_DELAY, 2 * delay)

    async def _start(self, session: Session, deadline: float) -> StandardSessionResponse:
        """Start a session; if it cannot be returned to the caller, stop it."""
        try:
            await self._add_to_ledger(session)
            self.sessions.mark_starting(session)
            response = await call(self.io, self._config, START, session.token, deadline, session_id=session.id)
            self.sessions.mark_started(session, response.data.session_id)
            if session.other_id is not None:
                await self._add_to_ledger(session)
            return StandardSessionResponse.from_response(session.id, response)
        except BaseException as error:
            if is_error_of(error, START, (session.id,)):
                session.start_failed = True
                if error._named_session is not None:
                    self.sessions.mark_carried_out(session, error._named_session)
            await self._compensate(session, error)
            raise

    async def close_session(
        self, session_id: str, reason: StopReason | str | None = None, deadline: float | None = None
    ) -> StopSessionResponse:
        """Stop a session that new_session has opened. A cancellation does not interrupt the stop.

        Args:
            session_id: The id that new_session has returned.
            reason: The reason for the account's statistics.
            deadline: Time on `time.monotonic` that several stops share. See `stop_deadline`.
        """
        if self.sessions.find(check_session_id(session_id)) is None and self.sessions.take_ended(session_id):
            return StopSessionResponse(message=ALREADY_ENDED)
        session = self.sessions.get(session_id)
        stop_request(session.id, reason)  # raises for an invalid reason, before anything is sent
        until = self.stop_deadline(deadline)
        try:
            return await self.io.shield(lambda: self.stop_despite_interrupts(session, until, reason))
        except BaseException as error:
            if session in self.sessions:
                _report(session, error, error)
            raise

    async def close_tracked(self, session: Session, deadline: float | None = None) -> None:
        """Stop a session that is open or still being opened, unless it is closed meanwhile. See `close_session`."""
        if not session.opened:
            await self.close_opening_session(session)
            return
        with contextlib.suppress(SessionTokenNotFoundError):
            await self.close_session(session.id, None, deadline)

    async def adopt_session(self, session_id: str, token: Secret[str] | None) -> None:
        """Take over a running session of another client or process. An interrupt is raised after that."""
        was_open = self.sessions.find(check_session_id(session_id)) is not None

        async def adopt(until: float) -> None:
            session = self.sessions.adopt(session_id, token)
            try:
                await self._add_to_ledger(session)
            except LedgerError:
                if session in self.sessions and not was_open:
                    self.sessions.release(session)
                    await self._remove_from_ledger(session.id)  # its former owner left that to this client
                raise

        await self.io.shield(lambda: self.run_despite_interrupts(adopt, self.deadline()))

    async def _compensate(self, session: Session, error: BaseException) -> None:
        """Stop a session whose opening has failed, unless it certainly never started."""
        if not session.start_sent or (_is_refused(error, session.id) and not session.start_known):
            await self._discard(session)
            return
        failure = latest = error
        until = time.monotonic() + CLEANUP_TIMEOUT

        async def stop() -> None:
            try:
                await self._stop_and_discard(session, until, is_cleanup=True)
            except LiveAvatarError:
                if session.other_id is not None:  # which is in the ledger already
                    with contextlib.suppress(LedgerError):
                        await self._add_to_ledger(session)
                raise

        if not (session.ended or isinstance(error, GeneratorExit)):
            try:
                await self.run_shielded(stop, until)
            except LiveAvatarError as caught:
                failure = caught
            except BaseException as interruption:
                failure = latest = interruption
        _report(session, latest, failure if session in self.sessions else None)
        if latest is not error:
            raise latest

    async def _add_to_ledger(self, session: Session) -> None:
        """Write a session down in the ledger, if there is one.

        Raises:
            LedgerError: The session could not be written down.
        """
        if self.sessions.ledger is not None:
            was_in_ledger, session.in_ledger = session.in_ledger, True
            try:
                await self.in_ledger(lambda ledger: ledger.add(session.id), LEDGER_TIMEOUT)
            except LedgerError as error:
                session.in_ledger, error.session_id = was_in_ledger, session.id
                raise


def _is_refused(error: BaseException, session_id: str) -> bool:
    """Return whether an error means that the start of this session was refused."""
    return is_error_of(error, START, (session_id,)) and never_started(error)


def _report(session: Session, error: BaseException, failure: BaseException | None) -> None:
    """Set `session_id` and `session_may_be_running` on the caller's exception.

    If the session may still be running, also add a note, and log a WARNING.

    Args:
        session: The session.
        error: The exception that the caller gets.
        failure: Why the session may still be running; None if it does not run.
    """
    with contextlib.suppress(Exception):  # the class of a signal handler's exception may not allow it
        error.session_id, error.session_may_be_running = session.id, failure is not None  # type: ignore[attr-defined]
    if failure is None:
        return
    ids = " or ".join(session.ids)
    cause = "" if failure is error else f", because its stop failed too: {message(failure)}"
    add_note(error, f"Session {ids} may still be running{cause}. close_session() tries again.")
    log(logging.WARNING, "Session %s may still be running: %s", ids, message(failure))
