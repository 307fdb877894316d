"""``python -m liveavatar.mock``: run the mock server until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m liveavatar.mock") -> int | str:
    """Run the mock server.

    Args:
        arguments: those of the command line; None for this process's own.
        prog: name of the command in its help and its errors.

    Returns:
        For ``sys.exit``: 0 after Ctrl-C, a line that says what is wrong if it could not start.
    """
    options = vars(_parser(prog).parse_args(arguments))
    # What was not given is left to the settings' own defaults.
    settings: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    try:
        from liveavatar.mock import mock_server

        with mock_server(**settings) as service:
            sys.stdout.write(
                f"export LIVEAVATAR_BASE_URL={service.base_url}\n"
                f"export LIVEAVATAR_API_KEY={service.api_key}\n"
                f"# its sessions: {service.url}/ (Ctrl-C ends it)\n"
            )
            sys.stdout.flush()
            service.wait()
    except KeyboardInterrupt:
        return 0
    except ModuleNotFoundError as missing:
        return str(missing)
    except ValueError as wrong:
        return f"cannot start: {wrong}"
    except OSError as taken:
        return f"cannot listen on port {options['port']}: {taken.strerror}; --port 0 takes a free one"
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="A LiveAvatar service on this machine, for demos and tests: no account, no cost.",
    )
    add = parser.add_argument
    add("--port", type=_port, default=8080, help="TCP port, 0 for a free one (default: 8080)")
    add("--host", default="127.0.0.1", help="loopback address to listen on (default: 127.0.0.1)")
    add("--api-key", dest="api_keys", action="append", metavar="KEY", help="key to let in, may be repeated")
    add("--rate-limit", type=int, metavar="N", help="requests per second for each credential and endpoint")
    add("--max-concurrent", type=int, metavar="N", help="sessions that may run at once")
    add("--credits", type=int, metavar="N", help="credits that the account has to spend")
    add("--max-session-duration", type=int, metavar="SECONDS", help="longest a session may run")
    add("--idle-timeout", type=float, metavar="SECONDS", help="a session ends so long after its start")
    add("--token-lifetime", type=float, metavar="SECONDS", help="how long a session token is good for")
    return parser


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535")


if __name__ == "__main__":
    sys.exit(main())
