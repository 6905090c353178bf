"""Settings: options composed by Hydra, and values on top; a mistake is one line that names it.

Nothing heavy is imported here: a mistake is answered before torch would have loaded.
"""

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from training.cli.folder_names import slug, unique_stamp
from training.cli.hydra_versions import VERSION_BASE, register_resolver
from training.errors import ConfigError, UserError
from training.run.identity import REQUIRED, leaves
from training.run.targets import CONFIGS, KINDS

LARGEST = {int: 2**63 - 1, float: 3.4e38}  # what torch's int64 and float32 hold


class SharedOptions(SearchPathPlugin):
    """Find what both tasks share in `configs/`, beside the task's own options in `configs/<task>/`.

    So the options of the other task cannot be selected.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder."""
        search_path.append("shared", f"file://{CONFIGS}")


# what configs/ needs
Plugins.instance().register(SharedOptions)
register_resolver("unique", unique_stamp, replace=True)
register_resolver("slug", slug, replace=True)


def place_of(task: str) -> tuple[Path, str]:
    """Return the folder of a task's options and the name of its primary config, which is its own.

    The project's two tasks are known by name. Any other is the path of its primary config: a YAML
    file with `task:` (its name, as the file's), `data:`, `model:`, `report:` and `table:`, whose
    defaults list takes the rest from `configs/`. Folders beside it are groups of options.
    """
    if (CONFIGS / task).is_dir() and (CONFIGS / f"{task}.yaml").is_file():
        return CONFIGS / task, task
    path = Path(task).absolute()
    if not task.endswith(".yaml") or not path.is_file():
        raise ConfigError(f"{task}: no such task; give ngram, vision or the path of NAME.yaml")
    return path.parent, path.stem


def compose(task: str, words: Sequence[str] = (), *, hydra_too: bool = False) -> DictConfig:
    """Return the settings that Hydra composes from the command line `words` of a task."""
    Plugins.instance().register(SharedOptions)  # again: a worker of joblib has fresh plugins
    GlobalHydra.instance().clear()
    folder, name = place_of(task)
    with hydra.initialize_config_dir(str(folder), **VERSION_BASE):
        return hydra.compose(name, list(words), return_hydra_config=hydra_too)


def options(task: str) -> dict[str, list[Path]]:
    """Return the file of each option, by group; the task's own follow those that are shared."""
    groups: dict[str, list[Path]] = {}
    for base in (CONFIGS, place_of(task)[0]):
        for folder in sorted(base.iterdir()):
            files = sorted(folder.glob("*.yaml"))
            if files and not (CONFIGS / f"{folder.name}.yaml").exists():
                groups.setdefault(folder.name, []).extend(files)
    return groups


def settings_of(task: str, words: Iterable[str]) -> tuple[DictConfig, DictConfig]:
    """Return the settings that the words choose and give, and Hydra's own.

    Hydra composes the options alone: a value is compared with the one whose place it takes.
    """
    choices, values = choices_and_values(task, words)
    chosen = [str(choice.input_line) for choice in choices]
    with mistakes_named(chosen, task):
        cfg = compose(task, chosen, hydra_too=True)
    put_on_top(cfg, values, task)
    HydraConfig.instance().set_config(cfg)  # for what interpolates `hydra:`
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), cfg.hydra


def choices_and_values(task: str, words: Iterable[str]) -> tuple[list[Override], list[Override]]:
    """Return the words GROUP=OPTION, those for Hydra among them, and the words SETTING=VALUE."""
    groups = options(task)
    choices: list[Override] = []
    values: list[Override] = []
    for override in map(parse, words):
        key = override.key_or_group
        if key in groups and key != "experiment" and isinstance(override.value(), list):
            raise ConfigError(f"{override.input_line}: choose one option")
        places = override.value() if key == "hydra.searchpath" else None
        for place in places if isinstance(places, list) else ():
            folder = str(place).removeprefix("file://")
            if "://" not in folder and not Path(folder).is_dir():  # Hydra would only go without it
                raise ConfigError(f"{key}={place}: no such folder; as in [file:///FOLDER]")
        (choices if key in groups or key.startswith("hydra") else values).append(override)
    return choices, values


def refuse_flags(words: Sequence[str], task: str) -> None:
    """Answer a flag, which no task has, with the setting that it may have meant."""
    for word, following in zip(words, [*words[1:], "="], strict=False):
        if word.startswith("-"):
            name, _, value = word.lstrip("-").partition("=")
            value = value or ("VALUE" if "=" in following else following)
            known = [*options(task), *leaves(compose(task))]
            if meant := did_you_mean(name.replace("-", "_"), known):
                raise ConfigError(f"{word}: no such flag{meant.removesuffix('?')}={value}?")


def parse(word: str, *, sweeps: bool = False) -> Override:
    """Return a word of the command line in parts; several values only where a sweep takes them."""
    if word.startswith(("-", "~")) or "=" not in word:
        raise ConfigError(f"{word}: give settings only, as in SETTING=VALUE")
    if any("\udc80" <= letter <= "\udcff" for letter in word):  # a byte of a name that is no text
        raise ConfigError(f"{word!a}: must be UTF-8; rename the file or folder")
    key, _, value = word.partition("=")
    quoted = f'{key}="{value}"' if "'" in value else f"{key}='{value}'"
    shown = shlex.quote(quoted) if re.search(r'["$`\\!]', quoted) else f'"{quoted}"'
    parser = OverridesParser.create()
    with mistakes_named([word]):
        try:
            override = parser.parse_override(word)
        except Exception as error:
            refusal = error
            with suppress(Exception):  # which it raises where the value is not what is wrong
                parser.parse_override(quoted)
                refusal = ConfigError(f"has signs that Hydra reads itself; quote a text: {shown}")
            raise refusal from refusal.__cause__
    if override.is_sweep_override() and not sweeps:
        one = f" ({shown} if it is a text)" if key.endswith((".path", ".root", ".dir")) else ""
        if re.fullmatch(r"-?0,\d+", value):
            one = f" ({key}={value.replace(',', '.')}, with a dot)"
        raise ConfigError(f"{word}: give one value{one}, or add -m for a sweep ([a,b] is a list)")
    return override


def put_on_top(cfg: DictConfig, overrides: Iterable[Override], task: str) -> None:
    """Set what the overrides SETTING=VALUE say, each to a value of the kind that is there."""
    known = leaves(cfg)
    for override in overrides:
        word, key, value = override.input_line, override.key_or_group, override.value()
        reports = [f"report.{name}" for name in cfg.report or ()]
        if value is None and key in ("report", *reports):  # switched off
            OmegaConf.update(cfg, key, None)
            continue
        if key not in known:
            raise ConfigError(f"{key}: no such setting{hint(key, known, task)}")
        default = known[key]
        if key == "task" or key.startswith("facts."):
            raise ConfigError(f"{word}: cannot be set; it follows from the script and its data")
        if source := re.fullmatch(r"\$\{([\w.]+)\}", str(default)):
            raise ConfigError(f"{word}: follows {source[1]}; set that instead")
        if "${" in str(value) or value == REQUIRED:
            raise ConfigError(f"{word}: must be a value of its own")
        # of a constructor's numbers and texts it says itself whether null may stand there
        is_argument = "." in key and not key.endswith("._target_")
        null = key == "threads" or (is_argument and not isinstance(default, bool | list))
        if (kind := wanted(value, default)) and not (value is None and null):
            raise ConfigError(f"{word}: must be {kind}")
        if isinstance(value, int) and type(default) is float:
            value = float(value)
        OmegaConf.update(cfg, key, value)


def wanted(value: Any, default: Any) -> str | None:
    """Return in words what a value should have been; None if it is of the default's kind.

    Where the default is null, or looked up elsewhere, the constructor says what it takes.
    """
    largest = LARGEST.get(type(value))
    if largest and not abs(value) <= largest:  # NaN, too
        return "a finite number"
    if isinstance(default, list):
        if not isinstance(value, list):
            return "a list, as in [a,b]"
        kinds = [wanted(item, default[0]) for item in value if default]
        return next((f"a list of which each is {kind}" for kind in kinds if kind), None)
    is_whole = type(value) is int and type(default) is float
    if is_whole or type(value) is type(default) or "${" in str(default):
        return None
    return KINDS.get(type(default))


@contextmanager
def mistakes_named(words: Iterable[str], task: str = "") -> Iterator[None]:
    """Say in one line what Hydra says of the words in several, with the nearest valid name."""
    try:
        yield
    except BrokenProcessPool as error:
        killed = "a job was killed, perhaps for want of memory, and with it those beside it"
        raise UserError(f"{killed}; the same command goes on from their checkpoints") from error
    except Exception as error:
        text = f"{error}\n{error.__cause__ or ''}"
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        message = f"{' '.join(words)}: {' '.join(lines[:2]) or type(error).__name__}"
        if match := re.search(r"Could not override '([^']+)'", text):
            message = f"{match[1]}: no such setting{hint(match[1], leaves(compose(task)), task)}"
        elif match := re.search(r"Could not find '([^']+)/([^'/]*)'", text):
            group, option = match[1], match[2]
            names = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
            near = did_you_mean(option, names).replace("mean ", f"mean {group}=")
            if group == "hydra/launcher":
                near = '; launchers are extras: pip install -e ".[sweep]" (joblib) or ".[slurm]"'
            message = f"{group}={option}: no such option{near} ({group}: {', '.join(names)})"
        raise ConfigError(message) from error


def hint(key: str, known: Iterable[str], task: str) -> str:
    """Say what a wrong name may have meant, or which other option has a setting of that name."""
    groups = options(task)
    group, _, name = key.partition(".")
    names = [known_key for known_key in known if not known_key.startswith("hydra.")]
    for file in groups.get(group, ()):
        others = OmegaConf.load(file)
        if name in others:
            return f"; {group}={file.stem} has it"
        names += [f"{group}.{other!s}" for other in others]
    return did_you_mean(key, names if name else [*groups, *names])


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean ...?", or nothing where no name is near."""
    last = name.rsplit(".", 1)[-1]  # the right word, but in the wrong group
    by_last = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}  # of several, the first
    near = [by_last[last]] if last in by_last else difflib.get_close_matches(name, known, n=1)
    near = near or [by_last[key] for key in difflib.get_close_matches(last, by_last, 1, 0.8)]
    return f"; did you mean {near[0]}?" if near else ""
