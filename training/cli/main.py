"""The command line of every task: compose the settings, run; a mistake is one line."""

import io
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from training.cli.help import print_help
from training.cli.hydra_versions import VERSION_BASE, help_that_is_no_text
from training.cli.resume import run_to_resume
from training.cli.screen import keep_printing
from training.cli.script import Parser
from training.cli.settings import mistakes_named, place_of, refuse_flags, settings_of
from training.cli.sweep import SweepBar, how_jobs_stand, run_job, summarize, sweep_folder
from training.errors import ConfigError, DataError, UserError
from training.run.folder import from_here
from training.run.kept_settings import without_secrets
from training.run.signals import Interrupted, handling, in_a_job, interruption, passed_on, stop_now
from training.run.untrusted import printable

if TYPE_CHECKING:
    from training.run.state import TrainingRun

HYDRA_PRINTS = {"-c", "--cfg", "-i", "--info", "--hydra-help", "-sc", "--shell-completion"}


@dataclass(frozen=True)
class Command:
    """A command line: its task, its words, the packages it trusts, and whether it is a sweep."""

    task: str
    words: list[str]
    trusted: tuple[str, ...]
    is_sweep: bool
    again: list[str]  # the words that go on with a run when `resume=FOLDER` follows them


def main(task: str = "") -> None:
    """Run a task with the command line's overrides; exit with the right code.

    Without a `task` the first word is the path of one's primary config. Under torchrun every
    process composes the settings, and takes the first one's folder.
    """
    script = sys.argv[:1]
    if not task:
        script = sys.argv[:2]
        task = sys.argv.pop(1) if len(sys.argv) > 1 else "NAME.yaml"
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a busy machine
    keep_printing()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's own errors arrive here, to be one line
    if "RANK" not in os.environ:
        sys.exit(run_command(task, script))
    from training.distributed import first_to_fail, joined  # torch takes seconds

    with joined() as store:
        if code := run_command(task, script, lambda: first_to_fail(store)):
            sys.exit(code)


def train(task: str | Path, *words: str, trusted: Sequence[str] = ()) -> "TrainingRun":
    """Train as the command line does, with the same settings and checks; return the run.

    Its `figures`, as in `run.figures["test/nll"]`, `folder`, `model` (with the best weights),
    `loss_fn` and `splits` are there to go on with.

    Args:
        task: ngram, vision, or the path of the primary config of a task of your own.
        words: what would be typed, as in "loss=focal", "debug=smoke" or "resume=FOLDER".
        trusted: packages that the settings of a resumed run may name.

    Raises:
        UserError: in one line, what the command line would have printed as an error.
    """
    task, trusted = str(task), [trusted] if isinstance(trusted, str) else trusted
    if not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{words}: each must be a text, as in 'seed=2'")
    command = read_command(task, ["-m", "training", task], words_to_repeat(words, trusted))
    return _run_once(replace(command, words=[*words]))


def run_command(
    task: str, script: Sequence[str], is_first_to_fail: Callable[[], bool] = lambda: True
) -> int:
    """Run, resume or sweep; print an error in one line; return the exit code.

    Args:
        task: ngram, vision, or the path of the primary config of another.
        script: the words that start it, before those of the settings.
        is_first_to_fail: says whether no other process has failed before this one.
    """
    try:
        with handling(stop_now):
            return _run_command(read_command(task, script, sys.argv[1:]))
    except (Interrupted, Exception) as error:
        if stop := interruption(error):
            message, code = str(stop), stop.exit_code  # without a message the run has said it
        elif isinstance(error, UserError):
            message, code = f"error: {printable(' '.join(str(error).split()))}", error.exit_code
        elif is_first_to_fail():
            raise  # a bug, and shown as one
        else:
            return 1
    if message and is_first_to_fail():
        print(message, file=sys.stderr)
    return code


def read_command(task: str, script: Sequence[str], given: Sequence[str]) -> Command:
    """Take what is no setting, and not for Hydra, out of the words.

    The folder of a task of one's own becomes a place to import from, as a script's is.
    """
    folder = str(place_of(task)[0])
    if task.endswith(".yaml") and folder not in sys.path:
        sys.path.append(folder)  # last: a losses.py of one's own must not hide the project's
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_trust()
    parser.add_argument("-m", "--multirun", action="store_true")
    options, words = parser.parse_known_args(given)
    for package in options.trust:
        if not package.replace(".", "_").isidentifier():
            raise ConfigError(f"--trust {package}: must be the name of a package")
    again = [from_here(Path(sys.executable)), from_here(Path(script[0])), *script[1:]]
    if "RANK" in os.environ:  # as many processes as before: each draws its own dropout
        here, whole = (int(os.environ.get(n, 1)) for n in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        nodes = [f"--nnodes={whole // here}"] * (whole > here)
        torchrun = from_here(Path(sys.executable).with_name("torchrun"))
        again[:1] = [torchrun, *nodes, f"--nproc-per-node={here}"]
    again += words_to_repeat(words, options.trust)
    return Command(task, words, tuple(options.trust), options.multirun, again)


def words_to_repeat(words: Iterable[str], trusted: Iterable[str]) -> list[str]:
    """Return the words that a run folder does not keep: whom to trust, where own options lie."""
    trust = [part for package in trusted for part in ("--trust", package)]
    return trust + [word for word in words if word.startswith("hydra.searchpath=")]


def _run_command(command: Command) -> int:
    task, words = command.task, command.words
    if {"-h", "--help"} & set(words):
        print_help(task)
        return 0
    prints = HYDRA_PRINTS & {word.split("=")[0] for word in words}
    if not prints:
        refuse_flags(words, task)
    if command.is_sweep:
        if "RANK" in os.environ or any(word.startswith("resume=") for word in words):
            raise ConfigError("-m: starts new runs; with resume= or torchrun leave -m out")
        folder, for_hydra, num_jobs, is_parallel = sweep_folder(task, words)
        came: list[int] = []
        with passed_on(came) if is_parallel else nullcontext(), SweepBar(folder, num_jobs):
            _run_hydra(command, ["-m", *words, *for_hydra])
        if came:
            raise Interrupted(came[0], how_jobs_stand(folder))
        return summarize(folder, [*command.again, "-m", *words])
    if prints:
        try:
            with redirect_stderr(io.StringIO()) as said:
                _run_hydra(command, words)
        except SystemExit as stop:
            if stop.code:  # Hydra's own parser prints its usage first
                raise ConfigError(said.getvalue().split("error: ")[-1]) from stop
    else:
        _run_once(command)
    return 0


def _run_once(command: Command) -> "TrainingRun":
    task, words = command.task, command.words
    if resumed := _from_first_process(lambda: run_to_resume(words, task)):
        return _run(command, **resumed)
    cfg, hydra_cfg = settings_of(task, words)
    if hydra_cfg.sweeper.params:
        raise ConfigError(f"{' '.join(words)}: is a sweep; add -m")
    folder = Path(_from_first_process(lambda: hydra_cfg.run.dir))
    return _run(command, cfg, folder, loss=hydra_cfg.runtime.choices["loss"])


def _from_first_process(make: Callable[[], Any]) -> Any:
    """Return what `make` gives; to all processes of torchrun what it gives in the first."""
    if "RANK" not in os.environ:
        return make()
    from training.distributed import from_main  # torch takes seconds

    return from_main(make)


def _run_hydra(command: Command, words: list[str]) -> None:
    """Let Hydra print what the words ask for, or run the jobs of a sweep."""

    def job(_: DictConfig) -> None:
        own = HydraConfig.get()
        search = [word for word in own.overrides.hydra if word.startswith("hydra.searchpath")]
        this = replace(command, words=[*own.overrides.task, *search])
        run = partial(_run, this)
        work = partial(run_job, this.task, this.words, Path(own.runtime.output_dir), run)
        if multiprocessing.parent_process() is None:
            return work()
        keep_printing()
        in_a_job(work)

    sys.argv[1:] = words  # Hydra reads them there
    folder, name = place_of(command.task)
    with mistakes_named(command.words, command.task), help_that_is_no_text():
        hydra.main(config_path=str(folder), config_name=name, **VERSION_BASE)(job)()


def _run(command: Command, cfg: DictConfig, folder: Path, **how: Any) -> "TrainingRun":
    """Train; an error names one of the words that set what was wrong."""
    from training.distributed import lost_process_named  # torch, once the settings compose
    from training.run.start import start

    cfg.resume = None
    words = command.words
    try:
        with lost_process_named():
            return start(cfg, folder, trusted=command.trusted, command=command.again, **how)
    except (ConfigError, DataError) as error:
        message = without_secrets(str(error), cfg)
        is_named = any(word.lstrip("+").split("=")[0] in message for word in words)
        named = message if is_named or not words else f"{message} ({' '.join(words)})"
        raise type(error)(named) from error
