"""The request models keep every field that they are given."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from liveavatar import AvatarPersona, LiveAvatarNewSessionRequest, VideoSettings

REQUIRED: dict[type, dict[str, Any]] = {
    LiveAvatarNewSessionRequest: {"avatar_id": "an-id"},
    AvatarPersona: {},
    VideoSettings: {"encoding": "H264"},
}
SPECIAL: dict[str, Any] = {
    "is_sandbox": True,
    "max_session_duration": 60,
    "quality": "low",
    "encoding": "VP8",
    "interactivity_type": "PUSH_TO_TALK",
    "video_settings": {"encoding": "H264"},
    "livekit_config": {"livekit_url": "wss://a", "livekit_room": "b", "livekit_client_token": "c"},
}


@pytest.mark.parametrize("model", REQUIRED)
def test_constructor_keeps_every_argument(model: type) -> None:
    """Each parameter of a constructor becomes the field of its name."""
    for name, parameter in inspect.signature(model).parameters.items():
        default = {"provider": "a"} if "Mapping" in str(parameter.annotation) else "text"
        made = model(**{**REQUIRED[model], name: SPECIAL.get(name, default)})
        assert made.to_dict()[name] is not None, name


def test_quality_is_none() -> None:
    """A quality that is None is read as None, and is not part of the plain data."""
    for settings in (VideoSettings("H264", None), VideoSettings("H264")):
        settings.quality = None
        assert settings.quality is None
        assert settings.to_dict() == {"encoding": "H264"}
        assert LiveAvatarNewSessionRequest(avatar_id="", video_settings=settings).to_dict()["video_settings"] == {
            "encoding": "H264"
        }
