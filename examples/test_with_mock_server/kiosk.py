"""The code under test: a kiosk that shows an avatar to one visitor at a time, or a poster if there is none."""

from liveavatar import ConcurrencyLimitError, InsufficientCreditsError, LiveAvatarApi, LiveAvatarNewSessionRequest

AVATAR = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a")


class Kiosk:
    """Open a new session for each visitor, and close the previous one first."""

    def __init__(self, api: LiveAvatarApi) -> None:
        self.api = api
        self.session_id: str | None = None

    def greet(self) -> str:
        """Return what to show to the next visitor."""
        if self.session_id is not None:
            self.api.close_session(self.session_id)
            self.session_id = None
        try:
            session = self.api.new_session(AVATAR)
        except (ConcurrencyLimitError, InsufficientCreditsError):
            return "the poster"
        self.session_id = session.session_id
        return f"the avatar in {session.livekit_url}"
