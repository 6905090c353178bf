"""The quick form of a loss: its gradient is written by hand and computed together with its value.

Autograd would save every intermediate result and compute a gradient for each: with a vocabulary of
13,000 that is most of the time of a training step. A quick form works in place and returns both
the losses and their gradient. It serves ordinary training, where one derivative is enough; second
derivatives and function transforms use the plain formula, which autograd can follow.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

Formula = Callable[[Tensor, Tensor], Tensor]
QuickFormula = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def is_transformed(logits: Tensor) -> bool:
    """Return whether torch.compile, torch.func or forward-mode autograd follows the computation.

    If so, no Python code may look at the numbers, and a gradient by hand would be left out.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad.unpack_dual(logits).tangent is not None
    )


def quick_losses(plain: Formula, quick: QuickFormula, logits: Tensor, targets: Tensor) -> Tensor:
    """Return plain(logits, targets), (N, d1..dk), computed by `quick` where that is possible.

    `quick` returns the losses, (N, 1, d1..dk), and their gradient, (N, C, d1..dk).
    """
    if is_transformed(logits):
        return plain(logits, targets)
    losses: Tensor = _QuickLosses.apply(logits, targets, plain, quick)
    return losses


class _QuickLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, plain: Formula, quick: QuickFormula
    ) -> Tensor:
        losses, slope = quick(logits, targets)
        ctx.save_for_backward(logits, targets, slope)
        ctx.plain = plain
        return losses.squeeze(1)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        logits, targets, slope = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return outer.unsqueeze(1) * slope, None, None, None
        # create_graph=True: autograd has to see how the gradient depends on the logits
        losses = ctx.plain(logits, targets)
        (gradient,) = torch.autograd.grad(losses, logits, outer, create_graph=True)
        return gradient, None, None, None


def split_softmax(logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (others, p, q): softmax with the target's entry set to 0, that entry, and 1 - p.

    `logits` are (N, C, d1..dk); the targets `rows`, p and q are (N, 1, d1..dk). q is the sum of the
    others, so it keeps its digits where p rounds to 1.
    """
    others = logits.softmax(1)
    p = others.gather(1, rows)
    others.scatter_(1, rows, 0)
    return others, p, others.sum(1, keepdim=True)
