"""Multi-class hinge losses: a margin between the target's score and the others'."""

from typing import Literal

from torch import Tensor

from losses import checks
from losses.base import ClassificationLoss, Reduction, Weight


class HingeLoss(ClassificationLoss):
    """Ask that the target's score beat the others' by a margin, and for no more.

    For scores z, w = `weight`, m = `margin` and target y:

        crammer_singer    loss = w_y max(0, m + max_{k != y} z_k - z_y)
        weston_watkins    loss = w_y sum_{k != y} max(0, m + z_k - z_y)

    Weston-Watkins is C times torch's MultiMarginLoss. Unlike CrossEntropyLoss it stops at the
    margin, so no probability can be read from its optimum: what `log_probs` gives, the softmax of
    the scores, is a score too until a temperature has been fitted to it.

        >>> import torch
        >>> scores = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> HingeLoss(reduction="none")(scores, torch.tensor([1, 1]))
        tensor([2., 0.])

    Crammer and Singer, 2001, On the Algorithmic Implementation of Multiclass Kernel-based Vector
    Machines, https://www.jmlr.org/papers/v2/crammer01a.html; Weston and Watkins, 1999, Support
    Vector Machines for Multi-Class Pattern Recognition,
    https://www.esann.org/sites/default/files/proceedings/legacy/es1999-461.pdf

    Args:
        weight: w, one number >= 0 per class, (C,).
        variant: crammer_singer (the largest violation counts) or weston_watkins (all of them do).
        margin: m, > 0.
        ignore_index: targets with this value count for nothing.
        reduction: mean (divided by the sum of the weights that count), sum, or none.
    """

    def __init__(
        self,
        weight: Weight = None,
        *,
        variant: Literal["crammer_singer", "weston_watkins"] = "crammer_singer",
        margin: float = 1.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction)
        self.variant = checks.choice("variant", variant, ("crammer_singer", "weston_watkins"))
        self.margin = checks.number("margin", margin, "(0, inf)")

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the largest or the sum of max(0, m + z_k - z_y) over k != y."""
        rows = targets.unsqueeze(1)
        violations = (self.margin + logits - logits.gather(1, rows)).relu()
        others = violations.scatter(1, rows, 0)
        return others.max(1).values if self.variant == "crammer_singer" else others.sum(1)

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Refuse target probabilities."""
        raise TypeError(
            "HingeLoss takes class indices: a margin is between one class and the others, and its"
            " sources define none for a mixture of classes; use targets.argmax(1)"
        )

    def quick_elementwise(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same; its gradient is 1 at each violation, and minus their number at y."""
        rows = targets.unsqueeze(1)
        violations = logits - (logits.gather(1, rows) - self.margin)  # (N, C, d1..dk)
        violations.scatter_(1, rows, 0).clamp_(min=0)
        if self.variant == "crammer_singer":
            losses, worst = violations.max(1, keepdim=True)
            slope = violations.zero_().scatter_(1, worst, losses.sign())
        else:
            losses, slope = violations.sum(1, keepdim=True), violations.sign_()
        return losses, slope.scatter_(1, rows, -slope.sum(1, keepdim=True))
