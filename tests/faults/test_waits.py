"""E. How long it is before the next try: the real numbers, without waiting for them; and a few that are waited for."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from liveavatar import LiveAvatarError, LiveAvatarTimeoutError, RateLimitError

from tests.clients import FLAVOURS
from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries, opened
from tests.faults.server import FaultServer


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that a client asks for, in seconds; none is made."""
    asked: list[float] = []

    async def asleep(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr("liveavatar._transports._blocking.time.sleep", asked.append)
    monkeypatch.setattr("liveavatar._transports._asyncio.asyncio.sleep", asleep)
    return asked


@pytest.mark.row("E2")
def test_waits_double_up_to_eight_seconds_with_jitter(flavour: str, server: FaultServer, waits: list[float]) -> None:
    with opened(flavour, server, max_retries=8, timeout=600) as api:
        server.on("token", fault.answers(503))
        with pytest.raises(LiveAvatarError) as caught:
            api.create_session_token(session_request())
        assert caught.value.attempts == 9
        full = [0.5, 1, 2, 4, 8, 8, 8, 8]
        assert len(waits) == len(full)
        assert all(0.5 * most <= wait <= most for wait, most in zip(waits, full, strict=True))
        assert len({wait / most for wait, most in zip(waits, full, strict=True)}) > 1, "no jitter"
        assert server.counts == (9, 0, 0)
        assert server.running == set()


@pytest.mark.row("E2")
def test_without_retries_each_request_is_sent_once(flavour: str, server: FaultServer, waits: list[float]) -> None:
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
    ("words", "value", "low", "high"),
    [
        ("a number", lambda: "1", 1.0, 1.5),
        ("a larger number", lambda: "7", 7.0, 7.5),
        ("the longest", lambda: "30", 30.0, 30.5),
        ("zero", lambda: "0", 0.0, 0.5),
        ("blanks around", lambda: "  2 ", 2.0, 2.5),
        ("an HTTP date", lambda: http_date(2), 0.9, 2.5),
        (
            "an old HTTP date format",
            lambda: (datetime.now(UTC) + timedelta(seconds=5)).strftime("%A, %d-%b-%y %H:%M:%S GMT"),
            3.9,
            5.5,
        ),
        (
            "an asctime date",
            lambda: (datetime.now(UTC) + timedelta(seconds=5)).strftime("%a %b %d %H:%M:%S %Y"),
            3.9,
            5.5,
        ),
        # Own backoff: 0.5 s at most.
        ("a date in the past", lambda: http_date(-60), 0.25, 0.5),
        ("a word", lambda: "soon", 0.25, 0.5),
        ("a negative number", lambda: "-5", 0.25, 0.5),
        ("nan", lambda: "nan", 0.25, 0.5),
        ("inf", lambda: "inf", 0.25, 0.5),
        ("nothing", lambda: "", 0.25, 0.5),
        ("an exponent", lambda: "1e1", 0.25, 0.5),
        ("hexadecimal", lambda: "0x10", 0.25, 0.5),
        ("a unit", lambda: "5 seconds", 0.25, 0.5),
        ("two values", lambda: "1, 2", 0.25, 0.5),
        ("a weekday", lambda: "Monday", 0.25, 0.5),
        ("half a date", lambda: "Wed, 21 Oct", 0.25, 0.5),
        ("an impossible date", lambda: "Wed, 99 Foo 2026 25:61:61 GMT", 0.25, 0.5),
        ("other digits", lambda: "\xb2", 0.25, 0.5),
        ("a long text", lambda: "9" * 3000, 0.25, 0.5),
    ],
)
def test_retry_after_is_honoured_with_a_little_more_and_nonsense_counts_as_absent(
    words: str, value: Any, low: float, high: float, flavour: str, server: FaultServer, waits: list[float]
) -> None:
    with opened(flavour, server, timeout=600) as api:
        server.on("token", lambda exchange: exchange.answer(429, {"code": 4290}, {"Retry-After": value()}), 1)
        api.create_session_token(session_request())
        assert len(waits) == 1
        assert low <= waits[0] <= high
        assert server.counts == (2, 0, 0)
        assert server.running == set()


@pytest.mark.row("E3")
@pytest.mark.parametrize("value", ["31", "3600", "999999999", "date", "30.5"])
def test_a_retry_after_beyond_half_a_minute_is_the_callers_to_wait_for(
    value: str, flavour: str, server: FaultServer, waits: list[float]
) -> None:
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
def test_no_wait_goes_past_the_deadline(asked: str | None, flavour: str, server: FaultServer) -> None:
    headers = {} if asked is None else {"Retry-After": asked}
    with opened(flavour, server, timeout=0.3 if asked is None else 5) as api:
        server.on("token", fault.refuses(429, "Slow down", headers=headers))
        begun = time.monotonic()
        with pytest.raises((RateLimitError, LiveAvatarTimeoutError)):
            api.create_session_token(session_request())
        assert time.monotonic() - begun < 4, "it waited past its time"
        assert server.counts == (1, 0, 0)
        assert server.running == set()


@pytest.mark.row("E1")
@pytest.mark.parametrize(("on", "counts"), [("token", (2, 1, 0)), ("start", (1, 2, 0)), ("stop", (1, 1, 2))])
def test_a_429_that_says_when_is_waited_out(on: str, counts: Any, flavour: str, server: FaultServer) -> None:
    """The one that really waits: the server sees the second request no sooner than it asked."""
    times: list[float] = []

    def note(exchange: fault.Exchange) -> None:
        times.append(time.monotonic())
        (fault.refuses(429, "Slow down", headers={"Retry-After": "1"}) if len(times) == 1 else fault.normal)(exchange)

    with opened(flavour, server) as api:
        server.on(on, note)
        session = api.new_session(session_request())
        if on == "stop":
            api.close_session(session.session_id)
        first, second = times
        assert second - first >= 1.0, "sent before its time"
        assert server.counts == counts
        assert server.running == (set() if on == "stop" else {session.session_id})


@pytest.mark.row("E2")
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_rate_limited_stop_of_a_failed_start_still_goes_out(
    flavour: str, server: FaultServer, fast_retries: FastRetries
) -> None:
    with opened(flavour, server) as api:
        server.on("start", fault.answers(500, acts=True)).on("stop", fault.refuses(429, "Slow down"), 2)
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(session_request())
        assert caught.value.session_may_be_running is False
        assert server.counts == (1, 1, 3)
        assert server.running == set()
