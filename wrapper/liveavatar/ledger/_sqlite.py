"""A ledger in a SQLite file, for the processes of one machine.

Each operation opens the database, runs one transaction and closes it again (1 to 2 ms, most of it the write to the
disk). So no connection is shared by threads or inherited by a forked child. The journal is SQLite's default one: it
needs no shared memory, and leaves no further files beside the database.

Each process that owns sessions holds the lock of a file of its own, in the directory beside the database. Lock files
are created, tested and removed inside a write transaction, so that no process tests a file before its owner has
locked it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

from ..errors import LedgerError
from ._owners import Owners
from ._protocol import LedgerEntry, stored_entry

TIMEOUT = 5.0
"""Seconds that an operation may wait for other threads and processes."""

_BUSY_TIMEOUT = 0.01
"""Seconds that SQLite waits on its own. It asks ever less often: under load it would be the last to be served."""
_APPLICATION_ID = 0x4C56_4C47
_VERSION = 1
_SCHEMA = """\
CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY,
    account    TEXT NOT NULL,
    base_url   TEXT NOT NULL,
    started_at TEXT NOT NULL,
    owner      TEXT NOT NULL
)"""

_HINTS = {
    "SQLITE_BUSY": f"others have locked it for more than {TIMEOUT:g} seconds",
    "SQLITE_CANTOPEN": "its directory is not writable, or a file is in the way",
    "SQLITE_CORRUPT": "the file is damaged. Move it away, and a new one is created",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_NOTADB": "the file is not a SQLite database. Move it away, and a new one is created",
    "SQLITE_READONLY": "the file or its directory is not writable",
}

_lock = threading.RLock()
"""Held by the thread that runs an operation, and while the process forks: SQLite must not be forked at work."""
_ledgers: weakref.WeakSet[SqliteLedger] = weakref.WeakSet()


class SqliteLedger:
    """A ledger in a file, for any number of processes on one machine. It needs no other package.

    The operating system tells whether the owner of a session is alive: the owner holds a file lock, which the kernel
    releases when the process ends. So the sessions of a process that was killed can be claimed at once, and those of
    a process that is busy or stopped (SIGSTOP) never.

    The file must be on a local disk. SQLite and file locks are not reliable on network file systems (NFS, SMB).

    A ledger may be shared by threads, and be used on both sides of a fork. A copy of it, also in a spawned child that
    it is passed to, is another owner.

    Args:
        path: The database file. It and its directory are created, readable by this user only, if they do not exist.
            Beside it, the directory `<path>-owners` holds the lock files. `~` is the home directory.

    Raises:
        LedgerError: The file cannot be used: it is not writable, is locked or damaged, or the disk is full.
        ValueError: The path is empty or ":memory:".
        TypeError: The path is not a str or a path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        text = os.fspath(path)
        if not isinstance(text, str):
            raise TypeError(f"path must be a str or a path of text, not {type(path).__name__}")
        if not text.strip() or text == ":memory:" or "\0" in text:
            raise ValueError(f"path must name a file, not {text!r}: a ledger outlives the process")
        # The real path, as all names of a file must have one directory of locks.
        self._path = Path(os.path.realpath(os.path.expanduser(text)))
        self._owners = Owners(Path(f"{self._path}-owners"))
        self._own: dict[str, tuple[str, ...]] = {}  # the rows of this process's sessions
        self._to_remove: set[str] = set()
        self._database: sqlite3.Connection | None = None
        _ledgers.add(self)
        with self._transaction() as database:
            database.execute(f"PRAGMA user_version = {_VERSION}")  # a write, to show that writing works
            if database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise LedgerError(self._message(_HINTS["SQLITE_CORRUPT"]))
            self._owners.ensure_owner()
            self._owners.remove_dead({row[0] for row in database.execute("SELECT DISTINCT owner FROM sessions")})

    def add(self, entry: LedgerEntry) -> None:
        """Write a session down as this process's own. See `Ledger.add`."""
        self._to_remove.discard(entry.session_id)
        started_at = entry.started_at.astimezone(UTC).isoformat()
        with self._transaction() as database:
            row = (entry.session_id, entry.account, entry.base_url, started_at, self._owners.ensure_owner())
            database.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?)", row)
        self._own[entry.session_id] = row

    def remove(self, session_id: str) -> None:
        """Remove a session if it is this process's own. See `Ledger.remove`.

        If it fails, the next operation removes the session too.
        """
        self._own.pop(session_id, None)
        if self._owners.own:
            self._to_remove.add(session_id)
            with self._transaction():
                pass  # each transaction first removes what an earlier one did not

    def entries(self) -> list[LedgerEntry]:
        """Return all sessions that are written down. See `Ledger.entries`."""
        with self._transaction() as database:
            # Something may have deleted, emptied or moved the file while this process had sessions in it.
            database.executemany("INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?, ?)", tuple(self._own.values()))
            rows = database.execute(
                "SELECT session_id, account, base_url, started_at, owner FROM sessions ORDER BY started_at, rowid"
            ).fetchall()
            alive = {owner: self._owners.is_alive(owner) for owner in {row[4] for row in rows}}
        found = [
            stored_entry(id_, account, url, time_, owner, alive[owner]) for id_, account, url, time_, owner in rows
        ]
        return [entry for entry in found if entry is not None]

    def claim(self, session_id: str) -> bool:
        """Take over a session whose owner is dead. See `Ledger.claim`."""
        with self._transaction() as database:
            row = database.execute("SELECT * FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
            if row is None or self._owners.is_alive(row[4]) is not False:
                return False
            owner = self._owners.ensure_owner()
            database.execute("UPDATE sessions SET owner = ? WHERE session_id = ?", (owner, session_id))
        self._own[session_id] = (*row[:4], owner)
        return True

    def __reduce__(self) -> tuple[type[SqliteLedger], tuple[str]]:
        return SqliteLedger, (str(self._path),)  # a copy, as in a spawned child, is another owner

    def __repr__(self) -> str:
        return f"SqliteLedger({str(self._path)!r})"

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a block inside one write transaction. It also removes what an earlier operation failed to remove."""
        deadline = time.monotonic() + TIMEOUT
        acquired = False
        try:
            acquired = _lock.acquire(timeout=TIMEOUT)
            if not acquired:
                raise LedgerError(self._message(_HINTS["SQLITE_BUSY"]))
            if self._database is not None:  # in a signal handler that interrupts this thread's own transaction
                yield self._database
                return
            self._create_files()
            removed = tuple(self._to_remove)
            with self._connect() as database:
                _execute(database, "PRAGMA synchronous = FULL", deadline)  # survives a power failure
                _execute(database, "BEGIN IMMEDIATE", deadline)
                self._create_table(database)
                if self._owners.own:
                    self._owners.ensure_owner()  # again, if the lock was lost
                database.executemany(
                    "DELETE FROM sessions WHERE session_id = ? AND owner = ?",
                    [(session_id, self._owners.own) for session_id in removed],
                )
                yield database
                _execute(database, "COMMIT", deadline)
            self._to_remove.difference_update(removed)
        except sqlite3.Error as error:
            raise LedgerError(self._message(_HINTS.get(_code(error), str(error)))) from error
        except OSError as error:
            raise LedgerError(self._message(error.strerror or str(error))) from error
        finally:
            if acquired:
                _lock.release()

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Open the database for a block. Leaving it without a commit rolls back."""
        database = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, isolation_level=None)
        database.text_factory = lambda text: text.decode(errors="replace")  # something else may have written it
        try:
            self._database = database
            yield database
        finally:
            self._database = None
            database.close()

    def _create_files(self) -> None:
        if self._path.exists() and not self._path.is_file():
            raise LedgerError(self._message("it is not a regular file"))
        for directory in (self._path.parent, self._owners.path):
            for missing in reversed([each for each in (directory, *directory.parents) if not each.exists()]):
                missing.mkdir(0o700, exist_ok=True)  # mkdir(parents=True) would let others into the parents
        if not self._path.exists():
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))

    def _create_table(self, database: sqlite3.Connection) -> None:
        application_id = database.execute("PRAGMA application_id").fetchone()[0]
        version = database.execute("PRAGMA user_version").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application_id == 0 and not tables:
            database.execute(_SCHEMA)
            database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        elif application_id != _APPLICATION_ID:
            raise LedgerError(self._message("it is the database of another program"))
        elif version > _VERSION:
            raise LedgerError(self._message("a newer version of liveavatar has written it"))

    def _forget_parent(self) -> None:
        """Start anew in a forked child."""
        self._owners.forget_parent()
        self._own, self._to_remove = {}, set()
        self._database = None

    def _message(self, reason: str) -> str:
        return f"The ledger {str(self._path)!r} cannot be used: {reason}."


def _execute(database: sqlite3.Connection, statement: str, deadline: float) -> None:
    """Execute a statement that others may keep waiting, until the deadline."""
    while True:
        try:
            database.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if _code(error) != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise


def _code(error: sqlite3.Error) -> str:
    """Return the primary result code: "SQLITE_BUSY" for SQLITE_BUSY_RECOVERY too."""
    return "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])


def _after_fork_in_child() -> None:
    for ledger in tuple(_ledgers):
        ledger._forget_parent()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
