"""A service on 127.0.0.1 that behaves like LiveAvatar, or like a fault: it speaks HTTP/1.1 byte by byte.

What it does with a request is a behaviour: a function of the Exchange. `on()` queues behaviours per endpoint; past
the queue it behaves like the service. Its ledger says what arrived and what runs.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

ENDPOINTS = ("token", "start", "stop")
"""The endpoints that begin and end what costs credits."""

ALL_ENDPOINTS = (*ENDPOINTS, "keep-alive", "list", "get", "transcript", "events", "other")
"""All endpoints; "other" is whatever the contract does not have."""

_PATHS = (
    (re.compile(r"POST /v1/sessions/(token|start|stop|keep-alive)"), None),
    (re.compile(r"GET /v1/sessions"), "list"),
    (re.compile(r"GET /v1/sessions/([^/]+)"), "get"),
    (re.compile(r"GET /v1/sessions/([^/]+)/transcript"), "transcript"),
    (re.compile(r"DELETE /v1/sessions/([^/]+)/events"), "events"),
    (re.compile(r"[A-Z]+ /v1/other(/.*)?"), "other"),
)

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Request:
    """One whole request, as it arrived."""

    endpoint: str
    path: str
    headers: dict[str, list[str]] = field(repr=False)
    body: bytes = field(repr=False)
    connection: int
    method: str = "POST"
    query: dict[str, str] = field(default_factory=dict)
    session_id: str | None = None
    """The session that the path names."""

    def header(self, name: str) -> str | None:
        """The value of a header, None when absent; two of one name are a test's failure."""
        values = self.headers.get(name, [])
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    @property
    def api_key(self) -> str | None:
        return self.header("x-api-key")

    @property
    def bearer(self) -> str | None:
        value = self.header("authorization")
        return value.removeprefix("Bearer ") if value is not None else None

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass
class Tokens:
    """The secrets the service gives out; each takes the session's number."""

    session: str = "CANARY-session-token-{0}"
    client: str = "CANARY-client-token-{0}"
    agent: str = "CANARY-agent-token-{0}"
    socket: str = "wss://CANARY-events.example.com/{0}"


class Ledger:
    """What arrived, and what became of each session. A session is minted, running, or stopped."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.bytes_sent = 0
        self.state: dict[str, str] = {}
        self.token_of: dict[str, str] = {}
        self.starts: list[str] = []
        """Ids of the sessions that really began, one entry each time."""
        self.stops: list[str] = []
        """Ids of the sessions that a stop really ended."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Requests on token, start and stop."""
        token, start, stop = (sum(r.endpoint == name for r in self.requests) for name in ENDPOINTS)
        return token, start, stop

    @property
    def running(self) -> set[str]:
        return {session for session, state in self.state.items() if state == "running"}

    @property
    def minted(self) -> list[str]:
        return list(self.state)

    def of(self, endpoint: str) -> list[Request]:
        return [request for request in self.requests if request.endpoint == endpoint]

    def forget_requests(self) -> None:
        """Count from here on; sessions stay."""
        self.requests.clear()


Behaviour = Callable[["Exchange"], None]


class GoneError(Exception):
    """The connection is not to be used any more."""


class FaultServer:
    """The server. Use it in a `with`; `url` is what a client takes as base_url."""

    def __init__(self, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.ledger = Ledger()
        self.tokens = Tokens()
        self.stops_minted = True
        """Whether a stop of a session that has not started is answered with success; else 404."""
        self.is_calm_too: list[Callable[[], bool]] = []
        """What `settle` asks besides its own connections."""
        self.lock = threading.RLock()
        self._context = context
        self._host = host
        self._queues: dict[str, list[list[Any]]] = {name: [] for name in ALL_ENDPOINTS}
        self._open: dict[int, _Connection] = {}
        self._pending = 0  # things that will happen without any connection
        self._quit, self._quitting = socket.socketpair()
        self._threads: list[threading.Thread] = []
        self._arrivals = {name: threading.Semaphore(0) for name in ALL_ENDPOINTS}
        self._listener: socket.socket | None = None
        self._bind(0)
        self.listen()

    # -- life

    def _bind(self, port: int) -> None:
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self._host, port))
        self.port = self._listener.getsockname()[1]

    def listen(self) -> None:
        """Take connections (again)."""
        if self._listener is None:
            self._bind(self.port)
        assert self._listener is not None
        self._listener.listen(512)
        self._spawn(self._accept, self._listener)

    def refuse(self) -> None:
        """Refuse new connections from here on. Open ones go on."""
        with self.lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for a connection
            listener.close()

    def __enter__(self) -> FaultServer:
        return self

    def __exit__(self, *error: object) -> None:
        self._quitting.send(b"q")
        self.refuse()
        with self.lock:
            connections = list(self._open.values())
        for connection in connections:
            connection.shut()
        for thread in list(self._threads):
            thread.join(10)
            assert not thread.is_alive(), f"{thread} does not end"
        self._quit.close()
        self._quitting.close()

    @property
    def url(self) -> str:
        scheme, host = ("https", "localhost") if self._context else ("http", self._host)
        return f"{scheme}://{host}:{self.port}/v1"

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True, name=f"faults-{target.__name__}")
        self._threads = [*(old for old in self._threads if old.is_alive()), thread]
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            readable([listener, self._quit], 0.5)
            with self.lock:  # so that nobody sees it neither waiting nor open
                if listener is not self._listener:
                    return
                try:
                    listener.setblocking(False)
                    raw, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError:
                    return
                raw.setblocking(True)
                self.ledger.connections += 1
                number = self.ledger.connections
                connection = _Connection(self, raw, number)
                self._open[number] = connection
            self._spawn(connection.serve)

    # -- what a test says

    def on(self, endpoint: str, behaviour: Behaviour, times: int | None = None) -> FaultServer:
        """Behave like this on the next `times` requests to the endpoint, or for ever."""
        with self.lock:
            self._queues[endpoint].append([behaviour, times])
        return self

    def heal(self) -> None:
        """Behave like the service from here on."""
        with self.lock:
            for queue in self._queues.values():
                queue.clear()

    def start_anew(self) -> None:
        """Behave like a new service, with an empty ledger, once all that was sent has been read and done."""
        self.settle()
        self.heal()
        with self.lock:
            self.ledger, numbers = Ledger(), self.ledger.connections
            self.ledger.connections = numbers  # those that are still open keep theirs

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something without any connection; `settle` waits for it."""
        with self.lock:
            self._pending += 1

        def wait_and_do() -> None:
            try:
                if not self.quitting(seconds):
                    what()
            finally:
                with self.lock:
                    self._pending -= 1

        self._spawn(wait_and_do)

    def freeze(self) -> None:
        """Let every open connection die silently: what is sent on it from here on is lost."""
        with self.lock:
            for connection in self._open.values():
                connection.frozen = True

    # -- what a test asks

    @property
    def counts(self) -> tuple[int, int, int]:
        """Requests on token, start and stop, once all that was sent has been read."""
        self.settle()
        return self.ledger.counts

    @property
    def running(self) -> set[str]:
        """Ids of the sessions that run, once all that was sent has been read and done."""
        self.settle()
        return self.ledger.running

    def arrived(self, endpoint: str, timeout: float = 20) -> None:
        """Wait until one more request to the endpoint has arrived."""
        assert self._arrivals[endpoint].acquire(timeout=timeout), f"no request came to {endpoint}"

    def settle(self, limit: float = 20) -> None:
        """Wait until nothing is on its way: no byte unread, no request at work, nothing still to happen."""
        end = time.monotonic() + limit
        calm, pause = 0, 0.0005
        while calm < 2:
            with self.lock:
                calm = calm + 1 if self._is_calm() else 0
            if calm < 2:
                assert time.monotonic() < end, "the fault server does not come to rest"
                time.sleep(pause)
                pause = 0.0005 if calm else min(pause * 1.5, 0.005)

    def _is_calm(self) -> bool:
        if self._pending:
            return False
        watched = [c.raw for c in self._open.values()]
        if any(not c.idle for c in self._open.values()):
            return False
        if self._listener is not None:
            watched.append(self._listener)
        return not (watched and readable(watched, 0)) and all(is_calm() for is_calm in self.is_calm_too)

    def quitting(self, seconds: float) -> bool:
        """Wait; True when the server was told to end meanwhile."""
        return bool(readable([self._quit], seconds))

    # -- used by connections

    def behaviour_for(self, endpoint: str) -> Behaviour:
        with self.lock:
            queue = self._queues[endpoint]
            while queue and queue[0][1] == 0:
                queue.pop(0)
            if not queue:
                return normal
            if queue[0][1] is not None:
                queue[0][1] -= 1
            behaviour: Behaviour = queue[0][0]
            return behaviour

    def took(self, request: Request) -> None:
        with self.lock:
            self.ledger.requests.append(request)
        self._arrivals[request.endpoint].release()

    def left(self, connection: _Connection) -> None:
        with self.lock:
            self._open.pop(connection.number, None)

    # -- the service itself

    def do(self, request: Request) -> tuple[int, dict[str, Any]]:
        """What the service does for a request; the status and envelope that it answers."""
        with self.lock:
            return getattr(self, f"_{request.endpoint.replace('-', '_')}")(request)  # type: ignore[no-any-return]

    def _token(self, request: Request) -> tuple[int, dict[str, Any]]:
        if not request.api_key or request.bearer:
            return envelope(401, 4010, "API key required")
        number = len(self.ledger.state) + 1
        session = f"00000000-0000-4000-8000-{number:012d}"
        token = self.tokens.session.format(number)
        self.ledger.state[session] = "minted"
        self.ledger.token_of[token] = session
        return envelope(200, 1000, "Session token created", {"session_id": session, "session_token": token})

    def _start(self, request: Request) -> tuple[int, dict[str, Any]]:
        session = self.ledger.token_of.get(request.bearer or "")
        if session is None or request.api_key:
            return envelope(401, 4010, "Invalid session token")
        if self.ledger.state[session] != "minted":
            return envelope(409, 4090, f"Session is already {self.ledger.state[session]}")
        self.begin(session)
        return envelope(201, 1000, "Session started", self.start_data(session))

    def begin(self, session: str) -> None:
        with self.lock:
            self.ledger.state[session] = "running"
            self.ledger.starts.append(session)

    def start_data(self, session: str) -> dict[str, Any]:
        """`data` of a good answer to a start."""
        number = int(session[-12:])
        return {
            "session_id": session,
            "livekit_url": "wss://rooms.example.com",
            "livekit_client_token": self.tokens.client.format(number),
            "livekit_agent_token": self.tokens.agent.format(number),
            "max_session_duration": 600,
            "ws_url": self.tokens.socket.format(number),
        }

    def _stop(self, request: Request) -> tuple[int, dict[str, Any]]:
        named = (request.json or {}).get("session_id")
        if request.api_key:
            session = named if named in self.ledger.state else None
        else:
            session = self.ledger.token_of.get(request.bearer or "")
            if session is None:
                return envelope(401, 4010, "Invalid session token")
            if named not in (None, session):
                return envelope(404, 4040, "Session not found")
        if session is None:
            return envelope(404, 4040, "Session not found")
        state = self.ledger.state[session]
        if state == "late" or (state == "minted" and not self.stops_minted):
            return envelope(404, 4040, "Session not found")
        if state == "stopped":
            return envelope(409, 4090, "Session is already stopped")
        if state == "running":
            self.ledger.stops.append(session)
        self.ledger.state[session] = "stopped"
        return envelope(200, 1000, "Session stopped")

    def _keep_alive(self, request: Request) -> tuple[int, dict[str, Any]]:
        named = (request.json or {}).get("session_id")
        session = self.ledger.token_of.get(request.bearer or "") if request.bearer else named
        if session is None:
            return envelope(401, 4010, "Invalid session token")
        state = self.ledger.state.get(session)
        if state is None or named not in (None, session):
            return envelope(404, 4040, "Session not found")
        if state != "running":
            return envelope(409, 4090, "Session has already ended" if state == "stopped" else "Session is not running")
        return envelope(200, 1000, "Session kept alive")

    def _list(self, request: Request) -> tuple[int, dict[str, Any]]:
        if not request.api_key or request.bearer:
            return envelope(401, 4010, "API key required")
        wanted = "running" if request.query["type"] == "active" else "stopped"
        found = [session for session, state in self.ledger.state.items() if state == wanted]
        page, size = int(request.query["page"]), int(request.query["page_size"])
        results = [session_info(session, self.ledger.state[session]) for session in found[(page - 1) * size :][:size]]
        return envelope(200, 1000, "Sessions", {"count": len(found), "next": None, "results": results})

    def _get(self, request: Request) -> tuple[int, dict[str, Any]]:
        return self._found(request, lambda session: session_info(session, self.ledger.state[session]))

    def _transcript(self, request: Request) -> tuple[int, dict[str, Any]]:
        line = {"role": "user", "transcript": "Hello", "absolute_timestamp": 1_750_000_000, "relative_timestamp": 1}
        return self._found(request, lambda session: {"session_active": True, "transcript_data": [line]})

    def _events(self, request: Request) -> tuple[int, dict[str, Any]]:
        return self._found(request, lambda session: None)

    def _other(self, request: Request) -> tuple[int, dict[str, Any]]:
        if not request.api_key or request.bearer:
            return envelope(401, 4010, "API key required")
        return envelope(200, 1000, "Success", {"path": request.path, "query": request.query, "json": request.json})

    def _found(self, request: Request, data: Callable[[str], Any]) -> tuple[int, dict[str, Any]]:
        if not request.api_key or request.bearer:
            return envelope(401, 4010, "API key required")
        if request.session_id not in self.ledger.state:
            return envelope(404, 4040, "Session not found")
        return envelope(200, 1000, "Success", data(request.session_id))

    def session_of(self, request: Request) -> str | None:
        """The session a start is for."""
        return self.ledger.token_of.get(request.bearer or "")


def readable(sockets: list[socket.socket], seconds: float) -> list[int]:
    """The descriptors of those that have something to read (or have ended). Unlike select, for any number."""
    poll = select.poll()
    for one in sockets:
        descriptor = one.fileno()
        if descriptor < 0:
            return [descriptor]  # closed under us: whoever reads it will see
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(seconds * 1000)]


def session_info(session: str, state: str) -> dict[str, Any]:
    """What the service records about a session."""
    info = {
        "id": session,
        "created_at": "2026-11-27T09:00:00Z",
        "updated_at": "2026-11-27T09:01:30.500Z",
        "duration": 90,
        "source": "API",
        "mode": "LITE",
        "is_sandbox": False,
        "credits_consumed": 2,
    }
    return info if state != "stopped" else info | {"end_at": "2026-11-27T09:01:30Z", "end_reason": "USER_CLOSED"}


def envelope(status: int, code: int, message: str, data: Any = None) -> tuple[int, dict[str, Any]]:
    return status, {"code": code, "data": data, "message": message}


class _Connection:
    def __init__(self, server: FaultServer, raw: socket.socket, number: int) -> None:
        self.server = server
        self.raw = raw
        self.number = number
        self.idle = True
        """True while it waits for the peer."""
        self.frozen = False
        """True once it has died without a sign: what arrives is lost, and nothing is sent."""
        self._buffer = b""

    def serve(self) -> None:
        try:
            if self.server._context is not None:
                self.raw = self.server._context.wrap_socket(self.raw, server_side=True)
            self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                request = self._read_request()
                if request is None:
                    return
                self.server.took(request)
                self.server.behaviour_for(request.endpoint)(Exchange(self.server, self, request))
                if request.header("connection") == "close":
                    return
                self.idle = True
        except (OSError, GoneError, ValueError):
            pass  # whatever the peer did, it is the peer's test that judges it
        finally:
            self.raw.close()
            self.server.left(self)

    def shut(self) -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.raw, socket.SHUT_RDWR)

    def _more(self) -> bool:
        self.idle = not self._buffer
        if not (isinstance(self.raw, ssl.SSLSocket) and self.raw.pending()):
            while not readable([self.raw], 30):
                pass
        with self.server.lock:  # so that nobody sees the bytes neither unread nor at work
            self.idle = False
        chunk = self.raw.recv(65536)
        while self.frozen and chunk:
            self.idle = True
            chunk = self.raw.recv(65536)
        self._buffer += chunk
        return bool(chunk)

    def _read_request(self) -> Request | None:
        """The next whole request; None when there is none. Half a request is none: it never happened."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.strip().lower(), []).append(value.strip())
        length = int((headers.get("content-length") or ["0"])[0])
        self._buffer = rest
        while len(self._buffer) < length:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        path, _, query = path.partition("?")
        for pattern, endpoint in _PATHS:
            found = pattern.fullmatch(f"{method} {path}")
            if found:
                name = found[1] if found.groups() else None
                values = {key: each[-1] for key, each in parse_qs(query, keep_blank_values=True).items()}
                session_id = name if endpoint in ("get", "transcript", "events") else None
                return Request(endpoint or found[1], path, headers, body, self.number, method, values, session_id)
        raise ValueError(f"not a request of the contract: {first}")


class Exchange:
    """One request that has arrived, for a behaviour to deal with."""

    def __init__(self, server: FaultServer, connection: _Connection, request: Request) -> None:
        self.server = server
        self.connection = connection
        self.request = request

    def do(self) -> tuple[int, dict[str, Any]]:
        """Let the service do what was asked; what it would answer."""
        return self.server.do(self.request)

    def send(self, data: bytes) -> None:
        self.connection.raw.sendall(data)
        with self.server.lock:
            self.server.ledger.bytes_sent += len(data)

    def answer(self, status: int, body: object, headers: Headers | None = None) -> None:
        self.send(message(status, body, headers))

    def hang_up(self) -> None:
        """Close as a well-behaved peer does."""
        self.connection.shut()
        raise GoneError

    def reset(self) -> None:
        """Close as a crashed peer does."""
        self.connection.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.raw.close()
        raise GoneError

    def until_client_leaves(self) -> None:
        """Wait until the client closes the connection, or the server ends."""
        self.connection.idle = True  # waiting is rest
        raw, quit_ = self.connection.raw, self.server._quit
        while True:
            ready = readable([raw, quit_], 30)
            if quit_.fileno() in ready:
                raise GoneError
            if ready and not raw.recv(65536):
                self.connection.idle = False
                return

    def pause(self, seconds: float) -> None:
        if self.server.quitting(seconds):
            raise GoneError


_PHRASES = {200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 401: "Unauthorized", 404: "Not Found"}


def message(status: int, body: object, headers: Headers | None = None) -> bytes:
    """A whole response. A body that is no bytes or text goes out as JSON."""
    given = {name.lower(): value for name, value in (headers or {}).items()}
    if isinstance(body, str):
        given.setdefault("content-type", "text/html; charset=utf-8" if "<" in body else "text/plain")
        content = body.encode()
    elif isinstance(body, bytes):
        given.setdefault("content-type", "application/json")
        content = body
    else:
        given.setdefault("content-type", "application/json")
        content = json.dumps(body).encode()
    if status not in (204, 304):
        given.setdefault("content-length", str(len(content)))
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, 'Whatever')}", *(f"{k}: {v}" for k, v in given.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (b"" if status in (204, 304) else content)


# ---------------------------------------------------------------------------------------------------------------
# Behaviours


def normal(exchange: Exchange) -> None:
    """As the service does."""
    exchange.answer(*exchange.do())


def answers(status: int, body: object = b"", headers: Headers | None = None, *, acts: bool = False) -> Behaviour:
    """A given answer, to a request that the service did (`acts`) or did not carry out."""

    def behave(exchange: Exchange) -> None:
        if acts:
            exchange.do()
        exchange.answer(status, body, headers)

    return behave


def refuses(status: int, words: str, code: int | None = None, headers: Headers | None = None) -> Behaviour:
    """An envelope with an error."""
    return answers(status, {"code": code or status * 10, "data": None, "message": words}, headers)


def edits(change: Callable[[dict[str, Any]], object], status: int | None = None) -> Behaviour:
    """The service's own answer, its envelope changed in place; the service did what was asked."""

    def behave(exchange: Exchange) -> None:
        usual, body = exchange.do()
        change(body)
        exchange.answer(status or usual, body)

    return behave


def replaces(make: Callable[[dict[str, Any]], object]) -> Behaviour:
    """Another body, made of the service's own, under the usual status; the service did what was asked."""

    def behave(exchange: Exchange) -> None:
        status, body = exchange.do()
        exchange.answer(status, make(body))

    return behave


def resets(*, acts: bool = False) -> Behaviour:
    """A reset in place of an answer."""

    def behave(exchange: Exchange) -> None:
        if acts:
            exchange.do()
        exchange.reset()

    return behave


def hangs_up(*, acts: bool = False) -> Behaviour:
    """A clean close in place of an answer."""

    def behave(exchange: Exchange) -> None:
        if acts:
            exchange.do()
        exchange.hang_up()

    return behave


def cut(part: float = 0.5, *, reset: bool = False, chunked: bool = False) -> Behaviour:
    """The service's own answer, up to a part of its body, then the end."""

    def behave(exchange: Exchange) -> None:
        status, body = exchange.do()
        content = json.dumps(body).encode()
        kept = content[: int(part * len(content))]
        if chunked:
            whole = message(status, content, {"transfer-encoding": "chunked", "content-length": "0"})
            head = whole.replace(b"content-length: 0\r\n", b"").partition(b"\r\n\r\n")[0]
            exchange.send(head + b"\r\n\r\n%x\r\n" % len(content) + kept)
        else:
            exchange.send(message(status, content).partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + kept)
        if reset:
            exchange.pause(0.05)  # a reset may overtake what was sent before it
            exchange.reset()
        exchange.hang_up()

    return behave


def cut_head(data: bytes = b"HTTP/1.1 201 Created\r\nContent-Ty") -> Behaviour:
    """Part of the status line or headers, then the end; the service did what was asked."""

    def behave(exchange: Exchange) -> None:
        exchange.do()
        exchange.send(data)
        exchange.hang_up()

    return behave


def holds(*, acts: bool = False) -> Behaviour:
    """No answer, for as long as the client stays."""

    def behave(exchange: Exchange) -> None:
        if acts:
            exchange.do()
        exchange.until_client_leaves()

    return behave


def holds_body(exchange: Exchange) -> None:
    """Done, the head of the answer and half its body; then silence."""
    status, body = exchange.do()
    whole = message(status, body)
    exchange.send(whole[: -len(json.dumps(body)) // 2])
    exchange.until_client_leaves()


def delays(seconds: float, then: Behaviour = normal) -> Behaviour:
    """A pause, then another behaviour."""

    def behave(exchange: Exchange) -> None:
        exchange.pause(seconds)
        then(exchange)

    return behave


def waits_for(event: threading.Event, then: Behaviour = normal) -> Behaviour:
    """Another behaviour, once an event is set."""

    def behave(exchange: Exchange) -> None:
        while not event.wait(0.005):
            exchange.pause(0)
        then(exchange)

    return behave


def drips(where: str, *, acts: bool = True, every: float = 0.02) -> Behaviour:
    """A little at a time for ever: `status` line, `headers`, `body`, `chunked` body, or `interim` answers."""
    before = {
        "status": b"HTTP/1.1 201 ",
        "headers": b"HTTP/1.1 201 Created\r\nX-Filler: ",
        "body": b'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{"data": "',
        "interim": b"HTTP/1.1 100 Continue\r\n\r\n",
        "chunked": b'HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n"\r\n',
    }[where]
    byte = {"chunked": b"1\r\na\r\n", "interim": b"HTTP/1.1 103 Early Hints\r\n\r\n"}.get(where, b"a")

    def behave(exchange: Exchange) -> None:
        if acts:
            exchange.do()
        exchange.send(before)
        with exchange.server.lock:
            exchange.connection.idle = False
        while True:
            exchange.send(byte)
            exchange.pause(every)

    return behave


def sends(data: bytes, *, acts: bool = True, then: str = "hang up") -> Behaviour:
    """These bytes in place of an answer."""

    def behave(exchange: Exchange) -> None:
        if acts:
            exchange.do()
        exchange.send(data)
        if then == "hang up":
            exchange.hang_up()
        exchange.until_client_leaves()

    return behave


def interim(*statuses: int) -> Behaviour:
    """Interim answers before the real one."""

    def behave(exchange: Exchange) -> None:
        for status in statuses:
            link = "Link: </style.css>; rel=preload\r\n" if status == 103 else ""
            exchange.send(f"HTTP/1.1 {status} Wait\r\n{link}\r\n".encode())
        normal(exchange)

    return behave


def endless(how: str, status: int | None = None, limit: int = 256 * 1024 * 1024) -> Behaviour:
    """A body without end: `chunked`, `plain` (until the connection closes) or `announced` (a huge length)."""
    headers = {
        "chunked": "Transfer-Encoding: chunked",
        "plain": "Connection: close",
        "announced": f"Content-Length: {limit}",
    }[how]
    filler = b" " * 65536

    def behave(exchange: Exchange) -> None:
        usual = status if status and status >= 400 else exchange.do()[0]
        exchange.send(
            f"HTTP/1.1 {status or usual} Created\r\nContent-Type: application/json\r\n{headers}\r\n\r\n".encode()
        )
        sent = 0
        while sent < limit:
            exchange.send(b"%x\r\n" % len(filler) + filler + b"\r\n" if how == "chunked" else filler)
            sent += len(filler)
        exchange.hang_up()

    return behave


def encoded(encoding: str = "gzip", *, bomb: bool = False) -> Behaviour:
    """The service's own answer in an encoding nobody asked for; as a `bomb` it grows a thousandfold."""

    def behave(exchange: Exchange) -> None:
        status, body = exchange.do()
        content = json.dumps(body).encode()
        if bomb:
            content += b" " * (64 * 1024 * 1024)
        exchange.answer(status, gzip.compress(content, 6), {"content-encoding": encoding})

    return behave


def redirects(status: int, url: str, *, acts: bool = False) -> Behaviour:
    """To another place."""

    def behave(exchange: Exchange) -> None:
        if acts:
            exchange.do()
        exchange.answer(status, b"", {"location": f"{url}/sessions/{exchange.request.endpoint}"})

    return behave


def starts_late(seconds: float, *, answer: Behaviour | None = None) -> Behaviour:
    """Held; the session starts so long after the client has left (or has got `answer`). Until then: not found."""

    def behave(exchange: Exchange) -> None:
        server = exchange.server
        session = server.session_of(exchange.request)
        assert session is not None
        with server.lock:
            server.ledger.state[session] = "late"
        if answer is None:
            exchange.until_client_leaves()
        server.later(seconds, lambda: server.begin(session))
        if answer is not None:
            answer(exchange)

    return behave


def until_started(refusal: Behaviour) -> Behaviour:
    """For a stop: a refusal while the session has not started, then as the service does."""

    def behave(exchange: Exchange) -> None:
        server, request = exchange.server, exchange.request
        with server.lock:
            named = server.session_of(request) or (request.json or {}).get("session_id", "")
            started = server.ledger.state.get(named) not in ("minted", "late")
        (normal if started else refusal)(exchange)

    return behave


def says_too_much(extra: bytes) -> Behaviour:
    """As the service does, with more bytes right behind; the connection stays open."""

    def behave(exchange: Exchange) -> None:
        exchange.send(message(*exchange.do()) + extra)

    return behave


def speaks_later(stray: bytes, when: threading.Event | None = None, *, then_closes: bool = False) -> Behaviour:
    """As the service does; later, unasked, these bytes follow on the idle connection: 10 ms later, or when told."""

    def behave(exchange: Exchange) -> None:
        exchange.answer(*exchange.do())
        if when is None:
            exchange.pause(0.01)
        while when is not None and not when.wait(0.001):
            exchange.pause(0)
        exchange.send(stray)
        if then_closes:
            exchange.hang_up()

    return behave


def closes_with_response(exchange: Exchange) -> None:
    """As the service does; the end of the connection arrives together with the response, unannounced."""
    cork(exchange.connection.raw)
    exchange.answer(*exchange.do())
    exchange.hang_up()


def cork(raw: socket.socket) -> None:
    """Let the kernel hold back what is sent until the connection is shut, so that both arrive together."""
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)


def leaves(exchange: Exchange) -> None:
    """As the service does; the connection is then closed, though nothing said so."""
    exchange.answer(*exchange.do())
    exchange.hang_up()


def vanishes(exchange: Exchange) -> None:
    """As the service does, and then nobody listens any more."""
    exchange.server.refuse()
    exchange.answer(*exchange.do(), {"connection": "close"})
    exchange.hang_up()


def echoes(status: int, *, form: str = "json", acts: bool = False) -> Behaviour:
    """An error that repeats the request, credentials and body included, as careless gateways do."""

    def behave(exchange: Exchange) -> None:
        if acts:
            exchange.do()
        request = exchange.request
        lines = [f"{name}: {value}" for name, values in request.headers.items() for value in values]
        seen = "\n".join([f"POST {request.path}", *lines, "", request.body.decode()])
        body_of_json = {"code": status * 10, "data": None, "message": f"cannot serve: {seen}"}
        body: object = {
            "json": body_of_json,
            "escaped": None,
            "fields": {
                "code": 5000,
                "message": "no",
                "data": [{"loc": lines, "message": seen}],
                "request": request.json,
            },
            "fastapi": {"detail": [{"loc": ["header", *lines], "msg": seen, "type": "value_error", "input": seen}]},
            "detail": {"detail": repr(lines)},
            "html": f"<html><body><pre>{seen}</pre></body></html>",
            "text": seen,
        }[form]
        if form == "escaped":  # as PHP and .NET write JSON
            body = json.dumps(body_of_json).replace("/", "\\/").replace("+", "\\u002B").encode()
        exchange.answer(status, body, {"x-request-id": " ".join(lines)[:4000]})

    return behave


@contextlib.contextmanager
def serving(*args: Any, **kwargs: Any) -> Iterator[FaultServer]:
    """A fault server for the length of a `with`."""
    with FaultServer(*args, **kwargs) as server:
        yield server
