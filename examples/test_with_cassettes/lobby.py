"""The code under test: greet visitors, or tell them why there is no avatar."""

from liveavatar import AsyncLiveAvatarApi, LiveAvatarApiError, LiveAvatarNewSessionRequest


async def invite(avatar_id: str) -> str:
    """Open and close a session, and return a line for the visitor."""
    async with AsyncLiveAvatarApi() as api:
        try:
            async with api.session(LiveAvatarNewSessionRequest(avatar_id=avatar_id, is_sandbox=True)) as session:
                return f"Come in, for {session.max_session_duration} seconds."
        except LiveAvatarApiError as error:
            return f"We are closed: {error.message}"
