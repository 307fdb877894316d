"""The settings of a mock server."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

SANDBOX_AVATAR = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
NIL_UUID = str(uuid.UUID(int=0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of one mock server, each a keyword of ``mock_server``, ``MockServer`` and ``create_app``.

    Attributes:
        api_keys: API keys that are accepted, all of one account. ``MockServer.api_key`` is the first.
        avatar_ids: avatars that exist (UUIDs), besides that of the free trial; empty for any avatar but the nil UUID.
        max_session_duration: seconds that a session may run, and does run if it asks for no duration.
        idle_timeout: seconds without a start or keep-alive after which a session ends; None for never.
        token_lifetime: seconds for which a session token is valid.
        max_concurrent: number of sessions that may run at once; None for any number.
        credits: credits that the account may spend; None for any number. A session that needs more ends.
        rate_limit: requests per second for each credential and endpoint; None for any number. It is always reported.
        allow_origins: origins whose web pages may call the API (CORS), for example ``http://localhost:3000``.
        clock: function that returns the time in seconds since the epoch. A test can pass its own.
    """

    api_keys: Sequence[str] = ("mock-key",)
    avatar_ids: Sequence[str] = ()
    max_session_duration: int = 1200
    idle_timeout: float | None = 300
    token_lifetime: float = 3600
    max_concurrent: int | None = None
    credits: int | None = None
    rate_limit: int | None = None
    allow_origins: Sequence[str] = ()
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if isinstance(self.api_keys, str) or not self.api_keys or not all(self.api_keys):
            raise ValueError("api_keys must hold at least one key, and no empty one")
        for name in ("avatar_ids", "allow_origins"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a sequence of strings, not one string")
        for avatar_id in self.avatar_ids:
            try:
                uuid.UUID(avatar_id)
            except ValueError:
                raise ValueError(f"avatar_ids must hold UUIDs, not {avatar_id!r}") from None
        for name in ("max_session_duration", "idle_timeout", "token_lifetime", "max_concurrent", "rate_limit"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if self.credits is not None and self.credits < 0:
            raise ValueError(f"credits must not be below 0, not {self.credits}")

    def has_avatar(self, avatar_id: str) -> bool:
        """Say whether an avatar exists. The id must be in lower case."""
        if self.avatar_ids and avatar_id != SANDBOX_AVATAR:
            return avatar_id in map(str.lower, self.avatar_ids)
        return avatar_id != NIL_UUID


class SettingsKeywords(TypedDict, total=False):
    """``Settings`` as keywords, for type checkers."""

    api_keys: Sequence[str]
    avatar_ids: Sequence[str]
    max_session_duration: int
    idle_timeout: float | None
    token_lifetime: float
    max_concurrent: int | None
    credits: int | None
    rate_limit: int | None
    allow_origins: Sequence[str]
    clock: Callable[[], float]
