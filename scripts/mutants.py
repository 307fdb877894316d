"""Put faults into the code that retries, undoes, reads and remembers, one at a time, and see which the tests miss.

    python scripts/mutants.py

mutmut makes the faults, in a copy under build/. Only tests that neither send nor wait judge them: thousands of runs
take minutes. What they miss is listed with the score in build/mutants.txt, to be looked at: some faults change
nothing that anybody can see, and the rest is a test that is missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKSHOP = ROOT / "build" / "mutants"
REPORT = ROOT / "build" / "mutants.txt"
CODE = ("_answers", "_calls", "_flows", "_sessions", "errors")
TESTS = ("test_answers", "test_flows", "test_words")
HELPERS = ("__init__", "clients", "conftest")
# A mutant's module is named after its path: below src, that is the name under which it is imported.
SETTINGS = f"""
[tool.pytest.ini_options]
filterwarnings = ["error"]
[tool.mutmut]
source_paths = ["src"]
only_mutate = {json.dumps([f"src/liveavatar/{name}.py" for name in CODE])}
pytest_add_cli_args_test_selection = {json.dumps([f"tests/{name}.py" for name in TESTS])}
do_not_mutate_patterns = ["raise AssertionError"]
"""


def main() -> int:
    shutil.rmtree(WORKSHOP, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for package in (ROOT / "wrapper" / "liveavatar", ROOT / "liveavatar_client"):
        shutil.copytree(package, WORKSHOP / "src" / package.name, ignore=ignore)
    (WORKSHOP / "tests").mkdir()
    for name in (*HELPERS, *TESTS):
        shutil.copy(ROOT / "tests" / f"{name}.py", WORKSHOP / "tests")
    (WORKSHOP / "pyproject.toml").write_text(SETTINGS, "utf-8")

    run = mutmut("run")
    missed = [line.split(":")[0].strip() for line in mutmut("results").stdout.splitlines() if ":" in line]
    mutmut("export-cicd-stats")
    figures = WORKSHOP / "mutants" / "mutmut-cicd-stats.json"
    if run.returncode or not figures.exists():
        print(run.stdout[-4000:], run.stderr[-4000:], sep="\n")
        return 1
    counts = json.loads(figures.read_text("utf-8"))
    found, made = counts["killed"] + counts["timeout"], counts["total"] - counts["skipped"]
    score = f"{found} of {made} faults found ({100 * found / made:.1f} %)"
    REPORT.write_text("\n\n".join([score, *(mutmut("show", name).stdout for name in missed)]), "utf-8")
    print(f"mutants: {score}; the others are in {REPORT.relative_to(ROOT)}")
    return 0


def mutmut(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], cwd=WORKSHOP, capture_output=True, text=True, errors="replace"
    )


if __name__ == "__main__":
    sys.exit(main())
