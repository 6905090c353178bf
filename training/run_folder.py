"""The run folder: one folder a run, and a finished run read back."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from losses import ClassificationLoss
from training.checkpoint import load_checkpoint
from training.config import instantiate
from training.data import Splits
from training.errors import CheckpointError, ConfigError

CONFIG, BEST = "config.yaml", "checkpoints/best.pt"


def claim(folder: Path, cfg: DictConfig) -> None:
    """Make `folder` this run's own by writing its settings there, interpolations unresolved."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / CONFIG).open("x", encoding="utf-8") as file:
            file.write(OmegaConf.to_yaml(cfg))
    except FileExistsError:
        raise ConfigError(
            f"hydra.run.dir={folder}: holds another run already; name a new folder, or leave it out"
        ) from None


def with_facts(cfg: DictConfig, num_classes: int, class_counts: Tensor) -> DictConfig:
    """Return the settings with `facts` filled: what only the data knows.

    The counts stay a tensor: as a list, 13,000 of them would take seconds to merge and resolve.
    """
    facts = {"num_classes": num_classes, "class_counts": class_counts}
    filled = OmegaConf.create({**cfg, "facts": {}}, flags={"allow_objects": True})
    for name, value in facts.items():
        filled.facts[name] = value
    return filled


@dataclass(frozen=True)
class FinishedRun:
    """A run read back: its settings, its best model, and its loss."""

    folder: Path
    cfg: DictConfig
    model: nn.Module
    loss_fn: ClassificationLoss
    class_names: tuple[str, ...]
    step: int

    def splits(self) -> Splits:
        """Read the run's data again."""
        splits: Splits = instantiate(self.cfg.data, self.cfg.trusted_targets)
        if splits.class_names != self.class_names:
            raise CheckpointError(
                f"{self.folder}: its data now has other classes than it was trained on; "
                "give the data of that run back, or train again"
            )
        return splits


def load_run(folder: str | Path) -> FinishedRun:
    """Return the run in `folder` with the weights of its best checkpoint, in evaluation mode."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: not a run folder (no {CONFIG}); give one from outputs/")
    state = load_checkpoint(folder / BEST)
    cfg = OmegaConf.load(folder / CONFIG)
    assert isinstance(cfg, DictConfig)
    cfg = with_facts(cfg, len(state["class_names"]), state["class_counts"])
    model = instantiate(cfg.model, cfg.trusted_targets)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: {BEST} does not fit the model in {CONFIG} ({str(error).splitlines()[-1]})"
        ) from error
    return FinishedRun(
        folder=folder,
        cfg=cfg,
        model=model.eval().requires_grad_(False),
        loss_fn=instantiate(cfg.loss, cfg.trusted_targets),
        class_names=tuple(state["class_names"]),
        step=state["step"],
    )


def load_teacher(run: str) -> Callable[[Tensor], Tensor]:
    """Return the model of a finished run: inputs -> logits, wherever the inputs are."""
    model = load_run(run).model

    def logits_of(inputs: Tensor) -> Tensor:
        try:
            return model.to(inputs.device)(inputs)
        except (IndexError, RuntimeError) as error:
            raise ValueError(f"teacher {run} was trained on other data: {error}") from error

    return logits_of


def best_state(
    model: nn.Module, splits: Splits, step: int, epoch: int, nll: float | None
) -> dict[str, Any]:
    """Return what a best checkpoint holds: plain types and tensors only."""
    return {
        "model": {name: tensor.detach() for name, tensor in model.state_dict().items()},
        "class_names": list(splits.class_names),
        "class_counts": splits.class_counts,
        "step": step,
        "epoch": epoch,
        "val_nll": nll,
        "torch": str(torch.__version__),
    }


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`."""
    with (folder / "metrics.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
