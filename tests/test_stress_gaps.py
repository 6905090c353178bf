"""Faults that no other test would notice; `tests/stress/mutants.py` puts each in on purpose."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import run_epoch
from omegaconf import OmegaConf
from small_runs import TINY, no_drawing, run_in  # noqa: F401
from test_training import Classifier, examples, training_of
from torch import nn

from losses import CrossEntropyLoss
from training import wide_output
from training.data import Split
from training.errors import CheckpointError, ConfigError, DivergedError
from training.evaluation import evaluate
from training.loop import train_epoch
from training.optimizers import SGD, sgd
from training.run import checkpoint, folder
from training.run.finished import load_run
from training.run.folder import read_metrics, read_status, write_file
from training.run.log import EventFile
from training.run.start import start


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return run_in(tmp_path_factory.mktemp("runs") / "tiny", *TINY)


@pytest.fixture
def copied(tiny, tmp_path):
    """A copy of a finished run of two steps."""
    return Path(shutil.copytree(tiny, tmp_path / "copied"))


# --- the run folder


def test_a_stop_between_status_and_settings_leaves_a_folder_to_start_in(tmp_path, monkeypatch):
    written = []

    def dying_at_the_second(real):
        def write(*arguments, **fields):
            written.append(real)
            if len(written) == 2:
                raise Killed
            real(*arguments, **fields)

        return write

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(folder, "write_file", dying_at_the_second(write_file))
        patch.setattr("training.run.log.write_file", folder.write_file)
        run_in(tmp_path / "run", *TINY)

    run_in(tmp_path / "run", *TINY)

    assert load_run(tmp_path / "run").step == 2


def test_a_folder_that_holds_a_run_is_claimed(tiny):
    with pytest.raises(ConfigError, match="holds another run already"):
        run_in(tiny, *TINY, "seed=2")

    assert load_run(tiny).cfg.seed == 1


def test_a_write_that_fails_leaves_no_temporary_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    (tmp_path / "x").write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(CheckpointError, match="disk full: 7 bytes needed"):
        write_file(tmp_path / "x", b"content")

    assert [f.name for f in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"before"


# --- the log


def test_the_log_is_on_disk_before_a_checkpoint_names_its_length(tmp_path, monkeypatch):
    synced, saved = [], []
    fsync, save = os.fsync, checkpoint.save_checkpoint

    def recorded(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def checked(content, path, **options):
        files = [path.parent.parent / name for name in content["log"]]
        saved.append(len(files) == 2 and all(file.stat().st_ino in synced for file in files))
        synced.clear()
        save(content, path, **options)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(checkpoint, "save_checkpoint", checked)
    run_in(tmp_path / "run", *TINY, "trainer.save_every=1")

    assert len(saved) >= 2 and all(saved)


@pytest.mark.parametrize("operation", ["write", "flush"])
def test_a_log_that_cannot_be_written_ends_the_run(operation, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    class FullDisk(EventFile):
        def __init__(self, path, *position):
            super().__init__(path, *position)
            names = ("write", "flush", "fileno", "close")
            usual = {name: getattr(self.file, name) for name in names}
            self.file = SimpleNamespace(**usual | {operation: full})

    monkeypatch.setattr("training.run.log.EventFile", FullDisk)

    with pytest.raises(CheckpointError, match=r"No space left on device.*once that is solved"):
        run_in(tmp_path / "run", *TINY)

    status = read_status(tmp_path / "run")
    assert (status["status"], status["exit_code"]) == ("failed", 5)


def test_each_logged_loss_is_the_mean_since_the_one_before(tmp_path):
    options = (*TINY, "trainer.max_batches=4", "trainer.save_every=100")
    seldom, often = (
        read_metrics(run_in(tmp_path / f"every{n}", *options, f"trainer.log_every={n}"))
        for n in (2, 1)
    )

    losses = [
        {line["step"]: line["loss"] for line in lines if line["split"] == "train" and "lr" in line}
        for lines in (seldom, often)
    ]

    for step, loss in losses[0].items():
        mean = (losses[1][step - 1] + losses[1][step]) / 2
        assert loss == pytest.approx(mean, rel=1e-6)
    assert list(losses[0]) == [2, 4]


# --- going on with a run


def test_a_run_folder_that_goes_on_names_code_in_vain(command_line, copied, tmp_path):
    cfg = OmegaConf.load(copied / "config.yaml")
    cfg.model = {"_target_": "os.makedirs", "name": str(tmp_path / "mark")}
    OmegaConf.save(cfg, copied / "config.yaml")

    code, _, err = command_line(f"resume={copied}")

    assert code == 2 and "os.makedirs: not allowed" in err
    assert not (tmp_path / "mark").exists()


def test_a_teacher_is_not_trusted_because_its_student_is_read(tiny, tmp_path):
    teacher, student = (Path(shutil.copytree(tiny, tmp_path / n)) for n in ("teacher", "student"))
    cfg = OmegaConf.load(teacher / "config.yaml")
    cfg.model = {"_target_": "os.makedirs", "name": str(tmp_path / "mark")}
    OmegaConf.save(cfg, teacher / "config.yaml")
    cfg = OmegaConf.load(student / "config.yaml")
    cfg.teacher, cfg.trusted = str(teacher), ["os"]
    cfg.loss = {"_target_": "losses.DistillationLoss", "teacher": "${facts.teacher}"}
    OmegaConf.save(cfg, student / "config.yaml")

    with pytest.raises(ConfigError, match=r"os\.makedirs: not allowed"):
        start(OmegaConf.load(student / "config.yaml"), student, resumed=True, guarded=True)
    assert not (tmp_path / "mark").exists()


# --- steps


def test_the_gradient_that_is_not_finite_is_named_before_clipping_spreads_it():
    model = Classifier()
    model.head.bias.register_hook(lambda gradient: gradient * torch.nan)
    training = training_of(model, sgd(model.parameters(), lr=0.1), clip_norm=1.0)

    with pytest.raises(DivergedError, match=r"first bad tensor gradient head\.bias"):
        run_epoch(training, examples(), 1)


def test_an_update_that_was_skipped_stops_the_run_at_the_end_of_the_epoch():
    model, split = Classifier(), examples(8)
    split.inputs[:] = torch.inf
    optimizer = SGD(model.parameters(), lr=0.1, fused=True)
    before = model.head.weight.detach().clone()
    training = training_of(model, optimizer)
    check = training.finite_check
    check.masked = True  # as on an accelerator
    check.bad_loss, check.first_bad_step = torch.zeros(()), torch.full((), torch.inf)
    optimizer.grad_scale, optimizer.found_inf = None, torch.zeros(())

    with pytest.raises(DivergedError, match="stopped before step 1"):
        run_epoch(training, split, 1)

    assert training.step == 2 and torch.equal(model.head.weight, before)


def test_an_epoch_after_an_evaluation_trains_with_dropout_again():
    model = Classifier()
    training = training_of(model, sgd(model.parameters(), lr=0.1))
    evaluate(model, CrossEntropyLoss(), examples(), 3)
    assert not model.training

    next(train_epoch(training, examples()))

    assert model.training


def test_blocks_are_computed_in_bf16_also_where_features_end_in_float32(monkeypatch):
    monkeypatch.setattr(wide_output, "WIDE", 1)
    model = Classifier()
    monkeypatch.setattr(Classifier, "features", lambda _, inputs: inputs)
    model.head = nn.Linear(5, 3)
    settings = {"batch_size": 10, "shuffle": False, "precision": "bf16"}
    optimizer = sgd(model.parameters(), lr=0.1)
    training = training_of(model, optimizer, CrossEntropyLoss(), **settings)
    seen, addmm = [], torch.addmm

    def recorded(bias, a, b, **out):
        seen.append({tensor.dtype for tensor in (bias, a, b)})
        return addmm(bias, a, b, **out)

    monkeypatch.setattr(torch, "addmm", recorded)
    split = examples()
    next(train_epoch(training, Split(split.inputs, split.targets)))

    assert seen == [{torch.bfloat16}]
