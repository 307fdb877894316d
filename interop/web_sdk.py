"""HeyGen's client for browsers, whose session client runs in Node."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from liveavatar.mock import MockServer

from .operations import operation
from .raw import OWN_ROOM, PERSONA, Program

PACKAGE = Path(sys.prefix) / "node" / "node_modules" / "@heygen" / "liveavatar-web-sdk"
SCRIPT = Path(__file__).with_suffix(".mjs")
NODE = shutil.which("node")
SDK = f"HeyGen's web SDK {json.loads((PACKAGE / 'package.json').read_text())['version']}" if PACKAGE.exists() else ""


def skipped() -> list[str]:
    """Return a line that says why the SDK was not tried, if it was not."""
    if NODE and SDK:
        return []
    return [f"SKIPPED: HeyGen's web SDK, as {'npm could not install it' if NODE else 'there is no Node'}"]


def web_operation(name: str, **settings: Any) -> Any:
    """Register an operation if the SDK can be run."""
    return operation(SDK, name, **settings) if NODE and SDK else lambda run: run


async def run(service: MockServer, steps: str, *tokens: str) -> list[dict[str, Any]]:
    """Run the SDK's calls with each token, one after the other.

    Raises:
        AssertionError: Node fails.
    """
    environment = {**os.environ, "WEB_SDK": (PACKAGE / "lib" / "index.esm.js").as_uri(), "API_URL": service.url}
    process = await asyncio.create_subprocess_exec(
        str(NODE),
        SCRIPT,
        steps,
        *tokens,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-500:]
    return [json.loads(line) for line in output.splitlines()]


async def session_token(service: MockServer, **body: Any) -> str:
    """Create a session token as a backend does."""
    async with Program(service) as program:
        data = await program.token(**body)
    token: str = data["session_token"]
    return token


@web_operation("LITE: start, keep alive, stop by token")
async def lite(service: MockServer) -> None:
    (result,) = await run(service, "start,keepAlive,stop", await session_token(service, mode="LITE"))
    assert result["mode"] == "LITE", f"the token says {result['mode']}"
    assert result["start"]["data"]["ws_url"], result["start"]
    assert "data" in result["keepAlive"], result["keepAlive"]
    assert "data" in result["stop"], result["stop"]
    assert [session.end_reason for session in service.sessions] == ["USER_CLOSED"]


@web_operation("LITE, own room")
async def own_room(service: MockServer) -> None:
    token = await session_token(service, mode="LITE", livekit_config=OWN_ROOM, is_sandbox=True)
    (result,) = await run(service, "start,stop", token)
    assert result["start"]["data"]["ws_url"], result["start"]
    assert "data" in result["stop"], result["stop"]


@web_operation("FULL: mode and agent read from the token")
async def full(service: MockServer) -> None:
    (result,) = await run(service, "start,stop", await session_token(service, mode="FULL", avatar_persona=PERSONA))
    assert (result["mode"], result["agentType"]) == ("FULL", "FULL"), result
    assert "data" in result["stop"], result["stop"]


@web_operation("ElevenLabs agent read from the token")
async def elevenlabs(service: MockServer) -> None:
    config = {"secret_id": PERSONA["voice_id"], "agent_id": "agent"}
    token = await session_token(service, mode="LITE", elevenlabs_agent_config=config)
    (result,) = await run(service, "start,stop", token)
    assert (result["mode"], result["agentType"]) == ("LITE", "ELEVENLABS_AGENT"), result


@web_operation("wrong token")
async def wrong_token(service: MockServer) -> None:
    (result,) = await run(service, "start", "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl")
    assert result["start"]["status"] == 401, result


@web_operation("too many at once", max_concurrent=1)
async def too_many(service: MockServer) -> None:
    first, second = [await session_token(service, mode="LITE") for _ in range(2)]
    started, refused = await run(service, "start", first, second)
    assert "data" in started["start"], started
    assert refused["start"]["status"] in (403, 409, 429), refused
    (stopped,) = await run(service, "stop", first)
    assert "data" in stopped["stop"], stopped
    (again,) = await run(service, "start,stop", second)
    assert "data" in again["start"], again
