"""Start a run or go on with one, and leave word in its folder of how it ended."""

import ctypes
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from training.distributed import from_main, is_main, lost_process_named
from training.errors import CheckpointError, DivergedError
from training.run.build import build
from training.run.facts import facts
from training.run.finished import load_teacher
from training.run.fit import final_tags, finish, fit, load_best
from training.run.folder import claim, from_here, locked, read_status, shell_line, write_status
from training.run.log import RunLog
from training.run.signals import Interrupted, handling
from training.run.state import TrainingRun, restore_newest
from training.run.targets import instantiate
from training.run.untrusted import folder_at_fault, printable


def start(
    cfg: DictConfig,
    folder: Path,
    *,
    loss: str = "",
    resumed: bool = False,
    quiet: bool = False,
    trusted: Sequence[str] = (),
    guarded: bool = False,
    own: Sequence[str] = (),
    command: Sequence[str] = (),
) -> TrainingRun:
    """Train and test what `cfg` describes, in `folder`; return the run.

    Of several processes the first has the folder, and reads and writes it for all.

    Args:
        cfg: all settings.
        folder: the run folder.
        loss: the option of the loss, by which comparisons call it; by default its class's name.
        resumed: go on with the run that is in `folder`: to the same end, bit for bit, as if it had
            never stopped.
        quiet: print warnings only.
        trusted: packages of the user's that a run folder's settings may name.
        guarded: whether `cfg` was read from a run folder, so that it may not name anything else.
        own: settings and groups of `cfg` that are the user's all the same.
        command: the words that go on with a run when `resume=FOLDER` follows them.
    """
    keep_freed_memory()
    width = None if sys.stdout and sys.stdout.isatty() else 120  # it is None where it was closed
    console = Console(width=width, highlight=False, markup=False, quiet=quiet)
    loss = loss or cfg.loss._target_.rsplit(".", 1)[-1]
    make = partial(instantiate, trusted=trusted, guarded=guarded, own=own)
    with folder_at_fault(folder) if guarded else nullcontext():
        run = build(cfg, loss, folder, console, make, load_teacher(cfg, trusted))
    console.print(f"data: {printable(run.splits.protocol)}", soft_wrap=True)
    with locked(folder) if is_main() else nullcontext(), handling(run.signals.append):
        if is_main() and not resumed:
            claim(folder)
        with folder_at_fault(folder):
            positions = restore_newest(run) if resumed else {}
        trained = run.finished >= run.training.settings.epochs
        if trained and from_main(lambda: read_status(folder).get("status")) == "complete":
            console.print(f"already complete at step {run.training.step}: {folder}", soft_wrap=True)
            load_best(run)
            return run
        again = shell_line([*command, f"resume={from_here(folder)}"])
        if is_main():
            for file in folder.rglob("*.tmp"):  # what was never finished
                if file.is_file():
                    file.unlink()
            if resumed:
                console.print(f"resuming at step {run.training.step}")
            status = {"status": "running", "step": run.training.step, "message": ""}
            status |= {"task": cfg.task, "exit_code": None, "resume": again, "run": run.identity}
            status["steps"] = run.training.num_steps(len(run.splits.train))
            write_status(folder, **status)
        with folder_at_fault(folder):
            log = RunLog(folder, positions) if is_main() else None
        with closing(log) if log else nullcontext() as run.log:
            train(run, again)
    return run


def train(run: TrainingRun, again: str) -> None:
    """Train and test; say in the run folder what is trained, and how it ended."""
    try:
        if run.log:
            run.log.start(run.identity, run.config, run.training.step, final_tags(run))
            if not run.training.step:
                run.log.scalars("data", facts(run), 0)
        with lost_process_named():
            fit(run)
            finish(run)
        end(run)
    except BaseException as error:
        with suppress(CheckpointError):  # where the disk is full, too, the first error counts
            end(run, error)
        if isinstance(error, Interrupted):
            step = run.training.step
            print(f"interrupted at step {step}; go on with:\n{again}", flush=True)
        if isinstance(error, CheckpointError):
            raise CheckpointError(f"{error}; once that is solved: {again}") from error
        raise


def end(run: TrainingRun, error: BaseException | None = None) -> None:
    """Say in the log and in status.json how the run ended."""
    if not run.log:
        return
    kinds = {DivergedError: "diverged", Interrupted: "interrupted"}
    status = kinds.get(type(error), "failed") if error else "complete"
    try:
        if status != "interrupted":  # it may go on, and TensorBoard keeps the first end it reads
            run.log.end(success=error is None)
    finally:  # the status may be writable where the log is not
        if run.log.lines.is_in_place():  # else the folder is another's, or nobody's
            code = getattr(error, "exit_code", 1) if error else 0
            fields = {"status": status, "step": run.training.step, "message": str(error or "")}
            write_status(run.folder, **fields, exit_code=code)


def keep_freed_memory() -> None:
    """Let glibc keep memory that is freed: with it small models take a step in .95 of the time.

    Else each step hands its memory back to the system, and pays for every page when it asks again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # of glibc: M_TRIM_THRESHOLD, M_TOP_PAD, and M_MMAP_THRESHOLD at its largest
        for name, size in ((-1, 2**30), (-2, 2**26), (-3, 2**25)):
            mallopt(name, size)
