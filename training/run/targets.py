"""Settings as data, and building what their `_target_` names."""

import importlib
import inspect
import re
import textwrap
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from training.errors import ConfigError, UserError, first_line
from training.run.folder import from_here
from training.run.identity import REQUIRED, leaves

if TYPE_CHECKING:
    from torch import Tensor

# in the package, where setup.py has put them into a wheel; in a clone, beside it
CONFIGS = next(f / "configs" for f in Path(__file__).parents[1:3] if (f / "configs").is_dir())
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
# where a run folder may name any class of its group's kind; nothing else is even imported
LIBRARIES = ("losses", "ngram", "vision", "training.optimizers", "torch.nn", "torch.optim")


def with_facts(
    cfg: DictConfig, num_classes: int, class_counts: "Tensor", teacher: Any = None
) -> DictConfig:
    """Return the settings with `facts` filled: what only the data and the teacher's folder know.

    The counts stay a tensor: as a list, 13,000 of them would take seconds to merge and resolve.
    """
    facts = {"num_classes": num_classes, "class_counts": class_counts, "teacher": teacher}
    return OmegaConf.create({**cfg, "facts": facts}, flags={"allow_objects": True})


def instantiate(
    node: DictConfig,
    trusted: Sequence[str] = (),
    *,
    guarded: bool = True,
    own: Sequence[str] = (),
    call_with: Any = None,
    kind: type = object,
) -> Any:
    """Build what `_target_` names, and before it whatever its arguments name.

    An error of a constructor is answered in one line that begins with the setting.

    Args:
        node: the settings, one key of the whole config.
        trusted: packages of which a run folder's settings may name anything.
        guarded: whether the settings come from a run folder, so that `find_target` is strict.
        own: settings and groups that were given on this command line all the same.
        call_with: the first arguments, for what is `_partial_`.
        kind: the class of what is built.
    """
    key = node._get_full_key(None)
    name = node.get("_target_")

    def check_kind(got: Any, is_right: bool) -> None:
        if not is_right:
            wanted = f"{kind.__module__}.{kind.__name__}"
            raise ConfigError(f"{key}._target_={name}: must give a {wanted}, not {got.__name__}")

    try:
        settings = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or key}: {first_line(error)}") from error

    def build(value: Any, key: str, *first: Any) -> Any:
        if isinstance(value, list):
            return [build(item, f"{key}.{i}") for i, item in enumerate(value)]
        if isinstance(value, str) and value == REQUIRED:
            raise ConfigError(f"{key}: is required; set it with {key}=VALUE")
        strict = guarded and not any(f"{key}.".startswith(f"{given}.") for given in own)
        if strict and isinstance(value, str) and "${" in value:
            raise ConfigError(
                f"{key}={value}: a run folder may refer to its own settings only, not to the"
                f" environment; give {key}=VALUE"
            )
        if not isinstance(value, dict):
            return value
        found, target_key = None, f"{key}._target_"
        if "_target_" in value:
            strict = strict and target_key not in own
            found = find_target(target_key, str(value.pop("_target_")), trusted, strict)
        if strict and "trusted" in value:
            raise ConfigError(f"{key}.trusted: is no setting; trust a package by --trust PACKAGE")
        is_partial = value.pop("_partial_", False)
        parameters: Mapping[str, inspect.Parameter] = {}
        with suppress(ValueError):  # some of C's have no signature
            parameters = inspect.signature(found).parameters if found else {}
        if strict and "download" in parameters and f"{key}.download" not in own:
            value["download"] = False  # a folder may read data, not fetch it
        arguments = {name: build(inner, f"{key}.{name}") for name, inner in value.items()}
        if not found:
            return arguments
        if value is settings and inspect.isclass(found) and not is_partial:
            check_kind(found, issubclass(found, kind))
        for name, parameter in parameters.items():
            if arguments.get(name, "") is None and parameter.annotation in KINDS:
                message = f"{name}=null: must be {KINDS[parameter.annotation]}"
                raise ConfigError(_name_setting(node, key, message))
        if is_partial and not first:
            return partial(found, **arguments)
        try:
            return found(*first, **arguments)
        except UserError:
            raise
        except Exception as error:
            message = textwrap.shorten(str(error), 400, placeholder=" ...")  # it may quote the data
            if not isinstance(error, ValueError | TypeError):  # a bug, no refusal
                message = f"{type(error).__name__}: {message}{where(error)}"
            raise ConfigError(_name_setting(node, key, message)) from error

    built = build(settings, key, *(call_with or ()))
    check_kind(type(built), isinstance(built, kind))
    return built


def _name_setting(node: DictConfig, key: str, message: str) -> str:
    """Begin the message with the setting it is about, or with the one that it was taken from."""
    argument = message.split("=")[0].split(" ")[0]
    root: Any = node._get_root()
    settings, name = leaves(root), f"{key}.{argument}"
    if name not in settings:
        return f"{key}: {message}"
    source = re.fullmatch(r"\$\{([\w.]+)\}", str(settings[name]))
    return message.replace(argument, source[1] if source else name, 1)


def find_target(key: str, target: str, trusted: Iterable[str] = (), guarded: bool = True) -> Any:
    """Return the class or function of that name; a guarded one has to belong to its group.

    That is what the project's own options of the group name, any class of the group's kind that the
    project or torch defines, and what a trusted package defines. What a name resolves to decides,
    not how it is spelt.
    """
    group = key.split(".")[0]
    is_open = not guarded or target in shipped_targets(group)
    refused = ConfigError(
        f"{key}={target}: not allowed; a run folder may name here what the project's options of"
        f" {group} name, or classes like them (for a package of your own: --trust my_package)"
    )
    if not is_open and not _is_in(target, (*LIBRARIES, *trusted)):
        raise refused
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ConfigError(f"{key}={target}: cannot be imported ({first_line(error)})") from error
    if not callable(found):
        raise ConfigError(f"{key}={target}: is no class or function")
    if not is_open:
        is_class, home = inspect.isclass(found), getattr(found, "__module__", None) or ""
        is_trusted = (is_class or inspect.isfunction(found)) and _is_in(home, trusted)
        is_kind = is_class and _is_in(home, LIBRARIES) and issubclass(found, kinds_of(group))
        if not (is_trusted or is_kind):
            raise refused
    return found


def _is_in(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def kinds_of(group: str) -> type | tuple[()]:
    """Return the class, if there is one, whose subclasses a run folder may name in a group."""
    import torch  # takes seconds, which a mistake on the command line does not wait for

    from losses import ClassificationLoss

    modules, optimizers = torch.nn.Module, torch.optim.Optimizer
    return {"model": modules, "loss": ClassificationLoss, "optimizer": optimizers}.get(group, ())


def shipped_targets(group: str) -> set[str]:
    """Return what the project's own settings of a group name."""
    name = re.escape(group)
    texts: list[str] = []
    for primary in CONFIGS.glob("*.yaml"):
        texts += re.findall(rf"^{name}:\n((?: .*\n)*)", primary.read_text(encoding="utf-8"), re.M)
    for file in CONFIGS.glob(f"**/{name}/*.yaml"):
        texts.append(file.read_text(encoding="utf-8"))
        for base in re.findall(r"^  - /(\w+)@_here_$", texts[-1], re.M):
            texts.append((file.parent.parent / f"{base}.yaml").read_text(encoding="utf-8"))
    return {target for text in texts for target in re.findall(r"^ *_target_: (\S+)$", text, re.M)}


def where(error: BaseException) -> str:
    """Return the file and line that an error of a user's own class comes from, in brackets."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/site-packages/" not in frame.filename]
    return f" ({from_here(Path(own[-1].filename))}:{own[-1].lineno})"
