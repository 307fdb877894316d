"""`python -m tests.faults.steady`: a service whose every tenth start breaks, as a process of its own.

It prints its address; when its input ends or a line comes, what it counted and how many sessions run.
"""

from __future__ import annotations

import sys

from tests.faults import server as fault
from tests.faults.server import Exchange, FaultServer

WAYS = (fault.answers(500, acts=True), fault.cut(), fault.hangs_up(acts=True), fault.answers(504), fault.resets())


def main() -> None:
    with FaultServer() as server:
        starts = 0

        def every_tenth_breaks(exchange: Exchange) -> None:
            nonlocal starts
            with server.lock:
                starts += 1
                number = starts
            (WAYS[number // 10 % len(WAYS)] if number % 10 == 0 else fault.normal)(exchange)

        server.on("start", every_tenth_breaks)
        print(server.url, flush=True)
        sys.stdin.readline()
        print(*server.counts)
        print(len(server.running), flush=True)


if __name__ == "__main__":
    main()
