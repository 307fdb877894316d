"""Change the code in small ways, and list the changes that no test notices.

    python scripts/mutants.py                        the code that retries, stops, reads and remembers
    python scripts/mutants.py transports             the code that sends requests
    python scripts/mutants.py transports _base       one of its modules

mutmut makes the changes, in a copy under build/. The tests of the core neither send nor wait, so that thousands of
runs take minutes. Those of the transports use sockets, and take seconds for each change; the slow ones are left out.
build/mutants.txt lists what the tests miss, with the score. Look at each: some changes have no visible effect, and
every other one is a missing test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKSHOP = ROOT / "build" / "mutants"
REPORT = ROOT / "build" / "mutants.txt"


@dataclass(frozen=True)
class Part:
    """A part of the code, and the tests that run against its changes."""

    package: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]
    slow: tuple[str, ...] = ()
    """The tests to leave out, by module and name."""
    processes: int = 1
    """How many processes run tests, for each processor."""


PARTS = {
    "core": Part(
        package="liveavatar",
        modules=(
            "_calls",
            "_cleanup",
            "_endpoints",
            "_error_responses",
            "_flows",
            "_response_models",
            "_responses",
            "_sessions",
            "errors",
        ),
        tests=("test_flows", "test_responses", "test_sessions"),
    ),
    "transports": Part(
        package="liveavatar/_transports",
        processes=3,  # the tests wait for sockets
        modules=(
            "_aiohttp",
            "_aiohttp_direct",
            "_async_httpx",
            "_asyncio",
            "_base",
            "_blocking",
            "_httpcore",
            "_httpx",
        ),
        tests=(
            "test_connections",
            "test_responses",
            "test_transports",
            "faults/test_before_sending",
            "faults/test_cancellation",
            "faults/test_evidence",
            "faults/test_executor",
            "faults/test_nested_errors",
            "faults/test_odd_bytes",
            "faults/test_proxies",
            "faults/test_stale_connections",
            "faults/test_weak_evidence",
        ),
        slow=(
            "test_connections::test_concurrent_sessions",
            "test_connections::test_idle_connections",
            "test_connections::test_one_connection",
            "test_connections::test_thousand_requests",
            "test_responses::test_error_class",
            "faults/test_cancellation::test_async_client_block_at_any_turn",
            "faults/test_cancellation::test_async_close_session_at_any_turn",
            "faults/test_cancellation::test_async_hundred_cancellations",
            "faults/test_cancellation::test_async_new_session_at_any_turn",
            "faults/test_cancellation::test_async_session_block_at_any_turn",
            "faults/test_evidence::test_start_after_the_cleanup_is_not_called_stopped",
            "faults/test_evidence::test_stop_that_overtakes_its_start_is_sent_again",
            "faults/test_proxies::test_password_of_a_proxy_that_fails",
            "faults/test_stale_connections::test_dead_connections",
            "faults/test_weak_evidence::test_404_of_a_proxy",
            "faults/test_weak_evidence::test_blocking_child_of_multiprocessing",
            "faults/test_weak_evidence::test_failure_under_success",
            "faults/test_weak_evidence::test_refused_stop",
        ),
    ),
}


def settings(part: Part) -> str:
    """Return the configuration of mutmut and pytest.

    A change can make a cleanup go on for ever. It catches every exception, so the timeout has to end the process.
    mutmut names a module after its path below src/, which must be the name under which it is imported.
    """
    selection = [f"tests/{name}.py" for name in part.tests]
    selection += [f"--deselect=tests/{name.replace('::', '.py::')}" for name in part.slow]
    return f"""
[tool.pytest.ini_options]
filterwarnings = ["error"]
timeout = 10
timeout_method = "thread"
[tool.mutmut]
source_paths = ["src"]
only_mutate = {json.dumps([f"src/{part.package}/{name}.py" for name in part.modules])}
pytest_add_cli_args_test_selection = {json.dumps(selection)}
do_not_mutate_patterns = ["raise AssertionError"]
"""


def main() -> int:
    name, *modules = sys.argv[1:] or ["core"]
    if name not in PARTS or not set(modules) <= set(PARTS[name].modules):
        print("mutants: no such part or module; the parts are:", *PARTS)
        return 2
    part = PARTS[name]
    wanted = [f"wrapper/{part.package}/{name}.py" for name in part.modules]
    wanted += [f"tests/{name}.py" for name in part.tests]
    if missing := [path for path in wanted if not (ROOT / path).is_file()]:
        print("mutants: not found; correct PARTS:", *missing)
        return 1
    shutil.rmtree(WORKSHOP, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for package in (ROOT / "wrapper" / "liveavatar", ROOT / "liveavatar_client"):
        shutil.copytree(package, WORKSHOP / "src" / package.name, ignore=ignore)
    shutil.copytree(ROOT / "tests", WORKSHOP / "tests", ignore=ignore)
    (WORKSHOP / "pyproject.toml").write_text(settings(part), "utf-8")

    names = [f"{part.package.replace('/', '.')}.{module}.*" for module in modules]
    run = mutmut("run", "--max-children", str(part.processes * (os.cpu_count() or 1)), *names)
    lines = mutmut("results", "--all", "true").stdout.splitlines()
    results = dict(line.strip().split(": ") for line in lines if ": " in line)
    made = [mutant for mutant, result in results.items() if result not in ("skipped", "not checked")]
    if run.returncode or not made:
        print(run.stdout[-4000:], run.stderr[-4000:], sep="\n")
        return 1
    missed = [mutant for mutant in made if results[mutant] not in ("killed", "timeout")]
    found = len(made) - len(missed)
    score = f"{found} of {len(made)} changes noticed ({100 * found / len(made):.1f} %)"
    REPORT.write_text("\n\n".join([score, *(mutmut("show", name).stdout for name in missed)]), "utf-8")
    print(f"mutants: {score}; the others are in {REPORT.relative_to(ROOT)}")
    return 0


def mutmut(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], cwd=WORKSHOP, capture_output=True, text=True, errors="replace"
    )


if __name__ == "__main__":
    sys.exit(main())
