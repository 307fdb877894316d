"""Tests that talked to LiveAvatar once, and have replayed what it said ever since: no network, no account.

    pip install 'liveavatar[testing]'
    pytest --block-network

To record anew, delete `cassettes/` and run `pytest --record-mode=once` with LIVEAVATAR_API_KEY set; or without an
account, with LIVEAVATAR_BASE_URL and LIVEAVATAR_API_KEY as `python -m liveavatar.mock` prints them. No key and no
token gets into a cassette, so they can be committed.
"""

import os

import pytest

pytest_plugins = ["liveavatar.testing"]


@pytest.fixture(autouse=True)
def some_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaying needs a key to be set, but not which."""
    if not os.environ.get("LIVEAVATAR_API_KEY"):
        monkeypatch.setenv("LIVEAVATAR_API_KEY", "not-a-key")
