"""Settings as data, and what they name built: one allow-list for every `_target_`."""

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, OmegaConf

from training.errors import ConfigError, UserError

ALLOWED_TARGETS = ("losses", "training", "ngram", "vision", "torch.nn", "torch.optim")
REQUIRED = "???"  # OmegaConf's mark of a value that has to be given


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
            raise ConfigError(f"{name}: {first_line(error)}") from error
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
        raise ConfigError(f"{key}={target}: cannot be imported ({first_line(error)})") from error
    is_callable = inspect.isclass(found) or inspect.isfunction(found)
    if not is_callable or not inside(found.__module__):
        raise refused
    return found


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or of what caused it."""
    return str(error.__cause__ or error).split("\n")[0]
