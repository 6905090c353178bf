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

from training.cli.comparison import compare
from training.cli.resume import refuse_changes
from training.cli.runs import Run, read_run
from training.cli.settings import mistakes_named, settings_of
from training.cli.tables import print_comparison, write_files
from training.errors import CheckpointError, DataError, UserError
from training.run.figures import COLUMNS
from training.run.identity import digest, leaves
from training.run.signals import interruption
from training.run.status import CONFIG, STATUS, from_here, read_status

# what a sweep varies, and what changes no figure
NOT_IN_NAME = ("hydra.", "seed", "loss.", "baseline", "facts.", "device", "threads", "resume")
FOLDER = "hydra.sweep.dir"


def run_sweep(task: str, words: list[str], run_jobs: Callable[[list[str]], None]) -> int:
    """Run the sweep that the words ask for, and show what came of it."""
    began = time.time()
    folder, for_hydra = sweep_folder(task, [word for word in words if not word.startswith("-")])
    run_jobs(["-m", *words, *for_hydra])
    return summarize(folder, began)


def sweep_folder(task: str, words: list[str]) -> tuple[Path, list[str]]:
    """Return a sweep's folder, and the words that give it and short names of its jobs to Hydra.

    The folder is named by the experiment and by a digest of all settings that are not swept, losses
    and seeds apart: started again, a sweep finds the jobs that it has finished.
    """
    with mistakes_named(task, words):
        overrides = OverridesParser.create().parse_overrides(words)
    fixed = {o.key_or_group: str(o.input_line) for o in overrides if not o.is_sweep_override()}
    of_loss = {word: "" for key, word in fixed.items() if key.startswith("loss.")}
    cfg = settings_of(task, [word for word in fixed.values() if word not in of_loss])
    unnamed = [*cfg.hydra.job.config.override_dirname.exclude_keys]
    unnamed += [key for key in fixed if not key.startswith("hydra")]
    for_hydra = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(unnamed)}]"
    if FOLDER in fixed:
        return Path(cfg.hydra.sweep.dir), [for_hydra]
    settings = {k: str(v) for k, v in leaves(cfg).items() if not k.startswith(NOT_IN_NAME)}
    experiment = fixed.get("experiment", "=sweep").split("=")[1]
    name = "-".join(re.findall(r"\w+", experiment))
    folder = Path(f"outputs/{task}-{name}-{digest(settings | of_loss)}")
    return folder, [for_hydra, f"{FOLDER}={folder}"]


def run_job(task: str, words: list[str], folder: Path, run: Callable[..., float]) -> float:
    """Run one job, unless it is complete; a failure is printed at once and the others go on."""
    if read_status(folder).get("status") == "complete":
        print(f"{folder.name}: complete already", flush=True)
        return 0.0
    try:
        cfg = settings_of(task, words)
        resumed = (folder / CONFIG).exists()
        if resumed:  # an interrupted job of this sweep, unless its folder has another's
            _refuse_other_settings(folder, cfg)
        nll = run(cfg, folder, quiet=True, resumed=resumed)
        print(f"{folder.name}: {_result(read_run(folder))}", flush=True)
        return nll
    except UserError as error:
        _failed(folder, task, str(error), error.exit_code)
    except Exception as error:
        if interruption(error):
            raise
        traceback.print_exc()
        _failed(folder, task, repr(error), 1)
    return float("inf")


def _refuse_other_settings(folder: Path, cfg: DictConfig) -> None:
    # torch, which a job that is complete need not have met
    from training.run.finished import read_config
    from training.run.folder import kept_settings

    refuse_changes(read_config(folder), kept_settings(cfg))


def _failed(folder: Path, task: str, message: str, exit_code: int) -> None:
    # torch, which a wrong setting need not have met
    from training.run.folder import locked, write_status

    print(f"{folder.name} failed: {message}", file=sys.stderr, flush=True)
    status = {"status": "diverged" if exit_code == 3 else "failed", "task": task}
    with suppress(CheckpointError), locked(folder):  # another process may be at work there
        write_status(folder, **status, message=message, exit_code=exit_code)
    (folder / STATUS).touch()  # so that the summary counts it among the jobs of this sweep


def _result(run: Run) -> str:
    figures = [name for name in ("nll", "accuracy", "ece", "seconds") if name in run.figures]
    return ", ".join(f"{name} {COLUMNS[name][1].format(run.figures[name])}" for name in figures)


def summarize(folder: Path, began: float) -> int:
    """Name the jobs that are not complete, and compare the others; return the exit code.

    That is the code of the first job that this sweep ran and that is not complete, else 0.
    """
    code, runs = 0, []
    for job in sorted(file.parent for file in folder.glob(f"*/{STATUS}")):
        status = read_status(job)
        if "run" in status:
            runs.append(read_run(job))
        if status.get("status") != "complete":
            print(f"{job.name}: {status.get('status')}: {status.get('message')}")
            if (job / STATUS).stat().st_mtime >= began:
                code = code or status.get("exit_code") or 1
    try:
        comparisons = compare(runs)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return code
    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
    for comparison in comparisons:
        print_comparison(console, comparison)
    print(f"\nlook at it: {from_here(write_files(comparisons, folder)[-1])}")
    tensorboard = from_here(Path(sys.executable).with_name("tensorboard"))
    print(f"       and: {tensorboard} --logdir {shlex.quote(str(folder))}")
    return code
