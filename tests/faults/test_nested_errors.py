"""H10, H11. A hook or a signal handler uses a client, and raises the error of that call inside another call."""

from __future__ import annotations

import logging
import signal
from typing import Any

import httpx
import pytest
from liveavatar import LiveAvatarApi, LiveAvatarConnectionError, LiveAvatarError

from tests.faults import server as fault
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, FastRetries, opened
from tests.faults.pools import driven, outcome
from tests.faults.server import FaultServer

UNKNOWN = "00000000-0000-4000-8000-00000000abcd"


def error_of_another_call(api: Any, kind: str) -> LiveAvatarError:
    if kind == "refused":
        error: Any = LiveAvatarConnectionError("not connected")
        error.request_sent, error.attempts = False, 1
        return error  # type: ignore[no-any-return]
    method = {"stop": "stop_session", "get": "get_session"}[kind]
    _, error = outcome(api.begin(method, UNKNOWN))
    return error  # type: ignore[no-any-return]


def raise_in_hook(api: Any, event: str, path: str, error: Exception) -> None:
    """Raise an error as the caller's httpx client sends its next request to a path, or has its response."""
    pending = [error]

    def hook(passed: httpx.Request | httpx.Response) -> None:
        request = passed.request if isinstance(passed, httpx.Response) else passed
        if pending and request.url.path.endswith(path):
            if api.open_sessions and getattr(error, "session_id", None) is not None:
                error.session_id = api.open_sessions[0]  # as of a handler that closes all open sessions
            raise pending.pop()

    async def async_hook(passed: httpx.Request | httpx.Response) -> None:
        hook(passed)

    api.http.event_hooks = {event: [async_hook if isinstance(api.http, httpx.AsyncClient) else hook]}


@pytest.mark.row("H10", "H11")
@pytest.mark.parametrize("kind", ["stop", "get", "refused"])
def test_start_is_not_refused_by_the_error_of_another_call(kind: str, flavour: str, fast_retries: FastRetries) -> None:
    """Only its own response tells that a start was refused: a started session is stopped."""
    with driven(f"{flavour} http_client") as (server, api):
        error = error_of_another_call(api, kind)
        raise_in_hook(api, "response", "/start", error)
        _, caught = outcome(api.begin("new_session", session_request()))
        assert caught is error
        assert server.running == set()
        assert server.counts[1:] == (1, 2 if kind == "stop" else 1)
        assert error.session_may_be_running is False


@pytest.mark.row("H10", "H11")
@pytest.mark.parametrize("kind", ["stop", "get", "refused"])
def test_close_does_not_believe_the_error_of_another_call(kind: str, flavour: str, fast_retries: FastRetries) -> None:
    """Only its own response tells that a session has ended: the stop is sent again, as after any interruption."""
    with driven(f"{flavour} http_client") as (server, api):
        opened_id = api.call("new_session", session_request()).session_id
        error = error_of_another_call(api, kind)
        error.endpoint = None if kind == "refused" else "/v1/sessions/{session_id}"
        raise_in_hook(api, "request", "/stop", error)
        _, caught = outcome(api.begin("close_session", opened_id))
        assert caught is error
        assert api.open_sessions == ()
        assert server.running == set()


@pytest.mark.row("H10", "H11")
def test_keep_alive_does_not_believe_the_error_of_another_call(flavour: str, fast_retries: FastRetries) -> None:
    """The error of another call does not tell that a session that is kept alive has ended."""
    with driven(f"{flavour} http_client") as (_server, api):
        opened_id = api.call("new_session", session_request()).session_id
        error = error_of_another_call(api, "stop")
        raise_in_hook(api, "request", "/keep-alive", error)
        _, caught = outcome(api.begin("keep_session_alive", opened_id))
        assert caught is error
        assert api.open_sessions == (opened_id,)


class FrozenError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        if name != "__traceback__":
            raise AttributeError(name)


@pytest.mark.row("H10")
def test_exception_that_takes_no_attributes(
    flavour: str, fast_retries: FastRetries, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception whose attributes cannot be set is raised as it is, and a WARNING names the session."""
    with driven(f"{flavour} http_client") as (server, api):
        error: Any = FrozenError()
        raise_in_hook(api, "response", "/start", error)
        server.on("stop", fault.refuses(400, "no"), 1)
        _, caught = outcome(api.begin("new_session", session_request()))
        assert caught is error
        (session_id,) = server.running
        raise_in_hook(api, "request", "/stop", error)
        server.on("stop", fault.refuses(400, "no"), 1)
        _, caught = outcome(api.begin("close_session", session_id))
        assert caught is error
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert [session_id in warning for warning in warnings] == [True, True]
        api.call("close_session", session_id)
        assert server.running == set()


@pytest.mark.row("H10", "H11")
def test_blocking_start_and_a_handler_whose_call_fails(server: FaultServer) -> None:
    """A signal handler looks for an unknown session while a start is under way: the session is stopped."""
    server.on("start", fault.delays(0.5))
    with LiveAvatarApi(KEY, base_url=server.url, timeout=10.0) as api:
        previous = signal.signal(signal.SIGALRM, lambda *_: api.get_session(UNKNOWN))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(LiveAvatarError) as caught:
                api.new_session(session_request())
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert caught.value.endpoint == "/v1/sessions/{session_id}"
        server.settle()
        assert server.running == set()


@pytest.mark.row("H10")
def test_log_filter_that_raises(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A log filter that raises does not replace the error that names the session."""

    def fail(record: logging.LogRecord) -> bool:
        if record.levelno == logging.WARNING:
            raise ArithmeticError("a filter of the caller fails")
        return True

    logger = logging.getLogger("liveavatar")
    logger.addFilter(fail)
    try:
        with opened(flavour, server) as api:
            server.on("start", fault.answers(500, acts=True), 1)
            server.on("stop", fault.refuses(400, "No"), 2)
            with pytest.raises(LiveAvatarError) as caught:
                api.new_session(session_request())
            (session_id,) = api.open_sessions
            assert (caught.value.session_id, caught.value.session_may_be_running) == (session_id, True)
            assert session_id in caught.value.__notes__[-1]
            with pytest.raises(LiveAvatarError) as caught:
                api.close_session(session_id)
            assert (caught.value.session_id, caught.value.session_may_be_running) == (session_id, True)
            api.close_session(session_id)
    finally:
        logger.removeFilter(fail)
    assert server.running == set()
