"""Generalised cross-entropy: from cross-entropy to absolute error, for wrong labels."""

import torch
from torch import Tensor

from losses import checks
from losses.base import ClassificationLoss, Link, Reduction, at_least_float32, log_softmax


class GeneralisedCrossEntropyLoss(ClassificationLoss):
    """Let a target that the model rules out cost little, because its label may be wrong.

    For logits z, p = softmax(z), q = `q` and target y:

        loss = (1 - p_y^q) / q

    q towards 0 is CrossEntropyLoss, q = 1 is 1 - p_y, half the absolute error of p. The gradient is
    that of cross-entropy times p_y^q, so rows count less the less the model believes their label.

    The minimiser for true probabilities eta has p proportional to eta^(1 / (1 - q)): it is surer
    than the truth. The link is p^(1 - q), normalised, which is softmax((1 - q) z). With q = 1 the
    minimiser puts everything on the most probable class and there is no link: softmax is then
    reported, and it is a score until a temperature has been fitted, as with HingeLoss.

        >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> GeneralisedCrossEntropyLoss(reduction="none")(logits, torch.tensor([0, 1]))
        tensor([0.3617, 0.1838])

    Zhang and Sabuncu, 2018, Generalized Cross Entropy Loss for Training Deep Neural Networks with
    Noisy Labels, https://arxiv.org/abs/1805.07836

    Args:
        q: in (0, 1]: how little a target counts that the model rules out.
        ignore_index: targets with this value count for nothing.
        reduction: mean (over the rows that count), sum, or none.
        link: what `log_probs` reports: `own` for p^(1 - q), or `softmax`.
    """

    def __init__(
        self,
        *,
        q: float = 0.7,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        link: Link = "own",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, link=link)
        self.q = checks.number("q", q, "(0, 1]")

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return (1 - p_y^q) / q, where 1 - p^q = -expm1(q ln p) keeps its digits for small q."""
        log_p = logits.log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
        return -torch.expm1(self.q * log_p) / self.q

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return sum_k t_k (1 - p_k^q) / q for target probabilities t."""
        return -(targets * torch.expm1(self.q * logits.log_softmax(1))).sum(1) / self.q

    @property
    def link_differs(self) -> bool:
        """Whether there is a link: with q = 1 there is none."""
        return self.q < 1

    def own_log_probs(self, logits: Tensor) -> Tensor:
        """Return log softmax((1 - q) z), or log softmax(z) where q = 1."""
        return log_softmax(at_least_float32(logits) * ((1 - self.q) or 1))
