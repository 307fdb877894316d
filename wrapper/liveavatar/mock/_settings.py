"""What can be set on a mock server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of one mock server, each a keyword of ``mock_server``, ``MockServer`` and ``create_app``.

    Attributes:
        api_keys: keys that are let in, all of one account. The first is the one the mock server tells its users.
        max_session_duration: seconds, the longest a session may run and what one gets that asks for nothing.
        idle_timeout: seconds from its start after which a session ends as idle; None for never.
        token_lifetime: seconds that a session token is good for.
        max_concurrent: how many sessions may run at once; None for any number.
        credits: what the account has to spend; None for plenty. Checked when a session starts.
        rate_limit: requests per second for each credential and endpoint; None for any number.
        clock: the time in seconds. Tests hand in their own, to let a session grow old without waiting.
    """

    api_keys: Sequence[str] = ("mock-key",)
    max_session_duration: int = 1200
    idle_timeout: float | None = 300
    token_lifetime: float = 3600
    max_concurrent: int | None = None
    credits: int | None = None
    rate_limit: int | None = None
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if isinstance(self.api_keys, str) or not self.api_keys or not all(self.api_keys):
            raise ValueError("api_keys must hold at least one key, and no empty one")
        durations = ("max_session_duration", "idle_timeout", "token_lifetime")
        for name in (*durations, "max_concurrent", "rate_limit"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if self.credits is not None and self.credits < 0:
            raise ValueError(f"credits must not be below 0, not {self.credits}")


class SettingsKeywords(TypedDict, total=False):
    """``Settings`` as keywords, for type checkers."""

    api_keys: Sequence[str]
    max_session_duration: int
    idle_timeout: float | None
    token_lifetime: float
    max_concurrent: int | None
    credits: int | None
    rate_limit: int | None
    clock: Callable[[], float]
