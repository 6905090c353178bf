"""A loss whose gradient is written beside its value, so that autograd keeps one (N, C) tensor.

Autograd would save each intermediate and give each a gradient of its own: at a vocabulary of 13,000
that is most of the time of a step. Here a formula works in place and hands over what it found.
"""

from typing import Any

import torch
from torch import Tensor


def split_softmax(logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (others, p, q): softmax with the target's entry at 0, that entry, and 1 - p.

    `logits` are (N, C, d1..dk), detached; the targets `rows`, p and q are (N, 1, d1..dk). q is the
    sum of the others, so it keeps its digits where p rounds to 1.
    """
    others = logits.softmax(1)
    p = others.gather(1, rows)
    others.scatter_(1, rows, 0)
    return others, p, others.sum(1, keepdim=True)


def with_gradient(logits: Tensor, losses: Tensor, slope: Tensor) -> Tensor:
    """Return `losses` (N, 1, d1..dk) without axis 1, and with `slope` (N, C, d1..dk) as gradient.

    Both come from `logits.detach()`. A second derivative raises.
    """
    anchor = logits.narrow(1, 0, 0).clone()  # leads back to the logits, and holds none of them
    return _WithGradient.apply(logits, losses, slope, anchor).squeeze(1)


class _WithGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor, losses: Tensor, slope: Tensor | None, anchor: Tensor | None
    ) -> Tensor:
        return losses.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        slope, anchor = ctx.saved_tensors
        if slope is None:
            raise RuntimeError(
                "this loss is differentiable once, a second derivative was asked for: use plain "
                "CrossEntropyLoss"
            )
        gradient = outer * slope  # (N, C, d1..dk)
        if torch.is_grad_enabled():  # create_graph=True: how it depends on the logits was not kept
            gradient = _WithGradient.apply(anchor, gradient, None, None)
        return gradient, None, None, None
