"""The request and answer types that go beyond the contract: the client's own defaults, and the opened session.

Everything else that a request is made of is the generated class, taken over as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, Self
from urllib.parse import urlencode

import attrs

import liveavatar_client.models as generated
from liveavatar_client.models import VideoEncoding, VideoQuality
from liveavatar_client.types import UNSET, Unset

from ._constants import MEET_PAGE
from ._redaction import redact


@attrs.define
class VideoSettings(generated.VideoSettings):
    """Encoding and quality of the avatar's video.

    Attributes:
        encoding: the video codec. The service's own default is H264; VP8 is deprecated and will be removed.
        quality: the video quality, "high" by default.
    """

    encoding: VideoEncoding | Unset
    quality: VideoQuality | Unset = VideoQuality.high


def _default_video() -> VideoSettings:
    return VideoSettings(encoding=VideoEncoding.VP8, quality=VideoQuality.high)


@attrs.define
class AvatarPersona(generated.AvatarPersona):
    """Who the avatar is in a FULL session; what is None is not sent.

    Attributes:
        voice_id: the voice (UUID).
        context_id: the prompt and knowledge (UUID).
        language: of the conversation, "en" by default.
    """

    voice_id: str | Unset | None = None
    context_id: str | Unset | None = None


@attrs.define(repr=False)
class LiveAvatarNewSessionRequest(generated.LiveAvatarNewSessionRequest):
    """What a session is to be: `avatar_id` is required, the rest has defaults, and what is None is not sent.

    Enum fields also take their value as a plain string ("H264"). A field that the service has and this class
    does not goes in by item: `request["new_field"] = 1`.

    Attributes:
        avatar_id: the avatar (UUID).
        mode: "LITE" (1 credit per minute) or "FULL" (2 credits per minute).
        video_settings: VP8 at high quality by default; None leaves the quality to the service.
        is_sandbox: a free trial session of about a minute, with the avatar "Wayne" only.
        avatar_persona: FULL: voice, context and language.
        livekit_config: LITE: the caller's own LiveKit room.

    Reference: https://docs.liveavatar.com/reference/create_session_token_v1_sessions_token_post
    """

    mode: str = "LITE"
    video_settings: generated.VideoSettings | Unset | None = attrs.field(factory=_default_video)
    avatar_persona: generated.AvatarPersona | Unset | None = None
    livekit_config: generated.CustomSDKLiveKitConfig | Unset | None = None

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        """A request from plain data, say a configuration file; what is not in it has its default.

        Raises:
            KeyError: `avatar_id` is missing.
            ValueError: an enum field has a value that the service does not know.
        """
        defaults = cls(avatar_id="").to_dict()
        del defaults["avatar_id"]
        request = super().from_dict(defaults | dict(src_dict))
        if isinstance(request.video_settings, generated.VideoSettings):
            request.video_settings = VideoSettings.from_dict(request.video_settings.to_dict())
        return request

    def __repr__(self) -> str:
        fields = [field.name for field in attrs.fields(type(self)) if field.repr]
        given = (f"{name}={value!r}" for name in fields if (value := getattr(self, name)) not in (None, UNSET))
        # A part may have been given as a plain dict, with a token in it.
        return redact(f"{type(self).__name__}({', '.join(given)})")


@attrs.define(kw_only=True)
class StandardSessionResponse:
    """An open session. Its tokens do not show in its repr.

    Attributes:
        session_id: id of the session (UUID); not a secret.
        access_token: LiveKit access token for the user's side.
        livekit_agent_token: LiveKit access token for an agent, when the service made one.
        livekit_url: address of the LiveKit server (wss).
        ws_url: address of the socket for session events, when there is one.
        max_session_duration: seconds after which the service ends the session, when it says.
        raw_response: the answer of the service, unknown fields included.
    """

    session_id: str
    access_token: str = attrs.field(repr=False)
    livekit_agent_token: str | None = attrs.field(default=None, repr=False)
    livekit_url: str
    ws_url: str | None = attrs.field(default=None, repr=False)
    max_session_duration: int | None = None
    raw_response: generated.LiveAvatarSessionResponse = attrs.field(repr=False)

    @classmethod
    def from_response(cls, session_id: str, response: generated.LiveAvatarSessionResponse) -> StandardSessionResponse:
        """The session that a start's answer describes."""
        data = response.data
        return cls(
            session_id=session_id,
            access_token=data.livekit_client_token,
            livekit_agent_token=data.livekit_agent_token or None,
            livekit_url=data.livekit_url,
            ws_url=data.ws_url or None,
            max_session_duration=data.max_session_duration or None,
            raw_response=response,
        )

    def to_dict(self) -> dict[str, Any]:
        """The session as plain data, its tokens included: to send or to store it, not to log it."""
        return attrs.asdict(self, recurse=False) | {"raw_response": self.raw_response.to_dict()}

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        """The session that `to_dict` made plain data of."""
        raw = generated.LiveAvatarSessionResponse.from_dict(src_dict["raw_response"])
        return cls(**{**src_dict, "raw_response": raw})

    @property
    def meet_url(self) -> str:
        """Address of LiveKit's public meeting page for this room. It holds the access token."""
        return f"{MEET_PAGE}?{urlencode({'liveKitUrl': self.livekit_url, 'token': self.access_token})}"


class _PydanticHabit:
    """Stands where a Pydantic model has a method, and says what to write here."""

    def __init__(self, name: str, instead: str) -> None:
        self._message = f"has no {name}(), for it is an attrs class and not a Pydantic model: {instead}"

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__} {self._message}")


# People come from a client whose models were Pydantic's.
for _class in [StandardSessionResponse, *(getattr(generated, _name) for _name in generated.__all__)]:
    if attrs.has(_class):
        for _name, _instead in {
            "model_dump": "use to_dict()",
            "model_dump_json": "use json.dumps() on its to_dict()",
            "model_validate": "use from_dict()",
            "model_copy": "use copy.deepcopy(), and set what is to differ",
        }.items():
            setattr(_class, _name, _PydanticHabit(_name, _instead))
