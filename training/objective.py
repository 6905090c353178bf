"""What a training step minimises; over many classes without ever holding batch x classes."""

import sys
import textwrap
from typing import Any

import torch
from torch import Tensor, nn

from losses import ClassificationLoss
from metrics.rows import cached_rows

WIDE = 2**21  # logits a batch, from which a few rows at a time are faster: caches hold less
BLOCK_ROWS = 256  # rows of a matrix product; with fewer, reading and writing the weights shows


class Objective(nn.Module):
    """The model and its loss: (inputs, targets) -> (total, normaliser), as `loss_fn.sums` gives it.

    Where a batch has many logits and the model's head is linear, the head, the loss and their
    gradients are computed a block of rows at a time. Any loss will do, because its sums add up over
    any cut of the batch into rows; one with weights of its own to learn sees the whole batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: ClassificationLoss,
        precision: str = "float32",
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn
        self.bf16 = precision == "bf16"
        self.compute = torch.compile(self._compute) if compile else self._compute
        head, learns = getattr(model, "head", None), any(True for _ in loss_fn.parameters())
        # not a subclass: its forward may be another
        self.num_classes = head.out_features if type(head) is nn.Linear and not learns else 0
        self.seen: dict[str, Tensor] = {}  # of the last batch, to be named if it is not finite

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the batch's losses and its normaliser."""
        wide = len(inputs) * self.num_classes >= WIDE
        if self.bf16:
            with torch.autocast(inputs.device.type, torch.bfloat16):
                outputs = self._outputs(inputs, wide)
        else:
            outputs = self._outputs(inputs, wide)
        self.seen.clear()
        self.seen["inputs"], self.seen["features" if wide else "logits"] = inputs, outputs
        if not wide:
            return self.loss_fn.sums(outputs, targets, inputs)
        head: nn.Linear = self.model.head  # type: ignore[assignment]
        dtype = torch.bfloat16 if self.bf16 else outputs.dtype
        return _BlockwiseSums.apply(
            outputs, head.weight, head.bias, self.loss_fn, targets, inputs, dtype
        )

    def _compute(self, inputs: Tensor, wide: bool) -> Tensor:
        return (self.model.features if wide else self.model)(inputs)  # type: ignore[operator]

    def _outputs(self, inputs: Tensor, wide: bool) -> Tensor:
        try:
            return self.compute(inputs, wide)
        except Exception as error:
            if self.compute == self._compute:
                raise
            reason = textwrap.shorten(str(error), 200, placeholder=" ...")
            print(f"warning: trainer.compile=true: goes on without ({reason})", file=sys.stderr)
            self.compute = self._compute
            return self.compute(inputs, wide)


class _BlockwiseSums(torch.autograd.Function):
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
        loss_fn: ClassificationLoss,
        targets: Tensor,
        inputs: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        n, num_classes = len(features), len(weight)
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
            for z, target, given in zip(
                logits.split(rows),
                targets[block].split(rows),
                inputs[block].split(rows),
                strict=True,
            ):
                leaf = z.detach().requires_grad_()
                with torch.enable_grad():
                    sums = loss_fn.sums(leaf, target, given)
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
        return d_features.mul_(outer), d_weight.mul_(outer), d_bias, None, None, None, None
