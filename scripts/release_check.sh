#!/usr/bin/env bash
# Check the files in dist/ as a user gets them: read their metadata and contents, install the wheel in a clean
# environment, run it there, and describe what was installed in build/sbom.json (CycloneDX).
#
#   scripts/release_check.sh BIN    BIN is the bin folder of an environment with twine and cyclonedx-bom.
set -euo pipefail
bin=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
project=$PWD
dist=$project/dist
unset LIVEAVATAR_API_KEY LIVEAVATAR_BASE_URL PYTHONPATH

echo "Metadata:"
"$bin/twine" check --strict "$dist"/*

echo "Contents:"
"$bin/python" - "$dist" <<'PYTHON'
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
for wanted in ("openapi/liveavatar.yaml", "Makefile", "constraints.txt", "README.md", "LICENSE", "tests/conftest.py"):
    assert wanted in sources, f"{wanted} is not in the sdist"
print(f"{wheel.name}: {len(names)} files; {sdist.name}: {len(sources)} files")
PYTHON

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" # so that nothing is imported from the checkout by accident
"${PYTHON:-python3}" -m venv --without-pip wheel # so that the SBOM lists what the wheel needs and no more
try() { wheel/bin/python "$@"; }
pip() { "$bin/python" -m pip --disable-pip-version-check --python wheel/bin/python "$@"; }
fails_without_extra() { # the command needs an extra and must exit with 2
  local code=0
  try "$@" || code=$?
  [ "$code" = 2 ] || { echo "'$*' of the bare wheel should name the extra to install and exit with 2, not $code"; exit 1; }
}

echo "The wheel alone:"
pip install --quiet "$dist"/*.whl
pip list --format=freeze
try -W error -c '
import liveavatar, liveavatar_client
from liveavatar import AsyncLiveAvatarApi, LiveAvatarApi
print("liveavatar", liveavatar.__version__, "imports from", liveavatar.__file__)'
fails_without_extra -m liveavatar.demo
fails_without_extra -m liveavatar --help

mkdir -p "$project/build"
"$bin/cyclonedx-py" environment --output-reproducible --output-file "$project/build/sbom.json" wheel/bin/python
"$bin/python" - "$project/build/sbom.json" <<'PYTHON'
import json, sys

bom = json.load(open(sys.argv[1], encoding="utf-8"))
needs = {each["ref"].split("==")[0]: each.get("dependsOn", []) for each in bom["dependencies"]}
for wanted in ("aiohttp", "attrs", "httpcore", "httpx"):
    assert any(ref.startswith(f"{wanted}==") for ref in needs["liveavatar"]), f"{wanted} is not in the SBOM"
print(f"build/sbom.json: {len(bom['components'])} components")
PYTHON

echo "The wheel with its extras:"
pip install --quiet "$(echo "$dist"/*.whl)[cli,mock]"
try -W error -m liveavatar.demo
wheel/bin/liveavatar --version
echo "The release check passed."
