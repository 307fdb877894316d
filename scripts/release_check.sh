#!/usr/bin/env bash
# What a user gets: the built distributions, looked into, installed in a clean environment and run from there.
#   scripts/release_check.sh PYTHON_OF_THE_ENVIRONMENT     (the files are in dist/)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dist=$PWD/dist
unset LIVEAVATAR_API_KEY LIVEAVATAR_BASE_URL PYTHONPATH

echo "metadata:"
"$1" -m twine check --strict "$dist"/*

echo "contents:"
"$1" - "$dist" <<'PYTHON'
import sys, tarfile, zipfile
from pathlib import Path

(wheel,), (sdist,) = (list(Path(sys.argv[1]).glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
names = zipfile.ZipFile(wheel).namelist()
tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
assert tops == {"liveavatar", "liveavatar_client"}, tops
for wanted in ("liveavatar/py.typed", "liveavatar_client/py.typed", "liveavatar_client/openapi.yaml",
               "liveavatar/mock/_page.html", "liveavatar/cli/__init__.py"):
    assert wanted in names, f"{wanted} is not in the wheel"
sources = {name.split("/", 1)[1] for name in tarfile.open(sdist).getnames() if "/" in name}
for wanted in ("openapi/liveavatar.yaml", "Makefile", "README.md", "LICENSE", "tests/conftest.py"):
    assert wanted in sources, f"{wanted} is not in the sdist"
print(f"{wheel.name}: {len(names)} files; {sdist.name}: {len(sources)} files")
PYTHON

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" # from here on nothing of the checkout can be imported by accident
"${PYTHON:-python3}" -m venv wheel
try() { wheel/bin/python "$@"; }
refused() { # a command that is to end with 2, for it lacks an extra
  local code=0
  try "$@" || code=$?
  [ "$code" = 2 ] || { echo "'$*' of the bare wheel should say what to install and end with 2, not with $code"; exit 1; }
}

echo "the wheel alone:"
try -m pip install --quiet --disable-pip-version-check "$dist"/*.whl
try -m pip list --disable-pip-version-check --format=freeze
try -W error -c '
import liveavatar, liveavatar_client
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi
print("liveavatar", liveavatar.__version__, "imports from", liveavatar.__file__)'
refused -m liveavatar.demo
refused -m liveavatar --help

echo "the wheel with its extras:"
try -m pip install --quiet --disable-pip-version-check "$(echo "$dist"/*.whl)[cli,mock]"
try -W error -m liveavatar.demo
wheel/bin/liveavatar --version
echo "the release stands"
