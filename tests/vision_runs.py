"""A small vision run that several tests share, and its predictions."""

from functools import cache
from pathlib import Path

from conftest import compose
from torch import Tensor

from training.data import Split
from training.run.finished import load_run
from training.run.start import start


@cache
def trained_run(base: Path) -> Path:
    """Train a narrow network on the digits, once for all tests, in a folder of `base`."""
    folder = base / "vision-run"
    settings = ["trainer.epochs=2", "model.width=16", "trainer.figures=2"]
    start(compose(*settings, "report.images.mistakes=3", task="vision"), folder)
    return folder


@cache
def predictions(run: Path, name: str = "test") -> tuple[Split, Tensor]:
    """Return a split of a finished run, and the log-probabilities that its loss implies."""
    finished = load_run(run)
    split = getattr(finished.splits(), name)
    return split, finished.loss_fn.log_probs(finished.model(split.batch(slice(None))[0]))
