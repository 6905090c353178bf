"""Where the seconds of a default run go, and what passes before its first step."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import training.evaluation
import training.run.start
from benchmarks.training_common import Case, compare, compose, timed
from metrics import MetricsReport
from training.run import fit
from training.run.log import RunLog
from training.running_loss import RunningLoss

ROOT = Path(__file__).resolve().parents[1]
ASKED = "logs, metrics and checkpoints"


def parts(rounds: int) -> None:
    """Print where the seconds of a default run go."""
    print(f"share of a default run's seconds of training, median of {rounds} runs")
    for label, own in shares_of_training(rounds).items():
        print(f"{label:44} {statistics.median(own):7.2%}  ({min(own):.2%} to {max(own):.2%})")


def shares_of_training(rounds: int) -> dict[str, list[float]]:
    """Return what each part of a default run takes, counted once, as a share of training."""
    shares: dict[str, list[float]] = {}
    for _ in range(rounds):
        clock = Clock()
        default_run(clock)
        for label, seconds in clock.seconds.items():
            shares.setdefault(label, []).append(seconds / clock.seconds["training"])
    asked = [shares[label] for label in ("logs", "evaluation: metrics", "checkpoints")]
    return shares | {ASKED: [sum(three) for three in zip(*asked, strict=True)]}


def default_run(clock: "Clock") -> None:
    """Train and test by the default settings, with the parts of the run counted."""
    places: list[tuple[Any, str, str]] = [
        (RunningLoss, "add", "training"),
        (fit, "evaluate", "evaluation: metrics"),
        (RunLog, "scalars", "logs"),
        (RunLog, "text", "logs"),
        (RunLog, "start", "logs"),
        (fit, "save", "checkpoints"),
        (fit, "save_checkpoint", "checkpoints"),
        (MetricsReport, "figure", "figures"),
        (RunLog, "figure", "figures"),
        (fit, "report", "what the task reports"),
        (training.run.start, "start", "all else: start, data, temperature, end"),
    ]
    changed = [(o, name, clock.part(getattr(o, name), label)) for o, name, label in places]
    for owner, name, label in (
        (fit, "train_epoch", "training"),
        (training.evaluation, "logits_of", "evaluation: forward pass"),
    ):
        changed.append((owner, name, clock.generator(getattr(owner, name), label)))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for owner, name, function in changed:
            stack.enter_context(patch.object(owner, name, function))
        training.run.start.start(compose(), Path(folder) / "run", quiet=True)


class Clock:
    """Seconds by part; what a part called within another takes is its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.within = 0.0

    def part(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        """Return the function, counted as that part."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            outside, self.within = self.within, 0.0
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.seconds[label] = self.seconds.get(label, 0.0) + elapsed - self.within
                self.within = outside + elapsed

        return counted

    def generator(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        """Return the generator function, with each of its steps counted as that part."""
        step = self.part(lambda items: next(items, None), label)

        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            return iter(partial(step, function(*args, **kwargs)), None)

        return counted


def start(rounds: int) -> None:
    """Time the command up to its first step, beside torch's import and its first optimizer."""
    first = (
        "import sys, os, runpy; from training.finite_check import FiniteCheck;"
        "FiniteCheck.__call__ = lambda *a: os._exit(0);"
        "sys.argv = ['train_ngram.py', 'hydra.run.dir=' + sys.argv[1]];"
        "runpy.run_path('scripts/train_ngram.py', run_name='__main__')"
    )
    optimizer = "import torch; p = torch.zeros(1, requires_grad=True); p.grad = torch.zeros(1);"

    def process(code: str) -> Case:
        def work() -> None:
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(
                    [sys.executable, "-c", code, f"{folder}/run"],
                    cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    check=True,
                    capture_output=True,
                )

        return timed(work)

    cases = {
        "import torch": process("import torch"),
        "and a step of torch.optim.AdamW": process(optimizer + "torch.optim.AdamW([p]).step()"),
        "train_ngram.py up to its first step": process(first),
    }
    compare("start-up", cases, rounds)
