"""A client's use of its ledger: the entries of its account."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from ._arguments import check_session_id
from ._config import Config
from ._log import log
from ._redaction import redact
from .errors import LedgerError
from .ledger._protocol import Ledger, LedgerEntry, account_id, warn_once

T = TypeVar("T")


class Registry(Protocol):
    """What a ledger asks the registry of a client's sessions."""

    @property
    def ledger(self) -> AccountLedger | None:
        """The ledger of the client."""

    def tracks(self, session_id: str) -> bool:
        """Return whether the client has this session open, and is not about to release it."""
        raise NotImplementedError

    def has_id(self, session_id: str) -> bool:
        """Return whether this is one of the ids of a session of the client."""
        raise NotImplementedError


class AccountLedger:
    """The part of a ledger that belongs to one account at one service.

    Args:
        ledger: The ledger. Several clients of a process may share it.
        config: The client's settings.
        all_sessions: Returns the registries of all clients of this process.
    """

    def __init__(self, ledger: Ledger, config: Config, all_sessions: Callable[[], Sequence[Registry]]) -> None:
        if not isinstance(ledger, Ledger) or isinstance(ledger, type):
            raise TypeError(
                f"ledger must have the methods of liveavatar.ledger.Ledger, not be a {type(ledger).__name__}"
            )
        if any(map(inspect.iscoroutinefunction, (ledger.add, ledger.remove, ledger.entries, ledger.claim))):
            raise TypeError("the methods of the ledger must not be async: the async client calls them in a thread")
        self._ledger = ledger
        self._account = account_id(config.api_key.reveal())
        self._base_url = config.base_url
        self._all_sessions = all_sessions

    def add(self, session_id: str) -> None:
        """Write a session down as this process's own, unless the client gives it up meanwhile.

        Raises:
            LedgerError: It could not be written down.
        """
        entry = LedgerEntry(session_id, self._account, self._base_url, datetime.now(UTC))
        _checked(lambda: self._ledger.add(entry), f"Session {session_id} could not be written down")
        if not any(sessions.has_id(session_id) for sessions in self._sharing()):
            self.remove(session_id)

    def remove(self, session_id: str) -> None:
        """Remove a session that has ended or was released, unless a client of this process has adopted it.

        A failure is only logged: no session runs because of it.
        """
        if self._is_tracked(session_id):
            return
        try:
            self._ledger.remove(session_id)
            if self._is_tracked(session_id):  # it was adopted during the removal
                self.add(session_id)
        except Exception as error:
            log(logging.WARNING, "Session %s could not be removed from the ledger: %s", session_id, redact(str(error)))

    def _is_tracked(self, session_id: str) -> bool:
        return any(sessions.tracks(session_id) for sessions in self._sharing())

    def _sharing(self) -> list[Registry]:
        """Return the registries of the clients of this process that have this ledger."""
        return [each for each in self._all_sessions() if each.ledger and each.ledger._ledger is self._ledger]

    def abandoned(self) -> list[LedgerEntry]:
        """Return the sessions whose owners are dead. It warns once of each that cannot be stopped.

        Raises:
            LedgerError: The ledger could not be read.
        """
        return _checked(lambda: [entry for entry in self._ledger.entries() if self._is_abandoned(entry)])

    def _is_abandoned(self, entry: LedgerEntry) -> bool:
        try:
            if entry.owner_alive or (entry.account, entry.base_url) != (self._account, self._base_url):
                return False
            # Before it is claimed: afterwards, no other process could stop it.
            check_session_id(entry.session_id)
            if not isinstance(entry.started_at, datetime):
                raise TypeError(f"started_at must be a datetime, not {type(entry.started_at).__name__}")
        except Exception as error:  # an entry that something else than a client has written
            warn_once(redact(f"An entry of the ledger is skipped, {entry!r}: {error}."))
            return False
        if entry.owner_alive is None:
            warn_once(
                f"Session {entry.session_id} is in the ledger, which cannot tell whether its process is alive. "
                f"If it is dead, stop the session: liveavatar close {entry.session_id}"
            )
        return entry.owner_alive is False

    def claim(self, session_id: str) -> bool:
        """Take over a session whose owner is dead; return whether that has succeeded.

        Raises:
            LedgerError: The ledger could not be read or written.
        """
        return _checked(lambda: self._ledger.claim(session_id), f"Session {session_id} could not be claimed")


def _checked(operation: Callable[[], T], failure: str = "The ledger could not be read") -> T:
    """Perform an operation on a ledger that the user may have written; raise a LedgerError for any other exception."""
    try:
        return operation()
    except LedgerError:
        raise
    except Exception as error:
        raise LedgerError(f"{failure}: {type(error).__name__}: {redact(str(error))}") from error
