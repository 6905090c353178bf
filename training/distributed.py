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
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from training.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)  # with a process that does not answer; rank 0 reports alone


@contextmanager
def joined() -> Iterator[Store]:
    """Join the processes of torchrun while the block runs; only the first has a screen.

    The store that they share is what `first_to_fail` asks.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    store, number, size = next(rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=PrefixStore("run", store),
        rank=number,
        world_size=size,
        timeout=PATIENCE,
    )
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(sys.stdout if is_main() else nowhere),
    ):
        try:
            yield store
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
def same_refusal() -> Iterator[None]:
    """Raise the refusal of one process in every process: the others would wait for it."""
    refusal: ValueError | UserError | None = None
    try:
        yield
    except (ValueError, UserError) as error:
        refusal = error
    for each in from_all(refusal):
        if each:
            raise each


def agreed_signal(signals: list[int]) -> int:
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


def first_to_fail(store: Store) -> bool:
    """Say whether no other process failed before this one: the first one prints the reason."""
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:  # whoever held the store has gone
        return False


@contextmanager
def lost_process_named() -> Iterator[None]:
    """Say in one line that a process was lost, whichever exchange between processes noticed it."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            "another process of the run ended or does not answer; resume=FOLDER goes on from the"
            " last checkpoint"
        ) from error
