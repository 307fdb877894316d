"""Tests with a mock server in the same process: real HTTP, without a network or an account.

    pip install '.[testing]'  # in the root of the repository
    pytest --block-network

Each test that requests the fixture `liveavatar_mock` gets a new mock server. Clients created without arguments use it.
"""

from collections.abc import Iterator

import pytest
from liveavatar.mock import MockServer

pytest_plugins = ["liveavatar.testing"]


@pytest.fixture(autouse=True)
def no_session_left_running(liveavatar_mock: MockServer) -> Iterator[None]:
    """Check after each test that the code under test has closed its sessions."""
    yield
    assert liveavatar_mock.running_sessions == []
