"""One run on several processes: torchrun starts them, torch.distributed joins them.

Each takes its share of a batch or of an evaluation, and sums are added up over all, so that every
process knows what one alone would. The first one (rank 0) owns the run folder and the screen.
Without torchrun everything here does nothing.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from training.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)  # with a process that does not answer; rank 0 reports alone
_stores: list[Store] = []


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes of torchrun while the block runs; only the first has a screen."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    store, number, size = next(rendezvous("env://", timeout=PATIENCE))
    _stores[:] = [store]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=PrefixStore("run", store),
        rank=number,
        world_size=size,
        timeout=PATIENCE,
    )
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if is_main() else nowhere):
        try:
            yield
        except SystemExit as stop:  # the others may never come, and torch may abort as Python ends
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(stop.code if isinstance(stop.code, int) else 1)
    gc.collect()  # a group that DistributedDataParallel still holds aborts, now and then, as well
    dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Say whether this is the process that writes and prints."""
    return rank() == 0


def from_main(make: Callable[[], T]) -> T:
    """Return what `make` gives in the first process, in all of them."""
    if not dist.is_initialized():
        return make()
    values: list[Any] = [make() if is_main() else None]
    dist.broadcast_object_list(values, 0)
    return values[0]


def from_all(value: T) -> list[T]:
    """Return the value of each process, in all of them."""
    values: list[Any] = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


@contextmanager
def together() -> Iterator[None]:
    """Raise in every process what the block refuses in one: the others would wait for it."""
    refusal: ValueError | None = None
    try:
        yield
    except ValueError as error:
        refusal = error
    for each in from_all(refusal):
        if each:
            raise each


def agreed(signals: list[int]) -> int:
    """Return a signal that came to some process, the same in all of them; 0: none came."""
    mine = signals[0] if signals else 0
    if not dist.is_initialized():
        return mine
    most = torch.tensor(mine)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def own_share(start: int, end: int) -> tuple[int, int]:
    """Return where this process's part of start:end starts and ends; it may be empty."""
    number, size = rank(), world_size()
    return start + (end - start) * number // size, start + (end - start) * (number + 1) // size


def first_to_fail() -> bool:
    """Say whether no other process failed before this one; if so, that one told why."""
    try:
        return not _stores or _stores[0].add("failed", 1) == 1
    except RuntimeError:  # whoever held the store has gone
        return False


@contextmanager
def peers() -> Iterator[None]:
    """Say in one line that a process was lost, whichever collective noticed it."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            "another process of the run ended or does not answer; resume=FOLDER goes on from the"
            " last checkpoint"
        ) from error


class Together(nn.Module):
    """An objective whose sums are those of all processes, and so are its gradients.

    `DistributedDataParallel` averages gradients over W processes. The loss is total / normaliser of
    the whole batch, of which each process knows the slope of its own part; averaging would keep
    1 / W of it, so it is handed back W times. Batch normalisation sees the whole batch as well.
    """

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        usual = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
        for module in objective.modules():
            if isinstance(module, usual) and module.affine and module.track_running_stats:
                module.forward = partial(_batch_norm, module)  # type: ignore[method-assign]
        self.averaged = DistributedDataParallel(objective)
        # after the first time; as an argument it has a new name since torch 2.12 or so
        self.averaged.broadcast_buffers = False

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return (total, normaliser) of the whole batch, in float64."""
        mine = torch.stack(self.averaged(inputs, targets)).double()
        total, normaliser = _Sum.apply(mine, True)
        return total, normaliser


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
    """The sum over processes; `alike`: all of them go on alike, with the same slope."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, alike: bool) -> Tensor:
        ctx.alike, whole = alike, mine.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        if ctx.alike:
            return slope * dist.get_world_size(), None
        whole = slope.contiguous().clone()
        dist.all_reduce(whole)
        return whole, None
