"""Tests with the mock server: conftest.py says how they are run."""

import time

import pytest
from kiosk import AVATAR, Kiosk
from liveavatar import LiveAvatarApi
from liveavatar.mock import MockServer


def test_each_visitor_gets_a_session_of_their_own(liveavatar_mock: MockServer) -> None:
    with LiveAvatarApi() as api:
        kiosk = Kiosk(api)
        for _ in range(3):
            assert kiosk.greet().startswith("the avatar in wss://")
            assert liveavatar_mock.running_sessions == [kiosk.session_id]
    assert [session.end_reason for session in liveavatar_mock.sessions] == ["UNKNOWN"] * 3


@pytest.mark.parametrize("liveavatar_mock", [{"max_concurrent": 1}], indirect=True)
def test_there_is_a_poster_while_somebody_else_has_the_last_avatar() -> None:
    with LiveAvatarApi() as somebody_else, LiveAvatarApi() as api:
        kiosk = Kiosk(api)
        with somebody_else.session(AVATAR):
            assert kiosk.greet() == "the poster"
        assert kiosk.greet().startswith("the avatar")


@pytest.mark.parametrize("liveavatar_mock", [{"credits": 1}], indirect=True)
def test_there_is_a_poster_when_the_credits_are_used_up() -> None:
    with LiveAvatarApi() as api:
        kiosk = Kiosk(api)
        assert kiosk.greet().startswith("the avatar")
        assert kiosk.greet() == "the poster"


@pytest.mark.parametrize("liveavatar_mock", [{"idle_timeout": 0.1}], indirect=True)
def test_a_visitor_who_left_long_ago_is_no_obstacle(liveavatar_mock: MockServer) -> None:
    with LiveAvatarApi() as api:
        kiosk = Kiosk(api)
        kiosk.greet()
        time.sleep(0.2)  # the service has ended the session as idle
        assert liveavatar_mock.running_sessions == []
        assert kiosk.greet().startswith("the avatar")
