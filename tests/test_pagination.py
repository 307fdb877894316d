"""Lists of sessions come in pages: whatever the pages are, a list is complete, has no duplicates, and ends."""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from liveavatar._pagination import Pages

from liveavatar_client.models import SessionInfo, SessionPage

MAX_REQUESTS = 50
"""More requests than any list here needs."""

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def entries(*names: str) -> list[SessionInfo]:
    return [
        SessionInfo(
            id=name,
            created_at=NOW,
            updated_at=NOW,
            duration=1,
            source="API",
            mode="LITE",
            is_sandbox=False,
            credits_consumed=0,
        )
        for name in names
    ]


class Service:
    """A service that has some sessions and returns them page by page."""

    def __init__(self, sessions: Sequence[str], *, count: int | None = None, names_next: bool | None = None) -> None:
        self.sessions = list(sessions)
        self.count = count
        self.names_next = names_next
        """Whether a page names the next one, if not as it should."""
        self.requests = 0

    def page(self, query: dict[str, Any]) -> SessionPage:
        self.requests += 1
        assert self.requests <= MAX_REQUESTS, "the list does not end"
        first = (query["page"] - 1) * query["page_size"]
        names = self.sessions[first : first + query["page_size"]]
        count = len(self.sessions) if self.count is None else self.count
        has_next = first + len(names) < len(self.sessions) if self.names_next is None else self.names_next
        return SessionPage(count, entries(*names), next_="https://service.example/next" if has_next else None)


def read(
    page: Callable[[dict[str, Any]], SessionPage], size: int = 2, after: Callable[[int], object] = lambda number: None
) -> list[str]:
    """Return the ids of a list; `after` is called with the number of requests so far after each one."""
    pages = Pages("active", None, None, size)
    found: list[str] = []
    for number in itertools.count(1):
        if pages.done:
            return found
        found += [entry.id for entry in pages.add(page(pages.next_query()))]
        after(number)
    raise AssertionError


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 100])
def test_all_pages(size: int) -> None:
    """A list has every session once, in the order of the service, with no more requests than there are pages."""
    service = Service("abcde")
    assert read(service.page, size) == list("abcde")
    assert service.requests == -(-5 // size)


def test_empty() -> None:
    """An account without sessions has an empty list."""
    service = Service("")
    assert read(service.page) == []
    assert service.requests == 1


@pytest.mark.parametrize("count", [6, 1_000_000])
def test_count_too_high(count: int) -> None:
    """A count above the number of sessions costs one more request, for an empty page."""
    service = Service("abcde", count=count)
    assert read(service.page) == list("abcde")
    assert service.requests == 4


@pytest.mark.parametrize("count", [0, -1, 1, 2])
def test_count_too_low(count: int) -> None:
    """A count below the number of sessions loses none of them, as long as the service names the next page."""
    service = Service("abcde", count=count)
    assert read(service.page) == list("abcde")
    assert service.requests == 3


def test_no_next_page_named() -> None:
    """A service that names no next page is read up to its count."""
    service = Service("abcde", names_next=False)
    assert read(service.page) == list("abcde")
    assert service.requests == 3


def test_repeated_for_ever() -> None:
    """A service that returns its first page for ever does not keep the list from ending."""
    service = Service("ab", count=1_000_000, names_next=True)
    assert read(lambda query: service.page({**query, "page": 1})) == list("ab")


def test_repeated_entry() -> None:
    """An entry that a page has twice is listed once."""
    service = Service("aabb", count=2)
    assert read(service.page, size=4) == list("ab")


def test_endless() -> None:
    """A service that has new sessions on each page for ever is followed for a few pages beyond its count."""
    service = Service([str(uuid.uuid4()) for _ in range(1000)], count=20)
    assert len(read(service.page, size=10)) >= 20
    assert service.requests < 10


def test_larger_pages() -> None:
    """A service that ignores the page size loses no session."""
    service = Service("abcdefgh")
    assert read(lambda query: service.page({**query, "page_size": 5})) == list("abcdefgh")


def test_smaller_pages() -> None:
    """A service whose pages are smaller than asked for loses no session."""
    service = Service("abcdefgh")
    assert read(lambda query: service.page({**query, "page_size": 3}), size=100) == list("abcdefgh")


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("started", [1, 2])
def test_started_meanwhile(size: int, started: int) -> None:
    """Sessions that start while the list is read move the others to later pages; none is lost, none listed twice."""
    service = Service("abcde")
    found = read(
        service.page, size, lambda number: number == 1 and service.sessions.__setitem__(slice(0), "xy"[:started])
    )
    assert sorted(set(found) & set("abcde")) == list("abcde")
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("request_number", [1, 2])
@pytest.mark.parametrize("ended", range(5))
def test_ended_meanwhile(size: int, request_number: int, ended: int) -> None:
    """A session that ends while the list is read moves others to earlier pages; none of them is lost."""
    service = Service("abcde")
    found = read(service.page, size, lambda number: number == request_number and service.sessions.pop(ended))
    assert set(found) >= set("abcde") - {"abcde"[ended]}
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("names_next", [None, True, False])
def test_unsteady_count(names_next: bool | None, size: int) -> None:
    """A count that goes up and down for ever neither keeps the list from ending nor loses a session."""
    for counts in itertools.product([13, 12, 3, 0, 99], repeat=3):
        service = Service("abcdefghijklm", names_next=names_next)
        each = itertools.cycle(counts)

        def page(query: dict[str, Any], service: Service = service, each: Iterator[int] = each) -> SessionPage:
            found = service.page(query)
            found.count = next(each)
            return found

        found = read(page, size)
        if names_next is False or max(counts) < 12:  # then only a count that is right tells of more
            assert set(found) <= set("abcdefghijklm")
        else:
            assert found == list("abcdefghijklm"), counts
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("ended", [1, 2, 3, 5])
def test_many_ended_meanwhile(ended: int, size: int) -> None:
    """However many sessions end between two pages, at whatever page, none of the others is lost."""
    for request_number in range(1, 8):
        service = Service("abcdefghijk")
        found = read(
            service.page,
            size,
            lambda number, service=service, first=request_number: (  # type: ignore[misc]
                number == first and service.sessions.__delitem__(slice(ended))
            ),
        )
        assert set(found) >= set(service.sessions)
        assert len(set(found)) == len(found)


def test_any_change_meanwhile() -> None:
    """Whatever sessions start and end while the list is read, each that lives all the time is listed once."""
    for seed in range(1000):
        chance = random.Random(seed)
        service = Service("abcdefghijk"[: chance.randrange(12)])
        lasting, new = {*service.sessions}, iter("zyxwvuts")

        def change(
            number: int, chance: random.Random = chance, service: Service = service, new: Iterator[str] = new
        ) -> None:
            if chance.random() < 0.3 and service.sessions:
                del service.sessions[chance.randrange(len(service.sessions))]
            elif chance.random() < 0.2 and (name := next(new, None)):
                service.sessions.insert(0, name)

        found = read(service.page, chance.choice([1, 2, 3, 5]), change)
        assert set(found) >= lasting & {*service.sessions}, seed
        assert len(set(found)) == len(found), seed
