"""Stops the sessions that dead processes have left in the ledger."""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
import time
import weakref
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from . import _shutdown
from ._constants import CLEANUP_TIMEOUT, RECOVERED_START_AGE, RECOVERY_INTERVAL
from ._flows import Flows
from ._log import log
from ._sessions import Session
from ._transports._blocking import run
from .errors import LedgerError, LiveAvatarConnectionError, LiveAvatarError
from .ledger._protocol import LedgerEntry

if TYPE_CHECKING:
    from ._account_ledger import AccountLedger

_MAX_STOPPED = 100_000
_MAX_UNANSWERED = 2
"""Stops in a row without a response after which a recovery leaves the other sessions to the next."""


class BaseRecovery:
    """Recovers sessions in the background, from the first use of a client until it is closed."""

    def __init__(self, flows: Flows) -> None:
        self._flows = flows
        self._stopped: deque[str] = deque(maxlen=_MAX_STOPPED)  # bounded, as the client may never ask for them
        self._has_failed = False
        self._first_until = 0.0
        """Time on `time.monotonic` until which calls wait for the first recovery; 0 before the first of them."""

    def _first_wait(self, deadline: float) -> float:
        """Return the seconds that a call may wait for the first recovery: half of the time that it has, at most."""
        now = time.monotonic()
        self._first_until = self._first_until or now + CLEANUP_TIMEOUT
        return max(0.0, min(self._first_until - now, (deadline - now) / 2))

    async def _recover(self) -> None:
        """Stop the sessions whose owners are dead, first those that were not tried before.

        Raises:
            LedgerError: The ledger could not be read or written.
            LiveAvatarError: A session could not be stopped. It belongs to this client now, and the next call tries it
                again.
        """
        failures: list[LiveAvatarError] = []
        unanswered = 0

        async def stop(session: Session) -> None:
            nonlocal unanswered
            try:
                await self._stop(session)
                unanswered = 0
            except LiveAvatarError as error:
                session.stop_failed_at = time.monotonic()
                failures.append(error)
                unanswered = unanswered + 1 if isinstance(error, LiveAvatarConnectionError) else 0

        claimed_before = [session for session in self._flows.sessions.all if session.to_recover]
        try:
            for entry in await self._flows.in_ledger(lambda ledger: ledger.abandoned()):
                if self._flows.sessions.closed or unanswered == _MAX_UNANSWERED:
                    break
                session = await self._flows.io.shield(functools.partial(self._claim, entry))
                if session is not None:
                    await stop(session)
        except LedgerError as error:
            failures.append(error)
        for session in sorted(claimed_before, key=lambda session: session.stop_failed_at):
            if unanswered < _MAX_UNANSWERED and session.to_recover and session in self._flows.sessions:
                await stop(session)
        if failures:
            raise failures[0]

    async def _claim(self, entry: LedgerEntry) -> Session | None:
        flows, sessions = self._flows, self._flows.sessions
        if sessions.find(entry.session_id) is not None:  # it is being adopted
            return None
        # The last request of a process that has just died may still be on its way.
        delay = CLEANUP_TIMEOUT if _age(entry) < RECOVERED_START_AGE else 0.0

        def claim(ledger: AccountLedger) -> Session | None:
            if not ledger.claim(entry.session_id):
                return None
            session = sessions.claim(entry.session_id, time.monotonic() + delay)
            if not sessions.closed:
                return session if session.to_recover else None
            # The claim has outlasted the client, perhaps its event loop too.
            _shutdown.stop_in_background(flows._config, sessions, "a client was closed during a recovery")
            return None

        return await flows.in_ledger(claim)

    async def _stop(self, session: Session) -> None:
        deadline = self._flows.deadline()
        try:
            await self._flows.io.shield(lambda: self._flows.stop_despite_interrupts(session, deadline))
        finally:
            if session.ended:
                self._stopped.append(session.id)
                log(
                    logging.INFO,
                    "Session %s was left by a process that has died. It does not run any more.",
                    session.id,
                )

    def _take_stopped(self) -> list[str]:
        return [self._stopped.popleft() for _ in range(len(self._stopped))]

    def _log(self, error: Exception) -> None:
        """Log the failure of a recovery: only the first in a row as a warning, as the next recovery comes soon."""
        level = logging.DEBUG if self._has_failed else logging.WARNING
        self._has_failed = True
        log(level, "Sessions of dead processes could not be recovered: %s", error)


def _age(entry: LedgerEntry) -> float:
    """Return the seconds since a session was written down."""
    started_at = entry.started_at
    if started_at.tzinfo is None:  # the user may have written the ledger
        started_at = started_at.replace(tzinfo=UTC)
    return (datetime.now(UTC) - started_at).total_seconds()


class RecoveryThread(BaseRecovery):
    """Recovers sessions in a daemon thread of a blocking client."""

    def __init__(self, client: object, flows: Flows) -> None:
        super().__init__(flows)
        self._lock = threading.RLock()  # held during a recovery
        self._start_lock = threading.RLock()
        self._first_done = False
        self._first_ended = threading.Condition(threading.RLock())  # a signal handler may wait while its thread does
        self._closed = False
        # Reentrant: the client may be collected in the thread itself. Looked up here, as gevent may have replaced it.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        weakref.finalize(client, self._end).atexit = False

    def start(self) -> None:
        """Start the thread, unless it was started before."""
        with self._start_lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._repeat, name="liveavatar-recovery", daemon=True)
                try:
                    self._thread.start()
                except BaseException as error:
                    self._thread = None  # the next use of the client tries again
                    if type(error) is not RuntimeError:
                        raise
                    self._log(error)  # the interpreter is exiting, or out of threads

    async def wait_for_first(self, deadline: float) -> None:
        """Wait until the first recovery has ended. See `Recovery.wait_for_first`."""
        if self._thread is not None:
            with self._first_ended:
                self._first_ended.wait_for(lambda: self._first_done, self._first_wait(deadline))

    def recover(self) -> list[str]:
        """Recover sessions, and return the ids of all that were stopped since the last call."""
        with self._lock:
            run(self._recover)
            return self._take_stopped()

    def close(self) -> None:
        """End the thread."""
        self._end()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join(CLEANUP_TIMEOUT)

    def _end(self) -> None:
        self._closed = True
        self._wake.put(None)

    def _repeat(self) -> None:
        while not self._closed:
            try:
                with self._lock:
                    run(self._recover)
                self._has_failed = False
            except Exception as error:
                self._log(error)
            with self._first_ended:
                self._first_done = True
                self._first_ended.notify_all()
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=RECOVERY_INTERVAL)
