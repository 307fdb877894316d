"""Options that several commands have."""

from __future__ import annotations

import click

LEDGER_VARIABLE = "LIVEAVATAR_LEDGER"

_DEBUG = "liveavatar.debug"


def _set_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_DEBUG] = True


def is_debug(ctx: click.Context) -> bool:
    """Return whether --debug was given, before or after the name of the command."""
    return bool(ctx.meta.get(_DEBUG))


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Print the traceback of an error."
)
ledger_option = click.option(
    "--ledger",
    "ledger_location",
    metavar="PATH_OR_URL",
    envvar=LEDGER_VARIABLE,
    help=f"Ledger of open sessions: the path of a SQLite file, or a redis:// URL.  [default: {LEDGER_VARIABLE}]",
)
base_url_option = click.option(
    "--base-url", metavar="URL", help="Base URL of the API.  [default: LIVEAVATAR_BASE_URL, or the live service]"
)
