"""A ledger in Redis, for workers on many machines.

One thread per ledger writes to Redis. It runs while the process has sessions in the ledger, or owes changes to it.
What is in Redis, and when an owner counts as dead, is in `_redis_store`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import NoReturn, TypeVar

import attrs

from ..errors import LedgerError
from ._protocol import LedgerEntry, new_owner
from ._redis_store import Store, is_permanent

T = TypeVar("T")

TIMEOUT = 1.0
"""Seconds that add and remove wait for Redis, and that each read from its connection may take."""
RETRY_DELAY = 1.0
"""Seconds between attempts while Redis is out of reach."""

_MAX_BATCH = 1000

_logger = logging.getLogger("liveavatar")
_ledgers: weakref.WeakSet[RedisLedger] = weakref.WeakSet()


class RedisLedger:
    """A ledger in Redis, for workers on many machines. It needs the extra `redis`, and Redis 5 or later.

    Each process that owns sessions renews a lease. When it dies, the lease expires, and another worker can claim its
    sessions. A process that is stopped (SIGSTOP), or cut off from Redis alone, for longer than two thirds of the lease
    can lose its sessions, too.

    If Redis is out of reach, full or slow, the client works on. The ledger logs one warning, keeps trying, and writes
    down what it owes when Redis is back. If the process dies before that, the sessions it owes are not in the ledger.

    A ledger may be shared by threads, and be used on both sides of a fork. The password is not shown anywhere.

    Args:
        url: Where Redis is: redis://[[user]:password@]host[:port][/database], rediss:// with TLS, or unix://path.
            Options of the redis package may follow as a query.
        lease: Seconds after the death of its owner at which a session can be claimed, at the latest. At least 15.
        required: Whether a session that cannot be written down within a second is refused with a LedgerError, and
            not started. Without it, the session is started all the same.

    Raises:
        LedgerError: Redis refuses the password or the commands, or the server is not Redis. With `required` also
            if Redis is out of reach.
        ValueError: The URL or the lease cannot be used. The message does not show the URL.
        TypeError: An argument has the wrong type.
    """

    def __init__(self, url: str, *, lease: float = 30.0, required: bool = False) -> None:
        self._required = required
        try:
            self._store = Store(url, TIMEOUT, lease)
        finally:
            del url  # tools that print local variables must not show the password
        self._start()
        _ledgers.add(self)
        try:
            self._store.sync(self._owner, {}, {}, (), has_sessions=False, renew=False)
        except Exception as error:
            if required or is_permanent(error):
                raise LedgerError(self._message(error)) from None
            self._fail(error)

    def _start(self) -> None:
        """Begin as an owner without sessions: at construction, and in a forked child."""
        self._owner = new_owner()
        self._changed = threading.Condition()
        self._claiming = threading.Lock()
        self._own: dict[str, LedgerEntry] = {}
        self._pending: dict[str, LedgerEntry | None] = {}  # sessions to write, or with None to remove
        self._renew_at = 0.0
        self._failures = 0
        self._failing = False
        self._worker: threading.Thread | None = None
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # reentrant, as a signal handler may use the ledger
        weakref.finalize(self, self._wake.put, None).atexit = False  # ends the thread of a ledger that is gone

    def add(self, entry: LedgerEntry) -> None:
        """Write a session down as this process's own. See `Ledger.add`.

        If Redis does not confirm it within a second, the session is written down later (see `required`).
        """
        with self._changed:
            self._own[entry.session_id] = entry
            self._pending[entry.session_id] = entry
            if not self._wait_for_worker(entry.session_id) and self._required:
                self._own.pop(entry.session_id, None)
                self._pending[entry.session_id] = None  # the request to write it may still arrive
                raise LedgerError(self._message(f"session {entry.session_id} could not be written down"))

    def remove(self, session_id: str) -> None:
        """Remove a session if it is this process's own. See `Ledger.remove`.

        If Redis does not confirm it within a second, this raises, and the session is removed later.
        """
        with self._changed:
            if self._own.pop(session_id, None) is not None:
                self._pending[session_id] = None
                if not self._wait_for_worker(session_id):
                    raise LedgerError(self._message(f"session {session_id} is removed when it can be used again"))

    def entries(self) -> list[LedgerEntry]:
        """Return all sessions that are written down. See `Ledger.entries`."""
        with self._changed:
            if self._own or self._pending:
                self._run_worker()  # if no thread could be started before
        found = []
        for entry in self._checked(self._store.read):
            if entry.owner == self._owner:  # but not if the response to a claim was lost
                entry = attrs.evolve(entry, owner_alive=self._knows(entry.session_id))
            found.append(entry)
        return sorted(found, key=lambda entry: entry.started_at)

    def claim(self, session_id: str) -> bool:
        """Take over a session whose owner is dead. See `Ledger.claim`.

        If no process has noticed yet that the lease has expired, this waits a quarter of the lease for a renewal.
        """
        with self._claiming:
            wait, entry = math.inf, None
            while wait > 0:
                if self._knows(session_id):  # or it was added during the wait
                    return False
                wait, entry = self._checked(lambda: self._store.claim(session_id, self._owner))
                time.sleep(wait)
            if entry is None:
                return False
            with self._changed:
                self._own[session_id] = entry
                self._run_worker()
            return True

    def __reduce__(self) -> NoReturn:
        raise TypeError("a RedisLedger cannot be pickled or copied, as its URL may hold a password: create another")

    def __repr__(self) -> str:
        return f"RedisLedger({self._store!r})"

    def _wait_for_worker(self, session_id: str) -> bool:
        """Return whether the worker has sent what is pending for a session, after a second at most.

        Called with the lock held. While Redis is out of reach, it only waits if sessions must be written down.
        """
        failures = self._failures
        self._run_worker()

        def has_ended() -> bool:
            out_of_reach = self._failures > failures or (self._failing and not self._required)
            return session_id not in self._pending or out_of_reach

        self._changed.wait_for(has_ended, TIMEOUT)
        if session_id not in self._pending:
            return True
        if not self._failing:
            self._fail(TimeoutError(f"no response within {TIMEOUT:g} s"))
        return False

    def _run_worker(self) -> None:
        """Wake the worker, and start one if there is none. Called with the lock held."""
        self._wake.put(None)
        if self._worker is None or not self._worker.is_alive():
            args = (weakref.ref(self), self._wake)
            worker = self._worker = threading.Thread(target=_work, args=args, name="liveavatar-ledger", daemon=True)
            try:
                worker.start()
            except RuntimeError:  # the interpreter is shutting down, or there are too many threads
                self._worker = threading.current_thread()
                try:
                    self._sync()
                finally:
                    self._worker = None  # the next operation tries again to start it

    def _sync(self) -> float | None:
        """Send what is pending, and renew the lease if it is time.

        Returns:
            Seconds until the next call, or None if nothing is left to do.
        """
        with self._changed:
            if self._worker is not threading.current_thread():  # only one may send, or changes could overtake others
                return None
            if not self._own and not self._pending:
                self._worker = None
                return None
            started = time.monotonic()
            renew = started >= self._renew_at
            has_sessions = bool(self._own)
            keep = {id_: entry for id_, entry in self._own.items() if id_ not in self._pending} if renew else {}
            pending = dict(itertools.islice(self._pending.items(), _MAX_BATCH))
        try:
            lost = self._store.sync(
                self._owner,
                write={session_id: entry for session_id, entry in pending.items() if entry},
                keep=keep,
                remove=[session_id for session_id, entry in pending.items() if not entry],
                has_sessions=has_sessions,
                renew=renew,
            )
        except Exception as error:  # redis lets more than its own errors through, and the worker must live on
            self._fail(error)
            return RETRY_DELAY
        with self._changed:
            for session_id, entry in pending.items():
                if session_id in self._pending and self._pending[session_id] is entry:
                    del self._pending[session_id]
            self._changed.notify_all()
            for session_id in lost:
                if session_id not in self._pending and self._own.pop(session_id, None) is not None:
                    _logger.warning("Session %s was claimed by another process: its lease had expired.", session_id)
            if renew:
                self._renew_at = started + self._store.interval
            if self._failing:
                self._failing = False
                _logger.info("%r can be used again.", self)
            if self._own or self._pending:
                return 0.0 if self._pending else max(0.0, self._renew_at - time.monotonic())
            self._worker = None
            return None

    def _checked(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except Exception as error:
            raise LedgerError(self._message(error)) from None

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failures += 1
            self._renew_at = 0.0
            self._changed.notify_all()
            if not self._failing:
                self._failing = True
                _logger.warning(
                    "%s Sessions are written down when it can be used again; until then, another process cannot "
                    "stop them if this one dies.",
                    self._message(error),
                )

    def _knows(self, session_id: str) -> bool:
        with self._changed:
            return session_id in self._own or session_id in self._pending

    def _message(self, reason: object) -> str:
        if isinstance(reason, Exception):
            reason = f"{type(reason).__name__}: {reason}"
        return f"The ledger {self!r} cannot be used: {str(reason).rstrip('.')}."


def _work(reference: weakref.ref[RedisLedger], wake: queue.SimpleQueue[None]) -> None:
    """Serve a ledger until it has nothing left to do, or is collected."""
    while (ledger := reference()) is not None:
        with contextlib.suppress(queue.Empty):
            while True:
                wake.get_nowait()
        delay: float | None = RETRY_DELAY
        with contextlib.suppress(Exception):  # a log handler or filter has raised it
            delay = ledger._sync()
        del ledger  # it can be collected during the delay
        if delay is None:
            return
        with contextlib.suppress(queue.Empty):
            wake.get(timeout=delay)


def _after_fork_in_child() -> None:
    for ledger in tuple(_ledgers):
        ledger._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
