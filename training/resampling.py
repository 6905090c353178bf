"""What chance alone does to ECE: its value for a calibrated model, and a bootstrap interval.

Both are drawn from sums, so their cost does not grow with the data: the predictions of a cell (of a
bin, for the interval) all count with its mean confidence. What that adds to the variance of a bin's
sum is below what a thousand draws can tell.
"""

import math

import numpy as np

from training.calibration_error import Bins, FloatArray

NUM_DRAWS = 500


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


def null_error(bins: Bins, parts: Bins) -> float:
    """Return the mean ECE of a perfectly calibrated model with these confidences: ECE's floor.

    That is the mean over all labels that the confidences could draw, `sum_b E|n_b - E n_b| / N` for
    the number of correct ones n_b. For n equal confidences p, de Moivre (1730) has in closed form
    `E|n_b - n p| = 2 k P(n_b = k) (1 - p)` with `k = floor(n p) + 1`; for unequal ones that is
    scaled by the ratio of the standard deviations.

    Args:
        bins: the bins of ECE.
        parts: the same predictions in a multiple of these bins, for the variance inside a bin.
    """
    mean_square = parts.confidence**2 / np.maximum(parts.count, 1)
    variance = (parts.confidence - mean_square).reshape(len(bins.count), -1).sum(1)
    total = 0.0
    for n, sure, v in zip(
        bins.count.tolist(), bins.confidence.tolist(), variance.tolist(), strict=True
    ):
        p = min(sure / n, 1.0) if n else 1.0
        if p == 0 or p == 1 or v <= 0:
            continue
        k = min(math.floor(n * p) + 1, n)
        log_choices = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        log_chance = log_choices + k * math.log(p) + (n - k) * math.log1p(-p)
        total += 2 * k * (1 - p) * math.exp(log_chance) * math.sqrt(v / (n * p * (1 - p)))
    return total / float(bins.count.sum())


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
