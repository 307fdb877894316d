"""The commands and their flags."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, nullcontext
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from liveavatar_client.models import VideoEncoding, VideoQuality, VideoSettings

from .._endpoints import has_ended
from .._version import __version__
from ..errors import BadRequestError, ConflictError, InvalidRequestError, LiveAvatarError, NotFoundError
from ..mock._settings import SANDBOX_AVATAR
from ..models import AvatarPersona, LiveAvatarNewSessionRequest
from ._doctor import FAIL, examine
from ._failures import ExitCode, Misconfigured, StillRunning, advised, raise_signals, report
from ._opened import Opened, clock
from ._screen import Screen, open_in_browser
from ._settings import connected, load

_EPILOG = """
[bold]Settings[/bold]: flags, then the environment, then a file .env in the working folder:
LIVEAVATAR_API_KEY, LIVEAVATAR_BASE_URL. The key has no flag: others can read a command line.

[bold]Exit codes[/bold]:
0 all went well;
1 the service refused, or gave no answer;
2 the command line or a setting is wrong;
3 a session may still be running (stderr says which, and how to stop it);
130 interrupted by Ctrl-C, and no session is left running (143 by SIGTERM, 129 when the terminal was closed).
"""

_DEBUG = "liveavatar.debug"


class _Commands(TyperGroup):
    """Turns whatever a command raises into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        raise_signals()
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read our output has enough: Typer ends quietly
        except (
            LiveAvatarError,
            Misconfigured,
            StillRunning,
            KeyboardInterrupt,
            ValueError,
            TypeError,
            OSError,
        ) as error:
            code = report(error, debug=bool(ctx.meta.get(_DEBUG)))
        raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)


class Mode(StrEnum):
    """Who thinks and speaks."""

    LITE = "LITE"
    FULL = "FULL"


def _note_debug(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.meta[_DEBUG] = True
    return value


def _version(value: bool) -> None:
    if value:
        typer.echo(f"liveavatar {__version__}")
        raise typer.Exit


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_note_debug)]
BaseUrl = Annotated[str | None, typer.Option(metavar="URL", help="Where the service is, if not LIVEAVATAR_BASE_URL.")]


@app.callback()
def liveavatar(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Debug = False,
) -> None:
    """Open LiveAvatar sessions from the terminal, and leave none behind."""


@app.command()
def new(
    avatar_id: Annotated[
        str | None, typer.Option(metavar="UUID", help="The avatar; with --sandbox not needed.")
    ] = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="A free session of about a minute, with the sandbox avatar.")
    ] = False,
    mode: Annotated[
        Mode, typer.Option(case_sensitive=False, help="LITE costs 1 credit per minute, FULL 2.")
    ] = Mode.LITE,
    voice: Annotated[str | None, typer.Option(metavar="UUID", help="FULL: the voice.")] = None,
    context: Annotated[str | None, typer.Option(metavar="UUID", help="FULL: the prompt and knowledge.")] = None,
    language: Annotated[str | None, typer.Option(metavar="CODE", help="FULL: its language, if not en.")] = None,
    quality: Annotated[VideoQuality, typer.Option(case_sensitive=False, help="Of the video.")] = VideoQuality.HIGH,
    encoding: Annotated[VideoEncoding, typer.Option(case_sensitive=False, help="Of the video.")] = VideoEncoding.VP8,
    max_duration: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="The service ends it after that.")
    ] = None,
    open_link: Annotated[bool, typer.Option("--open", help="Open the meeting page in the browser.")] = False,
    show_link: Annotated[bool, typer.Option("--show-link", help="Print the meeting link; it holds a token.")] = False,
    show_tokens: Annotated[bool, typer.Option("--show-tokens", help="Print the session's tokens.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running, and say how to stop it.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For scripts: leave it running as --detach does, and print one JSON object.")
    ] = False,
    base_url: BaseUrl = None,
    debug: Debug = False,
) -> None:
    """Open a session, show it, and stop it at Enter, Ctrl-C, or the end of the input.

    It is stopped whatever happens: an error, SIGTERM, a closed terminal.
    Only --detach and --json leave it running: it then ends by `liveavatar close`, or by its duration.
    """
    if avatar_id is None and not sandbox:
        _wrong("--avatar-id is missing; --sandbox does without.")
    if mode is not Mode.FULL and (voice or context or language):
        _wrong("--voice, --context and --language are for --mode FULL.")
    request = LiveAvatarNewSessionRequest(
        avatar_id=SANDBOX_AVATAR if avatar_id is None else avatar_id,
        mode=mode.value,
        is_sandbox=sandbox,
        video_settings=VideoSettings(encoding=encoding, quality=quality),
    )
    if mode is Mode.FULL:
        request.avatar_persona = AvatarPersona(voice_id=voice, context_id=context, language=language or "en")
    if max_duration is not None:
        request.max_session_duration = max_duration

    settings, screen = load(base_url), Screen()
    with ExitStack() as ending, connected(settings) as api:
        with nullcontext() if as_json else screen.busy("Starting the session"):
            session = api.new_session(request)
        opened = Opened(session, request, api.session_token or "")
        asked_for = opened.secrets() if show_tokens else {"meet_url": session.meet_url} if show_link else {}
        stop = settings.stop_command([session.session_id])
        if open_link and not open_in_browser(session.meet_url):
            typer.echo("No browser could be opened; --show-link prints the link.", err=True)
        if as_json:
            typer.echo(json.dumps(opened.as_json(stop) | asked_for))
        else:
            for name, value in asked_for.items():
                screen.say(f"{name}={value}")
            if detach:
                screen.show(opened)
                screen.say(f"It goes on running ({opened.rate()}). Stop it: {stop}")
        if as_json or detach:
            sys.stdout.flush()
            api.release_session(session.session_id)  # not before its id has been said
            return
        screen.keep(opened)
        ending.enter_context(screen.busy("Stopping the session"))
    screen.say(f"Stopped after {clock(opened.elapsed())}. Cost: {opened.cost()}.", "green")


@app.command()
def close(
    session_ids: Annotated[list[str], typer.Argument(metavar="SESSION_ID...", help="As `liveavatar new` printed it.")],
    base_url: BaseUrl = None,
    debug: Debug = False,
) -> None:
    """Stop sessions of the account, whoever opened them."""
    settings = load(base_url)
    left = dict.fromkeys(session_ids)  # in order, each once
    refused = False
    try:
        with connected(settings) as api:
            for session_id in tuple(left):
                try:
                    api.stop_session(session_id, reason="USER_CLOSED")
                    typer.echo(f"{session_id} stopped")
                except LiveAvatarError as error:
                    if isinstance(error, ConflictError) and has_ended(error):
                        typer.echo(f"{session_id} had ended already")
                    else:
                        refused = True
                        typer.echo(f"Error: {session_id}: {advised(error)}", err=True)
                        if not isinstance(error, NotFoundError | BadRequestError | InvalidRequestError):
                            continue  # it may well run
                del left[session_id]
    except KeyboardInterrupt as interruption:
        raise StillRunning([*left], settings.stop_command(left)) from interruption
    if left:
        raise StillRunning([*left], settings.stop_command(left))
    if refused:
        raise typer.Exit(ExitCode.REFUSED)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def mock(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port, 0 for a free one.")] = 8080,
) -> None:
    """Run a LiveAvatar service on this machine: no account, no cost.

    Needs the extra "mock". `python -m liveavatar.mock --help` lists more flags, which this takes too.
    """
    from ..mock.__main__ import main

    wrong = main(["--port", str(port), *context.args])
    if wrong:
        raise Misconfigured(str(wrong))


@app.command()
def demo() -> None:
    """Open and close sessions before your eyes: in the mock server, or with a key at the service, for free."""
    load()
    from ..demo import main

    raise typer.Exit(main())


@app.command()
def doctor(
    session: Annotated[bool, typer.Option("--session", help="Open a free sandbox session too, and close it.")] = False,
    base_url: BaseUrl = None,
    debug: Debug = False,
) -> None:
    """Look for what keeps sessions from opening, and say what to do about it."""
    screen = Screen()
    failed = False
    for finding in examine(load(base_url), session=session):
        failed = failed or finding.state == FAIL
        screen.find(finding)
    if failed:
        raise typer.Exit(ExitCode.REFUSED)


def _wrong(words: str) -> NoReturn:
    raise typer.BadParameter(words)
