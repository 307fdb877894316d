"""API keys, session tokens, and the rate limit that is counted for each of them."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from typing import Any

import jwt
from starlette.datastructures import Headers

from ._errors import ApiError
from ._session import Session
from ._settings import Settings

_ALGORITHM = "HS256"
_AUDIENCE = "liveavatar-session"  # distinguishes a session token from a room token


class Credentials:
    """Makes tokens, and authenticates requests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = secrets.token_bytes(32)

    def session_token(self, session: Session) -> str:
        """Return a token that may start, keep alive and stop one session."""
        claims = {"aud": _AUDIENCE, "sub": session.id, "start_session_data": session.start_data}
        return self._sign(claims, self._settings.token_lifetime)

    def room_token(self, room: str, identity: str, seconds: float) -> str:
        """Return a token for a LiveKit room that does not exist."""
        return self._sign({"sub": identity, "video": {"room": room, "roomJoin": True}}, seconds)

    def authenticate(self, headers: Headers, accepted: frozenset[str]) -> str | None:
        """Authenticate a request.

        A request may carry both credentials. The session token counts where the endpoint accepts one.

        Args:
            headers: the headers of the request.
            accepted: the security schemes of the endpoint.

        Returns:
            The id of the session whose token was sent, or None if the API key is the credential.

        Raises:
            ApiError: the credential is missing or not valid.
        """
        if "sessionToken" in accepted and ("authorization" in headers or "apiKey" not in accepted):
            return self._session_id(headers)
        self._check_api_key(headers)
        return None

    def _check_api_key(self, headers: Headers) -> None:
        key = headers.get("x-api-key")
        if key is None and "authorization" in headers:
            raise ApiError(401, "This endpoint takes an API key in X-API-KEY, not a session token as Bearer.")
        if not key:
            raise ApiError(401, "The API key is missing.")
        if key not in self._settings.api_keys:
            raise ApiError(401, "The API key is not valid.")

    def _session_id(self, headers: Headers) -> str:
        authorization = headers.get("authorization")
        if authorization is None and "x-api-key" in headers:
            raise ApiError(401, "This endpoint takes a session token as Bearer, not an API key.")
        scheme, _, token = (authorization or "Bearer").partition(" ")
        if scheme.lower() != "bearer":
            raise ApiError(401, "The Authorization header must use the Bearer scheme.")
        if not token.strip():
            raise ApiError(401, "The session token is missing.")
        try:
            claims = jwt.decode(
                token.strip(),
                self._secret,
                [_ALGORITHM],
                audience=_AUDIENCE,
                options={"verify_exp": False},  # PyJWT reads the system's clock, the mock server its own
            )
        except jwt.InvalidTokenError:
            raise ApiError(401, "The session token is not valid.") from None
        if claims["exp"] <= self._settings.clock():
            raise ApiError(401, "The session token has expired.")
        return str(claims["sub"])

    def _sign(self, claims: dict[str, Any], seconds: float) -> str:
        expiry = math.ceil(self._settings.clock() + seconds)
        return jwt.encode({**claims, "iss": "liveavatar-mock", "exp": expiry}, self._secret, _ALGORITHM)


_REPORTED_LIMIT = 1000
"""The limit that the headers report when none is enforced: the service reports one on every response."""


class RateLimit:
    """Counts requests per credential and endpoint in fixed windows of one second."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._window = 0
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, headers: Headers, endpoint: str) -> tuple[bool, dict[str, str]]:
        """Count a request. Return whether it may pass, and the response headers that report the limit."""
        enforced = self._settings.rate_limit
        limit = _REPORTED_LIMIT if enforced is None else enforced
        now = self._settings.clock()
        if math.floor(now) != self._window:
            self._window = math.floor(now)
            self._counts.clear()
        credential = headers.get("authorization") or headers.get("x-api-key") or ""
        self._counts[credential, endpoint] += 1
        count = self._counts[credential, endpoint]
        reset = str(math.ceil(self._window + 1 - now))
        report = {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - count)),
            "X-RateLimit-Reset": reset,
        }
        allowed = enforced is None or count <= limit
        return allowed, report if allowed else {**report, "Retry-After": reset}
