"""Keeps API keys, tokens and other secrets out of everything that is printed."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from liveavatar_client.models import SECRET_FIELDS

MASK = "***"

_JWT = re.compile(r"eyJ[\w-]{4,}(?:\.[\w-]*){0,4}")
_PARAMETER = re.compile(r"((?:access_?)?token(?:=|%3D))(?:(?!%26)[^&\s\"'<>\\])+", re.IGNORECASE)
_USER_INFO = re.compile(r"(://)[^/@\s\"'<>]+@")

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


class Secret(Generic[T]):
    """A value that is never printed."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the value, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        return MASK


def secret_fields() -> frozenset[str]:
    """Return the names of all fields that hold a secret, in the contract and in the client's own models."""
    return frozenset({*SECRET_FIELDS, "access_token"})


@functools.cache
def _name_pattern() -> str:
    """Return a pattern of the secret fields' names, in snake_case, camelCase and kebab-case."""
    names = sorted(name.replace("_", "[_-]?") for name in secret_fields())
    return "|".join([*names, r"(?:\w*[_-])?token", r"(?:x-)?api[_-]?key", "authorization"])


@functools.cache
def _field_value() -> re.Pattern[str]:
    """Return a pattern of secret fields in JSON, in JSON inside a JSON string, complete or truncated.

    JSON in five nested JSON strings has 31 backslashes before a quote. Without a limit, the time for a text of
    backslashes would grow with the square of its length.
    """
    return re.compile(
        rf'((\\{{0,31}})(["\'])(?:{_name_pattern()})\2\3\s*[:=]\s*\2\3)(?:(?!(?<!\\)\2\3).)*',
        re.DOTALL | re.IGNORECASE,
    )


@functools.cache
def is_secret(name: str) -> bool:
    """Return whether a field of this name holds a secret."""
    return re.fullmatch(_name_pattern(), name, re.IGNORECASE) is not None


def secrets_in(value: Any) -> Iterator[str]:
    """Yield the values of all secret fields anywhere inside a JSON value."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(inner, str) and is_secret(str(name)):
                yield inner
            else:
                yield from secrets_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from secrets_in(inner)


def _escaped_variants(secret: str) -> re.Pattern[str]:
    r"""Return a pattern of `secret`, also escaped as in JSON (`\/`, `\u002b`) and in URLs (`%2B`)."""

    def variants(match: re.Match[str]) -> str:
        character = match[0]
        return rf"(?:\\{{0,31}}{re.escape(character)}|\\{{1,31}}u{ord(character):04x}|%{ord(character):02x})"

    return re.compile(re.sub(r"[^\w-]", variants, secret), re.IGNORECASE)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without the given secrets, in any escaping, and without anything that looks like one."""
    for secret in secrets:
        if len(secret) >= 4:  # a shorter one may be part of an ordinary word
            text = _escaped_variants(secret).sub(MASK, text)
    text = _field_value().sub(rf"\1{MASK}", text)
    text = _JWT.sub(MASK, text)
    text = _USER_INFO.sub(rf"\1{MASK}@", text)
    return _PARAMETER.sub(rf"\1{MASK}", text)


def exception_chain(error: object) -> Iterator[BaseException]:
    """Yield an exception, its cause or context, and so on."""
    seen: set[int] = set()
    while isinstance(error, BaseException) and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _clear_frames(error: BaseException, active: BaseException | None) -> None:
    """Clear the locals of all frames in the tracebacks of `error` and of the exceptions that led to it.

    The exception that the caller was handling (`active`) keeps its frames.
    """
    pending: list[BaseException | None] = [error]
    seen = {id(active)}
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        pending += [current.__cause__, current.__context__]


def scrub_traceback(function: Function) -> Function:
    """Remove the local variables from the traceback of what `function` raises.

    Error trackers print local variables, and tokens are among them. The arguments are wrapped while the function
    runs, because a logging handler may print the frames of its callers.
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def async_wrapper(*args: Any, **kwargs: Any) -> Any:
            active, held = sys.exception(), Secret((args, kwargs))
            del args, kwargs
            try:
                return await function(*held.reveal()[0], **held.reveal()[1])
            except BaseException as error:
                del held
                _clear_frames(error, active)
                raise

        return cast(Function, async_wrapper)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        active, held = sys.exception(), Secret((args, kwargs))
        del args, kwargs
        try:
            return function(*held.reveal()[0], **held.reveal()[1])
        except BaseException as error:
            del held
            _clear_frames(error, active)
            raise

    return cast(Function, wrapper)
