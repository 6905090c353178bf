"""What chance alone does to ECE: its value for a calibrated model, and a bootstrap interval.

Both are drawn from sums, so their cost does not grow with the data: the predictions of a cell (of a
bin, for the interval) all count with its mean confidence. What that adds to the variance of a bin's
sum is below what a thousand draws can tell.
"""

import numpy as np

from training.calibration_error import Bins, FloatArray

NUM_DRAWS = 1000


def null_correct(cells: Bins, num_bins: int, seed: int) -> FloatArray:
    """Draw how many predictions of each bin are correct if the confidences are true.

    Returns:
        (num_bins, NUM_DRAWS) counts.
    """
    generator = np.random.default_rng(seed)
    filled = cells.count > 0
    probability = np.clip(cells.confidence[filled] / cells.count[filled], 0.0, 1.0)
    draws = np.zeros((len(cells.count), NUM_DRAWS))
    # One row a cell: NumPy sets a binomial up once for equal arguments that follow each other.
    draws[filled] = generator.binomial(
        cells.count[filled, None], probability[:, None], (len(probability), NUM_DRAWS)
    )
    correct: FloatArray = draws.reshape(num_bins, -1, NUM_DRAWS).sum(1)
    return correct


def null_error(cells: Bins, num_bins: int, seed: int) -> float:
    """Return the mean ECE of a perfectly calibrated model with these confidences: ECE's floor."""
    expected = cells.coarsen(num_bins).confidence[:, None]
    gaps = np.abs(null_correct(cells, num_bins, seed) - expected)
    return float(gaps.sum(0).mean() / cells.count.sum())


def bootstrap_interval(bins: Bins, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of ECE when the predictions are drawn again with replacement.

    ECE cannot be negative, so noise lifts it, and a resample has the noise twice. The quantiles are
    therefore moved until the resamples' mean is the ECE itself. The interval says what another test
    set of this size would show; it is lifted like the ECE, so read it beside the floor.
    """
    generator = np.random.default_rng(seed)
    total = bins.count.sum()
    mean = bins.confidence / np.maximum(bins.count, 1)
    outcomes = np.concatenate([bins.correct, bins.count - bins.correct])
    draws = generator.multinomial(total, outcomes / total, NUM_DRAWS)  # (NUM_DRAWS, 2 B)
    right, wrong = np.split(draws, 2, axis=1)
    errors = np.abs(right * (mean - 1) + wrong * mean).sum(1) / total
    observed = np.abs(bins.residual).sum() / total
    low, high = np.quantile(errors, [0.025, 0.975]) - errors.mean() + observed
    return max(float(low), 0.0), min(float(high), 1.0)
