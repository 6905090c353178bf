"""The command line of both tasks: compose the settings, check them, run; a mistake is one line."""

import os
import re
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from training.cli import sweep
from training.cli.settings import CONFIGS, check_settings, explain
from training.errors import ConfigError, DataError, UserError
from training.run.identity import digest
from training.run.resume import continued
from training.run.signals import Interrupted, handling, interruption, stop_now
from training.run.targets import leaves

T = TypeVar("T")


def main(task: str) -> None:
    """Run `configs/<task>.yaml` with the command line's overrides; exit with the right code.

    Under torchrun every process composes the settings: the first one's words and folder are taken.
    """
    if "RANK" not in os.environ:
        _main(task)
        return
    from training.distributed import joined  # torch takes seconds

    with joined():
        _main(task)


def _main(task: str) -> None:
    use_task_options(task)
    if "RANK" in os.environ:
        stamp = _from_main(unique_stamp)
        OmegaConf.register_new_resolver("unique", lambda: stamp, replace=True)
    # Hydra's parser wants its options before the settings; people type them in any order
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    _failures.clear()
    _started.clear()
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(task))
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a busy machine
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's own errors arrive here, to be one line
    application = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=task)(_job)
    try:
        with handling(stop_now):
            sys.argv[1:] = _from_main(lambda: continued(sys.argv[1:], task))
            if {"-m", "--multirun"} & set(sys.argv[1:]):
                if "RANK" in os.environ:
                    raise ConfigError("-m: each run of a sweep is one process; leave torchrun out")
                sweep.main(application, task)
            else:
                application()
    except (Interrupted, Exception) as error:
        if stop := interruption(error):
            if str(stop) and _first_to_fail():  # else the run has said where it stands
                print(stop, file=sys.stderr)
            sys.exit(stop.exit_code)
        if not isinstance(error, UserError):
            if _started:  # a job's own: a bug, and shown as one
                if not _first_to_fail():
                    sys.exit(1)
                raise
            overrides = [word for word in sys.argv[1:] if not word.startswith("-")]
            error = explain(error, _known_names(task), overrides)
        _failures.append(error)
    for failure in _failures[-1:]:
        if _first_to_fail():
            print(f"error: {' '.join(str(failure).split())}", file=sys.stderr)
        sys.exit(failure.exit_code)


def _from_main(make: Callable[[], T]) -> T:
    """Return what `make` gives, under torchrun in the first process."""
    if "RANK" not in os.environ:
        return make()
    from training.distributed import from_main, peers

    with peers():
        return from_main(make)


def _first_to_fail() -> bool:
    """Say whether this process is to tell: the others were only dragged along."""
    if "RANK" not in os.environ:
        return True
    from training.distributed import first_to_fail

    return first_to_fail()


# Hydra would add lines of its own to an exception, and tell of a sweep's first only at its end.
_failures: list[UserError] = []
_started: list[str] = []


def help_text(task: str) -> str:
    """Return what can be chosen and set, each option with the first line of its file."""
    lines = [f"usage: python scripts/train_{task}.py [GROUP=OPTION ...] [SETTING=VALUE ...]", ""]
    folders = [f for base in (CONFIGS, CONFIGS / task) for f in sorted(base.iterdir())]
    for folder in folders:
        if not folder.is_dir() or (CONFIGS / f"{folder.name}.yaml").exists():
            continue
        files = sorted(folder.glob("*.yaml"))
        lines += [f"{folder.name}: {', '.join(file.stem for file in files)}"]
        for file in files:
            comments = [line for line in file.read_text().split("\n") if "@package" not in line]
            lines += [f"    {file.stem:<18}{comments[0].removeprefix('# ')}"]
    return "\n".join(
        [
            *lines,
            "",
            "--cfg job --resolve    show every setting of a choice; set any with SETTING=VALUE",
            "-m GROUP=A,B seed=1,2  run every combination; 'GROUP=glob(*)' is every option",
            "resume=FOLDER|auto     go on with a run that was stopped (auto: the newest)",
            "debug=smoke            every stage of the script on a sliver of the data",
            "--hydra-help           what Hydra itself can do, tab completion among it",
        ]
    )


class TaskOptions(SearchPathPlugin):
    """Find options in `configs/<task>/`, beside those that both tasks share."""

    task = ""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder."""
        search_path.append("task", f"file://{CONFIGS / self.task}")


def use_task_options(task: str) -> None:
    """Make the task's own options selectable, and no other task's."""
    TaskOptions.task = task
    Plugins.instance().register(TaskOptions)


def unique_stamp() -> str:
    """Return the time and four random letters: two runs started in one second get two folders."""
    letters = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(4))
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{letters}"


def slug(*parts: str) -> str:
    """Return a folder name made of the parts: letters, digits, dots, dashes and underscores."""
    name = "-".join(part for part in parts if part)
    plain = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:110]
    return plain if plain == name else f"{plain}-{digest(name)}"  # two names stay two


# where this module is imported, a worker of a parallel sweep included
OmegaConf.register_new_resolver("unique", unique_stamp, use_cache=True, replace=True)
OmegaConf.register_new_resolver("slug", slug, replace=True)


def _job(cfg: DictConfig) -> float:
    folder = Path(HydraConfig.get().runtime.output_dir)
    _started.append(folder.name)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return sweep.attempt(lambda: _run(cfg, folder, quiet=True), cfg, folder)
    try:
        return _run(cfg, folder, quiet=False)
    except UserError as error:
        _failures.append(error)
        with suppress(OSError):
            folder.rmdir()  # Hydra has made it; nothing is in it yet
        return float("inf")


def _run(cfg: DictConfig, folder: Path, quiet: bool) -> float:
    """Run; a wrong setting is answered with the key that was given."""
    hydra_cfg = HydraConfig.get()
    given = _as_written(hydra_cfg.overrides.task)
    try:
        check_settings(cfg, _defaults())
        if hydra_cfg.sweeper.params and not quiet:
            raise ConfigError(f"{' '.join(given)}: is a sweep; add -m")
        for override in given:  # a list of options, of which Hydra says no name
            group = _key(override)
            if isinstance(cfg.get(group), DictConfig) and group not in hydra_cfg.runtime.choices:
                raise ConfigError(f"{override}: choose one option")
        if cfg.task != hydra_cfg.job.config_name:
            raise ConfigError(
                f"task={cfg.task}: a script has one task, {hydra_cfg.job.config_name}"
            )
        # torch: only once the settings are known to compose
        from training.distributed import peers
        from training.run.start import run

        overrides = [o for o in given if not o.startswith("resume=")]
        with peers():
            return run(cfg, folder, overrides, hydra_cfg.runtime.choices, quiet)
    except (ConfigError, DataError) as error:
        if any(_key(o) in str(error) for o in given):
            raise
        raise type(error)(f"{error} ({' '.join(given)})") from error  # so that the key is named


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
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose(task, return_hydra_config=True)
        groups = [g for g in cfg.hydra.runtime.choices if not g.startswith("hydra/")]
        return groups + [key for key, _ in leaves(cfg) if not key.startswith("hydra.")]
