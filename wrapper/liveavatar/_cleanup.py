"""Stops sessions, and finishes that although a failure, a cancellation or Ctrl-C interrupts it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from liveavatar_client.models import StopReason, StopSessionResponse

from ._constants import CLEANUP_RETRY_DELAYS, CLEANUP_TIMEOUT
from ._endpoints import STOP, has_ended, is_error_of, is_unknown
from ._operations import Operations
from ._redaction import Secret
from ._request_bodies import stop_request
from ._sessions import Session
from .errors import LiveAvatarError

T = TypeVar("T")

ALREADY_ENDED = "The session has already ended."
"""The message in place of a response, for a session that has ended by itself."""

_MIN_TIMEOUT_AT_SHUTDOWN = 1.0
"""Seconds that each of several stops has at least, once a signal has asked the program to end."""


class ShutdownSignal:
    """The signal that asks the program to end, such as SIGTERM. Whatever sent it will not wait for long."""

    received = False


class Cleanup(Operations):
    """Stops sessions, and removes them from the registry once the service says that they do not run."""

    def stop_deadline(self, shared: float | None = None) -> float:
        """Return the time on `time.monotonic` at which the stop of a session that begins now must have ended.

        Args:
            shared: Such a time for several stops. Each stop has CLEANUP_TIMEOUT at least, or
                _MIN_TIMEOUT_AT_SHUTDOWN once a signal has come.
        """
        now = time.monotonic()
        if shared is not None:
            return max(shared, now + (_MIN_TIMEOUT_AT_SHUTDOWN if ShutdownSignal.received else CLEANUP_TIMEOUT))
        return min(self.deadline(), now + CLEANUP_TIMEOUT) if ShutdownSignal.received else self.deadline()

    async def stop_leftover(self, session: Session, deadline: float) -> None:
        """Stop a session that the caller will not close. Discard it instead if its start was not sent."""
        if not session.start_sent:
            await self._discard(session)
            return
        await self.stop_despite_interrupts(session, deadline, is_cleanup=True)

    async def close_opening_session(self, session: Session) -> None:
        """Stop a session whose start has no response yet. Called when the client is closed."""
        deadline = time.monotonic() + CLEANUP_TIMEOUT
        await self.io.shield(lambda: self.stop_leftover(session, deadline))

    def stop_despite_interrupts(
        self,
        session: Session,
        deadline: float,
        reason: StopReason | str | None = None,
        *,
        is_cleanup: bool = False,
    ) -> Coroutine[Any, Any, StopSessionResponse]:
        """Stop a session. If interrupted, go on for CLEANUP_TIMEOUT at most, then re-raise the interruption."""
        return self.run_despite_interrupts(
            lambda until: self._stop_and_discard(session, until, reason, is_cleanup=is_cleanup),
            deadline,
            lambda error: session.ended or is_error_of(error, STOP, session.ids),
        )

    async def run_despite_interrupts(
        self,
        work: Callable[[float], Coroutine[Any, Any, T]],
        deadline: float,
        is_outcome: Callable[[LiveAvatarError], bool] = lambda error: True,
    ) -> T:
        """Do work until a deadline. If interrupted, go on for CLEANUP_TIMEOUT at most, then re-raise the interruption.

        Args:
            work: The work; its argument is the deadline, which an interruption brings forward.
            deadline: Time on `time.monotonic`.
            is_outcome: Whether an error is the outcome of the work. If not, a signal handler or a hook has raised it.
        """
        try:
            return await work(deadline)
        except BaseException as error:
            if isinstance(error, GeneratorExit) or (isinstance(error, LiveAvatarError) and is_outcome(error)):
                raise
            until = min(deadline, time.monotonic() + CLEANUP_TIMEOUT)
            with contextlib.suppress(LiveAvatarError):
                await self.run_shielded(lambda: work(until), until)
            raise

    async def run_shielded(self, work: Callable[[], Coroutine[Any, Any, object]], until: float) -> None:
        """Do work shielded from interrupts, and again if one gets through. Raise the latest interruption at the end.

        Args:
            work: The work. It ends by itself at `until`.
            until: Time on `time.monotonic` after which the work is not done again.
        """
        interruption: BaseException | None = None
        delays = iter((0.0, *CLEANUP_RETRY_DELAYS))
        delay, ended = 0.0, False

        async def attempt() -> None:
            nonlocal ended
            if delay:
                await self.io.sleep(delay)  # repeated interrupts must not send a request each
            try:
                await work()
            except LiveAvatarError:
                ended = True
                raise
            ended = True

        while not ended and self.io.is_usable():
            try:
                await self.io.shield_cleanup(attempt)
            except GeneratorExit:  # the event loop is closed, so no request can be sent
                raise
            except LiveAvatarError:
                if interruption is None:
                    raise
                break
            except BaseException as error:
                interruption, delay = error, next(delays, CLEANUP_RETRY_DELAYS[-1])
                if time.monotonic() >= until:
                    break
        if interruption is not None:
            raise interruption

    async def _stop_and_discard(
        self,
        session: Session,
        deadline: float,
        reason: StopReason | str | None = None,
        *,
        is_cleanup: bool,
    ) -> StopSessionResponse:
        """Stop a session under each of its ids, and remove it from the registry once none of them runs."""
        responses: list[StopSessionResponse] = []
        failures: list[LiveAvatarError] = []
        tried: set[str] = set()
        while pending := [each for each in session.ids if each not in tried]:  # a start may add one meanwhile
            tried.add(pending[0])
            now = time.monotonic()
            until = now + (deadline - now) / len(pending)
            try:
                responses.append(await self._stop_id(session, pending[0], until, reason, is_cleanup))
            except LiveAvatarError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        await self._discard(session)
        return responses[-1]

    async def _stop_id(
        self, session: Session, session_id: str, deadline: float, reason: StopReason | str | None, is_cleanup: bool
    ) -> StopSessionResponse:
        """Stop a session under one of its ids, until the service says that it does not run."""
        body = Secret(stop_request(session_id, reason))
        delays = iter(CLEANUP_RETRY_DELAYS)
        unknown_until = time.monotonic() + CLEANUP_TIMEOUT
        while True:
            try:
                return await self.call_for(session, STOP, deadline, body, is_cleanup=is_cleanup)
            except LiveAvatarError as error:
                if not is_error_of(error, STOP, session.ids):
                    raise
                if session.ended or has_ended(error, start_known=session.start_settled):
                    return StopSessionResponse(message=getattr(error, "message", ALREADY_ENDED))
                # The stop may have reached the service before the start. Send it again, for the last time at
                # unknown_until: a start that was on its way has arrived by then.
                now = time.monotonic()
                delay = min(next(delays, CLEANUP_RETRY_DELAYS[-1]), unknown_until - now)
                if not is_unknown(error) or delay <= 0 or now + delay >= deadline:
                    raise
            await self.io.sleep(delay)

    async def _discard(self, session: Session) -> None:
        """Remove a session that is known not to run from the registry and from the ledger."""
        self.sessions.discard(session)
        if session.in_ledger:
            for each in session.ids:
                await self._remove_from_ledger(each)
