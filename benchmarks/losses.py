"""Time and memory of every loss beside torch's cross-entropy.

    python benchmarks/losses.py [--rows 1024] [--classes 13000] [--threads 1] [--rounds 15]

Time is forward plus backward in float32. Each round runs every loss once, in an order of its own;
what is shown is the median over rounds of the ratio to torch's cross-entropy in the same round, and
the quartiles of that ratio, so that another program on the machine slows both sides alike. Where
torch has AVX-512 kernels for this CPU, all is also timed with its AVX2 kernels, in a process of
their own, because the same function may be ten times as fast in one as in the other. Memory is
measured in a fresh process per loss: how far its peak resident set (ru_maxrss) rises above the
logits and targets in one forward and backward. The last lines give the cost of the checks that
every loss but plain cross-entropy makes at every step.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

# this file has the name of the package it measures, and Python looks beside a script first
sys.path[0] = str(Path(__file__).resolve().parents[1])

import losses  # noqa: E402
from losses import checks  # noqa: E402

MEMORY_LIMIT = 1.15
LIMITS = {"FocalLoss": 1.1, "SoftmaxMSELoss": 1.1, "LogitsMSELoss": 1.1, "RescaledMSELoss": 1.1}


def cases(num_classes: int) -> dict[str, Callable[[], nn.Module]]:
    """Return what is measured by name, torch's cross-entropy first."""
    weight = torch.linspace(0.5, 2.0, num_classes)
    return {
        "torch CrossEntropyLoss": nn.CrossEntropyLoss,
        "CrossEntropyLoss": losses.CrossEntropyLoss,
        "CrossEntropyLoss weighted": lambda: losses.CrossEntropyLoss(weight),
        "CrossEntropyLoss smoothed": lambda: losses.CrossEntropyLoss(label_smoothing=0.1),
        "CrossEntropyLoss smoothed, weighted": lambda: losses.CrossEntropyLoss(
            weight, label_smoothing=0.1
        ),
        "LogSoftmaxNLLLoss": losses.LogSoftmaxNLLLoss,
        "FocalLoss": losses.FocalLoss,
        "FocalLoss gamma 0.5, weighted": lambda: losses.FocalLoss(weight, gamma=0.5),
        "LogitAdjustedLoss": lambda: losses.LogitAdjustedLoss(torch.arange(num_classes)),
        "GeneralisedCrossEntropyLoss": losses.GeneralisedCrossEntropyLoss,
        "SoftmaxMSELoss": losses.SoftmaxMSELoss,
        "LogitsMSELoss": losses.LogitsMSELoss,
        "RescaledMSELoss": losses.RescaledMSELoss,
        "OneVsRestBCELoss": losses.OneVsRestBCELoss,
        "HingeLoss crammer_singer": losses.HingeLoss,
        "HingeLoss weston_watkins": lambda: losses.HingeLoss(variant="weston_watkins"),
    }


def batch(rows: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return random logits (N, C) that want a gradient, and targets (N,)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, num_classes, generator=generator).requires_grad_()
    return logits, torch.randint(num_classes, (rows,), generator=generator)


def seconds(loss_fn: nn.Module, logits: Tensor, targets: Tensor) -> float:
    """Return how long one forward and backward take."""
    logits.grad = None
    start = time.perf_counter()
    loss_fn(logits, targets).backward()
    return time.perf_counter() - start


def peak_mib(name: str, rows: int, num_classes: int) -> float:
    """Return by how many MiB one forward and backward raise this process's peak memory."""
    if sys.platform == "win32":  # it has no `resource`
        return math.nan
    import resource

    loss_fn = cases(num_classes)[name]()
    small = batch(8, num_classes)
    seconds(loss_fn, *small)  # what is loaded on first use, and the checks of the first batch
    logits, targets = batch(rows, num_classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds(loss_fn, logits, targets)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def in_a_fresh_process(option: str, args: argparse.Namespace, capability: str = "") -> str:
    """Return what this script prints with one more option, in a process that has done nothing."""
    sizes = [f"--{key}={getattr(args, key)}" for key in ("rows", "classes", "threads", "rounds")]
    command = [sys.executable, __file__, option, *sizes]
    env = os.environ | ({"ATEN_CPU_CAPABILITY": capability} if capability else {})
    return subprocess.run(command, capture_output=True, check=True, text=True, env=env).stdout


def peak_of(name: str, args: argparse.Namespace) -> float:
    """Return `peak_mib` as measured by a process that has done nothing else."""
    return float(in_a_fresh_process(f"--peak-of={name}", args))


def capabilities() -> list[str]:
    """Return the instruction sets whose kernels are timed, by the names that torch gives them."""
    own = torch.backends.cpu.get_cpu_capability()
    return [own, "AVX2"] if own == "AVX512" else [own]


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of every loss, a round each, with the kernels of this process."""
    logits, targets = batch(args.rows, args.classes)
    loss_fns = {name: make() for name, make in cases(args.classes).items()}
    times: dict[str, list[float]] = {name: [] for name in loss_fns}
    order = list(loss_fns)
    for round_number in range(args.rounds + 1):
        random.Random(round_number).shuffle(order)
        for name in order:
            elapsed = seconds(loss_fns[name], logits, targets)
            if round_number > 0:  # the first makes the costly checks
                times[name].append(elapsed)
    return times


def ratios(args: argparse.Namespace, capability: str) -> dict[str, list[float]]:
    """Return the time of every loss over that of torch's cross-entropy, a round each."""
    times = json.loads(in_a_fresh_process("--times", args, capability.lower()))
    baseline = next(iter(times.values()))
    return {
        name: [t / t0 for t, t0 in zip(own, baseline, strict=True)] for name, own in times.items()
    }


def limit(name: str) -> float:
    """Return how many times as long as torch's cross-entropy a loss may take."""
    return LIMITS.get(name.split()[0], 1.35)


def print_table(args: argparse.Namespace) -> None:
    """Measure every loss, and print a row for each, with a column per set of kernels."""
    # first of all: on Linux a process starts with the peak of the one that starts it
    peaks = {name: peak_of(name, args) for name in cases(args.classes)}
    columns = {capability: ratios(args, capability) for capability in capabilities()}
    baseline = next(iter(peaks))
    print(
        f"({args.rows}, {args.classes}) float32, {args.threads} threads, {args.rounds} rounds, "
        f"torch {torch.__version__}; limits: time 1.35 (1.1 for focal and squared errors), "
        f"memory {MEMORY_LIMIT}"
    )
    heads = "".join(f"{name:>6} {'quartiles':>12}" for name in columns)
    print(f"{'time and memory, as ratios':36}{heads} {'MiB':>6} {'memory':>7}")
    for name, mib in peaks.items():
        over, cells = mib / peaks[baseline] > MEMORY_LIMIT, ""
        for found in columns.values():
            low, middle, high = statistics.quantiles(found[name], n=4)
            cells += f"{middle:6.2f} {low:7.2f}-{high:.2f}"
            over = over or middle > limit(name)
        memory = mib / peaks[baseline]
        print(f"{name:36}{cells} {mib:6.0f} {memory:7.2f}{'  over' if over else ''}")


def print_cost_of_checks(rows: int, num_classes: int) -> None:
    """Print what the checks of every step cost, beside a step of a small n-gram model."""
    embedding = nn.Embedding(num_classes, 10)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, num_classes))
    model = nn.Sequential(embedding, layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    contexts, targets = torch.randint(num_classes, (2, rows, 2))
    targets = targets[:, 0]
    loss_fn = losses.FocalLoss()
    logits = model(contexts)

    def step() -> None:
        optimizer.zero_grad()
        loss_fn(model(contexts), targets).backward()
        optimizer.step()

    def check() -> None:
        checks.shapes(logits, targets, None)

    check_time = statistics.median(timeit.repeat(check, number=200, repeat=9)) / 200
    step_time = statistics.median(timeit.repeat(step, number=20, repeat=9)) / 20
    print(
        f"checks of every step, batch {rows:4}, {num_classes:4} classes: {1e6 * check_time:.1f} us "
        f"of {1e6 * step_time:.0f} us, {check_time / step_time:.2%}"
    )


def main() -> None:
    """Read the command line, and print the tables or one number."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=13000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peak-of", help="print only the peak memory of this loss, in MiB")
    parser.add_argument("--times", action="store_true", help="print only the times, as JSON")
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds must be at least 2, for quartiles")
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(peak_mib(args.peak_of, args.rows, args.classes))
        return
    if args.times:
        print(json.dumps(measure(args)))
        return
    print_table(args)
    for rows, num_classes in ((1, 113), (512, 65), (1024, 3000)):
        print_cost_of_checks(rows, num_classes)


if __name__ == "__main__":
    main()
