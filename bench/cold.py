"""From a new interpreter to the first closed session: `python -m bench.cold CLIENT BASE`."""

from __future__ import annotations

import sys

from bench.clients import BLOCKING

with BLOCKING[sys.argv[1]](sys.argv[2]) as cycle:
    cycle()
