"""The registry of the sessions that a client has opened, each with its own token."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from ._arguments import check_session_id, is_uuid, shown
from ._constants import MAX_ENDED_IDS
from ._redaction import Secret
from .errors import LiveAvatarError, SessionTokenNotFoundError

if TYPE_CHECKING:
    from ._account_ledger import AccountLedger


@attrs.define(eq=False)
class Session:
    """One session that may be running."""

    id: str
    token: Secret[str] | None
    """Its token; None if the API key stops it."""
    other_id: str | None = None
    """The id that its token was created for, if the response to its start named another. Either may be running."""
    start_sent: bool = False
    """True once its start request may have been sent."""
    start_known: bool = False
    """True once the service is known to have carried out the start."""
    start_failed: bool = False
    """True once its own start request has failed. The error of another call, raised by a hook, leaves it False."""
    opened: bool = False
    """True once the response to its start has arrived, or it was adopted or claimed."""
    ended: bool = False
    """True once it is known not to run."""
    start_deadline: float = math.inf
    """Time on `time.monotonic` at which the start, if it was sent, has certainly arrived at the service."""
    in_ledger: bool = False
    """True if it may be written down in the ledger."""
    to_recover: bool = False
    """True if it was claimed from a dead process, and is not stopped yet."""
    releasing: bool = False
    """True while it is removed from the ledger, before its release."""
    released_by: int | None = None
    """The thread that has released it."""
    stop_failed_at: float = 0.0
    """Time on `time.monotonic` at which a recovery has last failed to stop it."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id under which it may be running."""
        return (self.id,) if self.other_id is None else (self.id, self.other_id)

    @property
    def start_settled(self) -> bool:
        """Whether a start that was sent has been carried out or refused, so that "not found" means "ended"."""
        return self.start_known or time.monotonic() >= self.start_deadline


class Sessions:
    """The sessions of one client, in the order in which they were opened.

    The lock is reentrant, because a signal handler or finalizer may use the client while its thread holds the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[str, Session] = {}
        # Only ids, and only the latest, to tell "closed already" from "never opened here".
        self._ended: deque[str] = deque(maxlen=MAX_ENDED_IDS)
        self._ended_by_service: deque[str] = deque(maxlen=MAX_ENDED_IDS)
        self.closed = False
        self.at_exit = False
        """True if the client was made after the exit has stopped the sessions of all clients."""
        self.only_uuids = True
        """False once the service has given an id that is no UUID."""
        self.ledger: AccountLedger | None = None
        """Where the sessions are written down, to outlive the process."""
        self.on_removed: Callable[[], None] | None = None
        """Called, in any thread, when sessions were removed or the registry was closed."""

    def close(self) -> None:
        """Let no further session be opened."""
        with self._lock:
            self.closed = True
        self._notify_removed()

    def ensure_open(self) -> None:
        """Check that the client may be used.

        Raises:
            LiveAvatarError: The client is closed.
        """
        if self.closed:
            raise LiveAvatarError("This client is closed.")

    def ensure_accepts_sessions(self) -> None:
        """Check that a session may be added.

        Raises:
            LiveAvatarError: The client is closed, or the interpreter is exiting.
        """
        self.ensure_open()
        if self.at_exit:
            raise LiveAvatarError("The interpreter is exiting, so nothing would stop a session that is opened now.")

    def note_id(self, session_id: str) -> None:
        """Note the form of an id that the service has given."""
        self.only_uuids = self.only_uuids and is_uuid(session_id)

    def add(self, session_id: str, token: Secret[str] | None) -> Session:
        """Add a session before its start request is sent.

        Raises:
            LiveAvatarError: The client was closed meanwhile, or the id belongs to another open session.
        """
        session = Session(session_id, token)
        with self._lock:
            self.ensure_accepts_sessions()
            if session_id in self._open:
                raise LiveAvatarError(f"The service gave a token for session {session_id}, which is open already.")
            self.note_id(session_id)
            self._open[session_id] = session
        return session

    def mark_starting(self, session: Session) -> None:
        """Mark a session as one whose start request is about to be sent.

        Raises:
            LiveAvatarError: The session or the client was closed meanwhile, so it must not be started.
        """
        with self._lock:
            self._ensure_wanted(session)
            session.start_sent = True

    def mark_started(self, session: Session, session_id: str) -> None:
        """Mark a session as started, under the id in the response, unless that id belongs to another open session.

        Raises:
            LiveAvatarError: The session or the client was closed meanwhile, so it must not be returned to the caller.
        """
        with self._lock:
            try:
                self._ensure_wanted(session)
                session.opened = True
            finally:
                self.mark_carried_out(session, session_id)

    def mark_carried_out(self, session: Session, session_id: str) -> None:
        """Note the id under which the service has started a session, unless it belongs to another open session."""
        with self._lock:
            # A stop that was confirmed before the start was carried out has not ended the session.
            session.start_known, session.ended = True, False
            if session_id != session.id and session_id not in self._open:
                self.note_id(session_id)
                if session in self:
                    del self._open[session.id]
                session.id, session.other_id = session_id, session.id
            self._open.setdefault(session.id, session)

    def _ensure_wanted(self, session: Session) -> None:
        if session.ended or self.closed:
            closed = f"Session {session.id}" if session.ended else "The client"
            raise LiveAvatarError(f"{closed} was closed while the session was being opened.")

    def discard(self, session: Session) -> None:
        """Remove a session that is known not to run."""
        with self._lock:
            session.ended = True
            if session in self:
                del self._open[session.id]
            self._ended.append(session.id)
        self._notify_removed()

    def discard_ended(self, session: Session) -> bool:
        """Remove a session that the service has ended; return False if it was removed before."""
        with self._lock:
            if session not in self:
                return False
            self.discard(session)
            self._ended_by_service.append(session.id)
            return True

    def take_ended(self, session_id: str) -> bool:
        """Return True, once, for a session that the service has ended."""
        with self._lock:
            if session_id in self._ended_by_service:
                self._ended_by_service.remove(session_id)
                return True
        return False

    def find(self, session_id: str) -> Session | None:
        """Return the session with this id, or None."""
        with self._lock:
            return self._open.get(session_id)

    def tracks(self, session_id: str) -> bool:
        """Return whether a session is open, and not about to be released."""
        session = self.find(session_id)
        return session is not None and not session.releasing

    def has_id(self, session_id: str) -> bool:
        """Return whether this is one of the ids of a session that may be running."""
        return self.find(session_id) is not None or any(session_id in session.ids for session in self.all)

    def get(self, session_id: str) -> Session:
        """Return the session with this id.

        Raises:
            TypeError, ValueError: `session_id` is not an id.
            SessionTokenNotFoundError: The client has no token for it.
        """
        check_session_id(session_id)
        with self._lock:
            session = self._open.get(session_id)
            ended = session is None and session_id in self._ended
        if session is None:
            raise _not_found(
                session_id,
                "it is closed already"
                if ended
                else f"this client {'is closed and ' if self.closed else ''}did not open it. "
                "stop_session(session_id) stops any session of the account",
            )
        return session

    def get_opened(self, session_id: str) -> Session:
        """Return the session with this id, which new_session has returned to the caller.

        Raises:
            TypeError, ValueError: `session_id` is not an id.
            SessionTokenNotFoundError: The client has no token for it, or is still opening it.
        """
        session = self.get(session_id)
        if not session.opened:
            raise _not_found(session_id, "it is still being opened")
        return session

    def release(self, session: Session) -> None:
        """Remove a session that goes on running.

        Raises:
            SessionTokenNotFoundError: It was removed meanwhile.
        """
        with self._lock:
            self.get(session.id)
            session.released_by = threading.get_ident()
            del self._open[session.id]
        self._notify_removed()

    def restore(self, session: Session) -> None:
        """Add a session again whose release by this thread was interrupted."""
        with self._lock:
            if session.released_by == threading.get_ident():
                self._open.setdefault(session.id, session)

    def adopt(self, session_id: str, token: Secret[str] | None) -> Session:
        """Add a running session that another client has opened.

        Raises:
            LiveAvatarError: The client is closed.
        """
        with self._lock:
            self.ensure_accepts_sessions()
            self.note_id(session_id)
            session = self._open.setdefault(session_id, Session(session_id, token, start_sent=True, opened=True))
            session.start_known, session.to_recover = True, False
            session.token = token or session.token
        return session

    def claim(self, session_id: str, start_deadline: float) -> Session:
        """Add a session that was claimed from a dead process and will be stopped, unless it was adopted meanwhile."""
        session = Session(session_id, None, start_sent=True, opened=True, in_ledger=True, to_recover=True)
        session.start_deadline = start_deadline
        with self._lock:
            self.note_id(session_id)
            return self._open.setdefault(session_id, session)

    @property
    def all(self) -> tuple[Session, ...]:
        """The sessions that may be running, oldest first."""
        with self._lock:
            return tuple(self._open.values())

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the sessions that may be running, oldest first."""
        with self._lock:
            return tuple(self._open)

    @property
    def latest_token(self) -> str | None:
        """The token of the session that was opened or adopted last and may be running."""
        opened = [session for session in self.all if session.opened and not session.to_recover]
        return opened[-1].token.reveal() if opened and opened[-1].token else None

    def _notify_removed(self) -> None:
        if self.on_removed is not None:
            self.on_removed()

    def __contains__(self, session: Session) -> bool:
        return self._open.get(session.id) is session

    def __len__(self) -> int:
        return len(self._open)


def _not_found(session_id: str, reason: str) -> SessionTokenNotFoundError:
    error = SessionTokenNotFoundError(f"No token for session {shown(session_id)}: {reason}.")
    error.session_id = session_id
    return error
