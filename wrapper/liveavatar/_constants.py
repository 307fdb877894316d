"""The timeouts, delays, limits, defaults and variable names that several modules use or a user may notice."""

BASE_URL = "https://api.liveavatar.com/v1"
"""Base URL of the live service."""

API_KEY_VARIABLE = "LIVEAVATAR_API_KEY"
BASE_URL_VARIABLE = "LIVEAVATAR_BASE_URL"

DEFAULT_TIMEOUT = 60.0
"""Seconds that one method call may take, retries and delays included."""

DEFAULT_MAX_RETRIES = 2
"""How many times a request that is safe to repeat is sent again."""

CONNECT_TIMEOUT = 10.0
"""Seconds that one attempt to connect may take."""

CLEANUP_TIMEOUT = 5.0
"""Seconds that the stop of a session may take after its call has failed or was interrupted, or at the end."""

CLEANUP_POOL_TIMEOUT = 0.5
"""Seconds that a stop after a failure waits for a connection of the caller's pool."""

CLEANUP_RETRY_DELAYS = (0.25, 0.5, 1.0, 1.0, 1.0)
"""Seconds to wait before the stop is sent again when the service does not know the session yet."""

LEDGER_TIMEOUT = 6.0
"""Seconds that a client waits until a session is written down in the ledger, or removed from it.

They are more than the TIMEOUT of `ledger/_sqlite.py`, whose error says more.
"""

RECOVERY_INTERVAL = 10.0
"""Seconds between two recoveries of the sessions that dead processes have left in the ledger."""

RECOVERED_START_AGE = 60.0
"""Seconds after which a start that a dead process has sent has certainly arrived."""

INTERRUPT_INTERVAL = 0.5
"""Seconds after which a blocking wait lets Python handle a signal that came just before it, or to another thread."""

KEEPALIVE_EXPIRY = 15.0
"""Seconds that an idle connection is kept. Gateways keep it longer, so they rarely close it first."""

MIN_RETRY_DELAY = 0.5
"""Seconds before the first retry. The delay doubles with each retry, and is up to a quarter shorter at random."""

MAX_RETRY_DELAY = 8.0
"""Seconds before any retry, at most."""

MAX_RETRY_AFTER = 30.0
"""Seconds. A longer Retry-After is not waited for: the error is raised at once, or a slot is tried for earlier."""

MIN_SLOT_DELAY = 1.0
"""Seconds between the first two attempts of `new_session(wait_for_slot=...)`. The delay doubles with each attempt."""

MAX_SLOT_DELAY = 5.0
"""Seconds between two such attempts, at most, unless a Retry-After asks for more."""

KEEP_ALIVE_INTERVAL = 120.0
"""Seconds between two keep-alive requests of a session opened with `keep_alive=True`."""

MAX_RESPONSE_BYTES = 1024 * 1024
"""Bytes of a response body that are read at most. The service's bodies are a few kilobytes."""

MAX_ERROR_TEXT = 64 * 1024
"""Characters of a response body that an error keeps."""

MAX_CONCURRENT_STOPS = 100
"""How many sessions an async client stops at the same time, each over a connection of its own."""

MAX_ENDED_IDS = 1024
"""How many ids of ended sessions a client remembers, to tell "closed already" from "never opened"."""

SUCCESS_CODES = (100, 1000)
"""Envelope codes of success: the published reference gives 100, the live service sends 1000."""

MEET_PAGE = "https://meet.livekit.io/custom"
"""LiveKit's public meeting page."""
