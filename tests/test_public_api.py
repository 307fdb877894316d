"""The public API, written out: what this file shows changes only on purpose, and with a line in the changelog."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import attrs
import liveavatar
import pytest
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi, LiveAvatarError

ROOT = Path(__file__).parents[1]

NAMES = """
    AsyncLiveAvatarApi LiveAvatarApi

    AvatarPersona CustomSDKLiveKitConfig LiveAvatarNewSessionRequest StopReason VideoEncoding VideoQuality
    VideoSettings

    LiveAvatarSessionData LiveAvatarSessionResponse SessionTokenData SessionTokenResponse StandardSessionResponse
    StopSessionResponse

    AuthenticationError BadRequestError BadResponseError ConcurrencyLimitError ConflictError
    InsufficientCreditsError InvalidRequestError LiveAvatarApiError LiveAvatarConnectionError LiveAvatarError
    LiveAvatarTimeoutError NotFoundError PermissionDeniedError RateLimitError ServerError
    SessionTokenNotFoundError

    __version__
"""

# The async client's differ in `async`, in what comes before the *, and in the name of close.
LIVE_AVATAR_API = """
    LiveAvatarApi(api_key: str | None = None, *, base_url: str | None = None, timeout: float = 60.0,
        max_retries: int = 2, http_client: httpx.Client | None = None)
    BASE_URL
    close() -> None
    close_all_sessions() -> None
    close_session(session_id: str) -> StopSessionResponse
    create_session_token(request_data: LiveAvatarNewSessionRequest) -> SessionTokenResponse
    new_session(request_data: LiveAvatarNewSessionRequest) -> StandardSessionResponse
    open_sessions
    release_session(session_id: str) -> str
    session(request_data: LiveAvatarNewSessionRequest) -> Iterator[StandardSessionResponse]
    session_token
    start_session(session_token: str) -> LiveAvatarSessionResponse
    stop_session(session_id: str, session_token: str | None = None, *,
        reason: StopReason | str | None = None) -> StopSessionResponse
"""
ASYNC_LIVE_AVATAR_API = """
    AsyncLiveAvatarApi(api_key: str | None = None, session: aiohttp.ClientSession | None = None, *,
        base_url: str | None = None, timeout: float = 60.0, max_retries: int = 2,
        http_client: httpx.AsyncClient | None = None)
    BASE_URL
    async aclose() -> None
    async close_all_sessions() -> None
    async close_session(session_id: str) -> StopSessionResponse
    async create_session_token(request_data: LiveAvatarNewSessionRequest) -> SessionTokenResponse
    async new_session(request_data: LiveAvatarNewSessionRequest) -> StandardSessionResponse
    open_sessions
    release_session(session_id: str) -> str
    session(request_data: LiveAvatarNewSessionRequest) -> AsyncIterator[StandardSessionResponse]
    session_token
    async start_session(session_token: str) -> LiveAvatarSessionResponse
    async stop_session(session_id: str, session_token: str | None = None, *,
        reason: StopReason | str | None = None) -> StopSessionResponse
"""

# They are given with keywords; those with = have a default.
MODELS = """
    AvatarPersona: context_id= language= stt_config= voice_id= voice_settings=
    CustomSDKLiveKitConfig: livekit_client_token livekit_room livekit_url
    LiveAvatarNewSessionRequest: agora_config= avatar_id avatar_persona= dynamic_variables= elevenlabs_agent_config=
        gemini_realtime_config= interactivity_type= is_sandbox= livekit_config= llm_configuration_id=
        max_session_duration= memory= mode= openai_realtime_config= video_settings= voice_agent=
    LiveAvatarSessionData: livekit_agent_token= livekit_client_token livekit_url max_session_duration= session_id
        ws_url=
    LiveAvatarSessionResponse: code data message=
    SessionTokenData: session_id session_token
    SessionTokenResponse: code data message=
    StandardSessionResponse: access_token livekit_agent_token= livekit_url max_session_duration= raw_response
        session_id ws_url=
    StopSessionResponse: code= data= message=
    VideoSettings: encoding quality=
"""

ERRORS = """
LiveAvatarError (Exception)
    LiveAvatarApiError
        AuthenticationError
        BadRequestError
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


def in_one(text: str) -> list[str]:
    """The entries of a text above: a line that is indented further goes on with the one before."""
    return inspect.cleandoc(text).replace("\n    ", " ").splitlines()


def written(name: str, function: object) -> str:
    """A function as it stands in the texts above."""
    assert callable(function)
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    text = str(signature.replace(parameters=parameters)).replace("'", "")
    return f"{'async ' if inspect.iscoroutinefunction(function) else ''}{name}{text}"


@pytest.mark.parametrize(
    ("client", "expected"), [(LiveAvatarApi, LIVE_AVATAR_API), (AsyncLiveAvatarApi, ASYNC_LIVE_AVATAR_API)]
)
def test_the_clients_have_these_methods_and_properties(client: type, expected: str) -> None:
    members = {name: inspect.getattr_static(client, name) for name in dir(client) if not name.startswith("_")}
    found = [written(client.__name__, client).removesuffix(" -> None")]
    found += [written(name, member) if callable(member) else name for name, member in members.items()]
    assert found == in_one(expected)


def test_the_package_has_these_names() -> None:
    assert sorted(liveavatar.__all__) == sorted(NAMES.split())
    assert dir(liveavatar) == sorted(liveavatar.__all__)
    for name in liveavatar.__all__:
        assert getattr(liveavatar, name)
    with pytest.raises(AttributeError):
        _ = liveavatar.no_such_name


def test_the_models_have_these_fields() -> None:
    found = []
    for name in sorted(liveavatar.__all__):
        kind = getattr(liveavatar, name)
        if isinstance(kind, type) and attrs.has(kind):
            fields = {field.name: field.default for field in attrs.fields(kind) if field.init}
            texts = [f"{field}{'' if default is attrs.NOTHING else '='}" for field, default in fields.items()]
            found.append(f"{name}: {' '.join(sorted(texts))}")
    assert found == in_one(MODELS)


def test_the_errors_form_this_tree() -> None:
    def lines(kind: type[BaseException], depth: int) -> list[str]:
        others = [base.__name__ for base in kind.__bases__ if not issubclass(base, LiveAvatarError)]
        below = sorted(kind.__subclasses__(), key=lambda kind: kind.__name__)
        public = [each for each in below if each.__module__.startswith("liveavatar")]
        line = "    " * depth + kind.__name__ + "".join(f" ({name})" for name in others)
        return [line, *(line for each in public for line in lines(each, depth + 1))]

    assert lines(LiveAvatarError, 0) == ERRORS.strip().splitlines()


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_see_the_types(checker: str) -> None:
    pytest.importorskip(checker, reason=f"{checker} is not installed")
    options = {"mypy": ["--strict"], "pyright": ["--pythonpath", sys.executable]}[checker]
    check = subprocess.run(
        [sys.executable, "-m", checker, *options, "tests/typed_usage.py"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert check.returncode == 0, check.stdout
