"""Faults and calls in any order, and bodies of any shape: what holds for all of them."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from liveavatar import LiveAvatarError, SessionTokenNotFoundError, StandardSessionResponse

from tests.clients import FLAVOURS
from tests.faults import server as fault
from tests.faults.canaries import leaks
from tests.faults.cases import session_request
from tests.faults.conftest import FastRetries, opened
from tests.faults.server import Behaviour, FaultServer

bounded = settings(
    deadline=None,
    derandomize=True,  # the same examples in every run: a failure is news of the code, not of the day
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

both = pytest.mark.parametrize("flavour", FLAVOURS)

HTML = "<html><body>Sorry</body></html>"

# A server that says "done" or "no such session" without having done it cannot be seen through, and neither can one
# that refuses a start which it carries out: those are left out.
ANYWHERE: dict[str, Behaviour] = {
    "reset": fault.resets(),
    "reset, though done": fault.resets(acts=True),
    "hang up": fault.hangs_up(),
    "hang up, though done": fault.hangs_up(acts=True),
    "half a head": fault.cut_head(),
    "garbage": fault.sends(b"\x00\x01garbage\r\n\r\n"),
    "500": fault.answers(500, "It broke"),
    "500, though done": fault.answers(500, "It broke", acts=True),
    "502": fault.answers(502, HTML),
    "504, though done": fault.answers(504, HTML, acts=True),
    "408, though done": fault.answers(408, b"", acts=True),
    "429": fault.refuses(429, "Slow down"),
    "429 for long": fault.refuses(429, "Slow down", headers={"Retry-After": "100"}),
    "409": fault.refuses(409, "Busy"),
    "401": fault.refuses(401, "Expired"),
    "400": fault.refuses(400, "Bad"),
    "redirect": fault.answers(307, b"", {"Location": "http://127.0.0.1:1/"}),
    "usual": fault.normal,
}
DONE: dict[str, Behaviour] = {
    "half a body": fault.cut(),
    "half a chunk": fault.cut(chunked=True),
    "HTML": fault.replaces(lambda body: HTML),
    "nothing": fault.replaces(lambda body: b""),
    "no data": fault.edits(lambda body: body.update(data=None)),
    "204": fault.answers(204, acts=True),
    "gzip": fault.encoded(),
    "103 first": fault.interim(103),
}
FAULTS = ANYWHERE | DONE
CALLS = ("new", "close", "close", "close all", "block", "release")

step = st.tuples(
    st.sampled_from(CALLS),
    st.lists(
        st.tuples(st.sampled_from(fault.ENDPOINTS), st.sampled_from(sorted(FAULTS)), st.integers(1, 4)), max_size=3
    ),
    st.integers(0, 9),
)


@pytest.mark.row("B3", "B4", "G1", "G5")
@both
@given(steps=st.lists(step, min_size=1, max_size=8))
@settings(bounded, max_examples=100)
def test_random_life(steps: list[Any], flavour: str, fast_retries: FastRetries) -> None:
    """No session runs that the client does not know of."""
    with FaultServer() as server, opened(flavour, server) as api:
        begun = 0
        released: set[str] = set()
        for call, faults, which in steps:
            for endpoint, name, times in faults:
                server.on(endpoint, FAULTS[name], times)
            known = api.open_sessions
            chosen = known[which % len(known)] if known else "11111111-0000-4000-8000-000000000000"
            starts, stops = len(server.ledger.of("start")), len(server.ledger.of("stop"))
            error: LiveAvatarError | None = None
            value: Any = None
            try:
                if call == "new":
                    begun += 1
                    value = api.new_session(session_request())
                elif call == "close":
                    api.close_session(chosen)
                elif call == "close all":
                    api.close_all_sessions()
                elif call == "release":
                    api.release_session(chosen)
                    released.add(chosen)
                else:
                    begun += 1
                    with api.session(session_request()):
                        pass
            except LiveAvatarError as caught:
                error = caught
            server.heal()
            server.settle()
            ledger = server.ledger
            # 1. Nothing runs that the client does not know of.
            assert ledger.running <= set(api.open_sessions) | released
            if error is not None:
                assert leaks(error) == []
                if call == "new":
                    running = error.session_id in ledger.running
                    assert error.session_may_be_running or not running
                    assert error.session_may_be_running == (error.session_id in api.open_sessions)
            if isinstance(value, StandardSessionResponse):
                assert value.session_id in ledger.running
                assert value.session_id in api.open_sessions
            if call == "close" and error is None:
                assert chosen not in ledger.running
                assert chosen not in api.open_sessions
            # 2. Never two sessions for one call; a start is sent again only when it was refused.
            assert len(ledger.starts) <= begun
            assert len(set(ledger.starts)) == len(ledger.starts)
            if all(not name.startswith("429") for _, name, _ in faults):
                assert len(ledger.of("start")) - starts <= (call in ("new", "block"))
            if isinstance(error, SessionTokenNotFoundError):
                assert len(ledger.of("stop")) == stops
            # 9. Each stop has its own id and token.
            for request in ledger.of("stop"):
                if request.bearer is not None:
                    assert ledger.token_of[request.bearer] == request.json["session_id"]
                else:
                    assert request.json["session_id"] in ledger.state
        api.close_all_sessions()
        assert api.open_sessions == ()
        assert server.running <= released


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["code", "data", "message", "detail", "error", "loc", "msg", "session_id", "session_token", "livekit_url",
     "livekit_client_token", "livekit_agent_token", "ws_url", "max_session_duration"]
)  # fmt: skip
envelopes = st.dictionaries(names, json_values | st.dictionaries(names, json_values, max_size=5), max_size=5)
statuses = st.sampled_from([200, 200, 200, 201, 202, 204, 299, 301, 400, 401, 402, 403, 404, 409, 422, 500, 503])


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, Callable[[Any], bytes]]:
    """Changes to a valid body: a field gone, replaced or renamed, or bytes cut, changed or inserted."""
    kind = draw(st.sampled_from(["drop", "replace", "rename", "cut", "flip", "insert"]))
    at, value, name = draw(st.integers(0, 10_000)), draw(json_values), draw(names)
    noise = draw(st.binary(max_size=4))

    def mutate(body: Any) -> bytes:
        body = copy.deepcopy(body)
        places = [(body, key) for key in body]
        if isinstance(body.get("data"), dict):
            places += [(body["data"], key) for key in body["data"]]
        holder, key = places[at % len(places)]
        if kind == "drop":
            del holder[key]
        elif kind == "replace":
            holder[key] = value
        elif kind == "rename":
            holder[name] = holder.pop(key)
        content = json.dumps(body).encode()
        at_byte = at % len(content)
        if kind == "cut":
            content = content[:at_byte]
        elif kind == "flip":
            content = content[:at_byte] + (noise or b"\xff") + content[at_byte + 1 :]
        elif kind == "insert":
            content = content[:at_byte] + noise + content[at_byte:]
        return content

    return kind, mutate


def check_any_body(on: str, behaviour: Behaviour, flavour: str, *, search: bool = True) -> None:
    error: LiveAvatarError | None = None
    value: Any = None
    with FaultServer() as server, opened(flavour, server, max_retries=0) as api:
        session_id = api.new_session(session_request()).session_id if on == "stop" else ""
        server.settle()
        server.ledger.forget_requests()
        server.on(on, behaviour, 1)
        try:
            value = api.close_session(session_id) if on == "stop" else api.new_session(session_request())
        except LiveAvatarError as caught:
            error = caught
        assert not search or leaks(error, value) == []
        if error is not None:
            assert str(error)
            if on == "start":  # it was stopped again
                assert error.session_may_be_running is False
                assert api.open_sessions == ()
                assert server.counts[2] == 1
                assert server.running == set()
        elif on == "stop":
            assert value is not None
            assert api.open_sessions == ()
        else:
            assert isinstance(value, StandardSessionResponse)
            assert isinstance(value.session_id, str)
            assert isinstance(value.access_token, str)
            assert isinstance(value.livekit_url, str)
            assert isinstance(value.ws_url, str | None)
            assert isinstance(value.livekit_agent_token, str | None)
            assert isinstance(value.max_session_duration, int | None)
            assert api.open_sessions == (value.session_id,)
        token, start, stop = server.counts
        assert max(token, start) <= 1
        assert stop <= 2  # after a 401, once more with the API key
        with contextlib.suppress(LiveAvatarError):
            api.close_all_sessions()


@pytest.mark.row("D3", "D5", "D7")
@both
@pytest.mark.parametrize("on", fault.ENDPOINTS)
@given(body=json_values | envelopes, status=statuses)
@settings(bounded, max_examples=40)
def test_any_json(body: Any, status: int, on: str, flavour: str, fast_retries: FastRetries) -> None:
    """Any JSON body is a value or a typed error."""
    # A start that is refused in so many words did not happen.
    acts = on != "start" or status < 400
    if on == "start" and 400 <= status < 500 and status != 409:
        status = 500
    check_any_body(
        on, fault.answers(status, body if not isinstance(body, str) else json.dumps(body), acts=acts), flavour
    )


@pytest.mark.row("D1", "D5", "D7")
@both
@pytest.mark.parametrize("on", fault.ENDPOINTS)
@given(mutation=mutations())
@settings(bounded, max_examples=50)
def test_any_change(
    mutation: tuple[str, Callable[[Any], bytes]], on: str, flavour: str, fast_retries: FastRetries
) -> None:
    """Any change to a valid body leads to a value or a typed error."""
    kind, mutate = mutation
    # A secret under a name that says nothing of it cannot be told from words.
    check_any_body(on, fault.replaces(mutate), flavour, search=kind in ("drop", "replace", "cut"))
