"""Every ratio of docs/performance.md that has a limit, and whether it is kept; under five minutes.

    python benchmarks/summary.py [losses memory metrics loops run wide]

Without a name all parts are measured, with fewer rounds or rows than the benchmark of each, on one
thread. The exit code is 1 if a limit is not kept. Ratios are medians over rounds, so another
program on the machine slows both sides alike; measure a part again before you believe in a ratio
just over its limit, with more rounds by the benchmark that the part is from.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Python looks beside a script first, and there lie some that have the name of a package
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402

from benchmarks import losses, metrics, training_parts, training_small, training_wide  # noqa: E402
from benchmarks.training_common import measure  # noqa: E402

LOSS_SIZES = argparse.Namespace(rows=1024, classes=13_000, threads=1, rounds=7)
WIDE_LOSSES = ("cross_entropy", "bce", "focal")  # `training.py memory` has all of them


@dataclass(frozen=True)
class Ratio:
    """A measured ratio, and the most that it may be."""

    name: str
    value: float
    limit: float

    def __str__(self) -> str:
        """Return a line of the table."""
        verdict = "" if self.is_kept else "  OVER"
        return f"  {self.name:<54}{self.value:7.3f} {self.limit:7.3f}{verdict}"

    @property
    def is_kept(self) -> bool:
        """Whether the limit is kept."""
        return self.value <= self.limit


def quotient(times: dict[str, list[float]], name: str, baseline: str) -> float:
    """Return the median over rounds of the quotient of two cases."""
    pairs = zip(times[name], times[baseline], strict=True)
    return statistics.median(a / b for a, b in pairs)


def of_losses() -> Iterator[Ratio]:
    """Yield each loss's time and memory, relative to torch's cross-entropy."""
    baseline, *names = losses.cases(LOSS_SIZES.classes)
    least = losses.peak_of(baseline, LOSS_SIZES)
    for name in names:
        peak = losses.peak_of(name, LOSS_SIZES) / least
        yield Ratio(f"{name}, memory", peak, losses.MEMORY_LIMIT)
    for capability in losses.capabilities():
        ratios = losses.ratios(LOSS_SIZES, capability)
        for name in names:
            value = statistics.median(ratios[name])
            yield Ratio(f"{name}, {capability}", value, losses.limit(name))


def of_memory() -> Iterator[Ratio]:
    """Yield the peak memory of a wide step, relative to the plain loop's."""
    for name in WIDE_LOSSES:
        plain, ours = training_wide.peaks(name, 68_500, 2048)
        yield Ratio(name, ours / plain, 1 / 3)


def of_metrics() -> Iterator[Ratio]:
    """Yield what the metrics of an evaluation take, in forward passes."""
    softmax, *_ = metrics.LOSSES
    words = metrics.ngram_case(2048, 13_000)
    cases = [(f"13,000 words: {n}", words, 13_000, n, 3.0) for n in metrics.LOSSES]
    cases[0] = (*cases[0][:-1], 1.0)  # the limit where softmax is all that is asked
    for size, number in ((28, 1000), (8, 360)):
        images = metrics.vision_case(size, number)
        cases.append((f"images of {size} x {size}: {softmax}", images, 10, softmax, 0.05))
    for title, (model, split), num_classes, name, limit in cases:
        rounds = 7 if num_classes > 10 or len(split) > 500 else 31
        pairs = metrics.seconds_of_evaluations(
            model, split, num_classes, metrics.LOSSES[name], rounds
        )
        value = statistics.median(rest / forward for forward, rest in pairs)
        yield Ratio(title, value, limit)


def of_loops() -> Iterator[Ratio]:
    """Yield what an epoch takes, relative to loops written out plainly."""
    tutorial, one, fast = "the tutorial's loop", "experiment=sonnet2", "experiment=sonnet2_fast"
    times = measure(training_small.sonnet2_cases(), 15)
    yield Ratio(f"{one} / {tutorial}", quotient(times, one, tutorial), 1.15)
    yield Ratio(f"{fast} / {tutorial}", quotient(times, fast, tutorial), 0.02)
    times = measure(training_small.default_cases(), 5)
    yield Ratio("default run / a bare loop", quotient(times, "this loop", "a bare loop"), 1.1)


def of_run() -> Iterator[Ratio]:
    """Yield what a default run takes for other things than training, relative to training."""
    asked = training_parts.ASKED
    shares = training_parts.shares_of_training(3)
    yield Ratio(asked, statistics.median(shares[asked]), 0.03)


def of_wide() -> Iterator[Ratio]:
    """Yield what a step with 15,630 classes takes."""
    num_classes = 15_630
    training, batch = training_wide.synthetic(num_classes, 1024)
    times = measure(training_wide.step_cases(training, batch, num_classes), 5)
    ours, products = "this loop, float32", "three products alone"
    yield Ratio(f"{ours} / {products}", quotient(times, ours, products), 1.35)
    bf16, plain = "this loop, bf16", "plain loop, float32"
    yield Ratio(f"{bf16} / {plain}", quotient(times, bf16, plain), 0.5)


# memory first: on Linux a process starts with the peak of the one that starts it
PARTS: dict[str, tuple[str, Callable[[], Iterator[Ratio]]]] = {
    "losses": ("a loss / torch's cross-entropy", of_losses),
    "memory": ("peak of a step, 68,500 classes / plain loop", of_memory),
    "metrics": ("metrics of an evaluation / forward pass", of_metrics),
    "loops": ("an epoch / a loop written out plainly", of_loops),
    "run": ("of a default run / its training", of_run),
    "wide": ("a step, 15,630 classes", of_wide),
}


def main() -> int:
    """Measure, and print a line for each ratio; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)}; all without one")
    asked = parser.parse_args().parts
    unknown = set(asked) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {capability}, one thread")
    started, found = time.perf_counter(), []
    for part in [name for name in PARTS if not asked or name in asked]:
        heading, measured = PARTS[part]
        print(f"\n{f'{part}: {heading}':<56}{'ratio':>7} {'limit':>7}")
        for ratio in measured():
            print(ratio, flush=True)
            found.append(ratio)
    over = [ratio.name for ratio in found if not ratio.is_kept]
    minutes = (time.perf_counter() - started) / 60
    print(f"\n{len(found) - len(over)} of {len(found)} limits kept, {minutes:.1f} minutes")
    for name in over:
        print(f"  over: {name}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
