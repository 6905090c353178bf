"""Adaptive ECE: bins of equal mass, not of equal width.

Nguyen & O'Connor 2015, Posterior calibration and exploratory analysis, arXiv:1508.05154.
"""

import numpy as np

from training.calibration_error import Bins, FloatArray, IntArray


def adaptive_error(groups: Bins, num_bins: int) -> float:
    """Return the ECE over equal-mass bins, sized as `numpy.array_split` cuts.

    Args:
        groups: sums of predictions taken as equally confident, in order of confidence. A group
            across a cut is shared out in proportion, so that ties have no order.
        num_bins: number of equal-mass bins.
    """
    ends = np.concatenate([[0], np.cumsum(groups.count)])
    residual = np.concatenate([[0.0], np.cumsum(groups.residual)])
    cuts = np.interp(_cuts(ends[-1], num_bins), ends, residual)
    return float(np.abs(np.diff(cuts)).sum() / ends[-1])


def split_cells(
    cells: Bins, num_bins: int, cell: IntArray, confidence: FloatArray, correct: FloatArray
) -> Bins:
    """Replace the cells that are cut by the predictions in them, grouped by equal confidence.

    Only these few need sorting. `cell` (N,), `confidence` (N,) and `correct` (N,) are those of the
    single predictions.
    """
    cut = np.zeros(len(cells.count), dtype=bool)
    ends = np.cumsum(cells.count)
    cut[np.searchsorted(ends, _cuts(ends[-1], num_bins)[1:-1])] = True
    chosen = np.flatnonzero(cut[cell])
    chosen = chosen[np.argsort(confidence[chosen])]
    first = np.flatnonzero(np.diff(confidence[chosen], prepend=-1.0))
    count = np.diff(first, append=len(chosen))
    order = np.argsort(np.concatenate([np.flatnonzero(~cut), cell[chosen[first]]]), kind="stable")

    def joined(whole: FloatArray | IntArray, single: FloatArray | IntArray) -> FloatArray:
        return np.concatenate([whole[~cut], single])[order]

    return Bins(
        joined(cells.count, count).astype(np.int64),
        joined(cells.confidence, np.add.reduceat(confidence[chosen], first)),
        joined(cells.correct, np.add.reduceat(correct[chosen], first)).astype(np.int64),
    )


def _cuts(total: int, num_bins: int) -> IntArray:
    """Return the num_bins + 1 ends of parts that differ by one at most, larger ones first."""
    numbers = np.arange(num_bins + 1)
    return (total // num_bins) * numbers + np.minimum(numbers, total % num_bins)
