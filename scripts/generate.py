"""Generate the client from the contract; with --check, only say whether that would change anything.

    python scripts/generate.py [--check] [--contract FILE] [--output FOLDER]

The client is made in a scratch folder first. So a failed run changes nothing, and files of things that are no
longer in the contract do not survive.
"""

import argparse
import difflib
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
Tree = dict[Path, str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the client from the contract.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail and print the difference, if any")
    parser.add_argument("--contract", type=Path, default=ROOT / "openapi" / "liveavatar.yaml")
    parser.add_argument("--output", type=Path, default=ROOT / "liveavatar_client")
    options = parser.parse_args()

    with TemporaryDirectory() as scratch:
        package = Path(scratch) / "liveavatar_client"
        generate(options.contract.resolve(), package)
        new = read(package)
    old = read(options.output)
    if options.check:
        check(old, new, options.output.name)
    else:
        write(old, new, options.output)


def generate(contract: Path, package: Path) -> None:
    """Run the generator, with this Python environment's tools, into a folder that does not exist yet."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "CONTRACT": str(contract),
        "FINISH_CLIENT": str(ROOT / "scripts" / "finish_client.py"),
    }
    command = [
        sys.executable,
        "-m",
        "openapi_python_client",
        "generate",
        "--meta",
        "none",
        "--fail-on-warning",
    ]
    command += ["--config", str(ROOT / "generator-config.yml")]
    command += ["--path", str(contract), "--output-path", str(package)]
    run = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode:
        sys.exit(f"{run.stdout}\ngenerate: the generator stopped; nothing was changed.")


def read(folder: Path) -> Tree:
    """Return the text of each file in a folder, without what Python caches there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder): path.read_text("utf-8") for path in files}


def write(old: Tree, new: Tree, folder: Path) -> None:
    for path in sorted(old.keys() - new.keys()):
        (folder / path).unlink()
        print(f"removed  {folder.name}/{path}")
    for path, text in new.items():
        if old.get(path) != text:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, "utf-8", newline="\n")
            print(f"{'changed' if path in old else 'new':<8} {folder.name}/{path}")
    print(f"{folder.name}: {len(new)} files{', none changed' if old == new else ''}")


def check(old: Tree, new: Tree, name: str) -> None:
    for path in sorted(old.keys() | new.keys()):
        have, want = (tree.get(path, "").splitlines(keepends=True) for tree in (old, new))
        sys.stdout.writelines(difflib.unified_diff(have, want, f"{name}/{path}", f"generated/{path}"))
    if old != new:
        sys.exit(f"generate: {name} is not what the contract gives; run `make generate`.")


if __name__ == "__main__":
    main()
