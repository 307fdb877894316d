"""Walks the pages of a list of sessions, whatever order the pages come in."""

from __future__ import annotations

from typing import Any

from liveavatar_client.models import SessionInfo, SessionListType, SessionPage

from ._arguments import check_int, check_uuid
from ._schema import enum_member

MAX_PAGE_SIZE = 100

_MAX_EXTRA = 3
"""Pages in a row without a new entry, or beyond the service's count, after which a list ends."""

_MAX_REWINDS = 3
"""How often a lower count is followed by going back to pages before, without a new entry: it may never be steady."""


class Pages:
    """The pages of one list: what to request next, and which entries are new."""

    def __init__(self, kind: object, avatar_id: str | None, context_id: str | None, page_size: object) -> None:
        """Check the arguments of list_sessions.

        Raises:
            TypeError, ValueError: One of them is not valid.
        """
        if not 1 <= check_int(page_size, "page_size") <= MAX_PAGE_SIZE:
            raise ValueError(f"page_size must be 1 to {MAX_PAGE_SIZE}, not {page_size}")
        self._query: dict[str, Any] = {
            "type": enum_member(SessionListType, kind, "type").value,
            "page_size": page_size,
        }
        for name, value in (("avatar_id", avatar_id), ("context_id", context_id)):
            if value is not None:
                self._query[name] = check_uuid(value, name)
        self._page = 0
        self._last = 0
        """The highest number of a page so far."""
        self._count = 0
        self._max_count = 0
        self._extra = 0
        self._is_rewinding = False
        self._rewinds = 0
        """How often going back has begun since the last new entry."""
        self._seen: set[str] = set()
        self._unbroken: set[str] = set()
        """Those of the pages from the first to the one at which going back has begun."""
        self.done = False

    def next_query(self) -> dict[str, Any]:
        """Return the query of the next page."""
        self._page += 1
        return {**self._query, "page": self._page}

    def add(self, page: SessionPage) -> list[SessionInfo]:
        """Return the entries of a page that no page before had.

        The list is the newest first. Sessions that start while it is read move entries to later pages, which then
        repeat them. Sessions that end move entries to earlier pages: if a page has a lower count than the one before,
        and does not begin with an entry that is known, pages before it are fetched again, until one does.

        The list ends with an empty page, or once there have been `count` entries, the highest count of all pages, and
        no next page is named. A service that names a next page for ever is followed for a few pages only.
        """
        ids = [entry.id for entry in page.results]
        is_further, is_shorter = self._page > self._last, page.count < self._count
        is_joined = self._page == 1 or (bool(ids) and ids[0] in self._unbroken)
        self._last, self._count = max(self._last, self._page), page.count
        self._max_count = max(self._max_count, page.count)
        new = list({entry.id: entry for entry in page.results if entry.id not in self._seen}.values())
        self._seen.update(ids)
        self._rewinds = 0 if new else self._rewinds
        if is_shorter and not is_joined and not self._is_rewinding:
            self._rewinds += 1
            self._is_rewinding = self._rewinds <= _MAX_REWINDS
        self._is_rewinding &= not is_joined
        if self._is_rewinding:
            self._page -= 2
            return new
        self._unbroken.update(ids)
        is_complete = len(self._seen) >= self._max_count
        if is_further:
            self._extra = self._extra + 1 if is_complete or not new else 0
        is_last = not ids or (is_complete and not page.next_)
        self.done = is_last or self._extra > _MAX_EXTRA
        return new
