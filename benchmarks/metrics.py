"""What an evaluation costs beside the forward pass, and beside torchmetrics; time and memory.

    python benchmarks/metrics.py [--threads 1] [--rounds 15] [--rows 2048] [--no-memory]

An evaluation is that of the training loop: `evaluate`, with softmax or link, objective, every
metric, ECE's floor and interval. The model's parts carry a stopwatch, so that forward pass and
metrics are timed chunk by chunk in the same second, and their ratio is that of one evaluation.
Elsewhere each round runs every variant once, in an order of its own. What is shown is the median
over rounds and its quartiles: another program on the machine slows both sides alike. Memory is how
far the resident set of a fresh process rises from its first 1,000 predictions to its last and
through `compute`.
"""

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# beside this script lies one that has the name of a package, and Python would find that first
sys.path[0] = str(Path(__file__).resolve().parents[1])

import losses  # noqa: E402
from losses import ClassificationLoss  # noqa: E402
from metrics import Calibration, Metrics, bootstrap_interval, null_error  # noqa: E402
from metrics.calibration import PARTS  # noqa: E402
from ngram.models import NGramMLP  # noqa: E402
from training.data import Split  # noqa: E402
from training.evaluation import evaluate  # noqa: E402
from vision.data import in_pixels  # noqa: E402
from vision.models import small_cnn  # noqa: E402

LOSSES = {
    "cross-entropy, softmax": losses.CrossEntropyLoss(),
    "focal, its own link": losses.FocalLoss(gamma=2.0),
    "one-vs-rest, its own link": losses.OneVsRestBCELoss(),
    "weighted, softmax; its own link beside": losses.CrossEntropyLoss(weight=torch.ones(10)),
}


class Stopwatch(nn.Module):
    """A model that adds up the time that its features and its head take."""

    def __init__(self, model: nn.Module) -> None:
        """Watch `model`, which has a method `features` and a module `head`."""
        super().__init__()
        self.model, self.head = model.eval(), model.head
        self.seconds = self.started = 0.0
        self.hooks = [
            self.head.register_forward_pre_hook(lambda *_: self._start()),
            self.head.register_forward_hook(lambda *_: self._stop()),
        ]

    def unwatch(self) -> None:
        """Leave the model as it was."""
        for hook in self.hooks:
            hook.remove()

    def features(self, inputs: Tensor) -> Tensor:
        """Return the model's features."""
        self._start()
        outputs = self.model.features(inputs)
        self._stop()
        return outputs

    def _start(self) -> None:
        self.started = time.perf_counter()

    def _stop(self) -> None:
        self.seconds += time.perf_counter() - self.started


def quartiles(values: list[float]) -> str:
    """Return the median with the quartiles in brackets."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:6.3f} [{low:.3f}, {high:.3f}]"


def ngram_case(rows: int, words: int) -> tuple[nn.Module, Split]:
    """Return an n-gram model with many words, and random contexts."""
    contexts = Split(torch.randint(words, (rows, 4)), torch.randint(words, (rows,)))
    counts = torch.ones(words, dtype=torch.int64)
    return NGramMLP(words, 4, counts, embedding_dim=128, hidden_dim=256, tied=True), contexts


def vision_case(size: int, number: int) -> tuple[nn.Module, Split]:
    """Return a convolutional network, and random images of so many pixels by as many."""
    images = torch.randint(256, (number, 1, size, size), dtype=torch.uint8)
    pixels = in_pixels([0.3])
    split = Split(images, torch.randint(10, (number,)), mean=pixels, std=pixels)
    return small_cnn(10, 1, size), split


def seconds_of_evaluations(
    model: nn.Module, split: Split, num_classes: int, loss_fn: ClassificationLoss, rounds: int
) -> list[tuple[float, float]]:
    """Return the seconds of the forward pass and of all else in an evaluation, a round each."""
    watch = Stopwatch(model)
    if loss_fn.weight is not None:
        loss_fn.weight = torch.ones(num_classes)

    def one() -> tuple[float, float]:
        watch.seconds, start = 0.0, time.perf_counter()
        evaluate(watch, loss_fn, split, num_classes)
        return watch.seconds, time.perf_counter() - start - watch.seconds

    one()
    seconds = [one() for _ in range(rounds)]
    watch.unwatch()
    return seconds


def time_evaluations(
    title: str, model: nn.Module, split: Split, num_classes: int, rounds: int
) -> None:
    """Print what the metrics of evaluations with several losses take, in forward passes."""
    print(f"\n{title}, {len(split)} rows, {num_classes} classes: metrics / forward pass")
    for name, loss_fn in LOSSES.items():
        pairs = seconds_of_evaluations(model, split, num_classes, loss_fn, rounds)
        forward, metrics = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = quartiles([m / f for f, m in pairs])
        print(f"  {name:<42}{metrics:9.1f} ms /{forward:9.1f} ms = {ratio}", flush=True)


def time_chance(rounds: int) -> None:
    """Print what ECE's floor and interval take, which does not depend on the data's size."""
    print("\nwhat chance does to ECE, for 10,000 predictions")
    tracker = Calibration()
    confidence = torch.distributions.Beta(4.0, 2.0).sample((10_000,)).double()
    tracker.update(confidence, torch.rand(10_000) < confidence)
    bins, parts = tracker.bins(), tracker.cells().coarsen(PARTS * 15)
    variants: dict[str, Callable[[], object]] = {
        "floor": partial(null_error, bins, parts),
        "interval": partial(bootstrap_interval, bins, 0),
    }
    for name, seconds in side_by_side(variants, rounds).items():
        print(f"  {name:<42}{1e3 * statistics.median(seconds):9.2f} ms")


def side_by_side(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
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


def run_theirs(probs: Tensor, targets: Tensor, batch: int) -> None:
    """Compute accuracy and calibration error with torchmetrics."""
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

    accuracy = MulticlassAccuracy(probs.shape[1], average="micro")
    error = MulticlassCalibrationError(probs.shape[1], n_bins=15)
    for p, y in zip(probs.split(batch), targets.split(batch), strict=True):
        accuracy.update(p, y)
        error.update(p, y)
    accuracy.compute(), error.compute()


def run_ours(log_probs: Tensor, targets: Tensor, batch: int) -> None:
    """Compute every metric of `Metrics`."""
    metrics = Metrics(log_probs.shape[1])
    for p, y in zip(log_probs.split(batch), targets.split(batch), strict=True):
        metrics.update(p, y)
    metrics.compute()


def compare(rounds: int) -> None:
    """Print the time of all metrics here over that of two metrics there."""
    print("\nall metrics / accuracy and calibration error of torchmetrics, same predictions")
    ten = ((10**4, 10, 64), (10**4, 10, 256), (10**5, 10, 256), (10**6, 10, 256))
    for n, classes, batch in (*ten, (10**5, 65, 256), (10**4, 1000, 256), (2048, 13_000, 64)):
        log_probs, targets = torch.randn(n, classes).log_softmax(1), torch.randint(classes, (n,))
        variants: dict[str, Callable[[], object]] = {
            "ours": partial(run_ours, log_probs, targets, batch),
            "theirs": partial(run_theirs, log_probs.exp(), targets, batch),
        }
        times = side_by_side(variants, rounds if n < 10**6 else 3)
        ours, theirs = (1e3 * statistics.median(seconds) for seconds in times.values())
        ratio = quartiles([a / b for a, b in zip(times["ours"], times["theirs"], strict=True)])
        what = f"{n} predictions of {classes} classes, by {batch}"
        print(f"  {what:<42}{ours:9.1f} ms /{theirs:9.1f} ms = {ratio}")


def resident_mib() -> float:
    """Return this process's resident set (Linux)."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096 / 2**20


def gained(kind: str, num_predictions: int) -> float:
    """Return by how many MiB this process grows over that many predictions."""
    batch = 1000
    probs, targets = torch.rand(batch, 10).softmax(1), torch.randint(10, (batch,))
    if kind == "torchmetrics":
        from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

        trackers: list[Any] = [
            MulticlassAccuracy(10, average="micro"),
            MulticlassCalibrationError(10),
        ]
        values = probs
    else:
        trackers = [Metrics(10)]
        values = probs.log()
    for tracker in trackers:
        tracker.update(values, targets)
        tracker.compute()
    before = resident_mib()
    for _ in range(num_predictions // batch - 1):
        for tracker in trackers:
            tracker.update(values, targets)
    peak = resident_mib()
    for tracker in trackers:
        tracker.compute()
    return max(peak, resident_mib()) - before


def compare_memory() -> None:
    """Print the memory that both gain from 10^4 to 10^7 predictions, each in a fresh process."""
    print("\nmemory gained after the first 1,000 predictions of 10 classes, MiB")
    for kind in ("metrics", "torchmetrics"):
        columns = []
        for power in (4, 5, 6, 7):
            command = [sys.executable, __file__, "--gained", kind, str(10**power)]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            columns.append(f"10^{power}: {float(result.stdout):7.1f}")
        print(f"  {kind:<20}" + "   ".join(columns))


def main() -> None:
    """Run every part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=2048, help="of the n-gram evaluation")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--gained", nargs=2, metavar=("KIND", "N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2, for quartiles")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.gained:
        print(gained(arguments.gained[0], int(arguments.gained[1])))
        return
    rounds, rows, words = arguments.rounds, arguments.rows, 13_000
    print(f"torch {torch.__version__}, {arguments.threads} threads, {rounds} rounds")
    time_evaluations("n-gram model", *ngram_case(rows, words), words, rounds)
    for size, number in ((28, 2000), (8, 360)):
        title = f"vision model, {size} x {size} pixels"
        time_evaluations(title, *vision_case(size, number), 10, rounds)
    time_chance(rounds)
    compare(rounds)
    if not arguments.no_memory:
        compare_memory()


if __name__ == "__main__":
    main()
