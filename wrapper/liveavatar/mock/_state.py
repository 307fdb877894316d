"""The state behind the endpoints of one mock server."""

from __future__ import annotations

from collections import Counter

from ._credentials import Credentials
from ._sessions import Sessions
from ._settings import Settings


class State:
    """The state of one mock server.

    Attributes:
        settings: its settings.
        sessions: its sessions.
        credentials: the credentials that it accepts.
        requests: number of requests by the short name of the endpoint.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sessions = Sessions(settings)
        self.credentials = Credentials(settings)
        self.requests: Counter[str] = Counter()
