"""Show an open session until the user or the service ends it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from ..client import LiveAvatarApi
from ..errors import LiveAvatarError
from ._browser import open_in_browser
from ._console import Console
from ._errors import Interrupted
from ._keyboard import Key, read_keys
from ._session_view import SessionView

_TICK = 0.2  # seconds between updates of the table
_READ_INTERVAL = 5.0  # seconds between two readings of the service's record


def watch(view: SessionView, console: Console, reader: LiveAvatarApi, *, open_room: bool = False) -> None:
    """Show a session until the user stops it, the service has ended it, or its time is over.

    Args:
        view: the session.
        console: where to show it.
        reader: client that reads what the service records about the session.
        open_room: open the room in the browser first.

    Raises:
        Interrupted: a signal arrived, or the terminal was closed.
    """
    with read_keys(single=console.is_live) as keys, console.display(view), _read_records(view, reader):
        room = _Room(view.session.meet_url)
        if open_room:
            room.open()
        while view.remaining() and not view.has_ended:
            console.refresh(view, room.notice)
            match _next_key(keys, min(view.remaining(), _TICK)):
                case Key.STOP:
                    return
                case Key.HANGUP:
                    raise Interrupted.by_hangup()
                case Key.OPEN:
                    room.open()
                case Key.LINK:
                    console.print(view.session.meet_url)


def _next_key(keys: SimpleQueue[Key], timeout: float) -> Key | None:
    try:
        return keys.get(timeout=timeout)
    except Empty:
        return None


@contextlib.contextmanager
def _read_records(view: SessionView, reader: LiveAvatarApi) -> Iterator[None]:
    """Read the service's record of the session every few seconds during the block."""
    done = threading.Event()

    def read() -> None:
        while not done.wait(_READ_INTERVAL) and not view.has_ended:
            with contextlib.suppress(LiveAvatarError):  # the session goes on, whether it can be read or not
                record = reader.get_session(view.session.session_id)
                if not done.is_set():
                    view.record = record

    threading.Thread(target=read, name="liveavatar-records", daemon=True).start()
    try:
        yield
    finally:
        done.set()


class _Room:
    """Opens the room in the browser without stopping the display: a browser may take seconds."""

    def __init__(self, url: str) -> None:
        self.notice = ""
        self._url = url
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open the room, unless that is under way."""
        if self._thread is None or not self._thread.is_alive():
            self.notice = "Opening the room in the browser …"
            self._thread = threading.Thread(target=self._open, name="liveavatar-browser", daemon=True)
            self._thread.start()

    def _open(self) -> None:
        opened = open_in_browser(self._url)
        self.notice = (
            "The room is open in the browser." if opened else "No browser was found. Press l to print the link."
        )
