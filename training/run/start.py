"""Start a run or go on with one, and leave word in its folder of how it ended."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from training.distributed import from_main, is_main, lost_process_named
from training.errors import CheckpointError, DivergedError
from training.run.build import Trust, build
from training.run.finished import read_config
from training.run.fit import finish, fit
from training.run.folder import claim, locked, set_aside, write_settings, write_status
from training.run.signals import Interrupted, handling
from training.run.state import TrainingRun, check_best, restore_newest
from training.run.status import from_here, read_status


def start(
    cfg: DictConfig,
    folder: Path,
    *,
    loss: str = "",
    resumed: bool = False,
    quiet: bool = False,
    trust: Trust = Trust(),  # noqa: B008 (frozen)
    command: Sequence[str] = (),
) -> float:
    """Train and test what `cfg` describes, in `folder`; return the nll that chose the weights.

    Of several processes the first has the folder, and reads and writes it for all.

    Args:
        cfg: all settings.
        folder: the run folder.
        loss: the option of the loss, by which comparisons call it; by default its class's name.
        resumed: go on with the run that is in `folder`: to the same end, bit for bit, as if it had
            never stopped.
        quiet: print warnings only.
        trust: what the settings may name.
        command: the words that go on with a run when `resume=FOLDER` follows them.
    """
    width = None if sys.stdout.isatty() else 120
    console = Console(width=width, highlight=False, quiet=quiet)
    loss = loss or cfg.loss._target_.rsplit(".", 1)[-1]
    run = build(cfg, loss, folder, console, trust)
    console.print(f"data: {run.splits.protocol}", markup=False, soft_wrap=True)
    lock = locked(folder) if is_main() else nullcontext()
    with lock, handling(run.signals.append):
        if not resumed and is_main():
            claim(folder)
        damaged = restore_newest(run) if resumed else []
        complete = resumed and from_main(lambda: read_status(folder).get("status")) == "complete"
        if complete and run.finished >= run.training.settings.epochs:
            console.print(f"already complete at step {run.training.step}: {folder}", soft_wrap=True)
            return run.best
        if resumed and is_main():
            if OmegaConf.to_yaml(read_config(folder)) != run.config:
                run.log.text("config", run.config, run.training.step)
            set_aside(folder, damaged)
            check_best(run)
            console.print(f"resuming at step {run.training.step}")
        again = shlex.join([*command, f"resume={from_here(folder)}"])
        if is_main():
            status = {"status": "running", "step": run.training.step, "message": ""}
            status |= {"task": cfg.task, "exit_code": None, "resume": again, "run": run.identity}
            write_status(folder, **status)
            write_settings(folder, cfg)  # last, because it makes a run of the folder
        return train(run, list(cfg.table), again)


def train(run: TrainingRun, columns: list[str], again: str) -> float:
    """Train and test; say in status.json how it ended."""
    try:
        if not run.training.step:
            run.log.start(run.identity, run.config)
        with lost_process_named():
            nll = fit(run)
            finish(run, columns)
        run.log.end(success=True)
        run.log.flush()
        end(run, "complete", "", 0)
        return nll
    except BaseException as error:
        status = {DivergedError: "diverged", Interrupted: "interrupted"}.get(type(error), "failed")
        with suppress(CheckpointError):  # where the disk is full, too, the first error counts
            if status != "interrupted":
                run.log.end(success=False)
            run.log.flush()
        with suppress(CheckpointError):  # the status may be writable where the log is not
            end(run, status, str(error), getattr(error, "exit_code", 1))
        if status == "interrupted":
            step = run.training.step
            print(f"interrupted at step {step}; go on with:\n{again}", flush=True)
        if isinstance(error, CheckpointError):
            raise CheckpointError(f"{error}; once that is solved: {again}") from error
        raise
    finally:
        run.log.close()


def end(run: TrainingRun, status: str, message: str, exit_code: int) -> None:
    """Say in status.json how the run ended."""
    if is_main():
        fields = {"status": status, "step": run.training.step, "message": message}
        write_status(run.folder, **fields, exit_code=exit_code)
