"""Render docs/cli.svg: real runs of the command line on a terminal, against the mock server.

    python scripts/picture.py [FILE]

What differs from run to run (the session's id, the port) is replaced, so that the picture changes when the command
line does, or the versions that `liveavatar doctor` lists.
"""

import io
import os
import pty
import re
import sys
import tempfile
from pathlib import Path

from liveavatar.mock import mock_server
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

WIDTH = 80
FONTS = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
COMMAND = [sys.executable, "-m", "liveavatar"]
SESSION = "5e551014-0c1d-4f7a-9b6e-2d3c4b5a6978"


def main(file: Path) -> None:
    """Write the picture."""
    paper = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    with mock_server() as service, tempfile.TemporaryDirectory() as folder:
        env = {
            "PATH": os.environ["PATH"],
            "TERM": "xterm-256color",
            "COLUMNS": str(WIDTH),
            "LINES": "40",
            "LIVEAVATAR_BASE_URL": service.base_url,
            "LIVEAVATAR_API_KEY": service.api_key,
        }
        for arguments, enter_at in (("new --sandbox", "0:57"), ("doctor", None)):
            said = on_terminal([*COMMAND, *arguments.split()], env, folder, enter_at)
            for session in service.sessions:
                said = said.replace(session.id, SESSION)
            said = said.replace(f":{service.port}", ":8080")
            if enter_at is None:
                paper.print()
            paper.print(Text.assemble(("$ ", "bold green"), (f"liveavatar {arguments}", "bold")))
            for line in settled(said):
                paper.print(Text.from_ansi(line), soft_wrap=True)
        assert not service.running_sessions
    # Without the fonts that the format fetches from elsewhere.
    plain = re.sub(r"\s*@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    plain = plain.replace("Fira Code, monospace", FONTS)
    picture = paper.export_svg(title="liveavatar", code_format=plain, unique_id="cli")
    assert not re.search(r"eyJ|token=|/home/|/root/|(?<!xmlns=\")https?://(?!127|www\.w3|www\.textualize)", picture)
    file.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n", encoding="utf-8")


def on_terminal(command: list[str], env: dict[str, str], folder: str, enter_at: str | None) -> str:
    """Return all that a command writes to its terminal; Enter is pressed when `enter_at` has shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(command[0], command, env)
    said = b""
    try:
        while data := os.read(terminal, 65536):
            said += data
            if enter_at and enter_at.encode() in said:
                os.write(terminal, b"\n")
                enter_at = None
    except OSError:  # so Linux says that the command has ended
        pass
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, said.decode()
    return said.decode()


def settled(said: str) -> list[str]:
    """Return the lines as they stand at the end, colours included."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|\r|\n)", said):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part != "\r" and not part.startswith("\x1b[?"):  # those show and hide the cursor
            lines[row] += part
    while lines and not lines[-1]:
        lines.pop()
    return lines


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "cli.svg")
