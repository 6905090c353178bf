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
        """Add probabilities (n, C) and target classes (n,)."""
        target_probs = probs.gather(1, targets[:, None]).squeeze(1)
        target_bins = self.first_bins[targets] + self._bin_of(target_probs)
        ones = self.residuals.new_ones(len(targets))
        self.residuals.index_add_(0, target_bins, ones, alpha=-1)
        first_bins = self.first_bins
        if probs.device.type == "cpu" and len(first_bins) > 4 * self.num_bins:
            # Nearly all of many classes fall in the first bin: add all there, then move the few.
            self.residuals[first_bins] += probs.sum(0, dtype=torch.float64)
            rows, classes = (probs > 1 / self.num_bins).nonzero(as_tuple=True)
            probs, first_bins = probs[rows, classes], first_bins[classes]
            self.residuals.index_add_(0, first_bins, probs.double(), alpha=-1)
        bins = self._bin_of(probs).add_(first_bins)
        self.residuals.index_add_(0, bins.view(-1), probs.double().view(-1))

    def _bin_of(self, probs: Tensor) -> Tensor:
        # A little less than num_bins, so that rounding lifts no probability over an edge.
        factor = self.num_bins * (1 - 4 * torch.finfo(probs.dtype).eps)
        return (probs * factor).int().clamp_(max=self.num_bins - 1)

    def error(self, num_rows: int) -> float:
        """Return the mean over classes of the one-vs-rest ECE, given how many rows were added."""
        num_classes = len(self.first_bins)
        return self.residuals.abs().sum().item() / (num_classes * num_rows)
