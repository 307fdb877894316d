"""What the package declares about itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
TOOL_EXTRAS = ("dev", "docs")


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"])


def runtime_requirements() -> dict[str, Requirement]:
    declared = project()
    lines = list(declared["dependencies"])
    for extra, its_lines in declared["optional-dependencies"].items():
        if extra not in TOOL_EXTRAS:
            lines += its_lines
    requirements = map(Requirement, lines)
    return {each.name: each for each in requirements if each.name != declared["name"]}


def make_variable(name: str) -> str:
    (value,) = re.findall(rf"^{name} *= *(.+)$", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    return str(value)


@pytest.mark.parametrize("requirement", runtime_requirements().values(), ids=str)
def test_bounds(requirement: Requirement) -> None:
    """A runtime dependency has a lower bound, and no exact pin that keeps users from its next security fix."""
    operators = {each.operator for each in requirement.specifier}
    assert operators & {">=", "~="}
    assert not operators & {"==", "==="}


@pytest.mark.parametrize(("name", "breaking"), [("aiohttp", "5.0"), ("httpcore", "2.0"), ("httpx", "1.0.dev6")])
def test_ceilings(name: str, breaking: str) -> None:
    """A dependency whose internals are used cannot be installed in a version that may have changed them."""
    assert not runtime_requirements()[name].specifier.contains(breaking, prereleases=True)


def test_constraints() -> None:
    """The constraints pin every tool, and name neither an index nor a URL."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.lstrip().startswith("#")]
    assert all(str(pin.specifier).startswith("==") and pin.url is None for pin in pins)
    declared = [Requirement(line) for line in project()["optional-dependencies"]["dev"]]
    assert {each.name for each in declared} - {project()["name"]} <= {pin.name for pin in pins}
    for tool in declared:
        for pin in pins:
            assert pin.name != tool.name or tool.specifier.contains(str(pin.specifier).removeprefix("=="))


def test_extras() -> None:
    """`make audit` and `make floors` cover every extra that users install."""
    assert set(make_variable("EXTRAS").split(",")) == project()["optional-dependencies"].keys() - set(TOOL_EXTRAS)


def test_versions() -> None:
    """`make pythons` and the workflow test every Python that a classifier names."""
    prefix = "Programming Language :: Python :: 3."
    claimed = {f"3.{each.removeprefix(prefix)}" for each in project()["classifiers"] if each.startswith(prefix)}
    (matrix,) = re.findall(r"python: \[(.+)\]", (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    assert claimed
    assert claimed <= set(make_variable("PYTHONS").split())
    assert claimed <= {each.strip('" ') for each in matrix.split(",")}
