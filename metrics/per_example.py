"""What a model made of every single example, in the order of the examples."""

import math

import torch
from torch import Tensor

from metrics.rows import as_rows, float64_device, rank_of_targets
from metrics.sums import Sums


class PerExample(Sums):
    """Collect nll, correctness and confidence of every target in `table`, (N, D, 3) float32.

    N examples have D positions each, D = 1 where an example has one target. A target that is
    ignored has NaN. Each process fills in the examples of its share and leaves 0 elsewhere, so that
    the sum over processes is the whole table, to the last bit.

    Args:
        targets: (N, ...) of the whole split.
    """

    def __init__(self, targets: Tensor) -> None:
        positions = math.prod(targets.shape[1:])
        self.table = torch.zeros(len(targets), positions, 3, device=targets.device)
        self.tensors = [self.table]

    @torch.no_grad()
    def update(
        self, numbers: Tensor, log_probs: Tensor, targets: Tensor, *, ignore_index: int = -100
    ) -> None:
        """Fill in examples by their numbers (n,) in the split: (n, C, ...), targets (n, ...)."""
        on = float64_device(log_probs.device)
        rows, classes = as_rows(log_probs.to(on), targets.to(on), log_probs.shape[1], ignore_index)
        log_y = rows.gather(1, classes)
        correct = rank_of_targets(rows, classes, log_y) == 0
        found = torch.stack([-log_y[:, 0], correct, rows.amax(1).double().exp()], 1)
        table = self.table.new_full((targets.numel(), 3), math.nan)
        table[targets.flatten() != ignore_index] = found.to(table)
        self.table[numbers] = table.view(len(numbers), -1, 3)
