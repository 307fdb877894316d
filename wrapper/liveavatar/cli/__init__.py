"""The command ``liveavatar``: open, keep and stop sessions from a terminal.

It needs the extra: ``pip install 'liveavatar[cli]'``.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = ("typer", "rich", "dotenv")


def main() -> int:
    """Run the command line of this process; return its exit code, or leave with it."""
    try:
        from ._app import app
    except ModuleNotFoundError as missing:
        name = (missing.name or "").partition(".")[0]
        if name not in _EXTRA:
            raise
        sys.stderr.write(
            f"liveavatar: {name} is not installed; the command line needs it: pip install 'liveavatar[cli]'\n"
        )
        return 2
    except KeyboardInterrupt:
        return 130
    return int(app(prog_name="liveavatar") or 0)
