"""The quick form of a loss: its gradient is written by hand and computed together with its value.

Autograd would save every intermediate result and compute a gradient for each: with a vocabulary of
13,000 that is most of the time of a training step. A quick form works in place and returns both
the losses and their gradient. It serves ordinary training, where one derivative is enough; second
derivatives and function transforms use the plain formula, which autograd can follow.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed(logits: Tensor) -> bool:
    """Return whether torch.compile, torch.func or forward-mode autograd follows the computation.

    If so, Python code may not look at the numbers, and a gradient by hand would not be followed.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad.unpack_dual(logits).tangent is not None
    )


def count_for_nothing(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """Return the same logits, whose gradient is 0 in ignored rows, also where it would be NaN.

    The logits are (N, C, d1..dk), the targets (N, d1..dk).
    """
    is_traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if targets.is_cpu and not is_traced:  # a GPU is not waited for
        few = targets.ndim == 1 and targets.numel() < 1000  # sooner read through as a list
        if ignore_index not in (targets.tolist() if few else targets):
            return logits
    if is_transformed(logits):
        return logits.masked_fill((targets == ignore_index).unsqueeze(1), 0)
    if not (logits.requires_grad and torch.is_grad_enabled()):
        return logits
    ignored = (targets == ignore_index).unsqueeze(1)
    logits = logits.view_as(logits)  # the hook is only for what comes from here
    logits.register_hook(lambda slope: None if slope is None else slope.masked_fill(ignored, 0))
    return logits


class QuickForm(torch.autograd.Function):
    """apply(loss_fn, logits, targets): loss_fn.elementwise, computed by loss_fn.quick_elementwise.

    A backward pass with create_graph=True computes the plain formula again, so that autograd sees
    how the gradient depends on the logits.
    """

    @staticmethod
    def forward(ctx: Any, loss_fn: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the losses, (N, d1..dk), and keep their gradient."""
        losses, slope = loss_fn.quick_elementwise(logits, targets)
        ctx.loss_fn = loss_fn
        ctx.save_for_backward(logits, targets, slope)
        return torch.squeeze(losses, 1)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[None, Tensor, None]:
        """Return the gradient of the logits for that of the losses, `outer`."""
        logits, targets, slope = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return None, outer.unsqueeze(1) * slope, None
        losses = ctx.loss_fn.elementwise(logits, targets)
        return None, *torch.autograd.grad(losses, logits, outer, create_graph=True), None


def split_softmax(logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (others, p, q): softmax with the target's entry set to 0, that entry, and 1 - p.

    `logits` are (N, C, d1..dk); the targets `rows`, p and q are (N, 1, d1..dk). q is the sum of the
    others, so it keeps its digits where p rounds to 1.
    """
    others = logits.softmax(1)
    p = others.gather(1, rows)
    others.scatter_(1, rows, 0)
    return others, p, others.sum(1, keepdim=True)
