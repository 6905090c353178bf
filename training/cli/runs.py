"""Read runs back for a comparison: what each is, its figures and its curves."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_origin

from training.errors import DataError
from training.run.folder import METRICS, STATUS, Curves, read_curves, read_status
from training.run.untrusted import is_plain, refuse_links

Figures = dict[str, float]


@dataclass(frozen=True)
class RunRecord:
    """A run read back from its folder."""

    folder: Path
    status: str
    figures: Figures  # of the test split, and what the run cost
    curves: Curves
    # the entry `run` of its status.json: what the run is
    task: str
    loss: str
    baseline: str  # the loss that the others are compared with
    seed: int
    group: str  # the same for runs that differ in nothing but the seed
    data: str  # digest of the examples
    code: str  # digest of the source
    protocol: str  # what the figures were measured on, in words
    table: list[str]  # the figures that the task shows
    settings: dict[str, Any]
    block_rows: int = 1  # consecutive test rows that are one draw of chance


def find_runs(paths: Iterable[str | Path]) -> list[RunRecord]:
    """Return the runs in these folders, each a run or a folder of runs."""
    folders: dict[Path, None] = {}  # in order, each once
    for path in map(Path, paths):
        found = [path]
        if not (path / STATUS).is_file():
            # a job of a sweep may have failed, or stand, before it knew what it trains on
            jobs = read_jobs(path).items()
            found = [f for f, s in jobs if "run" in s or s.get("status") in (None, "complete")]
        if not found:
            raise DataError(f"{path}: holds no run to compare; give folders from outputs/")
        folders |= dict.fromkeys(found)
    return [read_run(folder) for folder in folders]


def read_jobs(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return how each job in the folder of a sweep stands: what its status.json says."""
    return {file.parent: read_status(file.parent) for file in sorted(folder.glob(f"*/{STATUS}"))}


def last_step(folder: Path) -> int:
    """Return the last step that a run has logged; it need not have ended."""
    file = folder / METRICS
    text = file.read_text(encoding="utf-8", errors="replace") if is_plain(file) else ""
    return int(re.findall(r'^{"step": (\d+),', f'{{"step": 0,\n{text}', re.MULTILINE)[-1])


def read_run(folder: Path) -> RunRecord:
    """Return the run in a folder; one that was stopped has the figures it came to."""
    refuse_links(folder)
    status = read_status(folder)
    try:
        curves = read_curves(folder)
        run = RunRecord(folder, status["status"], last_figures(curves), curves, **status["run"])
        for field in fields(run):
            kind: Any = get_origin(field.type) or field.type
            if not isinstance(getattr(run, field.name), kind):
                raise TypeError(f"{field.name} is no {kind.__name__}")
        if not all(isinstance(name, str) for name in run.table) or run.block_rows < 1:
            raise ValueError("table holds no names, or block_rows is below 1")
        return run
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder}: cannot be read as a run ({error!r}): it is damaged, or older than this"
            " program; leave it out"
        ) from error


def last_figures(curves: Curves) -> Figures:
    """Return the last figures of the test split, and what the run cost.

    A run without a test split has those of val, or else of train. `refinement` is the nll with the
    fitted temperature, and `calibration` is what that temperature mends: they sum to nll.
    """

    def last(split: str) -> Figures:
        tags = [tag for tag in curves if tag.startswith(f"{split}/")]
        return {tag.removeprefix(f"{split}/"): curves[tag][-1][1] for tag in tags}

    figures = next((f for f in map(last, ("test", "val", "train")) if "nll" in f), {})
    if "accuracy" in figures:
        figures["error"] = 1 - figures["accuracy"]
    if "nll_temperature" in figures:
        figures["refinement"] = figures["nll_temperature"]
        figures["calibration"] = figures["nll"] - figures["nll_temperature"]
    if held_out := curves.get("val/nll"):
        figures["val_nll"] = min(value for _, value in held_out)
    return figures | last("time")
