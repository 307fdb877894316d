"""For your own tests: cassettes without secrets, and a mock server on this machine.

One line in the `conftest.py` at the root of your tests is enough::

    pytest_plugins = ["liveavatar.testing"]

A test marked with `pytest.mark.vcr` then records its cassette once (`pytest --record-mode=once`) and replays it from
there, and a test that takes `liveavatar_mock` talks to a service of its own. With a `vcr_config` fixture of your
own, or without pytest, take the dict: `vcr.VCR(**vcr_config)`.

It needs the extra: `pip install 'liveavatar[testing]'`.

PYTEST_DONT_REWRITE: there is no assertion in here, and so it may be imported before pytest loads it as a plugin.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

try:
    import pytest
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "pytest is not installed; liveavatar.testing needs it: pip install 'liveavatar[testing]'", name="pytest"
    ) from None

from ._constants import API_KEY_VARIABLE, BASE_URL, BASE_URL_VARIABLE
from ._proxies import is_loopback
from ._redaction import MASK, is_secret, redact, secrets_in

if TYPE_CHECKING:
    from .mock import MockServer

__all__ = ["liveavatar_mock", "vcr_config"]

# Other headers are dropped: they differ between the clients, or may be sensitive.
_REQUEST_HEADERS = ("content-type", "x-api-key", "authorization")
_RESPONSE_HEADERS = ("content-type", "location", "retry-after", "x-request-id", "cf-ray")
_RATE_LIMIT = "x-ratelimit-"
_MIN_SECRET_LENGTH = 8  # characters of a credential that is masked in texts: a shorter one may be an ordinary word
_MAX_WORD_LENGTH = 20  # characters of a word in a text that is not JSON: a longer one may be a token

_ADDRESS = re.compile(r"http://[^\s\"\\]+")
_NAME = re.compile(r"[\w-]+")
_WORD = re.compile(r"[\w+/=.~%-]+")

# Credentials seen in this process, and the placeholder of each in a cassette.
_placeholders: dict[str, str] = {}


def _clean_request(request: Any) -> Any:
    """Return a request as a cassette holds it: the same from both clients and every base URL, without secrets."""
    headers = {name.lower(): _text(value) for name, value in request.headers.items()}
    headers = {name: headers[name] for name in _REQUEST_HEADERS if name in headers}
    credentials = []
    for name in headers.keys() & {"x-api-key", "authorization"}:
        scheme, _, credential = headers[name].rpartition(" ")
        credentials.append(credential)
        headers[name] = f"{scheme} {_placeholder(credential)}".strip()
    secrets = [*filter(_is_maskable, credentials)]
    request.headers = headers
    request.uri = _clean_uri(_service_uri(request.uri), secrets)
    body = request.body
    if body is None or isinstance(body, bytes | bytearray):
        request.body = _clean_body(bytes(body or b""), secrets).encode() or None
    else:  # a stream, which is no request of this package
        request.body = b""
    return request


def _clean_response(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response as a cassette holds it."""
    headers = {name.lower(): values for name, values in response["headers"].items()}
    content = response["body"].get("string") or b""
    content = content.encode() if isinstance(content, str) else bytes(content)
    secrets = [*filter(_is_maskable, _placeholders)]
    text = "" if "content-encoding" in headers else _clean_body(content, secrets)
    return {
        **response,
        "headers": {
            name: [_clean_string(_text(each), secrets) for each in ([values] if isinstance(values, str) else values)]
            for name, values in headers.items()
            if name in _RESPONSE_HEADERS or name.startswith(_RATE_LIMIT)
        },
        "body": {"string": text.encode()},
    }


def _clean_body(content: bytes, secrets: list[str]) -> str:
    """Return a body without its secrets, or an empty one if it is neither JSON in UTF-8 nor a text of plain words."""
    text, value = "", None
    with contextlib.suppress(ValueError, RecursionError):
        text = content.decode("utf-8-sig")
        value = json.loads(text)
    if not isinstance(value, dict | list):
        text = redact(content.decode("utf-8", "replace"), secrets)
        return text if _is_plain(text) else ""
    secrets = [*secrets, *filter(_is_maskable, secrets_in(value))]
    clean = _clean_value(value, secrets)
    _keep_session_apart(value, clean)
    if clean == value and _clean_string(text, secrets) == text:
        return text
    return json.dumps(clean, separators=(",", ":"))


def _clean_value(value: Any, secrets: list[str], *, secret: bool = False) -> Any:
    """Return a JSON value without its secrets; `secret` says that its own name marks it as one."""
    if isinstance(value, str):
        return MASK if secret and value and not value.startswith(MASK) else _clean_string(value, secrets)
    if isinstance(value, list):
        return [_clean_value(each, secrets, secret=secret) for each in value]
    if isinstance(value, dict):
        return {
            _clean_string(name, secrets): _clean_value(each, secrets, secret=is_secret(name))
            for name, each in value.items()
        }
    return value


def _clean_string(text: str, secrets: list[str]) -> str:
    """Return a text without secrets, or a mask for all of it if some are visible only once it is unquoted."""
    clean = redact(_ADDRESS.sub(lambda address: _service_uri(address[0]), text), secrets)
    quoted, decoded = clean, unquote(clean)
    while decoded != quoted:
        if redact(decoded, secrets) != decoded:
            return MASK
        quoted, decoded = decoded, unquote(decoded)
    return clean


def _clean_uri(uri: str, secrets: list[str]) -> str:
    """Return an address without secrets in its query or elsewhere."""
    parts = urlsplit(redact(uri, secrets))
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    query = "&".join(
        f"{name}{sign}{MASK if sign and is_secret(unquote(name)) else _clean_string(value, secrets)}"
        for name, sign, value in pairs
    )
    return parts._replace(query=query).geturl()


def _is_plain(text: str) -> bool:
    """Return whether a text consists of words, none of which names a secret or may be one."""
    names = any(is_secret(name) for name in _NAME.findall(text))
    return not names and "\0" not in text and all(len(word) < _MAX_WORD_LENGTH for word in _WORD.findall(text))


def _placeholder(credential: str) -> str:
    return credential if credential.startswith(MASK) else _placeholders.setdefault(credential, MASK)


def _is_maskable(credential: str) -> bool:
    return len(credential) >= _MIN_SECRET_LENGTH and not credential.startswith(MASK)


def _keep_session_apart(value: Any, clean: Any) -> None:
    """Put the session id into the placeholder of the session token.

    A start request is identified by its token alone, and concurrent sessions must match their own recordings.
    """
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, dict):
        return
    token, session_id = data.get("session_token"), data.get("session_id")
    if isinstance(token, str) and token and isinstance(session_id, str):
        clean["data"]["session_token"] = MASK + session_id
        if not token.startswith(MASK):
            _placeholders[token] = MASK + session_id


def _service_uri(uri: str) -> str:
    """Return the address at the live service that a mock server on loopback stands for."""
    parts, service = urlsplit(uri), urlsplit(BASE_URL)
    if is_loopback(parts.hostname or "") and re.search(r"/sessions(/|$)", parts.path):
        return parts._replace(scheme=service.scheme, netloc=service.netloc).geturl()
    return uri


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)


vcr_config: dict[str, Any] = {
    "match_on": ["method", "scheme", "host", "port", "path", "query", "headers", "body"],
    "decode_compressed_response": True,
    "before_record_request": _clean_request,
    "before_record_response": _clean_response,
}
"""Settings for vcrpy: no secret gets into a cassette, and one cassette replays in both clients.

Session ids stay. Credentials, room tokens and `ws_url` become `***`; a session token becomes `***` and the id of its
session. A mock server on loopback is recorded under the address of the live service. Only the headers that matter are
kept, so that a cassette replays with another key, another base URL or the other client.

A body that is neither JSON in UTF-8 nor a short plain text is left out, because secrets in it cannot be recognized.
"""


@pytest.fixture(name="vcr_config", scope="session")
def _vcr_config() -> dict[str, Any]:
    """Return the settings for pytest-recording. A fixture of the same name in your conftest.py takes precedence."""
    return {**vcr_config, "allowed_hosts": [r"127\.0\.0\.1$", "::1$", "localhost$"]}


@pytest.fixture
def liveavatar_mock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockServer]:
    """Run a mock server for one test. Clients that are created without arguments talk to it.

    To set it up, for example with room for one session:
    `@pytest.mark.parametrize("liveavatar_mock", [{"max_concurrent": 1}], indirect=True)`.
    """
    from .mock import mock_server

    with mock_server(**getattr(request, "param", {})) as service:
        monkeypatch.setenv(BASE_URL_VARIABLE, service.base_url)
        monkeypatch.setenv(API_KEY_VARIABLE, service.api_key)
        yield service
