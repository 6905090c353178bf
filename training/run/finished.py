"""A finished run read back: its settings, its best model, and its loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor, nn

from losses import ClassificationLoss
from training.data import Splits
from training.errors import CheckpointError, ConfigError
from training.run.checkpoint import BEST, BEST_SCHEMA, load_checkpoint, load_weights
from training.run.folder import CONFIG, read_config
from training.run.identity import digest
from training.run.targets import instantiate, with_facts


@dataclass(frozen=True)
class FinishedRun:
    """A run read back: its settings, its best model in evaluation mode, and its loss."""

    folder: Path
    cfg: DictConfig
    model: nn.Module
    loss_fn: ClassificationLoss
    class_names: tuple[str, ...]
    step: int
    trusted: tuple[str, ...]

    def splits(self) -> Splits:
        """Read the run's data again."""
        splits: Splits = instantiate(self.cfg.data, self.trusted)
        if splits.class_names != self.class_names:
            raise CheckpointError(
                f"{self.folder}: its data now has other classes than it was trained on; "
                "give the data of that run back, or train again"
            )
        return splits


def load_run(folder: str | Path, trusted: Sequence[str] = ()) -> FinishedRun:
    """Return the run in `folder` with the weights of its best checkpoint.

    A run folder may come from anyone: what its settings name is built only if the project, torch or
    a package of `trusted` defines it.
    """
    folder = Path(folder)
    stored = read_config(folder)
    state = load_checkpoint(folder / BEST, BEST_SCHEMA)
    names = state["class_names"]
    try:
        cfg = with_facts(stored, len(names), state["class_counts"], names)
        nodes = cfg.model, cfg.loss
    except Exception as error:  # OmegaConf has many
        raise CheckpointError(f"{folder / CONFIG}: cannot be read ({error})") from error
    model = instantiate(nodes[0], trusted)
    load_weights(model, state, folder / BEST)
    model.eval().requires_grad_(False)
    loss_fn = instantiate(nodes[1], trusted)
    return FinishedRun(folder, cfg, model, loss_fn, tuple(names), state["step"], tuple(trusted))


def load_teacher(
    run: str, classes: str = "", trusted: Sequence[str] = ()
) -> Callable[[Tensor], Tensor]:
    """Return the model of a finished run: inputs -> logits, wherever the inputs are.

    Args:
        run: its folder.
        classes: the digest of the student's class names, which have to be the teacher's.
        trusted: packages that the folder's settings may name; `instantiate` sets it.
    """
    finished = load_run(run, trusted)
    model = finished.model
    if classes and classes != digest(list(finished.class_names)):
        raise ConfigError(f"loss: teacher {run} was trained on other data, with other classes")

    def logits_of(inputs: Tensor) -> Tensor:
        try:
            return model.to(inputs.device)(inputs)
        except (IndexError, RuntimeError) as error:
            raise ValueError(f"teacher {run} was trained on other data: {error}") from error

    return logits_of
