"""The command line of both tasks: compose the settings, check them, run; a mistake is one line."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from training.cli import sweep
from training.cli.folder_names import unique_stamp
from training.cli.help import help_text
from training.cli.resume import resumed_settings, run_to_resume
from training.cli.settings import (
    CONFIGS,
    check_settings,
    compose,
    explain,
    find_shared_options,
)
from training.errors import ConfigError, DataError, UserError
from training.run.folder import from_here, read_status
from training.run.identity import leaves
from training.run.signals import Interrupted, handling, interruption, stop_now

T = TypeVar("T")
MULTIRUN = {"-m", "--multirun"}


@dataclass
class Command:
    """A command line: its task, its words, the packages it trusts, and what came of it."""

    task: str
    words: list[str]
    trusted: tuple[str, ...]
    again: list[str]  # the words that go on with a run when `resume=FOLDER` follows them
    started: bool = False
    errors: list[UserError] = field(default_factory=list)


def main(task: str) -> None:
    """Run `configs/<task>.yaml` with the command line's overrides; exit with the right code.

    Under torchrun every process composes the settings: the first one's words and folder are taken.
    """
    command = read_command(task, sys.argv)
    if {"-h", "--help"} & set(command.words):
        print(help_text(task))
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a busy machine
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's own errors arrive here, to be one line
    if "RANK" not in os.environ:
        sys.exit(run_command(command))
    from training.distributed import first_to_fail, joined  # torch takes seconds

    with joined() as store:
        code = run_command(command, lambda: first_to_fail(store))
        if code:
            sys.exit(code)


def read_command(task: str, argv: Sequence[str]) -> Command:
    """Take `--trust PACKAGE` out of the words, and put Hydra's options before the settings."""
    words, trusted = [], []
    given = iter(argv[1:])
    for word in given:
        if word == "--trust":
            trusted.append(next(given, ""))
        elif word.startswith("--trust="):
            trusted.append(word.removeprefix("--trust="))
        else:
            words.append(word)
    again = [from_here(Path(sys.executable)), from_here(Path(argv[0]))]
    if "RANK" in os.environ:  # as many processes as before: each draws its own dropout
        here, whole = (int(os.environ.get(n, 1)) for n in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        nodes = [f"--nnodes={whole // here}"] * (whole > here)
        torchrun = from_here(Path(sys.executable).with_name("torchrun"))
        again[:1] = [torchrun, *nodes, f"--nproc-per-node={here}"]
    again += [part for package in trusted for part in ("--trust", package)]
    again += [word for word in words if word.startswith("hydra.searchpath=")]
    words.sort(key=lambda word: word not in MULTIRUN)
    return Command(task, words, tuple(trusted), again)


def run_command(command: Command, is_first_to_fail: Callable[[], bool] = lambda: True) -> int:
    """Run, resume or sweep; print an error in one line; return the exit code."""
    error: BaseException
    try:
        with handling(stop_now):
            code = _run_command(command)
        if not command.errors:
            return code
        error = command.errors[-1]
    except (Interrupted, Exception) as raised:
        if stop := interruption(raised):
            if str(stop) and is_first_to_fail():  # else the run has said where it stands
                print(stop, file=sys.stderr)
            return stop.exit_code
        if not isinstance(raised, UserError):
            if command.started:  # a job's own: a bug, and shown as one
                if not is_first_to_fail():
                    return 1
                raise
            settings = [word for word in command.words if not word.startswith("-")]
            raised = explain(raised, _known_names(command.task), settings)
        error = raised
    if is_first_to_fail():
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code


def _run_command(command: Command) -> int:
    for package in command.trusted:
        if not re.fullmatch(r"[\w.]+", package):
            raise ConfigError(f"--trust {package}: must be the name of a package")
    find_shared_options()
    task, words = command.task, command.words
    folder = _from_main(lambda: run_to_resume(words, task))
    if folder:
        if MULTIRUN & set(words):
            raise ConfigError(f"resume={folder}: goes on with one run; leave -m out")
        cfg = _from_main(lambda: resumed_settings(folder, words, task))
        command.started = True
        loss = read_status(folder)["run"]["loss"]
        _start(cfg, folder, command, guarded=True, resumed=True, loss=loss)
        return 0
    if MULTIRUN & set(words):
        if "RANK" in os.environ:
            raise ConfigError("-m: each run of a sweep is one process; leave torchrun out")
        return sweep.run_sweep(task, words, _hydra_application(command))
    stamp = _from_main(unique_stamp)
    OmegaConf.register_new_resolver("unique", lambda: stamp, replace=True)
    _hydra_application(command)(words)
    return 0


def _from_main(make: Callable[[], T]) -> T:
    """Return what `make` gives, under torchrun in the first process."""
    if "RANK" not in os.environ:
        return make()
    from training.distributed import from_main, lost_process_named

    with lost_process_named():
        return from_main(make)


def _hydra_application(command: Command) -> Callable[[list[str]], None]:
    """Return what composes `words` with Hydra and runs the job, or the jobs, that they describe."""

    def job(cfg: DictConfig) -> float:
        folder = Path(HydraConfig.get().runtime.output_dir)
        command.started = True
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return sweep.run_job(cfg, folder, lambda **how: _run(cfg, folder, command, **how))
        try:
            return _run(cfg, folder, command)
        except UserError as error:  # Hydra would add lines of its own to an exception
            command.errors.append(error)
            with suppress(OSError):
                folder.rmdir()  # Hydra has made it; nothing is in it yet
            return float("inf")

    def application(words: list[str]) -> None:
        sys.argv[1:] = words  # Hydra reads them there
        config_path = str(CONFIGS / command.task)
        hydra.main(version_base="1.3", config_path=config_path, config_name=command.task)(job)()

    return application


def _run(cfg: DictConfig, folder: Path, command: Command, **how: bool) -> float:
    """Check the settings and run; an error names the setting that was typed."""
    hydra_cfg = HydraConfig.get()
    given = _as_written(hydra_cfg.overrides.task)
    try:
        check_settings(cfg, _defaults())
        if hydra_cfg.sweeper.params and hydra_cfg.mode != RunMode.MULTIRUN:
            raise ConfigError(f"{' '.join(given)}: is a sweep; add -m")
        for override in given:  # a list of options, of which Hydra says no name
            group = _key(override)
            if isinstance(cfg.get(group), DictConfig) and group not in hydra_cfg.runtime.choices:
                raise ConfigError(f"{override}: choose one option")
        if cfg.task != command.task:
            raise ConfigError(f"task={cfg.task}: a script has one task, {command.task}")
        return _start(cfg, folder, command, loss=hydra_cfg.runtime.choices.get("loss"), **how)
    except (ConfigError, DataError) as error:
        if any(_key(o) in str(error) for o in given):
            raise
        raise type(error)(f"{error} ({' '.join(given)})") from error


def _start(cfg: DictConfig, folder: Path, command: Command, **how: Any) -> float:
    # torch: only once the settings are known to compose
    from training.distributed import lost_process_named
    from training.run.start import start

    cfg.resume = None
    with lost_process_named():
        return start(cfg, folder, trusted=command.trusted, command=command.again, **how)


def _defaults() -> DictConfig:
    """Return the chosen options as their files have them: no value overridden, no key added."""
    hydra_cfg = HydraConfig.get()
    loader = GlobalHydra.instance().config_loader()
    groups = []
    for override in _as_written(hydra_cfg.overrides.task):
        key = override.split("=", 1)[0]
        if key.startswith("~"):
            raise ConfigError(f"{override}: a setting cannot be removed; set it instead")
        if loader.get_group_options(key.lstrip("+")):
            groups.append(override)
    search = [o for o in _as_written(hydra_cfg.overrides.hydra) if o.startswith("hydra.searchpath")]
    cfg = loader.load_configuration(hydra_cfg.job.config_name, [*groups, *search], RunMode.RUN)
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]


def _as_written(overrides: Any) -> list[str]:
    return [str(override) for override in OmegaConf.to_container(overrides, resolve=False) or ()]


def _known_names(task: str) -> list[str]:
    """Return every group and setting of the task as a plain start composes it."""
    cfg = compose(task, hydra_too=True)
    groups = [g for g in cfg.hydra.runtime.choices if not g.startswith("hydra/")]
    return groups + [key for key in leaves(cfg) if not key.startswith("hydra.")]
