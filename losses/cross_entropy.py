"""Cross-entropy: plain, label-smoothed, class-weighted."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import checks
from losses.base import (
    ClassificationLoss,
    Link,
    Reduction,
    Weight,
    at_least_float32,
    class_axis,
    log_softmax,
)
from losses.gradient import count_for_nothing
from losses.link import with_floor, without_weight

# the kernel behind F.nll_loss; its argument 2 stands for reduction="sum"
_NLL_SUMS = torch.ops.aten.nll_loss_forward.default


class CrossEntropyLoss(ClassificationLoss):
    """Measure how surprised softmax(logits) is by the target: torch's loss, with its link.

    For logits z, p = softmax(z), K classes, e = `label_smoothing`, w = `weight`, target y:

        loss = sum_k w_k q_k (-ln p_k),   q_k = (1 - e) [k = y] + e / K

    With e = 0 that is w_y (-ln p_y). Probability targets t take the place of [k = y]; their mean
    divides by N, not by the weights. NLLLoss is the same on log-probabilities; FocalLoss with
    gamma = 0 and DistillationLoss with alpha = 0 are the same on logits.

    The minimiser of the expected loss has p proportional to w ((1 - e) eta + e / K) for true
    probabilities eta. `link="own"` solves that for eta; by default softmax is reported, because the
    weights ask for another decision on purpose, and clipping at zero costs nll under smoothing.

        >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> CrossEntropyLoss(reduction="none")(logits, torch.tensor([0, 1]))
        tensor([0.4170, 0.1967])

    Szegedy et al., 2016, Rethinking the Inception Architecture (label smoothing),
    https://arxiv.org/abs/1512.00567; King and Zeng, 2001, Logistic Regression in Rare Events Data
    (weights and the prior correction), https://doi.org/10.1093/oxfordjournals.pan.a004868

    Args:
        weight: w, one number >= 0 per class, (C,).
        ignore_index: class indices with this value count for nothing.
        reduction: mean (divided by the sum of the weights that count), sum, or none.
        label_smoothing: e, in [0, 1): the share of the uniform distribution in the targets.
        link: what `log_probs` reports: `own` for the solution for eta, or `softmax`.
        floor: share of the uniform distribution in the own link where that could be zero.
    """

    includes_weight = True

    def __init__(
        self,
        weight: Weight = None,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        link: Link = "softmax",
        floor: float = 1e-3,
    ) -> None:
        super().__init__(weight, ignore_index, reduction, link, floor)
        self.label_smoothing = checks.number("label_smoothing", label_smoothing, "[0, 1)")

    def sums(
        self, logits: Tensor, targets: Tensor, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (total, normaliser), in the usual case from torch's kernel that computes both."""
        if not self._checked:
            self._check_first(logits, targets)
        # a subclass with a formula of its own is computed by that
        usual = self.label_smoothing == 0 and self._has_quick_form
        try:
            if usual and logits.ndim == 2 and not targets.is_floating_point():
                logits = count_for_nothing(logits, targets, self.ignore_index)
                log_probs = at_least_float32(logits).log_softmax(1)
                weight = None if self.weight is None else self.weight.to(log_probs.dtype)
                return _NLL_SUMS(log_probs, targets.long(), weight, 2, self.ignore_index)
        except (AttributeError, IndexError, RuntimeError, TypeError):
            pass  # the general case below refuses the same batch and says what to do
        return super().sums(logits, targets, inputs)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return sum_k w_k q_k (-ln p_k) by torch; unlike other losses it includes the weights."""
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        return F.cross_entropy(
            logits,
            targets,
            weight,
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def quick_elementwise(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for class indices; its gradient is sum(w q) p_k - w_k q_k."""
        rows, num_classes = targets.unsqueeze(1), logits.shape[1]
        weight = logits.new_ones(num_classes) if self.weight is None else self.weight
        weight = weight.to(logits.dtype)
        everywhere = self.label_smoothing / num_classes * weight  # (C,)
        at_target = (1 - self.label_smoothing) * weight[rows]  # (N, 1, d1..dk)
        log_probs = logits.log_softmax(1)  # (N, C, d1..dk)
        with torch.autocast(logits.device.type, enabled=False):  # it would round the product
            spread = torch.tensordot(log_probs, everywhere, ([1], [0])).unsqueeze(1)
        losses = -at_target * log_probs.gather(1, rows) - spread
        slope = log_probs.exp_().mul_(at_target + everywhere.sum())
        slope.sub_(everywhere.view(-1, *[1] * (logits.ndim - 2)))
        return losses, slope.scatter_(1, rows, slope.gather(1, rows) - at_target)

    def _losses(self, logits: Tensor, targets: Tensor, inputs: Tensor | None) -> Tensor:
        # torch's own function is quick unless indices are smoothed
        if self.label_smoothing > 0 and targets.ndim < logits.ndim:
            return super()._losses(logits, targets, inputs)
        return self.elementwise(logits, targets)

    @property
    def link_differs(self) -> bool:
        """Whether weights or smoothing move the optimum away from the true probabilities."""
        return self.weight is not None or self.label_smoothing > 0

    def own_log_probs(self, logits: Tensor) -> Tensor:
        """Return log eta, where p is proportional to w ((1 - e) eta + e / K)."""
        log_probs = log_softmax(logits)
        if self.weight is not None:
            log_probs = without_weight(log_probs, self.weight, self.floor)
        if self.label_smoothing == 0:
            return log_probs
        # eta up to a factor; what is below e / K can only be noise
        eta = log_probs.exp() - self.label_smoothing / logits.shape[class_axis(logits)]
        return with_floor(eta.clamp(min=0), self.floor)
