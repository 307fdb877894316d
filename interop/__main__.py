"""``python -m interop``: run every operation and print the table."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence

COLUMNS = ("client", "operation", "requests", "left", "verdict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operations whose client or name contains a word, and return 1 when one does not work."""
    parser = argparse.ArgumentParser(prog="python -m interop", description=__doc__)
    parser.add_argument("word", nargs="?", default="", help="run only operations whose client or name contains it")
    parser.add_argument("--details", action="store_true", help="print tracebacks and the clients' own logs")
    options = parser.parse_args(arguments)
    quieten(options.details)

    from . import adapters, published, raw, web_sdk  # noqa: F401, importing registers the operations
    from .operations import REGISTRY, perform

    word = options.word.lower()
    chosen = [each for each in REGISTRY if word in f"{each.client} {each.name}".lower()]
    outcomes = [perform(each, details=options.details) for each in chosen]
    rows = [COLUMNS]
    for outcome in outcomes:
        requests = " ".join(f"{name}={count}" for name, count in outcome.requests.items() if count) or "none"
        operation = outcome.operation
        rows.append((operation.client, operation.name, requests, str(outcome.left_running), outcome.verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    for row in rows:
        print("  ".join([*map(str.ljust, row, widths), row[-1]]))
    failed = [outcome for outcome in outcomes if not outcome.passed]
    faults = [outcome for outcome in outcomes if outcome.operation.fault and outcome.passed]
    print(f"{len(outcomes)} operations: {len(failed)} fail, {len(faults)} show faults of the clients themselves")
    for line in web_sdk.skipped():
        print(line)
    return 1 if failed or not outcomes else 0


def quieten(details: bool) -> None:
    """Silence the logs and warnings of the clients; several of them log tokens."""
    warnings.simplefilter("ignore")
    if not details:
        logging.disable(logging.CRITICAL)
        from loguru import logger

        logger.remove()


if __name__ == "__main__":
    sys.exit(main())
