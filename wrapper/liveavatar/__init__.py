"""Open and close LiveAvatar sessions, blocking and async, and leave none running.

from liveavatar import LiveAvatarApi, LiveAvatarNewSessionRequest

with LiveAvatarApi() as api:
    session = api.new_session(LiveAvatarNewSessionRequest(avatar_id="..."))
"""

from importlib import import_module

from ._version import __version__ as __version__

# The types of these names are in __init__.pyi.
_MODULES = {
    ".async_client": ("AsyncLiveAvatarApi",),
    ".client": ("LiveAvatarApi",),
    ".errors": (
        "AuthenticationError",
        "BadRequestError",
        "BadResponseError",
        "ConcurrencyLimitError",
        "ConflictError",
        "InsufficientCreditsError",
        "InvalidRequestError",
        "LedgerError",
        "LiveAvatarApiError",
        "LiveAvatarConnectionError",
        "LiveAvatarError",
        "LiveAvatarTimeoutError",
        "NotFoundError",
        "PermissionDeniedError",
        "RateLimitError",
        "ServerError",
        "SessionDurationError",
        "SessionTokenNotFoundError",
    ),
    ".models": ("AvatarPersona", "LiveAvatarNewSessionRequest", "StandardSessionResponse", "VideoSettings"),
    "._signals": ("graceful_shutdown",),
    "liveavatar_client.models": (
        "CustomSDKLiveKitConfig",
        "LiveAvatarSessionData",
        "LiveAvatarSessionResponse",
        "SessionInfo",
        "SessionTokenData",
        "SessionTokenResponse",
        "SessionTranscript",
        "StopReason",
        "StopSessionResponse",
        "TranscriptLine",
        "VideoEncoding",
        "VideoQuality",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `import liveavatar` alone loads nothing."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_MODULE_OF[name], __name__), name)
    except AttributeError as error:  # `from liveavatar import ...` would hide it
        raise ImportError(f"{_MODULE_OF[name]} cannot be imported: {error}") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
