"""Open and close LiveAvatar sessions, blocking and async, and leave none behind.

from liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest

with LiveAvatarApi() as api:
    session = api.new_session(LiveAvatarNewSessionRequest(avatar_id="..."))
"""

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

from ._version import __version__
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
