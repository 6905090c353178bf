"""A mean loss: of the epoch under way, or of the steps since one was last logged."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.loop import Update


@dataclass
class RunningLoss:
    """Sums of totals and normalisers, examples per second, and the norm of the last gradient.

    On a CPU the sums are Python's floats, and on Apple's GPUs, which have no float64. On another
    device reading each step would stall its queue, so they stay there as float64 tensors.
    """

    total: float | Tensor = 0.0
    normaliser: float | Tensor = 0.0
    examples: int = 0
    norm: float = 0.0
    norms: list[Tensor] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def add(self, update: Update) -> None:
        """Add the sums of an update."""
        total, normaliser, num_examples, self.norms = update
        is_read = total.device.type in ("cpu", "mps")
        self.total = self.total + (total.item() if is_read else total.double())
        self.normaliser = self.normaliser + (normaliser.item() if is_read else normaliser.double())
        self.examples += num_examples

    def mean(self) -> float:
        """Return the mean; 0 where every target was ignored."""
        normaliser = float(self.normaliser)
        return float(self.total) / normaliser if normaliser else 0.0

    def rate(self) -> float:
        """Return examples per second."""
        return self.examples / (time.perf_counter() - self.start)

    def gradient_norm(self) -> float:
        """Return the norm of the whole gradient of the last update, before clipping."""
        if self.norms:
            self.norm = torch.linalg.vector_norm(torch.stack(self.norms)).item()
        return self.norm

    def state(self) -> list[float]:
        """Return the arguments that make this sum again."""
        return [float(self.total), float(self.normaliser), self.examples, self.gradient_norm()]
