"""README and documentation pages, their code blocks, and how to run them as a reader does."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from liveavatar.mock import MockServer

from tests import processes

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> dict[str, str]:
    """Return the code blocks of a page by their place in it, as `docs/guide.md:27`."""
    text = page.read_text("utf-8")
    return {
        f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, block.start()) + 2}": block[2]
        for block in FENCE.finditer(text)
        if block[1] in languages
    }


def has_tests(example: str) -> bool:
    return "def test_" in example


def missing_packages(example: str) -> set[str]:
    """Return the modules that an example imports and that are not installed."""
    imported = set()
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    return {name for name in imported if importlib.util.find_spec(name.partition(".")[0]) is None}


def run(*arguments: str | Path, folder: Path, account: dict[str, str] | None = None) -> str:
    """Run Python in a folder, with warnings as errors, and return what it prints."""
    process = processes.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=os.environ | (account or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


def run_tests(*arguments: str, folder: Path, account: dict[str, str] | None = None) -> str:
    """Run the tests of a folder, and return what pytest prints."""
    process = processes.run_pytest(*arguments, cwd=folder, env=os.environ | (account or {}))
    assert process.returncode == 0, process.stdout
    return process.stdout


def account(server: MockServer) -> dict[str, str]:
    """Return the variables that point a client to a mock server."""
    return {"LIVEAVATAR_BASE_URL": server.base_url, "LIVEAVATAR_API_KEY": server.api_key}
