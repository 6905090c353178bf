"""A loss whose gradient is written beside its value, so that autograd keeps one (N, C) tensor.

Autograd would save each intermediate and give each a gradient of its own: at a vocabulary of 13,000
that is most of the time of a step. Here a formula works in place and hands over what it found.
"""

from typing import Any

import torch
from torch import Tensor


def with_gradient(
    logits: Tensor,
    targets: Tensor,
    losses: Tensor,
    base: Tensor,
    scale: Tensor,
    at_target: Tensor,
    square: Tensor | None = None,
) -> Tensor:
    """Return `losses` (N, d1..dk), computed from `logits.detach()`, with their gradient.

    It is `at_target` at the target and scale * base + square * base^2 elsewhere, of which `base` is
    (N, C, d1..dk) and the factors are (N, d1..dk). A second derivative raises.
    """
    result: Tensor = _WithGradient.apply(logits, targets, losses, base, scale, at_target, square)
    return result


class _WithGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, targets: Tensor, losses: Tensor, *rest: Tensor | None) -> Tensor:
        return losses.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, targets, _, *rest = inputs
        ctx.save_for_backward(targets, *rest)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        targets, base, scale, at_target, square = ctx.saved_tensors
        if square is None:
            gradient = base * (outer * scale).unsqueeze(1)  # (N, C, d1..dk)
        else:
            gradient = base * (outer * square).unsqueeze(1)
            gradient.add_((outer * scale).unsqueeze(1)).mul_(base)
        gradient.scatter_(1, targets.unsqueeze(1), (outer * at_target).unsqueeze(1))
        if torch.is_grad_enabled():  # create_graph=True: how it depends on the logits was not kept
            gradient = _Refuse.apply(gradient, _LEAF)
        return gradient, *[None] * 6


class _Refuse(torch.autograd.Function):
    """Pass a gradient on, and raise when it is differentiated, where silence would be wrong."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, leaf: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "this loss is differentiable once, a second derivative was asked for: use plain "
            "CrossEntropyLoss"
        )


_LEAF = torch.zeros((), requires_grad=True)
