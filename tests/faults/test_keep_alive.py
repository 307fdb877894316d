"""L. Sessions are kept alive in the background, whatever goes wrong, and nobody's code notices."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import uuid
from collections import Counter
from typing import Any

import httpx
import pytest
from liveavatar import AsyncLiveAvatarApi, ConflictError, LiveAvatarApi, NotFoundError, RateLimitError
from liveavatar._keep_alive import Schedule, _Entry
from liveavatar._sessions import Session
from liveavatar._transports import _asyncio

from tests.clients import interrupt_start, wait_until, workers
from tests.faults import server as fault
from tests.faults.canaries import leaks
from tests.faults.cases import HTML, session_request
from tests.faults.conftest import KEY, opened
from tests.faults.server import Behaviour, Exchange, FaultServer
from tests.faults.test_interrupts import program

INTERVAL = 0.05

FAULTS: dict[str, Behaviour] = {
    "reset": fault.resets(),
    "reset after it was done": fault.resets(acts=True),
    "closed": fault.hangs_up(),
    "half a head": fault.cut_head(b"HTTP/1.1 20"),
    "no HTTP": fault.sends(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "no response": fault.holds(),
    "dripping": fault.drips("headers"),
    "400": fault.refuses(400, "Bad"),
    "403": fault.refuses(403, "No"),
    "408": fault.answers(408),
    "409": fault.refuses(409, "Session is busy"),
    "429": fault.refuses(429, "Slow down", headers={"Retry-After": "1"}),
    "500": fault.refuses(500, "It broke"),
    "502": fault.answers(502, HTML),
    "redirect": fault.redirects(307, "http://127.0.0.1:9/v1"),
    "error code": fault.answers(200, {"code": 5001, "data": None, "message": "It broke"}),
    "an echo": fault.echoes(500),
}


def kept_alive(server: FaultServer) -> Counter[str]:
    """Return the number of keep-alive requests for each session."""
    with server.lock:
        return Counter(request.json["session_id"] for request in server.ledger.of("keep-alive"))


def levels(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    return Counter(record.levelname for record in caplog.records if record.name == "liveavatar")


@pytest.mark.row("L1")
@pytest.mark.parametrize("name", FAULTS)
def test_fails_once(name: str, api: Any, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """A keep-alive that fails is sent again, and nothing is said about it."""
    caplog.set_level(logging.INFO, "liveavatar")
    server.on("keep-alive", FAULTS[name], 1)
    session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
    wait_until(api, lambda: kept_alive(server)[session_id] >= 3)
    assert api.open_sessions == (session_id,)
    assert levels(caplog) == {}
    api.close_session(session_id)
    assert server.counts == (1, 1, 1)
    assert server.running == set()


@pytest.mark.row("L1")
@pytest.mark.parametrize("name", ["reset", "409", "500", "an echo"])
def test_fails_for_ever(name: str, api: Any, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """If keep-alive requests keep failing, one WARNING names the session, and the session stays open."""
    caplog.set_level(logging.INFO, "liveavatar")
    server.on("keep-alive", FAULTS[name])
    session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
    wait_until(api, lambda: kept_alive(server)[session_id] >= 8)
    assert api.open_sessions == (session_id,)
    assert levels(caplog) == {"WARNING": 1}
    assert session_id in caplog.text
    assert leaks(caplog, api) == []
    assert server.counts == (1, 1, 0)


@pytest.mark.row("L1")
def test_warning_raises(api: Any, server: FaultServer) -> None:
    """If a logging filter of the program raises at the warning, the requests go on."""
    warned: list[logging.LogRecord] = []

    def fail(record: logging.LogRecord) -> bool:
        warned.append(record)
        raise ValueError("filter")

    server.on("keep-alive", FAULTS["500"])
    logger = logging.getLogger("liveavatar")
    logger.addFilter(fail)
    try:
        session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
        wait_until(api, lambda: warned and kept_alive(server)[session_id] >= 6)
    finally:
        logger.removeFilter(fail)


@pytest.mark.row("L1")
def test_service_is_away(api: Any, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """While the service is away, keep-alive requests are refused; when it is back, they go on."""
    server.on("keep-alive", fault.vanishes, 1)
    session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
    wait_until(api, lambda: levels(caplog)["WARNING"] == 1)
    before = kept_alive(server)[session_id]
    server.listen()
    wait_until(api, lambda: kept_alive(server)[session_id] >= before + 2)
    assert levels(caplog)["WARNING"] == 1
    assert api.open_sessions == (session_id,)


@pytest.mark.row("L1")
def test_retry_after() -> None:
    """A Retry-After is obeyed, but not beyond the interval in which the session must be heard of."""
    schedule = Schedule(_Flows())  # type: ignore[arg-type]
    error = RateLimitError("429 Slow down", 429, "")
    for retry_after, expected in ((None, 10), (15, 15), (3600, 60)):
        error.retry_after = retry_after
        entry = _Entry(Session("id", None), 60)
        schedule._heap.clear()
        schedule._on_failure(entry, error)
        at = schedule._heap[0][0] - time.monotonic()
        assert expected - 5 < at <= expected


class _Flows:
    sessions: Any = None


@pytest.mark.row("L2")
def test_token_has_expired(api: Any, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """A keep-alive carries the session's token, and the API key once the token is no longer valid; never both."""

    def no_token(exchange: Exchange) -> None:
        (fault.refuses(401, "Expired") if exchange.request.bearer else fault.normal)(exchange)

    server.on("keep-alive", fault.normal, 1)
    server.on("keep-alive", no_token)
    session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
    wait_until(api, lambda: kept_alive(server)[session_id] >= 5)
    requests = server.ledger.of("keep-alive")
    assert [bool(request.bearer) for request in requests[:5]] == [True, True, False, True, False]
    assert all((request.bearer is None) != (request.api_key is None) for request in requests)
    assert all(request.json == {"session_id": session_id} for request in requests)
    assert levels(caplog) == {}


@pytest.mark.row("L2")
def test_no_credential_is_valid(api: Any, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """If neither credential is valid any more, that is a failure like any other."""
    server.on("keep-alive", fault.refuses(401, "No"))
    session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
    wait_until(api, lambda: kept_alive(server)[session_id] >= 10)
    assert levels(caplog) == {"WARNING": 1}
    assert api.open_sessions == (session_id,)


@pytest.mark.row("L3")
@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "Session not found"), (409, "Session has already ended"), (409, "Session is not active")],
)
def test_ended(status: int, message: str, api: Any, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """When the service says that a session has ended, it is told of once, and asked about no more."""
    caplog.set_level(logging.INFO, "liveavatar")
    server.on("keep-alive", fault.refuses(status, message))
    session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
    wait_until(api, lambda: api.open_sessions == () and not workers(api))
    assert levels(caplog) == {"INFO": 1}
    assert kept_alive(server) == {session_id: 1}
    api.close_session(session_id)
    assert server.counts == (1, 1, 0)
    server.ledger.state[session_id] = "stopped"


@pytest.mark.row("L3")
@pytest.mark.parametrize("body", [HTML, b"", {"detail": "Not Found"}, {"code": 4040, "message": "Not found"}])
def test_no_such_endpoint(body: Any, api: Any, server: FaultServer) -> None:
    """A 404 that does not come from the service, or is about the path, does not mean that the session has ended."""
    server.on("keep-alive", fault.answers(404, body))
    session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
    wait_until(api, lambda: kept_alive(server)[session_id] >= 3)
    with pytest.raises(NotFoundError) as caught:
        api.keep_session_alive(session_id)
    assert caught.value.session_may_be_running is True
    assert api.open_sessions == (session_id,)
    api.close_session(session_id)
    assert server.counts == (1, 1, 1)
    assert server.running == set()


@pytest.mark.row("L3")
def test_ended_by_hand(api: Any, server: FaultServer) -> None:
    """A keep-alive of one's own raises what the service says; the client then knows that the session has ended."""
    session_id = api.new_session(session_request()).session_id
    server.on("keep-alive", fault.refuses(409, "Session has already ended"))
    with pytest.raises(ConflictError) as caught:
        api.keep_session_alive(session_id)
    assert (caught.value.session_id, caught.value.session_may_be_running) == (session_id, False)
    assert api.open_sessions == ()
    api.close_session(session_id)
    assert server.counts == (1, 1, 0)


@pytest.mark.row("L4")
@pytest.mark.parametrize("first", [True, False])
def test_hangs_for_one_session(first: bool, api: Any, server: FaultServer) -> None:
    """A session whose keep-alive requests hang does not keep the others from being kept alive."""
    hanging: list[str] = []

    def hang_for_one(exchange: Exchange) -> None:
        (fault.holds() if exchange.request.json["session_id"] in hanging else fault.normal)(exchange)

    server.on("keep-alive", hang_for_one)
    ids = [api.new_session(session_request(), keep_alive=INTERVAL).session_id for _ in range(3)]
    hanging.append(ids[0 if first else -1])
    others = set(ids) - set(hanging)
    wait_until(api, lambda: kept_alive(server)[hanging[0]] >= 1)
    before = kept_alive(server)
    wait_until(api, lambda: all(kept_alive(server)[each] >= before[each] + 2 for each in others))
    assert set(api.open_sessions) == set(ids)


@pytest.mark.row("L5")
@pytest.mark.parametrize("behaviour", [fault.normal, fault.holds(), fault.resets()], ids=["good", "hanging", "lost"])
def test_client_is_closed(
    behaviour: Behaviour, flavour: str, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing the client ends its keep-alive requests, whatever they are doing, without a word."""
    server.on("keep-alive", behaviour)
    with opened(flavour, server) as api:
        for _ in range(3):
            api.new_session(session_request(), keep_alive=INTERVAL)
        wait_until(api, lambda: kept_alive(server).total() >= 1)
        api.close()
        at_close = kept_alive(server)
        wait_until(api, lambda: not workers(api))
        assert server.running == set()
        assert server.counts == (3, 3, 3)
        assert kept_alive(server).total() <= at_close.total() + 1
    assert levels(caplog) == {}


@pytest.mark.row("L5")
@pytest.mark.usefixtures("unclosed_connections")
def test_blocking_client_is_collected(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """A client that is not closed can be collected although it keeps sessions alive; they are stopped then."""
    api = LiveAvatarApi(KEY, base_url=server.url)
    session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
    wait_until(api, lambda: kept_alive(server)[session_id] >= 1)
    del api
    gc.collect()
    wait_until(None, lambda: not server.running and not workers(None))
    wait_until(None, lambda: levels(caplog) == {"WARNING": 1})


@pytest.mark.row("L5")
@pytest.mark.usefixtures("unclosed_connections")
def test_async_client_is_collected(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """The same for the async client, in its running loop."""

    async def main() -> None:
        api = AsyncLiveAvatarApi(KEY, base_url=server.url)
        session_id = (await api.new_session(session_request(), keep_alive=INTERVAL)).session_id
        while not kept_alive(server)[session_id]:
            await asyncio.sleep(0.01)
        del api
        gc.collect()
        async with asyncio.timeout(30):
            while server.ledger.running or len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.01)

    asyncio.run(main())
    wait_until(None, lambda: levels(caplog) == {"WARNING": 1})
    assert server.running == set()


@pytest.mark.row("L5")
@pytest.mark.parametrize(("interval", "requests"), [(0.5, 0), (INTERVAL, 1), (INTERVAL, 3)])
def test_all_tasks_are_cancelled(
    interval: float,
    requests: int,
    server: FaultServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cancelling all tasks of the loop does not end the keep-alive requests of any session.

    It does not matter whether none is due, some are sent, or others wait for those that are sent.
    """
    monkeypatch.setattr(_asyncio, "_MAX_CONCURRENT", 2)
    server.on("keep-alive", fault.holds())

    async def main() -> None:
        async with AsyncLiveAvatarApi(KEY, base_url=server.url) as api:
            for _ in range(5):
                await api.new_session(session_request(), keep_alive=interval)
            async with asyncio.timeout(30):
                while kept_alive(server).total() < requests:
                    await asyncio.sleep(0.01)
                await cancel_all_others()
                server.heal()
                before = kept_alive(server)
                while not all(kept_alive(server)[each] > before[each] for each in api.open_sessions):
                    await asyncio.sleep(0.01)
            assert len(api.open_sessions) == 5

    asyncio.run(main())
    assert levels(caplog) == {}


async def cancel_all_others() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)


@pytest.mark.row("L5")
@pytest.mark.parametrize("name", ["keep_alive_and_fork", "keep_alive_and_fork_async"])
def test_fork(name: str, server: FaultServer) -> None:
    """A forked child keeps none of its parent's sessions alive, and can keep its own alive."""
    with program(name, server) as running:
        told = running.says()
        assert told.get("child") == 0, running.errors
        assert running.errors == ""
    assert server.running == set()
    assert server.counts == (2, 2, 2)


@pytest.mark.row("L5")
@pytest.mark.parametrize("name", ["keep_alive_and_exit", "keep_alive_and_exit_async"])
def test_interpreter_exits(name: str, server: FaultServer) -> None:
    """A program whose sessions are kept alive ends when it wants to, and its sessions with it."""
    server.on("keep-alive", fault.normal, 1)
    server.on("keep-alive", fault.holds())
    with program(name, server) as running:
        running.says()
        assert running.code == 0
        assert "Traceback" not in running.errors
    assert server.running == set()


@pytest.mark.row("L5")
def test_interrupt_while_the_thread_starts(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session whose keep-alive thread is interrupted as it starts is closed; later ones are kept alive."""
    interrupt_start("liveavatar-keep-alive", KeyboardInterrupt(), monkeypatch)
    with opened("blocking", server) as api:
        with pytest.raises(KeyboardInterrupt):
            api.new_session(session_request(), keep_alive=INTERVAL)
        assert api.open_sessions == ()
        assert server.running == set()
        session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
        wait_until(api, lambda: kept_alive(server)[session_id] >= 2)
        assert len(workers(api)) == 1
        api.close()
    assert server.running == set()


@pytest.mark.row("L5")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_hook_ends_the_thread(server: FaultServer) -> None:
    """A keep-alive thread that a hook of the caller's client has ended is replaced for the next session."""
    exits = [SystemExit]

    def leave(sent: httpx.Request) -> None:
        if sent.url.path.endswith("/keep-alive") and exits:
            raise exits.pop()

    with (
        httpx.Client(event_hooks={"request": [leave]}) as http,
        LiveAvatarApi(KEY, base_url=server.url, http_client=http) as api,
    ):
        api.new_session(session_request(), keep_alive=INTERVAL)
        wait_until(api, lambda: not exits and not workers(api))
        ids = {*api.open_sessions, api.new_session(session_request(), keep_alive=INTERVAL).session_id}
        wait_until(api, lambda: set(kept_alive(server)) == ids)


@pytest.mark.row("L5")
def test_no_thread_can_be_started(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A blocking client that cannot start a thread returns the session, and warns that it is not kept alive."""
    start = threading.Thread.start

    def no_more(thread: threading.Thread) -> None:
        if thread.name == "liveavatar-keep-alive":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_more)
    with opened("blocking", server) as api:
        session_id = api.new_session(session_request(), keep_alive=INTERVAL).session_id
        assert levels(caplog) == {"WARNING": 1}
        assert session_id in caplog.text
        api.close_session(session_id)
    assert server.running == set()


@pytest.mark.row("L6")
def test_thousand_sessions(api: Any, server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    """1,000 sessions are kept alive by one thread or task, with at most one request each per interval."""
    ids = [str(uuid.uuid4()) for _ in range(1000)]
    server.ledger.state.update(dict.fromkeys(ids, "running"))
    interval = 2.0
    begun = time.monotonic()

    if hasattr(api, "runner"):
        api.runner.run(_adopt(api.api, ids, interval))
    else:
        for session_id in ids:
            api.adopt_session(session_id)
            api._keep_alive(session_id, interval)
    seen = 0

    def all_were_kept_alive() -> bool:
        nonlocal seen
        seen = max(seen, len(workers(api)))
        return len(kept_alive(server)) == len(ids)

    wait_until(api, all_were_kept_alive)
    most = kept_alive(server).most_common(1)[0][1]
    assert most <= (time.monotonic() - begun) / interval
    assert seen == 1
    assert levels(caplog) == {}
    for session_id in ids:
        api.release_session(session_id)
    wait_until(api, lambda: not workers(api))


async def _adopt(api: AsyncLiveAvatarApi, ids: list[str], interval: float) -> None:
    for session_id in ids:
        await api.adopt_session(session_id)
        api._keep_alive(session_id, interval)
