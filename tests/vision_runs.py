"""A small vision run that several tests share, and its predictions."""

from pathlib import Path

from conftest import compose
from torch import Tensor

from training.data import Split
from training.run.finished import load_run
from training.run.start import start


def trained_run(folder: Path) -> Path:
    """Train a narrow network on the digits for two epochs, into `folder`."""
    cfg = compose("trainer.epochs=2", "model.width=16", "trainer.figures=2", task="vision")
    start(cfg, folder)
    return folder


def predictions(run: Path, name: str = "test") -> tuple[Split, Tensor]:
    """Return a split of a finished run, and the log-probabilities that its loss implies."""
    finished = load_run(run)
    split = getattr(finished.splits(), name)
    return split, finished.loss_fn.log_probs(finished.model(split.inputs))
