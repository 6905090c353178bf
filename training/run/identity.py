"""What a run is, in `status.json`: so that only like is averaged and compared with like."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PLACES = ("data.path", "data.root")
SOURCES = (*PLACES, "data.download")
REQUIRED = "???"  # OmegaConf's mark of a value that has to be given
# settings of what trains; all others change no figure, or reach one of these by interpolation
SETTINGS = ("data.", "model.", "loss.", "optimizer.", "scheduler.", "trainer.")
# change no figure; where the data comes from does not either, since its digest is kept
LEFT_OUT = ("trainer.figures", "trainer.log_every", "trainer.save_every", *SOURCES)


def identity(
    cfg: DictConfig, loss: str, protocol: str, data: str, block_rows: int, teacher: str = ""
) -> dict[str, Any]:
    """Return what the run is.

    Args:
        cfg: all settings.
        loss: the option of the loss, as in "mse".
        protocol: what the figures were measured on, in words.
        data: digest of the examples of all splits.
        block_rows: how many consecutive test targets are one draw of chance.
        teacher: digest of the weights of the run that the loss learns from, if it does.
    """
    settings = comparable_settings(cfg)
    if teacher:
        settings["teacher"] = teacher
    targets = {str(value) for key, value in settings.items() if key.endswith("_target_")}
    packages = {"losses", "metrics", "training"} | {name.split(".")[0] for name in targets}
    return {
        "task": cfg.task,
        "loss": loss,
        "baseline": cfg.baseline,
        "seed": cfg.seed,
        "group": f"{loss}-{digest(settings)}",  # of runs that differ in nothing but the seed
        "data": data,
        "code": code_version(packages),
        "protocol": protocol,
        "block_rows": block_rows,
        "table": list(cfg.table),
        "settings": settings,
    }


def comparable_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings that figures depend on, seed apart; what follows the seed unresolved."""
    settings = DictConfig({})
    for key, value in leaves(cfg).items():
        if key.startswith(SETTINGS) and key not in LEFT_OUT:
            is_taken_from = "${" in str(value) and "${seed}" not in str(value)
            with suppress(OmegaConfBaseException):  # a fact of the data, which has its own digest
                settings[key] = OmegaConf.select(cfg, key) if is_taken_from else value
    return OmegaConf.to_container(settings)  # type: ignore[return-value]


def code_version(packages: Iterable[str]) -> str:
    """Return a digest of the source of the project's own packages, and the user's."""
    sha = hashlib.sha256()
    for package in sorted(set(packages) - {"torch"}):
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for file in sorted(Path(folder).rglob("*.py")):
                sha.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return sha.hexdigest()[:8]


def leaves(cfg: DictConfig | dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return every setting by its dotted key, interpolations as they are written."""
    found: dict[str, Any] = {}
    settings: Any = OmegaConf.to_container(cfg) if isinstance(cfg, DictConfig) else cfg
    for key, value in settings.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def digest(content: Any) -> str:
    """Return eight letters that stand for settings."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
