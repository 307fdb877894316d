"""One measurement in an interpreter of its own: `python -m bench.worker KIND CLIENT BASE CONCURRENCY CYCLES`.

Prints one line of JSON: CPU and wall milliseconds per cycle (the server's are not in them), or kilobytes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.clients import ASYNC, AVATAR, BLOCKING, KEY, at_once


def blocking(client: str, base: str, concurrency: int, cycles: int) -> dict[str, float]:
    def share(number: int) -> None:
        for _ in range(number):
            cycle()

    with BLOCKING[client](base) as cycle, ThreadPoolExecutor(concurrency) as threads:
        list(threads.map(share, [max(1, 20 // concurrency)] * concurrency))  # opens the connections
        cpu, wall = time.process_time(), time.perf_counter()
        list(threads.map(share, [cycles // concurrency] * concurrency))
        return spent(cpu, wall, cycles // concurrency * concurrency)


def asynchronous(client: str, base: str, concurrency: int, cycles: int) -> dict[str, float]:
    async def main() -> dict[str, float]:
        async with ASYNC[client](base) as cycle:
            await at_once(cycle, concurrency, max(20, concurrency))  # opens the connections
            cpu, wall = time.process_time(), time.perf_counter()
            await at_once(cycle, concurrency, cycles)
            return spent(cpu, wall, cycles // concurrency * concurrency)

    return asyncio.run(main())


def spent(cpu: float, wall: float, cycles: int) -> dict[str, float]:
    return {
        "cpu_ms": (time.process_time() - cpu) / cycles * 1000,
        "wall_ms": (time.perf_counter() - wall) / cycles * 1000,
    }


def memory(client: str, base: str, concurrency: int, cycles: int) -> dict[str, float]:
    """Bytes per open session remembered, and what `cycles` cycles leave behind."""
    from liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest

    request = LiveAvatarNewSessionRequest(avatar_id=AVATAR)
    with LiveAvatarApi(KEY, base_url=base) as api:
        tracemalloc.start()
        for _ in range(1100):  # fill what is remembered of closed sessions
            api.close_session(api.new_session(request).session_id)
        before = held()
        for _ in range(500):
            api.new_session(request)
        per_session = (held() - before) / 500
        api.close_all_sessions()
        before = held()
        for _ in range(cycles):
            api.close_session(api.new_session(request).session_id)
        return {"bytes_per_open_session": per_session, "kib_after_cycles": (held() - before) / 1024}


def held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


KINDS: dict[str, Any] = {"blocking": blocking, "async": asynchronous, "memory": memory}

if __name__ == "__main__":
    kind, client, base, concurrency, cycles = sys.argv[1:6]
    print(json.dumps(KINDS[kind](client, base, int(concurrency), int(cycles))))
