"""One run: what it trains, on what, where it is kept, and how far it has come."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from losses import ClassificationLoss
from training.data import Splits, stream_seed
from training.distributed import agreed_signal, from_all, from_main, is_main, rank, world_size
from training.errors import CheckpointError, ConfigError, DivergedError, warn
from training.loop import Training
from training.run import checkpoint
from training.run.folder import read_curves, write_status
from training.run.log import Positions, RunLog
from training.run.report import Reporter
from training.run.signals import Interrupted
from training.running_loss import RunningLoss

OF_TRAINING = ("step", "epoch", "visited")  # what a checkpoint keeps of `Training`
OF_RUN = ("finished", "best", "best_step", "best_epoch")  # and of `TrainingRun`


def clock() -> dict[str, float]:
    """Return the seconds by the clock and of CPU, each since some moment."""
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}


@dataclass
class TrainingRun:
    """All that a run works on.

    `identity` says what the run is, for comparisons; `config` is the text of config.yaml.
    """

    training: Training
    splits: Splits
    reporters: dict[str, Reporter]
    folder: Path
    console: Console
    identity: dict[str, Any]
    config: str
    log: RunLog | None = None  # the first process has it, once the run has a folder
    signals: list[int] = field(default_factory=list)  # that came; the first one will be obeyed
    epoch_loss: RunningLoss = field(default_factory=RunningLoss)
    window: RunningLoss = field(default_factory=RunningLoss)  # since a loss was last logged
    finished: int = 0  # epochs, with their evaluations
    best: float = float("inf")  # nll of the best weights
    best_step: int = 0
    best_epoch: int = 0
    started: dict[str, float] = field(default_factory=clock)  # as if the run had never stopped

    def __repr__(self) -> str:
        """Return one line: a notebook shows what a cell ends with."""
        return f"TrainingRun({str(self.folder)!r}, step {self.training.step})"

    def seconds(self) -> dict[str, float]:
        """Return the seconds that the run took so far, by the clock and of CPU."""
        return {name: now - self.started[name] for name, now in clock().items()}

    @property
    def model(self) -> nn.Module:
        """The model; once the run has ended, with its best weights."""
        return self.training.model

    @property
    def loss_fn(self) -> ClassificationLoss:
        """The loss, which knows how logits become probabilities."""
        return self.training.loss_fn

    @property
    def figures(self) -> dict[str, float]:
        """The last value of each figure by its tag, as in "test/nll"."""
        return {tag: points[-1][1] for tag, points in read_curves(self.folder).items()}

    def stop_if_asked(self) -> None:
        """Obey a signal that came to any process."""
        if number := agreed_signal(self.signals):
            raise Interrupted(number)


def check_weights(training: Training) -> None:
    """Stop where an update left weights that are not finite: they are never written."""
    if bad := checkpoint.first_bad(training.model):
        now, lower = training.rates()
        raise DivergedError(
            f"stopped at step {training.step}: weight {bad} is not finite at learning rate {now};"
            f" try {lower}"
        )


def save(run: TrainingRun) -> None:
    """Write a checkpoint to resume from, and keep the newest two."""
    run.training.finite_check.raise_if_skipped()
    check_weights(run.training)
    state = run_state(run)
    if is_main():
        checkpoint.save_newest(state, run.folder)
        write_status(run.folder, status="running", step=run.training.step)


def run_state(run: TrainingRun) -> dict[str, Any]:
    """Return all that a run needs to go on as if never stopped: tensors and plain types."""
    training = run.training
    sources = random_sources(training)
    return {
        "data": examples_and_teacher(run),
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "optimizer_class": type(training.optimizer).__name__,
        **{name: getattr(training, name) for name in OF_TRAINING},
        "epoch_loss": run.epoch_loss.state(),
        "window": run.window.state(),
        "random": from_all({kind: source.get_rng_state() for kind, source in sources.items()}),
        "machine": machine(training),
        **{name: getattr(run, name) for name in OF_RUN},
        "seconds": run.seconds(),
        "log": run.log.flush(durable=True) if run.log else {},
    }


def examples_and_teacher(run: TrainingRun) -> str:
    """Return a digest of all that a run learns from, wherever it lies."""
    teacher = run.identity["settings"].get("teacher")
    return f"{run.identity['data']}+{teacher}" if teacher else str(run.identity["data"])


def restore_newest(run: TrainingRun) -> Positions:
    """Go back to the newest good checkpoint, if there is one; return where its log files end.

    The first process reads it for all.
    """
    schema = {name: type(value) for name, value in run_state(run).items()}
    state = from_main(lambda: checkpoint.load_newest(run.folder, schema))
    if not state:
        return {}
    restore(run, state)
    if is_main() and run.best_step:
        check_best(run)
    return state["log"]


def restore(run: TrainingRun, state: dict[str, Any]) -> None:
    """Give a run back what `run_state` took; its settings stay those of now."""
    training, optimizer = run.training, run.training.optimizer
    path = checkpoint.step_path(run.folder, state["step"])
    kinds = [*map(type, RunningLoss().state())]
    for name in ("epoch_loss", "window"):
        if [*map(type, state[name])] != kinds[: max(3, len(state[name]))]:
            raise CheckpointError(f"{path}: {name} is no mean loss")
    if state["data"] != (now := examples_and_teacher(run)):
        what = "teacher" if state["data"].split("+")[0] == now.split("+")[0] else "data"
        raise ConfigError(f"{what}: its content is no longer what the run was trained on")
    before, now = state["optimizer_class"], type(optimizer).__name__
    if before != now:
        raise CheckpointError(f"{path}: the optimizer was {before}, this run's is {now}")
    checkpoint.load_weights(training.model, state, path)
    groups = optimizer.state_dict()["param_groups"]
    for group, stored in zip(groups, state["optimizer"]["param_groups"], strict=True):
        group["lr"] = stored["lr"]  # of the last step, which may still have to be logged
    optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})
    checkpoint.check_optimizer(optimizer, path)
    for name in OF_TRAINING:
        setattr(training, name, state[name])
    run.epoch_loss, run.window = RunningLoss(*state["epoch_loss"]), RunningLoss(*state["window"])
    for name in OF_RUN:
        setattr(run, name, state[name])
    run.started = {name: now - state["seconds"][name] for name, now in clock().items()}
    if rank() < len(state["random"]):
        random = state["random"][rank()]
        for kind, source in random_sources(training).items():
            if kind in random:  # else it was on another device before
                source.set_rng_state(random[kind])
    else:  # there were fewer processes
        torch.manual_seed(stream_seed(training.seed, "noise", rank(), state["step"]))
    if state["machine"] != machine(training):
        print(
            f"warning: went on {state['machine']} before, now on {machine(training)}:"
            " the last bits of the figures may differ (with another number of processes, dropout"
            " and noise do)"
        )


def check_best(run: TrainingRun) -> None:
    """Make sure that best.pt is what was the best where the run goes on."""
    try:
        found = checkpoint.load_checkpoint(run.folder / checkpoint.BEST)["step"]
    except CheckpointError as error:
        found = error
    if found != run.best_step:
        warn(
            f"{checkpoint.BEST} is not of step {run.best_step} ({found});"
            " the best weights from here on are kept"
        )
        run.best, run.best_step, run.best_epoch = float("inf"), 0, 0


def random_sources(training: Training) -> dict[str, Any]:
    """Return what has a state of random numbers: torch for the CPU, and the device's module."""
    kind = training.device.type
    return {"cpu": torch} if kind == "cpu" else {"cpu": torch, kind: getattr(torch, kind)}


def machine(training: Training) -> str:
    """Say what the last bits of a sum depend on."""
    counts = f"{world_size()} processes, {torch.get_num_threads()} threads"
    return f"{training.device.type}, {counts}, torch {torch.__version__}"
