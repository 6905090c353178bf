"""Small real runs that several tests share; no network, no accelerator, nothing outside."""

import sys
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from training.cli.app import CONFIGS, main, use_task_options

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # so that tests can import scripts

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


def compose(*overrides: str, task: str = "ngram", hydra_too: bool = False) -> DictConfig:
    """Return the settings that the command line would give with these overrides."""
    use_task_options(task)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose(task, list(overrides), return_hydra_config=hydra_too)


@pytest.fixture
def train(tmp_path):
    """Return a function that trains with overrides and returns the run folder."""
    from training.run.start import run

    def train(*overrides: str, name: str = "run", task: str = "ngram") -> Path:
        run(compose(*overrides, task=task), tmp_path / name)
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
            code = stop.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return command_line
