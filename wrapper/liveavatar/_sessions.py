"""Which sessions a client has opened and not seen end, each with its own token. Pure memory, shared by threads."""

from __future__ import annotations

import threading
from collections import deque

import attrs

from ._secrets import Secret
from .errors import SessionTokenNotFoundError

_REMEMBERED_ENDS = 1024


@attrs.define(eq=False)
class Session:
    """One session that may be running."""

    id: str
    token: Secret
    opened: bool = False
    """True once new_session has handed it to the caller."""
    ended: bool = False
    """True once it is known not to run."""


class Sessions:
    """The sessions of one client, in the order they were opened."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Session] = {}
        # Ids alone, and only the latest, to tell "closed already" from "never opened here".
        self._ended: deque[str] = deque(maxlen=_REMEMBERED_ENDS)

    def remember(self, session_id: str, token: Secret) -> Session:
        """Take up a session whose start is about to leave."""
        session = Session(session_id, token)
        with self._lock:
            self._open[session_id] = session
        return session

    def started(self, session: Session, session_id: str) -> None:
        """The session runs, and is the caller's from here; under the id that the start's answer gives it.

        Unless that id is another session's: each keeps its own token.
        """
        with self._lock:
            if session_id not in self._open:
                self._open.pop(session.id, None)
                session.id = session_id
                self._open[session_id] = session
            session.opened = True

    def forget(self, session: Session) -> None:
        """The session is known not to run."""
        session.ended = True
        with self._lock:
            if self._open.get(session.id) is session:
                del self._open[session.id]
            self._ended.append(session.id)

    def find(self, session_id: str) -> Session:
        """The session of that id.

        Raises:
            TypeError, ValueError: `session_id` cannot be one.
            SessionTokenNotFoundError: no token is remembered for it.
        """
        check_session_id(session_id)
        with self._lock:
            session = self._open.get(session_id)
            ended = session is None and session_id in self._ended
        if session is None:
            why = (
                "it is closed already"
                if ended
                else "this client did not open it. stop_session(session_id) stops any session of the account"
            )
            error = SessionTokenNotFoundError(f"No token for session {session_id!r}: {why}.")
            error.session_id = session_id
            raise error
        return session

    def release(self, session_id: str) -> str:
        """Forget a session that goes on running, and give its token away.

        Raises:
            ValueError: `session_id` is empty.
            SessionTokenNotFoundError: no token is remembered for it.
        """
        session = self.find(session_id)
        with self._lock:
            self._open.pop(session_id, None)
        return session.token.reveal()

    @property
    def ids(self) -> tuple[str, ...]:
        """The sessions not seen to end, oldest first."""
        with self._lock:
            return tuple(self._open)

    @property
    def latest_token(self) -> str | None:
        """The token of the session opened last of those not seen to end."""
        with self._lock:
            opened = [session for session in self._open.values() if session.opened]
        return opened[-1].token.reveal() if opened else None

    def __contains__(self, session: Session) -> bool:
        return self._open.get(session.id) is session

    def __repr__(self) -> str:
        return f"<{len(self._open)} open sessions>"


def check_session_id(session_id: object) -> str:
    """`session_id`, when it can be one.

    Raises:
        TypeError, ValueError: it cannot.
    """
    if session_id is None:
        raise ValueError("session_id is None; it is the id of a session (UUID)")
    if not isinstance(session_id, str):
        raise TypeError(f"session_id must be a str, not {type(session_id).__name__}")
    if not session_id.strip():
        raise ValueError("session_id is empty; it is the id of a session (UUID)")
    return session_id
