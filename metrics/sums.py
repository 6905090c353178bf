"""Sums that add up: over batches, over the parts of a split, over processes."""

import torch.distributed as dist
from torch import Tensor


class Sums:
    """What an accumulator has collected, in `tensors` that are only ever changed in place."""

    tensors: list[Tensor]

    def merge(self, other: "Sums") -> None:
        """Add what another accumulator has collected, as if it had been added here."""
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            mine += theirs.to(mine.device)

    def reset(self) -> None:
        """Forget what has been collected."""
        for tensor in self.tensors:
            tensor.zero_()

    def all_reduce(self) -> None:
        """Merge the accumulators of all processes, in each of them; does nothing in one process."""
        if dist.is_initialized():
            for tensor in self.tensors:
                dist.all_reduce(tensor)
