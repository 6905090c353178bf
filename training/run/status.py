"""The files of a run folder by name, and how a run stands; no torch here."""

import json
import os
from pathlib import Path
from typing import Any

CONFIG, STATUS, METRICS = "config.yaml", "status.json", "metrics.jsonl"


def read_status(folder: Path) -> dict[str, Any]:
    """Return a run's status.json; nothing where it has none that can be read."""
    try:
        status = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def from_here(path: Path) -> str:
    """Return a path as short as it can be typed."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
