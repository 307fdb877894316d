"""Vision Agents' avatar plugin, which opens and closes its session through this client.

An agent in a Stream call, with the free sandbox avatar as its face. Whatever fails after the session has started, or
cancels it, the session is stopped.

    pip install . vision-agents-plugins-liveavatar vision-agents-plugins-gemini  # in the root of the repository
    export LIVEAVATAR_API_KEY=... STREAM_API_KEY=... STREAM_API_SECRET=... GOOGLE_API_KEY=...
    python vision_agents_plugin.py
"""

import asyncio
from typing import Any
from uuid import uuid4

from liveavatar import (
    AsyncLiveAvatarApi,
    LiveAvatarNewSessionRequest,
    StandardSessionResponse,
    VideoEncoding,
    VideoQuality,
    VideoSettings,
)
from vision_agents.plugins import liveavatar
from vision_agents.plugins.liveavatar.liveavatar_client import LiveAvatarClient, Session, SessionToken


class SessionClient(LiveAvatarClient):
    """The plugin's client, whose three calls go through this client."""

    def __init__(self, client: AsyncLiveAvatarApi) -> None:
        super().__init__("kept by the client")
        self.client = client
        self.opened: StandardSessionResponse | None = None

    async def create_session_token(
        self,
        avatar_id: str,
        *,
        is_sandbox: bool = True,
        max_session_duration: int | None = None,
        video_quality: str = "high",
        video_encoding: str = "H264",
    ) -> SessionToken:
        """Create and start the session."""
        request = LiveAvatarNewSessionRequest(
            avatar_id=avatar_id,
            is_sandbox=is_sandbox,
            video_settings=VideoSettings(encoding=VideoEncoding(video_encoding), quality=VideoQuality(video_quality)),
        )
        if max_session_duration is not None:
            request.max_session_duration = max_session_duration
        self.opened = await self.client.new_session(request)
        return SessionToken(self.opened.session_id, "kept by the client")

    async def start_session(self, session_token: str) -> Session:
        """Return the session, which has started already."""
        assert self.opened is not None
        fields = self.opened.raw_response.data.to_dict()
        return Session(**{name: fields.get(name) for name in Session.__dataclass_fields__})

    async def stop_session(self, *, session_id: str, reason: str = "USER_CLOSED") -> None:
        """Stop the session if it is still open."""
        if session_id in self.client.open_sessions:
            await self.client.close_session(session_id)

    async def close(self) -> None:
        """Stop the session if it is still open, and close the plugin's own connections."""
        if self.opened is not None:
            await self.stop_session(session_id=self.opened.session_id)
        await super().close()


class Avatar(liveavatar.Avatar):
    """The plugin's avatar, which stops its session even when its start is cancelled."""

    def __init__(self, client: AsyncLiveAvatarApi, **options: Any) -> None:
        super().__init__(api_key="kept by the client", **options)
        self._client = SessionClient(client)

    async def start(self) -> None:
        """Open the session and connect to its room."""
        try:
            await super().start()
        except BaseException:
            await self._client.close()
            raise


async def main() -> None:
    """Run one agent with an avatar, for one conversation."""
    from vision_agents.core import Agent, User
    from vision_agents.plugins import gemini, getstream

    async with AsyncLiveAvatarApi() as client:
        agent = Agent(
            edge=getstream.Edge(),
            agent_user=User(name="Receptionist", id="receptionist"),
            instructions="You are a friendly receptionist.",
            llm=gemini.Realtime(),
            avatar=Avatar(client, avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a"),
        )
        call = await agent.create_call("default", str(uuid4()))
        async with agent.join(call):
            await agent.finish()


if __name__ == "__main__":
    asyncio.run(main())
