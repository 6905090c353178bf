"""What an evaluation costs: all metrics beside the forward pass, torchmetrics, and memory.

    python benchmarks/metrics.py [--threads 1] [--rounds 15] [--rows 2048] [--no-memory]

Time is measured side by side: each round runs every variant once, in an order of its own, and what
is shown is the median over rounds of the ratio to the first variant of the same round, with its
quartiles, so that another program on the machine slows both sides alike. The cost of metrics is
that of `evaluate` (softmax or link, objective, every metric, and ECE's floor and interval) less
that of the same pass over the model alone. Memory is how far a fresh process's peak resident set
rises from its first 1,000 predictions to its last.
"""

import argparse
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

# this file shares its folder with one that has the name of a package, which would be found first
sys.path[0] = str(Path(__file__).resolve().parents[1])

import losses  # noqa: E402
from ngram.models import NGramMLP  # noqa: E402
from training.calibration import PARTS, Calibration  # noqa: E402
from training.data import Split  # noqa: E402
from training.evaluation import evaluate, logits_of  # noqa: E402
from training.metrics import Metrics  # noqa: E402
from training.resampling import bootstrap_interval, null_error  # noqa: E402

Variants = dict[str, Callable[[], object]]


class SmallResNet(nn.Module):
    """A stand-in of the vision model's kind: ResNet-20's body on 32 x 32 images (He et al. 2016)."""

    def __init__(self) -> None:
        """Build 19 convolutions of 16, 32 and 64 channels."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
        for before, after in ((16, 16), (16, 32), (32, 64)):
            for i in range(6):
                channels = before if i == 0 else after
                stride = 2 if i == 0 and before != after else 1
                layers += [
                    nn.Conv2d(channels, after, 3, stride, 1),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                ]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, 10)


def side_by_side(variants: Variants, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each variant in each round."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        run()
    for _ in range(rounds):
        for name in random.sample(list(variants), len(variants)):
            start = time.perf_counter()
            variants[name]()
            times[name].append(time.perf_counter() - start)
    return times


def show(times: dict[str, list[float]], less_first: bool = False) -> None:
    """Print medians, and ratios to the first variant (of what a variant takes beyond it)."""
    first = next(iter(times.values()))
    for name, seconds in times.items():
        ratios = [t / f - less_first for t, f in zip(seconds, first, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        line = f"  {name:<44}{1e3 * statistics.median(seconds):9.1f} ms"
        if seconds is not first:
            line += f"   {'beyond it, ' if less_first else ''}ratio {middle:.3f} [{low:.3f}, {high:.3f}]"
        print(line)


@torch.no_grad()
def forward(model: nn.Module, split: Split, num_classes: int) -> None:
    """Go through the split as an evaluation does, and look at nothing."""
    for _ in logits_of(model, split, num_classes):
        pass


@torch.no_grad()
def whole_softmax(model: nn.Module, split: Split) -> None:
    """Make the softmax of 1,024 rows at a time."""
    for inputs in split.inputs.split(1024):
        model(inputs).log_softmax(1)


def cost(title: str, model: nn.Module, split: Split, num_classes: int, rounds: int) -> None:
    """Measure what evaluations with several losses' links take beyond the forward pass."""
    print(f"\n{title}: {len(split)} rows, {num_classes} classes")
    chosen = {
        "cross-entropy: softmax link": losses.CrossEntropyLoss(),
        "focal: a link of its own": losses.FocalLoss(gamma=2.0),
        "one-vs-rest: a link of its own": losses.OneVsRestBCELoss(),
    }
    variants: Variants = {"forward pass": lambda: forward(model, split, num_classes)}
    for name, loss_fn in chosen.items():
        variants[name] = lambda f=loss_fn: evaluate(model, f, split, num_classes)
    times = side_by_side(variants, rounds)
    show(times, less_first=True)
    log_probs = next(x for x in logits_of(model, split, num_classes))[0].detach().log_softmax(1)
    tracker = Calibration()
    tracker.update_rows(log_probs, split.targets[: len(log_probs)])
    cells, bins = tracker.cells().coarsen(PARTS * 15), tracker.bins()
    chance = side_by_side(
        {
            "floor": lambda: null_error(cells, 15, 0),
            "interval": lambda: bootstrap_interval(bins, 0),
        },
        rounds,
    )
    evaluation = statistics.median(times["cross-entropy: softmax link"])
    for name, seconds in chance.items():
        share = statistics.median(seconds) / evaluation
        print(
            f"  {name:<44}{1e3 * statistics.median(seconds):9.1f} ms   {share:.1%} of an evaluation"
        )


def compare(rounds: int) -> None:
    """Compare every metric here with accuracy and calibration error there, on the same predictions."""
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

    def theirs(probs: Tensor, targets: Tensor, classes: int, batch: int) -> None:
        accuracy = MulticlassAccuracy(classes, average="micro")
        error = MulticlassCalibrationError(classes, n_bins=15)
        for p, y in zip(probs.split(batch), targets.split(batch), strict=True):
            accuracy.update(p, y)
            error.update(p, y)
        accuracy.compute(), error.compute()

    def ours(log_probs: Tensor, targets: Tensor, classes: int, batch: int) -> None:
        metrics = Metrics(classes)
        for p, y in zip(log_probs.split(batch), targets.split(batch), strict=True):
            metrics.update(p, y)
        metrics.compute()

    print("\nbeside torchmetrics: accuracy and calibration error alone")
    for n, classes, batch in ((10_000, 10, 256), (100_000, 10, 1024), (2048, 13_000, 64)):
        log_probs, targets = torch.randn(n, classes).log_softmax(1), torch.randint(classes, (n,))
        probs = log_probs.exp()
        print(f"  {n} predictions of {classes} classes, {batch} at a time")
        arguments = (targets, classes, batch)
        variants: Variants = {
            "torchmetrics, two metrics": lambda p=probs, a=arguments: theirs(p, *a),
            "training.metrics, all of them": lambda p=log_probs, a=arguments: ours(p, *a),
        }
        show(side_by_side(variants, rounds))


def resident(kind: str, num_predictions: int) -> float:
    """Return by how many MiB this process's peak rises over that many predictions."""
    batch = 1000
    probs = torch.rand(batch, 10).softmax(1)
    targets = torch.randint(10, (batch,))
    if kind == "torchmetrics":
        from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

        trackers = [MulticlassAccuracy(10, average="micro"), MulticlassCalibrationError(10)]
        values = probs
    else:
        trackers = [Metrics(10)]
        trackers[0].calibration.kept.zero_()  # allocated as a whole from the start
        values = probs.log()
    before = 0
    for i in range(num_predictions // batch):
        for tracker in trackers:
            tracker.update(values, targets)
        if i == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for tracker in trackers:
        tracker.compute()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory() -> None:
    """Print the memory of both from 10^4 to 10^7 predictions."""
    print("\npeak memory gained after the first 1,000 predictions of 10 classes, MiB")
    sizes = [10**4, 10**5, 10**6, 10**7]
    for kind in ("training.metrics", "torchmetrics"):
        gained = []
        for n in sizes:
            command = [sys.executable, __file__, "--resident", kind, str(n)]
            gained.append(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout
            )
        columns = (
            f"10^{len(str(n)) - 1}: {float(g):7.1f}" for n, g in zip(sizes, gained, strict=True)
        )
        print(f"  {kind:<20}" + "   ".join(columns))


def main() -> None:
    """Run every part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--resident", nargs=2, metavar=("KIND", "N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.resident:
        print(resident(arguments.resident[0], int(arguments.resident[1])))
        return
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds")
    rows, classes = arguments.rows, 13_000
    targets = torch.randint(classes, (rows,))
    split = Split(torch.randint(classes, (rows, 4)), targets)
    counts = torch.ones(classes, dtype=torch.int64)
    model = NGramMLP(classes, 4, counts, embedding_dim=128, hidden_dim=256, tied=True)
    whole = side_by_side(
        {
            "forward pass": lambda: forward(model, split, classes),
            "with softmax over 1,024 rows at a time": lambda: whole_softmax(model, split),
        },
        arguments.rounds,
    )
    print("\nwhat is avoided")
    show(whole, less_first=True)
    cost("n-gram model (embedding 128, hidden 256, tied)", model, split, classes, arguments.rounds)
    images = Split(torch.randn(2048, 3, 32, 32), torch.randint(10, (2048,)))
    cost("vision model (ResNet-20's size)", SmallResNet(), images, 10, arguments.rounds)
    compare(arguments.rounds)
    if not arguments.no_memory:
        memory()


if __name__ == "__main__":
    main()
