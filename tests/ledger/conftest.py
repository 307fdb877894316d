"""A Redis server, and each kind of ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ledger.support import RedisServer


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may stop, fill or slow down."""
    directory = tmp_path / "redis"
    directory.mkdir()
    server = RedisServer(directory)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def sqlite_path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "sessions.db")


@pytest.fixture(params=["sqlite", "redis"])
def location(request: pytest.FixtureRequest) -> str:
    """The test runs once with each kind of ledger, an empty one."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_path"))
    server: RedisServer = request.getfixturevalue("shared_redis")
    server.do("FLUSHALL")
    return server.url
