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
from losses.gradient import with_gradient
from losses.link import with_floor, without_weight

# what F.nll_loss calls; (.., 2, ignore_index) is reduction="sum"
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
    """

    takes_probabilities = True

    def __init__(
        self,
        weight: Weight = None,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        link: Link = "default",
        floor: float = 1e-3,
    ) -> None:
        super().__init__(
            weight, ignore_index=ignore_index, reduction=reduction, link=link, floor=floor
        )
        self.label_smoothing = checks.number("label_smoothing", label_smoothing, "[0, 1)")

    def sums(
        self, logits: Tensor, targets: Tensor, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (total, normaliser), both of torch's one kernel where it has them."""
        weight = self.weight
        soft = checks.shapes(logits, targets, weight, True)
        if self.label_smoothing == 0 and logits.ndim == 2 and not soft:
            self._check_first(logits, targets)
            log_probs = at_least_float32(logits).log_softmax(1)
            weight = None if weight is None else weight.to(log_probs.dtype)
            try:
                return _NLL_SUMS(log_probs, targets.long(), weight, 2, self.ignore_index)
            except (IndexError, RuntimeError):
                pass  # what follows can say which target it was
        return super().sums(logits, targets, inputs)

    def _weighted(self, logits: Tensor, targets: Tensor, inputs: Tensor | None) -> Tensor:
        # not elementwise: under smoothing each class has its own weight, not only the target's
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        if self.label_smoothing > 0 and targets.ndim < logits.ndim:
            return self._smoothed(logits, targets, weight)
        return F.cross_entropy(
            logits,
            targets,
            weight,
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def _smoothed(self, logits: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
        """Return what F.cross_entropy does, in less time; the slope is sum(w q) p_k - w_k q_k."""
        rows, num_classes = targets.unsqueeze(1), logits.shape[1]
        weight = logits.new_ones(num_classes) if weight is None else weight
        everywhere = self.label_smoothing / num_classes * weight  # (C,)
        at_target = (1 - self.label_smoothing) * weight[rows]  # (N, 1, d1..dk)
        log_probs = logits.detach().log_softmax(1)  # (N, C, d1..dk)
        with torch.autocast(logits.device.type, enabled=False):  # it would round the product
            spread = torch.tensordot(log_probs, everywhere, ([1], [0])).unsqueeze(1)
        losses = -at_target * log_probs.gather(1, rows) - spread
        slope = log_probs.exp_().mul_(at_target + everywhere.sum())
        slope.sub_(everywhere.view(-1, *[1] * (logits.ndim - 2)))
        slope.scatter_(1, rows, slope.gather(1, rows) - at_target)
        return with_gradient(logits, losses, slope)

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
