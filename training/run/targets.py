"""Settings as data, and building what their `_target_` names."""

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import get_object
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, OmegaConf

from training.errors import ConfigError, UserError
from training.run.identity import digest, leaves

if TYPE_CHECKING:
    from torch import Tensor

ALLOWED_TARGETS = ("losses", "training", "ngram", "vision", "torch.nn", "torch.optim")


def with_facts(
    cfg: DictConfig, num_classes: int, class_counts: "Tensor", class_names: Sequence[str] = ()
) -> DictConfig:
    """Return the settings with `facts` filled: what only the data knows.

    The counts stay a tensor: as a list, 13,000 of them would take seconds to merge and resolve.
    """
    facts = {"num_classes": num_classes, "class_counts": class_counts}
    facts["classes"] = digest(list(class_names)) if class_names else ""
    filled = OmegaConf.create({**cfg, "facts": {}}, flags={"allow_objects": True})
    for name, value in facts.items():
        filled.facts[name] = value
    return filled


def instantiate(
    node: DictConfig, trusted: Sequence[str] = (), *, guarded: bool = True, call_with: Any = None
) -> Any:
    """Build what `_target_` names.

    A ValueError or TypeError of the constructor is answered in one line that begins with the
    setting. Wherever a target takes an argument `trusted`, it is given `trusted`, whatever the
    settings say: only a command line can trust a package.

    Args:
        node: the settings, one key of the whole config.
        trusted: packages that a run folder's settings may name, beside `ALLOWED_TARGETS`.
        guarded: whether the settings come from a run folder, so that only those may be named.
        call_with: arguments for what a `_partial_` gives, so that its errors are answered, too.
    """
    name = node._get_full_key(None)
    settings = OmegaConf.to_container(node, resolve=True)
    for key, value in _targets(settings, name):
        found = find_target(key, str(value["_target_"]), trusted, guarded)
        with suppress(ValueError):  # some of C's have no signature
            if "trusted" in inspect.signature(found).parameters:
                value["trusted"] = list(trusted)
    try:
        built = hydra_instantiate(OmegaConf.create(settings, flags={"allow_objects": True}))
        return built if call_with is None else built(*call_with)
    except (InstantiationException, ValueError, TypeError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, UserError):
            raise cause from None
        if not isinstance(cause, ValueError | TypeError):
            raise ConfigError(f"{name}: {first_line(error)}") from error
        where = re.search(r"full_key: (\S+)", str(error))
        key = f"{name}.{where[1]}" if where else name
        message = textwrap.shorten(str(cause), 400, placeholder=" ...")  # it may quote all the data
        raise ConfigError(_name_setting(node, key, message)) from cause


def _targets(value: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every mapping that has a `_target_`, however deep in lists or interpolations."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        if "_target_" in value:
            yield f"{key}._target_", value
        for name, inner in value.items():
            yield from _targets(inner, f"{key}.{name}")


def _name_setting(node: DictConfig, key: str, message: str) -> str:
    """Begin the message with the setting it is about, or with the one that it was taken from."""
    argument = message.split("=")[0].split(" ")[0]
    root = node._get_root()
    raw = leaves(root).get(f"{key}.{argument}") if isinstance(root, DictConfig) else None
    source = re.fullmatch(r"\$\{([\w.]+)\}", str(raw))
    return message.replace(argument, source[1] if source else f"{key}.{argument}", 1)


def find_target(key: str, target: str, trusted: Iterable[str] = (), guarded: bool = True) -> Any:
    """Return the class or function of that name; a guarded one has to be defined where allowed.

    What a name resolves to decides, not how it is spelt.
    """
    allowed = (*ALLOWED_TARGETS, *trusted)

    def inside(module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in allowed)

    refused = ConfigError(
        f"{key}={target}: not allowed; a run folder may name what is in {', '.join(allowed)}"
        " (for a package of your own: --trust my_package)"
    )
    if guarded and not inside(target):
        raise refused
    try:
        found = get_object(target)
    except Exception as error:
        raise ConfigError(f"{key}={target}: cannot be imported ({first_line(error)})") from error
    if not callable(found):
        raise ConfigError(f"{key}={target}: is no class or function")
    is_plain = inspect.isclass(found) or inspect.isfunction(found)
    if guarded and not (is_plain and inside(found.__module__)):
        raise refused
    return found


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or of what caused it."""
    return str(error.__cause__ or error).split("\n")[0]
