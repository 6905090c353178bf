"""A run under way: epochs, evaluations, the best weights kept, and the end."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.checkpoint import load_checkpoint, save_checkpoint
from training.data import Splits
from training.evaluation import Evaluation, evaluate
from training.loop import OnStep, Trainer, train_epoch
from training.recalibration import Recalibration, recalibrate
from training.reliability import draw_reliability, reliability_data
from training.report import Moment, Report, Reporter, print_table
from training.run_folder import BEST, best_state


@dataclass(frozen=True)
class Session:
    """What a run works on."""

    trainer: Trainer
    splits: Splits
    reporters: list[Reporter]
    folder: Path
    console: Console

    @property
    def max_rows(self) -> int | None:
        """How many rows evaluations are cut to."""
        settings = self.trainer.settings
        return settings.max_batches and settings.max_batches * settings.batch_size

    @property
    def kept_by(self) -> str:
        """The split whose nll chooses the weights; train stands in where none is held out."""
        return "val" if len(self.splits.val) else "train"

    def evaluate(self, name: str) -> Evaluation:
        """Measure the model on the split of that name, and log its metrics."""
        trainer, split = self.trainer, getattr(self.splits, name)
        num_classes = self.splits.num_classes
        result = evaluate(trainer.model, trainer.loss_fn, split, num_classes, self.max_rows)
        trainer.log.scalars(name, result.metrics, trainer.step)
        return result

    def report(self, *, final: bool) -> list[Report]:
        """Let the task show what it has of its own."""
        trainer = self.trainer
        moment = Moment(
            model=trainer.model,
            loss_fn=trainer.loss_fn,
            splits=self.splits,
            log=trainer.log,
            step=trainer.step,
            seed=trainer.seed,
            final=final,
            max_rows=self.max_rows,
        )
        return [reporter(moment) for reporter in self.reporters]

    def draw(self, name: str, **evaluations: Evaluation) -> None:
        """Log the reliability diagrams of evaluations side by side, each with its label."""
        panels = [
            reliability_data(e.bins, e.metrics, label=label if len(evaluations) > 1 else "")
            for label, e in evaluations.items()
        ]
        figure = draw_reliability(*panels)
        self.trainer.log.figure(f"{name}/reliability", figure, self.trainer.step)

    def recalibrate(self) -> Recalibration | None:
        """Fit a temperature on the calibration split; measure and log the test split with it."""
        trainer, splits = self.trainer, self.splits
        if not len(splits.calibration) or not len(splits.test):
            return None
        result = recalibrate(
            trainer.model,
            trainer.loss_fn,
            splits.calibration,
            splits.test,
            splits.num_classes,
            self.max_rows,
        )
        trainer.log.scalars("test", result.scalars(), trainer.step)
        return result


def fit(session: Session) -> float:
    """Train; keep the weights of the best nll on disk, and load them back; return that nll."""
    trainer, settings = session.trainer, session.trainer.settings
    train, name = session.splits.train, session.kept_by
    path, best = session.folder / BEST, float("inf")
    num_steps = settings.epochs * settings.steps_per_epoch(len(train))
    with progress_bar(session.console, num_steps) as trainer.on_step:
        for epoch in range(1, settings.epochs + 1):
            loss = train_epoch(trainer, train, epoch)
            if not settings.evaluates(epoch):
                continue
            trainer.log_window()
            line = f"epoch {epoch}/{settings.epochs}  train loss {loss:.4f}"
            if name == "train" and epoch < settings.epochs:
                session.console.print(line)
                continue
            evaluation = session.evaluate(name)
            nll, metrics = evaluation.metrics["nll"], evaluation.metrics
            line += f"  {name} nll {nll:.4f}  accuracy {metrics['accuracy']:.2%}"
            if nll < best:
                best = nll
                state = best_state(trainer.model, session.splits, trainer.step, epoch, nll)
                save_checkpoint(state, path)
                line += "  (best)"
            session.console.print(f"{line}  ECE {metrics['ece']:.4f}")
            if settings.draws(epoch):
                session.draw(name, before=evaluation)
                session.report(final=False)
            trainer.log.flush()
    trainer.model.load_state_dict(load_checkpoint(path)["model"])
    return best


def finish(session: Session, columns: list[str]) -> None:
    """Test the best weights; print the figures, what the task adds, and where to look next."""
    name = "test" if len(session.splits.test) else session.kept_by
    evaluations = {"before": session.evaluate(name)}
    rows = {name: evaluations["before"].metrics}
    recalibration = session.recalibrate()
    if recalibration:
        evaluations["after temperature"] = recalibration.test
        rows[f"{name}, T = {recalibration.fit.temperature:.3f}"] = recalibration.test.metrics
    session.draw(name, **evaluations)
    reports = session.report(final=True)
    for report in reports:
        rows |= report.rows
    print(f"\n{session.splits.protocol}")
    print_table(session.console, rows, columns)
    for report in reports:
        if report.text:
            session.console.print(f"\n{report.text}", markup=False)
    tensorboard = Path(sys.executable).with_name("tensorboard")
    command = _from_here(tensorboard) if tensorboard.exists() else "tensorboard"
    logdir = shlex.quote(_from_here(session.folder.parent))
    # print, not the console: a path that is wrapped cannot be copied
    print(f"\nrun folder: {_from_here(session.folder)}")
    print(f"look at it: {command} --logdir {logdir}", flush=True)


def _from_here(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


@contextmanager
def progress_bar(console: Console, num_steps: int) -> Iterator[OnStep]:
    """Show steps, loss and examples/s while the block runs; nothing where there is no screen."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} examples/s"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("training", total=num_steps, loss=float("nan"), rate=0.0)
    with bar:
        yield lambda step, loss, rate: bar.update(task, completed=step, loss=loss, rate=rate)
