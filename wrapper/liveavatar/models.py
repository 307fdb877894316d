"""The models that go beyond the contract: the client's own defaults, and the open session.

All other models are the generated classes.
"""

# For type checkers, fields are declared again, with the types that they are read and written as. At run time there are
# only the generated fields, which have the defaults and the rules of the contract.
# pyright: reportIncompatibleVariableOverride=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar
from urllib.parse import urlencode

import attrs

import liveavatar_client.models as generated
from liveavatar_client.models import VideoEncoding, VideoQuality
from liveavatar_client.types import UNSET, Unset

from ._constants import MEET_PAGE
from ._redaction import redact
from ._schema import from_plain_value

if TYPE_CHECKING:
    _Read = TypeVar("_Read")
    _Written = TypeVar("_Written")

    class _Field(Generic[_Read, _Written]):
        """A field that is read as one type, and also accepts plain values."""

        def __get__(self, instance: object, owner: type) -> _Read: ...
        def __set__(self, instance: object, value: _Written) -> None: ...

    _Part = _Field[_Read | None, _Read | Mapping[str, Any] | None]


class _RemovedMethod:
    """Raises an AttributeError in the place of a method of Pydantic models, and names the replacement."""

    def __init__(self, name: str, replacement: str) -> None:
        self._message = f"has no {name}(), because it is an attrs class and not a Pydantic model: {replacement}"

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__} {self._message}")


class _Model:
    """An attrs class in which the methods of Pydantic models raise an error that names the replacement."""

    __slots__ = ()

    model_dump = _RemovedMethod("model_dump", "use to_dict()")
    model_dump_json = _RemovedMethod("model_dump_json", "use json.dumps() on its to_dict()")
    model_validate = _RemovedMethod("model_validate", "use from_dict()")
    model_copy = _RemovedMethod("model_copy", "use copy.deepcopy(), and set the fields that differ")


class _RequestModel(_Model):
    """Accepts plain values: a dict for a model, and text for an enum member."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, from_plain_value(type(self), name, value))

    def __eq__(self, other: object) -> bool:
        """Compare by value, also with the generated base class, which `from_dict` creates for a nested model."""
        kind = type(other)
        if not attrs.has(kind) or not isinstance(self, kind):
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in attrs.fields(kind))

    __hash__ = None  # type: ignore[assignment]


@attrs.define(init=False, eq=False)
class VideoSettings(_RequestModel, generated.VideoSettings):
    """Encoding and quality of the avatar's video.

    Attributes:
        encoding: `VideoEncoding` or its value, "H264" or "VP8". The service has deprecated VP8 and will remove it.
        quality: `VideoQuality` or its value, "low", "medium", "high" or "very_high".
    """

    if TYPE_CHECKING:
        encoding: _Field[VideoEncoding, VideoEncoding | str]
        quality: _Field[VideoQuality | None, VideoQuality | str | None]  # type: ignore[assignment]

    def __init__(self, encoding: VideoEncoding | str, quality: VideoQuality | str | None = VideoQuality.high) -> None:
        values: dict[str, Any] = {"encoding": encoding, "quality": quality}
        self.__attrs_init__(**values)  # pyright: ignore[reportAttributeAccessIssue]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data, without a quality that is None."""
        if self.quality is None:
            return {**self.additional_properties, "encoding": self.encoding.value}
        return super().to_dict()


@attrs.define(init=False, eq=False)
class AvatarPersona(_RequestModel, generated.AvatarPersona):
    """Voice, knowledge and language of the avatar in a FULL session. Fields that are None are not sent.

    Attributes:
        voice_id: Id of the voice (UUID).
        context_id: Id of the context, which holds the prompt and the knowledge (UUID).
        language: Language of the conversation, as a code of two letters or with a region.
        voice_settings: Fine tuning of the voice: a model, or a dict with the `provider`.
        stt_config: How the user's speech becomes text: a model, or a dict with the `provider`.
    """

    if TYPE_CHECKING:
        voice_id: str | None = None
        context_id: str | None = None
        language: str | None = None  # type: ignore[assignment]
        voice_settings: _Part[
            generated.ElevenLabsVoiceSettings | generated.FishVoiceSettings | generated.OtherVoiceSettings
        ]
        stt_config: _Part[generated.SttConfig]

    def __init__(
        self,
        voice_id: str | None = None,
        context_id: str | None = None,
        language: str | None = "en",
        voice_settings: generated.ElevenLabsVoiceSettings
        | generated.FishVoiceSettings
        | generated.OtherVoiceSettings
        | Mapping[str, Any]
        | None = None,
        stt_config: generated.SttConfig | Mapping[str, Any] | None = None,
    ) -> None:
        values: dict[str, Any] = {
            "voice_id": voice_id,
            "context_id": context_id,
            "language": language,
            "voice_settings": voice_settings,
            "stt_config": stt_config,
        }
        self.__attrs_init__(**_without_unset(values))  # pyright: ignore[reportAttributeAccessIssue]


def _without_unset(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with None in the place of UNSET, which is of the generated client and means the same."""
    return {name: None if isinstance(value, Unset) else value for name, value in values.items()}


def _default_video_settings() -> VideoSettings:
    return VideoSettings(VideoEncoding.VP8, VideoQuality.high)


DEFAULT_VIDEO_SETTINGS: Any = UNSET
"""VP8 at high quality, as the client that this one replaces sends it. The service has deprecated VP8."""


@attrs.define(init=False, repr=False)
class LiveAvatarNewSessionRequest(_RequestModel, generated.LiveAvatarNewSessionRequest):
    """Configuration of a new session. Only `avatar_id` is required. Fields that are None are not sent.

    Enum fields accept their value as text ("H264"), and model fields accept a dict. A field or a value that this
    version does not know is set like a dict item: `request["new_field"] = 1`. An item is sent as it is, in place of
    the field of that name.

    Attributes:
        avatar_id: Id of the avatar (UUID).
        mode: "LITE" (1 credit per minute) or "FULL" (2 credits per minute).
        video_settings: Encoding and quality of the video. Default: VP8 at high quality. The service has deprecated VP8
            and will remove it: set H264 in new code. None sends VP8 and leaves the quality to the service.
        is_sandbox: Open a free trial session of about a minute, with the avatar "Wayne" only.
        avatar_persona: FULL: voice, context and language. A FULL session needs this or `voice_agent`.
        livekit_config: LITE: the caller's own LiveKit room.
        max_session_duration: Seconds after which the service ends the session.
        agora_config: LITE: the caller's own Agora channel.
        elevenlabs_agent_config: LITE: an ElevenLabs agent that leads the conversation.
        openai_realtime_config: LITE: an OpenAI realtime model that leads the conversation.
        gemini_realtime_config: LITE: a Gemini live model that leads the conversation.
        voice_agent: FULL: a stored voice agent, in place of `avatar_persona`.
        interactivity_type: FULL: "CONVERSATIONAL" or "PUSH_TO_TALK".
        llm_configuration_id: FULL: id of a stored configuration of your own language model (UUID).
        dynamic_variables: Values for the placeholders of texts.
        memory: FULL: what the avatar remembers from earlier sessions.

    Reference: https://docs.liveavatar.com/api-reference/sessions/create-session-token
    """

    if TYPE_CHECKING:
        mode: _Field[str, str | None]
        video_settings: _Field[VideoSettings | None, generated.VideoSettings | Mapping[str, Any] | None]
        is_sandbox: bool | None = None
        avatar_persona: _Field[AvatarPersona | None, generated.AvatarPersona | Mapping[str, Any] | None]
        livekit_config: _Part[generated.CustomSDKLiveKitConfig]
        max_session_duration: int | None = None
        agora_config: _Part[generated.AgoraConfig]
        elevenlabs_agent_config: _Part[generated.ElevenLabsAgentConfig]
        openai_realtime_config: _Part[generated.OpenAIRealtimeConfig]
        gemini_realtime_config: _Part[generated.GeminiRealtimeConfig]
        voice_agent: _Part[generated.VoiceAgent]
        interactivity_type: _Field[generated.InteractivityType | None, generated.InteractivityType | str | None]
        llm_configuration_id: str | None = None
        dynamic_variables: _Part[generated.DynamicVariables]
        memory: _Part[generated.SessionMemory]

    def __init__(
        self,
        avatar_id: str,
        mode: str | None = "LITE",
        video_settings: generated.VideoSettings | Mapping[str, Any] | None = DEFAULT_VIDEO_SETTINGS,
        is_sandbox: bool | None = False,
        avatar_persona: generated.AvatarPersona | Mapping[str, Any] | None = None,
        livekit_config: generated.CustomSDKLiveKitConfig | Mapping[str, Any] | None = None,
        max_session_duration: int | None = None,
        agora_config: generated.AgoraConfig | Mapping[str, Any] | None = None,
        elevenlabs_agent_config: generated.ElevenLabsAgentConfig | Mapping[str, Any] | None = None,
        openai_realtime_config: generated.OpenAIRealtimeConfig | Mapping[str, Any] | None = None,
        gemini_realtime_config: generated.GeminiRealtimeConfig | Mapping[str, Any] | None = None,
        voice_agent: generated.VoiceAgent | Mapping[str, Any] | None = None,
        interactivity_type: generated.InteractivityType | str | None = None,
        llm_configuration_id: str | None = None,
        dynamic_variables: generated.DynamicVariables | Mapping[str, str] | None = None,
        memory: generated.SessionMemory | Mapping[str, Any] | None = None,
    ) -> None:
        values: dict[str, Any] = {
            "avatar_id": avatar_id,
            "mode": mode,
            "video_settings": _default_video_settings() if isinstance(video_settings, Unset) else video_settings,
            "is_sandbox": is_sandbox,
            "avatar_persona": avatar_persona,
            "livekit_config": livekit_config,
            "max_session_duration": max_session_duration,
            "agora_config": agora_config,
            "elevenlabs_agent_config": elevenlabs_agent_config,
            "openai_realtime_config": openai_realtime_config,
            "gemini_realtime_config": gemini_realtime_config,
            "voice_agent": voice_agent,
            "interactivity_type": interactivity_type,
            "llm_configuration_id": llm_configuration_id,
            "dynamic_variables": dynamic_variables,
            "memory": memory,
        }
        self.__attrs_init__(**_without_unset(values))  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        """Create a request from plain data, for example from a configuration file. Missing fields have their defaults.

        Raises:
            KeyError: `avatar_id` is missing.
            ValueError: An enum field has a value that the service does not know.
        """
        defaults = cls(avatar_id="").to_dict()
        del defaults["avatar_id"]
        return super().from_dict({**defaults, **src_dict})

    def __repr__(self) -> str:
        fields = [field.name for field in attrs.fields(type(self)) if field.repr]
        given = (f"{name}={value!r}" for name in fields if (value := getattr(self, name)) not in (None, UNSET))
        return redact(f"{type(self).__name__}({', '.join(given)})")


@attrs.define(kw_only=True)
class StandardSessionResponse(_Model):
    """An open session. Its tokens are not printed.

    Attributes:
        session_id: Id of the session (UUID); not a secret.
        access_token: LiveKit access token for the user's side.
        livekit_agent_token: LiveKit access token for an agent, if the service has created one.
        livekit_url: URL of the LiveKit server (wss).
        ws_url: URL of the WebSocket for session events, if there is one.
        max_session_duration: Seconds after which the service ends the session, if it says.
        raw_response: The response of the service, with its unknown fields.
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
        """Return the session that the response to a start describes."""
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
        """Return the session as plain data, with its tokens: to send or to store, not to log."""
        return attrs.asdict(self, recurse=False) | {"raw_response": self.raw_response.to_dict()}

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        """Return the session that `to_dict` has turned into plain data."""
        raw = generated.LiveAvatarSessionResponse.from_dict(src_dict["raw_response"])
        return cls(**{**src_dict, "raw_response": raw})

    @property
    def meet_url(self) -> str:
        """URL of LiveKit's public meeting page for this room. It contains the access token."""
        return f"{MEET_PAGE}?{urlencode({'liveKitUrl': self.livekit_url, 'token': self.access_token})}"
