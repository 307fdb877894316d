"""Tests with the mock server. See conftest.py for how to run them."""

import time

import pytest
from kiosk import AVATAR, Kiosk
from liveavatar import LiveAvatarApi
from liveavatar.mock import MockServer


def test_new_session_per_visitor(liveavatar_mock: MockServer) -> None:
    with LiveAvatarApi() as api:
        kiosk = Kiosk(api)
        for _ in range(3):
            assert kiosk.greet().startswith("the avatar in wss://")
            assert liveavatar_mock.running_sessions == [kiosk.session_id]
    assert len(liveavatar_mock.sessions) == 3


@pytest.mark.parametrize("liveavatar_mock", [{"max_concurrent": 1}], indirect=True)
def test_poster_at_the_concurrency_limit() -> None:
    with LiveAvatarApi() as other, LiveAvatarApi() as api:
        kiosk = Kiosk(api)
        with other.session(AVATAR):
            assert kiosk.greet() == "the poster"
        assert kiosk.greet().startswith("the avatar")


@pytest.mark.parametrize("liveavatar_mock", [{"credits": 1}], indirect=True)
def test_poster_without_credits() -> None:
    with LiveAvatarApi() as api:
        kiosk = Kiosk(api)
        assert kiosk.greet().startswith("the avatar")
        assert kiosk.greet() == "the poster"


@pytest.mark.parametrize("liveavatar_mock", [{"idle_timeout": 0.1}], indirect=True)
def test_next_visitor_after_an_idle_session(liveavatar_mock: MockServer) -> None:
    with LiveAvatarApi() as api:
        kiosk = Kiosk(api)
        kiosk.greet()
        time.sleep(0.2)  # the mock server ends the idle session
        assert liveavatar_mock.running_sessions == []
        assert kiosk.greet().startswith("the avatar")
