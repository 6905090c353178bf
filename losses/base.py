"""What every loss shares: input checks, the mask, weights, the reduction, and the link.

`N` rows, `C` classes, `d1..dk` further axes (time, height, width); class axis 1 as in torch.
"""

import inspect
from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn

from losses import checks
from losses.gradient import QuickForm, count_for_nothing, is_transformed

Weight = checks.Values | None
Reduction = Literal["mean", "sum", "none"]
Link = Literal["own", "softmax"]

TINY = torch.finfo(torch.float32).tiny  # where no target counts, 0 / TINY is 0, and 0 / 0 is not


class ClassificationLoss(nn.Module):
    """Score logits (N, C, d1..dk) against targets (N, d1..dk), and turn logits into probabilities.

    A subclass is its formula: `elementwise(logits, targets)` returns the loss of each element,
    (N, d1..dk), and `soft_elementwise` that for targets that are class probabilities. If
    softmax(logits) are not the probabilities that minimise it, the subclass also overrides
    `own_log_probs(logits)`, its link, which `log_probs` then reports.

        >>> class ZeroOneLoss(ClassificationLoss):
        ...     def elementwise(self, logits, targets):
        ...         return (logits.argmax(1) != targets).float()
        >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> ZeroOneLoss()(logits, torch.tensor([0, 0]))
        tensor(0.5000)

    For speed, the class that defines `elementwise` may also define `quick_elementwise(logits,
    targets)`, which returns the same losses as (N, 1, d1..dk), and their gradient, (N, C, d1..dk).
    Ordinary training then uses it; second derivatives and torch.func use `elementwise`.

    The mean divides by the sum of the weights of the targets that count (torch's definition); if
    none counts, the loss and its gradient are 0. float16 and bfloat16 are computed in float32.

    Args:
        weight: one number >= 0 per class, (C,), by which the losses of that class are multiplied.
        ignore_index: targets with this value count for nothing.
        reduction: what `forward` returns: mean, sum, or none (one loss per element).
        link: what `log_probs` reports: `own` for `own_log_probs`, which is softmax unless a loss
            overrides it, or `softmax` in any case.
        floor: share of the uniform distribution that is mixed into an own link where that could
            otherwise be zero.
    """

    weight: Tensor | None
    includes_weight = False  # whether `elementwise` multiplies by the weights itself

    def __init__(
        self,
        weight: Weight = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        link: Link = "own",
        floor: float = 1e-3,
    ) -> None:
        super().__init__()
        weight = None if weight is None else checks.class_weight("weight", weight)
        self.register_buffer("weight", weight)
        self.ignore_index = checks.index("ignore_index", ignore_index)
        self.reduction = checks.choice("reduction", reduction, ("mean", "sum", "none"))
        self.link = checks.choice("link", link, ("own", "softmax"))
        self.floor = checks.number("floor", floor, "[0, 1)")
        self._checked = False
        # only the class that the formula is from can have a quick form of it
        owner = next(c for c in type(self).__mro__ if "elementwise" in vars(c))
        self._has_quick_form = "quick_elementwise" in vars(owner)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the weights; to Apple's GPUs, which have no float64, as float32."""
        try:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        except TypeError:
            self.float()
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """Return the constructor's arguments and their values."""
        names = [n for n in inspect.signature(type(self)).parameters if hasattr(self, n)]
        return ", ".join(f"{name}={_short(getattr(self, name))}" for name in names)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each element, (N, d1..dk).

        Targets that are ignored arrive as class 0, and their losses are set to 0 afterwards. Losses
        are multiplied by the weights afterwards, too, unless the class sets `includes_weight`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define elementwise(logits, targets)")

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each element, weights included, where targets are probabilities.

        They are (N, C, d1..dk) and sum to 1 over the classes: smoothed, mixed, or a teacher's.
        """
        name = type(self).__name__
        raise TypeError(f"{name} takes class indices, not probabilities: use targets.argmax(1)")

    def log_probs(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities that are reported for these logits, (N, C, d1..dk)."""
        return self.own_log_probs(logits) if self.link == "own" else log_softmax(logits)

    def own_log_probs(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities for which these logits minimise the expected loss."""
        return log_softmax(logits)

    @property
    def link_differs(self) -> bool:
        """Whether the loss's own link is another than softmax.

        If so, an evaluation also measures the link that is not reported: `ece_own`, `ece_softmax`.
        """
        return type(self).own_log_probs is not ClassificationLoss.own_log_probs

    def forward(self, logits: Tensor, targets: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return the reduced loss; `inputs` are for a loss that asks another model about them."""
        if self.reduction == "none":
            return self._unreduced(logits, targets, inputs)[0]
        total, normaliser = self.sums(logits, targets, inputs)
        return total if self.reduction == "sum" else total / normaliser.clamp(min=TINY)

    def sums(
        self, logits: Tensor, targets: Tensor, inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (total, normaliser), both (), whose quotient is the mean loss.

        The normaliser is the sum of the weights of the targets that count: without weights, their
        number. Both add up over any cut of the batch into rows.
        """
        losses, shares = self._unreduced(logits, targets, inputs)
        return losses.sum(), shares.sum()

    def check(self, logits: Tensor, targets: Tensor) -> None:
        """Make every check, including those that read the whole batch.

        The first batch is checked automatically; call this once per evaluation.
        """
        soft = checks.shapes(logits, targets, self.weight)
        logits, targets = logits.detach(), targets.detach()
        if logits.ndim == 1:
            logits, targets = logits.unsqueeze(0), targets.unsqueeze(0)
        self._check_values(logits)
        if soft:
            checks.class_probabilities(targets, self.ignore_index)
        else:
            checks.class_indices(targets, logits.shape[1], self.ignore_index)

    def _check_values(self, logits: Tensor) -> None:
        checks.not_probabilities(logits)

    def _check_first(self, logits: Tensor, targets: Tensor) -> None:
        # a batch whose numbers cannot be looked at leaves the check to the next one
        if not self._checked and not is_transformed(logits):
            self.check(logits, targets)
            self._checked = logits.numel() > 0

    def _unreduced(
        self, logits: Tensor, targets: Tensor, inputs: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return losses (N, d1..dk), zero where ignored, and what each adds to the normaliser."""
        soft = checks.shapes(logits, targets, self.weight)
        self._check_first(logits, targets)
        if logits.ndim == 1:
            losses, shares = self._unreduced(logits.unsqueeze(0), targets.unsqueeze(0), inputs)
            return losses[0], shares[0]
        logits = at_least_float32(logits)
        if soft:
            losses = self._losses(logits, targets.to(logits.dtype), inputs)
            return losses, torch.ones_like(losses)
        targets = targets.long()
        logits = count_for_nothing(logits, targets, self.ignore_index)
        ignored = targets == self.ignore_index
        targets = targets.masked_fill(ignored, 0)
        try:
            losses = self._losses(logits, targets, inputs)
        except (IndexError, RuntimeError):
            if not is_transformed(logits):  # a target out of range is named, if that was the cause
                checks.class_indices(targets, logits.shape[1], self.ignore_index)
            raise
        shares = (~ignored).to(losses.dtype)
        if self.weight is not None:
            shares = shares * self.weight[targets].to(losses.dtype)
            losses = losses if self.includes_weight else losses * shares
        return losses.masked_fill(ignored, 0), shares

    def _losses(self, logits: Tensor, targets: Tensor, inputs: Tensor | None) -> Tensor:
        is_soft = targets.is_floating_point()
        if self._has_quick_form and not is_soft and not is_transformed(logits):
            return QuickForm.apply(self, logits, targets)
        formula = self.soft_elementwise if is_soft else self.elementwise
        losses = formula(logits, targets)
        expected = targets.shape[:1] + targets.shape[2:] if is_soft else targets.shape
        if not isinstance(losses, Tensor) or losses.shape != expected:
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise TypeError(
                f"{type(self).__name__}.{formula.__name__} must return one loss per target, a"
                f" tensor of shape {tuple(expected)}, got {got}"
            )
        return losses


def _short(value: object) -> str:
    return f"Tensor{tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def at_least_float32(logits: Tensor) -> Tensor:
    """Return half precisions as float32, anything wider as it is."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def over_classes(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the sum over classes of values (N, C, d1..dk), each times its class's weight."""
    if weight is not None:
        values = values * weight.to(values.dtype).view(-1, *[1] * (values.ndim - 2))
    return values.sum(1)


def class_axis(logits: Tensor) -> int:
    """Return the axis of the classes: 1, or 0 of a single unbatched row."""
    return 1 if logits.ndim > 1 else 0


def log_softmax(logits: Tensor) -> Tensor:
    """Return log softmax over the class axis."""
    return at_least_float32(logits).log_softmax(class_axis(logits))
