"""Tests against a LiveAvatar service of their own, in this very process: real HTTP, no network, no account.

    pip install 'liveavatar[testing]'
    pytest --block-network

Each test that takes the fixture `liveavatar_mock` gets a new service, and clients made without arguments use it.
"""

from collections.abc import Iterator

import pytest
from liveavatar.mock import MockServer

pytest_plugins = ["liveavatar.testing"]


@pytest.fixture(autouse=True)
def _nothing_is_left_running(liveavatar_mock: MockServer) -> Iterator[None]:
    """Whatever a test does, the code under test closes what it opened."""
    yield
    assert liveavatar_mock.running_sessions == []
