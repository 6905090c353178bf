"""Compare finished runs: one row per configuration, with mean and spread over its seeds.

Only figures of runs that share data, code and settings are averaged. Nothing here imports torch, so
that a hundred runs are read in about a second.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from training.cli.differences import SIGNIFICANCE, Differences, differences_to
from training.cli.runs import RunRecord
from training.errors import DataError
from training.run.figures import COLUMNS
from training.run.untrusted import printable

LAST_COLUMNS = ("ece_temperature", "refinement", "calibration", "seconds")


@dataclass(frozen=True)
class Row:
    """The runs of one configuration: they differ in nothing but the seed."""

    label: str
    runs: tuple[RunRecord, ...]
    excluded: str = ""  # why the row is shown but not compared, as in "other data"
    differences: Differences = field(default_factory=dict)  # to the baseline, by figure

    def values(self, name: str) -> dict[int, float]:
        """Return a figure by seed, for the runs that have it."""
        return {run.seed: run.figures[name] for run in self.runs if name in run.figures}

    def mean(self, name: str) -> float:
        """Return the mean over seeds, NaN if no run has the figure."""
        values = self.values(name).values()
        return fmean(values) if values else math.nan

    def spread(self, name: str) -> float | None:
        """Return the standard deviation over seeds if there are two or more, all finite."""
        values = self.values(name).values()
        return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None

    def differs(self, name: str) -> bool:
        """Say whether the difference to the baseline is larger than its noise explains."""
        return name in self.differences and self.differences[name].p < SIGNIFICANCE


@dataclass(frozen=True)
class Comparison:
    """The rows of one task, the lowest nll first, and what there is to say about them."""

    task: str
    protocol: str  # what the figures were measured on, in words
    rows: tuple[Row, ...]
    columns: tuple[str, ...]  # the figures to show
    baseline: Row | None  # of the baseline loss; if it has several, the one of the lowest val nll
    notes: tuple[str, ...]  # how to read the table, which rows won, which runs were left out
    verdict: tuple[str, ...]  # what differs from the baseline beyond noise; or why none can tell

    def best(self, name: str) -> float | None:
        """Return the best mean of a column; None if nothing in it is better or worse."""
        more_is_better = COLUMNS[name][2]
        means = [row.mean(name) for row in self.rows if not row.excluded]
        means = [mean for mean in means if math.isfinite(mean)]
        if more_is_better is None or len(means) < 2:
            return None
        return max(means) if more_is_better else min(means)


def compare(runs: Sequence[RunRecord]) -> list[Comparison]:
    """Return one comparison per task among the runs."""
    tasks = dict.fromkeys(run.task for run in runs)
    return [_compare_task([run for run in runs if run.task == task]) for task in tasks]


def _compare_task(runs: Sequence[RunRecord]) -> Comparison:
    first = runs[0]
    rows, left_out = _rows(runs)
    if not rows:
        reasons = "; ".join(left_out)
        raise DataError(f"{first.task}: none of {len(runs)} runs is complete; {reasons}")
    lowest: dict[str, Row] = {}  # of each loss the row with the lowest validation nll
    compared = [row for row in rows if not row.excluded]
    for row in sorted(compared, key=lambda row: row.mean("val_nll")):
        lowest.setdefault(row.runs[0].loss, row)
    baseline = lowest.get(first.baseline)
    legend = "mean ± standard deviation over seeds; bold: the best"
    verdict = [f"no difference can be told: no run of the baseline ({first.baseline}) is here"]
    if baseline:
        others = {row.label: row.runs for row in compared if row is not baseline}
        found, verdict = differences_to(baseline.runs, baseline.label, others)
        rows = [r if r.excluded else replace(r, differences=found.get(r.label, {})) for r in rows]
        if found:
            legend += f"; *: differs from {baseline.label} by more than the noise of seeds and test"
            legend += f" examples (p < {SIGNIFICANCE}, by Holm's method over the rows)"
    names, notes = [*first.table, *LAST_COLUMNS], [legend]
    if len(lowest) < len(compared):
        names.append("val_nll")
        notes.append(f"lowest val nll: {'; '.join(row.label for row in lowest.values())}")
    known = [name for name in dict.fromkeys(names) if name in COLUMNS]
    columns = tuple(n for n in known if not all(math.isnan(row.mean(n)) for row in rows))
    protocol = rows[0].runs[0].protocol
    in_words = (*notes, *left_out), tuple(verdict)
    return Comparison(first.task, protocol, tuple(rows), columns, baseline, *in_words)


def _rows(runs: Sequence[RunRecord]) -> tuple[list[Row], list[str]]:
    """Return a row for each configuration, and a note for each run that is left out."""
    groups: dict[tuple[str, str, str], dict[int, RunRecord]] = {}  # the runs of each row, by seed
    notes = []
    for run in runs:
        name = printable(run.folder.name)
        by_seed = groups.setdefault((run.data, run.code, run.group), {})
        if run.status != "complete":
            notes.append(f"{name}: {run.status}, left out")
        elif "nll" not in run.figures:
            notes.append(f"{name}: no figures in metrics.jsonl, left out")
        elif run.seed in by_seed:
            notes.append(f"{name}: the same seed and settings once more, left out")
        else:
            by_seed[run.seed] = run
    configurations = [tuple(by_seed.values()) for by_seed in groups.values() if by_seed]
    counts = Counter((run.data, run.code) for members in configurations for run in members)
    names = labels([members[0] for members in configurations])
    rows = []
    for label, members in zip(names, configurations, strict=True):
        (data, code), first = counts.most_common(1)[0][0], members[0]
        other = ["data"] * (first.data != data) + ["code"] * (first.code != code)
        excluded = f"other {' and '.join(other)}" if other else ""
        rows.append(Row(label, members, excluded))
    return sorted(rows, key=lambda row: (bool(row.excluded), row.mean("nll"))), notes


def labels(runs: Sequence[RunRecord]) -> list[str]:
    """Name each configuration by its loss, and by the settings in which it differs from most.

    A setting of the loss itself is named only where the same loss has several values of it.

    Args:
        runs: one of each configuration.
    """
    names = []
    for run in runs:
        parts = [run.loss]
        for key, value in run.settings.items():
            values = [other.settings.get(key) for other in runs]
            of_loss = [other.settings.get(key) for other in runs if other.loss == run.loss]
            is_rare = 2 * values.count(value) <= len(values) and not key.startswith("loss.")
            if is_rare or of_loss.count(value) < len(of_loss):
                text = value if isinstance(value, str) else json.dumps(value)
                parts.append(f"{key.split('.')[-1]}={text}")
        names.append(", ".join(parts))
    return names
