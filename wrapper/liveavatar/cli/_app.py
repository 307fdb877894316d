"""The commands and their options."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar
from uuid import UUID

import click

from liveavatar_client.models import VideoEncoding, VideoQuality, VideoSettings

from .._endpoints import has_ended
from .._version import __version__
from ..errors import BadRequestError, ConflictError, InvalidRequestError, LiveAvatarError, NotFoundError
from ..mock._settings import SANDBOX_AVATAR
from ..models import AvatarPersona, LiveAvatarNewSessionRequest
from ._browser import open_in_browser
from ._console import Console
from ._doctor import FAIL, run_checks
from ._errors import (
    ConfigurationError,
    ExitCode,
    Interrupted,
    SessionsRunningError,
    install_signal_handlers,
    report,
    user_message,
)
from ._session_view import SessionView
from ._settings import load, open_client
from ._watch import watch

F = TypeVar("F", bound=Callable[..., Any])

_EPILOG = """\b
Settings:
  Options are used first, then environment variables, then a file .env in the
  working folder.
  LIVEAVATAR_API_KEY   API key of the account. It has no option, because other
                       users of the machine can read a command line.
  LIVEAVATAR_BASE_URL  Base URL of the API, if it is not the live service.

\b
Exit codes:
    0  Success.
    1  The service refused the request or did not respond.
    2  The command line or a setting is invalid.
    3  A session may still be running. The message says how to stop it.
  129  The terminal was closed. No session is left running.
  130  Ctrl-C was pressed. No session is left running.
  143  SIGTERM was received. No session is left running.
"""

_DEBUG = "liveavatar.debug"


class _Commands(click.Group):
    """Commands, listed as defined, whose errors become a message on stderr and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        # The commands report failures themselves. Without a handler, logging would print warnings a second time.
        logging.getLogger("liveavatar").addHandler(logging.NullHandler())
        install_signal_handlers()
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click exits quietly
        except (
            LiveAvatarError,
            ConfigurationError,
            SessionsRunningError,
            KeyboardInterrupt,
            ValueError,
            TypeError,
            OSError,
        ) as error:
            code = report(error, debug=bool(ctx.meta.get(_DEBUG)))
        raise click.exceptions.Exit(code)


def _set_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_DEBUG] = True


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Print the traceback of an error."
)
base_url_option = click.option(
    "--base-url", metavar="URL", help="Base URL of the API.  [default: LIVEAVATAR_BASE_URL, or the live service]"
)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog=_EPILOG,
)
@click.version_option(__version__, message="liveavatar %(version)s", help="Print the version and exit.")
@debug_option
def app() -> None:
    """Open, inspect and stop LiveAvatar sessions from the terminal."""


@app.command(short_help="Open a session and show it until you stop it.")
@click.option("--avatar-id", metavar="UUID", type=click.UUID, help="Avatar to show. Not needed with --sandbox.")
@click.option("--sandbox", is_flag=True, help='Open a free trial session of about one minute with the avatar "Wayne".')
@click.option(
    "--mode",
    type=click.Choice(["LITE", "FULL"], case_sensitive=False),
    metavar="[LITE|FULL]",
    default="LITE",
    help="LITE shows an avatar that your own agent drives, for 1 credit per minute. FULL also listens, thinks and "
    "speaks, for 2 credits per minute.",
)
@click.option("--voice", metavar="UUID", type=click.UUID, help="Voice of the avatar. Only with --mode FULL.")
@click.option(
    "--context", metavar="UUID", type=click.UUID, help="Context with the avatar's prompt. Only with --mode FULL."
)
@click.option("--language", metavar="CODE", help="Language of the conversation. Only with --mode FULL.  [default: en]")
@click.option(
    "--quality",
    type=click.Choice(["low", "medium", "high", "very_high"], case_sensitive=False),
    default="high",
    help="Quality of the video.",
)
@click.option(
    "--encoding",
    type=click.Choice(["VP8", "H264"], case_sensitive=False),
    metavar="[VP8|H264]",
    default="VP8",
    help="Encoding of the video. The service discourages VP8.",
)
@click.option(
    "--max-duration",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    help="End the session after this time at the latest.",
)
@click.option("--open", "open_room", is_flag=True, help="Open the room in the browser.")
@click.option("--show-link", is_flag=True, help="Print the link to the room. It contains a token.")
@click.option("--show-tokens", is_flag=True, help="Print the tokens of the session and its room.")
@click.option("--detach", is_flag=True, help="Exit once the session is open, and leave it running.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object when the session is open, and one when it has ended.",
)
@base_url_option
@debug_option
def new(
    avatar_id: UUID | None,
    sandbox: bool,
    mode: str,
    voice: UUID | None,
    context: UUID | None,
    language: str | None,
    quality: str,
    encoding: str,
    max_duration: int | None,
    open_room: bool,
    show_link: bool,
    show_tokens: bool,
    detach: bool,
    as_json: bool,
    base_url: str | None,
) -> None:
    """Open a session, show it, and stop it when you press Enter or Ctrl-C.

    The session is also stopped when the input ends, after an error, on SIGTERM, and when the terminal is closed. Only
    --detach leaves it running: it ends when you stop it with `liveavatar close`, or at its maximum duration.
    """
    if avatar_id is None and not sandbox:
        raise click.UsageError("Missing option '--avatar-id' (not needed with --sandbox).")
    if mode != "FULL" and (voice or context or language):
        raise click.UsageError("--voice, --context and --language need --mode FULL.")
    request = LiveAvatarNewSessionRequest(
        avatar_id=SANDBOX_AVATAR if avatar_id is None else str(avatar_id),
        mode=mode,
        is_sandbox=sandbox,
        video_settings=VideoSettings(encoding=VideoEncoding(encoding), quality=VideoQuality(quality)),
    )
    if mode == "FULL":
        request.avatar_persona = AvatarPersona(
            voice_id=None if voice is None else str(voice),
            context_id=None if context is None else str(context),
            language=language or "en",
        )
    if max_duration is not None:
        request.max_session_duration = max_duration

    settings, console = load(base_url), Console(as_json=as_json)
    interruption: Interrupted | None = None
    with ExitStack() as stack, open_client(settings) as api:
        with console.status("Starting the session"):
            session = api.new_session(request)
        view = SessionView(session, request, api.session_token or "")
        stop_command = settings.stop_command([session.session_id])
        secrets = view.secrets() if show_tokens else {"meet_url": session.meet_url} if show_link else {}
        if as_json:
            console.print_json(view.opened_json(stop_command) | secrets)
        else:
            for name, value in secrets.items():
                console.print(f"{name}={value}")
        if open_room and not (console.is_live and not detach) and not open_in_browser(session.meet_url):
            click.echo("No browser was found. --show-link prints the link to the room.", err=True)
        if detach:
            if not as_json:
                console.print_session(view)
                console.print(f"The session is still running. To stop it, run:\n  {stop_command}")
            api.release_session(session.session_id)  # only after its id has been printed
            return
        try:
            watch(view, console, open_room=open_room and console.is_live)
        except Interrupted as error:
            interruption = error
        view.stop_clock()
        stack.enter_context(console.status("Stopping the session"))
    if as_json:
        console.print_json(view.ended_json())
    else:
        console.print(view.summary(), "green")
    if interruption:
        raise click.exceptions.Exit(ExitCode.SIGNAL + interruption.number)


@app.command()
@click.argument("session_ids", metavar="SESSION_ID...", type=click.UUID, nargs=-1, required=True)
@base_url_option
@debug_option
def close(session_ids: tuple[UUID, ...], base_url: str | None) -> None:
    """Stop sessions of the account, whichever program opened them."""
    settings = load(base_url)
    remaining = dict.fromkeys(map(str, session_ids))  # in order, each once
    failed = False
    try:
        with open_client(settings) as api:
            for session_id in tuple(remaining):
                try:
                    api.stop_session(session_id, reason="USER_CLOSED")
                    click.echo(f"{session_id} stopped")
                except LiveAvatarError as error:
                    if isinstance(error, ConflictError) and has_ended(error):
                        click.echo(f"{session_id} had already ended")
                    else:
                        failed = True
                        click.echo(f"Error: {session_id}: {user_message(error)}", err=True)
                        if not isinstance(error, NotFoundError | BadRequestError | InvalidRequestError):
                            continue  # it may be running
                del remaining[session_id]
    except KeyboardInterrupt as interruption:
        raise SessionsRunningError([*remaining], settings.stop_command(remaining)) from interruption
    if remaining:
        raise SessionsRunningError([*remaining], settings.stop_command(remaining))
    if failed:
        raise click.exceptions.Exit(ExitCode.FAILED)


@app.command(short_help="Check the settings and the connection.")
@click.option("--session", is_flag=True, help="Open and close a free trial session, too.")
@base_url_option
@debug_option
def doctor(session: bool, base_url: str | None) -> None:
    """Check the settings and the connection, and suggest how to fix what is wrong."""
    console = Console()
    failed = False
    for result in run_checks(load(base_url), session=session):
        failed = failed or result.state == FAIL
        console.print_check(result)
    if failed:
        raise click.exceptions.Exit(ExitCode.FAILED)


@app.command()
def demo() -> None:
    """Run a demo that opens and closes sessions.

    It uses a mock server or, if LIVEAVATAR_API_KEY is set, free trial sessions of the service.
    """
    load()
    from ..demo import main

    raise click.exceptions.Exit(main())


@app.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Run a mock server of the API on this machine.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def mock(arguments: tuple[str, ...]) -> None:
    """Run a mock server of the LiveAvatar API on this machine, without an account and at no cost.

    It takes the options of `python -m liveavatar.mock`, which `liveavatar mock --help` lists. It needs the extra
    "mock".
    """
    from ..mock.__main__ import main

    failure = main(arguments, prog="liveavatar mock")
    if failure:
        raise ConfigurationError(str(failure))
