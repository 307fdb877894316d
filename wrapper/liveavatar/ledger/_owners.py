"""The owners of sessions: processes that hold file locks, which the kernel releases when they end, however they end.

A lock belongs to an open file, not to a process id, so that a reused process id does no harm, and a stopped process
(SIGSTOP) keeps its locks. File descriptors are not inherited by other programs. A forked child inherits them and
has to close them: until then it holds the lock together with its parent.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import weakref
from collections.abc import Collection
from pathlib import Path

from ._protocol import new_owner

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int, *, shared: bool) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fd: int, *, shared: bool) -> None:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


class Owners:
    """The directory with the lock files of all owners. This process is one of them once it has become one.

    Its methods are called inside a write transaction of the ledger, one at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own = ""
        """The name of this process; empty while it is no owner."""
        self._lock: tuple[int, os.stat_result] | None = None
        """The file descriptor that holds the lock, and the file that it is of."""
        self._releases: list[weakref.finalize[..., Owners]] = []

    def ensure_owner(self) -> str:
        """Return the name of this process, whose lock it holds from here on."""
        if self._holds_lock():
            return self.own
        # The first time; or something has deleted or moved the file, or closed all descriptors, as daemons do.
        owner = self.own or new_owner()  # other entries may have the name
        fd = _hold(self._lock_file(owner))
        self._lock = fd, os.fstat(fd)
        # An earlier lock is kept: a process that uses the moved file must see that this one lives.
        self._releases.append(weakref.finalize(self, _close, *self._lock))
        self._releases[-1].atexit = False  # the kernel does it later, when the process has really ended
        self.own = owner
        return owner

    def _holds_lock(self) -> bool:
        return self._lock is not None and all(
            _is_same_file(name, self._lock[1]) for name in (self._lock[0], self._lock_file(self.own))
        )

    def is_alive(self, owner: object) -> bool | None:
        """Return whether an owner is alive, or None if that is unknown."""
        if owner == self.own:
            return True
        if not isinstance(owner, str) or not re.fullmatch(r"[A-Za-z0-9.-]+", owner):
            return None
        return _is_held(self._lock_file(owner))

    def remove_dead(self, needed: Collection[str]) -> None:
        """Remove the lock files of dead owners, except of those that are needed."""
        for path in self.path.glob("*.lock"):
            if path.stem not in needed and self.is_alive(path.stem) is False:
                with contextlib.suppress(OSError):
                    path.unlink()

    def forget_parent(self) -> None:
        """Start anew in a forked child. The parent's lock stays locked, since the parent has it open."""
        for release in self._releases:
            release()
        self._releases, self._lock, self.own = [], None, ""

    def _lock_file(self, owner: str) -> str:
        return str(self.path / f"{owner}.lock")


def _hold(path: str) -> int:
    """Lock the file, created if necessary, and return its file descriptor. Closing that releases the lock.

    Raises:
        OSError: The file cannot be created or locked.
    """
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        _lock(fd, shared=False)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _close(fd: int, file: os.stat_result) -> None:
    """Close a descriptor, unless it was closed before and another file has its number now."""
    if _is_same_file(fd, file):
        os.close(fd)


def _is_same_file(name: int | str, file: os.stat_result) -> bool:
    """Return whether a file descriptor or a path is still that of a file."""
    try:
        return os.path.samestat(os.stat(name), file)
    except OSError:
        return False


def _is_held(path: str) -> bool | None:
    """Return whether a process holds the lock, or None if there is no such file or it cannot be opened."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        _lock(fd, shared=True)  # shared, so that two processes that look at the same time do not see each other
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)
