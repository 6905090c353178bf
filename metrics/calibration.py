"""Calibration from sums per cell of confidence: fixed memory, exact for any cut of the data.

Confidence is the largest probability of a row, and a prediction is correct where that class is
the target. Confidences fall in some 10,000 equal cells, (lower, upper], cut on the inner edges so
that 0 and 1 fall in real cells too. An equal-width bin is a whole number of cells, so every figure
is a function of the same additive sums; only the equal-mass bins of adaptive ECE ask for single
predictions, and those are kept up to a limit.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from metrics.calibration_error import (
    Bins,
    adaptive_error,
    expected_error,
    group_equal,
    maximum_error,
    root_mean_square_error,
    smooth_error,
)
from metrics.resampling import bootstrap_interval, null_error
from metrics.rows import as_rows, rank_of_targets

LEAST_CELLS = 2**13
PARTS = 4  # of a bin, that resampling tells apart
FOLD = 2**16  # pairs that are counted at a time


class Calibration:
    """Collect pairs of confidence and correctness.

    Args:
        num_bins: equal-width bins, and equal-mass ones.
        device: where the sums are kept.
        limit: how many predictions, of all processes together, adaptive ECE is exact for. Beyond,
            it takes those of a cell, whose confidences differ by less than 2e-4, as equal.
    """

    def __init__(
        self, num_bins: int = 15, *, device: torch.device | str = "cpu", limit: int = 2**16
    ) -> None:
        """Start from nothing."""
        if num_bins < 1:
            raise ValueError(f"num_bins must be >= 1, got {num_bins}")
        if torch.device(device).type == "mps":
            device = "cpu"  # MPS has no float64
        self.num_bins = num_bins
        self.num_cells = PARTS * num_bins
        while self.num_cells < LEAST_CELLS:
            self.num_cells *= 2  # which also makes the FFT of smooth ECE fast
        self.counts = torch.zeros(2, self.num_cells, dtype=torch.int64, device=device)
        self.confidences = torch.zeros(self.num_cells, dtype=torch.float64, device=device)
        # A queue to the cells as well: pairs are counted many at a time.
        self.kept = torch.empty(2, limit, dtype=torch.float64, device=device)
        self.num_kept = 0
        self.num_counted = 0  # of the kept
        self.overflowed = False

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Add confidences (N,), NaN for a row to leave out, and which are correct (N,)."""
        limit = self.kept.shape[1]
        for part, right in zip(confidence.split(limit), correct.split(limit), strict=True):
            if self.num_kept + len(part) > limit:
                self._overflow()
            self._keep(part, right)

    def update_rows(self, log_probs: Tensor, targets: Tensor, *, ignore_index: int = -100) -> None:
        """Add rows of log-probabilities (N, C, ...), unchecked, and targets (N, ...)."""
        log_probs, targets = as_rows(log_probs, targets, log_probs.shape[1])
        if log_probs.dtype.itemsize < 4:
            log_probs = log_probs.float()
        classes = targets.clamp(0, log_probs.shape[1] - 1)[:, None]
        rank = rank_of_targets(log_probs, classes, torch.empty_like(log_probs))
        confidence = log_probs.amax(1).double().exp()
        self.update(confidence.where(targets != ignore_index, math.nan), rank == 0)

    def _keep(self, confidence: Tensor, correct: Tensor) -> None:
        end = self.num_kept + len(confidence)
        self.kept[0, self.num_kept : end] = confidence
        self.kept[1, self.num_kept : end] = correct
        self.num_kept = end

    def _overflow(self) -> None:
        """Give up the single predictions; from now on they only queue."""
        self._count()
        self.num_kept, self.num_counted, self.overflowed = 0, 0, True

    def _count(self) -> None:
        """Add the pairs that wait to the cells."""
        for start in range(self.num_counted, self.num_kept, FOLD):
            confidence, correct = self._kept(start, start + FOLD)
            # 1e-9 of a cell keeps a probability that came through log and exp on its side.
            cell = (confidence * self.num_cells - 1e-9).ceil_().long().sub_(1)
            cell = cell.clamp_(0, self.num_cells - 1)
            self.counts[0].index_add_(0, cell, torch.ones_like(cell))
            self.counts[1].index_add_(0, cell, correct.long())
            self.confidences.index_add_(0, cell, confidence)
        self.num_counted = self.num_kept

    def _kept(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return kept pairs (2, n), without the rows that were left out."""
        pairs = self.kept[:, : self.num_kept][:, start:stop]
        left_out = pairs[0].isnan()
        return pairs[:, ~left_out] if left_out.any() else pairs

    def _tensors(self) -> list[Tensor]:
        self._count()
        return [self.counts, self.confidences]

    def merge(self, other: "Calibration") -> None:
        """Add another's predictions, as if they had been added here."""
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine += theirs.to(mine.device)
        self._keep_all([self.kept[:, : self.num_kept], other.kept[:, : other.num_kept]])
        if other.overflowed:
            self._overflow()

    def all_reduce(self) -> None:
        """Merge the predictions of all processes of the run, in each of them."""
        if not dist.is_initialized():
            return
        for tensor in self._tensors():
            dist.all_reduce(tensor)
        overflow = self.kept.shape[1] + 1
        size = self.counts.new_tensor([overflow if self.overflowed else self.num_kept])
        sizes = [torch.empty_like(size) for _ in range(dist.get_world_size())]
        dist.all_gather(sizes, size)
        lengths = [int(n) for n in sizes]
        if sum(lengths) >= overflow:
            self._overflow()
            return
        mine = self.kept[:, : max(lengths)].contiguous()
        parts = [torch.empty_like(mine) for _ in lengths]
        dist.all_gather(parts, mine)
        self._keep_all([part[:, :n] for part, n in zip(parts, lengths, strict=True)])

    def _keep_all(self, parts: list[Tensor]) -> None:
        """Keep these predictions, which are counted already, and no others."""
        whole = torch.cat([part.to(self.kept.device) for part in parts], 1)
        self.num_counted = self.num_kept = 0
        if whole.shape[1] > self.kept.shape[1]:
            self._overflow()
            return
        self._keep(*whole)
        self.num_counted = self.num_kept

    def cells(self) -> Bins:
        """Return the sums in every cell."""
        self._count()
        count, correct = self.counts.cpu().numpy().copy()
        return Bins(count, self.confidences.cpu().numpy().copy(), correct)

    def bins(self) -> Bins:
        """Return the sums in every equal-width bin."""
        return self.cells().coarsen(self.num_bins)

    def compute(self, *, seed: int = 0) -> dict[str, float]:
        """Return the errors; `ece_low` and `ece_high` are drawn with `seed`.

        `overconfidence` is mean confidence minus accuracy.
        """
        cells = self.cells()
        total = cells.count.sum()
        if not total:
            raise ValueError("no predictions to compute calibration from")
        bins = cells.coarsen(self.num_bins)
        low, high = bootstrap_interval(bins, seed)
        groups = cells if self.overflowed else group_equal(*self._kept().cpu().numpy())
        return {
            "ece": expected_error(bins),
            "ece_null": null_error(bins, cells.coarsen(PARTS * self.num_bins)),
            "ece_low": low,
            "ece_high": high,
            "mce": maximum_error(bins),
            "rmsce": root_mean_square_error(bins),
            "rmsce_debiased": root_mean_square_error(bins, debiased=True),
            "ace": adaptive_error(groups, self.num_bins),
            "smooth_ece": smooth_error(cells.residual / total),
            "overconfidence": float(bins.residual.sum() / total),
        }
