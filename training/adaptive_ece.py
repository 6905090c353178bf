"""Adaptive ECE: bins of equal mass, not of equal width.

Nguyen & O'Connor 2015, Posterior calibration and exploratory analysis, arXiv:1508.05154.
"""

import numpy as np

from training.calibration_error import Bins, FloatArray


def adaptive_error(groups: Bins, num_bins: int) -> float:
    """Return the ECE over equal-mass bins, sized as `numpy.array_split` cuts.

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
