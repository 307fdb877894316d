"""The interface of a ledger, and the entries that it keeps."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import secrets
import socket
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

import attrs


@attrs.frozen
class LedgerEntry:
    """One session that is written down. It holds no credential.

    The client gives the first four fields. The ledger fills in the others.
    """

    session_id: str
    """Id of the session (UUID)."""
    account: str
    """Account of the session, as `account_id` gives it."""
    base_url: str
    """Base URL of the service that runs the session."""
    started_at: datetime
    """When the session was written down, with a time zone."""
    owner: str = ""
    """Process that the session belongs to: its host, its process id and a random part."""
    owner_alive: bool | None = None
    """Whether that process is alive. None if the ledger cannot tell."""


@runtime_checkable
class Ledger(Protocol):
    """What a client needs of a ledger. Implement these four methods to keep sessions in a store of your own.

    The *owner* of a session is the process that has added it, or claimed it last. A ledger object stands for the
    process that uses it. After a fork, the child is another owner than its parent.

    The methods may block for a short, bounded time. The async client calls them in a thread. They must be safe to
    call from any thread, and from many processes at once.
    """

    def add(self, entry: LedgerEntry) -> None:
        """Write a session down as this process's own. A session that is already there changes its owner.

        The client calls this before the start request leaves. If it raises, the session is not started.

        Args:
            entry: The session. Its `owner` and `owner_alive` are ignored.

        Raises:
            LedgerError: The session could not be written down in a short time.
        """
        raise NotImplementedError

    def remove(self, session_id: str) -> None:
        """Remove a session if it is this process's own. Another id is ignored.

        The client calls this when the session has ended or was released. It logs a LedgerError as a warning.

        Args:
            session_id: Id of the session (UUID).

        Raises:
            LedgerError: The session could not be removed in a short time.
        """
        raise NotImplementedError

    def entries(self) -> list[LedgerEntry]:
        """Return all sessions that are written down, of every account and owner, oldest first.

        Raises:
            LedgerError: The ledger could not be read.
        """
        raise NotImplementedError

    def claim(self, session_id: str) -> bool:
        """Take over a session whose owner is dead. If several processes try, exactly one succeeds.

        The session then belongs to this process. If this process dies too, the session can be claimed again.

        Args:
            session_id: Id of the session (UUID).

        Returns:
            True if the session is now this process's own. False if it is not written down, if its owner is alive
            or not known to be dead, or if it was this process's own before.

        Raises:
            LedgerError: The ledger could not be read or written.
        """
        raise NotImplementedError


def stored_entry(
    session_id: object, account: object, base_url: object, started_at: object, owner: object, owner_alive: bool | None
) -> LedgerEntry | None:
    """Return an entry that a store has given, or None, with a warning, if it is not one that a ledger writes."""
    texts = (session_id, account, base_url, started_at, owner)
    try:
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a part of it is missing, or is no text")
        time = datetime.fromisoformat(str(started_at)).astimezone(UTC)
        return LedgerEntry(str(session_id), str(account), str(base_url), time, str(owner), owner_alive)
    except (TypeError, ValueError, OverflowError) as error:
        warn_once(f"An entry of the ledger is skipped, session {session_id!r}: {error}.")
        return None


@functools.lru_cache(maxsize=1024)  # entries are read every few seconds
def warn_once(message: str) -> None:
    """Log a warning, unless it was logged before."""
    logging.getLogger("liveavatar").warning("%s", message)


def account_id(api_key: str) -> str:
    """Return an id of the account that an API key belongs to. It does not reveal the key.

    The id is 64 bits of a BLAKE2b hash. API keys are long and random, so that a hash of one cannot be reversed by
    trying keys, and a slow hash would only slow down the start of every process.

    Args:
        api_key: The account's API key.
    """
    return hashlib.blake2b(api_key.encode(), digest_size=8, person=b"liveavatar").hexdigest()


def new_owner() -> str:
    """Return a name for this process that no other process has, now or later. It can be part of a file name."""
    host = re.sub(r"[^A-Za-z0-9.]+", "-", socket.gethostname())[:64]
    return f"{host}-{os.getpid()}-{secrets.token_hex(8)}"
