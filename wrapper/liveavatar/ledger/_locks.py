"""File locks that the kernel releases when the process that holds them ends, however it ends.

A lock belongs to an open file, not to a process id, so that a reused process id does no harm, and a stopped process
(SIGSTOP) keeps its locks. File descriptors are not inherited by other programs. A forked child inherits them and
has to close them: until then it holds the lock together with its parent.
"""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int, *, shared: bool) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fd: int, *, shared: bool) -> None:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def hold(path: str) -> int:
    """Create the file and lock it, and return its file descriptor. Closing that releases the lock.

    Raises:
        OSError: The file exists, or cannot be created or locked.
    """
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        _lock(fd, shared=False)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_held(path: str) -> bool | None:
    """Return whether a process holds the lock, or None if there is no such file or it cannot be opened."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        _lock(fd, shared=True)  # shared, so that two processes that look at once do not see each other
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)
