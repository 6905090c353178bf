"""Settings: composed by Hydra, checked before anything is built, errors named in one line.

Nothing heavy is imported here: a misspelt name is answered before torch would have loaded.
"""

import copy
import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from training.errors import ConfigError
from training.run.identity import REQUIRED, leaves
from training.run.targets import find_target, first_line

CONFIGS = Path(__file__).parent.parent.parent / "configs"
LARGEST = 3.4e38  # what float32 holds
MAY_BE_NULL = ("threads",)  # of the settings that no constructor takes


class SharedOptions(SearchPathPlugin):
    """Find what both tasks share in `configs/`, beside the task's own options in `configs/<task>/`.

    So the options of the other task cannot be selected.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder."""
        search_path.append("shared", f"file://{CONFIGS}")


def find_shared_options() -> None:
    """Let Hydra know of `SharedOptions`; once more does nothing."""
    Plugins.instance().register(SharedOptions)


def compose(task: str, words: Sequence[str] = (), *, hydra_too: bool = False) -> DictConfig:
    """Return the settings that the command line `words` of a task give."""
    find_shared_options()
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIGS / task), version_base="1.3"):
            return hydra.compose(task, list(words), return_hydra_config=hydra_too)
    finally:
        GlobalHydra.instance().clear()


def check_settings(cfg: DictConfig, defaults: DictConfig) -> None:
    """Refuse a value of another type than the default's, and numbers that are not finite.

    `defaults` is the same choice of options without any value changed. A default of null accepts
    whatever the constructor behind it does.
    """
    expected, given = leaves(defaults), leaves(cfg)
    for key in expected:
        if key not in given:
            raise ConfigError(f"{key}={{}}: must be one value")
    for key, value in given.items():
        if key not in expected:
            raise ConfigError(f"{key}={value}: no such setting{did_you_mean(key, expected)}")
        default = expected[key]
        if key.startswith("facts.") and value != REQUIRED:
            raise ConfigError(f"{key}={value}: is known from the data; it cannot be set")
        if value == REQUIRED and not key.startswith("facts."):
            raise ConfigError(f"{key}: is required; set it with {key}=VALUE")
        if value != default and (source := re.fullmatch(r"\$\{([\w.]+)\}", str(default))):
            raise ConfigError(f"{key}={_shown(value)}: follows {source[1]}; set that instead")
        kind = _wanted(value, default)
        if kind and not (value is None and _takes_null(cfg, key)):
            raise ConfigError(f"{key}={_shown(value)}: must be {kind}")
    resolved = copy.deepcopy(cfg)
    try:
        OmegaConf.resolve(resolved)
    except OmegaConfBaseException as error:
        named = re.findall(r"'([^']+)'", str(error))[:1]
        changed = {k: str(v) for k, v in given.items() if str(v) != str(expected[k])}
        keys = [k for k, v in changed.items() if "${" in v and all(n in v for n in named)]
        raise ConfigError(f"{', '.join(keys[:1])}: {first_line(error)}") from None
    for key, written in given.items():
        value = OmegaConf.select(resolved, key)
        if isinstance(value, DictConfig) and written != expected[key]:
            raise ConfigError(f"{key}={written}: must be one value, that is a group of settings")
        kind = _wanted(value, expected[key])
        if kind and value is not None:
            raise ConfigError(f"{key}={_shown(value)}: must be {kind}")


def _takes_null(cfg: DictConfig, key: str) -> bool:
    """Say whether the constructor behind a setting allows None there."""
    if key in MAY_BE_NULL:
        return True
    group, _, name = key.rpartition(".")
    target = OmegaConf.select(cfg, f"{group}._target_")
    try:
        parameters = inspect.signature(find_target(key, str(target))).parameters
    except (ConfigError, ValueError):
        return False
    return name in parameters and "None" in str(parameters[name].annotation)


def _wanted(value: Any, default: Any) -> str | None:
    """Return what the value should have been, or None where it is that."""
    if "${" in str(value):  # looked at again once it is resolved
        return None
    if isinstance(value, ListConfig | list):
        first = default[0] if isinstance(default, ListConfig) and len(default) else None
        items = (_wanted(item, first) for item in value)
        if kind := next((kind for kind in items if kind), None):
            return f"a list of which each is {kind}"
    elif isinstance(value, float) and not abs(value) <= LARGEST:
        return "a finite number"
    if default in (None, REQUIRED) or "${" in str(default):
        return None
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return None if whole and abs(value) < 2**63 else "a whole number"
    if isinstance(default, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if number and abs(value) <= LARGEST else "a number"
    if isinstance(default, ListConfig):
        return None if isinstance(value, ListConfig) else "a list, as in [a,b]"
    return None if isinstance(value, str) else "a text"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if value in (True, False) else str(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?", or nothing where no name is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:  # the right word in the wrong group
        last = name.rsplit(".", 1)[-1]
        near = [k for k in known if k.rsplit(".", 1)[-1] == last][:1]
    return f"; did you mean {near[0]}?" if near else ""


def explain(error: BaseException, known: Iterable[str], overrides: Iterable[str]) -> ConfigError:
    """Say in one line what Hydra said in several, with the nearest valid name."""
    text = str(error) if error.__cause__ is None else f"{error}\n{error.__cause__}"
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        return ConfigError(f"{key}: no such setting{did_you_mean(key, known)}")
    if match := re.search(r"Could not find '([^']+)/([^'/]*)'", text):
        group, option = match[1], match[2]
        listed = re.search(r"Available options in '[^']+':\n((?:\t.*\n?)+)", text)
        options = listed[1].split() if listed else []
        near = did_you_mean(option, options).replace("mean ", f"mean {group}=")
        if group == "hydra/launcher":
            near = "; launchers are extras: pip install '.[sweep]' (joblib) or '.[slurm]'"
        return ConfigError(
            f"{group}={option}: no such option{near} ({group}: {', '.join(options)})"
        )
    if isinstance(error, OSError):
        return ConfigError(f"hydra.run.dir: the run folder cannot be made ({first_line(error)})")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return ConfigError(f"{' '.join(overrides)}: {' '.join(lines[:2]) or type(error).__name__}")
