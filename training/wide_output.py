"""The wide output layer: loss and gradients over many classes, never holding batch x classes.

N rows, C classes, F features.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from losses import ClassificationLoss
from metrics.rows import cached_rows
from training.evaluation import has_features_and_head, pieces

if TYPE_CHECKING:
    from training.loop import Training

WIDE = 2**21  # a batch of at least this many logits goes by blocks, each of which fits the cache
BLOCK_ROWS = 256  # rows per matrix product; with fewer, reading and writing the weights shows


def rows_that_make_it_wide(model: nn.Module, loss_fn: ClassificationLoss) -> float:
    """Return the number of rows from which a batch is computed by `sums_by_blocks`.

    It is infinite where the model has no `features` and linear `head` (a subclass of nn.Linear may
    compute something else), or where the loss has parameters of its own, whose gradient is not
    computed here.
    """
    head: Any = model.head if has_features_and_head(model) else None
    if type(head) is not nn.Linear or [*loss_fn.parameters()]:
        return math.inf
    return WIDE / head.out_features


def sums_by_blocks(
    training: "Training", features: Tensor, targets: Tensor, inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `loss_fn.sums` of the head's logits for features (N, F), a block of rows at a time.

    Any loss will do, because its sums add up over any cut of the batch into rows. With several
    processes the head's gradient is summed as that of all weights, although it is not called
    through `ParallelModel`: torch's hooks belong to a weight, wherever it is used. Neither the head
    nor `features` are compiled here, also with `trainer.compile=true`: torch.compile compiles
    `forward` only.
    """
    head: Any = training.model.head
    return _SumsByBlocks.apply(features, head.weight, head.bias, training, targets, inputs)


class _SumsByBlocks(torch.autograd.Function):
    """loss_fn.sums(features W^T + b, targets), with gradients found on the way forward.

    With logits z of a block of rows and g = d total / d z: d features = g W, dW = sum g^T features,
    db = sum g. A block is one product; within it the loss goes through as many rows as caches hold,
    and puts g in the place of z. Products are computed in `dtype`, loss and sums in float32.

    The idea is known from Wijmans et al. 2024, Cut Your Losses, arXiv 2411.09009.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        training: "Training",
        targets: Tensor,
        inputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        n, num_classes = len(features), len(weight)
        dtype = torch.bfloat16 if training.settings.precision == "bf16" else features.dtype
        rows = cached_rows(num_classes, weight.device)
        block_rows = max(BLOCK_ROWS * weight.itemsize // dtype.itemsize, rows)
        x, w = features.to(dtype), weight.to(dtype)
        b = (weight.new_zeros(1) if bias is None else bias).to(dtype)
        buffer = x.new_empty(min(n, block_rows), num_classes)  # memory in use is quicker than new
        d_features = torch.empty_like(x)
        d_weight = torch.zeros_like(weight)
        d_bias = torch.zeros_like(weight[:, 0])
        total, normaliser = weight.new_zeros(()), weight.new_zeros(())
        for start in range(0, n, block_rows):
            block = slice(start, min(n, start + block_rows))
            logits = buffer[: min(n, start + block_rows) - start]  # (block, C), then their gradient
            torch.addmm(b, x[block], w.T, out=logits)
            for z, target, given in pieces(rows, logits, targets[block], inputs[block]):
                leaf = z.detach().requires_grad_()
                with torch.enable_grad():
                    sums = training.loss_fn.sums(leaf, target, given)
                z.copy_(torch.autograd.grad(sums[0], leaf)[0])
                d_bias += z.sum(0, dtype=d_bias.dtype)
                total += sums[0].detach()
                normaliser += sums[1]
            torch.mm(logits, w, out=d_features[block])
            if dtype == weight.dtype:
                d_weight.addmm_(logits.T, x[block])
            else:  # a sum in bfloat16 would drop what is small beside it
                d_weight += logits.T @ x[block]
        d_features = d_features.to(features.dtype)
        ctx.gradients = d_features, d_weight, None if bias is None else d_bias
        ctx.mark_non_differentiable(normaliser)
        return total, normaliser

    @staticmethod
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("the objective of many classes is differentiable once")
        d_features, d_weight, d_bias = ctx.gradients
        del ctx.gradients  # autograd keeps what nobody else holds, and copies the rest
        d_bias = None if d_bias is None else d_bias.mul_(outer)
        return d_features.mul_(outer), d_weight.mul_(outer), d_bias, None, None, None
