"""Change the code that retries, stops, reads and remembers in small ways, and list the changes that no test notices.

    python scripts/mutants.py

mutmut makes the changes, in a copy under build/. Only tests that neither send nor wait run against them, so that
thousands of runs take minutes. build/mutants.txt lists what they miss, with the score. Look at each: some changes have
no visible effect, and every other one is a missing test.
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
CODE = ("_calls", "_cleanup", "_endpoints", "_flows", "_response_models", "_responses", "_sessions", "errors")
TESTS = ("test_flows", "test_responses", "test_sessions")
HELPERS = ("__init__", "clients", "conftest")
# A change can make a cleanup go on for ever. It catches every exception, so the timeout has to end the process.
# mutmut names a module after its path below src/, which must be the name under which it is imported.
SETTINGS = f"""
[tool.pytest.ini_options]
filterwarnings = ["error"]
timeout = 10
timeout_method = "thread"
[tool.mutmut]
source_paths = ["src"]
only_mutate = {json.dumps([f"src/liveavatar/{name}.py" for name in CODE])}
pytest_add_cli_args_test_selection = {json.dumps([f"tests/{name}.py" for name in TESTS])}
do_not_mutate_patterns = ["raise AssertionError"]
"""


def main() -> int:
    wanted = [f"wrapper/liveavatar/{name}.py" for name in CODE] + [f"tests/{name}.py" for name in (*HELPERS, *TESTS)]
    if missing := [path for path in wanted if not (ROOT / path).is_file()]:
        print("mutants: not found; correct CODE, TESTS or HELPERS:", *missing)
        return 1
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
    score = f"{found} of {made} changes noticed ({100 * found / made:.1f} %)"
    REPORT.write_text("\n\n".join([score, *(mutmut("show", name).stdout for name in missed)]), "utf-8")
    print(f"mutants: {score}; the others are in {REPORT.relative_to(ROOT)}")
    return 0


def mutmut(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], cwd=WORKSHOP, capture_output=True, text=True, errors="replace"
    )


if __name__ == "__main__":
    sys.exit(main())
