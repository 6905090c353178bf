"""A run under way: epochs, evaluations, the best weights kept, and the end."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metrics.reliability import draw_reliability, reliability_data
from training.data import Splits
from training.distributed import agreed, from_main, is_main
from training.errors import CheckpointError, ConfigError, DivergedError
from training.evaluation import Evaluation, evaluate
from training.loop import OnStep, Trainer, train_epoch
from training.recalibration import Recalibration, recalibrate
from training.run.checkpoint import (
    KEPT,
    first_bad,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    step_files,
    step_path,
    use_newest,
)
from training.run.cost import Cost
from training.run.report import Report, ReportContext, Reporter, print_table
from training.run.resume import from_here
from training.run.run_folder import BEST, best_state, write_status
from training.run.signals import Interrupted
from training.run.state import restore_trainer, trainer_state


@dataclass
class Session:
    """What a run works on, and how far it has come."""

    trainer: Trainer
    splits: Splits
    reporters: list[Reporter]
    folder: Path
    console: Console
    task: str
    config: str  # as written to config.yaml
    data: str  # fingerprint
    logged_config: str = ""
    best: float = float("inf")
    best_step: int = 0
    finished: int = 0  # epochs, with their evaluations
    identity: str = ""  # as written to run.json
    cost: Cost = field(default_factory=Cost)

    @property
    def max_rows(self) -> int | None:
        """How many rows evaluations are cut to."""
        settings = self.trainer.settings
        return settings.max_batches and settings.max_batches * settings.batch_size

    @property
    def kept_by(self) -> str:
        """The split whose nll chooses the weights; train stands in where none is held out."""
        return "val" if len(self.splits.val) else "train"

    def stop_if_asked(self) -> None:
        """Obey a signal that came since the last step."""
        number = agreed(self.trainer.signals)
        if number:
            raise Interrupted(number)

    def save(self) -> None:
        """Write a checkpoint to resume from; then obey a signal, if one came."""
        trainer, folder = self.trainer, self.folder
        check_weights(trainer)
        progress = {"task": self.task, "data": self.data, "finished": self.finished}
        progress |= {"config": self.config, "seconds": self.cost.seconds()}
        progress |= {"best": self.best, "best_step": self.best_step, "log": trainer.log.sync()}
        state = trainer_state(trainer) | progress
        path = step_path(folder, trainer.step)
        if trainer.log.attempt(lambda: save_checkpoint(state, path)) and is_main():
            for old in step_files(folder)[KEPT:]:
                old.unlink(missing_ok=True)
        self.write_status("running")
        self.stop_if_asked()

    def write_status(self, status: str, message: str = "", exit_code: int | None = None) -> None:
        """Say in status.json how the run stands."""
        step = self.trainer.step
        self.trainer.log.attempt(
            lambda: write_status(self.folder, self.task, status, step, message, exit_code)
        )

    def keep(self, nll: float, epoch: int) -> None:
        """Keep the weights on disk, where `save` comes next: their nll is the lowest."""
        trainer = self.trainer
        state = best_state(trainer.model, self.splits, trainer.step, epoch, nll)
        if trainer.log.attempt(lambda: save_checkpoint(state, self.folder / BEST, last=False)):
            self.best, self.best_step = nll, trainer.step

    def restore_newest(self) -> list[Path]:
        """Go back to the newest good checkpoint, read by one for all; return those damaged."""
        used: list[tuple[dict[str, Any], Path]] = []

        def use(state: dict[str, Any], path: Path) -> None:
            self.restore(state, path)
            used.append((state, path))

        damaged = use_newest(self.folder, use) if is_main() else []
        used = from_main(lambda: used)
        if used and not is_main():
            self.restore(*used[0])
        return damaged

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Go back to where a checkpoint was written, the log files apart."""
        if state["data"] != self.data:
            raise ConfigError("data: its content is no longer what the run was trained on")
        restore_trainer(self.trainer, state, path)
        self.trainer.log.positions = state["log"]
        self.finished, self.logged_config = state["finished"], state["config"]
        self.best, self.best_step = state["best"], state["best_step"]
        self.cost.before = state["seconds"]

    def check_best(self) -> None:
        """Make sure that best.pt is what was the best where the run goes on."""
        if not self.best_step:
            return
        try:
            step, problem = load_checkpoint(self.folder / BEST)["step"], ""
        except CheckpointError as error:
            step, problem = None, f"{error}; "
        if step != self.best_step:
            print(
                f"warning: {problem}{BEST} is not of step {self.best_step};"
                " the best weights from here on are kept",
                file=sys.stderr,
            )
            self.best, self.best_step = float("inf"), 0

    def evaluate(self, name: str) -> Evaluation:
        """Measure the model on the split of that name, and log its metrics."""
        self.stop_if_asked()
        trainer, split = self.trainer, getattr(self.splits, name)
        num_classes = self.splits.num_classes
        result = evaluate(trainer.model, trainer.loss_fn, split, num_classes, self.max_rows)
        trainer.log.scalars(name, result.metrics, trainer.step)
        return result

    def report(self, *, final: bool) -> list[Report]:
        """Let the task show what it has of its own."""
        trainer = self.trainer
        context = ReportContext(
            model=trainer.model,
            loss_fn=trainer.loss_fn,
            splits=self.splits,
            log=trainer.log,
            step=trainer.step,
            seed=trainer.seed,
            final=final,
            max_rows=self.max_rows,
        )
        return [reporter(context) for reporter in self.reporters]

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


def check_weights(trainer: Trainer) -> None:
    """Stop where an update left weights that are not finite: they are never written."""
    bad = first_bad(trainer.model)
    if bad:
        lr = trainer.optimizer.param_groups[0]["lr"]
        raise DivergedError(
            f"stopped at step {trainer.step}: weight {bad} is not finite at learning rate {lr:g};"
            f" try optimizer.lr={trainer.base_lrs[0] / 10:g}"
        )


def fit(session: Session) -> float:
    """Train; keep the weights of the best nll on disk, and load them back; return that nll."""
    trainer, settings = session.trainer, session.trainer.settings
    train, path = session.splits.train, session.folder / BEST
    trainer.save = session.save
    with progress_bar(session.console, trainer.num_steps(len(train))) as trainer.on_step:
        for epoch in range(session.finished + 1, settings.epochs + 1):
            loss = train_epoch(trainer, train, epoch)
            if settings.evaluates(epoch):
                evaluate_epoch(session, epoch, loss)
            session.finished = epoch
            if settings.evaluates(epoch):
                session.save()
    if not session.best_step:
        raise CheckpointError(f"{path}: could not be written, there are no weights to test")
    load_weights(trainer.model, from_main(lambda: load_checkpoint(path)), path)
    return session.best


def evaluate_epoch(session: Session, epoch: int, loss: float) -> None:
    """Log and print where training stands; keep the weights if they are the best."""
    trainer, name = session.trainer, session.kept_by
    trainer.log_window()
    line = f"epoch {epoch}/{trainer.settings.epochs}  train loss {loss:.4f}"
    if name == "train" and epoch < trainer.settings.epochs:
        session.console.print(line)
        return
    check_weights(trainer)
    evaluation = session.evaluate(name)
    nll, metrics = evaluation.metrics["nll"], evaluation.metrics
    line += f"  {name} nll {nll:.4f}  accuracy {metrics['accuracy']:.2%}"
    is_best = nll < session.best
    line += "  (best)" if is_best else ""
    session.console.print(f"{line}  ECE {metrics['ece']:.4f}")
    if is_main() and trainer.settings.draws(epoch):
        session.draw(name, before=evaluation)
        if epoch < trainer.settings.epochs:  # `finish` reports on the best weights
            session.report(final=False)
    if is_best:  # last, so that best.pt and the checkpoint that names its step are written together
        session.keep(nll, epoch)


def finish(session: Session, columns: list[str]) -> None:
    """Test the best weights; print the figures, what the task adds, and where to look next."""
    name = "test" if len(session.splits.test) else session.kept_by
    evaluations = {"before": session.evaluate(name)}
    rows = {name: evaluations["before"].metrics}
    recalibration = session.recalibrate()
    if recalibration:
        fit = recalibration.fit
        bound = f" (the {fit.at_bound} bound was reached)" if fit.at_bound else ""
        evaluations[f"after, T = {fit.temperature:.2f}"] = recalibration.test
        rows[f"{name}, T = {fit.temperature:.3f}{bound}"] = recalibration.test.metrics
    session.stop_if_asked()
    if not is_main():
        return
    session.draw(name, **evaluations)
    reports = session.report(final=True)
    for report in reports:
        rows |= report.rows
    session.trainer.log.scalars("time", session.cost.scalars(), session.trainer.step)
    session.console.print(f"\n{session.splits.protocol}", markup=False, soft_wrap=True)
    print_table(session.console, rows, columns)
    for report in reports:
        if report.text:
            session.console.print(f"\n{report.text}", markup=False)
    tensorboard = Path(sys.executable).with_name("tensorboard")
    command = from_here(tensorboard) if tensorboard.exists() else "tensorboard"
    logdir = shlex.quote(from_here(session.folder.parent))
    shown = f"\nrun folder: {from_here(session.folder)}\nlook at it: {command} --logdir {logdir}"
    session.console.print(shown, markup=False, soft_wrap=True)  # a wrapped path cannot be copied


@contextmanager
def progress_bar(console: Console, num_steps: int) -> Iterator[OnStep]:
    """Show steps, loss and examples/s while the block runs; nothing where there is no screen."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("training", total=num_steps, now="")
    with bar:
        yield lambda step, loss, rate: bar.update(
            task, completed=step, now=f"loss {loss:.4f}  {rate:,.0f} examples/s"
        )
