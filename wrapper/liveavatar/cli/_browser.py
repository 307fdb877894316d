"""Open a page in the browser, without the command's secrets or its folder."""

from __future__ import annotations

import os
import subprocess
import sys

_CODE = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.stdin.read()))"


def open_in_browser(url: str) -> bool:
    """Open a page and return whether a browser was found.

    The browser is started by a separate Python process: its output, which may show the address with its token, is
    discarded. The process is isolated (``-I``) from modules in the working folder, its environment holds no
    LIVEAVATAR_* variable, and it reads the address from stdin, so that no list of processes shows it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("LIVEAVATAR_")}
    try:
        process = subprocess.run(  # noqa: S603 (the command is fixed)
            [sys.executable, "-I", "-c", _CODE],
            input=url,
            text=True,
            env=environment,
            timeout=10,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:  # some browsers stay in the foreground until they are closed
        return True
    return process.returncode == 0
