"""One run: what it trains, on what, where it is kept, and how far it has come."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training.data import Splits, stream_seed
from training.distributed import from_all, from_main, is_main, rank, world_size
from training.errors import CheckpointError, ConfigError, DivergedError
from training.loop import Training
from training.run.checkpoint import (
    BEST,
    KEPT,
    first_bad,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    step_files,
    step_path,
    use_newest,
)
from training.run.log import RunLog
from training.run.report import Reporter
from training.running_loss import RunningLoss


@dataclass
class TrainingRun:
    """All that a run works on.

    `identity` says what the run is, for comparisons; `config` are its settings as they are written
    to config.yaml.
    """

    training: Training
    splits: Splits
    reporters: list[Reporter]
    folder: Path
    console: Console
    log: RunLog
    identity: dict[str, Any]
    config: str
    signals: list[int] = field(default_factory=list)  # that came and are still to be obeyed
    epoch_loss: RunningLoss = field(default_factory=RunningLoss)
    window: RunningLoss = field(default_factory=RunningLoss)  # since a loss was last logged
    finished: int = 0  # epochs, with their evaluations
    best: float = float("inf")  # nll of the best weights
    best_step: int = 0
    seconds_before: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of resumed processes
    started: tuple[float, float] = field(
        default_factory=lambda: (time.perf_counter(), time.process_time())
    )

    def seconds(self) -> list[float]:
        """Return the seconds that the run took so far, by the clock and of CPU."""
        now = (time.perf_counter(), time.process_time())
        parts = zip(self.seconds_before, now, self.started, strict=True)
        return [before + end - start for before, end, start in parts]


def check_weights(training: Training) -> None:
    """Stop where an update left weights that are not finite: they are never written."""
    if bad := first_bad(training.model):
        lr = training.optimizer.param_groups[0]["lr"]
        raise DivergedError(
            f"stopped at step {training.step}: weight {bad} is not finite at learning rate {lr:g};"
            f" try optimizer.lr={training.base_lrs[0] / 10:g}"
        )


def save_state(run: TrainingRun) -> None:
    """Write a checkpoint to resume from, and remove those that are older than the newest two."""
    run.training.finite_check.raise_if_skipped()
    check_weights(run.training)
    state = run_state(run)
    if is_main():
        save_checkpoint(state, step_path(run.folder, run.training.step))
        for old in step_files(run.folder)[KEPT:]:
            old.unlink(missing_ok=True)


def run_state(run: TrainingRun) -> dict[str, Any]:
    """Return all that a run needs to go on as if never stopped: tensors and plain types."""
    training = run.training
    random, *others = from_all(random_state())
    return {
        "task": run.identity["task"],
        "data": run.identity["data"],
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "optimizer_class": type(training.optimizer).__name__,
        "step": training.step,
        "epoch": training.epoch,
        "visited": training.visited,
        "epoch_loss": run.epoch_loss.state(),
        "window": run.window.state(),
        "random": random | {str(n): states for n, states in enumerate(others, 1)},
        "machine": machine(training),
        "finished": run.finished,
        "best": run.best,
        "best_step": run.best_step,
        "seconds": run.seconds(),
        "log": run.log.flush(durable=True),
    }


def restore_newest(run: TrainingRun) -> list[Path]:
    """Go back to the newest good checkpoint; return those that are damaged.

    The first process reads it for all.
    """
    used: list[tuple[dict[str, Any], Path]] = []

    def use(state: dict[str, Any], path: Path) -> None:
        restore(run, state, path)
        used.append((state, path))

    damaged = use_newest(run.folder, use) if is_main() else []
    used = from_main(lambda: used)
    if used and not is_main():
        restore(run, *used[0])
    return damaged


def restore(run: TrainingRun, state: dict[str, Any], path: Path) -> None:
    """Give a run back what `run_state` took; its settings stay those of now.

    The optimizer's `load_state_dict` would bring its old settings back. Only the rate of the last
    step is kept, which may still have to be logged; the next step sets its own.
    """
    if state["data"] != run.identity["data"]:
        raise ConfigError("data: its content is no longer what the run was trained on")
    training = run.training
    load_weights(training.model, state, path)
    optimizer = training.optimizer
    if state["optimizer_class"] != type(optimizer).__name__:
        raise CheckpointError(
            f"{path}: optimizer_class is {state['optimizer_class']},"
            f" this run's is {type(optimizer).__name__}"
        )
    settings = [
        {name: value for name, value in group.items() if name not in ("params", "lr")}
        for group in optimizer.param_groups
    ]
    try:
        optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(optimizer.param_groups, settings, strict=True):
            group.update(values)
        run.epoch_loss = RunningLoss(*state["epoch_loss"])
        run.window = RunningLoss(*state["window"])
        random = state["random"].get(str(rank())) if rank() else state["random"]
        if random:
            set_random_state(random)
        else:  # there were fewer processes
            torch.manual_seed(stream_seed(training.seed, "noise", rank(), state["step"]))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not fit this run ({error})") from error
    for name in ("step", "epoch", "visited"):
        setattr(training, name, state[name])
    run.finished, run.best, run.best_step = state["finished"], state["best"], state["best_step"]
    run.seconds_before, run.log.positions = state["seconds"], state["log"]
    if state["machine"] != machine(training):
        print(
            f"warning: went on {state['machine']} before, now on {machine(training)}:"
            " the last bits of the figures may differ (with another number of processes, dropout"
            " and noise do)"
        )


def check_best(run: TrainingRun) -> None:
    """Make sure that best.pt is what was the best where the run goes on."""
    if not run.best_step:
        return
    try:
        step, problem = load_checkpoint(run.folder / BEST)["step"], ""
    except CheckpointError as error:
        step, problem = None, f"{error}; "
    if step != run.best_step:
        print(
            f"warning: {problem}{BEST} is not of step {run.best_step};"
            " the best weights from here on are kept",
            file=sys.stderr,
        )
        run.best, run.best_step = float("inf"), 0


def random_state() -> dict[str, torch.Tensor]:
    """Return the state of torch's generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_state(states: dict[str, torch.Tensor]) -> None:
    """Give back what `random_state` took, as far as the devices are here."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def machine(training: Training) -> str:
    """Say what the last bits of a sum depend on."""
    device = next(training.model.parameters()).device.type
    processes = f"{world_size()} processes, " if world_size() > 1 else ""
    threads = torch.get_num_threads()
    return f"{device}, {processes}{threads} threads, torch {torch.__version__}"
