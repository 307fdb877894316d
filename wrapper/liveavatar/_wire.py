"""One request and its answer, whatever carries them; the limits of reading; what a broken wire raises."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import attrs

from ._secrets import masked
from ._version import __version__
from .errors import LiveAvatarConnectionError, LiveAvatarError, LiveAvatarTimeoutError

MAX_BODY = 1024 * 1024
"""Bytes of an answer that are read at most; the service's are a few kilobytes."""

KEEP_ALIVE = 15.0
"""Seconds an idle connection is kept: shorter than gateways do, so that they rarely close it under us."""

CONNECT_LIMIT = 10.0
"""Seconds one attempt to connect may take."""

USER_AGENT = f"liveavatar-python/{__version__}"


@attrs.frozen
class WireRequest:
    """What goes out: always a POST."""

    url: str
    headers: dict[str, str] = attrs.field(repr=False)
    content: bytes = attrs.field(repr=False)
    deadline: float
    """When the answer must be complete, on the clock of `time.monotonic`."""
    urgent: bool = False
    """It stops a session that may run unseen: it does not queue for a connection."""

    def remaining(self) -> float:
        """Seconds left.

        Raises:
            LiveAvatarTimeoutError: none are; nothing was sent.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise lost(self, "the call's time was used up before it could be sent", sent=False, late=True)
        return left

    def connect_limit(self) -> float:
        """Seconds to connect in: a little less than there is, to tell that nothing was sent from no answer."""
        return min(CONNECT_LIMIT, 0.9 * self.remaining())

    def pool_limit(self) -> float:
        """Seconds to wait for a free connection of a caller's pool."""
        return min(0.5, self.remaining()) if self.urgent else self.remaining()


@attrs.frozen
class Answer:
    """What came back, as far as it came."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    content: bytes = attrs.field(repr=False)
    problem: LiveAvatarError | None = None
    """Why the body is not whole: a broken or slow wire. What it means depends on the status."""
    refused: str | None = None
    """Why the body was not read to its end by choice."""


class Body:
    """Collects an answer's body up to the cap."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.content = bytearray()
        self.refused: str | None = None
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            self.refused = f"a body in the encoding {encoding[:20]!r}, which was not asked for"

    def takes(self, chunk: bytes) -> bool:
        """Add `chunk`; False once the body is larger than any answer of the service."""
        self.content += chunk
        if len(self.content) > MAX_BODY:
            self.refused = f"a body of more than {MAX_BODY} bytes"
            self.content.clear()
        return self.refused is None


def lost(
    request: WireRequest, why: str, *, sent: bool, late: bool = False, certificate: bool = False
) -> LiveAvatarConnectionError:
    """The error for a request that got no answer.

    The transport's own exception is named, not chained: it holds the request's headers.
    """
    why = masked(" ".join(why.split())[:300])
    if certificate:
        why = f"the service's certificate is not trusted: {why}"
    kind = LiveAvatarTimeoutError if late else LiveAvatarConnectionError
    error = kind(f"No answer from POST {request.url}: {why}")
    error.request_sent = sent
    error.certificate_rejected = certificate
    return error


def name_of(error: BaseException) -> str:
    """A transport's exception in words."""
    text = str(error)
    if isinstance(error, TimeoutError) and not text:
        return "the call's time is used up"
    return f"{text} ({type(error).__name__})" if text else type(error).__name__


def caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether `error`, or what led to it, is of a kind."""
    seen: list[Any] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        if isinstance(current, kind):
            return True
        seen.append(current)
        current = current.__cause__ or current.__context__
    return False
