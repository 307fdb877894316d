"""Programs that use a ledger and are killed by the tests. Each ends when its standard input is closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from tests.ledger.support import entry, make


def say(*words: object) -> None:
    print(*words, flush=True)


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


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
