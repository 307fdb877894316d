"""Cancellation at every turn of the event loop: a loop that counts the turns in which something happened."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class SteppingLoop(asyncio.SelectorEventLoop):
    """Waits in `select` as every loop does, so a turn is one batch of things that were ready: few, and countable."""

    on_turn: Callable[[], None] | None = None

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        if self.on_turn is not None:
            self.on_turn()


class Outcome:
    """How a cancelled call ended."""

    def __init__(self) -> None:
        self.turns = 0
        self.cancels = 0
        """Cancellations that the task took up."""
        self.value: Any = None
        self.error: BaseException | None = None


async def cancelled_at(work: Callable[[], Awaitable[Any]], *turns: int) -> Outcome:
    """Run `work` in a task that is cancelled at these turns of the loop (1 is the first)."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppingLoop)
    outcome = Outcome()

    async def body() -> Any:
        return await work()

    task = asyncio.ensure_future(body())

    def on_turn() -> None:
        if task.done():
            return
        outcome.turns += 1
        if outcome.turns in turns:
            outcome.cancels += task.cancel()

    loop.on_turn = on_turn
    try:
        outcome.value = await task
    except (Exception, asyncio.CancelledError) as error:
        outcome.error = error
    finally:
        loop.on_turn = None
    return outcome
