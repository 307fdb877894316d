"""No secret shows: API key, session token, client token, agent token, room tokens, address of the event socket.

The faults of the table are searched as they run, in test_matrix. Here is what makes secrets come back: careless
servers, and the ways out of a call other than an error.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
import traceback
from typing import Any

import aiohttp
import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApiError, LiveAvatarError, _shutdown

from tests.clients import client
from tests.faults import server as fault
from tests.faults.canaries import CANARY, leaks
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, FastRetries, opened
from tests.faults.server import FaultServer, Tokens

FORMS = ("json", "fields", "fastapi", "detail", "html", "text", "escaped")


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "liveavatar")


TOKENS = {
    "plain": (KEY, Tokens()),
    "like JWTs": ("sk_CANARYapikey", Tokens(*(f"eyJhbGciOiJIUzI1NiJ9.CANARY{n}.CANARYsig-{{0}}" for n in "abc"))),
    "like base64": ("CANARY+key/x/y+z==", Tokens(*(f"CANARY+{n}/q/+%={{0}}" for n in "abc"))),
    "with quotes": ('CANARY"key\\x', Tokens(*(f"CANARY\"{n}\\q<>'{{0}}" for n in "abc"))),
}
# A credential with quotes is none that the service gives out: its plainest echoes are enough.
ECHOES = [(form, kind) for form in FORMS for kind in TOKENS if kind != "with quotes" or form in ("json", "text")]


@pytest.mark.parametrize(("form", "kind"), ECHOES)
@pytest.mark.parametrize("status", [400, 401, 502, 200])
def test_echo(
    status: int,
    form: str,
    kind: str,
    flavour: str,
    server: FaultServer,
    fast_retries: FastRetries,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server that repeats the request does not reveal a secret."""
    key, server.tokens = TOKENS[kind]
    for on in fault.ENDPOINTS:
        with opened(flavour, server, api_key=key, max_retries=0) as api:
            opened_id = api.new_session(session_request()).session_id if on == "stop" else None
            before = server.counts
            server.on(on, fault.echoes(status, form=form, acts=on == "stop" and status == 200))
            error = None
            try:
                api.close_session(opened_id) if opened_id else api.new_session(session_request())
            except LiveAvatarError as caught:
                error = caught
            if status >= 300:
                assert isinstance(error, LiveAvatarApiError)
                assert error.status == status
                assert server.ledger.of(on), "it did not get there"
            assert leaks(error, api, caplog) == []
            server.heal()
            if opened_id and api.open_sessions:
                api.close_session(opened_id)
            sent = tuple(now - then for now, then in zip(server.counts, before, strict=True))
            assert sent[:2] == {"token": (1, 0), "start": (1, 1), "stop": (0, 0)}[on]
            assert server.running == set()


@pytest.mark.parametrize("part", [n / 20 for n in range(20)])
def test_truncated_response(
    part: float, flavour: str, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """A truncated response does not reveal the secrets in it."""
    with opened(flavour, server) as api:

        def cut_but_whole(exchange: fault.Exchange) -> None:
            """Well-formed HTTP around half a body: what the error keeps is what came."""
            import json

            status, body = exchange.do()
            content = json.dumps(body).encode()
            exchange.answer(status, content[: int(part * len(content))])

        for on in ("token", "start"):
            server.on(on, cut_but_whole)
            with pytest.raises(LiveAvatarError) as caught:
                api.new_session(session_request())
            assert leaks(caught.value, api, caplog) == []
            server.heal()
        assert server.counts == (2, 1, 1)
        assert server.running == set()


MALFORMED = {
    "a status line": "ERROR the key is {}\r\n\r\n",
    "a header without a colon": "HTTP/1.1 400 Bad\r\nrejected key {}\r\nContent-Length: 0\r\n\r\n",
    "a header with a space": "HTTP/1.1 400 Bad\r\nX-API-KEY : {}\r\nContent-Length: 0\r\n\r\n",
    "a head that is cut off": "HTTP/1.1 200 OK\r\nX-Echo: {}\r\nContent-Ty",
    "a length": "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
    "a chunk size": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n",
    "a chunk that is too long": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("where", MALFORMED)
def test_malformed_response(
    where: str, flavour: str, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """What the service repeats in a response that is not valid HTTP is not quoted."""
    server.on("token", fault.sends(MALFORMED[where].format(KEY).encode()))
    with opened(flavour, server) as api, pytest.raises(LiveAvatarError) as caught:
        api.new_session(session_request())
    assert leaks(caught.value, caplog) == []


def test_repr(flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """An open session, its client and the log show no secret."""
    with opened(flavour, server) as api:
        session = api.new_session(session_request())
        for secret in (session.access_token, session.livekit_agent_token, session.ws_url, session.meet_url):
            assert CANARY in secret
        assert session.session_id in repr(session)
        token = api.create_session_token(session_request())
        assert leaks(session, session.raw_response, session.raw_response.data, api, token, token.data, caplog) == []
        assert leaks(session_request(), session_request().livekit_config) == []
        assert leaks(api.close_session(session.session_id)) == []
        # Whoever debugs can see every request: what, where, how it went, whose session.
        lines = [record.getMessage() for record in caplog.records if record.name == "liveavatar"]
        assert len(lines) == 4
        assert all("/v1/sessions/" in line and "POST" in line for line in lines)
        assert session.session_id in lines[1]
        assert server.counts == (2, 1, 1)
        assert server.running == set()


def test_collected_client(flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """The warning of a garbage-collected client shows no secret."""
    with opened(flavour, server) as api:
        config, sessions = api._config, api._flows.sessions
        session_id = api.new_session(session_request()).session_id
        leftovers = _shutdown._Leftovers(config, sessions, None)
        _shutdown._stop(lambda: [leftovers], time.monotonic() + 5, "the test ends")
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert session_id in warning.getMessage()
    assert leaks(*caplog.messages) == []
    assert server.counts == (1, 1, 1)
    assert server.running == set()


def test_refused_arguments(flavour: str, server: FaultServer) -> None:
    """The error for a refused argument shows no secret."""
    with opened(flavour, server) as api:
        secret = CANARY + "-argument"
        odd = session_request()
        odd.livekit_config = secret  # type: ignore[assignment]
        nan = session_request()
        nan["temperature"] = float("nan")
        for call in (
            lambda: client(flavour, secret + "\nkey", base_url=server.url),
            lambda: client(flavour, KEY, base_url=f"https://{secret}:{secret}@example.com"),
            lambda: client(flavour, KEY, base_url=server.url, timeout=-1),
            lambda: client(flavour, KEY, base_url=server.url, http_client=secret),
            lambda: api.start_session(secret + " token"),
            lambda: api.stop_session("some-id", secret + " token"),
            lambda: api.stop_session("some-id", secret, reason="no"),
            lambda: api.stop_session("", secret),
            lambda: api.new_session(odd),
            lambda: api.new_session(nan),
            lambda: api.new_session({"agora_token": secret}),
        ):
            with pytest.raises((ValueError, TypeError)) as caught:
                call()
            assert leaks(caught.value) == []
        assert server.counts == (0, 0, 0)
        assert server.running == set()


def test_callers_exception(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """An exception of the caller keeps its local variables."""
    server.on("token", fault.answers(500))
    with opened(flavour, server) as api:

        def handler() -> None:
            precious = "the caller's own"
            try:
                raise RuntimeError(precious)
            except RuntimeError:
                api.new_session(session_request())

        with pytest.raises(LiveAvatarError) as caught:
            handler()
        context = caught.value.__context__
        while context is not None and not isinstance(context, RuntimeError):
            context = context.__context__
        assert context is not None
        frames = [frame for frame, _ in traceback.walk_tb(context.__traceback__)]
        assert any(frame.f_locals.get("precious") == "the caller's own" for frame in frames)
        assert server.counts == (3, 0, 0)
        assert server.running == set()


@pytest.mark.parametrize("how", ["close_session", "close_all_sessions", "aclose"])
def test_async_hook_that_fails_while_a_session_is_stopped(how: str, server: FaultServer, short_cleanup: float) -> None:
    """The traceback of an exception that a caller's hook has raised in a stop holds no credential."""
    stopping = []

    async def fail(*args: object) -> None:
        if stopping:
            raise RuntimeError("the hook has failed")

    async def scenario() -> None:
        tracing = aiohttp.TraceConfig()
        tracing.on_request_start.append(fail)
        async with aiohttp.ClientSession(trace_configs=[tracing]) as session:
            api = AsyncLiveAvatarApi(KEY, session, base_url=server.url, timeout=0.6)
            session_id = (await api.new_session(session_request())).session_id
            stopping.append(session_id)
            with pytest.raises(RuntimeError) as caught:
                await getattr(api, how)(*([session_id] if how == "close_session" else []))
        exception = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert not any(CANARY in line for line in exception.format() if "test_secrets" not in line)

    asyncio.run(scenario())


def test_async_cancellation(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """A cancellation or a timeout shows no secret."""

    async def scenario() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url)
        server.on("start", fault.holds(acts=True))
        task = asyncio.ensure_future(api.new_session(session_request()))
        await asyncio.to_thread(server.arrived, "start")
        stack = io.StringIO()
        task.print_stack(file=stack)
        assert leaks(task, stack.getvalue(), *asyncio.all_tasks()) == []
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        with pytest.raises(TimeoutError) as late:
            await asyncio.wait_for(api.new_session(session_request()), 0.1)
        assert leaks(cancelled.value, late.value, api, caplog) == []
        await api.aclose()

    asyncio.run(scenario())
    assert server.counts == (2, 2, 2)
    assert server.running == set()


def test_unstopped_session(
    flavour: str, server: FaultServer, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """A session that could not be stopped is named without its token."""
    with opened(flavour, server) as api:
        server.on("start", fault.echoes(502, acts=True)).on("stop", fault.echoes(503))
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(session_request())
        assert caught.value.session_may_be_running is True
        assert leaks(caught.value, api, caplog) == []
        with pytest.raises(LiveAvatarError) as unclosed:
            api.close_session(caught.value.session_id)
        assert leaks(unclosed.value, caplog) == []
        assert server.counts == (1, 1, 6)
        assert len(server.running) == 1


def test_leaks(caplog: pytest.LogCaptureFixture) -> None:
    """The search for secrets finds them."""
    error: Any = LiveAvatarApiError("fine", 500, "fine")
    assert leaks(error) == []
    error.response_text = "has CANARY-x"
    assert any("attributes" in place for place in leaks(error))
    noted = LiveAvatarError("fine")
    noted.add_note("CANARY-x")
    assert any("notes" in place for place in leaks(noted))
    outer = LiveAvatarError("fine")
    outer.__context__ = LiveAvatarError("CANARY-x")
    assert leaks(outer)
    logging.getLogger("liveavatar").debug("token %s", "CANARY-x")
    assert "log" in leaks(caplog)
    code = compile("def f():\n    token = 'CANARY' + '-x'\n    raise ValueError('fine')\n", "ours.py", "exec")
    module: dict[str, Any] = {"__name__": "liveavatar._ours"}
    exec(code, module)
    with pytest.raises(ValueError, match="fine") as caught:
        module["f"]()
    assert any("locals" in place for place in leaks(caught.value))
