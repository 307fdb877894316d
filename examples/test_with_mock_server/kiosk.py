"""The code under test: a kiosk that greets one visitor after the other, and has a poster for when it cannot."""

from liveavatar import ConcurrencyLimitError, InsufficientCreditsError, LiveAvatarApi, LiveAvatarNewSessionRequest

AVATAR = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a")


class Kiosk:
    """Each visitor gets a session of their own; the one before is closed first."""

    def __init__(self, api: LiveAvatarApi) -> None:
        self.api = api
        self.session_id: str | None = None

    def greet(self) -> str:
        """What the next visitor is shown."""
        if self.session_id is not None:
            self.api.close_session(self.session_id)
            self.session_id = None
        try:
            session = self.api.new_session(AVATAR)
        except (ConcurrencyLimitError, InsufficientCreditsError):
            return "the poster"
        self.session_id = session.session_id
        return f"the avatar in {session.livekit_url}"
