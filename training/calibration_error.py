"""Calibration error as a function of sums per bin, so that no figure needs the predictions again.

B bins of N predictions, n_b in bin b; a prediction has a confidence, and is correct (1) or not (0).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


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
    return float(np.abs(bins.residual).sum() / bins.count.sum())


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
