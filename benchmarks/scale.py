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
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve the other processes
sys.path[0] = str(Path(__file__).resolve().parents[1])

import hydra  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from omegaconf import DictConfig  # noqa: E402
from rich.console import Console  # noqa: E402
from training.run.session import Session  # noqa: E402

from training import loop  # noqa: E402
from training.cli.main import CONFIGS, use_task_options  # noqa: E402
from training.distributed import agreed, from_all, is_main, joined, own_share, world_size  # noqa: E402
from training.loop import train_epoch  # noqa: E402
from training.run.start import build  # noqa: E402

ROUNDS, STEPS = 9, 20
WAYS = ("one", "apart", "together")


def main() -> None:
    """Measure, and print a table."""
    task, *overrides = sys.argv[1:]
    cfg = compose(task, overrides)
    one = build(cfg, Path("unused"), Console())  # knows of no other process
    with joined():
        show(f"{task} {' '.join(overrides)}", one, measure(cfg, one))


def measure(cfg: DictConfig, one: Session) -> list[dict[str, float]]:
    """Return the seconds of each way, a dict a round."""
    sessions = {"one": one, "apart": one, "together": build(cfg, Path("unused"), Console())}
    for way, session in sessions.items():  # warm up
        seconds(way, session, 1)
    rounds = []
    for number in range(1, ROUNDS + 1):
        order = WAYS[number % 3 :] + WAYS[: number % 3]
        rounds.append({way: seconds(way, sessions[way], number) for way in order})
    return rounds


def compose(task: str, overrides: list[str]) -> DictConfig:
    """Return the settings of a run that only takes steps."""
    use_task_options(task)
    fixed = ["threads=1", f"trainer.max_batches={STEPS}"]
    fixed += ["trainer.log_every=1000000000", "trainer.save_every=1000000000"]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose(task, [*overrides, *fixed])


def seconds(way: str, session: Session, epoch: int) -> float:
    """Return the seconds that the steps took, the slowest process's."""
    loop.own_share = own_share if way != "one" else lambda start, end: (start, end)
    loop.agreed = agreed if way == "together" else lambda signals: 0
    session.trainer.epoch = 0  # two ways share a trainer: not under way
    dist.barrier()
    start = time.perf_counter()
    if way != "one" or is_main():
        train_epoch(session.trainer, session.splits.train, epoch)
    return max(from_all(time.perf_counter() - start))


def show(title: str, session: Session, rounds: list[dict[str, float]]) -> None:
    """Print medians over rounds, and quartiles of ratios."""
    examples = STEPS * session.trainer.settings.batch_size
    parameters = sum(p.numel() for p in session.trainer.model.parameters())
    print(f"\n{title}: {parameters:,} parameters, {world_size()} processes of a thread,", end=" ")
    print(f"batch {session.trainer.settings.batch_size}, torch {torch.__version__}")
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
