"""What README.md shows, works: each of its examples is run as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from liveavatar.mock import MockServer, mock_server

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def blocks(language: str) -> list[tuple[int, str]]:
    """(line number, text) of each code block."""
    text = README.read_text("utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, block.start()) + 2, block[1]) for block in found]


EXAMPLES = {f"line {line}": example for line, example in blocks("python") if "def test_" not in example}
TESTS = {f"line {line}": example for line, example in blocks("python") if "def test_" in example}


def run(*arguments: str | Path, at: MockServer | None, folder: Path) -> str:
    account = {"LIVEAVATAR_BASE_URL": at.base_url, "LIVEAVATAR_API_KEY": at.api_key} if at else {}
    command = [sys.executable, "-W", "error", *arguments]
    outcome = subprocess.run(
        command, cwd=folder, env=os.environ | account, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert outcome.returncode == 0, outcome.stdout
    return outcome.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_is_and_leaves_no_session(name: str, tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text(EXAMPLES[name], "utf-8")
    with mock_server() as service:
        assert run(example, at=service, folder=tmp_path)
        assert service.requests["token"]
        assert service.running_sessions == []


@pytest.mark.parametrize("name", TESTS)
def test_an_example_of_a_test_records_and_then_replays_without_a_service(name: str, tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(TESTS[name], "utf-8")
    with mock_server() as service:
        assert "2 passed" in run("-m", "pytest", "--record-mode=once", at=service, folder=tmp_path)
        assert service.requests == {"token": 1, "start": 1, "stop": 1}
    assert list(tmp_path.rglob("*.yaml"))
    assert "2 passed" in run("-m", "pytest", "--record-mode=none", at=None, folder=tmp_path)


def test_no_python_in_it_is_left_out() -> None:
    assert len(EXAMPLES) + len(TESTS) == len(
        re.findall(r"^ *(?:```|~~~) *(?:py|console)", README.read_text("utf-8"), re.M)
    )
    assert len(EXAMPLES) >= 4
    assert len(TESTS) == 1


def test_the_first_example_ends_by_line_30_and_all_of_it_by_line_150() -> None:
    line, example = blocks("python")[0]
    assert line + example.count("\n") <= 30
    assert README.read_text("utf-8").count("\n") <= 150


def test_the_make_targets_and_files_it_names_exist() -> None:
    text = README.read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)(?= +#|`)", text)) <= targets
    files = {link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith(("http", "#"))}
    assert files
    assert [link for link in files if not (ROOT / link).is_file()] == []


def test_every_class_it_names_is_public() -> None:
    import liveavatar

    named = set(re.findall(r"`([A-Z]\w+Error)`", README.read_text("utf-8")))
    assert named
    assert named <= set(dir(liveavatar))
