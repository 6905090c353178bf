"""The settings of a run as its folder keeps them: data, whoever wrote them."""

import io
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from training.errors import CheckpointError
from training.run.folder import CONFIG
from training.run.identity import leaves
from training.run.untrusted import changed

LONGEST = 10**6  # bytes of config.yaml, and letters of the settings once references are followed
NAME = r"[A-Za-z_]\w*"
REFERENCE = re.compile(rf"\$\{{({NAME}(?:\.{NAME})*)\}}")  # to another setting
GROUPS = ("data", "model", "loss", "optimizer", "scheduler", "trainer")
KINDS = {"task": str, "seed": int, "baseline": str, "device": str, "table": list} | dict.fromkeys(
    GROUPS, dict
)


def is_call(text: str) -> bool:
    """Say whether a text has an interpolation that is more than a reference, as ${oc.env:HOME}."""
    return "${" in REFERENCE.sub("", text)


def is_secret(text: str) -> bool:
    """Say whether a text is taken from the environment."""
    return "oc.env" in text


def as_written(cfg: DictConfig, is_meant: Callable[[str], bool]) -> DictConfig:
    """Return settings in which the texts that `is_meant` picks are never resolved."""

    def escaped(value: Any) -> Any:
        if isinstance(value, str) and is_meant(value):
            return re.sub(r"\\*\$\{", r"\\${", value)
        return value

    settings = changed(OmegaConf.to_container(cfg), escaped)
    return OmegaConf.create(settings, flags={"allow_objects": True})


def without_secrets(message: str, cfg: DictConfig) -> str:
    """Return a message in which what is from the environment is as it was written."""
    for key, text in leaves(cfg).items():
        if is_secret(str(text)):
            with suppress(OmegaConfBaseException):  # the message may be about just that
                if value := str(OmegaConf.select(cfg, key)):
                    message = message.replace(value, str(text))
    return message


def kept_settings(cfg: DictConfig) -> DictConfig:
    """Return settings as a folder has them: references and secrets stay, other calls are made."""
    kept = OmegaConf.create({key: cfg._get_node(key) for key in cfg})
    public = as_written(cfg, is_secret)
    for key, text in leaves(cfg).items():
        if is_call(str(text)):
            with suppress(OmegaConfBaseException):  # it may need what only the data knows
                value = OmegaConf.select(public, key)
                if isinstance(value, ListConfig):
                    value = OmegaConf.to_container(value, resolve=True)
                OmegaConf.update(kept, key, value)
    return kept


def read_config(folder: Path) -> DictConfig:
    """Return the settings of a run as its folder has them, interpolations unresolved."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: not a run folder (no {CONFIG}); give one from outputs/")
    try:
        text = path.read_bytes()[: LONGEST + 1].decode()
        if len(text) > LONGEST:
            raise ValueError(f"is longer than {LONGEST:,} bytes")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("has an alias, which no run writes")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > 100:  # the parser would take minutes
                raise ValueError("has lists within lists without end")
        cfg = OmegaConf.load(io.StringIO(text))
        if not isinstance(cfg, DictConfig):
            raise ValueError("holds no settings")
        check_settings(OmegaConf.to_container(cfg))
    except Exception as error:  # the YAML parser has many
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    return cfg


def check_settings(settings: Any) -> None:
    """Refuse settings of a wrong kind, and those that grow without end as references are followed.

    Ten lists that each refer twice to the next one are a thousand, forty a million millions.
    """
    for name, kind in KINDS.items():
        if not isinstance(settings.get(name), kind):
            raise ValueError(f"{name} must be of the kind {kind.__name__}")
    if not isinstance(settings.get("report") or {}, dict):
        raise ValueError("report must be of the kind dict")
    changed(settings, lambda value: value, check_name)

    @cache
    def length(name: str) -> int:
        value = settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return length_of(str(value))

    def length_of(text: str) -> int:
        return len(text) + sum(map(length, REFERENCE.findall(text)))

    if length_of(str(settings)) > LONGEST:
        raise ValueError("is too large once its references are followed")


def check_name(name: Any) -> None:
    """Refuse what is no name of one setting: with a dot in it, it would pass for another's."""
    if not isinstance(name, str) or "." in name:
        raise ValueError(f"{name!r} is no name of a setting")
