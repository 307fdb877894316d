"""Show an open session until somebody stops it, or its time is over."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue

from ._browser import open_in_browser
from ._console import Console
from ._errors import Interrupted
from ._keyboard import Key, read_keys
from ._session_view import SessionView

_TICK = 0.2  # seconds between updates of the table


def watch(view: SessionView, console: Console, *, open_room: bool = False) -> None:
    """Show a session until it is to be stopped, or its time is over.

    Args:
        view: the session.
        console: where to show it.
        open_room: open the room in the browser first.

    Raises:
        Interrupted: a signal arrived, or the terminal was closed.
    """
    with read_keys(single=console.is_live) as keys, console.display(view):
        room = _Room(view.session.meet_url)
        if open_room:
            room.open()
        while view.remaining():
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
