"""Finished runs side by side: a row a configuration, mean and spread over its seeds.

Only figures of runs that share data, code and settings are averaged. No torch here: a hundred runs
are read in about a second.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from training.errors import DataError
from training.run.figures import COLUMNS
from training.run.status import STATUS

Figures = dict[str, float]
AFTER = ("ece_temperature", "nll_temperature", "seconds")
KEYS = (
    "task",
    "loss",
    "baseline",
    "seed",
    "group",
    "data",
    "code",
    "protocol",
    "table",
    "settings",
)
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Run:
    """A run read back from `run.json`, `status.json` and `metrics.jsonl`."""

    folder: Path
    identity: dict[str, Any]
    status: str
    figures: Figures  # of the test split, and what the run cost
    curves: dict[str, list[tuple[int, float]]]  # tag: (step, value)

    @property
    def context(self) -> tuple[str, str, str]:
        """What has to be the same for two figures to mean the same: task, data, code."""
        return self.identity["task"], self.identity["data"], self.identity["code"]


@dataclass(frozen=True)
class Row:
    """The runs of one configuration: they differ in nothing but the seed."""

    label: str
    runs: tuple[Run, ...]
    mark: str = ""  # why it is not compared with the others

    def values(self, name: str) -> dict[int, float]:
        """Return a figure of each seed that has it."""
        return {r.identity["seed"]: r.figures[name] for r in self.runs if name in r.figures}

    def mean(self, name: str) -> float:
        """Return the mean over seeds, NaN where no run has the figure."""
        return fmean(values) if (values := self.values(name).values()) else math.nan

    def spread(self, name: str) -> float | None:
        """Return the standard deviation over seeds, if there are two and all are finite."""
        values = self.values(name).values()
        return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


@dataclass(frozen=True)
class Comparison:
    """The rows of one task, the best first, and what was left out of them."""

    task: str
    protocol: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def columns(self) -> list[str]:
        """The figures to show, as the runs' own table has them."""
        table = [*self.rows[0].runs[0].identity["table"], *AFTER]
        if len({row.runs[0].identity["loss"] for row in self.rows}) < len(self.rows):
            table.append("val_nll")  # what chooses between configurations of a loss
        shown = dict.fromkeys(name for name in table if name in COLUMNS)
        return [n for n in shown if any(n in run.figures for row in self.rows for run in row.runs)]

    @cached_property
    def compared(self) -> list[Row]:
        """The rows that may be compared."""
        return [row for row in self.rows if not row.mark]

    @cached_property
    def baseline(self) -> Row | None:
        """The row of the baseline loss; of several the one with the lowest validation nll."""
        one = self.rows[0].runs[0].identity["baseline"]
        rows = [row for row in self.compared if row.runs[0].identity["loss"] == one]
        return min(rows, key=lambda row: row.mean("val_nll"), default=None)

    def best(self, name: str) -> float | None:
        """Return the best mean of a column, if it has one."""
        larger = COLUMNS[name][2]
        means = [m for row in self.compared if math.isfinite(m := row.mean(name))]
        if larger is None or len(means) < 2:
            return None
        return max(means) if larger else min(means)

    def differs(self, row: Row, name: str) -> bool:
        """Say whether the row's difference to the baseline is beyond what the seeds explain."""
        if row.mark or self.baseline in (None, row) or COLUMNS[name][2] is None:
            return False
        return p_value(self.baseline.values(name), row.values(name)) < SIGNIFICANCE


def p_value(a: dict[int, float], b: dict[int, float]) -> float:
    """Return the two-sided p-value of the paired t-test of two figures by seed; 1 if it has none.

    Student 1908, https://doi.org/10.1093/biomet/6.1.1; the seeds share initial weights and data
    order, so the differences are of the losses alone.
    """
    from scipy.special import stdtr  # scipy.stats takes a second to import

    differences = [b[seed] - a[seed] for seed in sorted(a.keys() & b.keys())]
    n = len(differences)
    if n < 2 or not any(differences) or not all(map(math.isfinite, differences)):
        return 1.0
    error = stdev(differences) / math.sqrt(n)
    return 2 * float(stdtr(n - 1, -abs(fmean(differences)) / error)) if error else 0.0


def find_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Return the runs in these folders, each a run or a folder of runs."""
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        found = (
            [path]
            if (path / STATUS).is_file()
            else sorted(file.parent for file in path.glob(f"*/{STATUS}"))
        )
        if not found:
            raise DataError(f"{path}: holds no run ({STATUS}); give folders from outputs/")
        folders |= dict.fromkeys(found)
    return [read_run(folder) for folder in folders]


def read_run(folder: Path) -> Run:
    """Return the run in a folder; one that was stopped has the figures it came to."""
    try:
        status = json.loads((folder / STATUS).read_text(encoding="utf-8"))
        identity = {name: status["run"][name] for name in KEYS}
        lines = list(_lines(folder / "metrics.jsonl"))
        curves: dict[str, list[tuple[int, float]]] = {}
        for line in lines:
            for name, value in line.items():
                if name not in ("step", "split"):
                    curves.setdefault(f"{line['split']}/{name}", []).append((line["step"], value))
        return Run(folder, identity, status["status"], figures(curves), curves)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: cannot be read as a run ({error!r})") from error


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of metrics.jsonl; a last one may be half written."""
    if file.exists():
        for line in file.read_text(encoding="utf-8").split("\n"):
            if line.endswith("}"):
                yield json.loads(line)


def figures(curves: dict[str, list[tuple[int, float]]]) -> Figures:
    """Return the last figures of the test split, or of the one that stands in for it, and costs."""

    def last(split: str) -> Figures:
        tags = (tag for tag in curves if tag.startswith(f"{split}/"))
        return {tag.removeprefix(f"{split}/"): curves[tag][-1][1] for tag in tags}

    found = next((f for split in ("test", "val", "train") if "nll" in (f := last(split))), {})
    if "accuracy" in found:
        found["error"] = 1 - found["accuracy"]
    if held_out := curves.get("val/nll"):
        found["val_nll"] = min(value for _, value in held_out)
    return found | last("time")


def compare(runs: Iterable[Run]) -> list[Comparison]:
    """Return a comparison for each task among the runs."""
    runs = list(runs)
    tasks = dict.fromkeys(run.identity["task"] for run in runs)
    return [_compare_task(task, [r for r in runs if r.identity["task"] == task]) for task in tasks]


def _compare_task(task: str, runs: list[Run]) -> Comparison:
    done = [run for run in runs if run.status == "complete" and "nll" in run.figures]
    why = {"complete": "no figures in metrics.jsonl", "": "no status"}
    notes = [
        f"{r.folder.name}: {why.get(r.status, r.status)}, left out" for r in runs if r not in done
    ]
    if not done:
        raise DataError(f"{task}: none of {len(runs)} runs is complete; {'; '.join(notes)}")
    reference = Counter(run.context for run in done).most_common(1)[0][0]
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in done:
        key = (run.context, run.identity["group"])
        twins = [r.identity["seed"] for r in groups.setdefault(key, [])]
        if run.identity["seed"] in twins:
            notes.append(f"{run.folder.name}: the same seed and settings once more, left out")
        else:
            groups[key].append(run)
    names = labels([group[0].identity for group in groups.values()])
    rows = []
    for name, ((context, _), group) in zip(names, groups.items(), strict=True):
        same = [a == b for a, b in zip(context, reference, strict=True)]
        mark = " and ".join(
            what for what, ok in zip(("", "data", "code"), same, strict=True) if not ok
        )
        rows.append(Row(name, tuple(group), f"other {mark}" if mark else ""))
    rows.sort(key=lambda row: (bool(row.mark), row.mean("nll")))
    return Comparison(task, rows[0].runs[0].identity["protocol"], tuple(rows), tuple(notes))


def labels(identities: list[dict[str, Any]]) -> list[str]:
    """Name each configuration: its loss, and the settings in which it differs from most others.

    A loss's own settings are named where the same loss has others, too.
    """
    named = []
    for one in identities:
        parts = [one["loss"]]
        for key, value in one["settings"].items():
            own = key.startswith("loss.")
            everyone = Counter(json.dumps(o["settings"].get(key)) for o in identities)
            twins = {
                json.dumps(o["settings"].get(key)) for o in identities if o["loss"] == one["loss"]
            }
            unusual = not own and everyone[json.dumps(value)] * 2 <= len(identities)
            if len(twins) > 1 or unusual:
                parts.append(f"{key.rsplit('.', 1)[-1]}={_plain(value)}")
        named.append(", ".join(parts))
    return named


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
