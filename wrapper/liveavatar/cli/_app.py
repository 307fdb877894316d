"""The group of commands: its help, and the message and exit code for each error."""

from __future__ import annotations

import logging
from typing import Any

import click

from .._version import __version__
from ..errors import LiveAvatarError
from ._errors import ConfigurationError, SessionsRunningError, install_signal_handlers, report
from ._manage import close, list_, recover, show
from ._new import new
from ._options import debug_option, is_debug
from ._tools import demo, doctor, mock

_EPILOG = """\b
Settings:
  Options are used first, then environment variables, then a file .env in the
  working folder.
  LIVEAVATAR_API_KEY   API key of the account. It has no option, because other
                       users of the machine can read a command line.
  LIVEAVATAR_BASE_URL  Base URL of the API, if it is not the live service.
  LIVEAVATAR_LEDGER    Ledger of open sessions, for `list` and `recover`. Not
                       read from .env.

\b
Exit codes:
    0  Success.
    1  The service refused the request or did not respond, or you declined.
    2  The command line or a setting is invalid.
    3  A session may still be running. The message says how to stop it.
  129  The terminal was closed. No session is left running.
  130  Ctrl-C was pressed. No session is left running.
  143  SIGTERM was received. No session is left running.
"""


class _Commands(click.Group):
    """Commands, listed as added, whose errors become a message on stderr and an exit code."""

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
            code = report(error, debug=is_debug(ctx))
        raise click.exceptions.Exit(code)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog=_EPILOG,
)
@click.version_option(__version__, message="liveavatar %(version)s", help="Print the version and exit.")
@debug_option
def app() -> None:
    """Open, inspect and stop LiveAvatar sessions from the terminal."""


for _command in (new, list_, show, close, recover, doctor, demo, mock):
    app.add_command(_command)
