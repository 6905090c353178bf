"""The data contract: what a task hands to the shared loop."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from training.errors import DataError

Augment = Callable[[Tensor, Tensor, int], Tensor]
NAMES = ("train", "val", "calibration", "test")


@dataclass(frozen=True)
class Split:
    """Examples as tensors on one device; a batch is an index into them.

    inputs (N, ...) and targets (N, ...) share their first axis. An empty split (N = 0) is a split
    that the data does not have. `augment(inputs, indices, epoch)` changes a training batch; its
    randomness is a function of the seed, the epoch and each example's index.
    """

    inputs: Tensor
    targets: Tensor
    augment: Augment | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, rows: Tensor | slice, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the (inputs, targets) of a training batch: those of `rows`."""
        inputs, targets = self.inputs[rows], self.targets[rows]
        if self.augment:
            if isinstance(rows, slice):
                rows = torch.arange(len(self), device=targets.device)[rows]
            inputs = self.augment(inputs, rows, epoch)
        return inputs, targets

    def to(self, device: torch.device) -> "Split":
        """Return the same examples on `device`."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def first(self, n: int) -> "Split":
        """Return the first `n` examples."""
        return replace(self, inputs=self.inputs[:n], targets=self.targets[:n])


@dataclass(frozen=True)
class Splits:
    """A task's data, and the facts that only the data knows.

    `calibration` is for fitting temperatures and weights of mixtures, nothing else. `class_counts`
    (C,) int64 counts the targets of the training split. `protocol` says in one line what the
    figures were measured on and is shown beside them.
    """

    train: Split
    val: Split
    calibration: Split
    test: Split
    class_counts: Tensor
    class_names: tuple[str, ...] = field(repr=False)
    protocol: str

    @property
    def num_classes(self) -> int:
        """The number of classes C: logits are (N, C)."""
        return len(self.class_names)

    def to(self, device: torch.device) -> "Splits":
        """Return the same data on `device`; the facts stay where they are."""
        return replace(self, **{name: getattr(self, name).to(device) for name in NAMES})

    def check(self, ignore_index: int) -> None:
        """Refuse targets that are no class and inputs that are not finite, with their row."""
        for name in NAMES:
            split: Split = getattr(self, name)
            bad = (split.targets < 0) | (split.targets >= self.num_classes)
            bad &= split.targets != ignore_index
            what = f"a target that is none of {self.num_classes} classes (from 0)"
            if not bad.any() and split.inputs.is_floating_point():
                bad = ~split.inputs.flatten(1).isfinite().all(1)
                what = "an input that is not finite"
            if bad.any():
                row = int(bad.nonzero()[0, 0])
                raise DataError(f"data: {name} split, row {row} (from 0) has {what}")

    def fingerprint(self) -> str:
        """Return a digest of every example and class name: the same only for the same data."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for split in (getattr(self, name) for name in NAMES):
            for tensor in (split.inputs, split.targets):
                digest.update(repr((tensor.shape, tensor.dtype)).encode())
                digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


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
