"""Calibration errors as functions of sums per bin, so that none needs the single predictions.

There are N predictions, each with a confidence and correct (1) or not (0), n_b of them in bin b of
B bins. `gap_b` is the bin's mean confidence minus its accuracy. Every error is a share from 0 to 1.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NUM_POINTS = 512  # at which smooth ECE integrates
TOLERANCE = 1e-7  # of smooth ECE


@dataclass(frozen=True)
class Bins:
    """Sums over the predictions in each of B bins of confidence, in rising order, all (B,)."""

    count: IntArray  # n_b
    confidence: FloatArray  # sum of the confidences
    correct: IntArray  # number of correct ones

    @property
    def residual(self) -> FloatArray:
        """Sums of confidence minus correctness, (B,): positive where the model is overconfident."""
        return self.confidence - self.correct

    def coarsen(self, num_bins: int) -> "Bins":
        """Join neighbouring bins so that `num_bins` are left, a divisor of B."""
        sums = (self.count, self.confidence, self.correct)
        return Bins(*(each.reshape(num_bins, -1).sum(1) for each in sums))


def expected_error(bins: Bins) -> float:
    """Return ECE (Guo 2017, arXiv:1706.04599), `sum_b |sum_{i in b} (conf_i - correct_i)| / N`.

    This equals the mean of |gap_b| weighted by n_b, without a division by the count of an empty
    bin. NaN where there are no predictions.
    """
    total = bins.count.sum()
    return float(np.abs(bins.residual).sum() / total) if total else math.nan


def maximum_error(bins: Bins) -> float:
    """Return MCE, the largest |gap_b| of any bin that is not empty, however few are in it."""
    filled = bins.count > 0
    return float(np.abs(bins.residual[filled] / bins.count[filled]).max())


def root_mean_square_error(bins: Bins, *, debiased: bool = False) -> float:
    """Return RMSCE, `sqrt(sum_b n_b/N gap_b^2)`; debiased as in Kumar 2019 (arXiv:1909.10155).

    Debiasing subtracts `acc_b (1 - acc_b) / (n_b - 1)` from each squared gap, where acc_b is the
    bin's accuracy: the part that chance alone adds. A bin of one prediction then counts as 0, and
    so does a negative sum.
    """
    used = bins.count > (1 if debiased else 0)
    count, accuracy = bins.count[used], bins.correct[used] / bins.count[used]
    squares = (bins.residual[used] / count) ** 2
    if debiased:
        squares -= accuracy * (1 - accuracy) / (count - 1)
    return float(np.sqrt(max((count * squares).sum() / bins.count.sum(), 0.0)))


def adaptive_error(groups: Bins, num_bins: int) -> float:
    """Return adaptive ECE (Nguyen 2015, arXiv:1508.05154): the ECE of bins of equal mass.

    The predictions in order of confidence are cut into bins as `np.array_split` cuts. This is exact
    for `group_equal(confidence, correct)`. For cells of confidence it is off by at most k / N per
    cut through a cell that holds k predictions of different confidence.

    Args:
        groups: sums over predictions that count as equally confident. A group across a cut is
            divided in proportion, so that the order of ties does not matter.
        num_bins: number of equal-mass bins.
    """
    filled = groups.count > 0
    ends = np.concatenate([[0], np.cumsum(groups.count[filled])])
    residual = np.concatenate([[0.0], np.cumsum(groups.residual[filled])])
    numbers = np.arange(num_bins + 1)
    cuts = (ends[-1] // num_bins) * numbers + np.minimum(numbers, ends[-1] % num_bins)
    return float(np.abs(np.diff(np.interp(cuts, ends, residual))).sum() / ends[-1])


def group_equal(confidence: FloatArray, correct: FloatArray) -> Bins:
    """Group confidences (N,) and correctness (N,) by equal confidence, in rising order."""
    order = np.argsort(confidence)
    confidence, correct = confidence[order], correct[order]
    first = np.flatnonzero(np.diff(confidence, prepend=-1.0))
    sums = (np.add.reduceat(values, first) for values in (confidence, correct))
    return Bins(np.diff(first, append=len(order)), *sums)


def smooth_error(residual: FloatArray) -> float:
    """Return smooth ECE (Blasiok 2023, arXiv:2309.12236): the sigma where `smECE_sigma = sigma`.

    `smECE_sigma` is the integral over [0, 1] of |residual smoothed by a Gaussian of width sigma|.
    The Gaussian is reflected at 0 and 1 so that no mass is lost (the authors' code loses some).
    The integral falls as sigma grows, so there is one crossing. Reflected smoothing multiplies the
    coefficients of `cos(pi k t)`, a DCT-II of the cells, by `exp(-(pi k sigma)^2 / 2)`.

    Args:
        residual: (m,) sums of confidence minus correctness in m > 512 equal cells, m even, divided
            by N. Each counts at the centre of its cell, an error of some 1e-6 at 10,000 cells.
    """
    k = np.arange(NUM_POINTS + 1)
    # A DCT-II of m values is a real FFT of them in the order 0, 2, ..., m - 1, ..., 3, 1
    # (Makhoul 1980, https://doi.org/10.1109/TASSP.1980.1163351).
    transform = np.fft.rfft(np.concatenate([residual[::2], residual[::-2]]))[: NUM_POINTS + 1]
    cosines = 2 * (transform * np.exp(-0.5j * np.pi * k / len(residual))).real
    spectrum = cosines * np.exp(0.5j * np.pi * k / NUM_POINTS)
    exponents = -0.5 * (np.pi * k) ** 2

    def excess(sigma: float) -> float:
        smoothed = np.fft.irfft(spectrum * np.exp(exponents * sigma**2))[:NUM_POINTS]
        return float(np.abs(smoothed).sum()) - sigma

    # False position; the end that stays twice counts half (the Illinois rule, Dowell and Jarratt
    # 1971). The excess falls by at least as much as sigma rises, so it bounds what is left to go.
    low, high = 0.0, 1.0
    sigma, found = low, excess(low)
    above, below = found, excess(high)
    while abs(found) > TOLERANCE and high - low > TOLERANCE:
        before = found
        sigma = low + (high - low) * above / (above - below)
        found = excess(sigma)
        stays = (found > 0) == (before > 0)
        if found > 0:
            low, above, below = sigma, found, below / 2 if stays else below
        else:
            high, below, above = sigma, found, above / 2 if stays else above
    return sigma
