"""Sweeps drawn at random: how often intervals cover the truth, and how often stars are false.

python tests/stress/null_sweeps.py [--sweeps 1000]

A difference of row i and seed s is drawn as m + a_s + b_i + c_si: noise of seeds, of test rows, and
of both together. The three regimes say which part of the mean's variance is how large. Exits with
1 where a figure is outside of what docs/results.md promises.
"""

import argparse
import sys
from collections.abc import Iterator

import numpy as np
from scipy.stats import ttest_rel

from training.cli.differences import SIGNIFICANCE, difference, ece_parts, holm

ROWS = {1: 360, 100: 2200}  # test rows by rows per block: images, and tokens of a text
REGIMES = {  # variance of the mean by seeds, by the test split, by both together
    "seeds dominate": (1.0, 0.03, 0.03),
    "test split dominates": (0.03, 1.0, 0.3),
    "both": (1.0, 1.0, 0.3),
}
NUM_ROWS = 10  # of a table, with the baseline


def sweep(rng, parts, num_seeds: int, block_rows: int) -> np.ndarray:
    """Return differences (S, N) whose true mean is 0 and whose mean has the variance sum(parts)."""
    num_rows = ROWS[block_rows]
    num_blocks = num_rows // block_rows
    by_seed, by_rows, by_both = np.sqrt(parts)
    seeds = rng.normal(0, by_seed * num_seeds**0.5, (num_seeds, 1))
    blocks = rng.normal(0, by_rows * num_blocks**0.5, num_blocks)
    both = rng.normal(0, by_both * (num_seeds * num_blocks) ** 0.5, (num_seeds, num_blocks))
    noise = rng.normal(0, 1, (num_seeds, num_rows)) if block_rows > 1 else 0.0  # within a block
    return seeds + np.repeat(blocks + both, block_rows, axis=1) + noise


def coverage(rng, num_sweeps: int) -> Iterator[tuple[str, float, bool]]:
    """Yield how many intervals hold the truth, for each regime, number of seeds and block size."""
    for name, parts in REGIMES.items():
        for num_seeds in (3, 5):
            for block_rows in ROWS:
                found = [
                    difference(sweep(rng, parts, num_seeds, block_rows), block_rows)
                    for _ in range(num_sweeps)
                ]
                held = np.mean([low <= 0 <= high for low, high in (d.interval() for d in found)])
                what = f"coverage, {name}, {num_seeds} seeds, blocks of {block_rows}"
                yield what, held, 0.93 <= held <= 0.99


def false_stars(rng, num_sweeps: int) -> Iterator[tuple[str, float, bool]]:
    """Yield in how many tables of ten equal configurations some row has a star.

    The rows share the baseline, so that their differences depend on each other.
    """
    for name, parts in REGIMES.items():
        for num_seeds in (3, 5):
            starred = 0
            for _ in range(num_sweeps):
                base, *rows = (sweep(rng, parts, num_seeds, 1) for _ in range(NUM_ROWS))
                starred += any(
                    d.p < SIGNIFICANCE for d in holm([difference(r - base) for r in rows])
                )
            share = starred / num_sweeps
            yield f"tables with a false star, {name}, {num_seeds} seeds", share, share <= 0.05


def false_stars_of_classifiers(rng, num_sweeps: int) -> Iterator[tuple[str, float, bool]]:
    """Yield the same for nll, accuracy and ECE of ten calibrated classifiers of 360 images.

    Each image has a difficulty, and each run adds its own noise to it.
    """
    for num_seeds in (3, 5):
        starred = dict.fromkeys(("nll", "accuracy", "ECE", "any of the three"), 0)
        for _ in range(num_sweeps):
            shape = (NUM_ROWS, num_seeds, 360)
            ease = rng.normal(2.5, 1.5, 360) + rng.normal(0, 0.3, (*shape[:2], 1))
            confidence = 1 / (1 + np.exp(-np.abs(ease + rng.normal(0, 0.7, shape))))
            correct = rng.random(shape) < confidence
            nll = -np.log(np.where(correct, confidence, 1 - confidence))
            tables = np.stack([nll, correct, confidence], -1)
            figures = {"nll": nll, "accuracy": correct.astype(float)}
            figures["ECE"] = np.array([[ece_parts(run) for run in row] for row in tables])
            some = False
            for figure, values in figures.items():
                found = holm([difference(row - values[0]) for row in values[1:]])
                star = any(each.p < SIGNIFICANCE for each in found)
                starred[figure] += star
                some |= star
            starred["any of the three"] += some
        for figure, number in starred.items():
            what = f"tables of classifiers with a false star, {figure}, {num_seeds} seeds"
            yield what, number / num_sweeps, number <= 0.05 * num_sweeps


def smallest(rng, num_sweeps: int) -> Iterator[tuple[str, float, bool]]:
    """Yield how often the smallest difference that is said to be found is found."""
    for name, parts in REGIMES.items():
        sizes = [difference(sweep(rng, parts, 5, 1)).smallest() for _ in range(num_sweeps)]
        size = float(np.median(sizes))
        found = np.mean(
            [difference(sweep(rng, parts, 5, 1) + size).p < 0.05 for _ in range(num_sweeps)]
        )
        yield f"differences found, {name}, 5 seeds", found, 0.65 <= found <= 0.95


def t_tests(rng) -> Iterator[tuple[str, float, bool]]:
    """Yield how far p-values are from SciPy's paired t-test without noise of the test split."""
    for num_seeds in (3, 5):
        off = 0.0
        for _ in range(100):
            a, b = rng.normal(size=(2, num_seeds))
            p = difference(np.repeat((b - a)[:, None], 360, 1)).p
            off = max(off, abs(p / ttest_rel(b, a).pvalue - 1))
        yield f"largest relative distance to SciPy's p, {num_seeds} seeds", off, off < 1e-6


def main() -> None:
    """Draw, print a line per figure, and exit with 1 if one is not as promised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=1000)
    num_sweeps = parser.parse_args().sweeps
    rng = np.random.default_rng(0)
    bad = 0
    parts = (coverage, false_stars, false_stars_of_classifiers, smallest)
    for lines in [*(part(rng, num_sweeps) for part in parts), t_tests(rng)]:
        for what, figure, is_good in lines:
            print(f"{'ok ' if is_good else 'BAD'} {figure:8.3g}  {what}", flush=True)
            bad += not is_good
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
