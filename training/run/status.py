"""The names of a run's files, and the reader of its status: without torch, so that it is quick."""

import json
from pathlib import Path
from typing import Any

CONFIG, STATUS, METRICS = "config.yaml", "status.json", "metrics.jsonl"


def read_status(folder: Path) -> dict[str, Any]:
    """Return what a run's `status.json` holds; nothing if it is missing or damaged."""
    try:
        status = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}
