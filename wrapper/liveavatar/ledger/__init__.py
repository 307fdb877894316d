"""Ledgers: records of open sessions that outlive the process.

A client with a ledger writes each session down before its start request leaves, and removes it when the stop is
confirmed. When the process dies without a chance to stop its sessions, another process finds them in the ledger::

    from liveavatar import LiveAvatarApi
    from liveavatar.ledger import SqliteLedger

    with LiveAvatarApi(ledger=SqliteLedger("~/.local/state/my-app/sessions.db")) as api:
        ...

`SqliteLedger` is for processes on one machine. `RedisLedger` is for workers on many machines, and needs the extra:
``pip install 'liveavatar[redis]'``. Any object with the four methods of `Ledger` serves as well.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..errors import LedgerError
    from ._protocol import Ledger, LedgerEntry, account_id
    from ._redis import RedisLedger
    from ._sqlite import SqliteLedger

__all__ = ["Ledger", "LedgerEntry", "LedgerError", "RedisLedger", "SqliteLedger", "account_id", "open_ledger"]

_LAZY = {
    "Ledger": "._protocol",
    "LedgerEntry": "._protocol",
    "LedgerError": "..errors",
    "RedisLedger": "._redis",
    "SqliteLedger": "._sqlite",
    "account_id": "._protocol",
}

_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def open_ledger(location: str) -> Ledger:
    """Open the ledger that a path or a URL names.

    Args:
        location: A redis://, rediss:// or unix:// URL for a RedisLedger, else the path of a SqliteLedger.

    Raises:
        LedgerError: The ledger cannot be used.
        ModuleNotFoundError: The URL needs the extra `redis`, which is not installed.
    """
    name = "RedisLedger" if location.lower().startswith(_REDIS_SCHEMES) else "SqliteLedger"
    ledger: Ledger = __getattr__(name)(location)
    return ledger


def __getattr__(name: str) -> Any:
    """Import on first use, so that SQLite users do not need the redis package."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_LAZY[name], __name__), name)
    except ModuleNotFoundError as missing:
        if missing.name != "redis":
            raise
        raise ModuleNotFoundError(
            "RedisLedger needs redis, which is not installed: pip install 'liveavatar[redis]'", name="redis"
        ) from missing
