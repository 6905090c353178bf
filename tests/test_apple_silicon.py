"""Apple's GPUs, emulated: `device=mps` trains every loss, and `auto` leaves it alone."""

import re

import pytest
import torch
from apple_silicon import MPS, apple_silicon
from conftest import compose
from small_runs import TINY, no_drawing  # noqa: F401

from losses import CrossEntropyLoss, class_weights
from metrics import Calibration, Metrics, fit_temperature
from training.cli.settings import CONFIGS
from training.run.build import pick_device
from training.run.folder import read_metrics
from training.run.start import start

LOSSES = sorted(file.stem for file in (CONFIGS / "loss").glob("*.yaml"))
QUICK = {
    "ngram": TINY,
    "vision": (
        "trainer.epochs=1",
        "trainer.max_batches=2",
        "model.width=8",
        "data.augment.mixup=0.2",
    ),
}


@pytest.fixture
def mac(monkeypatch):
    with apple_silicon(monkeypatch):
        yield


@pytest.fixture
def assert_same_figures(tmp_path, monkeypatch, capsys):
    """Return a function that trains on a CPU and on "mps", and compares all that is logged."""

    def on_cpu(*words, task):
        start(compose(*words, "device=cpu", task=task), tmp_path / "cpu", quiet=True)

    def assert_same_figures(*words, task):
        if task == "ngram":  # no dropout, which draws its bits otherwise on a CPU
            words += tuple(f"model.{kind}dropout=0" for kind in ("", "input_", "output_"))
        if "loss=distillation" in words:
            on_cpu(*words, "loss=cross_entropy", task=task)
            (tmp_path / "cpu").rename(tmp_path / "teacher")
            words += (f"teacher={tmp_path}/teacher",)
        on_cpu(*words, task=task)
        with apple_silicon(monkeypatch):
            run = start(compose(*words, "device=mps", task=task), tmp_path / "mps", quiet=True)
        assert all(p.device == MPS for p in run.model.parameters())
        both = (read_metrics(tmp_path / name) for name in ("mps", "cpu"))
        for mine, theirs in zip(*both, strict=True):
            assert (split := mine.pop("split")) == theirs.pop("split")
            assert split == "time" or mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
        warned = re.findall(r"warning: (\w+)", capsys.readouterr().err)
        assert warned in ([], ["cpu", "mps"])  # of both runs, or of none; no report left out

    return assert_same_figures


@pytest.mark.slow
@pytest.mark.parametrize("task", QUICK)
def test_mps_gives_the_figures_of_the_cpu(task, assert_same_figures):
    assert_same_figures(*QUICK[task], "loss=weighted", task=task)


@pytest.mark.slow
@pytest.mark.parametrize("task", QUICK)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_smoke_test_on_mps_has_the_figures_of_the_cpu(task, loss, assert_same_figures):
    assert_same_figures("debug=smoke", f"loss={loss}", task=task)


def test_a_run_on_mps_is_resumed(tmp_path, mac):
    cfg = compose(*TINY, "device=mps")
    start(cfg, tmp_path / "run", quiet=True)
    cfg.trainer.epochs = 2

    run = start(cfg, tmp_path / "run", quiet=True, resumed=True)

    assert run.finished == 2


def test_auto_is_never_mps(mac, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert pick_device("auto").type == "cpu"
    assert pick_device("mps").type == "mps"


def test_metrics_take_rows_from_mps(mac):
    logits, targets = torch.randn(40, 3), torch.arange(40) % 3
    log_probs = logits.log_softmax(1)

    def figures(device):
        metrics, calibration = Metrics(3, device=device), Calibration(device=device)
        rows, classes = log_probs.to(device), targets.to(device)
        metrics.update(rows, classes, loss_sums=(rows.sum(), torch.ones((), device=device)))
        calibration.update_rows(rows, classes)
        calibration.update(rows.amax(1).exp(), classes == 0)
        fit = fit_temperature(rows, classes)
        return {**metrics.compute(), **calibration.compute(), "temperature": fit.temperature}

    assert figures("mps") == pytest.approx(figures("cpu"), rel=1e-6)


def test_the_weights_of_a_loss_go_to_mps_as_float32_and_elsewhere_as_float64(mac):
    counts, logits, targets = torch.tensor([8, 1, 1]), torch.randn(5, 3), torch.arange(5) % 3
    loss_fn = CrossEntropyLoss(weight=class_weights(counts))
    expected = loss_fn(logits, targets).item()
    assert loss_fn.to("cpu").weight.dtype == torch.float64

    moved = loss_fn.to("mps")
    made_there = CrossEntropyLoss(weight=class_weights(counts.to("mps")))

    for each in (moved, made_there):
        loss = each(logits.to("mps"), targets.to("mps"))
        assert loss.item() == pytest.approx(expected, rel=1e-6)
        assert (loss.device, each.weight.dtype) == (MPS, torch.float32)
