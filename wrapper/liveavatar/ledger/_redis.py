"""A ledger in Redis, for workers on many machines.

Everything is in one hash, so that Redis can only lose all of it at once (eviction, FLUSHALL, a restart without
persistence), and a session never looks abandoned because only its owner's lease is gone:

- `session:<id>` is the entry as JSON, and `owner:<id>` the name of its owner.
- `lease:<owner>` is the time until which the owner counts as alive. It renews the lease three times in that time.
- `suspect:<owner>` is the time since which the lease is known to have expired. Only after a further delay, longer than
  the interval of renewal, the owner counts as dead. So a Redis that comes back after an outage, or whose clock jumps,
  does not make living owners look dead.

All times are Redis' own, in milliseconds: the clocks of the machines do not matter.

One thread per ledger writes to Redis. It runs while the process has sessions in the ledger, or owes changes to it.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import threading
import time
import weakref
from datetime import UTC, datetime
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, NoPermissionError
from redis.retry import Retry

from ..errors import LedgerError
from ._protocol import LedgerEntry, new_owner

TIMEOUT = 1.0
"""Seconds that add and remove wait for Redis, and that each read from its connection may take."""
RETRY_DELAY = 1.0
"""Seconds between attempts while Redis is out of reach."""
KEY = "liveavatar:ledger"
"""The one key in Redis that is used."""

_MIN_LEASE = 1.0
_MAX_BATCH = 1000

# Shares of the lease. An owner is taken for dead after at most the sum: 0.5 + 1/6 + 0.25 < 1.
_VALIDITY = 1 / 2
_INTERVAL = 1 / 6
_SUSPICION = 1 / 4

_COMMON = """
local key, call = KEYS[1], redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function expired(owner)
    return tonumber(call('HGET', key, 'lease:' .. owner) or 0) <= now
end

-- Suspect the owners whose leases have expired, and drop what is known of owners without sessions.
local function sweep()
    local fields = call('HGETALL', key)
    local owners, leases = {}, {}
    for i = 1, #fields, 2 do
        if fields[i]:sub(1, 6) == 'owner:' then owners[fields[i + 1]] = true end
        if fields[i]:sub(1, 6) == 'lease:' then leases[fields[i]:sub(7)] = true end
    end
    for owner in pairs(owners) do
        if expired(owner) then call('HSETNX', key, 'suspect:' .. owner, now) end
    end
    for owner in pairs(leases) do
        if not owners[owner] and expired(owner) then call('HDEL', key, 'lease:' .. owner, 'suspect:' .. owner) end
    end
end
"""

_SYNC = (
    _COMMON
    + """
-- ARGV: JSON of {owner, validity, renew, write: {id, entry, ...}, keep: {id, entry, ...}, remove: {id, ...}}.
-- Returns the ids of sessions to keep that belong to another owner.
local batch = cjson.decode(ARGV[1])
local owner, lost = batch.owner, {}
for _, id in ipairs(batch.remove) do
    if call('HGET', key, 'owner:' .. id) == owner then call('HDEL', key, 'session:' .. id, 'owner:' .. id) end
end
for i = 1, #batch.keep, 2 do
    local id, entry = batch.keep[i], batch.keep[i + 1]
    local present = call('HGET', key, 'owner:' .. id)
    if not present then
        call('HSET', key, 'session:' .. id, entry, 'owner:' .. id, owner)
    elseif present ~= owner then
        lost[#lost + 1] = id
    end
end
for i = 1, #batch.write, 2 do
    local id, entry = batch.write[i], batch.write[i + 1]
    call('HSET', key, 'session:' .. id, entry, 'owner:' .. id, owner)
end
if batch.validity > 0 then
    call('HSET', key, 'lease:' .. owner, now + batch.validity)
    call('HDEL', key, 'suspect:' .. owner)
else
    call('HDEL', key, 'lease:' .. owner, 'suspect:' .. owner)
end
if batch.renew then sweep() end
return lost
"""
)

_READ = (
    _COMMON
    + """
sweep()
return {now, call('HGETALL', key)}
"""
)

_CLAIM = (
    _COMMON
    + """
-- ARGV: id, own name, validity, milliseconds of suspicion.
-- Returns {-1, ''} if it cannot be claimed, {milliseconds to wait, ''}, or {0, entry}.
local id, me, validity, suspicion = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local owner = call('HGET', key, 'owner:' .. id)
if not owner then return {-1, ''} end
if owner ~= me then
    if not expired(owner) then return {-1, ''} end
    local since = tonumber(call('HGET', key, 'suspect:' .. owner) or now + 1)
    if since > now then
        since = now
        call('HSET', key, 'suspect:' .. owner, now)
    end
    if since + suspicion > now then return {since + suspicion - now, ''} end
    call('HSET', key, 'owner:' .. id, me, 'lease:' .. me, now + validity)
end
return {0, call('HGET', key, 'session:' .. id)}
"""
)

_TEMPORARY = ("OOM", "MISCONF", "READONLY", "NOREPLICAS", "BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
"""Codes of error responses that do not come from wrong settings."""

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
        lease: Seconds after the death of its owner at which a session can be claimed, at the latest. At least 1.
        required: Whether a session that cannot be written down within a second is refused with a LedgerError, and
            not started. Without it, the session is started all the same.

    Raises:
        LedgerError: Redis refuses the password or the commands, or the server is not Redis. With `required` also
            if Redis is out of reach.
        ValueError: The URL or the lease cannot be used. The message does not show the URL.
        TypeError: An argument has the wrong type.
    """

    def __init__(self, url: str, *, lease: float = 30.0, required: bool = False) -> None:
        if not isinstance(url, str):
            raise TypeError(f"url must be a str, not {type(url).__name__}")
        if isinstance(lease, bool) or not isinstance(lease, int | float):
            raise TypeError(f"lease must be a number of seconds, not {type(lease).__name__}")
        if not _MIN_LEASE <= lease < math.inf:
            raise ValueError(f"lease must be {_MIN_LEASE:g} second or more, not {lease}")
        self._lease = float(lease)
        self._required = required
        try:
            self._redis = redis.Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                retry=Retry(NoBackoff(), 1),  # the server may have closed a pooled connection
            )
        except (ValueError, TypeError):
            raise ValueError("url must look like redis://[:password@]host:6379/0") from None
        finally:
            del url  # tools that print local variables must not show the password
        self._start()
        _ledgers.add(self)
        try:
            self._sync_batch({}, {}, owns=False, renew=False)
        except Exception as error:
            if required or _is_permanent(error):
                raise LedgerError(self._message(error)) from None
            self._fail(error)

    def _start(self) -> None:
        """Begin as an owner without sessions: at construction, and in a forked child."""
        self._owner = new_owner()
        self._changed = threading.Condition()
        self._claiming = threading.Lock()
        self._own: dict[str, LedgerEntry] = {}
        self._owed: dict[str, LedgerEntry | None] = {}  # sessions to write, or with None to remove
        self._renew_at = 0.0
        self._failures = 0
        self._failing = False
        self._worker: threading.Thread | None = None
        self._wake = threading.Event()
        weakref.finalize(self, self._wake.set).atexit = False  # ends the thread of a ledger that is gone

    def add(self, entry: LedgerEntry) -> None:
        """Write a session down as this process's own. See `Ledger.add`.

        If Redis does not confirm it within a second, the session is written down later (see `required`).
        """
        with self._changed:
            self._own[entry.session_id] = entry
            self._owed[entry.session_id] = entry
            if not self._wait_for_worker(entry.session_id) and self._required:
                self._own.pop(entry.session_id, None)
                self._owed[entry.session_id] = None  # the request to write it may still arrive
                raise LedgerError(self._message(f"session {entry.session_id} could not be written down"))

    def remove(self, session_id: str) -> None:
        """Remove a session if it is this process's own. See `Ledger.remove`.

        If Redis does not confirm it within a second, the session is removed later.
        """
        with self._changed:
            if self._own.pop(session_id, None) is not None:
                self._owed[session_id] = None
                self._wait_for_worker(session_id)

    def entries(self) -> list[LedgerEntry]:
        """Return all sessions that are written down. See `Ledger.entries`."""
        now, flat = self._call(_READ)
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        found = []
        for field, text in fields.items():
            kind, _, session_id = field.partition(":")
            if kind == "session":
                owner = fields.get(f"owner:{session_id}", "")
                is_alive = int(fields.get(f"lease:{owner}", 0)) > now
                if owner == self._owner:  # but not if the response to a claim was lost
                    is_alive = self._knows(session_id)
                found.append(_from_json(session_id, text, owner, is_alive))
        return sorted(found, key=lambda entry: entry.started_at)

    def claim(self, session_id: str) -> bool:
        """Take over a session whose owner is dead. See `Ledger.claim`.

        If no process has noticed yet that the lease has expired, this waits a quarter of the lease for a renewal.
        """
        arguments = (session_id, self._owner, self._milliseconds(_VALIDITY), self._milliseconds(_SUSPICION))
        with self._claiming:
            wait, entry = (-1, "") if self._knows(session_id) else self._call(_CLAIM, *arguments)
            while wait > 0:
                time.sleep(wait / 1000)
                wait, entry = self._call(_CLAIM, *arguments)
            if wait < 0:
                return False
            with self._changed:
                self._own[session_id] = _from_json(session_id, entry, self._owner, True)
                self._run_worker()
            return True

    def __repr__(self) -> str:
        settings = self._redis.connection_pool.connection_kwargs
        if "path" in settings:
            return f"RedisLedger('unix://{settings['path']}')"
        return f"RedisLedger('redis://{settings.get('host')}:{settings.get('port')}/{settings.get('db') or 0}')"

    def _wait_for_worker(self, session_id: str) -> bool:
        """Return whether the worker has sent what is owed for a session, after a second at most.

        Called with the lock held. While Redis is out of reach, it only waits if sessions must be written down.
        """
        failures = self._failures
        self._run_worker()
        self._changed.wait_for(
            lambda: (
                session_id not in self._owed or self._failures > failures or (self._failing and not self._required)
            ),
            TIMEOUT,
        )
        if session_id not in self._owed:
            return True
        if not self._failing:
            self._fail(TimeoutError(f"no response within {TIMEOUT:g} s"))
        return False

    def _run_worker(self) -> None:
        """Let the worker look at what is owed, and start one if there is none. Called with the lock held."""
        self._wake.set()
        if self._worker is None or not self._worker.is_alive():
            arguments = (weakref.ref(self), self._wake)
            worker = threading.Thread(target=_work, args=arguments, name="liveavatar-ledger", daemon=True)
            self._worker = worker
            try:
                worker.start()
            except RuntimeError:  # the interpreter is shutting down, or there are too many threads
                self._worker = threading.current_thread()
                self._sync()
                self._worker = None

    def _sync(self) -> float | None:
        """Send what is owed, and renew the lease if it is time.

        Returns:
            Seconds until the next call, or None if nothing is left to do.
        """
        with self._changed:
            if self._worker is not threading.current_thread():  # only one may send, or changes could overtake others
                return None
            if not self._own and not self._owed:
                self._worker = None
                return None
            started = time.monotonic()
            renew = started >= self._renew_at
            owns = bool(self._own)
            keep = {id_: entry for id_, entry in self._own.items() if id_ not in self._owed} if renew else {}
            owed = dict(itertools.islice(self._owed.items(), _MAX_BATCH))
        try:
            lost = self._sync_batch(owed, keep, owns=owns, renew=renew)
        except Exception as error:  # redis lets more than its own errors through, and the worker must live on
            self._fail(error)
            return min(RETRY_DELAY, self._lease * _INTERVAL)
        with self._changed:
            for session_id, entry in owed.items():
                if session_id in self._owed and self._owed[session_id] is entry:
                    del self._owed[session_id]
            for session_id in lost:
                if self._own.pop(session_id, None) is not None:
                    _logger.warning("Session %s was claimed by another process: its lease had expired.", session_id)
            if renew:
                self._renew_at = started + self._lease * _INTERVAL
            if self._failing:
                self._failing = False
                _logger.info("%r can be used again.", self)
            self._changed.notify_all()
            if self._own or self._owed:
                return 0.0 if self._owed else max(0.0, self._renew_at - time.monotonic())
            self._worker = None
            return None

    def _sync_batch(
        self, owed: dict[str, LedgerEntry | None], keep: dict[str, LedgerEntry], *, owns: bool, renew: bool
    ) -> list[str]:
        """Send one batch, and return the ids of sessions to keep that belong to another owner now."""
        batch = {
            "owner": self._owner,
            "validity": self._milliseconds(_VALIDITY) if owns else 0,
            "renew": renew,
            "write": [part for id_, entry in owed.items() if entry for part in (id_, _to_json(entry))],
            "keep": [part for id_, entry in keep.items() for part in (id_, _to_json(entry))],
            "remove": [id_ for id_, entry in owed.items() if not entry],
        }
        lost: list[str] = self._eval(_SYNC, json.dumps(batch))
        return lost

    def _eval(self, script: str, *arguments: str | int) -> Any:
        return self._redis.eval(script, 1, KEY, *arguments)

    def _call(self, script: str, *arguments: str | int) -> Any:
        try:
            return self._eval(script, *arguments)
        except Exception as error:
            raise LedgerError(self._message(error)) from None

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failures += 1
            self._renew_at = 0.0
            if not self._failing:
                self._failing = True
                _logger.warning(
                    "%s Sessions are written down when it can be used again; until then, another process cannot "
                    "stop them if this one dies.",
                    self._message(error),
                )
            self._changed.notify_all()

    def _knows(self, session_id: str) -> bool:
        with self._changed:
            return session_id in self._own or session_id in self._owed

    def _milliseconds(self, share: float) -> int:
        return round(self._lease * share * 1000)

    def _message(self, reason: object) -> str:
        if isinstance(reason, Exception):
            reason = f"{type(reason).__name__}: {reason}"
        return f"The ledger {self!r} cannot be used: {str(reason).rstrip('.')}."


def _work(reference: weakref.ref[RedisLedger], wake: threading.Event) -> None:
    """Serve a ledger until it has nothing left to do, or is collected."""
    while (ledger := reference()) is not None:
        wake.clear()
        delay = ledger._sync()
        del ledger  # it can be collected during the delay
        if delay is None:
            return
        wake.wait(delay)


def _is_permanent(error: Exception) -> bool:
    """Return whether the settings are wrong, rather than Redis out of reach, full or busy for a while."""
    if isinstance(error, redis.AuthenticationError | NoPermissionError | MovedError | redis.InvalidResponse):
        return True
    return type(error) is redis.ResponseError and not any(word in str(error) for word in _TEMPORARY)


def _to_json(entry: LedgerEntry) -> str:
    return json.dumps(
        {
            "account": entry.account,
            "base_url": entry.base_url,
            "started_at": entry.started_at.astimezone(UTC).isoformat(),
        }
    )


def _from_json(session_id: str, text: str, owner: str, owner_alive: bool) -> LedgerEntry:
    fields = json.loads(text)
    started_at = datetime.fromisoformat(fields["started_at"])
    return LedgerEntry(session_id, fields["account"], fields["base_url"], started_at, owner, owner_alive)


def _after_fork_in_child() -> None:
    for ledger in tuple(_ledgers):
        ledger._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
