"""What the ledger keeps in Redis, and the scripts that read and change it.

Everything is in one hash, so that Redis can only lose all of it at once (eviction, FLUSHALL, a restart without
persistence), and a session never looks abandoned because only its owner's lease is gone:

- `session:<id>` is the entry as JSON, and `owner:<id>` the name of its owner.
- `lease:<owner>` is the time until which the owner counts as alive. It renews the lease three times in that time.
- `suspect:<owner>` is the time since which the lease is known to have expired. Only after a further delay, longer than
  the interval of renewal, the owner counts as dead. So a Redis that comes back after an outage, or whose clock jumps,
  does not make living owners look dead.

All times are Redis' own, in milliseconds: the clocks of the machines do not matter.
"""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterable, Mapping
from datetime import UTC
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, NoPermissionError
from redis.retry import Retry

from ._protocol import LedgerEntry, stored_entry

KEY = "liveavatar:ledger"
"""The one key in Redis that is used."""

_MIN_LEASE = 15.0
"""Seconds. After an outage each worker has renewed its lease within 3 s: before a quarter of the lease is over."""

# Shares of the lease. An owner is taken for dead after at most the sum: 0.5 + 1/6 + 0.25 < 1.
_VALIDITY = 1 / 2
_INTERVAL = 1 / 6
_SUSPICION = 1 / 4

_COMMON = """
local key, call = KEYS[1], redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function expired(owner)
    return (tonumber(call('HGET', key, 'lease:' .. owner) or 0) or 0) <= now
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
    -- A former owner is present again, and dead, if Redis was restored from an older snapshot.
    if not present or present ~= owner and expired(present) then
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
return call('HGETALL', key)
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
    local since = tonumber(call('HGET', key, 'suspect:' .. owner) or now + 1) or now + 1
    if since > now then
        since = now
        call('HSET', key, 'suspect:' .. owner, now)
    end
    if since + suspicion > now then return {since + suspicion - now, ''} end
    call('HSET', key, 'owner:' .. id, me, 'lease:' .. me, now + validity)
    call('HDEL', key, 'suspect:' .. me)
end
return {0, call('HGET', key, 'session:' .. id) or ''}
"""
)

_TEMPORARY = ("OOM", "MISCONF", "READONLY", "NOREPLICAS", "BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
"""Codes of error responses that do not come from wrong settings."""


class Store:
    """The hash in Redis. Its methods raise what the redis package raises.

    Args:
        url: Where Redis is.
        timeout: Seconds that connecting, and each read from the connection, may take.
        lease: Seconds after the death of its owner at which a session can be claimed, at the latest.

    Raises:
        ValueError: The URL or the lease cannot be used. The message does not show the URL.
        TypeError: An argument has the wrong type.
    """

    def __init__(self, url: str, timeout: float, lease: float) -> None:
        if not isinstance(url, str):
            raise TypeError(f"url must be a str, not {type(url).__name__}")
        if isinstance(lease, bool) or not isinstance(lease, int | float):
            raise TypeError(f"lease must be a number of seconds, not {type(lease).__name__}")
        if not _MIN_LEASE <= lease < math.inf:
            raise ValueError(f"lease must be {_MIN_LEASE:g} seconds or more, not {lease}")
        self.interval = lease * _INTERVAL
        """Seconds between two renewals of a lease."""
        self._validity = round(lease * _VALIDITY * 1000)
        self._suspicion = round(lease * _SUSPICION * 1000)
        try:
            self._redis = redis.Redis.from_url(
                url,
                decode_responses=True,
                encoding_errors="replace",  # something else may have written an entry
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 1),  # the server may have closed a pooled connection
            )
        except (ValueError, TypeError):
            raise ValueError("url must look like redis://[:password@]host:6379/0") from None
        finally:
            del url  # tools that print local variables must not show the password
        weakref.finalize(self, self._redis.connection_pool.disconnect).atexit = False

    def sync(
        self,
        owner: str,
        write: Mapping[str, LedgerEntry],
        keep: Mapping[str, LedgerEntry],
        remove: Iterable[str],
        *,
        has_sessions: bool,
        renew: bool,
    ) -> list[str]:
        """Change the sessions of an owner and renew its lease, or remove that if the owner has no sessions.

        Args:
            owner: Name of the owner.
            write: Sessions to write down.
            keep: Sessions that are written down already, or are written down again if Redis has lost them.
            remove: Ids of sessions to remove.
            has_sessions: Whether it has sessions afterwards.
            renew: Whether the leases of others are looked at, too.

        Returns:
            The ids of sessions to keep that belong to another owner now.
        """
        batch = {
            "owner": owner,
            "validity": self._validity if has_sessions else 0,
            "renew": renew,
            "write": [part for id_, entry in write.items() for part in (id_, _to_json(entry))],
            "keep": [part for id_, entry in keep.items() for part in (id_, _to_json(entry))],
            "remove": list(remove),
        }
        lost: list[str] = self._run(_SYNC, json.dumps(batch))
        return lost

    def read(self) -> list[LedgerEntry]:
        """Return all sessions. An owner is alive if its lease is not known to have expired."""
        flat = self._run(_READ)
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        found = []
        for name, text in fields.items():
            kind, _, session_id = name.partition(":")
            if kind == "session":
                owner = fields.get(f"owner:{session_id}", "")
                found.append(_from_json(session_id, text, owner, f"suspect:{owner}" not in fields if owner else None))
        return [entry for entry in found if entry is not None]

    def claim(self, session_id: str, owner: str) -> tuple[float, LedgerEntry | None]:
        """Make a session whose owner is dead the session of another.

        Args:
            session_id: Id of the session.
            owner: Name of the new owner.

        Returns:
            The seconds after which it may be possible, and None; or 0 and the entry; or 0 and None if the owner lives.
        """
        wait, text = self._run(_CLAIM, session_id, owner, self._validity, self._suspicion)
        if wait:
            return max(0.0, wait / 1000), None
        return 0.0, _from_json(session_id, text, owner, True)

    def __repr__(self) -> str:
        settings = self._redis.connection_pool.connection_kwargs
        if "path" in settings:
            return f"'unix://{settings['path']}'"
        scheme = "rediss" if issubclass(self._redis.connection_pool.connection_class, redis.SSLConnection) else "redis"
        return f"'{scheme}://{settings.get('host')}:{settings.get('port')}/{settings.get('db') or 0}'"

    def _run(self, script: str, *arguments: str | int) -> Any:
        return self._redis.eval(script, 1, KEY, *arguments)


def is_permanent(error: Exception) -> bool:
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


def _from_json(session_id: str, text: str, owner: str, owner_alive: bool | None) -> LedgerEntry | None:
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    get = fields.get if isinstance(fields, dict) else {}.get
    return stored_entry(session_id, get("account"), get("base_url"), get("started_at"), owner, owner_alive)
