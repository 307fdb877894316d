"""What the blocking and the async client have in common: their settings and their memory, no I/O."""

from __future__ import annotations

import os
import warnings
from typing import Any, ClassVar

from . import _config
from ._flows import Flows
from ._secrets import without_locals
from .errors import LiveAvatarError

_inherited: list[object] = []
"""Transports of a parent process, kept from being collected, which would shut what the parent still uses."""


class BaseApi:
    """Settings and open sessions of a client."""

    _transport: Any

    BASE_URL: ClassVar[str] = _config.BASE_URL
    """Where the service is, unless base_url= or LIVEAVATAR_BASE_URL says otherwise."""

    def __init__(self, api_key: str | None, base_url: str | None, timeout: float, max_retries: int) -> None:
        self._config = _config.configure(api_key, base_url, timeout, max_retries, self.BASE_URL)
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """Start with no sessions and no connections; each client adds its transport."""
        self._pid = os.getpid()
        self._own_flows = Flows(self._config)

    @property
    def _flows(self) -> Flows:
        if os.getpid() != self._pid:  # a forked child: the sockets and the sessions are its parent's
            _inherited.append(self._transport)
            self._begin()
        return self._own_flows

    @property
    def session_token(self) -> str | None:
        """The token of the session opened last of those still open, else None."""
        return self._flows.sessions.latest_token

    @property
    def open_sessions(self) -> tuple[str, ...]:
        """Ids of the sessions this client opened and has not seen end, oldest first."""
        return self._flows.sessions.ids

    @without_locals
    def release_session(self, session_id: str) -> str:
        """Forget a session without stopping it, and return its token: to hand it to another process.

        From here on nobody but the token's new owner, or `stop_session` with the API key, ends it.

        Args:
            session_id: an id that new_session gave.

        Raises:
            SessionTokenNotFoundError: this client did not open it, or has closed it.
        """
        return self._flows.sessions.release(session_id)

    def _warn_of_open_sessions(self) -> None:
        if self.open_sessions:
            warnings.warn(
                f"{type(self).__name__} was closed while sessions are open, which go on and cost: "
                f"{', '.join(self.open_sessions)}",
                ResourceWarning,
                stacklevel=3,
            )

    def _check_open(self) -> None:
        if self._closed:
            raise LiveAvatarError("This client is closed.")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._config.base_url} {self._flows.sessions!r}>"


def note(error: BaseException, failure: BaseException) -> None:
    """Say on a caller's exception that closing up behind it failed as well."""
    session_id = getattr(failure, "session_id", None)
    error.add_note(f"Session {session_id} may still be running: {failure or type(failure).__name__}")


def raise_first(failures: list[BaseException]) -> None:
    """Raise the first failure, an interruption before any other, with a note of each other."""
    if failures:
        first = next((failure for failure in failures if not isinstance(failure, Exception)), failures[0])
        for other in failures:
            if other is not first:
                note(first, other)
        raise first
