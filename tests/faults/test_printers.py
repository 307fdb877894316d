"""H16. Requests, sessions and our own frames show no secret, whichever library prints them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import json
import logging
import pprint
import reprlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from liveavatar import (
    AsyncLiveAvatarApi,
    CustomSDKLiveKitConfig,
    LiveAvatarError,
    LiveAvatarNewSessionRequest,
    StandardSessionResponse,
)

from tests.faults import server as fault
from tests.faults.canaries import CANARY, OURS, leaks
from tests.faults.cases import session_request
from tests.faults.conftest import KEY, FastRetries, opened
from tests.faults.server import FaultServer

pytestmark = pytest.mark.row("H16")

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"
ROOM = {
    "livekit_url": "wss://rooms.example.com",
    "livekit_room": "front-desk",
    "livekit_client_token": "CANARY-room-token",
}
AGORA = {
    "agora_app_id": "app",
    "agora_token": "CANARY-agora-token",
    "agora_channel": "channel",
    "agora_uid": "7",
}


def of_dicts() -> Any:
    """A request whose parts are plain dicts."""
    return LiveAvatarNewSessionRequest(avatar_id=AVATAR, livekit_config=dict(ROOM), agora_config=dict(AGORA))


def of_items() -> Any:
    """A request whose parts were set as items, a field that is not known yet among them."""
    request = LiveAvatarNewSessionRequest(avatar_id=AVATAR)
    request["livekit_config"] = dict(ROOM)
    request["agora_config"] = dict(AGORA)
    request["next_years_config"] = {"nested": [{"session_token": "CANARY-nested"}], "access_token": "CANARY-unknown"}
    return request


def of_attributes() -> Any:
    """A request whose parts were set as attributes."""
    request = LiveAvatarNewSessionRequest(avatar_id=AVATAR)
    request.livekit_config = dict(ROOM)  # type: ignore[assignment]
    request.agora_config = dict(AGORA)  # type: ignore[assignment]
    return request


def of_mixture() -> Any:
    """A part of its own class that was given an unknown item."""
    config = CustomSDKLiveKitConfig(**ROOM)
    config["session_token"] = "CANARY-in-a-part"
    return LiveAvatarNewSessionRequest(avatar_id=AVATAR, livekit_config=config)


REQUESTS = {make.__name__: make for make in (of_dicts, of_items, of_attributes, of_mixture)} | {
    "usual": session_request
}


def by_rich(thing: Any) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200)
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def by_rich_pretty(thing: Any) -> str:
    from rich.pretty import pretty_repr

    return pretty_repr([{"it": thing}], max_width=60)


def by_structlog(thing: Any) -> str:
    structlog = importlib.import_module("structlog")
    event = {"event": "opening", "request": thing, "list": [thing]}
    renderers = [
        structlog.dev.ConsoleRenderer(colors=False),
        structlog.processors.KeyValueRenderer(),
        structlog.processors.JSONRenderer(),
        structlog.processors.LogfmtRenderer(),
    ]
    return "\n".join(str(render(None, "info", dict(event))) for render in renderers)


def by_devtools(thing: Any) -> str:
    devtools = importlib.import_module("devtools")
    return str(devtools.pformat(thing)) + str(devtools.debug.format(thing))


def by_logging(thing: Any) -> str:
    return logging.Formatter().format(logging.LogRecord("x", 10, "x", 1, "%s %r", (thing, thing), None))


PRINTERS: dict[str, Callable[[Any], str]] = {
    "repr": repr,
    "str": str,
    "format": lambda thing: f"{thing} {thing!r} {[thing]}",
    "pprint": lambda thing: pprint.pformat({"it": [thing]}),
    "reprlib": reprlib.repr,
    "json": lambda thing: json.dumps({"it": thing}, default=str),
    "logging": by_logging,
    "rich": by_rich,
    "rich pretty": by_rich_pretty,
    "structlog": by_structlog,
    "devtools": by_devtools,
}


def needs(printer: str) -> None:
    if printer in ("structlog", "devtools"):
        pytest.importorskip(printer)


@pytest.mark.parametrize("printer", PRINTERS)
@pytest.mark.parametrize("form", REQUESTS)
def test_request_shows_no_secret(form: str, printer: str) -> None:
    """Whatever its parts are made of, a printed request hides their secrets and shows the rest (both clients)."""
    needs(printer)
    shown = PRINTERS[printer](REQUESTS[form]())
    assert AVATAR in shown or printer == "reprlib"
    assert CANARY not in shown, shown


@pytest.mark.parametrize("form", REQUESTS)
def test_request_sends_its_secrets(form: str, flavour: str, server: FaultServer) -> None:
    """What is hidden from printers is sent."""
    with opened(flavour, server) as api:
        api.create_session_token(REQUESTS[form]())
        (request,) = server.ledger.requests
        assert request.json["livekit_config"]["livekit_client_token"] == "CANARY-room-token"
        assert CANARY in repr(request.json)


@pytest.mark.parametrize("printer", PRINTERS)
def test_session_and_client_show_no_secret(printer: str, flavour: str, server: FaultServer) -> None:
    """A session, its raw response and the client hide their secrets."""
    needs(printer)
    with opened(flavour, server) as api:
        session: StandardSessionResponse = api.new_session(session_request())
        token = api.create_session_token(session_request())
        for thing in (session, session.raw_response, session.raw_response.data, token, token.data, api):
            shown = PRINTERS[printer](thing)
            assert shown
            assert CANARY not in shown, f"{type(thing).__name__}: {shown}"


# ---------------------------------------------------------------------------------------------------------------
# Frames.


class Walker(logging.Handler):
    """Looks into every frame of ours below the log call, as error trackers do, and notes the secrets in sight."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records = 0
        self.frames = 0
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records += 1
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_globals.get("__name__", "").split(".")[0] in OURS:
                self.frames += 1
                self.look(frame)
            frame = frame.f_back

    def look(self, frame: FrameType) -> None:
        place = f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}"
        for name, value in frame.f_locals.items():
            with contextlib.suppress(Exception):
                if CANARY in repr(value):
                    self.found.append(f"{place}: {name} = {value!r}"[:200])


@pytest.fixture
def walker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Walker]:
    handler = Walker()
    logger = logging.getLogger("liveavatar")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def plays(api: Any, server: FaultServer) -> None:
    """Calls that go well and calls that fail, with every log line that there is."""
    api.close_session(api.new_session(session_request()).session_id)
    api.close_session(api.new_session(of_dicts()).session_id)
    with api.session(of_items()):
        pass
    api.start_session(api.create_session_token(session_request()).data.session_token)
    token, session_id = list(server.ledger.token_of)[-1], server.ledger.minted[-1]
    api.stop_session(session_id, token)
    for on, behaviour, times in (
        ("token", fault.echoes(500), 1),
        ("start", fault.echoes(400), 1),
        ("start", fault.resets(acts=True), 1),
        ("start", fault.cut(), 1),
    ):
        server.on(on, behaviour, times)
        with contextlib.suppress(LiveAvatarError):
            api.new_session(session_request())
        server.heal()
    server.on("start", fault.resets(acts=True), 1).on("stop", fault.echoes(503), 3)
    with pytest.raises(LiveAvatarError) as caught:
        api.new_session(session_request())
    server.heal()
    api.close_session(caught.value.session_id)
    with contextlib.suppress(LiveAvatarError):
        api.close_session(caught.value.session_id)
    api.close_all_sessions()


def test_frames_below_a_log_line_show_no_secret(
    flavour: str, server: FaultServer, walker: Walker, fast_retries: FastRetries
) -> None:
    """While the client logs, its frames hold secrets only in wrapped form."""
    with opened(flavour, server) as api:
        plays(api, server)
    assert walker.records > 20
    assert walker.frames > walker.records
    assert sorted(set(walker.found)) == []
    assert server.running == set()


def test_async_frames_of_suspended_calls_show_no_secret(server: FaultServer) -> None:
    """The frames of tasks that wait for the service hold secrets only in wrapped form."""

    async def main() -> list[str]:
        found = []
        for on in fault.ENDPOINTS:
            async with AsyncLiveAvatarApi(KEY, base_url=server.url, timeout=10) as api:
                session_id = (await api.new_session(session_request())).session_id if on == "stop" else ""
                server.on(on, fault.delays(0.15), 1)
                while server._arrivals[on].acquire(blocking=False):
                    pass
                work = api.close_session(session_id) if on == "stop" else api.new_session(of_dicts())
                task = asyncio.create_task(work)
                await asyncio.to_thread(server.arrived, on)
                walker = Walker()
                for each in asyncio.all_tasks():
                    coroutine: Any = each.get_coro()
                    while coroutine is not None and hasattr(coroutine, "cr_frame"):
                        frame = coroutine.cr_frame
                        if frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in OURS:
                            walker.frames += 1
                            walker.look(frame)
                        coroutine = coroutine.cr_await
                assert walker.frames >= 2
                found += walker.found
                await task
        return found

    assert asyncio.run(main()) == []
    assert server.running == set()


def test_blocking_frames_of_other_threads_show_no_secret(server: FaultServer) -> None:
    """A debugger that looks at a thread inside a call sees no secret in our frames."""
    from tests.faults.pools import in_thread

    with opened("blocking", server) as api:
        walker = Walker()
        for on in ("token", "start"):
            server.on(on, fault.delays(0.15), 1)
            call = in_thread(api.new_session, of_dicts())
            server.arrived(on)
            for top in sys._current_frames().values():
                frame: FrameType | None = top
                while frame is not None:
                    writes = frame.f_code.co_name == "write"  # what is on its way must be in clear
                    if not writes and frame.f_globals.get("__name__", "").split(".")[0] in OURS:
                        walker.frames += 1
                        walker.look(frame)
                    frame = frame.f_back
            call.result(20)
            server.settle()
        assert walker.frames > 4
        assert walker.found == []
        api.close_all_sessions()


def test_rich_and_structlog_tracebacks_show_no_secret(
    flavour: str, server: FaultServer, fast_retries: FastRetries
) -> None:
    """Tracebacks with local variables show none of our secrets."""
    from rich.console import Console
    from rich.traceback import Traceback

    structlog = pytest.importorskip("structlog")
    with opened(flavour, server) as api:
        server.on("start", fault.resets(acts=True)).on("stop", fault.echoes(503), 3)
        with pytest.raises(LiveAvatarError) as caught:
            api.new_session(of_dicts())
        error = caught.value
        server.heal()
        assert leaks(error) == []
        console = Console(file=io.StringIO(), width=200)
        exc_info = (type(error), error, without_ours(error))
        console.print(Traceback.from_exception(*exc_info, show_locals=True, locals_max_string=10_000))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=True, locals_max_string=10_000)
        shown += json.dumps(transformer(exc_info), default=repr)
        assert type(error).__name__ in shown
        assert CANARY not in shown
        api.close_all_sessions()


def without_ours(error: BaseException) -> Any:
    """The traceback from the first frame of the package on: the frames before it are the caller's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").split(".")[0] not in OURS:
        trace = trace.tb_next
    assert trace is not None
    return trace
