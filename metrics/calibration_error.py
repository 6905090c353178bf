"""Calibration errors as functions of sums per bin, so that no figure asks for predictions again.

B bins of N predictions, n_b in bin b; a prediction has a confidence, and is correct (1) or not (0).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NUM_POINTS, TOLERANCE = 512, 1e-7  # where smooth ECE integrates, and of its sigma


@dataclass(frozen=True)
class Bins:
    """Sums of the predictions in each of B equal bins of confidence, all of shape (B,)."""

    count: IntArray
    confidence: FloatArray  # sum of the confidences
    correct: IntArray

    @property
    def residual(self) -> FloatArray:
        """Sum of confidence minus correctness: positive where the model is overconfident."""
        return self.confidence - self.correct

    def coarsen(self, num_bins: int) -> "Bins":
        """Join neighbours to num_bins bins, which must divide the present number."""
        sums = (self.count, self.confidence, self.correct)
        return Bins(*(each.reshape(num_bins, -1).sum(1) for each in sums))


def expected_error(bins: Bins) -> float:
    """ECE (Guo 2017, arXiv:1706.04599), `sum_b |sum_{i in b} (conf_i - correct_i)| / N`.

    That is the mean gap of the bins weighted by n_b, but nothing is divided by an empty bin.
    """
    total = bins.count.sum()
    return float(np.abs(bins.residual).sum() / total) if total else math.nan


def maximum_error(bins: Bins) -> float:
    """MCE: the largest gap of any bin that is not empty, however few predictions are in it."""
    filled = bins.count > 0
    return float(np.abs(bins.residual[filled] / bins.count[filled]).max())


def root_mean_square_error(bins: Bins, *, debiased: bool = False) -> float:
    """RMSCE, `sqrt(sum_b n_b/N gap_b^2)`; debiased as in Kumar 2019 (arXiv:1909.10155).

    Debiasing takes `acc_b (1 - acc_b) / (n_b - 1)` from each squared gap, which is the part that
    chance alone puts there. Bins of one prediction then count as 0, and so does a negative sum.
    """
    used = bins.count > (1 if debiased else 0)
    count, accuracy = bins.count[used], bins.correct[used] / bins.count[used]
    squares = (bins.residual[used] / count) ** 2
    if debiased:
        squares -= accuracy * (1 - accuracy) / (count - 1)
    return float(np.sqrt(max((count * squares).sum() / bins.count.sum(), 0.0)))


def adaptive_error(groups: Bins, num_bins: int) -> float:
    """Adaptive ECE (Nguyen 2015, arXiv:1508.05154): bins of equal mass, as `np.array_split` cuts.

    Args:
        groups: sums of predictions taken as equally confident, in order of confidence. A group
            across a cut is shared out in proportion, so that ties have no order.
        num_bins: number of equal-mass bins.
    """
    ends = np.concatenate([[0], np.cumsum(groups.count)])
    residual = np.concatenate([[0.0], np.cumsum(groups.residual)])
    numbers = np.arange(num_bins + 1)
    cuts = (ends[-1] // num_bins) * numbers + np.minimum(numbers, ends[-1] % num_bins)
    return float(np.abs(np.diff(np.interp(cuts, ends, residual))).sum() / ends[-1])


def group_equal(confidence: FloatArray, correct: FloatArray) -> Bins:
    """Return predictions (N,) as groups of equal confidence, in its order."""
    order = np.argsort(confidence)
    confidence, correct = confidence[order], correct[order]
    first = np.flatnonzero(np.diff(confidence, prepend=-1.0))
    sums = (np.add.reduceat(values, first) for values in (confidence, correct))
    return Bins(np.diff(first, append=len(order)), *sums)


def smooth_error(residual: FloatArray) -> float:
    """Smooth ECE (Blasiok 2023, arXiv:2309.12236): the sigma at which `smECE_sigma = sigma`.

    `smECE_sigma` is the integral over [0, 1] of |residual smoothed by a Gaussian of width sigma|,
    the Gaussian reflected at 0 and 1 so that no mass leaves (the authors' code loses some there).
    It falls as sigma grows, hence one crossing. Reflected smoothing multiplies the coefficients of
    `cos(pi k t)`, a DCT-II of the cells, by `exp(-(pi k sigma)^2 / 2)`.

    Args:
        residual: (m,) sums of confidence minus correctness in m > 512 equal cells, over N. Each
            counts at its cell's centre, which costs some 1e-6 of accuracy at 10,000 cells.
    """
    k = np.arange(NUM_POINTS + 1)
    # Mirrored to period 2, a real FFT is the DCT but for the half sample between their origins.
    mirrored = np.fft.rfft(np.concatenate([residual, residual[::-1]]))[: NUM_POINTS + 1]
    cosines = (mirrored * np.exp(-0.5j * np.pi * k / len(residual))).real
    spectrum = cosines * np.exp(0.5j * np.pi * k / NUM_POINTS)

    low, high, sigma, power = 0.0, 1.0, 0.05, 0.8
    last: tuple[float, float] | None = None
    while high - low > TOLERANCE:
        decay = np.exp(-0.5 * (np.pi * k * sigma) ** 2)
        error = float(np.abs(np.fft.irfft(spectrum * decay)[:NUM_POINTS]).sum())
        if abs(error - sigma) <= TOLERANCE:
            break
        low, high = (sigma, high) if error > sigma else (low, sigma)
        # smECE is nearly a power of sigma, so the secant of log(error / sigma) finds its zero.
        log_sigma, log_ratio = math.log(sigma), math.log(max(error, 1e-300) / sigma)
        if last:
            power = min(max((log_sigma - last[0]) / (last[1] - log_ratio), 0.3), 1.0)
        last = log_sigma, log_ratio
        guess = math.exp(log_sigma + power * log_ratio)
        sigma = guess if low < guess < high else (low + high) / 2
    return sigma
