"""The table of faults: what the server does, what the caller gets, what the server must have counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from liveavatar import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ConcurrencyLimitError,
    ConflictError,
    CustomSDKLiveKitConfig,
    InsufficientCreditsError,
    InvalidRequestError,
    LiveAvatarApiError,
    LiveAvatarConnectionError,
    LiveAvatarError,
    LiveAvatarNewSessionRequest,
    LiveAvatarTimeoutError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)

from tests.faults import server as fault
from tests.faults.server import Behaviour, FaultServer

AVATAR = "7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742"

HTML = "<html><head><title>Bad gateway</title></head><body><h1>Sorry</h1></body></html>"

Counts = tuple[int, int, int]


def session_request() -> LiveAvatarNewSessionRequest:
    """A request with every secret that one can hold."""
    request = LiveAvatarNewSessionRequest(
        avatar_id=AVATAR,
        livekit_config=CustomSDKLiveKitConfig(
            livekit_url="wss://rooms.example.com",
            livekit_room="front-desk",
            livekit_client_token="CANARY-room-token",
        ),
    )
    request["agora_config"] = {
        "agora_app_id": "app",
        "agora_token": "CANARY-agora-token",
        "agora_channel": "channel",
        "agora_uid": "7",
    }
    return request


@dataclass(frozen=True)
class Case:
    """One row's fault, in one of the forms that the row covers."""

    row: str
    what: str
    on: str
    """The endpoint that is faulty; a fault on stop hits close_session, any other new_session."""
    behaviour: Behaviour | Callable[[FaultServer], Behaviour]
    counts: Counts
    """Requests on token, start and stop; for close_session those of the close alone."""
    raises: type[LiveAvatarError] | None = None
    times: int | None = None
    """How often; None is for ever."""
    says: str = ""
    """What str() of the error must hold (a regular expression)."""
    call: str = ""
    may_run: bool = False
    timeout: float = 10.0
    status: int | None = None
    check: Callable[[Any], object] | None = field(default=None, repr=False)
    """More to ask of the value or error; false means no."""
    before: tuple[tuple[str, Behaviour, int | None], ...] = field(default=(), repr=False)
    """Further behaviours: endpoint, behaviour, times."""
    exact: bool = True
    """`raises` is the very class; else a base of it."""
    at_most: bool = False
    """The counts are an upper bound (of the faulty endpoint's)."""

    @property
    def id(self) -> str:
        return f"{self.row}: {self.what}"

    @property
    def method(self) -> str:
        return self.call or ("close_session" if self.on == "stop" else "new_session")

    def arm(self, server: FaultServer) -> None:
        """Make the server behave so."""
        for endpoint, behaviour, times in self.before:
            server.on(endpoint, behaviour, times)
        server.on(self.on, self.behaviour, self.times)  # type: ignore[arg-type]


def _drop(*names: str) -> Behaviour:
    return fault.edits(lambda body: [body["data"].pop(name) for name in names])


def _set(**values: Any) -> Behaviour:
    return fault.edits(lambda body: body["data"].update(values))


def _top(**values: Any) -> Behaviour:
    return fault.edits(lambda body: body.update(values))


def _body(content: object) -> Behaviour:
    """This body under the usual status; the service did what was asked."""
    return fault.replaces(lambda body: content)


def _truncated(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return content[: len(content) // 2]


FASTAPI = {
    "detail": [
        {"loc": ["body", "avatar_id"], "msg": "Field required", "type": "missing"},
        {"loc": ["body", "video_settings", "quality"], "msg": "Unknown quality", "type": "enum"},
    ]
}

T: Counts = (1, 0, 0)
T3: Counts = (3, 0, 0)
NOT_STARTED: Counts = (1, 1, 0)
"""Refused by the service: nothing to stop."""
COMP: Counts = (1, 1, 1)
"""Stopped again, and the service said so."""
STOP: Counts = (0, 0, 1)
STOP2: Counts = (0, 0, 2)
STOP3: Counts = (0, 0, 3)

Connection, Late, Bad = LiveAvatarConnectionError, LiveAvatarTimeoutError, BadResponseError

WIRE = (
    Case("B1", "reset before headers on token", "token", fault.resets(), T3, Connection),
    Case("B1", "clean close before headers on token", "token", fault.hangs_up(), T3, Connection),
    Case("B1", "half a status line on token", "token", fault.sends(b"HTTP/1.", acts=False), T3, Connection),
    Case("B2", "reset before headers on token once", "token", fault.resets(), (2, 1, 0), times=1),
    Case("B2", "clean close before headers on token once", "token", fault.hangs_up(), (2, 1, 0), times=1),
    Case("B2", "close in mid-body of token once", "token", fault.cut(), (2, 1, 0), times=1),
    *(
        Case("B3", f"{how.__name__} before headers on start{did}", "start", how(acts=acts), COMP, Connection)
        for how in (fault.resets, fault.hangs_up)
        for acts, did in ((False, ""), (True, " that happened"))
    ),
    Case("B3", "close in mid-headers on start", "start", fault.cut_head(), COMP, Connection),
    Case("B3", "close in mid-status on start", "start", fault.cut_head(b"HTTP/1.1 20"), COMP, Connection),
    *(
        Case("B4", f"{how.__name__} before headers on stop once", "stop", how(), STOP2, times=1)
        for how in (fault.resets, fault.hangs_up)
    ),
    Case("B4", "reset before headers on stop for ever", "stop", fault.resets(), STOP3, Connection, may_run=True),
    *(
        Case("B5", f"close in mid-body of start, {words}", "start", behaviour, COMP, Connection)
        for words, behaviour in (
            ("half of it", fault.cut()),
            ("nothing of it", fault.cut(0)),
            ("all but the end", fault.cut(0.99)),
            ("by a reset", fault.cut(reset=True)),
            ("in a chunk", fault.cut(chunked=True)),
            ("before the last chunk", fault.cut(1.0, chunked=True)),
        )
    ),
    Case("B6", "no headers on token", "token", fault.holds(), T3, Late, timeout=0.3, at_most=True),
    Case("B6", "no headers on start", "start", fault.holds(), COMP, Late, timeout=1.0),
    Case("B6", "no headers on start that happened", "start", fault.holds(acts=True), COMP, Late, timeout=1.0),
    Case("B6", "half a body on start", "start", fault.holds_body, COMP, Late, timeout=1.0),
    Case("B6", "no headers on stop", "stop", fault.holds(), STOP3, Late, timeout=1.0, may_run=True, at_most=True),
    *(
        Case("B7", f"drips its {where} on start", "start", fault.drips(where), COMP, Late, timeout=1.0)
        for where in ("status", "headers", "body", "chunked")
    ),
    Case("B7", "drips its body on token", "token", fault.drips("body"), T3, Late, timeout=0.35, at_most=True),
    *(
        Case("B8", f"{words} on start", "start", fault.sends(data), COMP, Connection)
        for words, data in (
            ("words", b"Hello, who is there?\r\n\r\n"),
            ("zeros", bytes(100)),
            ("TLS", b"\x15\x03\x03\x00\x02\x02\x46"),
            ("a status that is no number", b"HTTP/1.1 abc Created\r\n\r\n"),
            ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n"),
            ("a header without a colon", b"HTTP/1.1 201 Created\r\nnonsense\r\n\r\n"),
            ("an endless header", b"HTTP/1.1 201 Created\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"),
            (
                "a chunk of nonsense",
                b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
            ),
        )
    ),
    *(
        Case("B9", f"{words} before the 201", "start", fault.interim(*statuses), (1, 1, 0))
        for words, statuses in (("100", (100,)), ("103", (103,)), ("both, twice", (100, 103, 100, 103)))
    ),
    Case("B9", "100 before the 200 of stop", "stop", fault.interim(100), STOP),
    *(
        Case("B10", f"an endless body on start, {how}", "start", fault.endless(how), COMP, Bad)
        for how in ("chunked", "plain", "announced")
    ),
    Case("B10", "gzip on start", "start", fault.encoded(), COMP, Bad),
    Case("B10", "a gzip bomb on start", "start", fault.encoded(bomb=True), COMP, Bad),
    *(
        Case("B10", f"{coding} on start", "start", fault.encoded(coding), COMP, Bad)
        for coding in ("br", "deflate", "zstd", "x-unheard-of", "gzip, gzip")
    ),
    Case("B10", "an endless body on token", "token", fault.endless("chunked"), T, Bad),
    Case("B10", "an endless body on stop", "stop", fault.endless("chunked"), STOP),
    Case("B10", "an endless 500 on stop", "stop", fault.endless("chunked", 500), STOP3, ServerError, may_run=True),
)


STATUSES = (
    Case(
        "C1", "400 on token", "token", fault.refuses(400, "Unknown avatar"), T, BadRequestError, says="Unknown avatar"
    ),
    Case(
        "C1",
        "400 on start",
        "start",
        fault.refuses(400, "Room is gone"),
        NOT_STARTED,
        BadRequestError,
        says="Room is gone",
    ),
    Case(
        "C2",
        "401 on token",
        "token",
        fault.refuses(401, "Invalid API key"),
        T,
        AuthenticationError,
        says="Invalid API key",
    ),
    Case(
        "C2", "401 on start", "start", fault.refuses(401, "Expired"), NOT_STARTED, AuthenticationError, says="Expired"
    ),
    Case("C3", "401 on close with the session token", "stop", fault.refuses(401, "Expired"), STOP2, times=1),
    Case("C3", "401 on close for ever", "stop", fault.refuses(401, "No"), STOP2, AuthenticationError, may_run=True),
    *(
        Case(
            "C4",
            f"{status} that says {words}",
            "start",
            fault.refuses(status, words),
            NOT_STARTED,
            InsufficientCreditsError,
            says=words,
        )
        for status, words in (
            (402, "Payment required"),
            (400, "Not enough credits"),
            (403, "Insufficient credits for this session"),
            (422, "You need 1 credit to start"),
        )
    ),
    Case("C4", "402 on token", "token", fault.refuses(402, "Payment required"), T, InsufficientCreditsError),
    Case("C5", "403 on start", "start", fault.refuses(403, "Not in your plan"), NOT_STARTED, PermissionDeniedError),
    Case("C5", "403 on token", "token", fault.refuses(403, "Not in your plan"), T, PermissionDeniedError),
    *(
        Case(
            "C5",
            f"{status} that says {words}",
            "start",
            fault.refuses(status, words),
            NOT_STARTED,
            ConcurrencyLimitError,
            says=words,
        )
        for status in (403, 409, 429)
        for words in ("Concurrency limit reached", "Too many concurrent sessions")
    ),
    Case("C6", "404 on close_session", "stop", fault.refuses(404, "Session not found"), STOP),
    *(
        Case("C6", f"404 with {words} on close_session", "stop", fault.answers(404, body), STOP)
        for words, body in (
            ("a detail", {"detail": "Session not found"}),
            ("a detail that names nothing", {"detail": "Not Found"}),
            ("no body", b""),
        )
    ),
    Case(
        "C6",
        "409 that says already stopped on close_session",
        "stop",
        fault.refuses(409, "Session already stopped"),
        STOP3,
        at_most=True,
    ),
    Case(
        "C6",
        "409 that says something else on close_session",
        "stop",
        fault.refuses(409, "Session is busy"),
        STOP3,
        ConflictError,
        may_run=True,
    ),
    Case("C6", "408 on close_session once", "stop", fault.refuses(408, "Slow"), STOP2, times=1),
    Case(
        "C7",
        "404 on stop_session",
        "stop",
        fault.refuses(404, "Session not found"),
        STOP,
        NotFoundError,
        call="stop_session",
    ),
    Case("C8", "409 on start", "start", fault.refuses(409, "Session is already started"), COMP, ConflictError),
    *(
        Case(
            "C9",
            f"422 with {words}",
            "token",
            fault.answers(422, body),
            T,
            InvalidRequestError,
            says=says,
            check=check,
        )
        for words, body, says, check in (
            (
                "a list of FastAPI's",
                FASTAPI,
                "Field required",
                lambda error: (
                    error.errors
                    == (("body.avatar_id", "Field required"), ("body.video_settings.quality", "Unknown quality"))
                ),
            ),
            ("a text", {"detail": "Avatar expired"}, "Avatar expired", lambda error: error.errors == ()),
            (
                "an envelope",
                {"code": 4220, "data": None, "message": "No persona"},
                "No persona",
                lambda error: error.code == 4220,
            ),
            (
                "an envelope with a list",
                {
                    "code": 4220,
                    "data": [{"loc": ["avatar_id"], "message": "bad uuid"}, {"message": "no persona"}],
                    "message": "Validation failed",
                },
                "bad uuid",
                lambda error: error.errors == (("avatar_id", "bad uuid"), ("", "no persona")),
            ),
            ("HTML", HTML, "422", lambda error: error.errors == () and "<" not in str(error)),
            ("nothing", b"", "422", lambda error: error.errors == ()),
            (
                "a list with odd entries",
                {"detail": [None, 3, {"msg": 4}, {"loc": 7, "msg": "Odd"}]},
                "Odd",
                lambda error: error.errors == (("7", "Odd"),),
            ),
        )
    ),
    *(
        case
        for row, words, status, body in (
            ("C10", "500 with an envelope", 500, {"code": 5000, "data": None, "message": "It broke"}),
            ("C10", "500 with text", 500, "It broke"),
            ("C11", "502 with HTML", 502, HTML),
            ("C11", "520 with HTML", 520, HTML),
            ("C11", "599 with nothing", 599, b""),
            ("C11", "503 with HTML", 503, HTML),
        )
        for check in (lambda error, status=status: error.status == status and "<" not in str(error),)
        for case in (
            Case(row, f"{words} on token", "token", fault.answers(status, body), T3, ServerError, check=check),
            Case(row, f"{words} on start", "start", fault.answers(status, body), COMP, ServerError, check=check),
            Case(
                row,
                f"{words} on start that happened",
                "start",
                fault.answers(status, body, acts=True),
                COMP,
                ServerError,
                check=check,
            ),
            Case(
                row,
                f"{words} on stop",
                "stop",
                fault.answers(status, body),
                STOP3,
                ServerError,
                check=check,
                may_run=True,
            ),
            Case(row, f"{words} on stop once", "stop", fault.answers(status, body), STOP2, times=1),
        )
    ),
    Case(
        "C10",
        "500 on start_session called directly",
        "start",
        fault.refuses(500, "It broke"),
        (0, 1, 0),
        ServerError,
        call="start_session",
        may_run=True,
    ),
    Case(
        "C12", "504 on start while it really started", "start", fault.answers(504, HTML, acts=True), COMP, ServerError
    ),
    Case("C13", "200 on start", "start", fault.edits(lambda body: None, 200), NOT_STARTED),
    Case("C13", "202 on start", "start", fault.edits(lambda body: None, 202), NOT_STARTED),
    Case("C13", "201 on token", "token", fault.edits(lambda body: None, 201), (1, 1, 0)),
    Case("C14", "204 on start", "start", fault.answers(204, acts=True), COMP, Bad),
    Case("C14", "204 on token", "token", fault.answers(204), T, Bad),
    Case("C15", "204 on stop", "stop", fault.answers(204, acts=True), STOP),
    Case("C15", "202 on stop", "stop", fault.edits(lambda body: None, 202), STOP),
)


DATALESS = {"code": 5003, "data": None, "message": "No avatar is free"}

BODIES = (
    *(
        case
        for words, behaviour in (
            ("truncated JSON", fault.replaces(_truncated)),
            ("HTML", _body(HTML)),
            ("nothing", _body(b"")),
            ("blanks", _body(b"  \r\n")),
            ("bytes that are no UTF-8", _body(b'{"code": 1000, "data": {"session_id": "\xff\xfe"}}')),
            ("JSON nested too deep", _body(b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
            ("a number too long", _body(b'{"code": ' + b"9" * 10_000 + b"}")),
        )
        for case in (
            Case("D1", f"{words} on token", "token", behaviour, T, Bad),
            Case("D1", f"{words} on start", "start", behaviour, COMP, Bad),
            Case("D2", f"{words} on stop", "stop", behaviour, STOP),
        )
    ),
    *(
        case
        for content in (b"[]", b'"text"', b"12", b"null", b"true", b"NaN", b'[{"data": {}}]')
        for case in (
            Case("D3", f"{content.decode()} on token", "token", _body(content), T, Bad),
            Case("D3", f"{content.decode()} on start", "start", _body(content), COMP, Bad),
            Case("D3", f"{content.decode()} on stop", "stop", _body(content), STOP),
        )
    ),
    Case(
        "D4",
        "data null on start, with a code",
        "start",
        _body(DATALESS),
        COMP,
        LiveAvatarApiError,
        says="No avatar is free",
        check=lambda error: error.code == 5003,
    ),
    Case(
        "D4",
        "data absent on start, with a code",
        "start",
        _body({"code": 5003, "message": "No avatar is free"}),
        COMP,
        LiveAvatarApiError,
        says="No avatar is free",
        check=lambda error: error.code == 5003,
    ),
    Case(
        "D4",
        "data null on start, with a good code",
        "start",
        _top(data=None, message="It is late"),
        COMP,
        Bad,
        says="It is late",
        check=lambda error: error.code == 1000,
    ),
    Case(
        "D4",
        "data absent on start, with a good code",
        "start",
        fault.edits(lambda body: body.pop("data")),
        COMP,
        Bad,
        says="Session started",
        check=lambda error: error.code == 1000,
    ),
    Case("D4", "data null on token", "token", _top(data=None), T, Bad, says="data"),
    Case("D5", "data a string on start", "start", _top(data="ok"), COMP, Bad, says="data"),
    Case("D5", "data a list on start", "start", _top(data=[1]), COMP, Bad, says="data"),
    Case("D5", "data a list on token", "token", _top(data=[1]), T, Bad, says="data"),
    *(
        Case("D5", f"no {name} on start", "start", _drop(name), COMP, Bad, says=name)
        for name in ("session_id", "livekit_url", "livekit_client_token")
    ),
    *(
        Case("D5", f"no {name} on token", "token", _drop(name), T, Bad, says=name)
        for name in ("session_id", "session_token")
    ),
    *(
        Case(
            "D6",
            f"{name} {state} on start",
            "start",
            behaviour,
            NOT_STARTED,
            check=lambda value, name=name: getattr(value, name) is None,
        )
        for name in ("ws_url", "livekit_agent_token", "max_session_duration")
        for state, behaviour in (("absent", _drop(name)), ("null", _set(**{name: None})))
    ),
    *(
        Case(
            "D6",
            f"{name} is {json.dumps(odd)} on start",
            "start",
            _set(**{name: odd}),
            NOT_STARTED,
            check=lambda value, name=name: getattr(value, name) is None,
        )
        for name, odds in (
            ("ws_url", ([], 5, True, {"a": 1})),
            ("livekit_agent_token", (7, [], {})),
            ("max_session_duration", ("ten", [], True, {"seconds": 3})),
        )
        for odd in odds
    ),
    *(
        Case("D7", f"{name} is {json.dumps(odd)} on start", "start", _set(**{name: odd}), COMP, Bad, says=name)
        for name in ("session_id", "livekit_url", "livekit_client_token")
        for odd in (None, 7, True, [], {}, "")
    ),
    *(
        Case("D7", f"{name} is {json.dumps(odd)} on token", "token", _set(**{name: odd}), T, Bad, says=name)
        for name in ("session_id", "session_token")
        for odd in (None, 7, [], {}, "")
    ),
    Case("D7", "a session_token with a line break", "token", _set(session_token="a\r\nX-Evil: 1"), T, Bad),
    Case(
        "D8",
        "extra fields on start",
        "start",
        fault.edits(lambda body: (body.update(trace="t-1"), body["data"].update(region="eu", codec={"name": "vp8"}))),
        NOT_STARTED,
        check=lambda value: (
            value.raw_response.additional_properties["trace"] == "t-1"
            and value.raw_response.data.additional_properties["region"] == "eu"
            and value.raw_response.data.additional_properties["codec"] == {"name": "vp8"}
        ),
    ),
    Case(
        "D8",
        "extra fields on token",
        "token",
        fault.edits(lambda body: (body.update(trace="t-1"), body["data"].update(region="eu"))),
        NOT_STARTED,
    ),
    Case("D8", "extra fields on stop", "stop", _top(trace="t-1"), STOP),
    *(
        case
        for code in (100, 1000)
        for case in (
            Case("D9", f"envelope code {code} on start", "start", _top(code=code), NOT_STARTED),
            Case("D9", f"envelope code {code} on token", "token", _top(code=code), NOT_STARTED),
            Case("D9", f"envelope code {code} on stop", "stop", _top(code=code), STOP),
        )
    ),
    *(
        Case("D9", f"{words} on start", "start", behaviour, NOT_STARTED)
        for words, behaviour in (
            ("no envelope code", fault.edits(lambda body: body.pop("code"))),
            ("an envelope code that is null", _top(code=None)),
            ("an envelope code that is a text", _top(code="1000")),
            ("no message", fault.edits(lambda body: body.pop("message"))),
            ("a message that is null", _top(message=None)),
            ("a message that is an object", _top(message={"en": "ok"})),
        )
    ),
    *(
        Case(
            "D10",
            f"200 that says {words} on start",
            "start",
            fault.answers(200, {"code": 4001, "data": None, "message": words}),
            COMP,
            kind,
            says=words,
        )
        for words, kind in (
            ("Insufficient credits", InsufficientCreditsError),
            ("Concurrency limit reached", ConcurrencyLimitError),
            ("Rate limit exceeded", RateLimitError),
            ("Invalid session token", AuthenticationError),
            ("Something else", LiveAvatarApiError),
        )
    ),
    Case(
        "D10",
        "201 with an error code on start that happened",
        "start",
        fault.edits(lambda body: body.update(code=4001, data=None, message="Odd")),
        COMP,
        LiveAvatarApiError,
        says="Odd",
    ),
    Case(
        "D10",
        "200 with an error code on token",
        "token",
        fault.answers(200, {"code": 4001, "data": None, "message": "Insufficient credits"}),
        T,
        InsufficientCreditsError,
    ),
    Case(
        "D10",
        "200 with an error code on stop",
        "stop",
        fault.answers(200, {"code": 5001, "data": None, "message": "Could not stop"}),
        STOP,
        LiveAvatarApiError,
        says="Could not stop",
        may_run=True,
    ),
)


# A 429 is a certain refusal: nothing started.
LIMITS = (
    Case(
        "E2",
        "429 for ever on token",
        "token",
        fault.refuses(429, "Slow down"),
        T3,
        RateLimitError,
        check=lambda error: error.retry_after is None,
    ),
    Case("E2", "429 for ever on start", "start", fault.refuses(429, "Slow down"), (1, 3, 0), RateLimitError),
    Case("E2", "429 for ever on stop", "stop", fault.refuses(429, "Slow down"), STOP3, RateLimitError, may_run=True),
    *(
        Case(
            "E3",
            f"Retry-After 3600 on {on}",
            on,
            fault.refuses(429, "Later", headers={"Retry-After": "3600"}),
            counts,
            RateLimitError,
            may_run=on == "stop",
            check=lambda error: error.retry_after == 3600,
        )
        for on, counts in (("token", T), ("start", NOT_STARTED), ("stop", STOP))
    ),
    Case(
        "E3",
        "503 with Retry-After 3600 on token",
        "token",
        fault.answers(503, HTML, {"Retry-After": "3600"}),
        T,
        ServerError,
        check=lambda error: error.retry_after == 3600,
    ),
)

# Of the same kinds as the rows, but in none of them.
EXTRA_CASES = (
    Case("B9", "103 for ever on start", "start", fault.drips("interim"), COMP, Late, timeout=1.0),
    Case(
        "B8",
        "101 on start",
        "start",
        fault.sends(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        COMP,
        LiveAvatarError,
        exact=False,
    ),
    Case("B8", "HTTP/0.9 on start", "start", fault.sends(b'{"code": 1000, "data": {}}'), COMP, Connection),
    Case(
        "B8",
        "two lengths on start",
        "start",
        fault.sends(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nContent-Length: 7\r\n\r\n{}"),
        COMP,
        LiveAvatarError,
        exact=False,
    ),
    Case(
        "B8",
        "a length that is negative on start",
        "start",
        fault.sends(b"HTTP/1.1 201 Created\r\nContent-Length: -5\r\n\r\n{}"),
        COMP,
        LiveAvatarError,
        exact=False,
    ),
    Case(
        "B8",
        "a length and chunks on start",
        "start",
        fault.sends(
            b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        ),
        COMP,
        LiveAvatarError,
        exact=False,
    ),
    Case(
        "B8",
        "many headers on start",
        "start",
        fault.sends(
            b"HTTP/1.1 201 Created\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 4000) for n in range(100)) + b"\r\n"
        ),
        COMP,
        LiveAvatarError,
        exact=False,
    ),
    *(
        Case(
            "C11",
            f"the status {status} on start",
            "start",
            fault.answers(status, b"" if status == 304 else HTML, acts=True),
            COMP,
            LiveAvatarApiError,
            exact=False,
            check=lambda error, status=status: error.status == status,
        )
        for status in (300, 304, 305, 399, 600, 799, 999)
    ),
    Case("C11", "408 on start that happened", "start", fault.answers(408, HTML, acts=True), COMP, LiveAvatarApiError),
    Case("C11", "501 on start", "start", fault.answers(501, HTML), COMP, ServerError),
    *(
        Case("C11", f"{status} on token once", "token", fault.answers(status, HTML), (2, 1, 0), times=1)
        for status in (408, 429, 500, 502, 503, 504, 520, 527, 599)
    ),
    *(
        Case(
            "C11",
            f"{status} on token is not tried again",
            "token",
            fault.answers(status, HTML),
            T,
            LiveAvatarApiError,
            exact=False,
        )
        for status in (400, 404, 405, 409, 410, 413, 418, 425, 451)
    ),
    Case(
        "D1",
        "JSON in UTF-16 on start",
        "start",
        fault.replaces(lambda body: json.dumps(body).encode("utf-16")),
        COMP,
        LiveAvatarError,
        exact=False,
    ),
    Case(
        "D1",
        "a half surrogate on start",
        "start",
        fault.replaces(lambda body: json.dumps(body).replace("Session started", "\\ud800").encode()),
        NOT_STARTED,
    ),
    Case(
        "D1",
        "a half surrogate in the error's words on start",
        "start",
        fault.answers(400, b'{"code": 4000, "data": null, "message": "bad \\ud800 words"}'),
        NOT_STARTED,
        BadRequestError,
    ),
    Case("D6", "max_session_duration a real number on start", "start", _set(max_session_duration=600.5), NOT_STARTED),
    Case(
        "D6",
        "max_session_duration beyond all bounds on start",
        "start",
        fault.replaces(lambda body: json.dumps(body).replace("600", "1e999").encode()),
        NOT_STARTED,
    ),
    Case(
        "D6",
        "max_session_duration NaN on start",
        "start",
        fault.replaces(lambda body: json.dumps(body).replace("600", "NaN").encode()),
        NOT_STARTED,
    ),
    Case(
        "D10",
        "a success status with errors that are no dict on start",
        "start",
        fault.answers(200, {"code": 4001, "data": "oops", "message": ["a", {"b": 1}]}),
        COMP,
        LiveAvatarApiError,
    ),
)

CASES = WIRE + STATUSES + BODIES + LIMITS + EXTRA_CASES


def says(case: Case, error: BaseException) -> bool:
    return re.search(case.says, str(error)) is not None
