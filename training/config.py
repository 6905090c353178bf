"""Settings: found wrong early, answered in one line, and built behind one allow-list.

Nothing heavy is imported here: a misspelt name is answered before torch would have loaded.
"""

import copy
import difflib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from training.errors import ConfigError, UserError

CONFIGS = Path(__file__).parent.parent / "configs"
ALLOWED_TARGETS = ("losses", "training", "ngram", "vision", "torch.nn", "torch.optim")
LARGEST = 3.4e38  # what float32 holds

REQUIRED = "???"  # OmegaConf's mark of a value that has to be given


def check_settings(cfg: DictConfig, defaults: DictConfig) -> None:
    """Refuse a value of another type than the default's, and numbers that are not finite.

    `defaults` is the same choice of options without any value changed. A default of null accepts
    whatever the constructor behind it does.
    """
    expected, given = dict(leaves(defaults)), dict(leaves(cfg))
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
        kind = _wanted(key, value, default)
        if kind:
            raise ConfigError(f"{key}={_shown(value)}: must be {kind}")
    resolved = copy.deepcopy(cfg)
    try:
        OmegaConf.resolve(resolved)
    except OmegaConfBaseException as error:
        named = re.findall(r"'([^']+)'", str(error))[:1]
        changed = {k: str(v) for k, v in given.items() if str(v) != str(expected[k])}
        keys = [k for k, v in changed.items() if "${" in v and all(n in v for n in named)]
        raise ConfigError(f"{', '.join(keys[:1])}: {_first_line(error)}") from None
    for key, written in given.items():
        value = OmegaConf.select(resolved, key)
        if isinstance(value, DictConfig) and written != expected[key]:
            raise ConfigError(f"{key}={written}: must be one value, that is a group of settings")
        if kind := _wanted(key, value, expected[key]):
            raise ConfigError(f"{key}={_shown(value)}: must be {kind}")


def _nullable(key: str) -> bool:
    """Say whether the file of some option has null there."""
    line = re.compile(rf"^\s*{re.escape(key.rsplit('.', 1)[-1])}: null\b", re.MULTILINE)
    return any(line.search(file.read_text(encoding="utf-8")) for file in CONFIGS.rglob("*.yaml"))


def _wanted(key: str, value: Any, default: Any) -> str | None:
    """Return what the value should have been, or None where it is that."""
    if "${" in str(value):  # looked at again once it is resolved
        return None
    if isinstance(value, ListConfig | list):
        first = default[0] if isinstance(default, ListConfig) and len(default) else None
        items = (_wanted(key, item, first) for item in value)
        if kind := next((kind for kind in items if kind), None):
            return f"a list of which each is {kind}"
    elif isinstance(value, float) and not abs(value) <= LARGEST:
        return "a finite number"
    if default in (None, REQUIRED) or "${" in str(default) or (value is None and _nullable(key)):
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


def leaves(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every setting, interpolations as they are written."""
    for key in map(str, cfg):
        name = f"{prefix}{key}"
        if OmegaConf.is_missing(cfg, key):
            yield name, REQUIRED
        elif OmegaConf.is_interpolation(cfg, key):
            yield name, cfg._get_node(key)._value()  # type: ignore[union-attr]
        elif isinstance(cfg[key], DictConfig):
            yield from leaves(cfg[key], f"{name}.")
        else:
            yield name, cfg[key]


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
        return ConfigError(f"hydra.run.dir: the run folder cannot be made ({_first_line(error)})")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return ConfigError(f"{' '.join(overrides)}: {' '.join(lines[:2]) or type(error).__name__}")


def instantiate(node: DictConfig, trusted: Iterable[str] = (), call_with: Any = None) -> Any:
    """Build what `_target_` names, if the project, torch or a trusted package defines it.

    What a name resolves to decides, not how it is spelt. A ValueError or TypeError of the
    constructor is the user's: one line that begins with the setting.

    Args:
        node: the settings, one key of the whole config.
        trusted: packages beside those of `ALLOWED_TARGETS`.
        call_with: arguments for what a `_partial_` gives, so that its errors are answered, too.
    """
    name = node._get_full_key(None)
    for key, target in _targets(OmegaConf.to_container(node, resolve=True), name):
        find_target(key, str(target), trusted)
    try:
        built = hydra_instantiate(node)
        return built if call_with is None else built(*call_with)
    except (InstantiationException, ValueError, TypeError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, UserError):
            raise cause from None
        if not isinstance(cause, ValueError | TypeError):
            raise ConfigError(f"{name}: {_first_line(error)}") from error
        where = re.search(r"full_key: (\S+)", str(error))
        message = textwrap.shorten(str(cause), 400, placeholder=" ...")  # it may quote all the data
        raise ConfigError(_named(node, where[1] if where else name, message)) from cause


def _targets(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield every `_target_`, however deep in lists and interpolations it was hidden."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "_target_":
                yield f"{key}._target_", inner
            yield from _targets(inner, f"{key}.{name}")


def _named(node: DictConfig, key: str, message: str) -> str:
    """Begin the message with the setting it is about, or with the one that was taken from."""
    argument = message.split("=")[0].split(" ")[0]
    root = node._get_root()
    raw = dict(leaves(root)).get(f"{key}.{argument}") if isinstance(root, DictConfig) else None
    source = re.fullmatch(r"\$\{([\w.]+)\}", str(raw))
    return message.replace(argument, source[1] if source else f"{key}.{argument}", 1)


def find_target(key: str, target: str, trusted: Iterable[str] = ()) -> Any:
    """Return the class or function of that name, if its module is an allowed one."""
    allowed = (*ALLOWED_TARGETS, *trusted)

    def inside(module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in allowed)

    refused = ConfigError(
        f"{key}={target}: not allowed; targets come from {', '.join(allowed)}"
        " (your own package: trusted_targets=[my_package] in training, --trust my_package after it)"
    )
    if not inside(target):
        raise refused
    try:
        found = get_object(target)
    except Exception as error:
        raise ConfigError(f"{key}={target}: cannot be imported ({_first_line(error)})") from error
    is_callable = inspect.isclass(found) or inspect.isfunction(found)
    if not is_callable or not inside(found.__module__):
        raise refused
    return found


def _first_line(error: BaseException) -> str:
    return str(error.__cause__ or error).split("\n")[0]
