"""Negative log-likelihood: on log-probabilities as in torch, and with log_softmax spelled out."""

import torch.nn.functional as F
from torch import Tensor

from losses import checks
from losses.base import ClassificationLoss, Reduction, Weight, over_classes


class NLLLoss(ClassificationLoss):
    """Pick out minus the log-probability of the target: torch's loss.

    For log-probabilities l, w = `weight` and target y:

        loss = -w_y l_y

    It must be given log-probabilities: on logits it falls without bound, on probabilities it is the
    wrong loss, and torch says nothing about either. On log_softmax(z) it is CrossEntropyLoss on z.

        >>> import torch
        >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> NLLLoss(reduction="none")(logits.log_softmax(1), torch.tensor([0, 1]))
        tensor([0.4170, 0.1967])

    Fisher, 1922, On the Mathematical Foundations of Theoretical Statistics,
    https://doi.org/10.1098/rsta.1922.0009

    Args:
        weight: w, one number >= 0 per class, (C,).
        ignore_index: targets with this value count for nothing.
        reduction: mean (divided by the sum of the weights that count), sum, or none.
    """

    def __init__(
        self, weight: Weight = None, *, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -l_y of the log-probabilities `logits`."""
        return F.nll_loss(logits, targets, reduction="none", ignore_index=self.ignore_index)

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -sum_k w_k q_k l_k for target probabilities q."""
        return -over_classes(targets * logits.masked_fill(targets == 0, 0), self.weight)

    def _check_values(self, logits: Tensor) -> None:
        checks.log_probabilities(logits)


class LogSoftmaxNLLLoss(NLLLoss):
    """Spell cross-entropy out: log_softmax on the logits, then NLLLoss.

    For logits z, w = `weight` and target y:

        loss = -w_y log_softmax(z)_y

    Value and gradient are those of CrossEntropyLoss; it is here so that the two steps can be seen.

        >>> import torch
        >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> LogSoftmaxNLLLoss(reduction="none")(logits, torch.tensor([0, 1]))
        tensor([0.4170, 0.1967])

    Bridle, 1990, Probabilistic Interpretation of Feedforward Classification Network Outputs,
    https://doi.org/10.1007/978-3-642-76153-9_28

    Args:
        weight: w, one number >= 0 per class, (C,).
        ignore_index: targets with this value count for nothing.
        reduction: mean (divided by the sum of the weights that count), sum, or none.
    """

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -log_softmax(z)_y."""
        return super().elementwise(logits.log_softmax(1), targets)

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -sum_k w_k q_k log_softmax(z)_k for target probabilities q."""
        return super().soft_elementwise(logits.log_softmax(1), targets)

    def _check_values(self, logits: Tensor) -> None:
        checks.not_probabilities(logits)
