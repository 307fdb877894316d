"""The Redis ledger: leases, and a Redis that is away, slow, full, or forgets."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from liveavatar.ledger import LedgerError, RedisLedger, _redis_store

from tests import processes
from tests.ledger.support import LEASE, RedisServer, alive, entry, make, make_redis, program, wait_until

PASSWORD = "CANARY-password"


class Log:
    """What the ledgers have logged about one server; ledgers of earlier tests may have a last word."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "liveavatar")
        self.caplog = caplog

    def warnings(self, server: RedisServer) -> list[str]:
        records = self.caplog.get_records("call")
        messages = [record.getMessage() for record in records if record.levelno == logging.WARNING]
        return [message for message in messages if f":{server.port}/" in message]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def written(server: RedisServer) -> set[str]:
    """The sessions that are in Redis."""
    fields = server.do("HKEYS", _redis_store.KEY)
    return {field.partition(":")[2] for field in fields if field.startswith("session:")}


def test_renewal(redis_server: RedisServer) -> None:
    """A living process keeps its sessions for longer than a lease, and another cannot claim them meanwhile."""
    ledger, other = make(redis_server.url), make(redis_server.url)
    ledger.add(entry("a"))
    deadline = time.monotonic() + 2 * LEASE
    while time.monotonic() < deadline:
        assert alive(other) == {"a": True}
        assert not other.claim("a")
        time.sleep(0.1)


def test_one_thread(redis_server: RedisServer) -> None:
    """A ledger has one thread while sessions are written down, whatever their number, and none before and after."""
    others = set(threading.enumerate())  # a ledger of an earlier test may still be ending

    def threads() -> int:
        return sum(thread.name == "liveavatar-ledger" for thread in set(threading.enumerate()) - others)

    ledger = make(redis_server.url)
    assert threads() == 0
    for number in range(20):
        ledger.add(entry(str(number)))
    assert threads() == 1
    for number in range(20):
        ledger.remove(str(number))
    wait_until(lambda: threads() == 0)
    assert redis_server.do("EXISTS", _redis_store.KEY) == 0, "nothing is left in Redis either"


def test_stopped(redis_server: RedisServer, log: Log) -> None:
    """While Redis is away the ledger works on, warns once, and catches up when Redis is back."""
    ledger = make(redis_server.url)
    ledger.add(entry("before"))
    ledger.add(entry("ended"))
    redis_server.stop()
    started = time.monotonic()
    with pytest.raises(LedgerError, match="session ended is removed when it can be used again"):
        ledger.remove("ended")
    for number in range(10):
        ledger.add(entry(f"during-{number}"))
        if number % 2:
            with pytest.raises(LedgerError):
                ledger.remove(f"during-{number}")
    assert time.monotonic() - started < 5  # ten times the bound would be 20
    (warning,) = log.warnings(redis_server)
    assert "cannot be used" in warning
    for operation in (ledger.entries, lambda: ledger.claim("other")):
        with pytest.raises(LedgerError):
            operation()
    redis_server.start()
    expected = {"before", *(f"during-{number}" for number in range(0, 10, 2))}
    wait_until(lambda: written(redis_server) == expected)
    wait_until(lambda: "can be used again" in log.caplog.text)
    assert len(log.warnings(redis_server)) == 1
    assert alive(make(redis_server.url)) == dict.fromkeys(expected, True)


def test_away_at_construction(redis_server: RedisServer, log: Log) -> None:
    """A program starts without Redis, with one warning, and its sessions are written down later."""
    redis_server.stop()
    ledger = make(redis_server.url)
    ledger.add(entry("a"))
    assert len(log.warnings(redis_server)) == 1
    redis_server.start()
    wait_until(lambda: written(redis_server) == {"a"})


def test_forgetful(redis_server: RedisServer) -> None:
    """If Redis comes back empty, the sessions of living processes are written down again."""
    ledger = make(redis_server.url)
    ledger.add(entry("a"))
    redis_server.stop(forget=True)
    redis_server.start()
    wait_until(lambda: written(redis_server) == {"a"})
    redis_server.do("FLUSHALL")
    wait_until(lambda: written(redis_server) == {"a"})
    ledger.remove("a")
    assert written(redis_server) == set()


def test_back_with_expired_leases(redis_server: RedisServer) -> None:
    """After an outage that was longer than the lease, a living process does not lose its sessions."""
    ledger, other = make(redis_server.url), make(redis_server.url)
    ledger.add(entry("a"))
    redis_server.stop()
    time.sleep(LEASE)
    redis_server.start()
    for _ in range(3):
        assert not other.claim("a")
    assert alive(other) == {"a": True}


def test_frozen(redis_server: RedisServer, log: Log) -> None:
    """A Redis that does not respond delays a call by a second at most, and no living process loses its sessions."""
    ledger, other = make(redis_server.url), make(redis_server.url)
    ledger.add(entry("a"))
    redis_server.send(signal.SIGSTOP)
    started = time.monotonic()
    ledger.add(entry("b"))
    ledger.add(entry("c"))
    with pytest.raises(LedgerError):
        ledger.remove("c")
    assert time.monotonic() - started < 5
    assert len(log.warnings(redis_server)) == 1
    time.sleep(LEASE)
    redis_server.send(signal.SIGCONT)
    assert not other.claim("a")
    wait_until(lambda: written(redis_server) == {"a", "b"})
    assert alive(other) == {"a": True, "b": True}


def test_slow(redis_server: RedisServer) -> None:
    """A Redis that takes half a second for each response is used as it is."""
    ledger = make(redis_server.url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=delay, args=(listener, redis_server.port), daemon=True).start()
        slow = make_redis(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        slow.add(entry("a"))
        wait_until(lambda: alive(ledger) == {"a": True})
        with contextlib.suppress(LedgerError):  # it may take longer than a second
            slow.remove("a")
        wait_until(lambda: alive(ledger) == {})


def delay(listener: socket.socket, port: int) -> None:
    """Carry bytes between a client and Redis, each response half a second late."""

    def carry(source: socket.socket, target: socket.socket, seconds: float) -> None:
        while chunk := source.recv(65536):
            time.sleep(seconds)
            target.sendall(chunk)

    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", port))
        for arguments in ((client, server, 0.0), (server, client, 0.5)):
            threading.Thread(target=carry, args=arguments, daemon=True).start()


def test_full(redis_server: RedisServer, log: Log) -> None:
    """A Redis without memory is one that is away: nothing is lost when there is room again."""
    ledger = make(redis_server.url)
    ledger.add(entry("a"))
    redis_server.do("CONFIG", "SET", "maxmemory", "1")
    ledger.add(entry("b"))
    with pytest.raises(LedgerError):
        ledger.remove("a")
    (warning,) = log.warnings(redis_server)
    assert "memory" in warning
    redis_server.do("CONFIG", "SET", "maxmemory", "0")
    wait_until(lambda: written(redis_server) == {"b"})


def test_evicted(redis_server: RedisServer) -> None:
    """If Redis evicts keys, no living process looks dead: leases and sessions are one key."""
    ledger = make(redis_server.url)
    ledger.add(entry("a"))
    keys = redis_server.do("KEYS", "*")
    assert keys == [_redis_store.KEY]
    assert redis_server.do("TTL", _redis_store.KEY) == -1


def test_older_snapshot(shared_redis: RedisServer) -> None:
    """If Redis is restored to a time at which a dead process had the session, its owner takes it back."""
    ledger = make(shared_redis.url)
    ledger.add(entry("restored"))
    field = "owner:restored"
    owner = shared_redis.do("HGET", _redis_store.KEY, field)
    shared_redis.do("HSET", _redis_store.KEY, field, "dead", "lease:dead", "1")
    wait_until(lambda: shared_redis.do("HGET", _redis_store.KEY, field) == owner)
    ledger.remove("restored")
    assert "restored" not in written(shared_redis)


def test_read_only(redis_server: RedisServer, log: Log) -> None:
    """A replica that takes no writes is one that is away, until it is promoted."""
    redis_server.do("REPLICAOF", "127.0.0.1", "1")
    ledger = make(redis_server.url)
    ledger.add(entry("a"))
    assert len(log.warnings(redis_server)) == 1
    redis_server.do("REPLICAOF", "NO", "ONE")
    wait_until(lambda: written(redis_server) == {"a"})


def test_required(redis_server: RedisServer) -> None:
    """With required=True, a session that is not written down is refused, and is not written down later."""
    ledger = make_redis(redis_server.url, required=True)
    ledger.add(entry("a"))
    redis_server.stop()
    for _ in range(2):
        with pytest.raises(LedgerError, match="session b could not be written down"):
            ledger.add(entry("b"))
    with pytest.raises(LedgerError):
        RedisLedger(redis_server.url, required=True)
    redis_server.start()
    wait_until(lambda: alive_or_none(ledger) == {"a": True})
    wait_until(lambda: adds(ledger, "c"))
    assert set(alive(ledger)) == {"a", "c"}


def alive_or_none(ledger: RedisLedger) -> dict[str, bool | None] | None:
    try:
        return alive(ledger)
    except LedgerError:
        return None


def adds(ledger: RedisLedger, session_id: str) -> bool:
    try:
        ledger.add(entry(session_id))
    except LedgerError:
        return False
    return True


def test_required_and_frozen(redis_server: RedisServer) -> None:
    """A session that was refused does not stay in the ledger if Redis has received it all the same."""
    ledger = make_redis(redis_server.url, required=True)
    ledger.add(entry("a"))
    redis_server.send(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(LedgerError):
        ledger.add(entry("b"))
    assert time.monotonic() - started < 5
    redis_server.send(signal.SIGCONT)
    wait_until(lambda: adds(ledger, "c"))
    wait_until(lambda: written(redis_server) == {"a", "c"})


def test_paused_process(redis_server: RedisServer) -> None:
    """A process that was paused for longer than its lease does not take back a session that was claimed."""
    ledger = make(redis_server.url)
    with program("hold", redis_server.url, "a") as holder:
        holder.line()
        holder.send(signal.SIGSTOP)
        wait_until(lambda: ledger.claim("a"))
        holder.send(signal.SIGCONT)
        time.sleep(LEASE)
        assert alive(ledger) == {"a": True}
        ledger.remove("a")
        time.sleep(LEASE / 2)
        assert written(redis_server) == set()


def test_claim_without_response(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that has succeeded, but whose response was lost, can be repeated, by one caller."""
    ledger, other = make(redis_server.url), make(redis_server.url)
    ledger.add(entry("mine"))
    with program("hold", redis_server.url, "a") as holder:
        holder.line()
    wait_until(lambda: alive(ledger)["a"] is False)
    store = ledger._store  # type: ignore[attr-defined]
    original = store._run

    def lose(script: str, *arguments: str) -> object:
        while original(script, *arguments)[0] > 0:
            time.sleep(0.1)
        raise ConnectionError("lost")

    monkeypatch.setattr(store, "_run", lose)
    with pytest.raises(LedgerError, match="lost"):
        ledger.claim("a")
    monkeypatch.undo()
    assert not other.claim("a")
    assert alive(ledger) == {"a": False, "mine": True}
    assert [ledger.claim("a"), ledger.claim("a")] == [True, False]
    assert alive(other) == {"a": True, "mine": True}


def test_added_during_a_claim(shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that this process writes down while a claim waits is not claimed from itself."""
    ledger = make(shared_redis.url)
    store = ledger._store  # type: ignore[attr-defined]
    original = store.claim

    def claim(session_id: str, owner: str) -> object:
        monkeypatch.undo()
        ledger.add(entry("added-during-a-claim"))
        return 0.01, None

    monkeypatch.setattr(store, "claim", claim)
    assert not ledger.claim("added-during-a-claim")
    assert store.claim == original
    ledger.remove("added-during-a-claim")


def test_added_while_its_lease_is_found_expired(shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that another process has claimed, and that is added again meanwhile, is this process's own."""
    ledger = make(shared_redis.url)
    ledger.add(entry("claimed"))
    store = ledger._store  # type: ignore[attr-defined]
    original = store.sync

    def sync(*arguments: object, **options: object) -> object:
        original(*arguments, **options)
        if store.sync is not original:
            monkeypatch.undo()
            ledger._own["claimed"] = ledger._pending["claimed"] = entry("claimed")  # type: ignore[attr-defined]
        return ["claimed"]

    monkeypatch.setattr(store, "sync", sync)
    ledger.add(entry("other"))
    wait_until(lambda: not ledger._pending)  # type: ignore[attr-defined]
    assert set(ledger._own) == {"claimed", "other"}  # type: ignore[attr-defined]
    ledger.remove("claimed")
    ledger.remove("other")


def test_at_exit(redis_server: RedisServer) -> None:
    """While the interpreter ends, sessions can still be removed, with and without the thread."""
    code = (
        "import atexit, sys\n"
        "from tests.ledger.support import entry, make\n"
        f"ledger = make({redis_server.url!r})\n"
        "ledger.add(entry('a'))\n"
        "atexit.register(lambda: (ledger.add(entry('b')), ledger.remove('a'), ledger.remove('b')))\n"
    )
    result = processes.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert written(redis_server) == set()


def test_no_threads_to_be_had(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no thread can be started, the caller itself writes to Redis; the next look starts the thread."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    ledger = make(redis_server.url)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    ledger.add(entry("a"))
    ledger.add(entry("b"))
    ledger.remove("a")
    assert written(redis_server) == {"b"}
    monkeypatch.undo()
    assert ledger._worker is None  # type: ignore[attr-defined]
    ledger.entries()
    assert ledger._worker.is_alive()  # type: ignore[attr-defined]


def test_log_handler_raises(redis_server: RedisServer, log: Log) -> None:
    """A log handler or filter that raises does not end the thread that renews the lease."""

    def fail(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    ledger = make(redis_server.url)
    ledger.add(entry("a"))
    logger = logging.getLogger("liveavatar")
    logger.addFilter(fail)
    try:
        redis_server.stop(forget=True)
        wait_until(lambda: ledger._failing)  # type: ignore[attr-defined]
        redis_server.start()
        wait_until(lambda: written(redis_server) == {"a"})
        wait_until(lambda: not ledger._failing)  # type: ignore[attr-defined]
    finally:
        logger.removeFilter(fail)
    redis_server.do("FLUSHALL")
    wait_until(lambda: written(redis_server) == {"a"})


def test_password(tmp_path: Path, log: Log) -> None:
    """A wrong or missing password is an error at construction, and passwords are shown nowhere."""
    server = RedisServer(tmp_path, "--requirepass", PASSWORD)
    server.start()
    try:
        address = f"127.0.0.1:{server.port}"
        ledger = RedisLedger(f"redis://:{PASSWORD}@{address}/2")
        ledger.add(entry("a"))
        assert repr(ledger) == f"RedisLedger('redis://{address}/2')"
        for url in (f"redis://{address}", f"redis://:{PASSWORD}-wrong@{address}", f"redis://u:{PASSWORD}@{address}"):
            with pytest.raises(LedgerError) as caught:
                RedisLedger(url)
            assert address in str(caught.value)
            assert PASSWORD not in str(caught.value)
            assert caught.value.__cause__ is None
            frames = traceback_locals(caught.value)
            assert PASSWORD not in frames
        server.stop()
        ledger.add(entry("b"))
        assert len(log.warnings(server)) == 1
        assert PASSWORD not in log.caplog.text
    finally:
        server.stop()


def traceback_locals(error: BaseException) -> str:
    """The local variables of this package's frames, as error trackers print them."""
    found, traceback = [], error.__traceback__
    while traceback is not None:
        if "liveavatar" in traceback.tb_frame.f_globals.get("__name__", ""):
            found.append(repr(traceback.tb_frame.f_locals))
        traceback = traceback.tb_next
    return "\n".join(found)


@pytest.mark.parametrize("command", ["@scripting", "@hash"])
def test_permissions(redis_server: RedisServer, command: str) -> None:
    """A user who may not execute what the ledger needs is refused at construction."""
    redis_server.do("ACL", "SETUSER", "limited", "on", f">{PASSWORD}", "~*", "+@all", f"-{command}")
    with pytest.raises(LedgerError):
        RedisLedger(f"redis://limited:{PASSWORD}@127.0.0.1:{redis_server.port}")


def test_key_permissions(redis_server: RedisServer) -> None:
    """A user who may use the one key alone is enough."""
    redis_server.do("ACL", "SETUSER", "limited", "on", f">{PASSWORD}", f"~{_redis_store.KEY}", "+@all")
    ledger = RedisLedger(f"redis://limited:{PASSWORD}@127.0.0.1:{redis_server.port}")
    ledger.add(entry("a"))
    assert alive(ledger) == {"a": True}


def test_key_of_another_kind(redis_server: RedisServer) -> None:
    """A key that something else uses is an error at construction."""
    redis_server.do("SET", _redis_store.KEY, "text")
    with pytest.raises(LedgerError, match="WRONGTYPE"):
        RedisLedger(redis_server.url)


def test_not_redis() -> None:
    """What answers and is not Redis is an error at construction."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(LedgerError):
            RedisLedger(f"redis://127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "http://localhost", f"redis://:pa/{PASSWORD}@host", "redis://host:99999999"]
)
def test_wrong_url(url: str) -> None:
    """A URL that cannot be used is a ValueError that does not show it."""
    with pytest.raises(ValueError, match="url must look like") as caught:
        RedisLedger(url)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("lease", [0, -1, 14.9, float("nan"), float("inf")])
def test_wrong_lease(lease: float) -> None:
    """A lease that cannot be kept is a ValueError."""
    with pytest.raises(ValueError, match="lease must be"):
        RedisLedger("redis://127.0.0.1:1", lease=lease)


def test_wrong_types() -> None:
    """Arguments of another type are a TypeError."""
    for arguments in ({"url": 3}, {"url": "redis://127.0.0.1:1", "lease": "30"}, {"url": "redis://x", "lease": True}):
        with pytest.raises(TypeError):
            RedisLedger(**arguments)  # type: ignore[arg-type]


def test_copied(shared_redis: RedisServer) -> None:
    """A ledger that holds a password cannot be copied to another process by accident."""
    ledger = make(shared_redis.url)
    for operation in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            operation(ledger)


def test_unix_socket(tmp_path: Path) -> None:
    """A Redis on a Unix socket works, and its repr names the socket."""
    path = f"/tmp/liveavatar-{os.getpid()}.sock"  # a short path: the kernel takes about 100 characters
    server = RedisServer(tmp_path, "--unixsocket", path)
    server.start()
    try:
        ledger = RedisLedger(f"unix://{path}")
        ledger.add(entry("a"))
        assert alive(ledger) == {"a": True}
        assert repr(ledger) == f"RedisLedger('unix://{path}')"
    finally:
        server.stop()
        Path(path).unlink(missing_ok=True)


def test_clock_jump(redis_server: RedisServer) -> None:
    """If the clock of Redis jumps ahead of all leases, a living process renews before it counts as dead."""
    ledger, other = make(redis_server.url), make(redis_server.url)
    ledger.add(entry("a"))
    owner = ledger.entries()[0].owner
    for _ in range(3):
        redis_server.do("HSET", _redis_store.KEY, f"lease:{owner}", "1")  # as it looks after a jump
        assert not other.claim("a")
    assert alive(other) == {"a": True}
