"""Train a run to its end: epochs, evaluations, the best weights kept, and the test."""

import math
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec

import torch
from rich.progress import Progress

from metrics import MetricsReport, PerExample
from training.distributed import agreed_signal, from_main
from training.errors import UserError, warn
from training.evaluation import evaluate, on_trial, recalibrate
from training.loop import train_epoch
from training.run.checkpoint import BEST, load_checkpoint, load_weights, save_checkpoint
from training.run.diagnosis import diagnosis
from training.run.examples import MAX_ROWS, write_examples
from training.run.figures import markdown_rows
from training.run.folder import from_here, tensorboard_on
from training.run.log import RunLog
from training.run.report import Report, ReportContext, print_table, table_of
from training.run.state import TrainingRun, check_weights, save
from training.run.untrusted import printable
from training.running_loss import RunningLoss


def fit(run: TrainingRun) -> None:
    """Train; keep the weights of the best nll on disk, and load them back."""
    training, settings, train = run.training, run.training.settings, run.splits.train
    in_notebook = run.console.is_jupyter and find_spec("ipywidgets")  # rich draws its bar by it
    no_screen = run.console.quiet or not (run.console.is_terminal or in_notebook)
    if chosen_by(run) == "val":
        run.console.print("* marks the lowest val nll so far: those weights are kept, and tested")
    with Progress(console=run.console, transient=True, disable=no_screen) as bar:
        bar.add_task("", total=training.num_steps(len(train)), completed=training.step)
        for epoch in range(run.finished + 1, settings.epochs + 1):
            if epoch != training.epoch:  # else it was resumed within this epoch
                training.epoch, training.visited, run.epoch_loss = epoch, 0, RunningLoss()
            for update in train_epoch(training, train):
                run.epoch_loss.add(update)
                run.window.add(update)
                if training.step % settings.log_every == 0:
                    log_window(run, bar)
                if agreed_signal(run.signals) or training.step % settings.save_every == 0:
                    save(run)
                    run.stop_if_asked()
            run.finished = epoch
            if settings.evaluates(epoch):
                log_window(run, bar)
                evaluate_epoch(run)
                save(run)
                run.stop_if_asked()
    load_best(run)


def load_best(run: TrainingRun) -> None:
    """Give the model the weights of the best evaluation."""
    path = run.folder / BEST
    load_weights(run.model, from_main(lambda: load_checkpoint(path)), path)


def log_window(run: TrainingRun, bar: Progress) -> None:
    """Log the mean loss since the last time, if there was a step; begin a new mean."""
    training, window = run.training, run.window
    training.finite_check.raise_if_skipped()
    if window.examples:
        loss, rate = window.mean(), window.rate()
        now = f"step {training.step}  loss {loss:.4f}  {rate:,.0f} examples/s"
        bar.update(bar.task_ids[0], completed=training.step, description=now)
        if run.log:
            lr = training.optimizer.param_groups[0]["lr"]
            scalars = {"loss": loss, "lr": lr, "gradient_norm": window.gradient_norm()}
            run.log.scalars("train", scalars, training.step)
            run.log.scalars("time", {"examples_per_s": rate}, training.step)
    run.window = RunningLoss()


def evaluate_epoch(run: TrainingRun) -> None:
    """Log and print where training stands; keep the weights if they are the best.

    Without a validation split, only the last epoch is evaluated, on the training split.
    """
    training, settings, name = run.training, run.training.settings, chosen_by(run)
    epoch, last = training.epoch, training.epoch == settings.epochs
    train_loss = run.epoch_loss.mean()
    line = f"epoch {epoch}/{settings.epochs}  train loss {train_loss:.4f}"
    if name == "train" and not last:
        run.console.print(line)
        return
    check_weights(training)
    evaluation = evaluate_split(run, name)
    nll, metrics = evaluation.metrics["nll"], evaluation.metrics
    is_best = nll < run.best
    line += f"  {name} nll {nll:.4f}  accuracy {metrics['accuracy']:.2%}"
    run.console.print(f"{line}  ECE {metrics['ece']:.3f}{' *' if is_best else ''}")
    if last and name == "val" and train_loss > nll:
        explain(run, train_loss, metrics)
    if run.log and settings.draws(epoch):
        run.log.figure(f"{name}/reliability", evaluation.figure(), training.step)
        report(run, run.log, final=False)
    if is_best:  # last, so that best.pt and the checkpoint that names its step are written together
        run.best, run.best_step, run.best_epoch = nll, training.step, epoch
        if run.log:
            state = {
                "model": training.model.state_dict(),
                "class_names": list(run.splits.class_names),
                "class_counts": run.splits.class_counts,
                "step": training.step,
            }
            save_checkpoint(state, run.folder / BEST)


def explain(run: TrainingRun, train_loss: float, val: dict[str, float]) -> None:
    """Say why the train loss stands above the nll of val, where the way of training explains it."""
    reasons = []
    if not math.isclose(val["loss"], val["nll"], rel_tol=1e-3):
        reasons.append(f"it is another figure, which is {val['loss']:.4f} on val")
    if train_loss > val["loss"] and (harder := only_in_training(run)):
        reasons.append(f"only training has {' and '.join(harder)}")
    if reasons:
        run.console.print(f"train loss above val nll: {'; '.join(reasons)}")


@torch.no_grad()
def only_in_training(run: TrainingRun) -> list[str]:
    """Name what makes training harder than an evaluation, by trying it on a few examples."""
    rows, model = slice(0, 8), on_trial(run.model.train())
    inputs, changed = run.splits.train.batch(rows)[0], run.splits.train.batch(rows, epoch=1)[0]
    with torch.random.fork_rng():
        one, other = model(inputs), model(inputs)
    found = {"dropout or other noise": (one, other), "augmented examples": (inputs, changed)}
    return [name for name, pair in found.items() if not torch.equal(*pair)]


def chosen_by(run: TrainingRun) -> str:
    """Return the split whose nll chooses the weights: val, or train if there is none."""
    return "val" if len(run.splits.val) else "train"


def tested(run: TrainingRun) -> str:
    """Return the split that the best weights are measured on."""
    return "test" if len(run.splits.test) else chosen_by(run)


def fits_temperature(run: TrainingRun) -> bool:
    """Say whether the data has a split to fit a temperature on, and another to measure it on."""
    return bool(len(run.splits.calibration) and len(run.splits.test))


def final_tags(run: TrainingRun) -> list[str]:
    """Return the tags of the figures that runs are compared by, the most important first."""
    names = ["nll", "accuracy", "ece", *["ece_temperature"] * fits_temperature(run), "brier"]
    return [f"{tested(run)}/{name}" for name in names]


def evaluate_split(run: TrainingRun, name: str, *, final: bool = False) -> MetricsReport:
    """Evaluate the model on the split of that name, and log its metrics.

    At the end (`final`) every example is kept as well, if they are not too many.
    """
    training, split = run.training, getattr(run.splits, name)
    if name == "train":  # the others are cut already
        split = split.first(training.settings.max_rows)
    is_kept = final and split.targets.numel() <= MAX_ROWS
    examples = PerExample(split.targets) if is_kept else None
    result = evaluate(run.model, run.loss_fn, split, run.splits.num_classes, examples=examples)
    if run.log:
        run.log.scalars(name, result.metrics, training.step)
        if examples:
            write_examples(run.folder, examples.table.flatten(0, 1).cpu().numpy())
    return result


def report(run: TrainingRun, log: RunLog, *, final: bool) -> list[Report]:
    """Let the task show what it has of its own."""
    t = run.training
    context = ReportContext(t.model, t.loss_fn, run.splits, log, t.step, t.seed, final)
    reports = []
    for name, reporter in run.reporters.items():
        try:
            reports.append(reporter(context))
        except UserError:
            raise
        except Exception as error:  # of data that it was not made for; the run is worth more
            warn(f"report.{name} is left out: {error!r}")
    return reports


def finish(run: TrainingRun) -> None:
    """Test the best weights; print the figures, what the task adds, and where to look next."""
    training, splits, console = run.training, run.splits, run.console
    name = tested(run)
    measured = evaluate_split(run, name, final=True)
    rows = {name: measured.metrics}
    if fits_temperature(run):
        held_out = splits.calibration, splits.test
        fit, after = recalibrate(run.model, run.loss_fn, *held_out, splits.num_classes)
        measured = replace(measured, fit=fit, after=after)
        if run.log:
            run.log.scalars("test", measured.with_temperature(), training.step)
        rows[f"{name}, T = {fit.to_apply:.3f}"] = after.metrics
    run.stop_if_asked()
    if not run.log:
        return
    run.log.figure(f"{name}/reliability", measured.figure(), training.step)
    reports = report(run, run.log, final=True)
    for each in reports:
        rows |= each.rows
    run.log.scalars("time", run.seconds(), training.step)
    console.print(f"\n{printable(splits.protocol)}", soft_wrap=True)
    if run.best_epoch:
        of = f"{chosen_by(run)} nll {run.best:.4f}"
        console.print(f"{name}: the weights of epoch {run.best_epoch}, which has the lowest {of}")
    cells = table_of(rows, run.identity["table"])
    print_table(console, cells)
    if measured.fit and measured.fit.kept_because:
        console.print(f"T = 1 is kept: {measured.fit.kept_because}")
    run.log.events.add_text("results", markdown_rows(cells), training.step)
    for each in reports:
        if each.text:
            console.print("\n" + printable(each.text, keep="\n\t"))
    console.print(f"\nrun folder: {from_here(run.folder)}", soft_wrap=True)
    found = []
    with suppress(UserError):  # of damaged figures; the run is done all the same
        found = diagnosis(run.folder)
    if found:
        line = f"{run.folder.name}: {printable(str(found[0]))}; scripts/diagnose.py says more"
        console.print(line, soft_wrap=True)
        if console.quiet and run.best > math.log(splits.num_classes):  # a job of a sweep
            warn(line)
    # soft_wrap: a wrapped path cannot be copied
    console.print(f"look at it: {tensorboard_on(run.folder.parent)}", soft_wrap=True)
