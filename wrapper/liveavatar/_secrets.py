"""Keeping credentials, room tokens and the event socket's address out of sight, in one place."""

from __future__ import annotations

import functools
import re
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

MASK = "***"

_FIELDS = "session_token|livekit_client_token|livekit_agent_token|access_token|agora_token|ws_url"
# The value of such a field in JSON, in JSON inside a JSON string, and cut off in the middle.
_FIELD = re.compile(rf'((\\*)(["\'])(?:{_FIELDS})\2\3\s*[:=]\s*\2\3)(?:(?!(?<!\\)\2\3).)*', re.DOTALL)
_JWT = re.compile(r"eyJ[\w-]{4,}(?:\.[\w-]*){0,4}")
_PARAMETER = re.compile(r"((?:access_)?token=)[^&\s\"'<>\\]+")

P = ParamSpec("P")
R = TypeVar("R")


class Secret:
    """A value that shows as stars wherever it is printed."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return MASK


def secrets_in(value: Any) -> Iterator[str]:
    """The values that secret fields hold anywhere inside a JSON value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str) and re.fullmatch(_FIELDS, str(name)):
                yield inner
            else:
                yield from secrets_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from secrets_in(inner)


def _in_any_escaping(secret: str) -> re.Pattern[str]:
    r"""`secret` as it is, or with signs escaped as JSON (`\/`, `\u002b`) and addresses (`%2B`) have them."""
    return re.compile(
        "".join(
            character
            if character.isalnum() or character in "-_"
            else rf"(?:\\*{re.escape(character)}|\\+u{ord(character):04x}|%{ord(character):02x})"
            for character in secret
        ),
        re.IGNORECASE,
    )


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the given secrets, in any escaping, and without anything that looks like one."""
    for secret in secrets:
        if len(secret) >= 4:  # shorter ones would mask ordinary words
            text = _in_any_escaping(secret).sub(MASK, text)
    text = _FIELD.sub(rf"\1{MASK}", text)
    text = _JWT.sub(MASK, text)
    return _PARAMETER.sub(rf"\1{MASK}", text)


def _clear_frames(error: BaseException, handled_outside: BaseException | None) -> None:
    """Empty the locals of the frames that `error` and what led to it came through.

    What the caller was handling before it called us is the caller's, and stays whole.
    """
    pending: list[BaseException | None] = [error]
    seen = {id(handled_outside)}
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        pending += [current.__cause__, current.__context__]


def without_locals(method: Callable[P, R]) -> Callable[P, R]:
    """Let what `method` raises carry no locals: error trackers print them, and tokens are among them."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        outside = sys.exception()
        try:
            return method(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            _clear_frames(error, outside)
            raise

    return guarded


def without_locals_async(method: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The same for a coroutine function."""

    @functools.wraps(method)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        outside = sys.exception()
        try:
            return await method(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            _clear_frames(error, outside)
            raise

    return guarded
