"""The command line of both tasks: compose the settings, run; a mistake is one line."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from training.cli.help import help_text
from training.cli.resume import run_to_resume
from training.cli.script import Parser
from training.cli.settings import CONFIGS, mistakes_named, settings_of
from training.cli.sweep import run_job, summarize, sweep_folder
from training.errors import ConfigError, DataError, UserError
from training.run.folder import from_here
from training.run.signals import Interrupted, handling, interruption, stop_now

HYDRA_PRINTS = {"-c", "--cfg", "-i", "--info", "--hydra-help", "-sc", "--shell-completion"}


@dataclass(frozen=True)
class Command:
    """A command line: its task, its words, the packages it trusts, and whether it is a sweep."""

    task: str
    words: list[str]
    trusted: tuple[str, ...]
    is_sweep: bool
    again: list[str]  # the words that go on with a run when `resume=FOLDER` follows them


def main(task: str) -> None:
    """Run `configs/<task>.yaml` with the command line's overrides; exit with the right code.

    Under torchrun every process composes the settings, and takes the first one's folder.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a busy machine
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's own errors arrive here, to be one line
    if "RANK" not in os.environ:
        sys.exit(run_command(task))
    from training.distributed import first_to_fail, from_main, joined  # torch takes seconds

    with joined() as store:
        code = run_command(task, from_main, lambda: first_to_fail(store))
        if code:
            sys.exit(code)


def run_command(
    task: str,
    from_main: Callable[[Callable[[], Any]], Any] = lambda make: make(),
    is_first_to_fail: Callable[[], bool] = lambda: True,
) -> int:
    """Run, resume or sweep; print an error in one line; return the exit code.

    Args:
        task: ngram or vision.
        from_main: gives all processes what its argument returns in the first.
        is_first_to_fail: says whether no other process has failed before this one.
    """
    try:
        with handling(stop_now):
            return _run_command(read_command(task, sys.argv), from_main)
    except (Interrupted, Exception) as error:
        if stop := interruption(error):
            message, code = str(stop), stop.exit_code  # without a message the run has said it
        elif isinstance(error, UserError):
            message, code = f"error: {' '.join(str(error).split())}", error.exit_code
        elif is_first_to_fail():
            raise  # a bug, and shown as one
        else:
            return 1
    if message and is_first_to_fail():
        print(message, file=sys.stderr)
    return code


def read_command(task: str, argv: Sequence[str]) -> Command:
    """Take what is no setting, and not for Hydra, out of the words."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_trust()
    parser.add_argument("-m", "--multirun", action="store_true")
    options, words = parser.parse_known_args(argv[1:])
    for package in options.trust:
        if not package.replace(".", "_").isidentifier():
            raise ConfigError(f"--trust {package}: must be the name of a package")
    again = [from_here(Path(sys.executable)), from_here(Path(argv[0]))]
    if "RANK" in os.environ:  # as many processes as before: each draws its own dropout
        here, whole = (int(os.environ.get(n, 1)) for n in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        nodes = [f"--nnodes={whole // here}"] * (whole > here)
        torchrun = from_here(Path(sys.executable).with_name("torchrun"))
        again[:1] = [torchrun, *nodes, f"--nproc-per-node={here}"]
    again += [part for package in options.trust for part in ("--trust", package)]
    again += [word for word in words if word.startswith("hydra.searchpath=")]
    return Command(task, words, tuple(options.trust), options.multirun, again)


def _run_command(command: Command, from_main: Callable[[Callable[[], Any]], Any]) -> int:
    task, words = command.task, command.words
    if {"-h", "--help"} & set(words):
        print(help_text(task))
        return 0
    if command.is_sweep:
        if "RANK" in os.environ or any(word.startswith("resume=") for word in words):
            raise ConfigError("-m: starts new runs; with resume= or torchrun leave -m out")
        folder, for_hydra = sweep_folder(task, words)
        _run_hydra(command, ["-m", *words, *for_hydra])
        return summarize(folder)
    if resumed := from_main(lambda: run_to_resume(words, task)):
        folder, cfg, loss = resumed
        _run(command, cfg, folder, loss=loss, guarded=True, resumed=True)
    elif HYDRA_PRINTS & {word.split("=")[0] for word in words}:
        _run_hydra(command, words)
    else:
        cfg, hydra_cfg = settings_of(task, words)
        if hydra_cfg.sweeper.params:
            raise ConfigError(f"{' '.join(words)}: is a sweep; add -m")
        folder = Path(from_main(lambda: hydra_cfg.run.dir))
        _run(command, cfg, folder, loss=hydra_cfg.runtime.choices["loss"])
    return 0


def _run_hydra(command: Command, words: list[str]) -> None:
    """Let Hydra print what the words ask for, or run the jobs of a sweep."""

    def job(_: DictConfig) -> float:
        own = HydraConfig.get()
        search = [word for word in own.overrides.hydra if word.startswith("hydra.searchpath")]
        this = replace(command, words=[*own.overrides.task, *search])
        folder = Path(own.runtime.output_dir)
        return run_job(this.task, this.words, folder, partial(_run, this))

    sys.argv[1:] = words  # Hydra reads them there
    config_path = str(CONFIGS / command.task)
    with mistakes_named(command.words, command.task):
        hydra.main(version_base="1.3", config_path=config_path, config_name=command.task)(job)()


def _run(command: Command, cfg: DictConfig, folder: Path, **how: Any) -> float:
    """Train; an error names one of the words that set what was wrong."""
    # torch: only once the settings are known to compose
    from training.distributed import lost_process_named
    from training.run.start import start

    cfg.resume = None
    words = command.words
    try:
        with lost_process_named():
            return start(cfg, folder, trusted=command.trusted, command=command.again, **how)
    except (ConfigError, DataError) as error:
        if not words or any(word.lstrip("+").split("=")[0] in str(error) for word in words):
            raise
        raise type(error)(f"{error} ({' '.join(words)})") from error
