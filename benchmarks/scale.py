"""Training speed of several processes beside one, and what their exchange costs a step.

    torchrun --nproc-per-node=2 benchmarks/scale.py TASK [GROUP=OPTION ...] [SETTING=VALUE ...]

Each round times a few dozen steps of the same batches in three ways, in turning order: by the first
process alone while the others wait (`one`), by all with their shares but without a word to each
other (`apart`), and by all as they train (`together`). What is shown is the median over rounds of
the ratios within a round, and their quartiles. `apart` is what the machine can give: cores, caches
and memory shared out, and whatever else it is doing; the rest is communication.
"""

import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve the other processes
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from omegaconf import DictConfig  # noqa: E402
from rich.console import Console  # noqa: E402

from training import loop  # noqa: E402
from training.cli.settings import compose as compose_task  # noqa: E402
from training.distributed import (  # noqa: E402
    agreed_signal,
    from_all,
    is_main,
    joined,
    own_share,
    world_size,
)
from training.loop import train_epoch  # noqa: E402
from training.run.build import build  # noqa: E402
from training.run.state import TrainingRun  # noqa: E402
from training.run.targets import instantiate  # noqa: E402

ROUNDS, STEPS = 9, 20
WAYS = ("one", "apart", "together")


def main() -> None:
    """Measure, and print a table."""
    task, *overrides = sys.argv[1:]
    cfg = compose(task, overrides)
    one = build_run(cfg)  # knows of no other process
    with joined():
        show(f"{task} {' '.join(overrides)}", one, measure(cfg, one))


def measure(cfg: DictConfig, one: TrainingRun) -> list[dict[str, float]]:
    """Return the seconds of each way, a dict a round."""
    runs = {"one": one, "apart": one, "together": build_run(cfg)}
    for way, run in runs.items():  # warm up
        seconds(way, run, 1)
    rounds = []
    for number in range(1, ROUNDS + 1):
        order = WAYS[number % 3 :] + WAYS[: number % 3]
        rounds.append({way: seconds(way, runs[way], number) for way in order})
    return rounds


def compose(task: str, overrides: list[str]) -> DictConfig:
    """Return the settings of a run that only takes steps."""
    fixed = ["threads=1", f"trainer.max_batches={STEPS}"]
    fixed += ["trainer.log_every=1000000000", "trainer.save_every=1000000000"]
    return compose_task(task, [*overrides, *fixed])


def build_run(cfg: DictConfig) -> TrainingRun:
    """Return what trains; nothing is written."""
    return build(cfg, "", Path("unused"), Console(), partial(instantiate, guarded=False))


def seconds(way: str, run: TrainingRun, epoch: int) -> float:
    """Return the seconds that the steps took, the slowest process's."""
    vars(loop)["own_share"] = own_share if way != "one" else lambda start, end: (start, end)
    vars(loop)["world_size"] = world_size if way == "together" else lambda: 1
    run.training.epoch, run.training.visited = epoch, 0
    dist.barrier()
    start = time.perf_counter()
    if way != "one" or is_main():
        for _ in train_epoch(run.training, run.splits.train):
            if way == "together":
                agreed_signal(run.signals)  # as a run asks after each step
    return max(from_all(time.perf_counter() - start))


def show(title: str, run: TrainingRun, rounds: list[dict[str, float]]) -> None:
    """Print medians over rounds, and quartiles of ratios."""
    examples = STEPS * run.training.settings.batch_size
    parameters = sum(p.numel() for p in run.training.model.parameters())
    print(f"\n{title}: {parameters:,} parameters, {world_size()} processes of a thread,", end=" ")
    print(f"batch {run.training.settings.batch_size}, torch {torch.__version__}")
    for way in WAYS:
        times = [each[way] for each in rounds]
        ratios = [each["one"] / each[way] for each in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rate = examples / statistics.median(times)
        step = 1000 * statistics.median(times) / STEPS
        print(f"{way:>9}: {rate:9,.0f} examples/s, {step:7.2f} ms a step,", end=" ")
        print(f"{middle:.2f} times one ({low:.2f} to {high:.2f})")
    talk = [1 - each["apart"] / each["together"] for each in rounds]
    print(f"communication: {statistics.median(talk):.0%} of a step")


if __name__ == "__main__":
    main()
