"""What an operation is, and how it is run."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from liveavatar.mock import MockServer, mock_server

SANDBOX_AVATAR = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"
LIMIT_SECONDS = 60

Run = Callable[[MockServer], Awaitable[None]]


@dataclass(frozen=True)
class Operation:
    """Something that a client does in production.

    Attributes:
        client: name and version of the client.
        name: what it does.
        run: does it against a mock server, and raises when it does not work.
        settings: settings of the mock server.
        fault: why the client itself leaves a session running, here as at the service; None where all works.
    """

    client: str
    name: str
    run: Run
    settings: dict[str, Any]
    fault: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of an operation."""

    operation: Operation
    requests: dict[str, int]
    left_running: int
    error: str | None

    @property
    def passed(self) -> bool:
        """Whether it works, or leaves a session running as the client is known to do."""
        if self.operation.fault:
            return self.left_running > 0
        return self.error is None and not self.left_running

    @property
    def verdict(self) -> str:
        """One line for the table."""
        if self.operation.fault:
            return f"client's fault: {self.operation.fault}" if self.passed else f"FAILS: no such fault; {self.error}"
        if self.error:
            return f"FAILS: {self.error}"
        return "FAILS: a session is left running" if self.left_running else "works"


REGISTRY: list[Operation] = []


def operation(client: str, name: str, *, fault: str | None = None, **settings: Any) -> Callable[[Run], Run]:
    """Register an operation; the settings are those of its mock server."""

    def register(run: Run) -> Run:
        REGISTRY.append(Operation(client, name, run, settings, fault))
        return run

    return register


def perform(operation: Operation, *, details: bool = False) -> Outcome:
    """Run an operation against a mock server of its own."""
    error = None
    with mock_server(**operation.settings) as service:
        try:
            asyncio.run(asyncio.wait_for(operation.run(service), LIMIT_SECONDS))
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}".splitlines()[0][:160]
            if details:
                traceback.print_exc()
        return Outcome(operation, service.requests, len(service.running_sessions), error)


async def refused(call: Awaitable[object], kind: type[Exception], status: int | None = None) -> Exception:
    """Require that a call raises the client's own error, and return that error.

    Raises:
        AssertionError: the call succeeds, or reports another status.
    """
    try:
        await call
    except kind as error:
        found = {getattr(error, name, None) for name in ("status", "status_code")}
        assert status is None or status in found, f"reported {found - {None}}, not {status}"
        return error
    raise AssertionError("it should have been refused")
