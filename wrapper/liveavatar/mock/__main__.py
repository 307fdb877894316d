"""``python -m liveavatar.mock``: run the mock server until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ._settings import Settings


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m liveavatar.mock") -> int | str:
    """Run the mock server.

    Args:
        arguments: command line arguments; None for those of this process.
        prog: the name of the command in its help.

    Returns:
        The argument for ``sys.exit``: 0 after Ctrl-C, a message if the server could not start.
    """
    options = vars(_parser(prog).parse_args(arguments))
    quiet = options.pop("quiet")
    # The settings have their own defaults for what was not given.
    settings: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    try:
        from liveavatar.mock import mock_server
        from liveavatar.mock._http import is_loopback

        with _request_log(quiet), mock_server(**settings) as service:
            sys.stdout.write(
                f"export LIVEAVATAR_BASE_URL={service.base_url}\n"
                f"export LIVEAVATAR_API_KEY={service.api_key}\n"
                f"# its sessions: {service.url}/ (Ctrl-C ends it)\n"
            )
            if not is_loopback(service.host):
                sys.stdout.write(f"# other machines can use it, because it listens on {service.host}\n")
            sys.stdout.flush()
            service.wait()
    except KeyboardInterrupt:
        return 0
    except ModuleNotFoundError as missing:
        return str(missing)
    except ValueError as invalid:
        return f"cannot start: {invalid}"
    except OSError as error:
        where = f"{options['host']}, port {options['port']}"
        return f"cannot listen on {where}: {os.strerror(error.errno or 0)}; --port 0 takes a free port"
    return 0


@contextmanager
def _request_log(quiet: bool) -> Iterator[None]:
    """Print the request log to stderr."""
    handler = logging.NullHandler() if quiet else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("liveavatar.mock")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        level, logger.propagate = before
        logger.setLevel(level)


class _HelpFormatter(argparse.HelpFormatter):
    """Breaks no line at a hyphen, which may be part of a value."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        formatter_class=_HelpFormatter,
        description="Run a mock server of LiveAvatar's API on this machine, for demos and tests: no account, no cost. "
        "It prints the two variables that point a client at it, and logs each request to stderr.",
    )

    usual = Settings()
    add = parser.add_argument
    add("--port", type=_port, default=8080, help="TCP port; 0 takes a free one (default: %(default)s)")
    add(
        "--host",
        default="127.0.0.1",
        help="IP address to listen on; 0.0.0.0 lets other machines use the server, for example when it runs in a "
        "container (default: %(default)s)",
    )
    add(
        "--api-key",
        dest="api_keys",
        action="append",
        metavar="KEY",
        help=f"accept this API key; may be repeated (default: {usual.api_keys[0]})",
    )
    add(
        "--avatar-id",
        dest="avatar_ids",
        action="append",
        metavar="UUID",
        help="accept only this avatar and that of the free trial; may be repeated "
        "(default: accept any avatar but the nil UUID)",
    )
    add(
        "--allow-origin",
        dest="allow_origins",
        action="append",
        metavar="ORIGIN",
        help="let web pages of this origin call the API (CORS); may be repeated (default: none)",
    )
    add(
        "--rate-limit",
        type=int,
        metavar="N",
        help="requests per second for each credential and endpoint (default: no limit)",
    )
    add("--max-concurrent", type=int, metavar="N", help="sessions that may run at once (default: no limit)")
    add(
        "--credits",
        type=int,
        metavar="N",
        help="credits that the account may spend; a session that needs more ends (default: no limit)",
    )
    add(
        "--max-session-duration",
        type=int,
        metavar="SECONDS",
        help=f"longest duration of a session (default: {usual.max_session_duration})",
    )
    add(
        "--idle-timeout",
        type=float,
        metavar="SECONDS",
        help=f"end a session this long after its start or its last keep-alive (default: {usual.idle_timeout})",
    )
    add(
        "--token-lifetime",
        type=float,
        metavar="SECONDS",
        help=f"how long a session token is valid (default: {usual.token_lifetime})",
    )
    add("--quiet", action="store_true", help="do not log requests to stderr")
    return parser


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535")


if __name__ == "__main__":
    sys.exit(main())
