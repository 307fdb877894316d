"""What each method of a client does, as coroutines over its I/O; and the cleanup that no failure skips.

The async client awaits these coroutines. The blocking client runs them to their end in one step, because its I/O never
suspends. This is the one place that knows that a session may be running, and stops it.
"""

from __future__ import annotations

import time

from liveavatar_client.models import (
    LiveAvatarSessionResponse,
    SessionTokenResponse,
    StopReason,
    StopSessionResponse,
)

from ._calls import IO, Body, call, logger
from ._config import Config
from ._constants import CLEANUP_RETRY_DELAYS, CLEANUP_TIMEOUT
from ._endpoints import CREATE_TOKEN, START, STOP, has_ended, is_unknown, never_started
from ._redaction import Secret, redact
from ._schema import session_request, stop_request
from ._sessions import Session, Sessions, check_session_id
from .errors import AuthenticationError, LiveAvatarApiError, LiveAvatarError
from .models import StandardSessionResponse

_MAX_INTERRUPTS = 10
"""How many exceptions may interrupt the stop of a session before it is given up."""


class Flows:
    """The flows of one client, and the sessions that it has opened."""

    def __init__(self, config: Config, io: IO, sessions: Sessions | None = None) -> None:
        self._config = config
        self._io = io
        self.sessions = Sessions() if sessions is None else sessions

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
        session = self.sessions.add(created.session_id, Secret(created.session_token))
        try:
            self.sessions.mark_starting(session)
            response = await call(self._io, self._config, START, session.token, deadline, session_id=session.id)
            self.sessions.mark_started(session, response.data.session_id)
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
            self.sessions.discard(session)
            return
        body = Secret(stop_request(session.id))
        await self._stop_despite_interrupts(session, deadline, body, is_cleanup=True)

    async def _compensate(self, session: Session, error: BaseException) -> None:
        """Stop a session that new_session does not return, unless it certainly never started."""
        refused = isinstance(error, LiveAvatarError) and never_started(error) and not session.start_known
        if refused or not session.start_sent:
            self.sessions.discard(session)
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
                if session.ended or has_ended(error, start_known=session.start_known):
                    response = StopSessionResponse(message=error.message)
                    break
                # The stop may have reached the service before the start: send it again.
                delay = next(delays, CLEANUP_RETRY_DELAYS[-1])
                if not is_unknown(error) or time.monotonic() + delay >= deadline:
                    raise
            await self._io.sleep(delay)
        self.sessions.discard(session)
        return response

    async def _stop(self, session: Session, deadline: float, body: Body, is_cleanup: bool) -> StopSessionResponse:
        """Stop a session with its own token or, if that is no longer valid, with the API key."""
        for token in (session.token, None):
            try:
                return await call(
                    self._io, self._config, STOP, token, deadline, body, session_id=session.id, is_cleanup=is_cleanup
                )
            except AuthenticationError:
                if token is None:
                    raise
        raise AssertionError("the last attempt returns or raises")

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
