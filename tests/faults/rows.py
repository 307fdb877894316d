"""What the tests of faults are about, one entry per promise; the tests refer to these by `@pytest.mark.row`."""

from __future__ import annotations

ROWS: dict[str, str] = {
    # A. Before anything is sent
    "A1": "no API key: missing, empty or blank, and not in the environment",
    "A2": "an API key with a trailing newline",
    "A3": "a credential with an inner line break, NUL, blank or non-ASCII",
    "A4": "base_url without a scheme, of another scheme, with a bad port, credentials, query or fragment",
    "A5": "http:// to anything but loopback",
    "A6": "an empty avatar_id, an unknown encoding or quality, a request of the wrong type",
    "A7": "an empty session_id, or None",
    "A8": "use after close()",
    "A9": "an async client used from a second event loop",
    "A10": "connection refused, or no such host, on token",
    "A11": "connection refused on start only",
    "A12": "connection refused once, then up",
    "A13": "an untrusted certificate",
    # B. The wire breaks
    "B1": "reset before headers on token",
    "B2": "reset before headers on token, once",
    "B3": "reset or clean close before headers on start",
    "B4": "reset or clean close before headers on stop, once",
    "B5": "201, then close in mid-body, on start",
    "B6": "no headers within the time-out",
    "B7": "one byte at a time for ever, on start",
    "B8": "garbage instead of a status line, on start",
    "B9": "100 or 103 before the 201",
    "B10": "an endless body, or an encoding that was not asked for, on start",
    # C. Status codes
    "C1": "400 on token, on start",
    "C2": "401 on token, on start",
    "C3": "401 on close with the session token, then 200",
    "C4": "402, or a 4xx whose words say credits",
    "C5": "403; and 403, 409, 429 whose words say concurrency",
    "C6": "404 on close_session",
    "C7": "404 on stop_session",
    "C8": "409 on start",
    "C9": "422 in every shape",
    "C10": "500 on token, start, stop",
    "C11": "502 with HTML, 520, 599",
    "C12": "504 on start while the session really started",
    "C13": "200 or 202 with a good body on start",
    "C14": "204 on start",
    "C15": "204 on stop",
    "C16": "a redirect to another host",
    # D. Bodies under success
    "D1": "truncated JSON, HTML, or nothing, on token and start",
    "D2": "truncated JSON, HTML, or nothing, on stop",
    "D3": "a body that is a list, string, number or null",
    "D4": "data null or absent on start",
    "D5": "data a string or list, or without a required field",
    "D6": "an optional field absent or null",
    "D7": "a required field of the wrong type",
    "D8": "extra fields at any level",
    "D9": "envelope code 100 or 1000",
    "D10": "an error code under a success status",
    # E. Rate limits
    "E1": "429 with Retry-After, once",
    "E2": "429 for ever",
    "E3": "Retry-After in every form, and nonsense",
    # F. Cancellation and interrupts
    "F1": "a task cancelled while the token is awaited",
    "F2": "a task cancelled at any await of start",
    "F3": "a second cancel while the stop is in flight",
    "F4": "asyncio.wait_for and timeout() over a slow start",
    "F5": "the stop itself hangs",
    "F6": "100 cancelled starts on one client, then a normal one",
    "F7": "Ctrl-C during start",
    "F8": "an exception in the body of session(), and the stop fails too",
    # G. Many sessions, long lives
    "G1": "two sessions closed in either order",
    "G2": "50 tasks, 16 threads at once",
    "G3": "a second close of the same session",
    "G4": "close of an id never opened here",
    "G5": "close fails, and is called again",
    "G6": "close() or aclose() with open sessions",
    "G7": "10,000 cycles, 1,000 of them failing",
}

ASYNC_ONLY = frozenset({"A9", "F1", "F2", "F3", "F4", "F6"})
"""Promises about tasks and loops, which a blocking client has none of."""
