"""The judge of other people's clients: how it judges, and the programs that need no package."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from liveavatar.mock import MockServer

from interop import raw
from interop.operations import REGISTRY, Operation, perform, refused

PROGRAMS = [operation for operation in REGISTRY if operation.run.__module__ == raw.__name__]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.client}: {program.name}")
def test_program(program: Operation) -> None:
    """A program that works at the service works with the mock server, and leaves nothing running."""
    outcome = perform(program)
    assert outcome.passed, outcome.verdict
    assert outcome.verdict == "works"
    assert outcome.requests["token"] > 0


def judged(run: Callable[[MockServer], Awaitable[None]], fault: str | None = None) -> tuple[bool, str]:
    """Return whether an operation passes, and its verdict."""
    outcome = perform(Operation("a client", "an operation", run, {}, fault))
    return outcome.passed, outcome.verdict


async def leave_running(service: MockServer) -> None:
    """Start a session and do not stop it."""
    async with raw.Program(service) as program:
        await program.token(mode="LITE")
        await program.start()


async def fail(service: MockServer) -> None:
    """Fail before a session is opened."""
    raise ValueError("no such thing\nsecond line")


async def succeed(service: MockServer) -> None:
    """Do nothing."""


def test_left_running() -> None:
    """A session that is left running fails an operation that raised nothing."""
    assert judged(leave_running) == (False, "FAILS: a session is left running")


def test_error() -> None:
    """An error fails the operation, and its first line is the verdict."""
    assert judged(fail) == (False, "FAILS: ValueError: no such thing")


def test_fault_of_the_client() -> None:
    """A known fault of the client passes only as long as it leaves a session running."""
    assert judged(leave_running, "it forgets") == (True, "client's fault: it forgets")
    assert judged(succeed, "it forgets") == (False, "FAILS: no such fault; None")
    assert judged(fail, "it forgets")[0] is False


def test_refused() -> None:
    """A refusal has to be the client's own error, with the expected status."""

    async def respond(status: int) -> None:
        raise httpx.HTTPStatusError("", request=httpx.Request("GET", "/"), response=httpx.Response(status))

    class OwnError(Exception):
        status = 401

    async def own() -> None:
        raise OwnError

    assert isinstance(asyncio.run(refused(own(), OwnError, 401)), OwnError)
    with pytest.raises(AssertionError, match=r"reported \{401\}, not 403"):
        asyncio.run(refused(own(), OwnError, 403))
    with pytest.raises(AssertionError, match="it should have been refused"):
        asyncio.run(refused(asyncio.sleep(0), OwnError))
    with pytest.raises(httpx.HTTPStatusError):
        asyncio.run(refused(respond(401), OwnError, 401))
