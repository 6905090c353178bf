"""What chance alone does to ECE: its value for a calibrated model, and a bootstrap interval.

Both are functions of sums per bin, so their cost does not grow with the data: predictions of a bin
(of a quarter of one, for the floor) count with its mean confidence. What that changes in the
variance of a bin's sum is below what hundreds of draws can tell.
"""

import math

import numpy as np

from metrics.calibration_error import Bins, IntArray, expected_error

NUM_DRAWS = 500


def null_correct(bins: Bins, seed: int) -> IntArray:
    """Draw how many of each bin are correct if the confidences are true, (B, NUM_DRAWS)."""
    count = bins.count[:, None]
    probability = np.clip(bins.confidence[:, None] / np.maximum(count, 1), 0.0, 1.0)
    generator = np.random.default_rng(seed)
    return generator.binomial(count, probability, (len(count), NUM_DRAWS))


def null_error(bins: Bins, parts: Bins) -> float:
    """Return the mean ECE of a perfectly calibrated model with these confidences: ECE's floor.

    It is the mean over all labels that the confidences could draw, `sum_b E|k_b - E k_b| / N` for
    k_b correct ones in bin b. For n equal confidences p, de Moivre (1730) gave
    `E|k_b - n p| = 2 m P(k_b = m) (1 - p)` with `m = floor(n p) + 1`; where they differ inside the
    bin, that is scaled by the ratio of the standard deviations.

    Args:
        bins: the bins of ECE.
        parts: the same predictions in a multiple of these bins, for the variance inside a bin.
    """
    variance = parts.confidence - parts.confidence**2 / np.maximum(parts.count, 1)
    variances = variance.reshape(len(bins.count), -1).sum(1)
    total = 0.0
    for n, expected, v in zip(
        *(x.tolist() for x in (bins.count, bins.confidence, variances)), strict=True
    ):
        if not (0 < expected < n and v > 0):
            continue  # no predictions, or nothing that chance could change
        p, m = expected / n, math.floor(expected) + 1
        log_choices = math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)
        chance = math.exp(log_choices + m * math.log(p) + (n - m) * math.log1p(-p))
        total += 2 * m * chance * (1 - p) * math.sqrt(v / (n * p * (1 - p)))
    return total / float(bins.count.sum())


def bootstrap_interval(bins: Bins, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of ECE when the predictions are drawn again with replacement.

    ECE cannot be negative, so noise lifts it, and a resample has the noise twice. The quantiles are
    therefore moved until the resamples' mean is the ECE itself. The interval says what another test
    set of this size would show; it is lifted like the ECE, so read it beside the floor.
    """
    total = bins.count.sum()
    mean = bins.confidence / np.maximum(bins.count, 1)
    outcomes = np.concatenate([bins.correct, bins.count - bins.correct])
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(total, outcomes / total, NUM_DRAWS)  # (NUM_DRAWS, 2 B)
    right, wrong = np.split(draws, 2, axis=1)
    errors = np.abs(right * (mean - 1) + wrong * mean).sum(1) / total
    low, high = np.quantile(errors, [0.025, 0.975]) - errors.mean() + expected_error(bins)
    return max(float(low), 0.0), min(float(high), 1.0)
