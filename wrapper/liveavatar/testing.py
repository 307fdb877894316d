"""For your own tests: cassettes without secrets, and a LiveAvatar service on this machine.

One line in the `conftest.py` at the root of your tests is enough::

    pytest_plugins = ["liveavatar.testing"]

A test marked with `pytest.mark.vcr` then records its cassette once (`pytest --record-mode=once`) and replays it from
there, and a test that takes `liveavatar_mock` talks to a service of its own. With a `vcr_config` fixture of your
own, or without pytest, take the dict: `vcr.VCR(**vcr_config)`.

It needs the extra: `pip install 'liveavatar[testing]'`.

PYTEST_DONT_REWRITE: there is no assertion in here, and so it may be imported before pytest loads it as a plugin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

try:
    import pytest
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "pytest is not installed; liveavatar.testing needs it: pip install 'liveavatar[testing]'", name="pytest"
    ) from None

from ._constants import API_KEY_VARIABLE, BASE_URL, BASE_URL_VARIABLE
from ._proxies import is_loopback
from ._redaction import MASK, redact, secrets_in

if TYPE_CHECKING:
    from .mock import MockServer

__all__ = ["liveavatar_mock", "vcr_config"]

# All else is left out: it differs between the two clients, or is nobody's business.
_REQUEST_HEADERS = ("content-type", "x-api-key", "authorization")
_RESPONSE_HEADERS = ("content-type", "location", "retry-after", "x-request-id", "cf-ray")
_RATE_LIMIT = "x-ratelimit-"
_LEAST = 8  # characters of a credential that is looked for in texts: a shorter one may be an ordinary word

_ADDRESS = re.compile(r"http://[^\s\"\\]+")

# Credentials seen in this process, and what stands for each in a cassette.
_stand_ins: dict[str, str] = {}


def _clean_request(request: Any) -> Any:
    """A request as a cassette holds it: the same from both clients and every base URL, and without secrets."""
    headers = {name.lower(): _text(value) for name, value in request.headers.items()}
    headers = {name: headers[name] for name in _REQUEST_HEADERS if name in headers}
    credentials = []
    for name in headers.keys() & {"x-api-key", "authorization"}:
        scheme, _, credential = headers[name].rpartition(" ")
        credentials.append(credential)
        headers[name] = f"{scheme} {_stand_in(credential)}".strip()
    request.headers = headers
    request.uri = redact(_service_uri(request.uri))
    if request.body is None or isinstance(request.body, bytes | bytearray):  # the rest is no request of ours
        text = _text(request.body or b"")
        secrets = [*filter(_telling, credentials), *secrets_in(_json(text))]
        request.body = redact(text, secrets).encode("utf-8", "surrogateescape") or None
    return request


def _clean_response(response: dict[str, Any]) -> dict[str, Any]:
    """A response as a cassette holds it."""
    headers = {name.lower(): values for name, values in response["headers"].items()}
    text = "" if "content-encoding" in headers else _text(response["body"].get("string") or b"")
    body = _json(text)
    secrets = [*filter(_telling, _stand_ins), *secrets_in(body)]
    text = _with_stand_in(body, redact(text, secrets))
    text = _ADDRESS.sub(lambda address: _service_uri(address[0]), text)  # a page of sessions names its neighbors
    return {
        **response,
        "headers": {
            name: [redact(_text(value), secrets) for value in ([values] if isinstance(values, str) else values)]
            for name, values in headers.items()
            if name in _RESPONSE_HEADERS or name.startswith(_RATE_LIMIT)
        },
        "body": {"string": text.encode("utf-8", "surrogateescape")},
    }


def _stand_in(credential: str) -> str:
    return credential if credential.startswith(MASK) else _stand_ins.setdefault(credential, MASK)


def _telling(credential: str) -> bool:
    return len(credential) >= _LEAST and not credential.startswith(MASK)


def _with_stand_in(body: Any, text: str) -> str:
    """Let a masked session token tell its session, to keep sessions apart that are opened at once.

    Nothing else in a start says which session it is of.
    """
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict):
        return text
    token, session_id = data.get("session_token"), data.get("session_id")
    if not (isinstance(token, str) and token and isinstance(session_id, str)):
        return text
    if not token.startswith(MASK):
        _stand_ins[token] = MASK + session_id
    clean = _json(text)
    if clean is None:
        return text
    clean["data"]["session_token"] = MASK + session_id
    return json.dumps(clean, ensure_ascii=False, separators=(",", ":"))


def _service_uri(uri: str) -> str:
    """Return the address at the live service that a mock server on loopback stands for."""
    parts, service = urlsplit(uri), urlsplit(BASE_URL)
    if is_loopback(parts.hostname or "") and re.search(r"/sessions(/|$)", parts.path):
        return parts._replace(scheme=service.scheme, netloc=service.netloc).geturl()
    return uri


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes | bytearray) else str(value)


vcr_config: dict[str, Any] = {
    "match_on": ["method", "scheme", "host", "port", "path", "query", "headers", "body"],
    "decode_compressed_response": True,
    "before_record_request": _clean_request,
    "before_record_response": _clean_response,
}
"""Settings for vcrpy: no secret gets into a cassette, and one cassette replays in both clients.

Session ids stay. Credentials, room tokens and `ws_url` become `***`; a session token becomes `***` and the id of its
session. A mock server on loopback is recorded under the address of the live service. Only meaningful headers
are kept: whoever replays may have another key, another base URL or the other client.
"""


@pytest.fixture(name="vcr_config", scope="session")
def _vcr_config() -> dict[str, Any]:
    """What pytest-recording asks for; a fixture of the same name in your conftest.py goes before it."""
    return {**vcr_config, "allowed_hosts": [r"127\.0\.0\.1$", "::1$", "localhost$"]}


@pytest.fixture
def liveavatar_mock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockServer]:
    """A LiveAvatar service on this machine for one test; clients made without arguments talk to it.

    To set it up, for example with room for one session:
    `@pytest.mark.parametrize("liveavatar_mock", [{"max_concurrent": 1}], indirect=True)`.
    """
    from .mock import mock_server

    with mock_server(**getattr(request, "param", {})) as service:
        monkeypatch.setenv(BASE_URL_VARIABLE, service.base_url)
        monkeypatch.setenv(API_KEY_VARIABLE, service.api_key)
        yield service
