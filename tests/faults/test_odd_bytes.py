"""H18, H19. Unusual bytes give the same outcome in both clients, over every way to send a request."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from liveavatar import LiveAvatarError, LiveAvatarTimeoutError

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries
from tests.faults.odd_bytes import DIFFERENCES, FORMS, Form
from tests.faults.pools import FEW_POOLS, driven, outcome
from tests.faults.server import Behaviour, Exchange

BOM = b"\xef\xbb\xbf"


def sends(form: Form) -> Behaviour:
    """The service's own response in this form; then the connection is closed."""

    def behave(exchange: Exchange) -> None:
        _, body = exchange.do()
        exchange.send(form(json.dumps(body).encode()))
        exchange.hang_up()

    return behave


def outcomes(pool: str) -> dict[str, str]:
    """What new_session does with each form; nothing may be left running."""
    found = {}
    with driven(pool, timeout=5.0) as (server, api):
        for name, form in FORMS.items():
            server.on("start", sends(form), 1)
            session, error = outcome(api.begin("new_session", session_request()))
            if error is None:
                assert session.access_token.startswith("CANARY-client-token"), name
                assert server.running == {session.session_id}, name
                api.call("close_session", session.session_id)
                found[name] = "accepted"
            else:
                assert isinstance(error, LiveAvatarError), (name, error)
                assert error.session_may_be_running is False, (name, str(error))
                found[name] = type(error).__name__
            assert server.running == set(), name
            assert api.open_sessions == (), name
    return found


@pytest.fixture(scope="module")
def blocking_outcomes() -> dict[str, str]:
    return outcomes("blocking own")


@pytest.mark.row("H19")
@pytest.mark.parametrize("pool", FEW_POOLS)
def test_unusual_bytes_have_one_outcome(
    pool: str, blocking_outcomes: dict[str, str], fast_retries: FastRetries
) -> None:
    """A response in an unusual form is accepted or refused by both clients alike, but for the documented forms."""
    found = outcomes(pool)
    differing = {
        name: (blocking_outcomes[name], found[name]) for name in FORMS if found[name] != blocking_outcomes[name]
    }
    if pool.startswith("blocking") or pool.endswith("http_client"):
        assert differing == {}  # one parser
    elif tuple(map(int, aiohttp.__version__.split(".")[:2])) >= (3, 14):
        assert differing == DIFFERENCES
    else:  # older parsers are laxer
        assert len(differing) <= len(FORMS) // 4


@pytest.mark.row("B9")
@pytest.mark.parametrize("pool", FEW_POOLS)
def test_interim_responses(pool: str) -> None:
    """Interim responses are skipped. A change of the protocol ends the request: nothing follows it."""
    with driven(pool, max_retries=0) as (server, api):
        server.on("token", fault.interim(100, 102, 199), 1)
        server.on("token", fault.sends(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", acts=False, then="wait"), 1)
        api.call("create_session_token", session_request())
        _, error = outcome(api.begin("create_session_token", session_request()))
        assert isinstance(error, LiveAvatarError)
        assert not isinstance(error, LiveAvatarTimeoutError)


@pytest.mark.row("H19")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7", "cp037"])
def test_secrets_in_another_encoding(encoding: str, flavour: str, fast_retries: FastRetries) -> None:
    """A body in an encoding that is not read shows no secret in the error's text, not even with NULs in between."""
    with driven(f"{flavour} own") as (server, api):
        server.on("start", fault.replaces(lambda body: (json.dumps(body) + "!").encode(encoding)), 1)
        _, error = outcome(api.begin("new_session", session_request()))
        assert isinstance(error, LiveAvatarError)
        shown = str(error) + error.response_text  # type: ignore[attr-defined]
        assert "CANARY" not in shown.replace("\0", "")
        assert server.running == set()


@pytest.mark.row("H18")
@pytest.mark.parametrize("on", fault.ENDPOINTS)
def test_byte_order_mark(on: str, flavour: str, fast_retries: FastRetries) -> None:
    """JSON with a byte order mark is read as JSON, in responses and in errors."""
    with driven(f"{flavour} own", max_retries=0) as (server, api):

        def marked(body: Any) -> bytes:
            return BOM + json.dumps(body).encode()

        server.on(on, fault.replaces(marked), 1)
        session = api.call("new_session", session_request())
        assert session.access_token == "CANARY-client-token-1"
        api.call("close_session", session.session_id)
        assert server.running == set()
        server.on(on, fault.answers(400, marked({"code": 4000, "data": None, "message": "The reason"})), 1)
        _, error = outcome(api.begin("new_session", session_request()))
        if error is None:
            _, error = outcome(api.begin("close_session", api.open_sessions[0]))
        assert isinstance(error, LiveAvatarError)
        assert "The reason" in str(error)
        assert error.code == 4000  # type: ignore[attr-defined]
        api.call("close_all_sessions")
        assert server.running == set()
