"""What every ledger promises, with real processes that really die."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import attrs
import pytest
from liveavatar.ledger import Ledger, LedgerEntry, RedisLedger, SqliteLedger, account_id, open_ledger

from tests.ledger.support import LEASE, alive, entry, make, program, wait_until


def test_round_trip(location: str) -> None:
    """An entry comes back as it was written down, with its owner."""
    ledger = make(location)
    started_at = datetime(2026, 11, 27, 12, 30, 15, 123456, timezone(timedelta(hours=5)))
    ledger.add(LedgerEntry("a", "account", "https://example.com/v1", started_at))
    (found,) = ledger.entries()
    assert attrs.evolve(found, owner="") == LedgerEntry(
        "a", "account", "https://example.com/v1", started_at, owner_alive=True
    )
    assert str(os.getpid()) in found.owner
    assert found.started_at.tzinfo == UTC


def test_order(location: str) -> None:
    """The entries are listed oldest first."""
    ledger = make(location)
    for session_id, day in [("b", 2), ("c", 3), ("a", 1)]:
        ledger.add(attrs.evolve(entry(session_id), started_at=datetime(2026, 1, day, tzinfo=UTC)))
    assert [found.session_id for found in ledger.entries()] == ["a", "b", "c"]


def test_remove(location: str) -> None:
    """A session is removed by its owner, and by no one else."""
    mine, other = make(location), make(location)
    mine.add(entry("a"))
    other.remove("a")
    other.remove("unknown")
    assert alive(mine) == {"a": True}
    mine.remove("a")
    mine.remove("a")
    assert mine.entries() == other.entries() == []


def test_claim_living(location: str) -> None:
    """A session of a living owner, one's own and an unknown one cannot be claimed."""
    mine, other = make(location), make(location)
    mine.add(entry("a"))
    assert not other.claim("a")
    assert not mine.claim("a")
    assert not mine.claim("unknown")
    assert alive(other) == {"a": True}


def test_add_takes_over(location: str) -> None:
    """Adding a session that another owner has, as after a handover, changes its owner."""
    mine, other = make(location), make(location)
    mine.add(entry("a"))
    other.add(entry("a"))
    mine.remove("a")
    (found,) = other.entries()
    assert found.owner_alive
    other.remove("a")
    assert mine.entries() == []


def dead(ledger: Ledger, *session_ids: str) -> None:
    """Wait until the owners of these sessions are known to be dead: at once, or when their lease has expired."""
    wait_until(lambda: all(alive(ledger)[session_id] is False for session_id in session_ids), LEASE + 20)


@pytest.mark.parametrize("way", ["killed", "exited", "interrupted"])
def test_death(location: str, way: str) -> None:
    """The sessions of a dead process can be claimed, once, and are then the claimant's."""
    ledger = make(location)
    if way == "exited":
        with program("exit_at_once", location, "a", "b") as holder:
            assert holder.process.wait(30) == 0
    else:
        with program("hold", location, "a", "b") as holder:
            holder.line()
            assert alive(ledger) == {"a": True, "b": True}
            assert not ledger.claim("a")
            holder.send(signal.SIGKILL if way == "killed" else signal.SIGTERM)
            holder.process.wait(30)
    dead(ledger, "a", "b")
    other = make(location)
    assert [ledger.claim("a"), ledger.claim("a"), other.claim("a")] == [True, False, False]
    assert other.claim("b")
    assert alive(ledger) == {"a": True, "b": True}
    ledger.remove("a")
    other.remove("b")
    assert ledger.entries() == []


def test_claimant_dies(location: str) -> None:
    """A session whose claimant dies too can be claimed again."""
    ledger = make(location)
    with program("hold", location, "a") as holder:
        holder.line()
    dead(ledger, "a")
    with program("claim_all", location) as claimant:
        claimant.line()
        claimant.write_line()
        assert claimant.line() == "a"
    dead(ledger, "a")
    assert ledger.claim("a")


def test_four_claimants(location: str) -> None:
    """Of four processes that claim the same sessions at once, exactly one gets each."""
    session_ids = [f"s{number}" for number in range(30)]
    ledger = make(location)
    with program("hold", location, *session_ids) as holder:
        holder.line()
    dead(ledger, *session_ids)
    with (
        program("claim_all", location) as first,
        program("claim_all", location) as second,
        program("claim_all", location) as third,
        program("claim_all", location) as fourth,
    ):
        claimants = [first, second, third, fourth]
        for claimant in claimants:
            claimant.line()
        for claimant in claimants:
            claimant.write_line()
        claimed = [line for claimant in claimants for line in iter(claimant.line, "done")]
    assert sorted(claimed) == sorted(session_ids)


def test_two_of_four_die_under_load(location: str) -> None:
    """Of four busy processes two are killed. What they had written down is found, and the others lose nothing."""
    ledger = make(location)
    with (
        program("churn", location, "a") as first,
        program("churn", location, "b") as second,
        program("churn", location, "c") as third,
        program("churn", location, "d") as fourth,
    ):
        lines = [[each.line() for _ in range(25)] for each in (first, second, third, fourth)]
        lines[0] += first.kill()
        lines[1] += second.kill()
        dead_ids = {*held(lines[0]), *held(lines[1])}
        dead(ledger, *dead_ids)
        claimed = {found.session_id for found in ledger.entries() if ledger.claim(found.session_id)}
        lines[2] += [third.line()]  # they live, and work
        lines[3] += [fourth.line()]
        assert {session_id[0] for session_id in claimed} == {"a", "b"}
        assert claimed >= dead_ids
        assert claimed - dead_ids <= {lines[0][-1].split()[-1], lines[1][-1].split()[-1]}
        living = {found.session_id for found in ledger.entries() if found.session_id[0] in "cd" and found.owner_alive}
        assert living >= {*held(lines[2][:-3]), *held(lines[3][:-3]), "c-0", "d-0"}


def held(lines: list[str]) -> list[str]:
    """The sessions that a `churn` has certainly written down, and not begun to remove."""
    steps = [line.split() for line in lines if len(line.split()) == 2]
    begun = {session_id for step, session_id in steps if step == "removing"}
    return [session_id for step, session_id in steps if step == "added" and session_id not in begun]


def test_killed_at_any_moment(sqlite_path: str) -> None:
    """Wherever in its work a process is killed, the file stays whole, and nothing that was confirmed is lost."""
    for moment in range(12):
        with program("churn", sqlite_path, f"m{moment}") as churning:
            lines = [churning.line() for _ in range(2 + moment % 5)]
            time.sleep(moment * 0.0003)
            lines += churning.kill()
        ledger = make(sqlite_path)
        found = alive(ledger)
        assert set(found.values()) <= {False}
        uncertain = {lines[-1].split()[-1]}
        assert set(found) >= set(held(lines))
        assert set(found) <= set(held(lines)) | uncertain
        for session_id in found:
            assert ledger.claim(session_id)
            ledger.remove(session_id)
        assert ledger.entries() == []


def test_fork(location: str) -> None:
    """A forked child is an owner of its own, and the death of either is not that of the other."""
    ledger = make(location)
    with program("fork", location) as forking:
        child = int(forking.line().split()[1])
        assert alive(ledger) == {"parent": True, "child": True}
        os.kill(child, signal.SIGKILL)
        dead(ledger, "child")
        assert ledger.claim("child")
        assert alive(ledger)["parent"] is True
        assert not ledger.claim("parent")


@pytest.mark.parametrize("child_kind", ["idle_child", "other_program"])
def test_child_outlives_parent(location: str, child_kind: str) -> None:
    """A child that lives on, forked or another program, does not keep the sessions of its dead parent."""
    ledger = make(location)
    with program(child_kind, location) as parent:
        child = int(parent.line().split()[1])
        parent.process.kill()
        parent.process.wait(30)
        try:
            dead(ledger, "parent")
            assert ledger.claim("parent")
        finally:
            os.kill(child, signal.SIGKILL)


def test_fork_under_load(location: str) -> None:
    """A child that is forked while threads are at work in the ledger can use it."""
    with program("fork_under_load", location) as forking:
        assert forking.rest() == ["0"] * 10


def test_signal_handler(location: str) -> None:
    """A signal handler can use the ledger while the same thread is inside it."""
    with program("in_signal_handlers", location) as running:
        assert running.rest() == ["True 0"]


def test_threads(location: str) -> None:
    """Threads can share one ledger."""
    ledger = make(location)

    def work(number: int) -> None:
        for round_ in range(5):
            ledger.add(entry(f"{number}-{round_}"))
            if round_:
                ledger.remove(f"{number}-{round_}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert alive(ledger) == {f"{number}-0": True for number in range(16)}


def test_collected(location: str) -> None:
    """The sessions of a ledger that is gone can be claimed, though the process lives on."""
    ledger, other = make(location), make(location)
    ledger.add(entry("a"))
    del ledger
    gc.collect()
    dead(other, "a")
    assert other.claim("a")


def test_no_thread_is_left(location: str) -> None:
    """A ledger without sessions has no thread."""
    before = set(threading.enumerate())
    ledger = make(location)
    assert set(threading.enumerate()) <= before
    ledger.add(entry("a"))
    ledger.remove("a")
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_protocol(location: str) -> None:
    """Both ledgers have the interface, and so has a class of the user's own."""

    class Own:
        def add(self, entry: LedgerEntry) -> None: ...

        def remove(self, session_id: str) -> None: ...

        def entries(self) -> list[LedgerEntry]:
            return []

        def claim(self, session_id: str) -> bool:
            return False

    assert isinstance(make(location), Ledger)
    assert isinstance(Own(), Ledger)
    assert not isinstance(object(), Ledger)


def test_open_ledger(location: str) -> None:
    """A path or a URL names a ledger."""
    assert type(open_ledger(location)) is (RedisLedger if "://" in location else SqliteLedger)


def test_account_id() -> None:
    """The account is the same for the same key everywhere, another for another, and does not show the key."""
    key = "a5f0c1d2-key"
    assert account_id(key) == account_id(key) != account_id(key + "x")
    code = f"from liveavatar.ledger import account_id; print(account_id({key!r}))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == account_id(key)
    assert "a5f0" not in account_id(key)
    assert len(account_id(key)) == 16


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import liveavatar; liveavatar.LiveAvatarApi('key').close()", ["liveavatar.ledger", "sqlite3", "redis"]),
        ("import liveavatar.ledger", ["sqlite3", "redis", "attrs", "attr"]),
        ("from liveavatar.ledger import SqliteLedger, LedgerEntry", ["redis"]),
    ],
)
def test_imports(code: str, absent: list[str]) -> None:
    """A program without a ledger does not load one, and one with SQLite does not need redis."""
    code += f"; import sys; print([name for name in {absent!r} if name in sys.modules])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[]"


def test_without_redis() -> None:
    """Without the extra, RedisLedger says what to install."""
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "import liveavatar.ledger as ledger\n"
        "try: ledger.open_ledger('redis://localhost')\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'liveavatar[redis]'" in printed
