"""Go on with a run: its settings from its folder, with those given on the command line on top."""

import copy
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from training.cli.settings import CONFIGS, check_settings, compose, did_you_mean
from training.errors import CheckpointError, ConfigError
from training.run.folder import CONFIG, STATUS, read_config, read_status
from training.run.identity import leaves

UNFINISHED = ("running", "interrupted", "failed")  # a diverged run would diverge again
# What the state of a run belongs to; everything else may change on the way.
STRUCTURAL = re.compile(r"(task|seed|(data|model|loss)\..*|optimizer\._target_)$")


def run_to_resume(words: Sequence[str], task: str) -> Path | None:
    """Return the folder that the last `resume=` names, if there is one."""
    given = [word.removeprefix("resume=") for word in words if word.startswith("resume=")]
    if not given or given[-1] in ("", "null"):
        return None
    folder = newest_unfinished(task) if given[-1] == "auto" else Path(given[-1])
    if (other := read_status(folder).get("task", task)) != task:
        raise ConfigError(f"resume={folder}: is a run of scripts/train_{other}.py; go on with that")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"resume={folder}: not a run folder (no {CONFIG})")
    if not isinstance(read_status(folder).get("run"), dict):
        raise CheckpointError(f"{folder / STATUS}: does not say what the run is; train it again")
    return folder


def newest_unfinished(task: str) -> Path:
    """Return the run below outputs/ that was last at work and did not end."""
    found = []
    for file in Path("outputs").glob("**/" + STATUS):
        status = read_status(file.parent)
        if status.get("task") == task and status.get("status") in UNFINISHED:
            found.append((file.stat().st_mtime_ns, file.parent))
    if not found:
        raise ConfigError("resume=auto: there is no unfinished run in outputs/; leave resume out")
    return max(found)[1]


def resumed_settings(folder: Path, words: Sequence[str], task: str) -> DictConfig:
    """Return the run's own settings with the `words` of the command line on top; print changes.

    A word is SETTING=VALUE, or GROUP=OPTION of a group that is one part of the settings. What the
    run's state belongs to is refused.
    """
    stored = read_config(folder)
    base, values = copy.deepcopy(stored), []
    words = [word for word in words if not word.startswith(("resume=", "hydra.searchpath="))]
    for word in words:
        if word.startswith(("-", "hydra")) or "=" not in word:
            raise ConfigError(f"{word}: goes on with one run in its folder; give settings only")
        override = OverridesParser.create().parse_override(word)
        if override.is_sweep_override():
            raise ConfigError(f"{word}: goes on with one run; give one value")
        key = override.key_or_group
        if is_group(key, task):
            if key not in stored:
                raise ConfigError(
                    f"{word}: is many settings at once; give those that should change"
                )
            base[key] = compose(task, [word])[key]
        elif override.is_add() or override.is_delete() or key not in leaves(base):
            raise ConfigError(f"{word}: no such setting{did_you_mean(key, leaves(base))}")
        else:
            values.append((key, override.value()))
    cfg = copy.deepcopy(base)
    for key, value in values:
        OmegaConf.update(cfg, key, value)
    check_settings(cfg, base)
    refuse_changes(stored, cfg)
    return cfg


def is_group(key: str, task: str) -> bool:
    """Say whether options of that name can be chosen."""
    return (CONFIGS / key).is_dir() or (CONFIGS / task / key).is_dir()


def refuse_changes(stored: DictConfig, cfg: DictConfig) -> None:
    """Show what differs from the run's own settings, and refuse what its state belongs to."""
    before, now = leaves(stored), leaves(cfg)
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        table = Table("setting", "of the run", "now", "")
        for key in changed:
            refused = "refused" if STRUCTURAL.match(key) else "taken"
            table.add_row(key, str(before.get(key, "-")), str(now.get(key, "-")), refused)
        Console(highlight=False).print(table, markup=False)
    structural = [f"{key}={now.get(key)}" for key in changed if STRUCTURAL.match(key)]
    if structural:
        raise ConfigError(
            f"{', '.join(structural)}: cannot change on resume, the run's weights were trained with"
            " another; leave it out, or start a new run"
        )
