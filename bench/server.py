"""A server that does as little as can be: canned responses, and counters that it gives at GET /counts.

Run as `python -m bench.server [CERTIFICATE KEY]`; it prints its port and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import sys

ID = "00000000-0a1b-4c2d-8e3f-0a1b2c3d4e5f"
TOKEN = "t" * 300

RESPONSES = {
    b"token": (b"200 OK", {"session_id": ID, "session_token": ID + TOKEN}),
    b"start": (
        b"201 Created",
        {
            "session_id": ID,
            "livekit_url": "wss://room.livekit.invalid",
            "livekit_client_token": "c" * 400,
            "livekit_agent_token": "a" * 400,
            "max_session_duration": 1200,
            "ws_url": "wss://events.liveavatar.invalid/v1/ws/" + "w" * 40,
        },
    ),
    b"stop": (b"200 OK", None),
}


def packed(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


BODIES = {
    name: packed(status, json.dumps({"code": 1000, "data": data, "message": "Success"}).encode())
    for name, (status, data) in RESPONSES.items()
}

created = itertools.count()
counts = {"connections": 0, "requests": 0, "token": 0, "start": 0, "stop": 0}


class Service(asyncio.Protocol):
    """One connection; over TLS it exists once the handshake is done."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        counts["connections"] += 1
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            self.response(head)

    def response(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path == b"/counts":
            counts["connections"] -= 1  # the one that asks
            self.transport.write(packed(b"200 OK", json.dumps(counts).encode()))
            counts.update(dict.fromkeys(counts, 0))
            return
        name = path.rsplit(b"/", 1)[1]
        counts["requests"] += 1
        counts[name.decode()] += 1
        body = BODIES[name]
        if name == b"token":
            body = body.replace(ID[:8].encode(), b"%08x" % next(created))
        elif name == b"start":  # the session's id stands at the head of its token
            at = head.lower().find(b"bearer ") + 7
            body = body.replace(ID[:8].encode(), head[at : at + 8])
        self.transport.write(body)


async def main() -> None:
    context = None
    if len(sys.argv) > 1:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*sys.argv[1:3])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Service, "127.0.0.1", 0, backlog=4096, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
