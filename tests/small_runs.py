"""Small n-gram runs, without figures: drawing would take longer than all the rest of them."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from conftest import SMALL, compose
from omegaconf import DictConfig

from metrics import MetricsReport
from training.run.log import RunLog
from training.run.start import start

RUN = (
    *SMALL,
    "data.max_lines=90",
    "trainer.epochs=3",
    "trainer.batch_size=64",
    "trainer.log_every=3",
    "trainer.save_every=4",
    "report.kneser_ney.max_order=0",
)
TINY = (*RUN, "trainer.epochs=1", "trainer.max_batches=2")


@pytest.fixture(scope="module", autouse=True)
def no_drawing():
    """Log a number where a figure would be drawn; a test file has this by importing it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsReport, "figure", lambda _: None)
        patch.setattr(
            RunLog, "figure", lambda log, tag, _, step: log.events.add_scalar(tag, 1, step)
        )
        yield


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    return compose(*overrides)


def settings(*overrides: str) -> DictConfig:
    """Return settings of one's own, composed once for all tests of a process."""
    return deepcopy(_composed(overrides))


def run_in(folder: Path, *overrides: str) -> Path:
    """Train with these settings in `folder`, and return it."""
    start(settings(*overrides), folder, quiet=True)
    return folder
