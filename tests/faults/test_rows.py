"""The tests of faults, about themselves: none of the promises is without a test."""

from __future__ import annotations

import pytest

from tests.clients import FLAVOURS
from tests.faults.conftest import HERE, flavours_of
from tests.faults.rows import ASYNC_ONLY, ROWS


def test_every_row_has_a_test_in_both_clients(request: pytest.FixtureRequest) -> None:
    items = [item for item in request.session.items if item.path.parent == HERE]
    if request.config.option.keyword or {item.path for item in items} != set(HERE.glob("test_*.py")):
        pytest.skip("only part of the tests of faults was asked for")
    shown: dict[str, set[str]] = {row: set() for row in ROWS}
    for item in items:
        for mark in item.iter_markers("row"):
            for row in mark.args:
                shown[row] |= flavours_of(item.nodeid)
    for row, flavours in shown.items():
        assert flavours >= ({"async"} if row in ASYNC_ONLY else set(FLAVOURS)), f"{row} {ROWS[row]}"
