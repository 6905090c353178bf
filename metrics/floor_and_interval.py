"""What chance alone does to ECE: its floor, that of a calibrated model, and a bootstrap interval.

Both are functions of sums per bin, so their cost does not grow with the data. Every prediction
counts with the mean confidence of its bin (of its quarter of a bin, for the floor). This changes
the variance of a bin's sum by less than hundreds of draws can show.
"""

import math

import numpy as np

from metrics.calibration_error import Bins, IntArray, expected_error

NUM_DRAWS = 500


def null_correct(bins: Bins, seed: int) -> IntArray:
    """Draw how many predictions per bin are correct if the confidences are true: (B, 500)."""
    count = bins.count[:, None]
    probability = np.clip(bins.confidence[:, None] / np.maximum(count, 1), 0.0, 1.0)
    generator = np.random.default_rng(seed)
    return generator.binomial(count, probability, (len(count), NUM_DRAWS))


def null_error(bins: Bins, parts: Bins) -> float:
    """Return ECE's floor, the mean ECE of a perfectly calibrated model with these confidences.

    If labels are drawn from the confidences, k_b of bin b are correct, and the mean ECE is
    `sum_b E|k_b - E k_b| / N`. For n equal confidences p, de Moivre (1730) gave
    `E|k_b - n p| = 2 m P(k_b = m) (1 - p)` with `m = floor(n p) + 1`. Where confidences differ
    within a bin, this is scaled by the ratio of the standard deviations.

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

    ECE cannot be negative, so noise raises it, and a resample has the noise twice. The quantiles
    are therefore shifted so that the resamples' mean is the ECE itself. The interval is for the
    expected ECE, the mean over test sets of this size, which it covers about 95 times in 100. The
    ECE of one other test set scatters, too, and lies inside only some 82 times in 100. Noise raises
    the interval as it raises the ECE, so compare it with the floor.
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
