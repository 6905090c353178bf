"""Calibration from sums per cell of confidence: fixed memory, however the data is cut.

Confidence is the largest probability of a row, and a prediction is correct where that class is
the target. Confidences fall in equal cells, (lower, upper], cut on the inner edges so that 0 and 1
fall in real cells too. There are at least 8,192 cells: with 15 bins they are 15 x 4 x 2^8 = 15,360.
An equal-width bin is a whole number of cells, so every error over such bins is exact. For the
equal-mass bins of adaptive ECE, and for smooth ECE, predictions in one cell count as equally
confident.
"""

import torch
from torch import Tensor

from metrics.calibration_error import (
    Bins,
    adaptive_error,
    expected_error,
    maximum_error,
    root_mean_square_error,
    smooth_error,
)
from metrics.floor_and_interval import bootstrap_interval, null_error
from metrics.rows import as_rows, float64_device, rank_of_targets
from metrics.sums import Sums

LEAST_CELLS = 2**13
PARTS = 4  # of a bin, that the floor of ECE tells apart


class Calibration(Sums):
    """Accumulate pairs of confidence and correctness, and compute calibration errors from them.

    Args:
        num_bins: number of bins, equal-width ones and equal-mass ones.
        device: where the sums are kept; for mps, the CPU.

    Raises:
        ValueError: `num_bins` is below 1.
    """

    def __init__(self, num_bins: int = 15, *, device: torch.device | str = "cpu") -> None:
        if num_bins < 1:
            raise ValueError(f"num_bins must be >= 1, got {num_bins}")
        device = float64_device(device)
        self.num_bins = num_bins
        self.num_cells = PARTS * num_bins
        while self.num_cells < LEAST_CELLS:
            self.num_cells *= 2  # which also makes the FFT of smooth ECE fast
        self.count = torch.zeros(self.num_cells, dtype=torch.int64, device=device)
        self.correct = torch.zeros_like(self.count)
        self.confidences = torch.zeros(self.num_cells, dtype=torch.float64, device=device)
        self.tensors = [self.count, self.correct, self.confidences]

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Add confidences (n,), from 0 to 1, and whether each prediction is correct (n,)."""
        confidence = confidence.to(self.confidences.device).double()
        # 1e-9 of a cell keeps a probability that came through log and exp on its side.
        cell = (confidence * self.num_cells - 1e-9).long().clamp_(0, self.num_cells - 1)
        self.count.index_add_(0, cell, torch.ones_like(cell))
        self.correct.index_add_(0, cell, correct.to(cell))
        self.confidences.index_add_(0, cell, confidence)

    @torch.no_grad()
    def update_rows(self, log_probs: Tensor, targets: Tensor, *, ignore_index: int = -100) -> None:
        """Add rows of log-probabilities (N, C, ...) and their targets (N, ...).

        Rows whose target is `ignore_index` are left out. Unlike `Metrics.update`, this does not
        check that the rows are normalised.

        Raises:
            ValueError: the shapes do not fit each other, or a target is no class.
            TypeError: `log_probs` are not floating, or `targets` are.
        """
        log_probs, targets = (tensor.to(self.count.device) for tensor in (log_probs, targets))
        rows, classes = as_rows(log_probs, targets, log_probs.shape[1], ignore_index)
        rank = rank_of_targets(rows, classes, rows.gather(1, classes))
        self.update(rows.amax(1).double().exp(), rank == 0)

    def cells(self) -> Bins:
        """Return the sums per cell."""
        sums = (self.count, self.confidences, self.correct)
        return Bins(*(tensor.cpu().numpy().copy() for tensor in sums))

    def bins(self) -> Bins:
        """Return the sums per equal-width bin, (num_bins,)."""
        return self.cells().coarsen(self.num_bins)

    def compute(self, *, seed: int = 0) -> dict[str, float]:
        """Return every calibration error, as a share (0.01 is one percentage point).

        `ece_null` is the floor of ECE and `ece_low`, `ece_high` the interval of the expected ECE,
        drawn with `seed`: see `metrics.floor_and_interval`. `overconfidence` is mean confidence
        minus accuracy.

        Raises:
            ValueError: no rows were added, or all of them are ignored.
        """
        cells = self.cells()
        total = cells.count.sum()
        if not total:
            raise ValueError("no rows to compute metrics from: none were added, or all are ignored")
        bins = cells.coarsen(self.num_bins)
        low, high = bootstrap_interval(bins, seed)
        return {
            "ece": expected_error(bins),
            "ece_null": null_error(bins, cells.coarsen(PARTS * self.num_bins)),
            "ece_low": low,
            "ece_high": high,
            "mce": maximum_error(bins),
            "rmsce": root_mean_square_error(bins),
            "rmsce_debiased": root_mean_square_error(bins, debiased=True),
            "ace": adaptive_error(cells, self.num_bins),
            "smooth_ece": smooth_error(cells.residual / total),
            "overconfidence": float(bins.residual.sum() / total),
        }
