"""E. Rate limits: how long a client waits before the next attempt, with the real numbers and without the waiting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from liveavatar import LiveAvatarError, LiveAvatarTimeoutError, RateLimitError

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries, opened
from tests.faults.server import FaultServer


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays that a client asks for, in seconds; none takes place."""
    asked: list[float] = []

    async def sleep(self: object, seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr("liveavatar._transports._blocking.BlockingIO.sleep", sleep)
    monkeypatch.setattr("liveavatar._transports._asyncio.AsyncIO.sleep", sleep)
    return asked


@pytest.mark.row("E2")
def test_no_retries(flavour: str, server: FaultServer, waits: list[float]) -> None:
    """Without retries, each request is sent once."""
    with opened(flavour, server, max_retries=0) as api:
        server.on("token", fault.answers(503), 1).on("stop", fault.answers(503), 1)
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(session_request())
        assert caught.value.attempts == 1
        session = api.new_session(session_request())
        with pytest.raises(LiveAvatarError):
            api.close_session(session.session_id)
        assert waits == []
        assert server.counts == (2, 1, 1)
        assert server.running == {session.session_id}


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.row("E3")
@pytest.mark.parametrize(
    ("value", "low", "high"),
    [(lambda: "7", 7.0, 7.5), (lambda: http_date(25), 15.0, 25.5), (lambda: "soon", 0.25, 0.5)],
)
def test_retry_after(
    value: Any, low: float, high: float, flavour: str, server: FaultServer, waits: list[float]
) -> None:
    """Retry-After is honoured, as a number or as a date; if it is invalid, the client's own delay is used."""
    with opened(flavour, server, timeout=600) as api:
        server.on("token", lambda exchange: exchange.answer(429, {"code": 4290}, {"Retry-After": value()}), 1)
        api.create_session_token(session_request())
        assert len(waits) == 1
        assert low <= waits[0] <= high
        assert server.counts == (2, 0, 0)
        assert server.running == set()


@pytest.mark.row("E3")
@pytest.mark.parametrize("value", ["30.5", "date"])
def test_retry_after_too_long(value: str, flavour: str, server: FaultServer, waits: list[float]) -> None:
    """A Retry-After of more than 30 seconds is raised at once."""
    with opened(flavour, server, timeout=600) as api:
        header = http_date(3600) if value == "date" else value
        server.on("token", fault.refuses(429, "Slow down", headers={"Retry-After": header}))
        with pytest.raises(RateLimitError) as caught:
            api.create_session_token(session_request())
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 30
        assert waits == []
        assert server.counts == (1, 0, 0)
        assert server.running == set()


@pytest.mark.row("E3")
@pytest.mark.parametrize("asked", ["20", None])
def test_delay_ends_before_deadline(asked: str | None, flavour: str, server: FaultServer, waits: list[float]) -> None:
    """There is no delay that goes past the deadline of the call."""
    headers = {} if asked is None else {"Retry-After": asked}
    with opened(flavour, server, timeout=0.3 if asked is None else 5) as api:
        server.on("token", fault.refuses(429, "Slow down", headers=headers))
        with pytest.raises((RateLimitError, LiveAvatarTimeoutError)):
            api.create_session_token(session_request())
        assert waits == []
        assert server.counts == (1, 0, 0)
        assert server.running == set()


@pytest.mark.row("E1")
@pytest.mark.parametrize(("on", "counts"), [("token", (2, 1, 0)), ("start", (1, 2, 0)), ("stop", (1, 1, 2))])
def test_rate_limited_once(on: str, counts: Any, flavour: str, server: FaultServer, waits: list[float]) -> None:
    """A 429 that says when to try again is waited out."""
    with opened(flavour, server) as api:
        server.on(on, fault.refuses(429, "Slow down", headers={"Retry-After": "1"}), 1)
        session = api.new_session(session_request())
        if on == "stop":
            api.close_session(session.session_id)
        (wait,) = waits
        assert wait >= 1.0
        assert server.counts == counts
        assert server.running == (set() if on == "stop" else {session.session_id})


@pytest.mark.row("E2")
def test_rate_limited_cleanup(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A cleanup that is rate-limited is sent again."""
    with opened(flavour, server) as api:
        server.on("start", fault.answers(500, acts=True)).on("stop", fault.refuses(429, "Slow down"), 2)
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(session_request())
        assert caught.value.session_may_be_running is False
        assert server.counts == (1, 1, 3)
        assert server.running == set()
