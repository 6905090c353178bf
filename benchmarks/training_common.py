"""What the benchmarks of training share: timing side by side, and what trains by some settings."""

import random
import statistics
import time
from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor

from training.cli.settings import compose as compose_task
from training.data import Split, Splits
from training.loop import Training, train_epoch
from training.run.targets import instantiate, with_facts
from training.running_loss import RunningLoss

Case = Callable[[], float]  # does some work, and returns the seconds of one unit of it
WIDE = [
    "experiment=tiny_shakespeare",
    "data=text_file",
    "trainer.precision=float32",
    "model.hidden_dim=512",
    "model.near=4",
    "optimizer=adamw",
    "optimizer.lr=0.003",
]


def compose(*overrides: str) -> DictConfig:
    """Return the settings that the command line would give."""
    return compose_task("ngram", overrides)


def prepare(cfg: DictConfig, num_classes: int, class_counts: Tensor) -> Training:
    """Return what trains by these settings."""
    filled = with_facts(cfg, num_classes, class_counts)
    torch.manual_seed(1)
    model = instantiate(filled.model)
    optimizer = instantiate(filled.optimizer, call_with=[model.parameters()])
    loss_fn, schedule = instantiate(filled.loss), instantiate(filled.scheduler)
    return Training(model, loss_fn, optimizer, schedule, instantiate(filled.trainer), 1)


def for_splits(cfg: DictConfig, splits: Splits) -> Training:
    """Return what trains by these settings on this data."""
    return prepare(cfg, splits.num_classes, splits.class_counts)


def epochs_of(training: Training, split: Split) -> Callable[[int], float]:
    """Return a function that trains some more epochs as a run does, without its log."""

    def train(count: int) -> float:
        for _ in range(count):
            training.epoch, training.visited = training.epoch + 1, 0
            loss, window = RunningLoss(), RunningLoss()
            for update in train_epoch(training, split):
                loss.add(update)
                window.add(update)
                if training.step % training.settings.log_every == 0:
                    window.mean()
                    window = RunningLoss()
        return loss.mean()

    return train


def timed(work: Callable[[], object], units: int = 1) -> Case:
    """Return a case that times `work`."""

    def case() -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) / units

    return case


def measure(cases: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each case, a round each; one round before them only warms up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            elapsed = cases[name]()
            if number:
                times[name].append(elapsed)
    return times


def ratio(own: list[float], baseline: list[float]) -> str:
    """Return the quotient round by round: its median, and its quartiles."""
    ratios = [a / b for a, b in zip(own, baseline, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:7.3f} {low:7.3f}-{high:.3f}"


def compare(title: str, cases: dict[str, Case], rounds: int) -> None:
    """Measure and print."""
    times = measure(cases, rounds)
    print(f"\n{title}; {rounds} rounds, {torch.get_num_threads()} threads")
    print(f"{'':44} {'ms':>9} {'ratio':>7} {'quartiles':>15}")
    for name, own in times.items():
        ms = 1e3 * statistics.median(own)
        print(f"{name:44} {ms:9.2f} {ratio(own, next(iter(times.values())))}", flush=True)
