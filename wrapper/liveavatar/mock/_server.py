"""The mock server on a real socket, in a background thread."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, Unpack

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ._app import MockService
from ._http import logger
from ._session import SessionSnapshot
from ._settings import Settings, SettingsKeywords

_KEEP_ALIVE_SECONDS = 75  # as long as gateways keep an idle connection

_UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # an address to listen on, and one to connect to


class MockServer:
    """A mock server that listens inside its ``with`` block, on loopback unless ``host`` says otherwise.

    Args:
        port: TCP port; 0 takes a free one.
        host: IP address to listen on. Other machines reach the server only if it is not loopback, for example
            "0.0.0.0", which is every address of this machine.
        **settings: see ``Settings``.

    Attributes:
        host: the address on which it listens.
        port: the TCP port; inside the ``with`` block, the real one.
        connections: number of TCP connections that it has accepted.

    Raises:
        ValueError: the host is no IP address, or a setting is not valid.
        OSError: on entering the block: the port is in use.
    """

    def __init__(self, port: int = 0, *, host: str = "127.0.0.1", **settings: Unpack[SettingsKeywords]) -> None:
        self.host = _ip_address(host)
        self.port = port
        self.connections = 0
        self._service = MockService(Settings(**settings))
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address of the page on this machine: ``http://127.0.0.1:PORT``."""
        host = _UNSPECIFIED.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """The base URL for clients: ``http://127.0.0.1:PORT/v1``."""
        return f"{self.url}/v1"

    @property
    def api_key(self) -> str:
        """An API key that is accepted."""
        return self._service.settings.api_keys[0]

    @property
    def sessions(self) -> list[SessionSnapshot]:
        """All sessions as they are now, oldest first. Of the ended ones, the last thousand are kept."""
        return self._service.sessions.snapshots()

    @property
    def running_sessions(self) -> list[str]:
        """Ids of the sessions that are running."""
        return self._service.sessions.running_ids()

    @property
    def requests(self) -> dict[str, int]:
        """Number of requests by endpoint, refused ones included.

        "token", "start" and "stop" are always present; "keep-alive", "list", "get", "transcript" and "delete-events"
        once they have been used.
        """
        return {"token": 0, "start": 0, "stop": 0, **self._service.requests}

    def wait(self) -> None:
        """Block until the server ends. Ctrl-C interrupts it."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(timeout=1)

    def __enter__(self) -> Self:
        listener = socket.create_server(
            (self.host, self.port), family=socket.AF_INET6 if ":" in self.host else socket.AF_INET
        )
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._service.app,
            http=_counting(self._accepted),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,  # the embedding program configures logging
            log_level="error",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="liveavatar-mock", daemon=True
        )
        self._thread.start()
        self._server.listens.wait(timeout=10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()

    def _accepted(self) -> None:
        self.connections += 1


@contextmanager
def mock_server(
    port: int = 0, *, host: str = "127.0.0.1", **settings: Unpack[SettingsKeywords]
) -> Iterator[MockServer]:
    """Run a mock server in the background, for the length of a ``with`` block.

    Args:
        port: TCP port; 0 takes a free one.
        host: IP address to listen on. Other machines reach the server only if it is not loopback, for example
            "0.0.0.0", which is every address of this machine.
        **settings: see ``Settings``.

    Raises:
        ValueError: the host is no IP address, or a setting is not valid.
        OSError: the port is in use.
    """
    with MockServer(port, host=host, **settings) as service:
        yield service


class _Server(uvicorn.Server):
    """A server that tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


def _counting(accepted: Callable[[], None]) -> type[asyncio.Protocol]:
    class Counting(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            accepted()
            # asyncio sets this only on a socket that names its protocol. Without it each response takes 40 ms.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().connection_made(transport)

        def send_400_response(self, msg: str) -> None:
            logger.info("400 This is not HTTP. A client may be using https://; this server speaks http:// only.")
            super().send_400_response(msg)

    return Counting


def _ip_address(host: str) -> str:
    try:
        return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host))
    except ValueError:
        raise ValueError(f"host must be an IP address or localhost, not {host!r}") from None
