"""The code under test: it lets visitors in, or says why it does not."""

from liveavatar import AsyncLiveAvatarApi, LiveAvatarApiError, LiveAvatarNewSessionRequest


async def invite(avatar_id: str) -> str:
    """A line for a visitor, from a session that lives for just as long as it takes to say it."""
    async with AsyncLiveAvatarApi() as api:
        try:
            async with api.session(LiveAvatarNewSessionRequest(avatar_id=avatar_id, is_sandbox=True)) as session:
                return f"Come in, for {session.max_session_duration} seconds."
        except LiveAvatarApiError as error:
            return f"We are closed: {error.message}"
