"""A program whose requests Sentry records: `python -m tests.traced MOMENT`.

It initialises Sentry at the moment, and prints what Sentry recorded of each kind of client, and the secrets.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

recorded: list[Any] = []


class Recorder(Transport):
    """Keeps what would be sent to Sentry."""

    def capture_envelope(self, envelope: Envelope) -> None:
        recorded.extend(item.payload.json for item in envelope.items)


def reached(moment: str) -> None:
    if sys.argv[1] == moment:
        sentry_sdk.init(dsn="http://key@localhost/1", transport=Recorder, traces_sample_rate=1.0)


reached("before the import")

import aiohttp  # noqa: E402
import httpx  # noqa: E402
from liveavatar import (  # noqa: E402
    AsyncLiveAvatarApi,
    LiveAvatarApi,
    LiveAvatarError,
    LiveAvatarNewSessionRequest,
)

REQUEST = LiveAvatarNewSessionRequest(avatar_id="7d3f2a10-4c58-4b6e-9f21-0a8be5c1d742")
UNKNOWN = "0c5d8a3e-72b4-4196-ae0f-95d3c1b8e274"

secrets: list[str] = []


def use(api: LiveAvatarApi) -> None:
    with api.session(REQUEST) as session:
        secrets.append(session.livekit_agent_token)
        api.keep_session_alive(session.session_id)
        next(api.list_sessions())
        secrets.append(api.release_session(session.session_id))
        api.adopt_session(session.session_id, secrets[-1])
    try:
        api.stop_session(UNKNOWN)
    except LiveAvatarError:
        sentry_sdk.capture_exception()


async def use_async(api: AsyncLiveAvatarApi) -> None:
    async with api.session(REQUEST) as session:
        secrets.append(session.livekit_agent_token)
        await api.keep_session_alive(session.session_id)
        await anext(api.list_sessions())
        secrets.append(api.release_session(session.session_id))
        await api.adopt_session(session.session_id, secrets[-1])
    try:
        await api.stop_session(UNKNOWN)
    except LiveAvatarError:
        sentry_sdk.capture_exception()


def lose(api: LiveAvatarApi, http: httpx.Client) -> None:
    """Lose the response of a start, and with it the caller's client: the stop needs a connection beside it."""

    def break_connection(response: httpx.Response) -> None:
        if response.request.url.path.endswith("/start"):
            http.close()
            raise httpx.ReadError("the connection broke")

    http.event_hooks = {"response": [break_connection]}
    try:
        api.new_session(REQUEST)
    except LiveAvatarError:
        sentry_sdk.capture_exception()


async def run_async() -> None:
    async with (
        aiohttp.ClientSession() as session,
        httpx.AsyncClient() as http,
        AsyncLiveAvatarApi() as own,
        AsyncLiveAvatarApi(session=session) as with_session,
        AsyncLiveAvatarApi(http_client=http) as with_http,
    ):
        reached("before the first request")
        for name, api in {"async own": own, "async session": with_session, "async http_client": with_http}.items():
            with sentry_sdk.start_transaction(name=name):
                await use_async(api)


def run() -> None:
    reached("before the clients")
    with (
        httpx.Client() as http,
        httpx.Client() as broken,
        LiveAvatarApi() as own,
        LiveAvatarApi(http_client=http) as with_http,
        LiveAvatarApi(http_client=broken) as with_broken,
    ):
        if sys.argv[1] == "after the first request":
            use(own)
            use(with_http)
            reached("after the first request")
        else:
            asyncio.run(run_async())
        for name, api in {"blocking own": own, "blocking http_client": with_http}.items():
            with sentry_sdk.start_transaction(name=name):
                use(api)
        with sentry_sdk.start_transaction(name="blocking spare"):
            lose(with_broken, broken)


run()
sentry_sdk.flush()
calls = {
    event["transaction"]: [" ".join((span["data"]["http.method"], span["data"]["url"])) for span in event["spans"]]
    for event in recorded
    if event.get("type") == "transaction"
}
print(
    json.dumps({"calls": calls, "errors": [event for event in recorded if "exception" in event], "secrets": secrets})
)
