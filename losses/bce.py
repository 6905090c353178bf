"""Binary cross-entropies: one class against the rest, and many labels at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import checks
from losses.base import ClassificationLoss, Link, Reduction, Weight, at_least_float32, class_axis


class OneVsRestBCELoss(ClassificationLoss):
    """Ask of every class alone whether it is the target: one sigmoid per class.

    For logits z, s = sigmoid(z) and target y:

        loss = -ln s_y - sum_{k != y} ln(1 - s_k)

    Summed over classes: C times torch's BCEWithLogitsLoss on one-hot targets. CrossEntropyLoss lets
    the classes compete; here each sigmoid reaches its own eta_k, so the link normalises sigmoids.

        >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> OneVsRestBCELoss(reduction="none")(logits, torch.tensor([0, 1]))
        tensor([2.1846, 1.7461])

    Rifkin and Klautau, 2004, In Defense of One-Vs-All Classification,
    https://www.jmlr.org/papers/v5/rifkin04a.html

    Args:
        ignore_index: targets with this value count for nothing.
        reduction: mean (over the rows that count), sum, or none.
        link: what `log_probs` reports: `own` for normalised sigmoids, or `softmax`.
    """

    def __init__(
        self, *, ignore_index: int = -100, reduction: Reduction = "mean", link: Link = "own"
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, link=link)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -ln s_y - sum_{k != y} ln(1 - s_k), with 1 - sigmoid(z) = sigmoid(-z)."""
        rows = targets.unsqueeze(1)
        log_s_y = F.logsigmoid(logits.gather(1, rows)).squeeze(1)
        log_others = F.logsigmoid(-logits).scatter(1, rows, 0)
        return -log_s_y - log_others.sum(1)

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return -sum_k q_k ln s_k + (1 - q_k) ln(1 - s_k) for target probabilities q."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)

    def quick_elementwise(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return softplus(-z_y) + sum_{k != y} softplus(z_k); its gradient is s_k, s_y - 1 at y."""
        rows = targets.unsqueeze(1)
        z_y = logits.gather(1, rows)
        # softplus(z) = max(z, 0) + ln(1 + exp(-|z|)), the first of which is summed here
        terms = logits.clamp(min=0).scatter_(1, rows, (-z_y).clamp_(min=0))  # (N, C, d1..dk)
        losses = terms.sum(1, keepdim=True)
        losses += _sum_of_log1p_(torch.abs(logits, out=terms).neg_().exp_())
        return losses, torch.sigmoid(logits, out=terms).scatter_(1, rows, -torch.sigmoid(-z_y))

    def own_log_probs(self, logits: Tensor) -> Tensor:
        """Return the log of s / sum s."""
        z = at_least_float32(logits)
        # ln s is z where s is nearly too small a number; logsigmoid would call the slow log1p
        log_s = torch.where(z < -80, z, z.clamp(min=-80).sigmoid().log())
        return log_s.log_softmax(class_axis(logits))


def _sum_of_log1p_(x: Tensor) -> Tensor:
    """Return the sum over axis 1 of ln(1 + x) for x in [0, 1], which are overwritten: (N, 1, ...).

    It is the logarithm of a product, and torch's log1p is slow: with AVX-512 it takes one number
    at a time. (1 + a) (1 + b) = 1 + (a + b + a b) keeps the digits of a small a, which 1 + a loses.
    """
    size = x.shape[1]
    for _ in range(6):  # a product of 64 factors, each up to 2, is far from overflow
        half = size // 2
        a, b = x[:, :half], x[:, size - half : size]
        a.addcmul_(a, b).add_(b)
        size -= half
    return x[:, :size].log1p().sum(1, keepdim=True)


class MultiLabelBCELoss(ClassificationLoss):
    """Ask of every label alone whether it applies: torch's BCEWithLogitsLoss, with its link.

    For logits z and targets t of the same shape, s = sigmoid(z), c = `pos_weight`, w = `weight`:

        loss = w (-c t ln s - (1 - t) ln(1 - s))   for each element

    OneVsRestBCELoss is its sum over classes for one-hot t. Its minimiser has odds c times the true
    ones, so the link is s / (s + c (1 - s)) = sigmoid(z - ln c), a probability for each label that
    is not normalised over labels.

        >>> logits = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
        >>> MultiLabelBCELoss()(logits, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor(0.4019)

    Zhang and Zhou, 2014, A Review on Multi-Label Learning Algorithms,
    https://doi.org/10.1109/TKDE.2013.39

    Args:
        weight: w, numbers >= 0 in a shape that broadcasts to that of the logits.
        reduction: mean (over all elements, as torch does), sum, or none.
        pos_weight: c, numbers > 0 that multiply the loss where a label applies: one per label,
            (C,), whatever axes follow, or a shape that broadcasts to that of the logits.
    """

    pos_weight: Tensor | None

    def __init__(
        self, weight: Weight = None, *, reduction: Reduction = "mean", pos_weight: Weight = None
    ) -> None:
        super().__init__(reduction=reduction)
        if weight is not None:
            self.weight = checks.factors("weight", weight)
        if pos_weight is not None:
            pos_weight = checks.factors("pos_weight", pos_weight, allowed="> 0")
        self.register_buffer("pos_weight", pos_weight)

    def own_log_probs(self, logits: Tensor) -> Tensor:
        """Return log sigmoid(z - ln c) of each label."""
        z = at_least_float32(logits)
        factor = self._per_label(z)
        return F.logsigmoid(z if factor is None else z - factor.log())

    def _per_label(self, logits: Tensor) -> Tensor | None:
        """Return `pos_weight` in a shape that broadcasts to the logits, (C,) along their labels."""
        factor = self.pos_weight
        if factor is None or factor.ndim != 1 or logits.ndim < 2:
            return None if factor is None else factor.to(logits.dtype)
        num_labels = logits.shape[1]
        if len(factor) not in (1, num_labels):
            raise ValueError(
                f"pos_weight must be one number per label, {num_labels}, got {len(factor)}"
            )
        return factor.to(logits.dtype).view(-1, *[1] * (logits.ndim - 2))

    def check(self, logits: Tensor, targets: Tensor) -> None:
        """Make every check, including those that read the whole batch."""
        checks.labels(logits, targets)
        if logits.ndim > 1 and logits.shape[1] > 1:
            checks.not_probabilities(logits.detach())
        checks.between_0_and_1(targets.detach())

    def _unreduced(
        self, logits: Tensor, targets: Tensor, inputs: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        checks.labels(logits, targets)
        self._check_first(logits, targets)
        z = at_least_float32(logits)
        weight = None if self.weight is None else self.weight.to(z.dtype)
        losses = F.binary_cross_entropy_with_logits(
            z, targets.to(z.dtype), weight, reduction="none", pos_weight=self._per_label(z)
        )
        return losses, losses.new_tensor(losses.numel())
