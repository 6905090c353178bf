"""Classwise ECE (Kull 2019, arXiv:1910.12656): of every probability, not only of the largest."""

import torch
from torch import Tensor


class ClasswiseCalibration:
    """Sum p_k - [y = k] for each class k and each equal-width bin (lower, upper] of p_k.

    Args:
        num_classes: C.
        num_bins: number of bins per class.
        device: where the sums are kept.
    """

    def __init__(self, num_classes: int, num_bins: int, device: torch.device | str) -> None:
        self.num_bins = num_bins
        self.residuals = torch.zeros(num_classes * num_bins, dtype=torch.float64, device=device)
        self.first_bins = torch.arange(num_classes, dtype=torch.int32, device=device) * num_bins

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """Add probabilities (n, C) and target classes (n, 1)."""
        # A little less than num_bins, so that rounding lifts no probability over an edge.
        factor = self.num_bins * (1 - 4 * torch.finfo(probs.dtype).eps)
        bins = (probs * factor).int().clamp_(max=self.num_bins - 1).add_(self.first_bins)
        residuals = probs.double().scatter_(1, targets, -1.0, reduce="add")
        self.residuals.index_add_(0, bins.view(-1), residuals.view(-1))

    def error(self, num_rows: int) -> float:
        """Return the mean over classes of the one-vs-rest ECE, given how many rows were added."""
        num_classes = len(self.first_bins)
        return self.residuals.abs().sum().item() / (num_classes * num_rows)
