"""README.md is short, and what it shows works."""

from __future__ import annotations

import re
from pathlib import Path

import liveavatar
import pytest
from liveavatar.mock import mock_server

from tests.pages import README, ROOT, account, blocks, has_tests, run, run_tests

PYTHON = blocks(README, "python")
EXAMPLES = [where for where, example in PYTHON.items() if not has_tests(example)]
TESTS = [where for where, example in PYTHON.items() if has_tests(example)]


@pytest.mark.parametrize("where", EXAMPLES)
def test_example_runs(where: str, tmp_path: Path) -> None:
    """An example runs as it is, prints something, and leaves no session behind."""
    example = tmp_path / "example.py"
    example.write_text(PYTHON[where], "utf-8")
    with mock_server() as server:
        assert run(example, folder=tmp_path, account=account(server))
        assert server.requests["token"]
        assert server.running_sessions == []


@pytest.mark.parametrize("where", TESTS)
def test_example_test_passes(where: str, tmp_path: Path) -> None:
    """An example of a test passes without a network."""
    (tmp_path / "test_example.py").write_text(PYTHON[where], "utf-8")
    count = PYTHON[where].count("def test_")
    assert f"{count} passed" in run_tests("--block-network", folder=tmp_path)


def test_no_python_is_skipped() -> None:
    """Each block of Python is one of those above."""
    fences = re.findall(r"^ *(?:```|~~~) *(?:py|console)", README.read_text("utf-8"), re.M)
    assert len(EXAMPLES) + len(TESTS) == len(fences)
    assert len(EXAMPLES) >= 4
    assert len(TESTS) == 1


def test_length() -> None:
    """The first example ends by line 30, and the page by line 150."""
    where, example = next(iter(PYTHON.items()))
    assert int(where.rpartition(":")[2]) + example.count("\n") <= 30
    assert README.read_text("utf-8").count("\n") <= 150


def test_first_commands() -> None:
    """A reader meets `make demo` and `make test` before the first example."""
    text = README.read_text("utf-8").partition("```python")[0]
    assert [command for command in ("make demo", "make test") if command not in text] == []


def test_make_targets_and_files_exist() -> None:
    """Each make target and each file that the page names exists."""
    text = README.read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)(?= +#|`)", text)) <= targets
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)}
    files = {link for link in links if link and not link.startswith("http")}
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_exceptions_are_public() -> None:
    """Each exception that the page names can be imported from `liveavatar`."""
    named = set(re.findall(r"`([A-Z]\w+Error)`", README.read_text("utf-8"))) - {"ValueError", "TypeError"}
    assert named
    assert named <= set(dir(liveavatar))
