"""Open and close LiveAvatar sessions, blocking and async, and leave none behind.

from liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest

with LiveAvatarApi() as api:
    session = api.new_session(LiveAvatarNewSessionRequest(avatar_id="..."))
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from liveavatar_client.models import (
        CustomSDKLiveKitConfig,
        LiveAvatarSessionData,
        LiveAvatarSessionResponse,
        SessionTokenData,
        SessionTokenResponse,
        StopReason,
        StopSessionResponse,
        VideoEncoding,
        VideoQuality,
        VideoSettings,
    )

    from .async_client import AsyncLiveAvatarApi
    from .client import LiveAvatarApi
    from .errors import (
        AuthenticationError,
        BadRequestError,
        BadResponseError,
        ConcurrencyLimitError,
        ConflictError,
        InsufficientCreditsError,
        InvalidRequestError,
        LiveAvatarApiError,
        LiveAvatarConnectionError,
        LiveAvatarError,
        LiveAvatarTimeoutError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        ServerError,
        SessionTokenNotFoundError,
    )
    from .models import AvatarPersona, LiveAvatarNewSessionRequest, StandardSessionResponse

__all__ = [
    "AsyncLiveAvatarApi",
    "AuthenticationError",
    "AvatarPersona",
    "BadRequestError",
    "BadResponseError",
    "ConcurrencyLimitError",
    "ConflictError",
    "CustomSDKLiveKitConfig",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "LiveAvatarApi",
    "LiveAvatarApiError",
    "LiveAvatarConnectionError",
    "LiveAvatarError",
    "LiveAvatarNewSessionRequest",
    "LiveAvatarSessionData",
    "LiveAvatarSessionResponse",
    "LiveAvatarTimeoutError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServerError",
    "SessionTokenData",
    "SessionTokenNotFoundError",
    "SessionTokenResponse",
    "StandardSessionResponse",
    "StopReason",
    "StopSessionResponse",
    "VideoEncoding",
    "VideoQuality",
    "VideoSettings",
    "__version__",
]

_HOMES = (".errors", ".models", ".client", "liveavatar_client.models", ".async_client")


def __getattr__(name: str) -> object:
    """A public name, when it is first asked for: `import liveavatar` alone loads nothing."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(home, __name__)
            if hasattr(module, name):
                globals()[name] = value = getattr(module, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
