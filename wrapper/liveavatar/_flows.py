"""What each method of a client does, as flows that do no I/O; and the stop that no fault may skip.

The client, blocking or async, performs each step of a flow: a Call through the generated code, a Wait, or an
Uninterrupted flow that is to be finished whatever happens. What a step meets, cancellation and Ctrl-C included, is
raised in the flow at that step. This is the one place that knows a session may be running, and stops it.
"""

from __future__ import annotations

import functools
import inspect
import time

from liveavatar_client.models import (
    LiveAvatarSessionResponse,
    SessionTokenResponse,
    StopReason,
    StopSessionRequest,
    StopSessionResponse,
)

from ._calls import START, STOP, TOKEN, Flow, Uninterrupted, Wait, call, has_ended, logger, never_started
from ._config import Config
from ._requests import session_request, stop_reason
from ._secrets import Secret
from ._sessions import Session, Sessions, check_session_id
from .errors import AuthenticationError, LiveAvatarApiError, LiveAvatarError, NotFoundError
from .models import StandardSessionResponse

RESCUE_TIME = 5.0
"""Seconds that the stop of a session whose owner has gone may take."""


class Flows:
    """The flows of one client, and the sessions it knows."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.sessions = Sessions()

    def create_session_token(self, request: object) -> Flow[SessionTokenResponse]:
        return (yield from call(self._config, TOKEN, None, self._deadline(), session_request(request)))

    def start_session(self, token: Secret) -> Flow[LiveAvatarSessionResponse]:
        # Once: whether another start is right, only the owner of the token can know.
        return (yield from call(self._config, START, token, self._deadline(), max_retries=0))

    def stop_session(
        self, session_id: str, token: Secret | None, reason: StopReason | str | None
    ) -> Flow[StopSessionResponse]:
        body = StopSessionRequest(session_id=check_session_id(session_id), reason=stop_reason(reason))
        return (yield from call(self._config, STOP, token, self._deadline(), body, session_id=session_id))

    def new_session(self, request: object) -> Flow[StandardSessionResponse]:
        deadline = self._deadline()
        minted = (yield from call(self._config, TOKEN, None, deadline, session_request(request))).data
        session = self.sessions.remember(minted.session_id, Secret(minted.session_token))
        try:
            answer = yield from call(self._config, START, session.token, deadline, session_id=session.id)
            if session.ended:  # and the stop may have been there before the start
                raise LiveAvatarError(f"Session {session.id} was closed while it was being opened.")
            self.sessions.started(session, answer.data.session_id)
            return StandardSessionResponse.of(session.id, answer)
        except BaseException as error:
            yield from self._undo(session, error)
            raise

    def close_session(self, session_id: str) -> Flow[StopSessionResponse]:
        session = self.sessions.find(session_id)
        try:
            # A close that has begun is not taken back by a cancellation: the session would go on, and cost.
            answer: StopSessionResponse = yield Uninterrupted(self._end_for_sure(session, self._deadline()))
            return answer
        except BaseException as error:
            self._warn_if_running(session, error)
            raise

    def _undo(self, session: Session, error: BaseException) -> Flow[None]:
        """Stop a session that new_session will not hand out, unless it is certain that it never started."""
        if isinstance(error, LiveAvatarError) and never_started(error):
            self.sessions.forget(session)
            return
        # A stop can overtake the start it undoes: the service then does not know the session yet. But not
        # where the service itself, rather than a gateway before it, has answered the start.
        answered = isinstance(error, LiveAvatarApiError) and error.status != 408 and error.status <= 501
        doubts = () if answered else (0.5, 1.0, 2.0)
        stop = self._end_for_sure(session, time.monotonic() + RESCUE_TIME, doubts, urgent=True)
        failure = latest = error
        # An interruption may come before the stop has begun; what has begun is finished by the client.
        while not isinstance(latest, GeneratorExit) and inspect.getgeneratorstate(stop) == inspect.GEN_CREATED:
            try:
                yield Uninterrupted(stop, apart=True)
            except Exception as caught:
                failure = caught
                break
            except BaseException as interruption:
                failure = latest = interruption
        self._warn_if_running(session, failure)
        _mark(latest, session.id, failure if session in self.sessions else None)
        if latest is not error:  # the latest is what the caller is to see
            raise latest

    def _end_for_sure(
        self, session: Session, deadline: float, doubts: tuple[float, ...] = (), urgent: bool = False
    ) -> Flow[StopSessionResponse]:
        """End a session; an interruption leaves that RESCUE_TIME to succeed in, and is raised after it."""
        interruption: BaseException | None = None
        while True:
            try:
                answer = yield from self._end(session, deadline, doubts, urgent)
                if interruption is None:
                    return answer
                break
            except GeneratorExit:  # nobody performs our steps any more
                raise
            except Exception:
                if interruption is None:
                    raise
                break
            except BaseException as error:
                if interruption is None:
                    deadline = min(deadline, time.monotonic() + RESCUE_TIME)
                interruption = error
                if time.monotonic() >= deadline:
                    break
        raise interruption

    def _end(
        self, session: Session, deadline: float, doubts: tuple[float, ...], urgent: bool
    ) -> Flow[StopSessionResponse]:
        """Stop a session, and forget it once the service says that it does not run.

        `doubts` are pauses, in seconds, after which a service that does not know the session is asked again.
        """
        remaining = list(doubts)
        while True:
            try:
                answer = yield from self._stop(session, deadline, urgent)
            except LiveAvatarApiError as error:
                if not has_ended(error):
                    raise
                if isinstance(error, NotFoundError) and remaining and time.monotonic() + remaining[0] < deadline:
                    yield Wait(remaining.pop(0))
                    continue
                answer = StopSessionResponse(message=error.message)  # it has ended by itself
            self.sessions.forget(session)
            return answer

    def _stop(self, session: Session, deadline: float, urgent: bool) -> Flow[StopSessionResponse]:
        """Stop with the session's own token, else, when that is no longer good, with the API key."""
        body = StopSessionRequest(session_id=session.id)
        stop = functools.partial(call, self._config, STOP, deadline=deadline, session_id=session.id, urgent=urgent)
        try:
            return (yield from stop(session.token, body=body))
        except AuthenticationError:
            pass  # and not from in here: what fails next is no consequence of it
        return (yield from stop(None, body=body))

    def _deadline(self) -> float:
        return time.monotonic() + self._config.timeout

    def _warn_if_running(self, session: Session, error: BaseException) -> None:
        if session in self.sessions:
            logger.warning("Session %s may still be running: %s", session.id, _words(error))


def _mark(error: BaseException, session_id: str, failure: BaseException | None) -> None:
    """Say on an exception, of whatever class, what became of the session."""
    error.session_id = session_id  # type: ignore[attr-defined]
    error.session_may_be_running = failure is not None  # type: ignore[attr-defined]
    if failure is not None:
        because = "" if failure is error else f", for its stop failed too: {_words(failure)}"
        error.add_note(f"Session {session_id} may still be running{because}. close_session() tries again.")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
