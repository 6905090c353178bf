"""Sweeps: a folder that keeps its name, jobs that need not run twice, and a summary of them all."""

import math
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.markup import escape
from rich.progress import Progress

from training.cli.hydra_versions import VERSION_BASE
from training.cli.resume import goes_on
from training.cli.runs import RunRecord, find_runs, last_step, read_jobs, read_run
from training.cli.settings import mistakes_named, parse, place_of, settings_of
from training.errors import CheckpointError, DataError, UserError
from training.run.folder import STATUS, from_here, locked, read_status, tensorboard_on, write_status
from training.run.identity import digest, leaves
from training.run.signals import interruption
from training.run.untrusted import printable

# what a sweep varies, and what changes no figure
NOT_NAMED = ("seed", "loss.", "baseline", "facts.", "device", "threads", "resume")
FOLDER = "hydra.sweep.dir"


def sweep_folder(task: str, words: list[str]) -> tuple[Path, list[str], int, bool]:
    """Return a sweep's folder, and the words that tell Hydra of it and shorten the names of jobs.

    The others are how many jobs it has, and whether they run side by side on this machine.

    The folder is named by the experiment and by a digest of all settings that are not swept, losses
    and seeds apart: started again, a sweep finds the jobs that it has finished.
    """
    overrides = [parse(word, sweeps=True) for word in words]
    fixed = {str(o.input_line): o.key_or_group for o in overrides if not o.is_sweep_override()}
    of_loss = [word for word, key in fixed.items() if key.startswith("loss.")]
    cfg, hydra_cfg = settings_of(task, [word for word in fixed if word not in of_loss])
    unnamed = [*hydra_cfg.job.config.override_dirname.exclude_keys, *fixed.values()]
    for_hydra = [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(unnamed)}]"]
    params = [f"{key}={value}" for key, value in (hydra_cfg.sweeper.params or {}).items()]
    how = num_jobs(task, [*params, *words]), hydra_cfg.runtime.choices["hydra/launcher"] == "joblib"
    if FOLDER in fixed.values():
        return Path(hydra_cfg.sweep.dir), for_hydra, *how
    named = {key: str(value) for key, value in leaves(cfg).items() if not key.startswith(NOT_NAMED)}
    named |= dict.fromkeys(of_loss, "")
    experiment = [word for word, key in fixed.items() if key == "experiment"] or ["=sweep"]
    name = "-".join(re.findall(r"\w+", experiment[-1].split("=")[1]))
    folder = Path(f"outputs/{place_of(task)[1]}-{name}-{digest(named)}")
    return folder, [*for_hydra, f"{FOLDER}={folder}"], *how


def num_jobs(task: str, words: list[str]) -> int:
    """Return how many jobs the words of a sweep make; of two that set the same, the last counts."""
    with mistakes_named(words), hydra.initialize_config_dir(str(place_of(task)[0]), **VERSION_BASE):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        last = {override.key_or_group: override for override in parser.parse_overrides(words)}
        return math.prod(len([*o.sweep_iterator()]) for o in last.values() if o.is_discrete_sweep())


class SweepBar(Progress):
    """A line on a terminal, below what is printed: jobs done of all, those at work, the time left.

    It looks into the folders of the jobs, whichever process runs them.
    """

    def __init__(self, folder: Path, num_jobs: int) -> None:
        self.folder = folder
        self.before = [s for s in read_jobs(folder).values() if s.get("status") != "complete"]
        self.screen = Console(soft_wrap=True)  # a command that is printed above can be copied
        super().__init__(console=self.screen, transient=True, disable=not sys.stdout.isatty())
        self.speed_estimate_period, self.live.refresh_per_second = math.inf, 2
        self.add_task("", total=num_jobs)

    def get_renderable(self) -> RenderableType:
        """Look how the jobs stand, and draw that."""
        begun = {job: s for job, s in read_jobs(self.folder).items() if s not in self.before}
        at_work = {job: s for job, s in begun.items() if s.get("status") == "running"}
        shares = {j.name: last_step(j) / (s.get("steps") or math.inf) for j, s in at_work.items()}
        names = printable(", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
        done, room = len(begun) - len(shares), self.screen.width - 45  # for a bar and the time
        names = names if len(names) <= room else f"{names[:room]}…"
        for task in self.tasks:  # none before there is one
            text = escape(f"[{done}/{task.total:.0f} done] {names}")
            self.update(task.id, completed=done + sum(shares.values()), description=text)
        # the ^C that a terminal shows has to fit in: in the next line, it would be what is erased
        return Constrain(super().get_renderable(), self.screen.width - 3)


def run_job(task: str, words: list[str], folder: Path, run: Callable[..., object]) -> None:
    """Run one job, unless it is complete; a failure is printed at once and the others go on."""
    before = read_status(folder)
    if before.get("status") == "complete":
        print(f"{folder.name}: complete already", flush=True)
        return
    try:
        cfg, hydra_cfg = settings_of(task, words)
        loss = hydra_cfg.runtime.choices["loss"]
        run(cfg, folder, loss=loss, quiet=True, resumed=goes_on(folder, cfg))
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
    found = Counter(status.get("status") for status in read_jobs(folder).values())
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
    from training.cli.rates import draw_rates, edge_lines, tried_rates
    from training.cli.tables import print_comparisons, write_files

    code = 0
    for job, status in read_jobs(folder).items():
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
    for line in edge_lines(tried, again):
        print(line)
    return code
