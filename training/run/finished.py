"""A finished run read back: its settings, its best model, and its loss."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from losses import ClassificationLoss
from training.data import Splits
from training.errors import CheckpointError, ConfigError, UserError
from training.run.checkpoint import BEST, BEST_SCHEMA, load_checkpoint, load_weights
from training.run.folder import read_status
from training.run.identity import PLACES, leaves
from training.run.kept_settings import as_written, is_call, read_config
from training.run.targets import instantiate, with_facts
from training.run.untrusted import folder_at_fault, refuse_links


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

    def splits(self, place: str = "") -> Splits:
        """Read the run's data again, from the file or folder `place` if it has been moved there."""
        if place:
            settings = [key for key in PLACES if key.split(".")[1] in self.cfg.data]
            if not settings:
                raise ConfigError(f"--data {place}: the data of {self.folder} is in no file")
            OmegaConf.update(self.cfg, settings[0], place)
        with folder_at_fault(self.folder):
            splits: Splits = instantiate(self.cfg.data, self.trusted, kind=Splits)
        run = read_status(self.folder).get("run")
        kept = run.get("data") if isinstance(run, dict) else None
        if splits.class_names != self.class_names or kept not in (None, splits.fingerprint()):
            raise CheckpointError(
                f"{self.folder}: its data is no longer what it was trained on; give the data of"
                " that run back (calibrate.py --data PATH where it was moved), or train again"
            )
        return splits

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the model's, wherever the inputs are: what the loss of a student asks for."""
        try:
            logits: Tensor = self.model.to(inputs.device)(inputs)
        except (IndexError, RuntimeError) as error:
            problem = f"teacher {self.folder} was trained on other data: {error}"
            raise ValueError(problem) from error
        return logits

    def digest(self) -> str:
        """Return a digest of its weights: the same, wherever its folder lies."""
        return hashlib.sha256((self.folder / BEST).read_bytes()).hexdigest()[:16]


def load_run(folder: str | Path, trusted: Sequence[str] = ()) -> FinishedRun:
    """Return the run in `folder` with the weights of its best checkpoint.

    A run folder may come from anyone: see `find_target` for what its settings may name.
    """
    folder = Path(folder)
    refuse_links(folder)
    stored = as_written(read_config(folder), is_call)
    state = load_checkpoint(folder / BEST, BEST_SCHEMA)
    names, counts = state["class_names"], state["class_counts"]
    with folder_at_fault(folder):
        if not all(isinstance(name, str) for name in names) or counts.shape != (len(names),):
            raise CheckpointError(f"{folder / BEST}: class_names must be texts, with a count each")
        cfg = with_facts(stored, len(names), counts)
        model = instantiate(cfg.model, trusted, kind=nn.Module)
        load_weights(model, state, folder / BEST)
        model.eval().requires_grad_(False)
        loss_fn = instantiate(cfg.loss, trusted, kind=ClassificationLoss)
    return FinishedRun(folder, cfg, model, loss_fn, tuple(names), state["step"], tuple(trusted))


def load_teacher(cfg: DictConfig, trusted: Sequence[str] = ()) -> FinishedRun | None:
    """Return the teacher that `cfg` names, if the loss asks for one."""
    if "${facts.teacher}" not in leaves(cfg).values():
        return None
    if cfg.teacher is None:
        raise ConfigError("teacher: is required; set it with teacher=RUN, a finished run's folder")
    try:
        return load_run(str(cfg.teacher), trusted)
    except UserError as error:
        raise type(error)(f"teacher={cfg.teacher}: {error}") from error
