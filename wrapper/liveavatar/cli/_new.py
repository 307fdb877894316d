"""The command ``new``."""

from __future__ import annotations

import contextlib
from uuid import UUID

import click

from liveavatar_client.models import VideoEncoding, VideoQuality, VideoSettings

from ..client import LiveAvatarApi
from ..errors import LiveAvatarError
from ..mock._settings import SANDBOX_AVATAR
from ..models import AvatarPersona, LiveAvatarNewSessionRequest
from ._browser import open_in_browser
from ._console import Console
from ._errors import ExitCode, Interrupted
from ._options import base_url_option, debug_option
from ._session_view import SessionView
from ._settings import load, open_client
from ._watch import watch

_READ_TIMEOUT = 5.0  # seconds for what the service records about the session


@click.command(short_help="Open a session and show it until you stop it.")
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
    help="Encoding of the video. The service has deprecated VP8.",
)
@click.option(
    "--max-duration",
    metavar="SECONDS",
    type=click.IntRange(min=1),
    help="End the session after this time at the latest.",
)
@click.option(
    "--keep-alive",
    is_flag=True,
    help="Keep the session from ending when it is idle for 5 minutes. It then costs credits until you stop it.",
)
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="At the concurrency limit, retry for this many seconds.",
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
    keep_alive: bool,
    wait: float | None,
    open_room: bool,
    show_link: bool,
    show_tokens: bool,
    detach: bool,
    as_json: bool,
    base_url: str | None,
) -> None:
    """Open a session, show it, and stop it when you press Enter or Ctrl-C.

    The session is also stopped when the input ends, after an error, on SIGTERM, and when the terminal is closed. Only
    --detach leaves it running: it ends when you stop it with `liveavatar close`, when it is idle for 5 minutes, or at
    its maximum duration.
    """
    if avatar_id is None and not sandbox:
        raise click.UsageError("Missing option '--avatar-id' (not needed with --sandbox).")
    if mode != "FULL" and (voice or context or language):
        raise click.UsageError("--voice, --context and --language need --mode FULL.")
    if keep_alive and detach:
        raise click.UsageError("--keep-alive needs a process that keeps the session alive, which --detach ends.")
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
    with open_client(settings, timeout=_READ_TIMEOUT, max_retries=0) as reader:
        with open_client(settings) as api:
            with console.status(f"Waiting up to {wait:g} s for a free slot" if wait else "Starting the session"):
                session = api.new_session(request, keep_alive=keep_alive, wait_for_slot=wait or 0.0)
            view = SessionView(session, request, api.session_token or "")
            try:
                stop_command = settings.stop_command([session.session_id])
                secrets = view.secrets() if show_tokens else {"meet_url": session.meet_url} if show_link else {}
                console.print_opened(view, stop_command, secrets)
                opens_in_display = console.is_live and not detach  # which does not wait for the browser
                if open_room and not opens_in_display and not open_in_browser(session.meet_url):
                    click.echo("No browser was found. --show-link prints the link to the room.", err=True)
                if detach:
                    console.print_detached(view, stop_command)
                    api.release_session(session.session_id)  # only after its id has been printed
                    return
                watch(view, console, reader, open_room=open_room and opens_in_display)
            except Interrupted as error:
                interruption = error
            view.stop_clock()
            with console.status("Stopping the session"), contextlib.suppress(LiveAvatarError):
                api.close_session(
                    session.session_id, reason="USER_CLOSED"
                )  # if it fails, leaving the block tries again
        _read_record(view, reader)
    console.print_summary(view)
    if interruption:
        raise click.exceptions.Exit(ExitCode.SIGNAL + interruption.number)


def _read_record(view: SessionView, reader: LiveAvatarApi) -> None:
    """Read what the session has really cost, if the service tells."""
    with contextlib.suppress(LiveAvatarError):
        view.record = reader.get_session(view.session.session_id)
