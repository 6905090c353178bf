"""Go on with a run: its settings from its folder, with those given on the command line on top."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from training.cli.settings import choices_and_values, parse, place_of, put_on_top, settings_of
from training.errors import CheckpointError, ConfigError
from training.run.folder import CONFIG, STATUS, read_status
from training.run.identity import SOURCES, leaves
from training.run.kept_settings import as_written, is_call, kept_settings, read_config
from training.run.untrusted import printable, refuse_links

UNFINISHED = ("running", "interrupted", "failed")  # a diverged run would diverge again
# Settings that the saved weights were trained under: these cannot change.
# Where the data and the teacher lie may change: digests of their content are in the checkpoint.
SOURCE = rf"(?!({'|'.join(SOURCES)})$)"
STRUCTURAL = re.compile(rf"{SOURCE}(task|seed|(data|model|loss)\..*|optimizer\._target_)$")


def run_to_resume(words: Sequence[str], task: str) -> dict[str, Any] | None:
    """Return the arguments of `start` that go on with the run that `resume=` names, if it does."""
    given = [word.removeprefix("resume=") for word in words if word.startswith("resume=")]
    if not given or given[-1] in ("", "null"):
        return None
    folder = newest_unfinished(task) if given[-1] == "auto" else Path(given[-1])
    refuse_links(folder)
    settings = [word for word in words if not word.startswith("resume=")]
    cfg = resumed_settings(folder, settings, task)
    run = read_status(folder).get("run")
    if not isinstance(run, dict) or not isinstance(run.get("loss"), str):
        raise CheckpointError(f"{folder / STATUS}: does not say what the run is; train it again")
    own = [parse(word).key_or_group for word in settings]
    how = {"loss": run["loss"], "own": own, "guarded": True, "resumed": True}
    return {"cfg": cfg, "folder": folder, **how}


def newest_unfinished(task: str) -> Path:
    """Return the run below outputs/ that was last at work and did not end."""
    found = []
    for file in Path("outputs").glob("**/" + STATUS):
        status = read_status(file.parent)
        if status.get("task") == place_of(task)[1] and status.get("status") in UNFINISHED:
            found.append((file.stat().st_mtime_ns, file.parent))
    if not found:
        raise ConfigError("resume=auto: there is no unfinished run in outputs/; leave resume out")
    return max(found)[1]


def resumed_settings(folder: Path, words: Sequence[str], task: str) -> DictConfig:
    """Return the run's own settings with the `words` of the command line on top; print changes.

    What the weights were trained under is refused.
    """
    cfg = changed_settings(folder, words, task)
    refuse_changes(as_written(read_config(folder), is_call), cfg)
    return cfg


def changed_settings(folder: Path, words: Sequence[str], task: str) -> DictConfig:
    """Return the settings of a run with others on top.

    A word is SETTING=VALUE, or GROUP=OPTION (not of `experiment`, `debug` and `launcher`, which
    change many settings at once). In whatever order the words stand, options are taken first, each
    with its own values for the whole group.
    """
    cfg = as_written(read_config(folder), is_call)
    if (other := cfg.get("task")) != place_of(task)[1]:
        raise ConfigError(f"resume={folder}: is a run of the task {other}; go on with its script")
    search = [word for word in words if word.startswith("hydra.searchpath=")]
    choices, values = choices_and_values(task, [word for word in words if word not in search])
    for choice in choices:
        word, group = str(choice.input_line), choice.key_or_group
        if group not in cfg:
            raise ConfigError(f"{word}: is Hydra's, or many settings at once; give settings only")
        cfg[group] = settings_of(task, [*search, word])[0][group]
    put_on_top(cfg, values, task)
    return cfg


def goes_on(folder: Path, cfg: DictConfig) -> bool:
    """Say whether a job of a sweep goes on with an interrupted one, which must have been the same.

    Else another's run would be in its folder.
    """
    if is_begun := (folder / CONFIG).exists():
        refuse_changes(read_config(folder), kept_settings(cfg))
    return is_begun


def refuse_changes(stored: DictConfig, cfg: DictConfig) -> None:
    """Print what differs from the run's own settings; refuse what cannot change."""
    before, now = leaves(stored), leaves(cfg)
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    # what is looked up elsewhere is nothing that the folder may do: it is given again
    refused = [k for k in changed if STRUCTURAL.match(k) and not is_call(str(before.get(k)))]
    for key in changed:
        answer = "refused" if key in refused else "taken"
        print(printable(f"{key}: {before.get(key, '-')} -> {now.get(key, '-')}, {answer}"))
    structural = [f"{key}={now.get(key)}" for key in refused]
    if structural:
        raise ConfigError(
            f"{', '.join(structural)}: cannot change on resume, the run's weights were trained with"
            " another; leave it out, or start a new run"
        )
