"""What the blocking and the async client have in common: settings, open sessions, and their behaviour after a fork."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from . import _constants, _shutdown
from ._calls import IO
from ._config import Config
from ._endpoints import CREATE_TOKEN, START, STOP
from ._flows import Flows
from ._log import log
from ._operations import add_note, message
from ._redaction import scrub_traceback
from ._schema import load
from .errors import LedgerError, LiveAvatarError

if TYPE_CHECKING:
    from .ledger._protocol import Ledger

_parent_transports: list[object] = []
"""Transports inherited by a fork, referenced so that collecting them does not close the parent's sockets."""

_reset_lock = threading.RLock()


class BaseApi:
    """Settings and open sessions of a client."""

    BASE_URL: ClassVar[str] = _constants.BASE_URL
    """Base URL of the service, unless base_url= or LIVEAVATAR_BASE_URL gives another."""

    _transport: Any
    _recovery: Any = None
    _own_flows: Flows

    def __init__(
        self, api_key: str | None, base_url: str | None, timeout: float, max_retries: int, ledger: Ledger | None
    ) -> None:
        self._config = Config.from_arguments(api_key, base_url, timeout, max_retries, self.BASE_URL)
        self._ledger = ledger
        for model in filter(None, (CREATE_TOKEN.model, START.model, STOP.model)):
            load(model)  # now, and not while a session may be running
        self._reset()

    def _reset(self) -> None:
        """Start with no sessions and no connections."""
        io, leftover_io = self._new_io()
        self._own_flows = flows = Flows(self._config, io)
        if self._ledger is not None:
            from ._account_ledger import AccountLedger  # imported when needed: most clients have no ledger

            flows.sessions.ledger = AccountLedger(self._ledger, self._config, _shutdown.sessions_of_clients)
            flows.recovery = self._recovery = self._new_recovery(flows)
        _shutdown.watch(self, self._config, self._own_flows.sessions, leftover_io)
        self._pid = os.getpid()  # at the end: other threads of a forked child wait until then

    def _new_recovery(self, flows: Flows) -> Any:
        """Return what recovers sessions in the background."""
        raise NotImplementedError

    def _recovery_of_ledger(self) -> Any:
        """Return what recovers sessions.

        Raises:
            LiveAvatarError: The client is closed, or has no ledger.
        """
        self._flows.sessions.ensure_open()
        if self._recovery is None:
            raise LiveAvatarError("This client has no ledger: pass ledger= when you create it.")
        return self._recovery

    def _start_recovery(self) -> None:
        """Start to recover sessions in the background, if there is a ledger and the client is not closed."""
        flows = self._flows
        if flows.recovery is not None and not flows.sessions.closed:
            self._recovery.start()

    def _new_io(self) -> tuple[IO, IO | None]:
        """Begin anew with a transport; return the client's I/O, and the I/O for sessions that outlive the client."""
        raise NotImplementedError

    @property
    def _flows(self) -> Flows:
        if os.getpid() != self._pid:
            self._reset_after_fork()
        if _shutdown.pending:
            _shutdown.stop_pending()
        return self._own_flows

    def _reset_after_fork(self) -> None:
        """Start anew in a forked child: the sockets and the sessions belong to its parent."""
        with _reset_lock:
            if os.getpid() != self._pid:
                _parent_transports.append(self._transport)
                self._reset()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client cannot be copied or pickled, as each session belongs to one client: create another")

    @property
    def session_token(self) -> str | None:
        """The token of the session that was opened last and is still open, or None."""
        return self._flows.sessions.latest_token

    @property
    def open_sessions(self) -> tuple[str, ...]:
        """Ids of the sessions that this client has opened and that may be running, oldest first."""
        return self._flows.sessions.ids

    @scrub_traceback
    def release_session(self, session_id: str) -> str:
        """Stop tracking a session without stopping it, and return its token, to hand it to another process.

        The session is removed from the ledger, too. From here on, only the token's new owner, or `stop_session` with
        the API key, ends it.

        Args:
            session_id: An id that new_session has returned.

        Returns:
            The session token; empty if the session was adopted without one.

        Raises:
            SessionTokenNotFoundError: This client did not open the session, is still opening it, or has closed it.
        """
        sessions = self._flows.sessions
        session = sessions.get_opened(session_id)
        try:
            session.releasing = True
            if sessions.ledger is not None:
                self._call_ledger(functools.partial(_for_each, sessions.ledger.remove, session.ids))
            sessions.release(session)
            if session.other_id is not None:
                log(
                    logging.WARNING,
                    "Session %s may also be running as %s: its new owner must stop both.",
                    *session.ids,
                )
            return "" if session.token is None else session.token.reveal()
        except BaseException:  # Ctrl-C: the caller does not get the token, so the client keeps the session
            session.releasing = False
            sessions.restore(session)
            if sessions.ledger is not None and session in sessions:
                with contextlib.suppress(LedgerError):
                    self._call_ledger(functools.partial(_for_each, sessions.ledger.add, session.ids))
            raise

    def _call_ledger(self, operation: Callable[[], None]) -> None:
        """Perform an operation on the ledger. The async client does it in the background, after those begun before."""
        raise NotImplementedError

    def __repr__(self) -> str:
        count = len(self._flows.sessions)
        return f"<{type(self).__name__} {self._config.base_url}, {count} open session{'' if count == 1 else 's'}>"


def _after_fork_in_child() -> None:
    global _reset_lock
    _reset_lock = threading.RLock()  # a thread that only the parent has may hold the other


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _for_each(operation: Callable[[str], None], session_ids: Iterable[str]) -> None:
    for session_id in session_ids:
        operation(session_id)


def add_failure_note(error: BaseException, failure: BaseException) -> None:
    """Add a note to the caller's exception if the cleanup after it has failed as well."""
    if getattr(failure, "session_may_be_running", False):
        session_id = getattr(failure, "session_id", None)
        add_note(error, f"Session {session_id} may still be running: {message(failure)}")
    elif isinstance(failure, Exception):  # not an interrupt of a stop that has succeeded all the same
        add_note(error, f"Closing has failed too: {message(failure)}")


def raise_first(failures: list[BaseException]) -> None:
    """Raise the first failure, an interruption before any other, with a note for each other one."""
    if failures:
        first = next((failure for failure in failures if not isinstance(failure, Exception)), failures[0])
        for other in failures:
            if other is not first:
                add_failure_note(first, other)
        raise first
