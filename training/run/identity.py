"""What a run is, in `run.json`: so that only like is averaged and compared with like."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from training.run.targets import leaves

IDENTITY = "run.json"
# what changes no figure, what is said apart, and what the loss choice makes different anyway
LEFT_OUT: tuple[str, ...] = (
    "seed",
    "baseline",
    "resume",
    "device",
    "threads",
    "trusted_targets",
    "table",
)
LEFT_OUT += (
    "facts.",
    "report.",
    "best_lr.",
    "trainer.figures",
    "trainer.log_every",
    "trainer.save_every",
)


def identity(cfg: DictConfig, choices: Mapping[str, str], protocol: str, data: str) -> str:
    """Return the content of `run.json`.

    Args:
        cfg: all settings.
        choices: the option chosen in each group, as in {"loss": "mse"}.
        protocol: what the figures were measured on, in words.
        data: digest of the examples of all splits.
    """
    settings = comparable_settings(cfg)
    loss = choices.get("loss") or cfg.loss._target_.rsplit(".", 1)[-1]
    targets = {str(value) for key, value in settings.items() if key.endswith("_target_")}
    content = {
        "task": cfg.task,
        "loss": loss,
        "baseline": cfg.baseline,
        "seed": cfg.seed,
        "group": f"{loss}-{digest(settings)}",  # runs that differ in nothing but the seed
        "data": data,
        "code": code_version({"losses", "training"} | {name.split(".")[0] for name in targets}),
        "protocol": protocol,
        "table": list(cfg.table),
        "settings": settings,
    }
    return json.dumps(content, indent=1) + "\n"


def comparable_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings that figures depend on, seed apart; what follows the seed unresolved."""
    settings: dict[str, Any] = {}
    for key, raw in leaves(cfg):
        if key.startswith(LEFT_OUT):
            continue
        value = raw
        if "${" in str(raw) and "${seed}" not in str(raw):
            try:
                value = OmegaConf.select(cfg, key)
            except OmegaConfBaseException:  # a fact: known from the data, which has its own digest
                continue
        settings[key] = OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
    return settings


def code_version(packages: Iterable[str]) -> str:
    """Return a digest of the source of the project's own packages, and the user's."""
    sha = hashlib.sha256()
    for package in sorted(set(packages) - {"torch"}):
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for file in sorted(Path(folder).rglob("*.py")):
                sha.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return sha.hexdigest()[:8]


def digest(content: Any) -> str:
    """Return eight letters that stand for settings."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
