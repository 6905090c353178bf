"""Train a run to its end: epochs, evaluations, the best weights kept, and the test."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metrics import draw_reliability, reliability_data
from training.distributed import agreed_signal, from_main, is_main
from training.evaluation import Evaluation, evaluate, recalibrate
from training.loop import train_epoch
from training.run.checkpoint import BEST, load_checkpoint, load_weights, save_checkpoint
from training.run.folder import write_status
from training.run.report import Report, ReportContext, print_table
from training.run.signals import Interrupted
from training.run.state import TrainingRun, check_weights, save_state
from training.run.status import from_here
from training.running_loss import RunningLoss

ShowStep = Callable[[int, float, float], None]  # step, loss, examples per second


def fit(run: TrainingRun) -> float:
    """Train; keep the weights of the best nll on disk, and load them back; return that nll."""
    training, settings, train = run.training, run.training.settings, run.splits.train
    with progress_bar(run.console, training.num_steps(len(train))) as show_step:
        for epoch in range(run.finished + 1, settings.epochs + 1):
            if epoch != training.epoch:  # else it was resumed within this epoch
                training.epoch, training.visited, run.epoch_loss = epoch, 0, RunningLoss()
            for update in train_epoch(training, train):
                run.epoch_loss.add(update)
                run.window.add(update)
                if training.step % settings.log_every == 0:
                    log_window(run, show_step)
                if agreed_signal(run.signals) or training.step % settings.save_every == 0:
                    save(run)
            if settings.evaluates(epoch):
                log_window(run, show_step)
                evaluate_epoch(run)
            run.finished = epoch
            if settings.evaluates(epoch):
                save(run)
    path = run.folder / BEST
    load_weights(training.model, from_main(lambda: load_checkpoint(path)), path)
    return run.best


def log_window(run: TrainingRun, show_step: ShowStep) -> None:
    """Log the mean loss since the last time, if there was a step; begin a new mean."""
    training, window = run.training, run.window
    training.finite_check.raise_if_skipped()
    if window.examples:
        loss, rate = window.mean(), window.rate()
        lr = training.optimizer.param_groups[0]["lr"]
        run.log.scalars("train", {"loss": loss, "lr": lr}, training.step)
        run.log.scalars("time", {"examples_per_s": rate}, training.step)
        show_step(training.step, loss, rate)
    run.window = RunningLoss()


def save(run: TrainingRun) -> None:
    """Write a checkpoint to resume from; then obey a signal, if one came."""
    save_state(run)
    if is_main():
        write_status(run.folder, status="running", step=run.training.step)
    stop_if_asked(run)


def stop_if_asked(run: TrainingRun) -> None:
    """Obey a signal that came since the last step."""
    number = agreed_signal(run.signals)
    if number:
        raise Interrupted(number)


def evaluate_epoch(run: TrainingRun) -> None:
    """Log and print where training stands; keep the weights if they are the best."""
    training, settings, name = run.training, run.training.settings, chosen_by(run)
    epoch, last = training.epoch, training.epoch == settings.epochs
    line = f"epoch {epoch}/{settings.epochs}  train loss {run.epoch_loss.mean():.4f}"
    if name == "train" and not last:
        run.console.print(line)
        return
    check_weights(training)
    evaluation = evaluate_split(run, name)
    nll, metrics = evaluation.metrics["nll"], evaluation.metrics
    is_best = nll < run.best
    line += f"  {name} nll {nll:.4f}  accuracy {metrics['accuracy']:.2%}"
    line += "  (best)" if is_best else ""
    run.console.print(f"{line}  ECE {metrics['ece']:.4f}")
    if is_main() and settings.draws(epoch):
        draw(run, name, before=evaluation)
        if not last:  # `finish` reports on the best weights
            report(run, final=False)
    if is_best:  # last, so that best.pt and the checkpoint that names its step are written together
        run.best, run.best_step = nll, training.step
        if is_main():
            save_checkpoint(best_state(run), run.folder / BEST, last=False)


def chosen_by(run: TrainingRun) -> str:
    """Return the split whose nll chooses the weights: val, or train if there is none."""
    return "val" if len(run.splits.val) else "train"


def best_state(run: TrainingRun) -> dict[str, object]:
    """Return what the checkpoint of the best weights holds: plain types and tensors."""
    return {
        "model": run.training.model.state_dict(),
        "class_names": list(run.splits.class_names),
        "class_counts": run.splits.class_counts,
        "step": run.training.step,
        "epoch": run.training.epoch,
        "val_nll": run.best,
        "torch": str(torch.__version__),
    }


def evaluate_split(run: TrainingRun, name: str) -> Evaluation:
    """Evaluate the model on the split of that name, and log its metrics."""
    stop_if_asked(run)
    training, split = run.training, getattr(run.splits, name)
    max_rows = training.settings.max_rows
    result = evaluate(training.model, training.loss_fn, split, run.splits.num_classes, max_rows)
    run.log.scalars(name, result.metrics, training.step)
    return result


def draw(run: TrainingRun, name: str, **evaluations: Evaluation) -> None:
    """Log the reliability diagrams of evaluations side by side, each with its label."""
    panels = [
        reliability_data(e.bins, e.metrics, label=label if len(evaluations) > 1 else "")
        for label, e in evaluations.items()
    ]
    run.log.figure(f"{name}/reliability", draw_reliability(*panels), run.training.step)


def report(run: TrainingRun, *, final: bool) -> list[Report]:
    """Let the task show what it has of its own."""
    training = run.training
    context = ReportContext(
        model=training.model,
        loss_fn=training.loss_fn,
        splits=run.splits,
        log=run.log,
        step=training.step,
        seed=training.seed,
        final=final,
        max_rows=training.settings.max_rows,
    )
    return [reporter(context) for reporter in run.reporters]


def finish(run: TrainingRun, columns: list[str]) -> None:
    """Test the best weights; print the figures, what the task adds, and where to look next."""
    training, splits, console = run.training, run.splits, run.console
    name = "test" if len(splits.test) else chosen_by(run)
    evaluations = {"before": evaluate_split(run, name)}
    rows = {name: evaluations["before"].metrics}
    if len(splits.calibration) and len(splits.test):
        after = recalibrate(
            training.model,
            training.loss_fn,
            splits.calibration,
            splits.test,
            splits.num_classes,
            training.settings.max_rows,
        )
        run.log.scalars("test", after.scalars(), training.step)
        bound = f" (the {after.fit.at_bound} bound was reached)" if after.fit.at_bound else ""
        evaluations[f"after, T = {after.fit.temperature:.2f}"] = after.test
        rows[f"{name}, T = {after.fit.temperature:.3f}{bound}"] = after.test.metrics
    stop_if_asked(run)
    if not is_main():
        return
    draw(run, name, **evaluations)
    reports = report(run, final=True)
    for each in reports:
        rows |= each.rows
    seconds, cpu_seconds = run.seconds()
    run.log.scalars("time", {"seconds": seconds, "cpu_seconds": cpu_seconds}, training.step)
    console.print(f"\n{splits.protocol}", markup=False, soft_wrap=True)
    print_table(console, rows, columns)
    for each in reports:
        if each.text:
            console.print(f"\n{each.text}", markup=False)
    tensorboard = Path(sys.executable).with_name("tensorboard")
    command = from_here(tensorboard) if tensorboard.exists() else "tensorboard"
    logdir = shlex.quote(from_here(run.folder.parent))
    shown = f"\nrun folder: {from_here(run.folder)}\nlook at it: {command} --logdir {logdir}"
    console.print(shown, markup=False, soft_wrap=True)  # a wrapped path cannot be copied


@contextmanager
def progress_bar(console: Console, num_steps: int) -> Iterator[ShowStep]:
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
