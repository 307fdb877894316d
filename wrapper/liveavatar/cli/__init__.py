"""The command ``liveavatar``: open, inspect and stop sessions from a terminal.

It needs the extra: ``pip install 'liveavatar[cli]'``.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = ("click", "dotenv", "rich")


def main() -> int:
    """Run the command line of this process.

    Returns:
        The exit code, if the command does not leave with it.
    """
    try:
        from ._app import app
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _EXTRA:
            raise
        sys.stderr.write(
            f"liveavatar: the command line needs {name}, which is not installed: pip install 'liveavatar[cli]'\n"
        )
        return 2
    except KeyboardInterrupt:
        return 130
    return int(app(prog_name="liveavatar") or 0)
