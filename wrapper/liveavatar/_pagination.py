"""Walks the pages of a list of sessions, whatever order the pages come in."""

from __future__ import annotations

from typing import Any

from liveavatar_client.models import SessionInfo, SessionListType, SessionPage

from ._arguments import check_uuid
from ._schema import enum_member

MAX_PAGE_SIZE = 100

_MAX_REPEATED = 3
"""Pages in a row without a new entry after which a list ends, because the service repeats itself."""


class Pages:
    """The pages of one list: what to request next, and which entries are new."""

    def __init__(self, kind: object, avatar_id: str | None, context_id: str | None, page_size: object) -> None:
        """Check the arguments of list_sessions.

        Raises:
            TypeError, ValueError: One of them is not valid.
        """
        if isinstance(page_size, bool) or not isinstance(page_size, int):
            raise TypeError(f"page_size must be an int, not {type(page_size).__name__}")
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            raise ValueError(f"page_size must be 1 to {MAX_PAGE_SIZE}, not {page_size}")
        self._query: dict[str, Any] = {
            "type": enum_member(SessionListType, kind, "type").value,
            "page_size": page_size,
        }
        for name, value in (("avatar_id", avatar_id), ("context_id", context_id)):
            if value is not None:
                self._query[name] = check_uuid(value, name)
        self._page = 0
        self._count = 0
        self._max_count = 0
        self._repeated = 0
        self._seen: set[str] = set()
        self.done = False

    def next_query(self) -> dict[str, Any]:
        """Return the query of the next page."""
        self._page += 1
        return {**self._query, "page": self._page}

    def add(self, page: SessionPage) -> list[SessionInfo]:
        """Return the entries of a page that no page before had.

        The list ends with an empty page, or once there have been `count` entries: a service that names a next page for
        ever is not followed. Sessions that start while the list is read move entries to the next page, which then
        repeats them. Sessions that end move entries to the page before, which is then fetched again.
        """
        new = list({entry.id: entry for entry in page.results if entry.id not in self._seen}.values())
        self._seen.update(entry.id for entry in new)
        self._repeated = 0 if new else self._repeated + 1
        moved_back = self._page > 1 and page.count < self._count
        self._count, self._max_count = page.count, max(page.count, self._max_count)
        if moved_back and self._repeated < _MAX_REPEATED:
            self._page -= 2
        else:
            self.done = not page.results or self._repeated == _MAX_REPEATED or len(self._seen) >= self._max_count
        return new
