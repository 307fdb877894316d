"""A snapshot of the public API. It changes only on purpose, and with a line in the changelog."""

from __future__ import annotations

import inspect

import attrs
import liveavatar
import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi, LiveAvatarError

NAMES = """
    AsyncLiveAvatarApi LiveAvatarApi graceful_shutdown

    AvatarPersona CustomSDKLiveKitConfig LiveAvatarNewSessionRequest StopReason VideoEncoding VideoQuality
    VideoSettings

    LiveAvatarSessionData LiveAvatarSessionResponse SessionInfo SessionTokenData SessionTokenResponse
    SessionTranscript StandardSessionResponse StopSessionResponse TranscriptLine

    AuthenticationError BadRequestError BadResponseError ConcurrencyLimitError ConflictError
    InsufficientCreditsError InvalidRequestError LedgerError LiveAvatarApiError LiveAvatarConnectionError
    LiveAvatarError LiveAvatarTimeoutError NotFoundError PermissionDeniedError RateLimitError ServerError
    SessionDurationError SessionTokenNotFoundError

    __version__
"""

# Those of the async client differ in `async`, in the parameters before the *, and in the name of close.
LIVE_AVATAR_API = """
    LiveAvatarApi(api_key: str | None = None, *, base_url: str | None = None, timeout: float = 60.0,
        max_retries: int = 2, http_client: httpx.Client | None = None, ledger: Ledger | None = None)
    BASE_URL
    adopt_session(session_id: str, token: str | None = None) -> None
    close() -> None
    close_all_sessions() -> None
    close_session(session_id: str, *, reason: StopReason | str | None = None) -> StopSessionResponse
    create_session_token(request_data: LiveAvatarNewSessionRequest) -> SessionTokenResponse
    delete_session_events(session_id: str) -> None
    get_session(session_id: str) -> SessionInfo
    get_session_transcript(session_id: str, *, start_timestamp: int | None = None,
        end_timestamp: int | None = None) -> SessionTranscript
    keep_session_alive(session_id: str) -> None
    list_sessions(type: SessionListType | str = active, *, avatar_id: str | None = None,
        context_id: str | None = None, page_size: int = 100) -> Iterator[SessionInfo]
    new_session(request_data: LiveAvatarNewSessionRequest, *, keep_alive: bool | float = False,
        wait_for_slot: float = 0.0) -> StandardSessionResponse
    open_sessions
    recover_sessions() -> list[str]
    release_session(session_id: str) -> str
    request(method: str, path: str, *, json: object = None, params: Mapping[str, Any] | None = None,
        idempotent: bool | None = None) -> Any
    session(request_data: LiveAvatarNewSessionRequest, *, keep_alive: bool | float = False,
        wait_for_slot: float = 0.0) -> Iterator[StandardSessionResponse]
    session_token
    start_session(session_token: str) -> LiveAvatarSessionResponse
    stop_session(session_id: str, session_token: str | None = None, *,
        reason: StopReason | str | None = None) -> StopSessionResponse
"""
ASYNC_LIVE_AVATAR_API = """
    AsyncLiveAvatarApi(api_key: str | None = None, session: aiohttp.ClientSession | None = None, *,
        base_url: str | None = None, timeout: float = 60.0, max_retries: int = 2,
        http_client: httpx.AsyncClient | None = None, ledger: Ledger | None = None)
    BASE_URL
    async aclose() -> None
    async adopt_session(session_id: str, token: str | None = None) -> None
    async close_all_sessions() -> None
    async close_session(session_id: str, *, reason: StopReason | str | None = None) -> StopSessionResponse
    async create_session_token(request_data: LiveAvatarNewSessionRequest) -> SessionTokenResponse
    async delete_session_events(session_id: str) -> None
    async get_session(session_id: str) -> SessionInfo
    async get_session_transcript(session_id: str, *, start_timestamp: int | None = None,
        end_timestamp: int | None = None) -> SessionTranscript
    async keep_session_alive(session_id: str) -> None
    list_sessions(type: SessionListType | str = active, *, avatar_id: str | None = None,
        context_id: str | None = None, page_size: int = 100) -> AsyncIterator[SessionInfo]
    async new_session(request_data: LiveAvatarNewSessionRequest, *, keep_alive: bool | float = False,
        wait_for_slot: float = 0.0) -> StandardSessionResponse
    open_sessions
    async recover_sessions() -> list[str]
    release_session(session_id: str) -> str
    async request(method: str, path: str, *, json: object = None, params: Mapping[str, Any] | None = None,
        idempotent: bool | None = None) -> Any
    session(request_data: LiveAvatarNewSessionRequest, *, keep_alive: bool | float = False,
        wait_for_slot: float = 0.0) -> AsyncIterator[StandardSessionResponse]
    session_token
    async start_session(session_token: str) -> LiveAvatarSessionResponse
    async stop_session(session_id: str, session_token: str | None = None, *,
        reason: StopReason | str | None = None) -> StopSessionResponse
"""

# All are keyword arguments; those with = have a default.
MODELS = """
    AvatarPersona: context_id= language= stt_config= voice_id= voice_settings=
    CustomSDKLiveKitConfig: livekit_client_token livekit_room livekit_url
    LiveAvatarNewSessionRequest: agora_config= avatar_id avatar_persona= dynamic_variables= elevenlabs_agent_config=
        gemini_realtime_config= interactivity_type= is_sandbox= livekit_config= llm_configuration_id=
        max_session_duration= memory= mode= openai_realtime_config= video_settings= voice_agent=
    LiveAvatarSessionData: livekit_agent_token= livekit_client_token livekit_url max_session_duration= session_id
        ws_url=
    LiveAvatarSessionResponse: code data message=
    SessionInfo: created_at credits_consumed duration end_at= end_reason= id is_sandbox mode source updated_at
    SessionTokenData: session_id session_token
    SessionTokenResponse: code data message=
    SessionTranscript: next_timestamp= session_active transcript_data
    StandardSessionResponse: access_token livekit_agent_token= livekit_url max_session_duration= raw_response
        session_id ws_url=
    StopSessionResponse: code= data= message=
    TranscriptLine: absolute_timestamp relative_timestamp role transcript
    VideoSettings: encoding quality=
"""

ERRORS = """
LiveAvatarError (Exception)
    LedgerError
    LiveAvatarApiError
        AuthenticationError
        BadRequestError
            SessionDurationError
        BadResponseError
        ConcurrencyLimitError
        ConflictError
        InsufficientCreditsError
        InvalidRequestError
        NotFoundError
        PermissionDeniedError
        RateLimitError
        ServerError
    LiveAvatarConnectionError
        LiveAvatarTimeoutError
    SessionTokenNotFoundError (ValueError)
"""


def entries(text: str) -> list[str]:
    """Return the entries of a snapshot; a line that is indented further continues the one before."""
    return inspect.cleandoc(text).replace("\n    ", " ").splitlines()


def render(name: str, function: object) -> str:
    """Return a function as the snapshot shows it."""
    assert callable(function)
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    text = str(signature.replace(parameters=parameters)).replace("'", "")
    return f"{'async ' if inspect.iscoroutinefunction(function) else ''}{name}{text}"


@pytest.mark.parametrize(
    ("client", "expected"), [(LiveAvatarApi, LIVE_AVATAR_API), (AsyncLiveAvatarApi, ASYNC_LIVE_AVATAR_API)]
)
def test_clients(client: type, expected: str) -> None:
    """The clients have these methods and properties."""
    members = {name: inspect.getattr_static(client, name) for name in dir(client) if not name.startswith("_")}
    found = [render(client.__name__, client).removesuffix(" -> None")]
    found += [render(name, member) if callable(member) else name for name, member in members.items()]
    assert found == entries(expected)


def test_names() -> None:
    """The package has these names, and no others."""
    assert sorted(liveavatar.__all__) == sorted(NAMES.split())
    assert dir(liveavatar) == sorted(liveavatar.__all__)
    for name in liveavatar.__all__:
        assert getattr(liveavatar, name)
    with pytest.raises(AttributeError):
        _ = liveavatar.no_such_name


def test_models() -> None:
    """The models have these fields."""
    found = []
    for name in sorted(liveavatar.__all__):
        kind = getattr(liveavatar, name)
        if isinstance(kind, type) and attrs.has(kind):
            parameters = inspect.signature(kind).parameters.values()
            texts = [f"{each.name}{'' if each.default is each.empty else '='}" for each in parameters]
            found.append(f"{name}: {' '.join(sorted(texts))}")
    assert found == entries(MODELS)


def test_errors() -> None:
    """The exceptions form this tree."""

    def lines(kind: type[BaseException], depth: int) -> list[str]:
        others = [base.__name__ for base in kind.__bases__ if not issubclass(base, LiveAvatarError)]
        below = sorted(kind.__subclasses__(), key=lambda kind: kind.__name__)
        public = [each for each in below if each.__module__.startswith("liveavatar")]
        line = "    " * depth + kind.__name__ + "".join(f" ({name})" for name in others)
        return [line, *(line for each in public for line in lines(each, depth + 1))]

    assert lines(LiveAvatarError, 0) == ERRORS.strip().splitlines()
