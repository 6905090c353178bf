"""The difference between two configurations, paired by example and by seed, and its interval.

docs/results.md has the formula, and what simulations say of it; `tests/stress/null_sweeps.py`
repeats them. S seeds, N test rows, B blocks of them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import

from training.cli.runs import RunRecord
from training.run.examples import EXAMPLES, read_examples
from training.run.figures import COLUMNS

FloatArray = NDArray[np.float64]

LEAST = 3  # seeds, and blocks: two are alike by chance too often
SIGNIFICANCE = 0.05
NUM_BINS = 15  # of ECE


@dataclass(frozen=True)
class Difference:
    """A difference of means, and what chance makes of it."""

    mean: float
    errors: tuple[tuple[float, float], ...]  # standard errors, each with its degrees of freedom
    p: float  # two-sided; Holm's, once it is one of several
    num_rows: int = 1  # of the table in which it is one of several

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of this difference alone."""
        half = self._largest_error(1 - SIGNIFICANCE / 2)
        return self.mean - half, self.mean + half

    def smallest(self) -> float:
        """Return the smallest true difference that would have been found 4 times in 5."""
        # the level of the first row that Holm's method finds
        first = self._largest_error(1 - SIGNIFICANCE / 2 / self.num_rows)
        return first + self._largest_error(0.8)

    def _largest_error(self, level: float) -> float:
        return max((float(stdtrit(f, level)) * error for error, f in self.errors), default=0.0)


def difference(values: FloatArray, block_rows: int = 1) -> Difference | None:
    """Return the mean of paired differences (S, N), with the noise of seeds and of the test split.

    The variance is V = V_s + V_b: V_s = variance of the S means over rows / S, and for the means
    over seeds, summed about the mean m in blocks, V_b = B / (B - 1) sum_b u_b^2 / N^2. Its degrees
    of freedom are V^2 / (V_s^2 / (S - 1) + V_b^2 / (B - 1)) (Satterthwaite 1946,
    https://doi.org/10.2307/3002019). Three seeds can agree by chance, which makes V_s too small and
    these too many; so the interval is never shorter, and p never lower, than by V_s alone with
    S - 1 degrees of freedom, which is the paired t-test.

    Args:
        values: one row per seed; NaN where a test row is not scored.
        block_rows: how many consecutive test rows are one draw of chance.

    Returns:
        The difference; None where there are fewer than three seeds or blocks.
    """
    scored = ~np.isnan(values).any(0)
    starts = np.arange(0, values.shape[1], block_rows)
    counts = np.add.reduceat(scored, starts, dtype=np.int64)
    num_seeds, num_blocks, n = len(values), int((counts > 0).sum()), int(counts.sum())
    if min(num_seeds, num_blocks) < LEAST:
        return None
    of_seeds = values[:, scored].mean(1)
    mean = float(of_seeds.mean())
    sums = np.add.reduceat(np.where(scored, values.mean(0) - mean, 0.0), starts)
    seeds = float(of_seeds.var(ddof=1)) / num_seeds
    blocks = float(np.square(sums).sum()) / n**2 * num_blocks / (num_blocks - 1)
    both = seeds + blocks
    errors = [(math.sqrt(seeds), num_seeds - 1.0)] if seeds else []
    if both:  # else it is the same run twice
        freedom = both**2 / (seeds**2 / (num_seeds - 1) + blocks**2 / (num_blocks - 1))
        errors.insert(0, (math.sqrt(both), freedom))
    p = max((2 * float(stdtr(f, -abs(mean) / error)) for error, f in errors), default=1.0)
    return Difference(mean, tuple(errors), p)


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """Return differences that are tested together, with the p-values that Holm's method gives them.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none falls below the one
    before. Holm 1979, https://www.jstor.org/stable/4615733
    """
    m, last = len(differences), 0.0
    adjusted = list(differences)
    for rank, i in enumerate(sorted(range(m), key=lambda i: differences[i].p)):
        last = max(last, min(1.0, (m - rank) * differences[i].p))
        adjusted[i] = replace(differences[i], p=last, num_rows=m)
    return adjusted


def bins_of(confidence: FloatArray) -> NDArray[np.int64]:
    """Return the bin (N,) of each confidence (N,); an inner edge belongs to the bin below it."""
    bins = np.ceil(confidence * NUM_BINS - 1e-6) - 1
    return np.clip(bins, 0, NUM_BINS - 1).astype(np.int64)


def ece_parts(table: FloatArray) -> FloatArray:
    """Return numbers (N,) whose mean is the ECE: confidence minus correctness, or the negative.

    The sign is that of the gap of the row's bin. It is taken as given, so that the interval of a
    difference is a little too wide where a gap is near zero.
    """
    residual = table[:, 2] - table[:, 1]
    confidence, weights = np.nan_to_num(table[:, 2]), np.nan_to_num(residual)  # 0: not scored
    bins = bins_of(confidence)
    gaps = np.bincount(bins, weights, NUM_BINS)
    return residual * np.sign(gaps)[bins]


Differences = dict[str, Difference]  # by figure
# figures that have a value for each row (N,) of a run's table of examples (N, 3)
MEASURED: dict[str, Callable[[FloatArray], FloatArray]] = {
    "nll": lambda table: table[:, 0],
    "accuracy": lambda table: table[:, 1],
    "ece": ece_parts,
}
UNITS = {"nll": " nats", "accuracy": " points", "ece": ""}


def differences_to(
    baseline: Sequence[RunRecord], label: str, rows: Mapping[str, Sequence[RunRecord]]
) -> tuple[dict[str, Differences], list[str]]:
    """Return the differences of rows of runs to the baseline's, and the verdict on them in words.

    Args:
        baseline: its runs, one per seed.
        label: what the baseline is called.
        rows: the runs of each other row, by its label.
    """
    base = {run.seed: read_examples(run.folder) for run in baseline}
    found: dict[str, Differences] = {}
    untold: dict[str, list[str]] = {}  # labels by the reason why nothing can be said of them
    for name, runs in rows.items():
        pairs = [(base[run.seed], read_examples(run.folder)) for run in runs if run.seed in base]
        tables = [np.asarray(t, np.float64) for pair in pairs for t in pair if t is not None]
        if len(pairs) < LEAST:
            reason = f"fewer than {LEAST} seeds in common with {label}, and two are alike by chance"
            reason += " too often to tell how much seeds matter (give seed=1,2,3)"
        elif len(tables) < 2 * len(pairs) or len({len(table) for table in tables}) > 1:
            reason = f"its runs and {label}'s do not all have the same test rows in {EXAMPLES}"
        else:
            found[name] = _differences(tables[::2], tables[1::2], baseline[0].block_rows)
            reason = "" if found[name] else f"the test split has fewer than {LEAST} blocks of rows"
        if reason:
            untold.setdefault(reason, []).append(name)
    for figure in MEASURED:
        tested = [each for each in found.values() if figure in each]
        adjusted = holm([each[figure] for each in tested])
        for each, result in zip(tested, adjusted, strict=True):
            each[figure] = result
    verdict = [*_beyond_noise(found, label, len(base))]
    for reason, names in untold.items():
        which = "" if len(names) == len(rows) else f"of {'; '.join(names)} "
        verdict.append(f"no difference {which}can be told from noise: {reason}")
    return found, verdict or [f"there is nothing to hold against {label}"]


def _beyond_noise(found: Mapping[str, Differences], label: str, num_seeds: int) -> Iterator[str]:
    """Yield what differs from the baseline, the most first, and how little could have been seen."""
    smallest = []
    for figure, unit in UNITS.items():
        heading, form, more_is_better = COLUMNS[figure]
        tested = {name: each[figure] for name, each in found.items() if figure in each}
        real = [(each.mean, name) for name, each in tested.items() if each.p < SIGNIFICANCE]
        for word in ("better", "worse"):
            is_more = (word == "better") == more_is_better
            sizes = sorted([(abs(m), n) for m, n in real if (m > 0) == is_more], reverse=True)
            shown = [f"{name} by {form.format(size).rstrip('%')}" for size, name in sizes]
            if shown:
                yield f"{word} than {label} beyond noise, in {heading}: {'; '.join(shown)}{unit}"
        largest = math.inf if figure == "nll" else 1.0  # by which two shares can differ
        seen = (min(each.smallest(), largest) for each in tested.values())
        if least := sorted(filter(None, seen)):  # 0: its runs are the baseline's, bit for bit
            ends = dict.fromkeys(form.format(size).rstrip("%") for size in (least[0], least[-1]))
            smallest.append(f"{heading} {' to '.join(ends)}{unit}")
    if any(found.values()):
        power = "what they would show 4 times in 5, from the steadiest row to the least steady"
        nothing = f"nothing else that could be tested differs beyond noise with {num_seeds} seeds"
        yield f"{nothing}; {power}: {', '.join(smallest)}" if smallest else nothing


def _differences(a: Sequence[FloatArray], b: Sequence[FloatArray], block_rows: int) -> Differences:
    """Return b - a of each figure that is finite, from tables paired by seed."""
    found = {}
    for figure, of_rows in MEASURED.items():
        old, new = (np.stack([of_rows(table) for table in tables]) for tables in (a, b))
        if not np.isinf([old, new]).any() and (each := difference(new - old, block_rows)):
            found[figure] = each
    return found
