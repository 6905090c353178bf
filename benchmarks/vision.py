"""Training speed beside a DataLoader with torchvision's transforms, in images a second.

    python benchmarks/vision.py [--root FOLDER] [--threads 2] [--batch 128] [--rounds 7]

All train the same `small_cnn` on Fashion-MNIST (random images without --root) with the same batch
size, augmentation (shift, flip) and optimizer. The DataLoader decodes, augments and normalises an
image at a time, in float32 and torch's usual memory layout. Each round trains each for a few
batches, in an order of its own; what is shown is the median over rounds, and the median and the
quartiles of the ratio to the faster DataLoader of the same round, so that another program on the
machine slows both sides alike.
"""

import argparse
import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning starves other programs and workers
# this file has the name of the package it measures, and Python looks beside a script first
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchvision import transforms  # noqa: E402

from losses import CrossEntropyLoss  # noqa: E402
from training.data import Split  # noqa: E402
from training.loop import Training, train_epoch  # noqa: E402
from training.optimizers import Constant, adamw  # noqa: E402
from training.running_loss import RunningLoss  # noqa: E402
from training.settings import TrainerSettings  # noqa: E402
from vision.augment import Augment  # noqa: E402
from vision.data import in_pixels  # noqa: E402
from vision.images import read_torchvision  # noqa: E402
from vision.models import small_cnn  # noqa: E402

MEAN, STD = 0.2860, 0.3530


class Files(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's data sets give them: one at a time, through a transform."""

    def __init__(self, split: Split) -> None:
        self.pixels, self.targets = split.inputs[:, 0].numpy(), split.targets.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(28, padding=1, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.targets[index]


def data_loader(split: Split, batch_size: int, workers: int) -> Callable[[int], None]:
    """Return a function that trains on some batches of a DataLoader in a plain loop."""
    torch.manual_seed(0)
    ours = small_cnn(10, 1, 28)
    model = nn.Sequential(ours.body.to(memory_format=torch.contiguous_format), ours.head)
    loader = DataLoader(
        Files(split), batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    batches: Iterator[tuple[Tensor, Tensor]] = itertools.chain.from_iterable(
        itertools.repeat(loader)
    )
    optimizer, loss_fn = torch.optim.AdamW(model.parameters(), lr=1e-3), nn.CrossEntropyLoss()

    def train(num_batches: int) -> None:
        for inputs, targets in itertools.islice(batches, num_batches):
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
            optimizer.step()

    return train


def shared_loop(split: Split, batch_size: int, precision: str) -> Callable[[int], None]:
    """Return a function that trains on some batches in the project's own loop."""
    torch.manual_seed(0)
    model = small_cnn(10, 1, 28)
    optimizer = adamw(model.parameters(), lr=1e-3)

    def train(num_batches: int) -> None:
        settings = TrainerSettings(
            epochs=1, batch_size=batch_size, precision=precision, max_batches=num_batches
        )
        schedule = Constant()
        training = Training(model, CrossEntropyLoss(), optimizer, schedule, settings, 1, epoch=1)
        loss = RunningLoss()
        for update in train_epoch(training, split):
            loss.add(update)

    return train


def main() -> None:
    """Measure, and print a row for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="where Fashion-MNIST lies")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=10, help="in a round (10)")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds must be at least 2, for quartiles")
    torch.set_num_threads(args.threads)
    if args.root:
        images, *_ = read_torchvision("FashionMNIST", args.root, False)
        pixels, targets = images.inputs, images.targets
    else:
        pixels = torch.randint(256, (20_000, 1, 28, 28), dtype=torch.uint8)
        targets = torch.randint(10, (20_000,))
    mean, std = in_pixels([MEAN]), in_pixels([STD])
    split = Split(pixels, targets, Augment(seed=1, shift=1, flip=True), mean, std)
    loaders = ["DataLoader, 0 workers", "DataLoader, 2 workers"]
    cases = {
        loaders[0]: data_loader(split, args.batch, 0),
        loaders[1]: data_loader(split, args.batch, 2),
        "here, float32": shared_loop(split, args.batch, "float32"),
        "here, bf16": shared_loop(split, args.batch, "bf16"),
    }
    rates: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    for round_number in range(args.rounds + 1):
        random.Random(round_number).shuffle(order)
        for name in order:
            start = time.perf_counter()
            cases[name](args.batches)
            rate = args.batch * args.batches / (time.perf_counter() - start)
            if round_number > 0:  # the first starts workers and chooses kernels
                rates[name].append(rate)
    best = [max(pair) for pair in zip(*(rates[name] for name in loaders), strict=True)]
    print(
        f"batch {args.batch}, {args.threads} threads, {args.rounds} rounds of {args.batches}"
        f" batches, torch {torch.__version__}"
    )
    print(f"{'':24}{'images/s':>9}{'ratio':>7}{'quartiles':>13}")
    for name, found in rates.items():
        ratios = [rate / base for rate, base in zip(found, best, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:24}{statistics.median(found):9.0f}{middle:7.2f}{low:7.2f}-{high:.2f}")


if __name__ == "__main__":
    main()
