"""One request and its answer, whatever carries them; the limits of reading; what a broken wire raises."""

from __future__ import annotations

import itertools
import math
import ssl
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import attrs

from ._config import is_loopback
from ._secrets import masked
from ._version import __version__
from .errors import LiveAvatarConnectionError, LiveAvatarTimeoutError

MAX_BODY = 1024 * 1024
"""Bytes of an answer that are read at most; the service's are a few kilobytes."""

KEEP_ALIVE = 15.0
"""Seconds an idle connection is kept: shorter than gateways do, so that they rarely close it under us."""

CONNECT_LIMIT = 10.0
"""Seconds one attempt to connect may take."""

USER_AGENT = f"liveavatar-python/{__version__}"


@attrs.define
class WireRequest:
    """What goes out: always a POST."""

    url: str
    headers: dict[str, str] = attrs.field(repr=False)
    content: bytes = attrs.field(repr=False)
    deadline: float
    """When the answer must be complete, on the clock of `time.monotonic`."""
    urgent: bool = False
    """It stops a session that may run unseen: it does not queue for a connection."""

    def remaining(self, *, sent: bool = False) -> float:
        """Seconds left.

        Raises:
            LiveAvatarTimeoutError: none are; its `request_sent` is `sent`.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise lost(self, TimeoutError(), sent=sent)
        return left

    def connect_limit(self) -> float:
        """Seconds to connect in: a little less than there is, to tell that nothing was sent from no answer."""
        return min(CONNECT_LIMIT, 0.9 * self.remaining())

    def pool_limit(self) -> float:
        """Seconds to wait for a free connection of a caller's pool, for the same reason a little less."""
        return min(0.5 if self.urgent else math.inf, 0.9 * self.remaining())


@attrs.define
class Answer:
    """What comes back, as far as it comes."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    content: bytearray = attrs.field(factory=bytearray, repr=False)
    refused: str | None = None
    """Why the body is not read to its end: what was wrong with it."""
    problem: LiveAvatarConnectionError | None = None
    """Why the body is not whole, when the wire broke. What that means depends on the status."""

    def __attrs_post_init__(self) -> None:
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            self.refused = f"a body in the encoding {encoding[:20]!r}, which was not asked for"

    def takes(self, chunk: bytes) -> bool:
        """Add to the body; False when it has grown beyond the cap."""
        self.content += chunk
        if len(self.content) > MAX_BODY:
            self.refused = f"a body of more than {MAX_BODY} bytes"
            self.content.clear()
        return self.refused is None


def lost(
    request: WireRequest, cause: BaseException | str, *, sent: bool = True, late: bool = False
) -> LiveAvatarConnectionError:
    """The error for a request that got no answer, or not all of it.

    The transport's own exception is named, not chained: it holds the request's headers.
    """
    late = late or isinstance(cause, TimeoutError)
    why = str(cause) or ("the call's time is used up" if late else "the connection broke")
    if isinstance(cause, BaseException):
        why = f"{why} ({type(cause).__name__})"
    why = masked(" ".join(why.split())[:300])
    untrusted = any(isinstance(each, ssl.SSLCertVerificationError) for each in itertools.islice(_led_to(cause), 10))
    if untrusted:
        why = f"the service's certificate is not trusted: {why}"
    elif isinstance(cause, BaseException) and not (sent or late) and is_loopback(urlsplit(request.url).hostname):
        why += "; is the mock server running? `python -m liveavatar.mock` starts it"
    error = (LiveAvatarTimeoutError if late else LiveAvatarConnectionError)(f"No answer from {request.url}: {why}")
    error.request_sent = sent
    error.certificate_rejected = untrusted
    return error


def settled(answer: Answer | None, problem: LiveAvatarConnectionError) -> Answer:
    """The part of an answer that came before the wire broke.

    Raises:
        LiveAvatarConnectionError: nothing came.
    """
    if answer is None:
        raise problem
    problem.request_sent = True  # there is an answer to it, whatever broke off after
    answer.problem = problem
    return answer


def _led_to(error: object) -> Iterator[BaseException]:
    """An exception, and what led to it."""
    while isinstance(error, BaseException):
        yield error
        error = error.__cause__ or error.__context__
