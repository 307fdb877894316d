"""The commands around sessions: ``doctor``, ``demo`` and ``mock``."""

from __future__ import annotations

import click

from ._console import Console
from ._doctor import FAIL, run_checks
from ._errors import ConfigurationError, ExitCode
from ._options import base_url_option, debug_option
from ._settings import load


@click.command(short_help="Check the settings and the connection.")
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


@click.command(short_help="Run a demo that opens and closes sessions.")
def demo() -> None:
    """Run a demo that opens and closes sessions.

    It uses a mock server or, if LIVEAVATAR_API_KEY is set, free trial sessions of the service.
    """
    load()
    from ..demo import main

    raise click.exceptions.Exit(main())


@click.command(
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
