"""Small real runs that several tests share; no network, no accelerator, nothing outside."""

import signal
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from training.cli.main import main
from training.cli.settings import compose as compose_task
from training.data import Split
from training.loop import train_epoch
from training.running_loss import RunningLoss

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # so that tests can import scripts

if hasattr(signal, "SIGHUP"):  # `nohup` has it ignored, and then no run would answer it
    signal.signal(signal.SIGHUP, lambda *_: None)
torch.set_num_threads(1)  # tests run side by side with whatever else the machine does

SMALL = [
    "data.max_lines=300",
    "model.embedding_dim=16",
    "model.hidden_dim=32",
    "trainer.epochs=2",
    "trainer.figures=0",
    "report.kneser_ney.max_order=2",
    "report.verse.lines=2",
]


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory):
    """Keep out of the current folder, which may be another user's: `outputs/` is relative."""
    with chdir(tmp_path_factory.mktemp("elsewhere")):
        yield


def compose(*overrides: str, task: str = "ngram", hydra_too: bool = False) -> DictConfig:
    """Return the settings that the command line would give with these overrides."""
    return compose_task(task, overrides, hydra_too=hydra_too)


def run_epoch(training, split: Split, epoch: int) -> float:
    """Train for (the rest of) an epoch; return its mean loss."""
    if epoch != training.epoch:
        training.epoch, training.visited = epoch, 0
    loss = RunningLoss()
    for update in train_epoch(training, split):
        loss.add(update)
    return loss.mean()


@pytest.fixture
def train(tmp_path):
    """Return a function that trains with overrides and returns the run folder."""
    from training.run.start import start

    def train(*overrides: str, name: str = "run", task: str = "ngram") -> Path:
        start(compose(*overrides, task=task), tmp_path / name)
        return tmp_path / name

    return train


@pytest.fixture
def command_line(monkeypatch, capsys, tmp_path):
    """Return a function that runs a script's command line here: (exit code, stdout, stderr)."""

    def command_line(*arguments: str, task: str = "ngram") -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"train_{task}.py", *arguments])
        GlobalHydra.instance().clear()
        try:
            main(task)
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return command_line
