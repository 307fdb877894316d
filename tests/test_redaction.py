"""Secrets are redacted from everything that is printed."""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from typing import Any

import attrs
import pytest
from liveavatar._redaction import (
    MASK,
    Secret,
    exception_chain,
    is_secret,
    redact,
    scrub_traceback,
    secret_fields,
    secrets_in,
)

import liveavatar_client.models as generated


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('{"session_token": "s3cret"}', '{"session_token": "***"}'),
        ('{"ws_url":"wss://s3cret","a":1}', '{"ws_url":"***","a":1}'),
        ("{'livekit_client_token': 's3cret'}", "{'livekit_client_token': '***'}"),
        (r'{"body": "{\"agora_token\": \"s3cret\"}"}', r'{"body": "{\"agora_token\": \"***\"}"}'),
        ('{"livekit_agent_token": "s3cret', '{"livekit_agent_token": "***'),
        ('{"sessionToken": "s3cret"}', '{"sessionToken": "***"}'),
        ('{"Session-Token": "s3cret"}', '{"Session-Token": "***"}'),
        ('{"X-API-KEY": "s3cret"}', '{"X-API-KEY": "***"}'),
        ('{"apiKey": "s3cret", "Authorization": "s3cret"}', '{"apiKey": "***", "Authorization": "***"}'),
        ('{"ws_url": null, "session_id": "7"}', '{"ws_url": null, "session_id": "7"}'),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln is bad", "token *** is bad"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdW", "token ***"),
        ("https://meet.example/?token=s3cret&a=1", "https://meet.example/?token=***&a=1"),
        ("https://meet.example/?access_token=s3cret", "https://meet.example/?access_token=***"),
        ("https://meet.example/?a%3D1%26token%3Ds3cret%26b%3D2", "https://meet.example/?a%3D1%26token%3D***%26b%3D2"),
        ("http://user:s3cret@proxy.example:8080", "http://***@proxy.example:8080"),
        ("http://s3cret@proxy.example", "http://***@proxy.example"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_redact(text: str, redacted: str) -> None:
    """Fields, JWTs, query parameters and user information that look like secrets are redacted."""
    assert redact(text) == redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("""{"ws_url": "wss://s3cret/?a='s3cret'", "b": 1}""", '{"ws_url": "***", "b": 1}'),
        (r'{"session_token": "s3cret\"s3cret", "b": 1}', '{"session_token": "***", "b": 1}'),
        (
            r'{"body": "{\"agora_token\": \"s3cret\\\"s3cret\", \"b\": 1}"}',
            r'{"body": "{\"agora_token\": \"***\", \"b\": 1}"}',
        ),
    ],
)
def test_redact_quotes(text: str, redacted: str) -> None:
    """A quote inside a secret does not end it."""
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "key a/b+c=d!",
        "key a%2Fb%2Bc%3Dd%21",
        "key a/b%2Bc%3Dd%21",
        '{"k": "a/b+c=d!"}',
        r"key a\/b\u002bc\u003Dd\u0021",
    ],
    ids=range(5),
)
def test_redact_known(text: str) -> None:
    """A known secret is redacted in any escaping."""
    assert redact(text, ["a/b+c=d!"]) == text[: text.index("a")] + MASK + ('"}' if text[0] == "{" else "")


@pytest.mark.parametrize("secret", ["", "+s3cret"])
def test_redact_takes_linear_time(secret: str) -> None:
    """A long text of backslashes does not stop the program for minutes."""
    began = time.process_time()
    assert redact("\\" * 80_000, [secret]) == "\\" * 80_000
    assert time.process_time() - began < 5.0


def test_redact_short() -> None:
    """A known secret that is too short to be one does not redact words."""
    assert redact("a session token", ["a", "ses"]) == "a session token"


@pytest.mark.parametrize("field", sorted(secret_fields()))
def test_secret_fields(field: str) -> None:
    """Every field that the contract marks as secret is redacted."""
    assert is_secret(field)
    assert redact(f'{{"{field}": "s3cret"}}') == f'{{"{field}": "***"}}'
    assert list(secrets_in({"a": [{field: "s3cret"}]})) == ["s3cret"]


def test_secret_fields_follow_the_contract() -> None:
    """The secret fields are those that the generated models keep out of their repr."""
    fields = {
        field.name
        for name in generated.__all__
        if attrs.has(model := getattr(generated, name))
        for field in attrs.fields(model)
        if not field.repr
    }
    assert {"session_token", "livekit_client_token", "livekit_agent_token", "ws_url", "agora_token"} <= fields
    assert secret_fields() == fields - {"additional_properties"} | {"access_token"}


@pytest.mark.parametrize("name", ["session_id", "avatar_id", "livekit_url", "livekit_room", "language", "message"])
def test_public_fields(name: str) -> None:
    """An id, a room or a language is not a secret."""
    assert not is_secret(name)
    assert redact(f'{{"{name}": "shown"}}') == f'{{"{name}": "shown"}}'


def test_secrets_in() -> None:
    """Secrets are found anywhere in a JSON value."""
    request = {"livekit_config": {"livekit_client_token": "one"}, "list": [{"agora_token": "two"}], "ws_url": None}
    assert sorted(secrets_in(request)) == ["one", "two"]
    assert list(secrets_in(None)) == []


def test_secret() -> None:
    """A Secret is printed as stars, and reveals its value only on request."""
    secret = Secret("s3cret")
    assert f"{secret} {secret!r} {[secret]}" == "*** *** [***]"
    assert secret.reveal() == "s3cret"


def test_exception_chain() -> None:
    """The chain of an exception is its causes and contexts, and ends even if it is a circle."""
    first, second, third = ValueError("1"), KeyError("2"), OSError("3")
    first.__cause__, second.__context__, third.__context__ = second, third, first
    assert list(exception_chain(first)) == [first, second, third]
    assert list(exception_chain("no exception")) == []


# ---- Tracebacks --------------------------------------------------------------------------------------------


@scrub_traceback
def fail(api_key: str) -> None:
    """Raise an exception whose frames and cause hold a secret."""
    token = f"{api_key}-token"
    try:
        raise KeyError(len(token))
    except KeyError as error:
        raise ValueError("failed") from error


@scrub_traceback
async def fail_async(api_key: str) -> None:
    """Do the same in a coroutine."""
    await asyncio.sleep(0)
    fail.__wrapped__(api_key)  # type: ignore[attr-defined]


def local_values(error: BaseException) -> str:
    """Return the local variables of all frames of an exception and of its causes, but for the test's own."""
    frames = [
        frame
        for each in exception_chain(error)
        for frame, _ in traceback.walk_tb(each.__traceback__)
        if not frame.f_code.co_name.startswith("test_")
    ]
    assert frames
    return repr([frame.f_locals for frame in frames])


@pytest.mark.parametrize("function", [fail, lambda key: asyncio.run(fail_async(key))], ids=["blocking", "async"])
def test_scrub_traceback(function: Any) -> None:
    """The traceback of an exception has no local variables, nor has that of its cause."""
    with pytest.raises(ValueError, match="failed") as caught:
        function("the-api-key")
    assert [type(each) for each in exception_chain(caught.value)] == [ValueError, KeyError]
    frames = [
        frame
        for each in exception_chain(caught.value)
        for frame, _ in traceback.walk_tb(each.__traceback__)
        if frame.f_code.co_name in ("fail", "fail_async", "wrapper", "async_wrapper")
    ]
    assert len(frames) >= 2
    assert "the-api-key" not in repr([frame.f_locals for frame in frames])


def test_scrub_keeps_active() -> None:
    """The exception that the caller is handling keeps its local variables."""

    def caller() -> None:
        mine = "kept"
        raise RuntimeError(mine)

    with pytest.raises(ValueError, match="failed") as caught:  # noqa: PT012
        try:
            caller()
        except RuntimeError:
            fail("the-api-key")
    (active,) = [each for each in exception_chain(caught.value.__cause__) if isinstance(each, RuntimeError)]
    assert "kept" in local_values(active)


def test_scrub_keeps_the_function() -> None:
    """The decorated function keeps its name, docstring and kind."""
    assert (fail.__name__, fail.__doc__) == ("fail", "Raise an exception whose frames and cause hold a secret.")
    assert inspect.iscoroutinefunction(fail_async)
    assert not inspect.iscoroutinefunction(fail)
