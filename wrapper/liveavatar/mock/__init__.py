"""A mock server of LiveAvatar's API on this machine, for demos and tests: no account, no network, no cost.

It serves the session endpoints over real HTTP, with the service's credentials, states, limits and error envelopes. It
checks every request, and every response of its own, against the OpenAPI contract. From a shell::

    python -m liveavatar.mock --port 8080

and in a test suite::

    with mock_server() as service:
        api = LiveAvatarApi(service.api_key, base_url=service.base_url)

It needs the extra: ``pip install 'liveavatar[mock]'``.

Where the behavior of the service is not known, the mock server has made these choices. Any avatar exists but the nil
UUID, unless ``avatar_ids`` lists them. An LLM configuration exists unless it is the nil UUID. Stopping a session that
never started ends it. No media flows, so only a start and a keep-alive reset the idle timer. All API keys belong to
one account.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._app import create_app
    from ._contract import ContractError
    from ._server import MockServer, mock_server
    from ._session import SessionSnapshot, SessionState
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

_LAZY = {
    "ContractError": "_contract",
    "MockServer": "_server",
    "SessionSnapshot": "_session",
    "SessionState": "_session",
    "Settings": "_settings",
    "create_app": "_app",
    "mock_server": "_server",
}


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that the error for a missing extra is one line."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("liveavatar"):
            raise
        raise ModuleNotFoundError(
            f"the mock server needs {missing.name}, which is not installed: pip install 'liveavatar[mock]'",
            name=missing.name,
        ) from missing
