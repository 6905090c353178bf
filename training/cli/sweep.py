"""Sweeps: a folder that keeps its name, jobs that need not run twice, and a summary of them all."""

import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from training.cli.resume import refuse_changes
from training.cli.runs import RunRecord, find_runs, read_run
from training.cli.settings import parse, place_of, settings_of
from training.errors import CheckpointError, DataError, UserError
from training.run.folder import (
    CONFIG,
    STATUS,
    from_here,
    locked,
    read_status,
    tensorboard_on,
    write_status,
)
from training.run.identity import digest, leaves
from training.run.kept_settings import kept_settings, read_config
from training.run.signals import interruption
from training.run.untrusted import printable

# what a sweep varies, and what changes no figure
NOT_NAMED = ("seed", "loss.", "baseline", "facts.", "device", "threads", "resume")
FOLDER = "hydra.sweep.dir"


def sweep_folder(task: str, words: list[str]) -> tuple[Path, list[str], bool]:
    """Return a sweep's folder, and the words that tell Hydra of it and shorten the names of jobs.

    The third is whether the jobs run side by side on this machine.

    The folder is named by the experiment and by a digest of all settings that are not swept, losses
    and seeds apart: started again, a sweep finds the jobs that it has finished.
    """
    overrides = [parse(word, sweeps=True) for word in words]
    fixed = {str(o.input_line): o.key_or_group for o in overrides if not o.is_sweep_override()}
    of_loss = [word for word, key in fixed.items() if key.startswith("loss.")]
    cfg, hydra_cfg = settings_of(task, [word for word in fixed if word not in of_loss])
    unnamed = [*hydra_cfg.job.config.override_dirname.exclude_keys, *fixed.values()]
    for_hydra = [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(unnamed)}]"]
    is_parallel = hydra_cfg.runtime.choices["hydra/launcher"] == "joblib"
    if FOLDER in fixed.values():
        return Path(hydra_cfg.sweep.dir), for_hydra, is_parallel
    named = {key: str(value) for key, value in leaves(cfg).items() if not key.startswith(NOT_NAMED)}
    named |= dict.fromkeys(of_loss, "")
    experiment = [word for word, key in fixed.items() if key == "experiment"] or ["=sweep"]
    name = "-".join(re.findall(r"\w+", experiment[-1].split("=")[1]))
    folder = Path(f"outputs/{place_of(task)[1]}-{name}-{digest(named)}")
    return folder, [*for_hydra, f"{FOLDER}={folder}"], is_parallel


def run_job(task: str, words: list[str], folder: Path, run: Callable[..., object]) -> None:
    """Run one job, unless it is complete; a failure is printed at once and the others go on."""
    before = read_status(folder)
    if before.get("status") == "complete":
        print(f"{folder.name}: complete already", flush=True)
        return
    try:
        cfg, hydra_cfg = settings_of(task, words)
        resumed = (folder / CONFIG).exists()
        if resumed:  # an interrupted job of this sweep, unless its folder has another's
            refuse_changes(read_config(folder), kept_settings(cfg))
        loss = hydra_cfg.runtime.choices["loss"]
        run(cfg, folder, loss=loss, quiet=True, resumed=resumed)
        print(f"{folder.name}: {_result(read_run(folder))}", flush=True)
    except Exception as error:
        if interruption(error):
            raise
        code = error.exit_code if isinstance(error, UserError) else 1
        message = str(error) if isinstance(error, UserError) else traceback.format_exc()
        print(f"{folder.name} failed: {message}", file=sys.stderr, flush=True)
        status = {"status": "diverged" if code == 3 else "failed", "task": place_of(task)[1]}
        with suppress(CheckpointError), locked(folder):  # another process may be at work there
            if read_status(folder) == before:  # or have been; a run has said itself how it ended
                write_status(folder, **status, message=str(error), exit_code=code)
        if not os.path.lexists(folder / STATUS):
            (folder / STATUS).touch()  # so that the summary names the job in any case


def how_jobs_stand(folder: Path) -> str:
    """Say in one line how many jobs of a sweep that a signal stopped are complete, and so on."""
    found = Counter(read_status(file.parent).get("status") for file in folder.glob(f"*/{STATUS}"))
    shown = ", ".join(f"{count} {status}" for status, count in sorted(found.items(), key=str))
    return f"interrupted; of the jobs that began: {shown or 'none'}; the same command goes on"


def _result(run: RunRecord) -> str:
    shown = {"nll": "nll {:.4f}", "accuracy": "accuracy {:.2%}", "ece": "ECE {:.4f}"}
    shown |= {"seconds": "{:.1f} s"}
    return ", ".join(form.format(run.figures[n]) for n, form in shown.items() if n in run.figures)


def summarize(folder: Path, again: Sequence[str]) -> int:
    """Name the jobs that are not complete, and compare the others; return the exit code.

    That is the code of the first job in the folder that is not complete, else 0. Where the sweep
    tried several learning rates, a figure shows them. `again`, the words that started it, are shown
    on the page, and are what the command begins with that tries more rates.
    """
    from training.cli.comparison import compare  # needs numpy and scipy, which take half a second
    from training.cli.rates import beyond_the_edge, draw_rates, tried_rates
    from training.cli.tables import print_comparisons, write_files

    code = 0
    for job in sorted(file.parent for file in folder.glob(f"*/{STATUS}")):
        status = read_status(job)
        if status.get("status") != "complete":
            how, why = status.get("status", "failed"), status.get("message", f"{STATUS} is empty")
            print(f"{printable(job.name)}: {how}: {why}")
            own = status.get("exit_code")  # none where the folder could not be written, or read
            code = code or (
                own if type(own) is int and 0 < own < 256 else CheckpointError.exit_code
            )
    try:
        comparisons = compare(runs := find_runs([folder]))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return code
    page = write_files(comparisons, folder, again)[-1]
    print_comparisons(comparisons)
    print(f"\nlook at it: {from_here(page)}")
    if tried := tried_rates(runs):
        draw_rates(tried, folder / "learning_rates.png")
        print(f"       and: {from_here(folder / 'learning_rates.png')}")
    print(f"       and: {tensorboard_on(folder)}")
    for line in beyond_the_edge(tried, again):
        print(line)
    return code
