"""Sweeps: a folder that keeps its name, jobs that need not run twice, and a summary of them all."""

import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from training.cli.comparison import compare
from training.cli.resume import refuse_changes
from training.cli.runs import Run, read_run
from training.cli.settings import compose
from training.cli.tables import print_comparison, write_files
from training.errors import CheckpointError, DataError, UserError
from training.run.folder import (
    CONFIG,
    STATUS,
    from_here,
    kept_settings,
    locked,
    read_config,
    read_status,
    write_status,
)
from training.run.identity import digest, leaves
from training.run.signals import interruption

# what a sweep varies, and what changes no figure
NOT_IN_NAME = ("hydra.", "seed", "loss.", "baseline", "facts.", "device", "threads", "resume")
FOLDER = "hydra.sweep.dir"


def run_sweep(task: str, words: list[str], application: Callable[[list[str]], None]) -> int:
    """Run the sweep that the command line asks for, and show what came of it."""
    began = time.time()
    words, folder = with_folder(words, task)
    application(words)
    return summarize(folder, began) if folder and folder.is_dir() else 0


def with_folder(words: list[str], task: str) -> tuple[list[str], Path | None]:
    """Return a sweep's command line with its folder, and with short names for its jobs.

    The folder is named by the experiment and by a digest of all settings that are not swept, losses
    and seeds apart: started again, a sweep finds the jobs that it has finished.
    """
    settings = [word for word in words if not word.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(settings)
        fixed = [o for o in overrides if not o.is_sweep_override()]
        cfg = compose(task, [o.input_line or "" for o in fixed], hydra_too=True)
    except Exception:  # Hydra will meet it again, and it is answered there
        return words, None
    keys = [o.key_or_group for o in fixed if not o.key_or_group.startswith("hydra")]
    keys += cfg.hydra.job.config.override_dirname.exclude_keys
    chosen = [o.value() for o in fixed if o.key_or_group == FOLDER]
    experiment = [o.value() for o in fixed if o.key_or_group == "experiment"] or ["sweep"]
    named = {
        key: str(value) for key, value in leaves(cfg).items() if not key.startswith(NOT_IN_NAME)
    }
    named |= {str(o.input_line): "" for o in fixed if o.key_or_group.startswith("loss.")}
    name = "-".join(re.findall(r"\w+", str(experiment[-1])))
    folder = Path(str(chosen[-1]) if chosen else f"outputs/{task}-{name}-{digest(named)}")
    names = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(dict.fromkeys(keys))}]"
    return [*words, names, *([] if chosen else [f"{FOLDER}={folder}"])], folder


def run_job(cfg: DictConfig, folder: Path, run: Callable[..., float]) -> float:
    """Run one job, unless it is complete; a failure is printed at once and the others go on."""
    if read_status(folder).get("status") == "complete":
        print(f"{folder.name}: complete already", flush=True)
        return 0.0
    try:
        resumed = (folder / CONFIG).exists()
        if resumed:  # an interrupted job of this sweep, unless its folder has another's
            _refuse_other_settings(folder, cfg)
        nll = run(quiet=True, resumed=resumed)
        print(f"{folder.name}: {_result(read_run(folder))}", flush=True)
        return nll
    except UserError as error:
        _failed(folder, cfg.task, str(error), error.exit_code)
    except Exception as error:
        if interruption(error):
            raise
        traceback.print_exc()
        _failed(folder, cfg.task, repr(error), 1)
    return float("inf")


def _refuse_other_settings(folder: Path, cfg: DictConfig) -> None:
    refuse_changes(read_config(folder), kept_settings(cfg))


def _failed(folder: Path, task: str, message: str, exit_code: int) -> None:
    print(f"{folder.name} failed: {message}", file=sys.stderr, flush=True)
    status = {"status": "diverged" if exit_code == 3 else "failed", "task": task}
    with suppress(CheckpointError), locked(folder):  # another process may be at work there
        write_status(folder, **status, message=message, exit_code=exit_code)
    (folder / STATUS).touch()  # so that the summary counts it among the jobs of this sweep


def _result(run: Run) -> str:
    shown = {"nll": "nll {:.4f}", "accuracy": "accuracy {:.2%}", "ece": "ECE {:.4f}"}
    shown |= {"seconds": "{:.1f} s"}
    return ", ".join(form.format(run.figures[n]) for n, form in shown.items() if n in run.figures)


def summarize(folder: Path, began: float) -> int:
    """Show all jobs and compare the complete ones; return the exit code.

    That is the code of the first job that this sweep ran and that is not complete, else 0.
    """
    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
    jobs = sorted(file.parent for file in folder.glob(f"*/{STATUS}"))
    runs = [read_run(job) for job in jobs if "run" in read_status(job)]
    results = {run.folder: _result(run) for run in runs}
    table = Table("job", "status", "")
    code = 0
    for job in jobs:
        status = read_status(job)
        good = status.get("status") == "complete"
        said = results.get(job, "") if good else str(status.get("message", ""))
        table.add_row(job.name, str(status.get("status")), said)
        if not good and (job / STATUS).stat().st_mtime >= began:
            code = code or status.get("exit_code") or 1
    console.print(table, markup=False)
    try:
        comparisons = compare(runs)
        for comparison in comparisons:
            print_comparison(console, comparison)
        print(f"\nlook at it: {from_here(write_files(comparisons, folder)[-1])}")
        tensorboard = from_here(Path(sys.executable).with_name("tensorboard"))
        print(f"       and: {tensorboard} --logdir {shlex.quote(str(folder))}")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
    return code
