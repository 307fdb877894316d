"""The SQLite ledger: files that cannot be used, and the locks that tell who is alive."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from liveavatar.ledger import LedgerError, SqliteLedger, _sqlite

from tests import processes
from tests.ledger.support import alive, entry, program


def run(code: str) -> subprocess.CompletedProcess[str]:
    return processes.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def lock_files(path: str) -> list[Path]:
    return list(Path(f"{path}-owners").iterdir())


def is_a_directory(path: Path) -> None:
    path.mkdir()


def is_a_device(path: Path) -> None:
    path.symlink_to("/dev/null")


def is_garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 100)


def is_damaged(path: Path) -> None:
    ledger = SqliteLedger(path)
    for number in range(30):
        ledger.add(entry(f"{number}-" + 500 * "x"))
    content = bytearray(path.read_bytes())
    content[5000:9000] = b"\xff" * 4000
    path.write_bytes(content)


def is_of_another_program(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE sessions (id)")
    database.close()


def is_of_a_newer_version(path: Path) -> None:
    SqliteLedger(path)
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


def has_a_file_for_directory(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("")


def has_a_file_for_locks(path: Path) -> None:
    Path(f"{path}-owners").write_text("")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (is_a_directory, "not a regular file"),
        (is_a_device, "not a regular file"),
        (is_garbage, "not a SQLite database"),
        (is_damaged, "damaged"),
        (is_of_another_program, "another program"),
        (is_of_a_newer_version, "newer version"),
        (has_a_file_for_directory, "Not a directory"),
        (has_a_file_for_locks, "Not a directory"),
    ],
)
def test_unusable_file(tmp_path: Path, prepare: Callable[[Path], None], words: str) -> None:
    """A file that cannot be a ledger is refused at construction, by name, and is left as it is."""
    path = tmp_path / "state" / "sessions.db"
    path.parent.mkdir()
    prepare(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(LedgerError, match=words) as caught:
        SqliteLedger(path)
    assert os.path.realpath(path) in str(caught.value)
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("path", ["", " ", ":memory:", "a\0b"])
def test_no_path(path: str) -> None:
    """What names no file is a ValueError."""
    with pytest.raises(ValueError, match="path must name a file"):
        SqliteLedger(path)


@pytest.mark.parametrize("path", [None, 3, b"bytes"])
def test_wrong_type(path: object) -> None:
    """What is no path is a TypeError."""
    with pytest.raises(TypeError):
        SqliteLedger(path)  # type: ignore[arg-type]


AS_ANOTHER_USER = """
import os, sys
from liveavatar.ledger import LedgerError, SqliteLedger
if os.getuid() == 0:  # file permissions do not bind root
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    SqliteLedger(sys.argv[1])
except LedgerError as error:
    print(error)
"""


@pytest.mark.parametrize("read_only", ["directory", "file", "locks"])
def test_read_only(read_only: str) -> None:
    """A place that this user cannot write to is refused at construction."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        path = home / "sessions.db"
        if read_only != "directory":
            SqliteLedger(path)
            path.chmod(0o444 if read_only == "file" else 0o666)
            Path(f"{path}-owners").chmod(0o777 if read_only == "file" else 0o555)
        home.chmod(0o555 if read_only == "directory" else 0o777)
        result = processes.run(
            [sys.executable, "-c", AS_ANOTHER_USER, path], capture_output=True, text=True, timeout=60
        )
        home.chmod(0o777)
        if read_only != "directory":
            Path(f"{path}-owners").chmod(0o777)
        assert f"The ledger '{path}' cannot be used" in result.stdout, result
        assert "not writable" in result.stdout or "Permission denied" in result.stdout


def test_permissions(tmp_path: Path) -> None:
    """What is created belongs to this user alone, whatever the umask says."""
    path = tmp_path / "a" / "b" / "sessions.db"
    code = f"import os; os.umask(0); from liveavatar.ledger import SqliteLedger; SqliteLedger({str(path)!r})"
    assert run(code).returncode == 0
    (lock,) = lock_files(str(path))
    modes = {each: each.stat().st_mode & 0o777 for each in (path, path.parent, path.parent.parent, lock, lock.parent)}
    assert modes == {path: 0o600, path.parent: 0o700, path.parent.parent: 0o700, lock: 0o600, lock.parent: 0o700}


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path keeps its meaning when the working directory changes, and `~` is the home directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    ledger, other = SqliteLedger("here.db"), SqliteLedger("~/there.db")
    monkeypatch.chdir("/")
    ledger.add(entry("a"))
    other.add(entry("b"))
    assert alive(SqliteLedger(tmp_path / "here.db")) == {"a": True}
    assert alive(SqliteLedger(tmp_path / "home" / "there.db")) == {"b": True}


def test_locked(sqlite_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While something else keeps the file locked, every operation ends in a bounded time with an error."""
    monkeypatch.setattr(_sqlite, "TIMEOUT", 0.2)
    ledger = SqliteLedger(sqlite_path)
    ledger.add(entry("a"))
    database = sqlite3.connect(sqlite_path, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    for operation in (
        lambda: SqliteLedger(sqlite_path),
        lambda: ledger.add(entry("b")),
        lambda: ledger.remove("a"),
        lambda: ledger.claim("a"),
        ledger.entries,
    ):
        with pytest.raises(LedgerError, match="locked"):
            operation()
    database.execute("ROLLBACK")
    database.close()
    ledger.add(entry("c"))
    assert alive(ledger) == {"c": True}, "what could not be removed is removed by the next operation"


def test_locked_for_a_while(sqlite_path: str) -> None:
    """An operation waits for a file that is locked for a moment, by a reader too."""
    ledger = SqliteLedger(sqlite_path)
    for statements in (["BEGIN EXCLUSIVE"], ["BEGIN", "SELECT * FROM sessions"]):
        database = sqlite3.connect(sqlite_path, isolation_level=None, check_same_thread=False)
        for statement in statements:
            database.execute(statement).fetchall()
        timer = threading.Timer(0.3, database.close)
        timer.start()
        ledger.add(entry("a"))
        timer.join()
    assert alive(ledger) == {"a": True}


def test_many_threads_wait_together(sqlite_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads do not wait for a locked file one after the other."""
    monkeypatch.setattr(_sqlite, "TIMEOUT", 1.0)
    ledger = SqliteLedger(sqlite_path)
    database = sqlite3.connect(sqlite_path, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    errors: list[LedgerError] = []

    def add() -> None:
        try:
            ledger.add(entry("a"))
        except LedgerError as error:
            errors.append(error)

    threads = [threading.Thread(target=add) for _ in range(12)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 12
    assert time.monotonic() - started < 9  # twelve in a row would take 12 s
    database.close()


FULL_DISK = """
import resource, sys
from liveavatar.ledger import LedgerError, SqliteLedger
from tests.ledger.support import entry
path = sys.argv[1]
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def attempt(operation):
    try: operation()
    except LedgerError as error: print("LedgerError")
    else: print("done")
limit(0)
attempt(lambda: SqliteLedger(path))
limit(resource.RLIM_INFINITY)
ledger = SqliteLedger(path)
ledger.add(entry("a"))
limit(0)
attempt(lambda: SqliteLedger(path))
attempt(lambda: ledger.add(entry("b")))
attempt(lambda: ledger.remove("a"))
limit(resource.RLIM_INFINITY)
attempt(lambda: ledger.add(entry("c")))
print([found.session_id for found in ledger.entries()])
"""


def test_full_disk(sqlite_path: str) -> None:
    """On a full disk nothing is half done, and all is well again when there is room."""
    result = processes.run([sys.executable, "-c", FULL_DISK, sqlite_path], capture_output=True, text=True, timeout=60)
    assert result.stdout.split("\n")[:-1] == [*["LedgerError"] * 4, "done", "['c']"], result


def test_stopped_process(sqlite_path: str) -> None:
    """A process that is stopped does not lose its sessions."""
    ledger = SqliteLedger(sqlite_path)
    with program("hold", sqlite_path, "a") as holder:
        holder.line()
        holder.send(signal.SIGSTOP)
        assert alive(ledger) == {"a": True}
        assert not ledger.claim("a")
        holder.send(signal.SIGCONT)
        assert not ledger.claim("a")


def test_at_once(sqlite_path: str) -> None:
    """The sessions of a process that was killed can be claimed as soon as it is gone."""
    with program("hold", sqlite_path, "a") as holder:
        holder.line()
        holder.process.kill()
        holder.process.wait(30)
        assert SqliteLedger(sqlite_path).claim("a")


def test_old_lock_files(sqlite_path: str) -> None:
    """Lock files of dead processes are removed once they own nothing, and those of the living are kept."""
    for _ in range(3):
        with program("hold", sqlite_path) as holder:
            holder.line()
    with program("hold", sqlite_path, "a") as dead, program("hold", sqlite_path) as living:
        dead.line()
        living.line()
        dead.process.kill()
        dead.process.wait(30)
        ledger = SqliteLedger(sqlite_path)
        assert len(lock_files(sqlite_path)) == 3, "of the session's owner, the living one, and this process"
        assert ledger.claim("a")
        ledger = SqliteLedger(sqlite_path)
        names = {path.name.split("-")[-2] for path in lock_files(sqlite_path)}
        assert names == {str(living.process.pid), str(os.getpid())}


def test_lost_lock_file(sqlite_path: str) -> None:
    """If something deletes a lock file, its owner is not taken for dead. It creates the file anew when it can."""
    ledger, other = SqliteLedger(sqlite_path), SqliteLedger(sqlite_path)
    ledger.add(entry("a"))
    for path in lock_files(sqlite_path):
        path.unlink()
    assert alive(other) == {"a": None}
    assert not other.claim("a")
    ledger.add(entry("b"))
    assert alive(other) == {"a": True, "b": True}


def test_foreign_owner(sqlite_path: str) -> None:
    """An owner's name from the file does not lead out of the directory of the locks."""
    ledger = SqliteLedger(sqlite_path)
    Path(sqlite_path).with_name("outside.lock").write_text("")
    database = sqlite3.connect(sqlite_path, isolation_level=None)
    database.execute("INSERT INTO sessions VALUES ('a', '', '', '2026-01-01T00:00:00+00:00', '../outside')")
    database.close()
    assert alive(ledger) == {"a": None}
    assert not ledger.claim("a")


def test_symlink(sqlite_path: str, tmp_path: Path) -> None:
    """A file has the same owners under each of its names."""
    ledger = SqliteLedger(sqlite_path)
    (tmp_path / "link").symlink_to(Path(sqlite_path).parent)
    (tmp_path / "link.db").symlink_to(sqlite_path)
    with program("hold", sqlite_path, "a") as holder:
        holder.line()
        assert alive(SqliteLedger(tmp_path / "link.db")) == alive(SqliteLedger(tmp_path / "link" / "sessions.db"))
    assert SqliteLedger(tmp_path / "link.db").claim("a")
    assert ledger.entries()


def delete_file(path: Path) -> None:
    path.unlink()


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def delete_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def move_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("old"))


@pytest.mark.parametrize("change", [delete_file, empty_file, delete_directory, move_directory])
def test_deleted_file(sqlite_path: str, change: Callable[[Path], None]) -> None:
    """If something deletes, empties or moves the file, the next look writes this process's sessions into a new one."""
    ledger = SqliteLedger(sqlite_path)
    with program("exit_at_once", sqlite_path, "claimed") as holder:
        holder.process.wait(30)
    for session_id in ("kept", "ended"):
        ledger.add(entry(session_id))
    assert ledger.claim("claimed")
    ledger.remove("ended")
    change(Path(sqlite_path))
    ledger.entries()
    assert alive(SqliteLedger(sqlite_path)) == {"kept": True, "claimed": True}
    if change is move_directory:
        moved = SqliteLedger(Path(sqlite_path).parent.with_name("old") / Path(sqlite_path).name)
        assert alive(moved) == {"kept": True, "claimed": True}
    ledger.remove("kept")
    with program("hold", sqlite_path, "other") as other:
        other.line()
        Path(sqlite_path).unlink()
        SqliteLedger(sqlite_path)  # another process may be the first to create the file again
        assert alive(ledger) == {"claimed": True}
    Path(sqlite_path).unlink()
    assert alive(ledger) == {"claimed": True}


def test_closed_descriptor(sqlite_path: str) -> None:
    """If something closes the descriptor of the lock, the next look takes the lock again, and harms no other file."""
    ledger, other = SqliteLedger(sqlite_path), SqliteLedger(sqlite_path)
    ledger.add(entry("a"))
    assert ledger._owners._lock is not None
    descriptor = ledger._owners._lock[0]
    os.close(descriptor)
    assert ledger.entries()
    assert alive(other) == {"a": True}
    (descriptor, _) = ledger._owners._lock
    reader, writer = os.pipe()
    os.dup2(writer, descriptor, inheritable=False)  # closed, and its number used for another file
    ledger.add(entry("b"))
    assert alive(other) == {"a": True, "b": True}
    del ledger
    gc.collect()
    os.fstat(descriptor)
    assert alive(other) == {"a": False, "b": False}
    for each in (reader, writer, descriptor):
        os.close(each)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_closed_descriptor_in_a_forked_child(sqlite_path: str) -> None:
    """All threads of a child can use the ledger, though its parent's lock was closed before the fork."""
    result = run(
        "import os, threading; from tests.ledger.support import entry; from liveavatar.ledger import SqliteLedger\n"
        f"ledger = SqliteLedger({sqlite_path!r}); os.closerange(3, 100)\n"
        "if os.fork(): os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "thread = threading.Thread(target=lambda: (ledger.add(entry('a')), os._exit(7)))\n"
        "thread.start(); thread.join()"
    )
    assert (result.returncode, result.stderr) == (7, "")


def test_no_descriptors_are_left(sqlite_path: str) -> None:
    """A ledger holds one open file, the lock, and closes it when it is collected."""
    directory = Path("/proc/self/fd")
    if not directory.exists():
        pytest.skip("there is no /proc")
    before = len(list(directory.iterdir()))
    for _ in range(3):
        ledger = SqliteLedger(sqlite_path)
        ledger.add(entry("a"))
        ledger.entries()
        assert len(list(directory.iterdir())) == before + 1
        del ledger
    assert len(list(directory.iterdir())) == before


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda ledger: pickle.loads(pickle.dumps(ledger))])
def test_copied(sqlite_path: str, duplicate: Callable[[SqliteLedger], SqliteLedger]) -> None:
    """A copy is another owner, whose sessions outlive those of the original."""
    ledger = SqliteLedger(sqlite_path)
    ledger.add(entry("a"))
    other = duplicate(ledger)
    other.add(entry("b"))
    assert alive(other) == {"a": True, "b": True}
    other.remove("a")
    del ledger
    gc.collect()
    assert alive(other) == {"a": False, "b": True}


def test_spawned_child(sqlite_path: str) -> None:
    """A spawned child that a ledger is passed to does not take over the name of its parent."""
    ledger = SqliteLedger(sqlite_path)
    ledger.add(entry("parent"))
    child = multiprocessing.get_context("spawn").Process(target=_add_and_die, args=(ledger,))
    child.start()
    child.join(60)
    assert alive(ledger) == {"parent": True, "child": False}


def _add_and_die(ledger: SqliteLedger) -> None:
    ledger.add(entry("child"))
    os._exit(0)


def test_repr(sqlite_path: str) -> None:
    """Its repr names the file."""
    assert repr(SqliteLedger(sqlite_path)) == f"SqliteLedger({sqlite_path!r})"
