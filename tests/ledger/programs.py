"""Programs that use a ledger and are killed by the tests. Each ends when its standard input is closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from types import FrameType
from typing import Any

from liveavatar import (
    AsyncLiveAvatarApi,
    LedgerError,
    LiveAvatarApi,
    LiveAvatarNewSessionRequest,
    _recovery,
    _recovery_task,
)

from tests.ledger.support import KEY, entry, make


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")  # in one piece, as threads say something too
    sys.stdout.flush()


def until_closed() -> None:
    sys.stdin.read()


def hold(location: str, *session_ids: str) -> None:
    """Write sessions down, and live on."""
    ledger = make(location)
    for session_id in session_ids:
        ledger.add(entry(session_id))
    say("ready", os.getpid())
    until_closed()
    del ledger


def exit_at_once(location: str, *session_ids: str) -> None:
    """Write sessions down, and end without any cleanup."""
    ledger = make(location)
    for session_id in session_ids:
        ledger.add(entry(session_id))
    os._exit(0)


def fork(location: str) -> None:
    """Write a session down, fork, and let the child write one down too. Both live on."""
    ledger = make(location)
    ledger.add(entry("parent"))
    if not os.fork():
        ledger.remove("parent")  # not the child's
        ledger.add(entry("child"))
        say("child", os.getpid())
        until_closed()
        os._exit(0)
    until_closed()


def idle_child(location: str) -> None:
    """Write a session down, and fork a child that never uses the ledger and outlives its parent."""
    ledger = make(location)
    ledger.add(entry("parent"))
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    say("ready", child)
    until_closed()


def other_program(location: str) -> None:
    """Write a session down, and run another program that outlives this one."""
    ledger = make(location)
    ledger.add(entry("parent"))
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    say("ready", child.pid)
    until_closed()


def fork_under_load(location: str) -> None:
    """Fork again and again while threads are at work in the ledger. Each child can use it."""
    ledger = make(location)
    done = threading.Event()

    def work(name: str) -> None:
        while not done.is_set():
            ledger.add(entry(name))
            ledger.remove(name)

    threads = [threading.Thread(target=work, args=(f"thread-{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for number in range(10):
        child = os.fork()
        if not child:
            signal.alarm(20)  # a deadlock ends the child
            ledger.add(entry(f"child-{number}"))
            os._exit(0)
        say(os.waitpid(child, 0)[1])
    done.set()
    for thread in threads:
        thread.join()


def claim_all(location: str) -> None:
    """Claim whatever can be claimed, when the test says so, and live on."""
    ledger = make(location)
    say("ready")
    sys.stdin.readline()
    for found in ledger.entries():
        if ledger.claim(found.session_id):
            say(found.session_id)
    say("done")
    until_closed()


def churn(location: str, name: str, pause: str = "0") -> None:
    """Write sessions down and remove them, and say so after each step, for ever."""
    ledger = make(location)
    number = 0
    threading.Thread(target=lambda: (until_closed(), os._exit(0)), daemon=True).start()
    while True:
        session_id = f"{name}-{number}"
        say("adding", session_id)
        ledger.add(entry(session_id))
        say("added", session_id)
        time.sleep(float(pause))
        if number % 3:
            say("removing", session_id)
            with contextlib.suppress(LedgerError):  # on a busy machine it is removed later
                ledger.remove(session_id)
            say("removed", session_id)
        number += 1


def in_signal_handlers(location: str) -> None:
    """Use the ledger in a signal handler that interrupts the ledger."""
    ledger = make(location)
    used: list[str] = []

    def handle(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        session_id = f"handler-{len(used)}"
        ledger.add(entry(session_id))
        ledger.remove(session_id)
        used.append(session_id)

    signal.signal(signal.SIGALRM, handle)
    for number in range(40):
        signal.setitimer(signal.ITIMER_REAL, 0.0002 * (number % 12 + 1))
        started = time.monotonic()
        ledger.add(entry("main"))
        ledger.remove("main")
        assert time.monotonic() - started < 4
    signal.setitimer(signal.ITIMER_REAL, 0)
    say(len(used) > 0, len(ledger.entries()))


async def scenario(flavour: str, url: str, location: str, opened: Any = None) -> None:
    """Open a session and close it, as a program does that uses a ledger."""
    if flavour == "blocking":
        with LiveAvatarApi(KEY, base_url=url, ledger=make(location)) as api:
            session = api.new_session(request())
            if opened is not None:
                opened(session.session_id)
            api.close_session(session.session_id)
    else:
        async with AsyncLiveAvatarApi(KEY, base_url=url, ledger=make(location)) as async_api:
            session = await async_api.new_session(request())
            if opened is not None:
                opened(session.session_id)
            await async_api.close_session(session.session_id)


class KillAtLine:
    """Kills the process at the n-th line of the client or the ledger that the main thread executes."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.seen = 0

    def called(self, frame: FrameType, event: str, arg: object) -> Any:
        return self.line if frame.f_globals.get("__name__", "").startswith("liveavatar.") else None

    def line(self, frame: FrameType, event: str, arg: object) -> Any:
        self.seen += event == "line"
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.line


def die_at_any_moment(location: str, url: str, flavour: str, times: str) -> None:
    """Fork a process for each moment: half of them are killed at some line, half after some time.

    They do not recover each other's sessions, so that all are left to one recovery.
    """
    if flavour == "async":
        import_module("liveavatar._transports._aiohttp")  # once, and not in each process
    make(location)
    for kind in (_recovery.RecoveryThread, _recovery_task.RecoveryTask):
        kind.start = lambda self: None  # type: ignore[attr-defined]
    reader, writer = os.pipe()
    if not os.fork():
        lines = KillAtLine(None)
        sys.settrace(lines.called)
        asyncio.run(scenario(flavour, url, location))
        sys.settrace(None)
        os.write(writer, str(lines.seen).encode())
        os._exit(0)
    os.wait()
    total = int(os.read(reader, 100))
    moments = int(times)
    for moment in range(moments):
        child = os.fork()
        if not child:
            if moment % 2:
                sys.settrace(KillAtLine(1 + total * moment // moments).called)
            asyncio.run(scenario(flavour, url, location))
            os._exit(0)
        if not moment % 2:
            time.sleep(0.1 * moment / moments)
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    say("done", total)


def open_and_hold(location: str, url: str, flavour: str, *modes: str) -> None:
    """Open a session, say its id, and hold it, or end in some way without closing it."""

    def opened(session_id: str) -> None:
        say(session_id)
        if "exit" in modes:
            os._exit(0)
        until_closed()

    asyncio.run(scenario(flavour, url, location, opened))


def work(location: str, url: str, flavour: str) -> None:
    """Open and close sessions in many threads or tasks, for ever."""
    for module in (_recovery, _recovery_task):
        module.RECOVERY_INTERVAL = 0.5  # type: ignore[attr-defined]
    threading.Thread(target=lambda: (until_closed(), os._exit(0)), daemon=True).start()
    if flavour == "blocking":
        with LiveAvatarApi(KEY, base_url=url, ledger=make(location)) as api:

            def loop() -> None:
                while True:
                    with api.session(request()) as session:
                        say(session.session_id)
                        time.sleep(0.2)

            threads = [threading.Thread(target=loop, daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    else:

        async def run() -> None:
            async with AsyncLiveAvatarApi(KEY, base_url=url, ledger=make(location)) as api:

                async def loop() -> None:
                    while True:
                        async with api.session(request()) as session:
                            say(session.session_id)
                            await asyncio.sleep(0.2)

                await asyncio.gather(*(loop() for _ in range(4)))

        asyncio.run(run())


def leave_open(location: str, url: str, flavour: str) -> None:
    """Open a session, and let the program end without closing the client."""
    if flavour == "blocking":
        api = LiveAvatarApi(KEY, base_url=url, ledger=make(location))
        say(api.new_session(request()).session_id)
    else:

        async def run() -> None:
            api = AsyncLiveAvatarApi(KEY, base_url=url, ledger=make(location))
            say((await api.new_session(request())).session_id)

        asyncio.run(run())


def fork_with_client(location: str, url: str) -> None:
    """Open a session, fork, and open another with the same client in the child; kill the child."""
    api = LiveAvatarApi(KEY, base_url=url, ledger=make(location))
    say("parent", api.new_session(request()).session_id)
    child = os.fork()
    if not child:
        say("child", api.new_session(request()).session_id)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    say("done")
    until_closed()
    api.close()


def request() -> LiveAvatarNewSessionRequest:
    return LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
