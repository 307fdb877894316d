"""A LiveAvatar service on this machine, for demos and tests: no account, no network, no cost.

It speaks the three session endpoints over real HTTP, with the service's credentials, states, limits and error
envelopes, and holds every request and every answer of its own against the contract. From a shell::

    python -m liveavatar.mock --port 8080

and in a test suite::

    with mock_server() as service:
        api = LiveAvatarApi(service.api_key, base_url=service.base_url)

It needs the extra: ``pip install 'liveavatar[mock]'``.

Where the service leaves it open, the mock server has decided: the nil UUID is the one avatar it does not know;
stopping a session that never started ends it, and its token then starts nothing; as no media flows, a session
is idle from its start; all API keys belong to one account.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._app import create_app
    from ._contract import ContractError
    from ._server import MockServer, mock_server
    from ._sessions import SessionSnapshot, SessionState
    from ._settings import Settings

__all__ = [
    "ContractError",
    "MockServer",
    "SessionSnapshot",
    "SessionState",
    "Settings",
    "create_app",
    "mock_server",
]

_HOME = {
    "ContractError": "_contract",
    "MockServer": "_server",
    "SessionSnapshot": "_sessions",
    "SessionState": "_sessions",
    "Settings": "_settings",
    "create_app": "_app",
    "mock_server": "_server",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that a missing extra can be named in one line."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("liveavatar"):
            raise
        raise ModuleNotFoundError(
            f"the mock server needs {missing.name}, which is not installed: pip install 'liveavatar[mock]'",
            name=missing.name,
        ) from missing
