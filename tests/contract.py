"""The contract, and YAML files read quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONTRACT_FILE = ROOT / "openapi" / "liveavatar.yaml"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is ten times as fast, but not everywhere


def load_yaml(source: Path | str) -> Any:
    """Return the content of a YAML file, or of a string with YAML."""
    text = source.read_text("utf-8") if isinstance(source, Path) else source
    return yaml.load(text, Loader=_Loader)


CONTRACT: dict[str, Any] = load_yaml(CONTRACT_FILE)
