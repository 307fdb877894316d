"""Make the Python environment that the Makefile's recipes run in, or leave it alone when it still fits.

    python3 scripts/environment.py FOLDER mock|dev

"mock" is what the demo needs; "dev" adds what all the rest needs. An environment fits as long as pyproject.toml is
the same, its folder has not moved and its Python runs. Which Python made it matters only when somebody names one:
`make PYTHON=python3.13 ...`.

This file runs on Pythons that are too old for everything else, to say so.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROJECT = os.path.join(ROOT, "pyproject.toml")
STEPS = ("mock", "dev")
# By path, never by name: what an index has under our name is not ours.
INSTALLS = {"mock": ["--editable", ".[mock]"], "dev": ["--editable", ".[dev]"]}
PURPOSES = {"mock": "the demo needs (about 10 seconds", "dev": "tests and checks need (about 20 seconds"}


def main(folder: str, wanted: str) -> str:
    """Return what is wrong, or "" when the environment is ready."""
    folder = os.path.abspath(folder)
    with open(PROJECT, "rb") as project:
        fcntl.flock(project, fcntl.LOCK_EX)  # of two makes at a time, one waits for the other
        origin = {"project": hashlib.sha256(project.read()).hexdigest(), "folder": os.path.realpath(folder)}
        done = steps_done(folder, origin)
        missing = STEPS[len(done) : STEPS.index(wanted) + 1]
        wrong = "" if done or not missing else unfit()
        if wrong:
            return wrong
        try:
            if missing and not done:
                run([sys.executable, "-m", "venv", "--clear", folder])
            for step in missing:
                print("environment: adding what " + PURPOSES[step] + ", once)", flush=True)
                run([python_of(folder), "-m", "pip", "install", "--disable-pip-version-check", *INSTALLS[step]])
                with open(stamp_of(folder), "w") as stamp:
                    json.dump({"origin": origin, "python": sys.version, "step": step}, stamp)
        except subprocess.CalledProcessError as failed:
            return explain(failed)
        except KeyboardInterrupt:
            return "interrupted"
        finally:
            if not os.path.exists(stamp_of(folder)):  # nothing half-made stays behind that looks ready
                shutil.rmtree(folder, ignore_errors=True)
    return ""


def steps_done(folder: str, origin: dict) -> tuple:
    """Return the steps that the environment holds; none when it does not fit."""
    try:
        with open(stamp_of(folder)) as stamp:
            made = json.load(stamp)
        run([python_of(folder), "-c", ""])
    except (OSError, ValueError, subprocess.CalledProcessError):
        return ()
    fits = made["origin"] == origin and ("PYTHON" not in os.environ or made["python"] == sys.version)
    return STEPS[: STEPS.index(made["step"]) + 1] if fits else ()


def unfit() -> str:
    """Return why this Python cannot make an environment, or ""."""
    if sys.version_info < (3, 11):  # noqa: UP036
        version = ".".join(map(str, sys.version_info[:3]))
        return f"Python 3.11 or newer is needed; {sys.executable} is {version}. Name another: make PYTHON=python3.13"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as lacking:
        return f"{sys.executable} comes without {lacking.name}. On Debian and Ubuntu: apt install python3-venv"
    return ""


def explain(failed: subprocess.CalledProcessError) -> str:
    """Return what failed, why, and what to do about it."""
    if "connection broken by" not in failed.output and "No matching distribution" not in failed.output:
        return f"this failed:\n{failed.output}\n{' '.join(failed.cmd)}"
    import tomllib

    with open(PROJECT, "rb") as file:
        pyproject = tomllib.load(file)
    extras = pyproject["project"]["optional-dependencies"]
    needed = pyproject["build-system"]["requires"] + pyproject["project"]["dependencies"] + extras["mock"]
    if failed.cmd[-1] == INSTALLS["dev"][-1]:
        needed = extras["testing"] + extras["dev"]
    names = [re.split("[^A-Za-z0-9_-]", line)[0] for line in needed]
    causes = r"\[Errno [^\]]*\] [\w ]+|timed out|certificate verify failed|No matching distribution found for .*"
    reason = re.findall(causes, failed.output)[:1] or ["no reason given"]
    return (
        f"pip could not fetch the packages that are needed once ({reason[0]}):\n"
        f"  {' '.join(name for name in names if name != 'liveavatar')}\n"
        "Check the network, then try again. HTTPS_PROXY names a proxy, PIP_INDEX_URL another package index,\n"
        "PIP_FIND_LINKS a folder of wheels. Nothing was left half made."
    )


def stamp_of(folder: str) -> str:
    return os.path.join(folder, "made.json")


def python_of(folder: str) -> str:
    return os.path.join(folder, "bin", "python")


def run(command: list) -> None:
    environment = {"PIP_RETRIES": "2", **os.environ}  # pip's five take long where there is no network at all
    subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


if __name__ == "__main__":
    problem = main(*sys.argv[1:])
    sys.exit("environment: " + problem if problem else 0)
