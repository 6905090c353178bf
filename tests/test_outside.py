"""Programs of a user's own in tests/outside/: trained with three losses, calibrated, compared."""

import math
import re
import sys

import pytest
import torch
from conftest import ROOT
from small_runs import no_drawing  # noqa: F401

from training.cli import train as train_here
from training.run.folder import read_metrics

OUTSIDE = ROOT / "tests" / "outside"
RGB = ["data.channels=3", "data.mean=[0.3,0.3,0.3]", "data.std=[0.38,0.38,0.38]"]
PROGRAMS = {
    "moons": (str(OUTSIDE / "moons" / "moons.yaml"), ["data.count=300", "trainer.epochs=6"]),
    "resnet18": (
        "vision",
        [
            "model=torchvision_resnet18",
            f"hydra.searchpath=[file://{OUTSIDE}/resnet18]",
            *RGB,
            *("trainer.epochs=1", "trainer.max_batches=2"),
        ],
    ),
    "segmentation": (
        "vision",
        [
            *("data=shapes", "model=pixels", "data.count=50", "trainer.epochs=3"),
            f"hydra.searchpath=[file://{OUTSIDE}/segmentation]",
        ],
    ),
}
TRUSTED = {"moons": "moons", "resnet18": "torchvision", "segmentation": "shapes"}
LOSSES = ("cross_entropy", "mse", "focal")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    for name in PROGRAMS:
        monkeypatch.syspath_prepend(OUTSIDE / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moons", "segmentation", "resnet18"])
def test_an_outside_program_is_trained_calibrated_and_compared(
    name, command_line, tmp_path, monkeypatch, capsys
):
    task, words = PROGRAMS[name]
    folders = [f"runs/{loss}" for loss in LOSSES]
    for loss, folder in zip(LOSSES, folders, strict=True):
        code, out, err = command_line(
            *words, f"loss={loss}", f"hydra.run.dir={folder}", "trainer.figures=0", task=task
        )
        assert (code, err) == (0, "")
        assert re.search(r"│ test, T = [\d.]+", out)
    lines = read_metrics(tmp_path / folders[0])
    (test,) = (line for line in lines if line["split"] == "test" and "nll" in line)
    positions = 16 * 16 if name == "segmentation" else 1
    assert test["count"] % positions == 0 and math.isfinite(test["nll"])

    from scripts import calibrate, compare

    monkeypatch.setattr(sys, "argv", ["calibrate.py", *folders, "--trust", TRUSTED[name]])
    calibrate.main()
    table = capsys.readouterr().out
    assert all(loss in table for loss in LOSSES)
    monkeypatch.setattr(sys, "argv", ["compare.py", *folders])
    compare.main()
    assert "no run of the baseline" not in capsys.readouterr().out
    assert (tmp_path / "runs" / "compare.html").exists()


@pytest.mark.parametrize("name", ["moons", "segmentation"])
def test_an_outside_program_ends_as_if_never_stopped(name, tmp_path, monkeypatch):
    task, words = PROGRAMS[name]
    monkeypatch.chdir(tmp_path)
    quick = [*words, "trainer.figures=0", "report=null", "scheduler=constant"]
    whole = train_here(task, *quick, "hydra.run.dir=whole")

    train_here(task, *quick, "trainer.epochs=2", "hydra.run.dir=parts")
    epochs = next(word for word in words if word.startswith("trainer.epochs"))
    parts = train_here(task, "resume=parts", epochs, trusted=[TRUSTED[name]])

    assert parts.training.step == whole.training.step
    for mine, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert whole.figures["test/nll"] == parts.figures["test/nll"]


def test_a_stranger_must_be_trusted(tmp_path, monkeypatch):
    from training.errors import ConfigError

    task, words = PROGRAMS["moons"]
    monkeypatch.chdir(tmp_path)
    train_here(task, *words, "trainer.epochs=1", "hydra.run.dir=run")

    with pytest.raises(ConfigError, match=r"moons\.Network: not allowed; .*--trust"):
        train_here(task, "resume=run", "trainer.epochs=2")
