"""What `make audit` decides, with a pip-audit of our own in place of the real one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

SCRIPT = Path(__file__).parent.parent / "scripts" / "audit.py"
UNREACHABLE = (
    "Traceback (most recent call last):\n"
    "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='x', port=443): Max retries exceeded with url: /"
    " (Caused by NameResolutionError(\"x: Failed to resolve 'x' ([Errno -2] Name or service not known)\"))"
)

Answers = Callable[..., list[str]]


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def answers(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Let pip-audit answer: `answers(pypi=..., osv=...)`, text for stderr or a judgement for each package."""

    def prepare(**by_service: Any) -> list[str]:
        asked: list[str] = []

        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            service = command[command.index("--vulnerability-service") + 1]
            asked.append(service)
            answer = by_service[service]
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, str):
                return subprocess.CompletedProcess(command, 1, "", answer)
            pins = Path(command[command.index("--requirement") + 1]).read_text("utf-8").split()
            found = [
                {"name": name, "version": version} | answer(name)
                for name, version in (pin.split("==") for pin in pins)
            ]
            return subprocess.CompletedProcess(command, 0, json.dumps({"dependencies": found, "fixes": []}), "")

        monkeypatch.setattr(audit.subprocess, "run", run)
        return asked

    return prepare


def fine(name: str) -> dict[str, Any]:
    return {"vulns": []}


def unknown(name: str) -> dict[str, Any]:
    return {"skip_reason": f"{name} could not be audited"}


def idna_is_not(name: str) -> dict[str, Any]:
    return {"vulns": [{"id": "CVE-1", "fix_versions": ["9.1", "8.5"]}] if name == "idna" else []}


def test_packages_without_a_known_vulnerability_pass(
    audit: ModuleType, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answers(pypi=fine)
    assert audit.main([]) == 0
    assert asked == ["pypi"]
    assert "packages audited, 0 known to be vulnerable" in capsys.readouterr().out


def test_a_known_vulnerability_fails_and_is_named_with_what_mends_it(
    audit: ModuleType, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(pypi=idna_is_not)
    assert audit.main([]) == 1
    out = capsys.readouterr().out
    assert "has CVE-1; mended in 9.1, 8.5" in out
    assert "1 known to be vulnerable" in out


def test_an_audit_that_reaches_nobody_says_that_it_was_skipped_and_why(
    audit: ModuleType, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answers(pypi=UNREACHABLE, osv=subprocess.TimeoutExpired("pip-audit", 300))
    assert audit.main([]) == 0
    assert asked == ["pypi", "osv"]
    out = capsys.readouterr().out
    assert "SKIPPED" in out
    assert "pypi: Failed to resolve 'x' ([Errno -2] Name or service not known)\n" in out
    assert "osv: no answer within five minutes" in out
    assert "vulnerable" not in out


def test_a_service_that_knows_no_package_has_audited_nothing(
    audit: ModuleType, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(pypi=unknown, osv=unknown)
    assert audit.main([]) == 0
    assert "SKIPPED" in capsys.readouterr().out


def test_when_one_service_cannot_be_asked_the_other_is(audit: ModuleType, answers: Answers) -> None:
    for silent in (UNREACHABLE, unknown):
        asked = answers(pypi=silent, osv=idna_is_not)
        assert audit.main([]) == 1
        assert asked == ["pypi", "osv"]


def test_a_package_that_the_service_does_not_know_is_named(
    audit: ModuleType, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(pypi=lambda name: unknown(name) if name == "attrs" else fine(name))
    assert audit.main([]) == 0
    assert "not audited, because pypi does not know them: attrs\n" in capsys.readouterr().out


def test_a_pip_audit_that_fails_for_another_reason_is_not_taken_for_a_missing_network(
    audit: ModuleType, answers: Answers
) -> None:
    answers(pypi="pip_audit: error: unrecognized arguments")
    with pytest.raises(RuntimeError, match="unrecognized arguments"):
        audit.main([])


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("attrs>=23.1", None),
        ("attrs~=23.1", None),
        ("attrs>=23.1,<27", None),
        ("attrs", "no floor"),
        ("attrs<27", "no floor"),
        ("attrs==23.1", "pinned"),
        ("attrs===23.1", "pinned"),
    ],
)
def test_a_dependency_has_a_floor_and_no_exact_pin(audit: ModuleType, line: str, wrong: str | None) -> None:
    said = audit.misdeclared(Requirement(line))
    assert (said is None) == (wrong is None)
    assert (wrong or "") in (said or "")


def test_a_dependency_that_is_declared_badly_fails_before_anybody_is_asked(
    audit: ModuleType, answers: Answers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = answers()
    monkeypatch.setattr(audit, "floor", lambda requirement: None)
    assert audit.main([]) == 1
    assert asked == []
    assert "aiohttp>=" in capsys.readouterr().out


def test_the_runtime_dependencies_and_what_they_need_are_audited_and_no_tool(audit: ModuleType) -> None:
    found = audit.closure([Requirement("httpx>=0.28"), Requirement("attrs>=23.1")])
    assert {"attrs", "httpx", "httpcore", "h11", "certifi", "idna", "anyio"} <= found.keys()
    assert not found.keys() & {"pytest", "ruff", "h2", "socksio", "liveavatar"}
    assert "h11" in found["httpcore"][1]


def test_the_sbom_holds_each_package_its_version_and_what_it_needs(
    audit: ModuleType, answers: Answers, tmp_path: Path
) -> None:
    answers(pypi=fine)
    assert audit.main(["--sbom", str(tmp_path / "build" / "sbom.json")]) == 0
    sbom = json.loads((tmp_path / "build" / "sbom.json").read_text("utf-8"))
    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["name"] == "liveavatar"
    parts = {each["name"]: each for each in sbom["components"]}
    assert parts["httpx"]["purl"] == f"pkg:pypi/httpx@{parts['httpx']['version']}"
    needs = {each["ref"].split("@")[0]: each.get("dependsOn", []) for each in sbom["dependencies"]}
    assert parts["httpcore"]["purl"] in needs["pkg:pypi/httpx"]
    assert parts["aiohttp"]["purl"] in needs["pkg:pypi/liveavatar"]


def test_the_floors_are_for_pip_to_install(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--floors"]) == 0
    floors = capsys.readouterr().out.split()
    assert "httpcore==1.0.9" in floors
    assert all("==" in each and "None" not in each for each in floors)
    assert not any(each.startswith(("ruff", "liveavatar")) for each in floors)
