"""Logit adjustment: cross-entropy of logits to which the frequencies of the classes are added."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import checks
from losses.base import ClassificationLoss, Link, Reduction, at_least_float32, class_axis


class LogitAdjustedLoss(ClassificationLoss):
    """Let the training frequencies explain what they can, so that the logits need not.

    For logits z, n = `class_counts`, their sum N, t = `tau` and target y:

        loss = -ln softmax(z + t ln prior)_y,   prior_k = n_k / N

    tau = 0 is CrossEntropyLoss. The minimiser for true probabilities eta has softmax(z)
    proportional to eta / prior^t: with tau = 1, the probabilities where all classes are equally
    frequent. That is reported by default, because it is what the loss is for; `link="own"` puts
    the prior back. CrossEntropyLoss weighted by 1 / prior has the same minimiser, but its weights
    multiply gradients, where this loss moves the boundary between classes. A class absent from the
    training data counts as n_k = 1, as in `class_weights`.

        >>> import torch
        >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> LogitAdjustedLoss([90, 9, 1], reduction="none")(logits, torch.tensor([0, 1]))
        tensor([0.0377, 0.8597])

    Menon et al., 2021, Long-Tail Learning via Logit Adjustment, https://arxiv.org/abs/2007.07314

    Args:
        class_counts: n, how many training targets each class has, (C,).
        tau: t, >= 0: the share of the prior's logarithm that is added.
        ignore_index: class indices with this value count for nothing.
        reduction: mean (over the rows that count), sum, or none.
        link: what `log_probs` reports: `softmax`, or `own` for the softmax with the prior.
    """

    class_counts: Tensor

    def __init__(
        self,
        class_counts: checks.Values,
        *,
        tau: float = 1.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        link: Link = "softmax",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, link=link)
        self.register_buffer("class_counts", checks.class_weight("class_counts", class_counts))
        self.tau = checks.number("tau", tau, "[0, inf)")

    def adjusted(self, logits: Tensor) -> Tensor:
        """Return z + t ln n: ln N, the same for every class, is nothing to a softmax."""
        counts, axis = self.class_counts, class_axis(logits)
        if len(counts) != (size := logits.shape[axis]):
            raise ValueError(
                f"class_counts must be one number per class, {size}, got {len(counts)}"
            )
        shift = self.tau * counts.masked_fill(counts == 0, 1).to(logits.dtype).log()  # (C,)
        return logits + shift.view(-1, *[1] * (logits.ndim - axis - 1))

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -ln p_y for p = softmax(z + t ln prior)."""
        return F.cross_entropy(self.adjusted(logits), targets, reduction="none")

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -sum_k q_k ln p_k for target probabilities q."""
        return F.cross_entropy(self.adjusted(logits), targets, reduction="none")

    def quick_elementwise(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return -ln p_y; its gradient is p_k, and p_y - 1 at y."""
        rows = targets.unsqueeze(1)
        log_probs = self.adjusted(logits).log_softmax(1)  # (N, C, d1..dk)
        losses = -log_probs.gather(1, rows)
        return losses, log_probs.exp_().scatter_(1, rows, torch.expm1(-losses))

    def own_log_probs(self, logits: Tensor) -> Tensor:
        """Return log softmax(z + t ln prior)."""
        return self.adjusted(at_least_float32(logits)).log_softmax(class_axis(logits))
