"""Pipecat's own HeyGenVideoService, which opens and closes its session through this client.

The pipeline contains nothing but the avatar, to show where the client goes in. A bot adds a transport, speech
recognition, a language model and a voice. The script runs for 20 seconds, or the number of seconds that you pass, or
until Ctrl-C or SIGTERM.

    pip install . 'pipecat-ai[heygen]'  # in the root of the repository
    export LIVEAVATAR_API_KEY=...
    python pipecat_client.py 60

With `python -m liveavatar.mock` everything works but the room, which the mock server does not have: Pipecat logs that,
and goes on without it.
"""

import asyncio
import os
import sys

import aiohttp
from liveavatar import AsyncLiveAvatarApi, LiveAvatarNewSessionRequest
from loguru import logger
from pipecat.frames.frames import EndFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.services.heygen import client as heygen
from pipecat.services.heygen.video import HeyGenVideoService
from pipecat.workers.runner import WorkerRunner

# Pipecat's client takes both from its module, by these names, when a session is set up: the one makes the calls, the
# other tells whether a request is meant for LiveAvatar. It would ignore a request of a class that it does not know.
heygen.LiveAvatarApi = AsyncLiveAvatarApi
heygen.LiveAvatarNewSessionRequest = LiveAvatarNewSessionRequest

# Pipecat logs a link that holds the room's token.
logger.remove()
logger.add(sys.stderr, level="INFO", filter=lambda record: "token=" not in record["message"])


async def main(seconds: float) -> None:
    """Run a pipeline with an avatar."""
    async with aiohttp.ClientSession() as http:  # one for the whole program; the client uses its connections
        avatar = HeyGenVideoService(
            api_key=os.environ["LIVEAVATAR_API_KEY"],
            session=http,
            service_type=heygen.ServiceType.LIVE_AVATAR,
            session_request=LiveAvatarNewSessionRequest(
                avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a", is_sandbox=True
            ),
        )
        worker = PipelineWorker(Pipeline([avatar]))
        runner = WorkerRunner(handle_sigterm=True)
        await runner.add_workers(worker)
        asyncio.get_running_loop().call_later(seconds, lambda: asyncio.ensure_future(worker.queue_frame(EndFrame())))
        await runner.run()
    print("closed")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 20))
