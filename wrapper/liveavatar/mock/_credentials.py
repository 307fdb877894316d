"""Who is calling: API keys, session tokens, and how often each may call."""

from __future__ import annotations

import math
import secrets
from collections import Counter

import jwt
from starlette.datastructures import Headers

from ._sessions import RefusedError
from ._settings import Settings

_ALGORITHM = "HS256"
_SESSION = "liveavatar-session"  # the audience that tells a session token from a room token


class Credentials:
    """Makes tokens, and reads the credential of a request."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = secrets.token_bytes(32)

    def session_token(self, session_id: str) -> str:
        """A token that may start and stop one session."""
        return self._sign({"aud": _SESSION, "sub": session_id}, self._settings.token_lifetime)

    def room_token(self, room: str, identity: str, seconds: float) -> str:
        """A token of a LiveKit room that nobody hosts."""
        return self._sign({"sub": identity, "video": {"room": room, "roomJoin": True}}, seconds)

    def api_key(self, headers: Headers) -> str:
        """The API key of a request that takes nothing else."""
        key, token = _credential(headers)
        if token is not None:
            raise RefusedError(401, "This endpoint takes an API key in X-API-KEY, not a session token.")
        if not key:
            raise RefusedError(401, "The API key is missing.")
        if key not in self._settings.api_keys:
            raise RefusedError(401, "The API key is not valid.")
        return key

    def session_id(self, headers: Headers) -> str:
        """The session of a request that takes a session token and nothing else."""
        key, token = _credential(headers)
        if key is not None:
            raise RefusedError(401, "This endpoint takes a session token as Bearer, not an API key.")
        if not token:
            raise RefusedError(401, "The session token is missing.")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                [_ALGORITHM],
                audience=_SESSION,
                options={"verify_exp": False},  # PyJWT looks at the wall clock, the mock server at its own
            )
        except jwt.InvalidTokenError:
            raise RefusedError(401, "The session token is not valid.") from None
        if claims["exp"] <= self._settings.clock():
            raise RefusedError(401, "The session token has expired.")
        return str(claims["sub"])

    def _sign(self, claims: dict[str, object], seconds: float) -> str:
        expiry = math.ceil(self._settings.clock() + seconds)
        return jwt.encode({**claims, "iss": "liveavatar-mock", "exp": expiry}, self._secret, _ALGORITHM)


def _credential(headers: Headers) -> tuple[str | None, str | None]:
    """The API key or the session token of a request; with both it is refused."""
    key, authorization = headers.get("x-api-key"), headers.get("authorization")
    if key is not None and authorization is not None:
        raise RefusedError(400, "Send an API key or a session token, not both.")
    if authorization is None:
        return key, None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise RefusedError(401, "Authorization wants the Bearer scheme.")
    return None, token.strip()


class RateLimit:
    """Counts requests per credential and endpoint in fixed windows of one second."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._window = 0
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, credential: str, endpoint: str) -> tuple[bool, dict[str, str]]:
        """Whether one more request may pass, and the headers that tell the caller where it stands."""
        limit = self._settings.rate_limit
        if limit is None:
            return True, {}
        now = self._settings.clock()
        if math.floor(now) != self._window:
            self._window = math.floor(now)
            self._counts.clear()
        self._counts[credential, endpoint] += 1
        count = self._counts[credential, endpoint]
        reset = str(math.ceil(self._window + 1 - now))
        headers = {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - count)),
            "X-RateLimit-Reset": reset,
        }
        return count <= limit, headers if count <= limit else {**headers, "Retry-After": reset}
