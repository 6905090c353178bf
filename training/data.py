"""The data contract: what a task hands to the shared loop."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from training.errors import DataError, check_setting

Augment = Callable[["Split", Tensor, int], tuple[Tensor, Tensor]]
Examples = tuple[Any, Any] | Dataset[Any]  # (inputs, targets), or items that are such pairs
NAMES = ("train", "val", "calibration", "test")


@dataclass(frozen=True)
class Split:
    """Examples as tensors on one device; a batch is an index into them.

    inputs (N, ...) and targets (N,) or (N, d1, ...) share their first axis. An empty split (N = 0)
    is a split that the data does not have. `augment(split, indices, epoch)` returns the inputs and
    targets of a training batch; its randomness is a function of the seed, the epoch and each
    example's index. A model is given (inputs - mean) / std, as float32, where the split has a
    `mean` and a `std` that fit the inputs of one example.
    """

    inputs: Tensor
    targets: Tensor
    augment: Augment | None = None
    mean: Tensor | None = None
    std: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, rows: Tensor | slice, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the (inputs, targets) of `rows`, for training in `epoch` where one is given."""
        if self.augment and epoch is not None:
            if isinstance(rows, slice):
                rows = torch.arange(len(self), device=self.targets.device)[rows]
            inputs, targets = self.augment(self, rows, epoch)
        else:
            inputs, targets = self.inputs[rows], self.targets[rows]
        return self.normalised(inputs), targets

    def normalised(self, inputs: Tensor) -> Tensor:
        """Return inputs as a model is given them."""
        if self.mean is None or self.std is None:
            return inputs
        return (inputs.float() - self.mean) / self.std

    def to(self, device: torch.device) -> "Split":
        """Return the same examples on `device`."""
        tensors: dict[str, Any] = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def first(self, n: int | None) -> "Split":
        """Return the first `n` examples, or all for None."""
        return replace(self, inputs=self.inputs[:n], targets=self.targets[:n])


@dataclass(frozen=True)
class Splits:
    """A task's data, and the facts that only the data knows.

    `calibration` is for fitting temperatures and weights of mixtures, nothing else. `class_counts`
    (C,) int64 counts the targets of the training split. `protocol` says in one line what the
    figures were measured on and is shown beside them. `block_size` consecutive test examples are
    one draw of chance: 1 where examples are independent, more for pieces of one text. `numbers`
    about the data are kept in metrics.jsonl, for scripts of the task that read a run back.
    """

    train: Split
    val: Split
    calibration: Split
    test: Split
    class_counts: Tensor
    class_names: tuple[str, ...] = field(repr=False)
    protocol: str
    block_size: int = 1
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """The number of classes C: logits are (N, C)."""
        return len(self.class_names)

    def to(self, device: torch.device) -> "Splits":
        """Return the same data on `device`; the facts stay where they are."""
        return replace(self, **{name: getattr(self, name).to(device) for name in NAMES})

    def check(self, ignore_index: int) -> None:
        """Refuse targets that are no class and inputs that are not finite, with their row."""
        like = self.train.inputs
        for name in NAMES:
            split: Split = getattr(self, name)
            if split.inputs.shape[1:] != like.shape[1:] or split.inputs.dtype != like.dtype:
                kind = f"{tuple(split.inputs.shape[1:])} of {split.inputs.dtype}"
                of_train = f"{tuple(like.shape[1:])} of {like.dtype}"
                raise DataError(f"data: {name} split has inputs {kind}, train has {of_train}")
            if len(split) and (split.targets == ignore_index).all():
                raise DataError(f"data: {name} split has no target but {ignore_index}, the ignored")
            bad = (split.targets < 0) | (split.targets >= self.num_classes)
            bad &= split.targets != ignore_index
            what = f"target {{}}, which is none of {self.num_classes} classes (from 0)"
            if not bad.any() and split.inputs.is_floating_point():
                bad = ~split.inputs[..., None].flatten(1).isfinite().all(1)
                what = "an input that is not finite"
            if bad.any():
                row = int(bad.nonzero()[0, 0])
                what = what.format(split.targets[bad][0])
                raise DataError(f"data: {name} split, row {row} (from 0) has {what}")

    def fingerprint(self) -> str:
        """Return a digest of every example and class name: the same only for the same data."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for split in (getattr(self, name) for name in NAMES):
            for tensor in (split.inputs, split.targets):
                content = tensor.detach().cpu().flatten().contiguous().view(torch.uint8)
                digest.update(repr((tensor.shape, tensor.dtype)).encode())
                digest.update(content.numpy().data)
        return digest.hexdigest()


def make_splits(
    train: Examples,
    *,
    val: Examples | None = None,
    calibration: Examples | None = None,
    test: Examples | None = None,
    class_names: Sequence[str] = (),
    protocol: str = "",
    block_size: int = 1,
) -> Splits:
    """Return splits of examples that are at hand.

    Each is a pair (inputs (N, ...), targets (N,) or (N, d1, ...)) of tensors or arrays, or a torch
    `Dataset` whose items are such pairs. float64 inputs become float32, as models have it. Without
    `val`, the training split chooses the best weights; without `calibration`, no temperature is
    fitted; without `test`, `val` is reported on.

    Args:
        train: examples to train on.
        val: examples that choose the best weights.
        calibration: examples that the temperature is fitted on.
        test: examples that are measured at the end.
        class_names: one per class; by default the numbers from 0 to the largest target.
        protocol: what the data is called beside the figures.
        block_size: how many consecutive test examples depend on each other, as those of a text or a
            recording do; intervals of differences are then computed over such blocks.

    Raises:
        ValueError: inputs and targets are not as many, targets are no whole numbers, or
            `block_size` is below 1.
    """
    check_setting("block_size", block_size, block_size >= 1, "at least 1")
    given = {"train": train, "val": val, "calibration": calibration, "test": test}
    found = {name: _read(name, pair) for name, pair in given.items() if pair is not None}
    empty = found["train"].first(0)
    splits: dict[str, Any] = {name: found.get(name, empty) for name in NAMES}
    largest = max(int(split.targets.max()) for split in found.values() if len(split))
    names = tuple(class_names) or tuple(str(k) for k in range(largest + 1))
    targets = splits["train"].targets.flatten()
    sizes = " / ".join(f"{len(split):,}" for split in splits.values())
    return Splits(
        **splits,
        class_counts=torch.bincount(targets[targets >= 0], minlength=len(names)),
        class_names=names,
        protocol=protocol or f"{len(names)} classes, {sizes} train / val / calibration / test",
        block_size=block_size,
    )


def _read(name: str, examples: Examples) -> Split:
    pair: Any = examples
    try:
        if isinstance(examples, Dataset):
            pair = default_collate([examples[i] for i in range(len(examples))])  # type: ignore[arg-type]
        inputs, targets = map(torch.as_tensor, pair)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{name} must be a pair (inputs, targets) of tensors or arrays, or a Dataset of such"
            f" pairs ({str(error).splitlines()[0]})"
        ) from error
    if targets.is_floating_point():
        hint = "argmax(1)" if targets.ndim == 2 else "long()"
        raise ValueError(f"{name} has targets of {targets.dtype}, not whole numbers: {hint}")
    if len(inputs) != len(targets) or not len(inputs):
        sizes = f"{len(inputs)} inputs and {len(targets)} targets"
        raise ValueError(f"{name} must be as many inputs as targets, and at least one, got {sizes}")
    return Split(inputs.float() if inputs.dtype == torch.float64 else inputs, targets.long())


def check_shares(split: Sequence[float]) -> None:
    """Refuse shares of the data that are not one for each split, summing to 1."""
    if len(split) != len(NAMES) or min(split) < 0 or abs(sum(split) - 1) > 1e-6 or split[0] <= 0:
        raise ValueError(
            f"split must be four shares ({', '.join(NAMES)}) that sum to 1, got {list(split)}"
        )


def epoch_order(num_examples: int, seed: int, epoch: int) -> Tensor:
    """Return the order (N,) in which `epoch` visits the examples: a function of (seed, epoch) only.

    Seed and epoch are hashed together, since seed + epoch would give run 1's second epoch the order
    of run 2's first.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, "order", epoch))
    return torch.randperm(num_examples, generator=generator)


def stream_seed(seed: int, *names: str | int) -> int:
    """Return the seed of a named random stream, so that streams of one run never share numbers."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
