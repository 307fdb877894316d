"""LiveKit's avatar plugin, which opens and closes its session through this client.

An agent in a LiveKit room, with the free sandbox avatar as its face. Whatever fails after the session has started, the
WebSocket or the room for example, the session is stopped.

    pip install . livekit-plugins-liveavatar  # in the root of the repository
    export LIVEAVATAR_API_KEY=... LIVEKIT_URL=... LIVEKIT_API_KEY=... LIVEKIT_API_SECRET=...
    python livekit_plugin.py dev
"""

from typing import Any

from liveavatar import (
    AsyncLiveAvatarApi,
    CustomSDKLiveKitConfig,
    LiveAvatarNewSessionRequest,
    StandardSessionResponse,
    VideoEncoding,
    VideoQuality,
    VideoSettings,
)
from livekit import rtc
from livekit.agents import Agent, AgentSession, JobContext, WorkerOptions, cli
from livekit.plugins import liveavatar
from livekit.plugins.liveavatar.api import LiveAvatarAPI


class SessionApi(LiveAvatarAPI):
    """LiveKit's API class, whose three calls go through this client."""

    def __init__(self, client: AsyncLiveAvatarApi) -> None:
        super().__init__("kept by the client")
        self.client = client
        self.opened: StandardSessionResponse | None = None

    async def create_streaming_session(
        self,
        *,
        livekit_url: str,
        livekit_token: str,
        room: rtc.Room,
        avatar_id: str,
        is_sandbox: bool = False,
        video_quality: str | None = None,
    ) -> dict[str, Any]:
        """Create and start the session."""
        room_config = CustomSDKLiveKitConfig(
            livekit_url=livekit_url, livekit_room=room.name, livekit_client_token=livekit_token
        )
        video = VideoSettings(encoding=VideoEncoding.H264, quality=VideoQuality(video_quality or "high"))
        request = LiveAvatarNewSessionRequest(
            avatar_id=avatar_id, is_sandbox=is_sandbox, livekit_config=room_config, video_settings=video
        )
        self.opened = await self.client.new_session(request)
        return {"data": {"session_id": self.opened.session_id, "session_token": "kept by the client"}}

    async def start_streaming_session(self, session_id: str, session_token: str) -> dict[str, Any]:
        """Return the address of the WebSocket; the session has started already."""
        assert self.opened is not None
        return {"data": {"ws_url": self.opened.ws_url}}

    async def stop_streaming_session(self, session_id: str, session_token: str) -> dict[str, Any]:
        """Stop the session."""
        await self.close()
        return {"code": 100}

    async def close(self) -> None:
        """Stop the session if it is still open."""
        if self.opened is not None and self.opened.session_id in self.client.open_sessions:
            await self.client.close_session(self.opened.session_id)


class AvatarSession(liveavatar.AvatarSession):
    """LiveKit's avatar session, which stops its LiveAvatar session even when what follows the start fails."""

    def __init__(self, client: AsyncLiveAvatarApi, **options: Any) -> None:
        super().__init__(api_key="kept by the client", **options)
        self._api = self._sessions = SessionApi(client)

    async def start(self, *arguments: Any, **options: Any) -> None:
        """Join the room."""
        try:
            await super().start(*arguments, **options)
        except BaseException:
            await self._sessions.close()
            raise

    async def _main_task(self) -> None:
        try:
            await super()._main_task()
        finally:
            await self._sessions.close()

    async def aclose(self) -> None:
        """Leave the room and stop the session."""
        await super().aclose()
        await self._sessions.close()


async def entrypoint(job: JobContext) -> None:
    """Run one agent with an avatar, until its job ends."""
    client = AsyncLiveAvatarApi()
    job.add_shutdown_callback(client.aclose)
    agent = AgentSession(stt="deepgram/nova-3", llm="openai/gpt-4.1-mini", tts="cartesia/sonic-3")
    avatar = AvatarSession(client, avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a", is_sandbox=True)
    await job.connect()
    await avatar.start(agent, room=job.room)
    await agent.start(agent=Agent(instructions="You are a friendly receptionist."), room=job.room)


if __name__ == "__main__":
    cli.run_app(WorkerOptions(entrypoint_fnc=entrypoint))
