"""Looks for secrets where they must not show. Every secret of these tests begins with CANARY."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pytest

CANARY = "CANARY"
OURS = ("liveavatar", "liveavatar_client")


def leaks(*things: object) -> list[str]:
    """The places where a secret shows: in what is raised, returned, logged, or made by these tests' client."""
    return [place for thing in things for place, text in shown(thing) if CANARY in text]


def shown(thing: object) -> Iterator[tuple[str, str]]:
    """(place, text) of all that a thing shows to those who print it, log it, or send it to an error tracker."""
    if isinstance(thing, pytest.LogCaptureFixture):
        for record in thing.records:
            if record.name.split(".")[0] == "liveavatar":
                yield "log", record.getMessage()
                yield "log record", repr(vars(record))
        return
    if isinstance(thing, BaseException):
        for error in chain(thing):
            yield from shown_by_error(error)
        yield "traceback", "".join(traceback.format_exception(thing))
        return
    yield f"repr of {type(thing).__name__}", repr(thing)
    yield f"str of {type(thing).__name__}", f"{thing}"


def chain(error: BaseException) -> list[BaseException]:
    """The error, all that led to it, and the members of groups."""
    found: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None and current not in found:
            found.append(current)
            pending += [current.__cause__, current.__context__]
            pending += getattr(current, "exceptions", ())
    return found


def shown_by_error(error: BaseException) -> Iterator[tuple[str, str]]:
    name = type(error).__name__
    yield f"{name} repr", repr(error)
    yield f"{name} str", str(error)
    yield f"{name} args", repr(error.args)
    yield f"{name} attributes", repr(vars(error))
    yield f"{name} notes", repr(getattr(error, "__notes__", ()))
    for frame, variables in locals_of(error.__traceback__):
        yield f"{name} locals of {frame}", variables
    if type(error).__module__.split(".")[0] in OURS:
        yield f"{name} pickle", pickle.dumps(error).decode("latin-1")
        again = pickle.loads(pickle.dumps(error))
        yield f"{name} unpickled", repr(again) + repr(vars(again))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert repr(vars(copy.copy(error))) == repr(vars(error))


def locals_of(trace: TracebackType | None) -> Iterator[tuple[str, str]]:
    """The local variables, as an error tracker would print them, of the frames that are ours."""
    for frame, line in traceback.walk_tb(trace):
        if frame.f_globals.get("__name__", "").split(".")[0] in OURS:
            yield f"{frame.f_code.co_filename}:{line}", repr({name: safe(v) for name, v in frame.f_locals.items()})


def safe(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(error).__name__}>"
