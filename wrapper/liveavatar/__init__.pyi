from liveavatar_client.models import CustomSDKLiveKitConfig as CustomSDKLiveKitConfig
from liveavatar_client.models import LiveAvatarSessionData as LiveAvatarSessionData
from liveavatar_client.models import LiveAvatarSessionResponse as LiveAvatarSessionResponse
from liveavatar_client.models import SessionInfo as SessionInfo
from liveavatar_client.models import SessionTokenData as SessionTokenData
from liveavatar_client.models import SessionTokenResponse as SessionTokenResponse
from liveavatar_client.models import SessionTranscript as SessionTranscript
from liveavatar_client.models import StopReason as StopReason
from liveavatar_client.models import StopSessionResponse as StopSessionResponse
from liveavatar_client.models import TranscriptLine as TranscriptLine
from liveavatar_client.models import VideoEncoding as VideoEncoding
from liveavatar_client.models import VideoQuality as VideoQuality

from ._signals import graceful_shutdown as graceful_shutdown
from ._version import __version__ as __version__
from .async_client import AsyncLiveAvatarApi as AsyncLiveAvatarApi
from .client import LiveAvatarApi as LiveAvatarApi
from .errors import AuthenticationError as AuthenticationError
from .errors import BadRequestError as BadRequestError
from .errors import BadResponseError as BadResponseError
from .errors import ConcurrencyLimitError as ConcurrencyLimitError
from .errors import ConflictError as ConflictError
from .errors import InsufficientCreditsError as InsufficientCreditsError
from .errors import InvalidRequestError as InvalidRequestError
from .errors import LedgerError as LedgerError
from .errors import LiveAvatarApiError as LiveAvatarApiError
from .errors import LiveAvatarConnectionError as LiveAvatarConnectionError
from .errors import LiveAvatarError as LiveAvatarError
from .errors import LiveAvatarTimeoutError as LiveAvatarTimeoutError
from .errors import NotFoundError as NotFoundError
from .errors import PermissionDeniedError as PermissionDeniedError
from .errors import RateLimitError as RateLimitError
from .errors import ServerError as ServerError
from .errors import SessionDurationError as SessionDurationError
from .errors import SessionTokenNotFoundError as SessionTokenNotFoundError
from .models import AvatarPersona as AvatarPersona
from .models import LiveAvatarNewSessionRequest as LiveAvatarNewSessionRequest
from .models import StandardSessionResponse as StandardSessionResponse
from .models import VideoSettings as VideoSettings

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
    "LedgerError",
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
    "SessionDurationError",
    "SessionInfo",
    "SessionTokenData",
    "SessionTokenNotFoundError",
    "SessionTokenResponse",
    "SessionTranscript",
    "StandardSessionResponse",
    "StopReason",
    "StopSessionResponse",
    "TranscriptLine",
    "VideoEncoding",
    "VideoQuality",
    "VideoSettings",
    "__version__",
    "graceful_shutdown",
]
