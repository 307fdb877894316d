"""Tests with cassettes: recorded once, and replayed without a network or an account.

    pip install '.[testing]'  # in the root of the repository
    pytest --block-network

The cassettes here were recorded from the mock server. To record them again, delete `cassettes/` and run
`pytest --record-mode=once` with LIVEAVATAR_API_KEY set. Without an account, run `python -m liveavatar.mock` and export
the variables that it prints. A cassette contains no key and no token, so you can commit it.
"""

import os

import pytest

pytest_plugins = ["liveavatar.testing"]


@pytest.fixture(autouse=True)
def api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set any API key, because the client requires one; a cassette matches every key."""
    if not os.environ.get("LIVEAVATAR_API_KEY"):
        monkeypatch.setenv("LIVEAVATAR_API_KEY", "not-a-key")
