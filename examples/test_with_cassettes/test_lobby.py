"""Tests with cassettes. See conftest.py for how to run them."""

import asyncio

import pytest
from lobby import invite


@pytest.mark.vcr
def test_visitor_is_let_in() -> None:
    assert asyncio.run(invite("dd73ea75-1218-4ef3-92ce-606d5f7fbc0a")) == "Come in, for 60 seconds."


@pytest.mark.vcr
def test_visitor_learns_why_not() -> None:
    assert asyncio.run(invite("00000000-0000-0000-0000-000000000000")).startswith("We are closed: ")
