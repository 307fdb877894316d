"""Render docs/cli.svg: real runs of the command line on a terminal, against the mock server.

    python scripts/picture.py [FILE]

The session's id, its time and the port differ from run to run and are replaced. So the picture only changes when the
command line changes, or the versions that `liveavatar doctor` lists.
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
CREATED = "Jan 31 12:00"


def main(file: Path) -> None:
    """Write the picture to a file."""
    recording = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    with mock_server() as server, tempfile.TemporaryDirectory() as folder:
        env = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "TERM": "xterm-256color",
            "COLUMNS": str(WIDTH),
            "LINES": "40",
            "LIVEAVATAR_BASE_URL": server.base_url,
            "LIVEAVATAR_API_KEY": server.api_key,
        }
        for arguments, enter_at in (("new --sandbox", "0:57"), ("list --historic", None), ("doctor", None)):
            before, after = run_on_terminal([*COMMAND, *arguments.split()], env, folder, enter_at)
            lines = (
                [*displayed_lines(before), displayed_lines(before + after)[-1]] if before else displayed_lines(after)
            )
            if enter_at is None:
                recording.print()
            recording.print(Text.assemble(("$ ", "bold green"), (f"liveavatar {arguments}", "bold")))
            for line in lines:
                for session in server.sessions:
                    line = line.replace(session.id, SESSION)
                line = re.sub(r"[A-Z][a-z]{2} \d\d \d\d:\d\d", CREATED, line.replace(f":{server.port}", ":8080"))
                recording.print(Text.from_ansi(line), soft_wrap=True)
        assert not server.running_sessions
    # Remove the fonts that the format would fetch from another host.
    code_format = re.sub(r"\s*@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    code_format = code_format.replace("Fira Code, monospace", FONTS)
    picture = recording.export_svg(title="liveavatar", code_format=code_format, unique_id="cli")
    assert not re.search(r"eyJ|token=|/home/|/root/|(?<!xmlns=\")https?://(?!127|www\.w3|www\.textualize)", picture)
    file.write_text("\n".join(line.rstrip() for line in picture.splitlines()) + "\n", encoding="utf-8")


def run_on_terminal(command: list[str], env: dict[str, str], folder: str, enter_at: str | None) -> tuple[str, str]:
    """Run a command on a terminal, and press Enter when the text `enter_at` appears.

    Returns:
        What it writes before Enter is pressed, and after.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(command[0], command, env)
    before, output = "", b""
    try:
        while data := os.read(terminal, 65536):
            output += data
            if enter_at and enter_at.encode() in output:
                before, output = output.decode(), b""
                os.write(terminal, b"\n")
                enter_at = None
    except OSError:  # Linux raises it when the command has ended
        pass
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, output.decode()
    return before, output.decode()


def displayed_lines(output: str) -> list[str]:
    """Return the lines as the terminal shows them after this output, with colours."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|\r|\n)", output):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part != "\r" and not part.startswith("\x1b[?"):  # these show and hide the cursor
            lines[row] += part
    while lines and not lines[-1]:
        lines.pop()
    return lines


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs" / "cli.svg")
