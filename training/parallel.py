"""Training steps of several processes: gradients and batch statistics of the whole batch."""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class ParallelModel(nn.Module):
    """The model of one process, with gradients that are those of the whole batch.

    torch's `DistributedDataParallel` sums gradients over processes during the backward pass. Batch
    normalisation sees the whole batch as well.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        usual = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
        for module in model.modules():
            if isinstance(module, usual) and module.affine and module.track_running_stats:
                module.forward = partial(_batch_norm, module)  # type: ignore[method-assign]
        self.averaged = DistributedDataParallel(_ModelOrFeatures(model))
        # after the first time; as an argument it has a new name since torch 2.12 or so
        self.averaged.broadcast_buffers = False

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the model's logits."""
        return self.averaged(inputs, False)

    def features(self, inputs: Tensor) -> Tensor:
        """Return what feeds the model's head."""
        return self.averaged(inputs, True)


class _ModelOrFeatures(nn.Module):
    """One `forward` for both, because `DistributedDataParallel` knows no other method."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, features: bool) -> Tensor:
        return self.model.features(inputs) if features else self.model(inputs)  # type: ignore[operator]


def sum_over_processes(total: Tensor, normaliser: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of all processes' (total, normaliser), in float64.

    `DistributedDataParallel` averages gradients over W processes, while the gradient of the whole
    batch is their sum; so the gradient of these sums is multiplied by W.
    """
    sums = _Sum.apply(torch.stack([total, normaliser]).double(), True)
    return sums[0], sums[1]


def _batch_norm(norm: Any, x: Tensor) -> Tensor:
    """Normalise x (N, C, ...) by the mean and variance of all processes' x.

    Sums of squares are taken about a process's own mean, then moved in float64. N may be 0.
    """
    if not norm.training:
        return type(norm).forward(norm, x)
    norm._check_input_dim(x)
    axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    n = x.numel() // x.shape[1]
    mean = x.to(norm.weight.dtype).sum(axes) / max(n, 1)
    squares = (x - mean.view(shape)).square().sum(axes).double() + n * mean.double().square()
    mine = torch.stack([torch.full_like(squares, n), n * mean.double(), squares])  # (3, C)
    count, first, second = _Sum.apply(mine, False)
    if n < 2 and count[0] < 2:  # as torch refuses it
        raise ValueError(f"Expected more than 1 value per channel, got size {tuple(x.shape)}")
    mean, variance = first / count, second / count - (first / count).square()
    with torch.no_grad():
        norm.num_batches_tracked += 1
        share = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean), share)
        unbiased = variance * count / (count - 1)
        norm.running_var.lerp_(unbiased.to(norm.running_var), share)
    scale = norm.weight * (variance + norm.eps).rsqrt().to(norm.weight.dtype)
    shift = norm.bias - mean.to(norm.weight.dtype) * scale
    return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes.

    Where all processes compute the same from the sum (`same_gradient`), each has the whole gradient
    and passes it on times the number of processes; else their gradients are summed.
    """

    @staticmethod
    def forward(ctx: Any, mine: Tensor, same_gradient: bool) -> Tensor:
        ctx.same_gradient, whole = same_gradient, mine.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.same_gradient:
            return gradient * dist.get_world_size(), None
        whole = gradient.contiguous().clone()
        dist.all_reduce(whole)
        return whole, None
