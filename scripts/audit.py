"""Say what a user gets with this package, and whether any of it is known to be vulnerable.

    python scripts/audit.py [--sbom FILE]    audit what is installed; write it down as a CycloneDX SBOM
    python scripts/audit.py --floors         print each dependency at the lowest version allowed, for pip

It looks at the runtime dependencies and at what those need in turn; tools of this project are not its business. It
fails if one is known to be vulnerable, or if a dependency is declared without a floor or with an exact pin. Where
nobody can be asked, it says so and passes: an audit that was skipped is not one that found nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("dev", "docs")  # extras for work on this project itself
SERVICES = ("pypi", "osv")  # whom pip-audit can ask
UNREACHABLE = re.compile(r"ConnectionError|Timeout|ServiceError|ProxyError|SSLError|HTTPError|JSONDecodeError")
Closure = dict[str, tuple[str, list[str]]]
"""What is installed: name -> (version, names of what it needs)."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Audit the runtime dependencies.")
    parser.add_argument("--sbom", type=Path, help="where to write the CycloneDX SBOM")
    parser.add_argument("--floors", action="store_true", help="print each dependency at its floor, and do no more")
    options = parser.parse_args(arguments)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [Requirement(line) for line in project["dependencies"]]
    extras = [
        Requirement(line)
        for name, lines in project["optional-dependencies"].items()
        if name not in TOOLS
        for line in lines
    ]
    ours = [each for each in declared + extras if each.name != project["name"]]
    if options.floors:
        print(*sorted({f"{each.name}=={floor(each)}" for each in ours}))
        return 0
    if badly := [f"{each}: {wrong}" for each in ours if (wrong := misdeclared(each))]:
        print("audit: failed.", *badly, sep="\n  ")
        return 1
    installed = closure(declared)
    if options.sbom:
        options.sbom.parent.mkdir(parents=True, exist_ok=True)
        options.sbom.write_text(sbom(project["name"], declared, installed), "utf-8")
    return report(installed)


def floor(requirement: Requirement) -> str | None:
    """Return the lowest version that a requirement allows."""
    return next((each.version for each in requirement.specifier if each.operator in (">=", "~=")), None)


def misdeclared(requirement: Requirement) -> str | None:
    """Return what is wrong with how a dependency is declared."""
    if any(each.operator in ("==", "===") for each in requirement.specifier):
        return "is pinned, so its users cannot get its next security fix"
    return None if floor(requirement) else "has no floor, so nobody knows with which versions it works"


def closure(requirements: Iterable[Requirement]) -> Closure:
    """Return what the requirements bring, as it is installed here."""
    found: Closure = {}
    pending = list(requirements)
    while pending:
        requirement = pending.pop()
        here = distribution(requirement.name)
        name = canonicalize_name(here.name)
        if name not in found:
            wanted = [Requirement(line) for line in here.requires or ()]
            wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
            found[name] = (here.version, sorted(canonicalize_name(each.name) for each in wanted))
            pending += wanted
    return dict(sorted(found.items()))


def report(installed: Closure) -> int:
    """Ask about each package, say what came of it, and return the exit code."""
    answer: list[dict[str, Any]] = []
    reasons = []
    for service in SERVICES:
        answer, reason = ask(service, installed)
        if any("vulns" in each for each in answer):
            break
        reasons.append(f"{service}: {reason}")
    else:
        print(f"audit: SKIPPED, nobody could be asked about {len(installed)} packages.", *reasons, sep="\n  ")
        return 0
    for each in answer:
        for vulnerability in each.get("vulns", ()):
            mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            print(f"audit: {each['name']} {each['version']} has {vulnerability['id']}; mended in {mended}")
    unknown = [each["name"] for each in answer if "vulns" not in each]
    if unknown:
        print(f"audit: not audited, because {service} does not know them: {', '.join(unknown)}")
    vulnerable = sum(bool(each.get("vulns")) for each in answer)
    print(f"audit: {len(answer) - len(unknown)} packages audited, {vulnerable} known to be vulnerable")
    return 1 if vulnerable else 0


def ask(service: str, installed: Closure) -> tuple[list[dict[str, Any]], str]:
    """Return what pip-audit knows of each package, and the reason if it knows nothing.

    Raises:
        RuntimeError: it failed, and not for want of a network.
    """
    with TemporaryDirectory() as scratch:
        pins = Path(scratch) / "requirements.txt"
        pins.write_text("".join(f"{name}=={version}\n" for name, (version, _) in installed.items()), "utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off"]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            return [], "no answer within five minutes"
    try:
        answer: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
    except ValueError:
        last = (run.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if not UNREACHABLE.search(last):
            raise RuntimeError(f"pip-audit failed:\n{run.stderr}") from None
        return [], last.rsplit(": ", 1)[-1].removesuffix('"))')[:200]
    return answer, "it knows none of them"


def sbom(name: str, declared: list[Requirement], installed: Closure) -> str:
    """Return the CycloneDX description of the package and all that it brings."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from packageurl import PackageURL

    def component(name: str, version: str, kind: ComponentType = ComponentType.LIBRARY) -> Component:
        url = PackageURL("pypi", None, name, version)
        return Component(name=name, version=version, type=kind, purl=url, bom_ref=str(url))

    parts = {each: component(each, version) for each, (version, _) in installed.items()}
    bom = Bom(components=parts.values())
    bom.metadata.component = component(name, distribution(name).version)
    bom.register_dependency(bom.metadata.component, [parts[canonicalize_name(each.name)] for each in declared])
    for each, (_, needs) in installed.items():
        bom.register_dependency(parts[each], [parts[need] for need in needs])
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)


if __name__ == "__main__":
    sys.exit(main())
