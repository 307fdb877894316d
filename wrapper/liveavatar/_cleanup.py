"""Stops sessions, whatever interrupts it: the cleanup that no failure skips."""

from __future__ import annotations

import time

from liveavatar_client.models import StopSessionResponse

from ._calls import Body, call
from ._constants import CLEANUP_RETRY_DELAYS, CLEANUP_TIMEOUT
from ._endpoints import STOP, has_ended, is_unknown
from ._operations import Operations, credentials
from ._redaction import Secret
from ._request_bodies import stop_request
from ._sessions import Session
from .errors import AuthenticationError, LiveAvatarApiError, LiveAvatarError

MAX_INTERRUPTS = 10
"""How many exceptions may interrupt the stop of a session before it is given up."""


class Cleanup(Operations):
    """Stops sessions, and forgets them once the service says that they do not run."""

    async def stop_leftover(self, session: Session, deadline: float) -> None:
        """Stop a session that the caller does not have; one that was not started yet is not started any more."""
        if not session.start_sent:
            await self._discard(session)
            return
        body = Secret(stop_request(session.id))
        await self.stop_despite_interrupts(session, deadline, body, is_cleanup=True)

    async def close_opening_session(self, session: Session) -> None:
        """Stop a session whose start has no response yet, because the client is closed."""
        deadline = time.monotonic() + CLEANUP_TIMEOUT
        await self.io.shield(lambda: self.stop_leftover(session, deadline))

    async def stop_despite_interrupts(
        self, session: Session, deadline: float, body: Body, *, is_cleanup: bool = False
    ) -> StopSessionResponse:
        """Stop a session. If interrupted, keep trying for CLEANUP_TIMEOUT, then re-raise the interruption."""
        interruption: BaseException | None = None
        for _ in range(MAX_INTERRUPTS):
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
        unknown_until = time.monotonic() + CLEANUP_TIMEOUT
        while True:
            try:
                response = await self._stop(session, deadline, body, is_cleanup)
                break
            except LiveAvatarApiError as error:
                if session.ended or has_ended(error, start_known=session.start_settled):
                    response = StopSessionResponse(message=error.message)
                    break
                # The stop may have reached the service before the start: send it again, the last time at
                # unknown_until, when a start that a dead process has sent is settled.
                now = time.monotonic()
                delay = min(next(delays, CLEANUP_RETRY_DELAYS[-1]), unknown_until - now)
                if not is_unknown(error) or delay <= 0 or now + delay >= deadline:
                    raise
            await self.io.sleep(delay)
        await self._discard(session)
        return response

    async def _stop(self, session: Session, deadline: float, body: Body, is_cleanup: bool) -> StopSessionResponse:
        """Stop a session with its own token or, if that is no longer valid, with the API key."""
        for token in credentials(session):
            try:
                return await call(
                    self.io, self._config, STOP, token, deadline, body, session_id=session.id, is_cleanup=is_cleanup
                )
            except AuthenticationError:
                if token is None:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _discard(self, session: Session) -> None:
        """Remove a session that is known not to run from the registry and from the ledger."""
        self.sessions.discard(session)
        if session.in_ledger:
            await self._remove_from_ledger(session.id)
