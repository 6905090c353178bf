"""What every loss shares: the checks of a batch, the mask, the one reduction, and the link.

`N` rows, `C` classes, `d1..dk` further axes (time, height, width); class axis 1 as in torch.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from losses import checks

Weight = checks.Values | None
Reduction = Literal["mean", "sum", "none"]
Link = Literal["default", "own", "softmax"]


class ClassificationLoss(nn.Module):
    """Score logits (N, C, d1..dk) against targets (N, d1..dk), and say what probabilities it means.

    A subclass is its formula: `elementwise(logits, targets)` gives the loss of each element,
    (N, d1..dk); where softmax is not what its minimiser means, `log_probs` gives the link.

        >>> class ZeroOneLoss(ClassificationLoss):
        ...     def elementwise(self, logits, targets):
        ...         return (logits.argmax(1) != targets).float()
        >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> ZeroOneLoss()(logits, torch.tensor([0, 0]))
        tensor(0.5000)

    The mean divides by the sum of the weights of the targets that count (torch's definition); when
    none counts, the loss and its gradient are 0. float16 and bfloat16 are computed in float32.

    Args:
        weight: one number >= 0 a class, (C,), by which that class's losses are multiplied.
        ignore_index: targets with this value count for nothing.
        reduction: what `forward` returns: mean, sum, or none (one loss an element).
        link: what `log_probs` reports: the loss's own probabilities, softmax, or its default.
        floor: share of the uniform distribution in an own link that can reach zero.
    """

    weight: Tensor | None
    default_link: Literal["own", "softmax"] = "softmax"
    takes_probabilities = False  # whether targets may be class probabilities (N, C, d1..dk)

    def __init__(
        self,
        weight: Weight = None,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        link: Link = "default",
        floor: float = 1e-3,
    ) -> None:
        super().__init__()
        weight = None if weight is None else checks.class_weight("weight", weight)
        self.register_buffer("weight", weight)
        self.ignore_index = checks.index("ignore_index", ignore_index)
        self.reduction = checks.choice("reduction", reduction, ("mean", "sum", "none"))
        checks.choice("link", link, ("default", "own", "softmax"))
        self.link = self.default_link if link == "default" else link
        self.floor = checks.number("floor", floor, "[0, 1)")
        self._checked = False

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each element, (N, d1..dk), before weights and mask."""
        raise NotImplementedError

    def log_probs(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities reported for these logits, (N, C, d1..dk)."""
        return self.own_log_probs(logits) if self.link == "own" else log_softmax(logits)

    def own_log_probs(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities that the minimiser of this loss means."""
        chosen = type(self).log_probs is not ClassificationLoss.log_probs
        return self.log_probs(logits) if chosen else log_softmax(logits)

    @property
    def link_differs(self) -> bool:
        """Whether the loss's own link is another than softmax."""
        base, own = ClassificationLoss, type(self)
        return own.log_probs is not base.log_probs or own.own_log_probs is not base.own_log_probs

    def forward(self, logits: Tensor, targets: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return the reduced loss; `inputs` are for a loss that asks another model about them."""
        if self.reduction == "none":
            return self._unreduced(logits, targets, inputs)[0]
        total, normaliser = self.sums(logits, targets, inputs)
        return total if self.reduction == "sum" else total / normaliser.where(normaliser > 0, 1)

    def sums(
        self, logits: Tensor, targets: Tensor, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (total, normaliser); both add up over any cut of the batch into rows."""
        losses, shares = self._unreduced(logits, targets, inputs)
        return losses.sum(), shares.sum()

    def check(self, logits: Tensor, targets: Tensor) -> None:
        """Make every check, those included that read all of the batch.

        It runs by itself on the first batch; call it once an evaluation.
        """
        soft = checks.shapes(logits, targets, self.weight, self.takes_probabilities)
        logits, targets = logits.detach(), targets.detach()
        if logits.ndim == 1:
            logits, targets = logits.unsqueeze(0), targets.unsqueeze(0)
        self._check_values(logits)
        if soft:
            checks.class_probabilities(targets)
        else:
            checks.class_indices(targets, logits.shape[1], self.ignore_index)

    def _check_values(self, logits: Tensor) -> None:
        checks.not_probabilities(logits)

    def _unreduced(
        self, logits: Tensor, targets: Tensor, inputs: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the losses, zero where ignored, and what each adds to the normaliser."""
        soft = checks.shapes(logits, targets, self.weight, self.takes_probabilities)
        self._check_first(logits, targets)
        if logits.ndim == 1:
            losses, shares = self._unreduced(logits.unsqueeze(0), targets.unsqueeze(0), inputs)
            return losses.squeeze(0), shares.squeeze(0)
        logits = at_least_float32(logits)
        if soft:
            if self.ignore_index >= 0:
                raise ValueError(
                    f"ignore_index ({self.ignore_index}) must be left at -100 with class "
                    "probabilities as targets: it applies to class indices only"
                )
            losses = self._weighted(logits, targets.to(logits.dtype), inputs)
            return losses, torch.ones_like(losses)
        targets = targets.long()
        ignored = targets == self.ignore_index
        targets = targets.masked_fill(ignored, 0)
        try:
            losses = self._weighted(logits, targets, inputs)
        except (IndexError, RuntimeError):
            checks.class_indices(targets, logits.shape[1], self.ignore_index)  # says which it was
            raise
        shares = (~ignored).to(losses.dtype)
        if self.weight is not None:
            shares = shares * self.weight[targets].to(losses.dtype)
        return losses.masked_fill(ignored, 0), shares

    def _check_first(self, logits: Tensor, targets: Tensor) -> None:
        # a compiled step cannot stop to look at numbers: the first evaluation does it then
        if not self._checked and not torch.compiler.is_compiling():
            self.check(logits, targets)
            self._checked = logits.numel() > 0

    def _weighted(self, logits: Tensor, targets: Tensor, inputs: Tensor | None) -> Tensor:
        losses = self.elementwise(logits, targets)
        return losses if self.weight is None else losses * self.weight[targets].to(losses.dtype)


def at_least_float32(logits: Tensor) -> Tensor:
    """Return half precisions as float32, anything wider as it is."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def class_axis(logits: Tensor) -> int:
    """Return the axis of the classes: 1, or 0 of a single unbatched row."""
    return 1 if logits.ndim > 1 else 0


def log_softmax(logits: Tensor) -> Tensor:
    """Return log softmax over the class axis."""
    return at_least_float32(logits).log_softmax(class_axis(logits))
