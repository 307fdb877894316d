"""The commands about sessions that are open or have ended: ``list``, ``show``, ``close`` and ``recover``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import click

from liveavatar_client.models import TranscriptLine

from .._endpoints import has_ended
from ..client import LiveAvatarApi
from ..errors import BadRequestError, InvalidRequestError, LiveAvatarError, NotFoundError
from ..ledger import Ledger, open_ledger
from ._console import Console
from ._errors import ConfigurationError, ExitCode, SessionsRunningError, user_message
from ._options import LEDGER_VARIABLE, base_url_option, debug_option, ledger_option
from ._settings import Settings, load, open_client

session_id_argument = click.argument("session_id", metavar="SESSION_ID", type=click.UUID)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("list", short_help="List the sessions of the account.")
@click.option("--historic", is_flag=True, help="List the sessions that have ended.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=50,
    help="Print at most this many sessions.",
)
@json_option
@ledger_option
@base_url_option
@debug_option
def list_(historic: bool, limit: int, as_json: bool, ledger_location: str | None, base_url: str | None) -> None:
    """List the running sessions of the account, whichever program opened them.

    With a ledger, the list says whether the process that owns a session is alive.

    Without a terminal, each session is a line of tab-separated values: id, time of creation, mode, source, duration
    in seconds, credits, the end reason, and the state of its owner.
    """
    console = Console(as_json=as_json)
    with open_client(load(base_url)) as api, console.status("Reading the list"):
        sessions = api.list_sessions("historic" if historic else "active", page_size=min(limit + 1, 100))
        found = list(itertools.islice(sessions, limit + 1))
    owners = {} if ledger_location is None else _owners(_open_ledger(ledger_location))
    console.print_sessions(found[:limit], historic=historic, owners=owners)
    if len(found) > limit:
        click.echo(f"There are more sessions than --limit {limit}.", err=True)


def _open_ledger(location: str) -> Ledger:
    if "://" not in location and not Path(location).expanduser().exists():
        raise ConfigurationError(f"there is no ledger at {location}")
    try:
        return open_ledger(location)
    except (LiveAvatarError, ModuleNotFoundError) as error:
        raise ConfigurationError(str(error)) from error


def _owners(ledger: Ledger) -> dict[str, str]:
    """Return the state of the owner of each session in a ledger."""
    states = {True: "alive", False: "dead", None: "unknown"}
    return {entry.session_id: states[entry.owner_alive] for entry in ledger.entries()}


@click.command(short_help="Show the state and the cost of a session.")
@session_id_argument
@click.option("--transcript", is_flag=True, help="Print what was said, too. Only FULL sessions have a transcript.")
@json_option
@base_url_option
@debug_option
def show(session_id: UUID, transcript: bool, as_json: bool, base_url: str | None) -> None:
    """Show the state, the duration and the cost of a session, running or ended."""
    console = Console(as_json=as_json)
    with open_client(load(base_url)) as api, console.status("Reading the session"):
        info = api.get_session(str(session_id))
        lines = _read_transcript(api, str(session_id)) if transcript else None
    console.print_record(info, lines)


def _read_transcript(api: LiveAvatarApi, session_id: str) -> list[TranscriptLine]:
    """Read all parts of a transcript, as far as it goes now."""
    lines: list[TranscriptLine] = []
    start: int | None = None
    while True:
        part = api.get_session_transcript(session_id, start_timestamp=start)
        new = [line for line in part.transcript_data if line not in lines]
        lines += new
        following = part.next_timestamp
        if not new or following in (None, start):
            return lines
        start = following


@click.command(short_help="Stop sessions of the account.")
@click.argument("session_ids", metavar="[SESSION_ID...]", type=click.UUID, nargs=-1)
@click.option("--all", "close_all", is_flag=True, help="Stop all running sessions of the account, after asking you.")
@click.option("--yes", is_flag=True, help="Do not ask before --all.")
@base_url_option
@debug_option
def close(session_ids: tuple[UUID, ...], close_all: bool, yes: bool, base_url: str | None) -> None:
    """Stop sessions of the account, whichever program opened them."""
    if close_all == bool(session_ids):
        raise click.UsageError("Give the ids of the sessions, or --all.")
    if close_all and not yes and not sys.stdin.isatty():
        raise click.UsageError("--all asks before it stops sessions. Without a terminal, add --yes.")
    settings = load(base_url)
    with open_client(settings) as api:
        chosen = _choose_all(api, ask=not yes) if close_all else list(map(str, session_ids))
        failed = _stop(api, chosen, settings)
    if failed:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _choose_all(api: LiveAvatarApi, *, ask: bool) -> list[str]:
    """Return the ids of all running sessions, if the user agrees."""
    sessions = list(api.list_sessions("active"))
    if not sessions:
        click.echo("No session is running.")
    elif ask:
        Console().print_sessions(sessions)
        count = "this session" if len(sessions) == 1 else f"these {len(sessions)} sessions"
        click.confirm(
            f"These are all running sessions of the account, also those of other programs and people. Stop {count}?",
            abort=True,
        )
    return [session.id for session in sessions]


def _stop(api: LiveAvatarApi, session_ids: Iterable[str], settings: Settings) -> bool:
    """Stop sessions and print the outcome of each.

    Returns:
        Whether the service refused to stop one of them.

    Raises:
        SessionsRunningError: A session may still be running.
    """
    remaining = dict.fromkeys(session_ids)  # in order, each once
    failed = False
    cause: BaseException | None = None
    try:
        for session_id in tuple(remaining):
            try:
                api.stop_session(session_id, reason="USER_CLOSED")
                click.echo(f"{session_id} stopped")
            except LiveAvatarError as error:
                if has_ended(error) and not isinstance(error, NotFoundError):
                    click.echo(f"{session_id} had already ended")
                elif isinstance(error, NotFoundError | BadRequestError | InvalidRequestError):
                    failed = True
                    click.echo(f"Error: {session_id}: {user_message(error)}", err=True)
                else:
                    cause = cause or error
                    continue  # the session may be running
            del remaining[session_id]
    except KeyboardInterrupt as interruption:
        cause = interruption
    if remaining:
        raise SessionsRunningError([*remaining], settings.stop_command(remaining)) from cause
    return failed


@click.command(short_help="Stop the sessions that dead processes have left running.")
@ledger_option
@base_url_option
@debug_option
def recover(ledger_location: str | None, base_url: str | None) -> None:
    """Stop the sessions in a ledger whose processes have died, and print their ids.

    The sessions of living processes are not touched.
    """
    if ledger_location is None:
        raise click.UsageError(f"Missing option '--ledger' (or the variable {LEDGER_VARIABLE}).")
    settings = load(base_url)
    with open_client(settings, ledger=_open_ledger(ledger_location)) as api:
        stopped = api.recover_sessions()
    for session_id in stopped:
        click.echo(f"{session_id} stopped")
    if not stopped:
        click.echo("There is no session to recover.")
