"""What every test may ask for."""

from __future__ import annotations

import pytest

from tests.clients import FLAVOURS


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """The test runs once with the blocking client and once with the async one."""
    return str(request.param)


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may meet a real account, whatever the machine's environment holds."""
    for name in ("LIVEAVATAR_API_KEY", "LIVEAVATAR_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
