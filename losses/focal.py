"""Focal loss: cross-entropy that pays less attention to what is already right."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import checks
from losses.base import (
    ClassificationLoss,
    Link,
    Reduction,
    Weight,
    class_axis,
    log_softmax,
    over_classes,
)
from losses.gradient import split_softmax
from losses.link import without_weight


class FocalLoss(ClassificationLoss):
    """Weigh cross-entropy down where the target is already probable.

    For logits z, p = softmax(z), g = `gamma`, w = `weight`, target y:

        loss = w_y (1 - p_y)^g (-ln p_y)

    gamma = 0 is CrossEntropyLoss. The larger gamma, the flatter softmax(z) at the optimum: for true
    probabilities eta, w eta is proportional to h(p) with h = p / ((1 - p)^g - g (1 - p)^(g - 1) p
    ln p). The link is h(p) / w, normalised; it ranks classes as p / w does.

        >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> FocalLoss(reduction="none")(logits, torch.tensor([0, 1]))
        tensor([0.0485, 0.0063])

    Lin et al., 2017, Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002;
    Charoenphakdee et al., 2021, On Focal Loss for Class-Posterior Probability Estimation (the
    link), https://arxiv.org/abs/2011.09172

    Args:
        weight: w, one number >= 0 per class, (C,).
        gamma: g, >= 0: how strongly rows whose target is already probable are weighed down.
        ignore_index: targets with this value count for nothing.
        reduction: mean (divided by the sum of the weights that count), sum, or none.
        link: what `log_probs` reports: `own` for h(p) / w, or `softmax`.
        floor: share of the uniform distribution in the own link where a weight is zero.
    """

    def __init__(
        self,
        weight: Weight = None,
        *,
        gamma: float = 2.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        link: Link = "own",
        floor: float = 1e-3,
    ) -> None:
        super().__init__(weight, ignore_index, reduction, link, floor)
        self.gamma = checks.number("gamma", gamma, "[0, inf)")

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return q^g (-ln p), p the probability of the target and q = 1 - p."""
        rows, log_probs = targets.unsqueeze(1), logits.log_softmax(1)
        log_p = log_probs.gather(1, rows).squeeze(1)
        log_q = log_probs.scatter(1, rows, -torch.inf).logsumexp(1)
        # with o = ln(p / q), p = sigmoid(o) and q = sigmoid(-o) keep their digits near 0 and 1
        o = log_p - log_q
        return -(self.gamma * F.logsigmoid(-o)).exp() * F.logsigmoid(o)

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return sum_k w_k t_k (1 - p_k)^g (-ln p_k) for target probabilities t."""
        log_p = logits.log_softmax(1)
        # the largest p may round to 1, and then 1 - p is the sum of the others
        top = log_p.argmax(1, keepdim=True)
        log_q_top = log_p.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
        log_q = torch.log1p(-log_p.exp().scatter(1, top, 0)).scatter(1, top, log_q_top)
        damping = (self.gamma * log_q).exp() if self.gamma else 1.0
        return over_classes(-targets * damping * log_p, self.weight)

    def quick_elementwise(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same; its gradient is c p_k at k != y and -c q at y."""
        rows = targets.unsqueeze(1)
        others, p, q = split_softmax(logits, rows)
        # ln p = z_y - max z + ln max p does not underflow, and ln(1 - q) keeps its digits near 0
        peak = torch.maximum(p, others.amax(1, keepdim=True))
        far = logits.gather(1, rows) - logits.amax(1, keepdim=True) + peak.log()
        log_p = torch.where(q < 0.5, torch.log1p(-q), far)
        # c = q^g - g q^(g-1) p ln p, written without the power that is infinite at q = 0, g < 1
        ratio = torch.where(q > 0, -log_p / q, 1)
        c = q.pow(self.gamma) * (1 + self.gamma * torch.where(p > 0, p * ratio, 0))
        return -q.pow(self.gamma) * log_p, others.mul_(c).scatter_(1, rows, -c * q)

    @property
    def link_differs(self) -> bool:
        """Whether gamma or weights move the optimum away from the true probabilities."""
        return self.gamma > 0 or self.weight is not None

    def own_log_probs(self, logits: Tensor) -> Tensor:
        """Return the log of h(p) / w, normalised."""
        axis, g = class_axis(logits), self.gamma
        log_p = log_softmax(logits)
        p = log_p.exp()
        q = 1 - p
        # h = p / (q^(g-1) (q - g p ln p)); where p is 0, so is p ln p
        slope = q - g * p * log_p.clamp(min=-1e30)
        if g < 64:  # one logarithm less; but for the top class q is 1/2 or more
            log_h = log_p - slope.mul(q.pow(g - 1)).log()
        else:
            log_h = log_p - (g - 1) * q.log() - slope.log()
        # one class at most is near 1, where 1 - p has lost its digits: q is the sum of the others
        top = log_p.argmax(axis, keepdim=True)
        log_q = log_p.scatter(axis, top, -torch.inf).logsumexp(axis, keepdim=True).clamp(min=-1e30)
        q = log_q.exp()
        log_p = torch.where(q < 0.5, torch.log1p(-q), log_p.gather(axis, top))
        ratio = torch.where(q > 0, -log_p / q, 1)
        log_h = log_h.scatter_(axis, top, log_p - g * log_q - torch.log1p(g * log_p.exp() * ratio))
        h = log_h.log_softmax(axis)
        return h if self.weight is None else without_weight(h, self.weight, self.floor)
