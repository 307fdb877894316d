"""A. What is refused before anything is sent, and what cannot be sent."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from liveavatar import (
    AsyncLiveAvatarApi,
    LiveAvatarConnectionError,
    LiveAvatarError,
    LiveAvatarNewSessionRequest,
    VideoSettings,
)

from tests.clients import client
from tests.faults import server as fault
from tests.faults.cases import AVATAR, session_request
from tests.faults.conftest import KEY, FastRetries, opened
from tests.faults.server import FaultServer

CANARY = "sk-CANARY-0042"
UNSENDABLE = {"a line break": f"{CANARY}\nX-Evil: 1", "a half surrogate": f"{CANARY}\ud800"}


@pytest.mark.row("A1")
@pytest.mark.parametrize(("key", "variable"), [(None, None), ("", " \n")])
def test_no_api_key(
    key: str | None, variable: str | None, flavour: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an API key, there is no client."""
    if variable is not None:
        monkeypatch.setenv("LIVEAVATAR_API_KEY", variable)
    with pytest.raises(LiveAvatarError, match=r"api_key.*LIVEAVATAR_API_KEY"):
        client(flavour, key, base_url=server.url)
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A1")
def test_api_key_of_environment(flavour: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API key may be in the environment."""
    monkeypatch.setenv("LIVEAVATAR_API_KEY", " from-the-environment\n")
    with opened(flavour, server, api_key=None) as api:
        api.create_session_token(session_request())
    assert server.ledger.of("token")[0].api_key == "from-the-environment"
    assert server.counts == (1, 0, 0)
    assert server.running == set()


@pytest.mark.row("A2")
@pytest.mark.parametrize("ending", ["\n"])
def test_api_key_of_file(ending: str, flavour: str, server: FaultServer) -> None:
    """An API key may end with a line break, as if it was read from a file."""
    with opened(flavour, server, api_key=KEY + ending) as api:
        session = api.new_session(session_request())
        assert server.ledger.of("token")[0].api_key == KEY
        assert server.counts == (1, 1, 0)
        assert server.running == {session.session_id}


@pytest.mark.row("A3")
@pytest.mark.parametrize("value", UNSENDABLE.values(), ids=UNSENDABLE.keys())
def test_invalid_api_key(value: str, flavour: str, server: FaultServer) -> None:
    """An API key that cannot be sent in a header is refused, and not shown."""
    with pytest.raises(ValueError, match="api_key") as caught:
        client(flavour, value, base_url=server.url)
    assert "CANARY" not in repr(caught.value)
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A3")
@pytest.mark.parametrize("value", UNSENDABLE.values(), ids=UNSENDABLE.keys())
def test_invalid_session_token(value: str, api: Any, server: FaultServer) -> None:
    """A session token that cannot be sent in a header is refused, and not shown."""
    for call in (lambda: api.start_session(value), lambda: api.stop_session("some-id", value)):
        with pytest.raises(ValueError, match="session_token") as caught:
            call()
        assert "CANARY" not in repr(caught.value)
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A3")
@pytest.mark.parametrize("value", ["", "  "])
def test_empty_session_token(value: str, api: Any, server: FaultServer) -> None:
    """An empty session token is refused."""
    for call in (lambda: api.start_session(value), lambda: api.stop_session("some-id", value)):
        with pytest.raises(ValueError, match="session_token"):
            call()
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A3")
def test_credential_type(api: Any, flavour: str, server: FaultServer) -> None:
    """A credential of the wrong type is refused."""
    for call in (
        lambda: api.start_session(None),
        lambda: api.start_session(b"token"),
        lambda: api.stop_session("some-id", 7),
        lambda: client(flavour, b"key", base_url=server.url),
    ):
        with pytest.raises(TypeError):
            call()
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A4", "A5")
@pytest.mark.parametrize("way", ["argument", "environment"])
@pytest.mark.parametrize("url", ["https://user:CANARY@api.liveavatar.com", "http://api.liveavatar.com"])
def test_base_url(url: str, way: str, flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid base URL is refused at construction. tests/test_config.py has all forms."""
    if way == "environment":
        monkeypatch.setenv("LIVEAVATAR_BASE_URL", url)
    with pytest.raises(ValueError, match="base_url") as caught:
        client(flavour, KEY, base_url=None if way == "environment" else url)
    assert "CANARY" not in str(caught.value)


REQUESTS = {
    "an empty avatar_id": (lambda: LiveAvatarNewSessionRequest(avatar_id=""), "avatar_id"),
    "a blank avatar_id": (lambda: LiveAvatarNewSessionRequest(avatar_id="  "), "avatar_id"),
    "no avatar_id": (lambda: LiveAvatarNewSessionRequest(avatar_id=None), "avatar_id"),
    "an avatar_id that is a number": (lambda: LiveAvatarNewSessionRequest(avatar_id=7), "avatar_id"),
    "an unknown encoding": (
        lambda: LiveAvatarNewSessionRequest(avatar_id=AVATAR, video_settings=VideoSettings(encoding="AV1")),
        "video_settings.encoding.*'H264', 'VP8'",
    ),
    "an unknown quality": (
        lambda: LiveAvatarNewSessionRequest(
            avatar_id=AVATAR, video_settings=VideoSettings(encoding="VP8", quality="ultra")
        ),
        "video_settings.quality.*'high', 'low'",
    ),
    "a quality that is a number": (
        lambda: LiveAvatarNewSessionRequest(avatar_id=AVATAR, video_settings=VideoSettings(encoding="VP8", quality=3)),
        "video_settings.quality.*'high', 'low'",
    ),
    "video settings that are a text": (
        lambda: LiveAvatarNewSessionRequest(avatar_id=AVATAR, video_settings="high"),
        "video_settings",
    ),
    "a dict": (lambda: {"avatar_id": AVATAR}, "LiveAvatarNewSessionRequest"),
    "None": (lambda: None, "LiveAvatarNewSessionRequest"),
    "a text": (lambda: AVATAR, "LiveAvatarNewSessionRequest"),
}


@pytest.mark.row("A6")
@pytest.mark.parametrize(("made", "says"), REQUESTS.values(), ids=REQUESTS.keys())
def test_invalid_request(made: Any, says: str, api: Any, server: FaultServer) -> None:
    """The error for an invalid request names the field, and nothing is sent."""
    for method in (api.create_session_token, api.new_session):
        with pytest.raises((ValueError, TypeError), match=says) as caught:
            method(made())
        assert not isinstance(caught.value, LiveAvatarError)
    with pytest.raises((ValueError, TypeError), match=says), api.session(made()):
        pytest.fail("no session was to be opened")
    assert api.open_sessions == ()
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A6")
@pytest.mark.parametrize(
    "odd", [float("nan"), float("inf"), object(), {1, 2}, b"bytes"], ids=["nan", "inf", "object", "set", "bytes"]
)
def test_request_not_json(odd: Any, api: Any, server: FaultServer) -> None:
    """A value that JSON does not have is an error of the caller, and nothing is sent."""
    request = session_request()
    request["new_field"] = odd
    with pytest.raises((ValueError, TypeError)) as caught:
        api.new_session(request)
    assert not isinstance(caught.value, LiveAvatarError)
    assert api.open_sessions == ()
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A7")
@pytest.mark.parametrize("session_id", ["", "  ", None])
def test_no_session_id(session_id: Any, api: Any, server: FaultServer) -> None:
    """A stop needs the id of a session."""
    for method in (api.stop_session, api.close_session, api.release_session):
        with pytest.raises(ValueError, match="session_id"):
            method(session_id)
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A7")
def test_invalid_reason(api: Any, server: FaultServer) -> None:
    """An unknown reason of a stop is refused."""
    with pytest.raises(ValueError, match=r"reason.*USER_CLOSED"):
        api.stop_session(AVATAR, reason="BORED")
    with pytest.raises(TypeError, match="reason"):
        api.stop_session(AVATAR, reason=3)
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A8")
def test_closed_client(api: Any, server: FaultServer) -> None:
    """A closed client sends nothing."""
    api.close()
    for call in (
        lambda: api.create_session_token(session_request()),
        lambda: api.start_session("token"),
        lambda: api.stop_session("some-id"),
        lambda: api.new_session(session_request()),
        lambda: api.close_session("some-id"),
        lambda: api.__enter__(),
    ):
        with pytest.raises(LiveAvatarError, match=r"client is closed"):
            call()
    api.close()  # once more does no harm
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A8")
def test_closed_client_session(api: Any, server: FaultServer) -> None:
    """A closed client does not enter a session() block."""
    api.close()
    with pytest.raises(LiveAvatarError, match="client is closed"), api.session(session_request()):
        pytest.fail("no session was to be opened")
    assert server.counts == (0, 0, 0)
    assert server.running == set()


@pytest.mark.row("A9")
def test_async_second_loop(server: FaultServer) -> None:
    """An async client refuses a second event loop, except to close a session."""
    api = AsyncLiveAvatarApi(KEY, base_url=server.url)

    async def open_one() -> str:
        return (await api.new_session(session_request())).session_id

    with asyncio.Runner() as first:
        session_id = first.run(open_one())
        server.settle()
        with asyncio.Runner() as second:
            for call in (
                lambda: api.new_session(session_request()),
                lambda: api.stop_session(session_id),
                lambda: api.create_session_token(session_request()),
                lambda: api.start_session("token"),
            ):
                with pytest.raises(LiveAvatarError, match="event loop"):
                    second.run(_awaited(call))
            assert server.counts == (1, 1, 0)
            assert api.open_sessions == (session_id,)
            second.run(_awaited(lambda: api.close_session(session_id)))  # a close works from any loop
        first.run(api.aclose())
    assert server.counts == (1, 1, 1)
    assert server.running == set()


async def _awaited(call: Any) -> Any:
    return await call()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that refuses: bound, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.row("A10")
def test_connection_refused(silent_port: int, flavour: str, fast_retries: FastRetries) -> None:
    """A refused connection is retried, and then an error."""
    with opened(flavour, f"http://127.0.0.1:{silent_port}/v1") as api:
        with pytest.raises(LiveAvatarConnectionError) as caught:
            api.new_session(session_request())
        assert type(caught.value) is LiveAvatarConnectionError
        assert caught.value.attempts == 3
        assert caught.value.session_may_be_running is False
        assert len(fast_retries.waits) == 2
        assert api.open_sessions == ()


@pytest.mark.row("A10")
def test_unknown_host(flavour: str, fast_retries: FastRetries) -> None:
    """A host without an address is a connection error."""
    with opened(flavour, "https://no-such-host.invalid/v1") as api:
        with pytest.raises(LiveAvatarConnectionError) as caught:
            api.new_session(session_request())
        assert caught.value.attempts == 3
        assert api.open_sessions == ()


@pytest.mark.row("A11")
def test_start_refused(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A start whose connection is refused leaves nothing to stop."""
    with opened(flavour, server) as api:
        server.on("token", fault.vanishes)
        with pytest.raises(LiveAvatarConnectionError) as caught:
            api.new_session(session_request())
        assert type(caught.value) is LiveAvatarConnectionError
        assert caught.value.attempts == 3
        assert caught.value.session_may_be_running is False
        assert api.open_sessions == ()
        server.listen()
        assert server.counts == (1, 0, 0)
        assert server.running == set()


@pytest.mark.row("A11")
def test_start_refused_once(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A start whose connection is refused once is sent once."""
    with opened(flavour, server) as api:
        server.on("token", fault.vanishes)
        fast_retries.on_wait = server.listen
        session = api.new_session(session_request())
        assert server.counts == (1, 1, 0)
        assert server.running == {session.session_id}


@pytest.mark.row("A12")
def test_service_starts(flavour: str, server: FaultServer, fast_retries: FastRetries) -> None:
    """A service that starts between two attempts is reached."""
    server.refuse()
    fast_retries.on_wait = server.listen
    with opened(flavour, server) as api:
        session = api.new_session(session_request())
        assert len(fast_retries.waits) == 1
        assert server.counts == (1, 1, 0)
        assert server.running == {session.session_id}


@pytest.mark.row("A13")
def test_untrusted_certificate(flavour: str, fast_retries: FastRetries) -> None:
    """An untrusted certificate is named in the error, and not retried."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with fault.serving(context) as server, opened(flavour, server) as api:
        with pytest.raises(LiveAvatarConnectionError, match="certificate") as caught:
            api.new_session(session_request())
        assert caught.value.attempts == 1
        assert caught.value.session_may_be_running is False
        assert fast_retries.waits == []
        assert server.ledger.connections == 1
        assert server.counts == (0, 0, 0)
        assert server.running == set()


@pytest.mark.row("A13")
def test_certificate_of_other_host(
    flavour: str, fast_retries: FastRetries, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A trusted certificate of another host is not accepted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    for name, trusted in (("elsewhere.example", False), ("localhost", True)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        with fault.serving(context) as server, opened(flavour, server) as api:
            if trusted:
                session = api.new_session(session_request())
                assert server.counts == (1, 1, 0)
                assert server.running == {session.session_id}
            else:
                with pytest.raises(LiveAvatarConnectionError, match="certificate"):
                    api.new_session(session_request())
                assert server.counts == (0, 0, 0)
                assert server.running == set()
