"""A run on several processes is the run that one makes, and ends as one."""

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, compose, run_epoch
from processes import server
from torch import nn

from losses import CrossEntropyLoss
from metrics import PerExample
from training import distributed, evaluation, wide_output
from training.data import Split
from training.errors import DivergedError
from training.evaluation import evaluate, recalibrate
from training.loop import Training
from training.muon import Muon
from training.optimizers import sgd
from training.parallel import ParallelModel, _batch_norm
from training.run import fit
from training.run.checkpoint import load_checkpoint, step_files
from training.run.examples import read_examples
from training.run.folder import read_metrics, read_status
from training.run.log import RunLog
from training.run.start import start
from training.settings import TrainerSettings


def on(world_size, function, *arguments, patience=distributed.PATIENCE):
    """Return what `function` gives in each of that many processes; an exception is given, too."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pipes = [server.Pipe(duplex=False) for _ in range(world_size)]
    processes = [
        server.Process(
            target=_process, args=(n, world_size, port, patience, pipe, function, arguments)
        )
        for n, (_, pipe) in enumerate(pipes)
    ]
    with patch.dict(os.environ, PYTHONPATH=f"{ROOT / 'tests'}:{ROOT}"):  # the server's
        for process in processes:
            process.start()
    for _, pipe in pipes:
        pipe.close()
    results = []
    for (pipe, _), process in zip(pipes, processes, strict=True):
        try:
            results.append(pipe.recv())
        except EOFError:  # it was killed
            results.append(None)
        process.join(60)
        assert process.exitcode is not None
    return results


def _process(rank, world_size, port, patience, pipe, function, arguments):
    gc.freeze()  # what the server imported need not be looked through when the process ends
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.PATIENCE = patience
    with distributed.joined():
        result = attempt(function, *arguments)
        pipe.send(result)
        if isinstance(result, Exception):
            os._exit(1)


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return error


# --- a training step


def image_model():
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)]
    return nn.Sequential(*layers).double()


def trained(bad_row=None):
    """Train an epoch of 4 steps, the last on one example; targets are ignored and weighted."""
    model = image_model()
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(49, 1, 6, 6, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, 5, (49,), generator=generator)
    targets[:14] = -100  # of the first batch only two count
    if bad_row is not None:
        inputs[bad_row] = torch.nan
    loss_fn = CrossEntropyLoss(weight=[0.1, 5.0, 1.0, 2.0, 0.5]).double()
    optimizer = sgd(model.parameters(), lr=0.1)
    settings = TrainerSettings(epochs=1, batch_size=16, shuffle=False)
    training = Training(model, loss_fn, optimizer, lambda *_: 1.0, settings, 1)
    try:
        loss = run_epoch(training, Split(inputs, targets), 1)
    except DivergedError:
        loss = None
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors |= {f"{name}.grad": p.grad.numpy() for name, p in model.named_parameters()}
    return loss, training.step, training.visited, tensors


@pytest.fixture(scope="module")
def two():
    """What each of two processes computes in all that follows; to start them takes longest."""
    return on(2, computed)


def computed():
    return {
        "trained": trained(),
        "stopped": trained(31),  # the last row of the second batch, which the second process has
        "by blocks": by_blocks(),
        "by Muon": by_muon(),
        "normalised": [normalised(*case) for case in NORMALISED],
        "measured": measured(41),
        "not finite": attempt(measured, 41, 20),  # of the second batch
    }


def assert_steps_of_one(results):
    loss, step, visited, tensors = trained()
    for theirs in results:
        assert theirs[:3] == (pytest.approx(loss, rel=1e-12), step, visited)
        for name, tensor in tensors.items():
            np.testing.assert_allclose(theirs[3][name], tensor, rtol=1e-10, atol=1e-12)


def test_processes_take_the_steps_of_one(two):
    assert_steps_of_one([process["trained"] for process in two])


@pytest.mark.slow
def test_three_processes_take_the_steps_of_one():
    assert_steps_of_one(on(3, trained))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 5)

    def features(self, inputs):
        return self.layer(inputs).tanh()

    def forward(self, inputs):
        return self.head(self.features(inputs))


def by_blocks(wide=1):
    """Train an epoch of 3 steps, the last on one example, with a wide output layer or without."""
    torch.manual_seed(4)
    model = Classifier().double()
    split = Split(torch.randn(33, 6).double(), torch.randint(0, 5, (33,)))
    settings = TrainerSettings(epochs=1, batch_size=16, shuffle=False)
    optimizer = sgd(model.parameters(), lr=0.1)
    training = Training(model, CrossEntropyLoss(), optimizer, lambda *_: 1.0, settings, 1)
    with patch.object(wide_output, "WIDE", wide):
        run_epoch(training, split, 1)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_a_wide_output_layer_takes_the_steps_of_one_process_too(two):
    expected = by_blocks(wide=10**9)
    for process in two:
        for name, tensor in expected.items():
            np.testing.assert_allclose(process["by blocks"][name], tensor, rtol=1e-10, atol=1e-12)


def by_muon():
    """Train an epoch of 3 steps with Muon for the matrix in the middle."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5))
    split = Split(torch.randn(33, 6), torch.randint(0, 5, (33,)))
    settings = TrainerSettings(epochs=1, batch_size=16, shuffle=False)
    optimizer = Muon(model.parameters(), lr=0.1)
    training = Training(model, CrossEntropyLoss(), optimizer, lambda *_: 1.0, settings, 1)
    run_epoch(training, split, 1)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_muon_steps_alike_in_all_processes_and_as_in_one_to_the_bits_of_its_products(two):
    expected = by_muon()
    for name, tensor in expected.items():
        assert np.array_equal(two[0]["by Muon"][name], two[1]["by Muon"][name])
        # a step is .1 in each direction, and bfloat16 holds 2^-9 of it
        np.testing.assert_allclose(two[0]["by Muon"][name], tensor, rtol=0, atol=1e-3)


NORMALISED = [(0.1, 5), (None, 5), (0.1, 1), (None, 1)]  # momentum, number of rows


def normalised(momentum, num_rows):
    """Return batch normalisation's running variance after two batches, and what it refused."""
    torch.manual_seed(1)
    inputs = torch.randn(2, num_rows, 3, dtype=torch.float64)
    norm = nn.BatchNorm1d(3, momentum=momentum).double()
    apply = partial(_batch_norm, norm) if distributed.dist.is_initialized() else norm
    for batch in inputs:
        try:
            apply(batch[slice(*distributed.own_share(0, num_rows))])
        except ValueError as error:
            return str(error)
    return norm.running_var.numpy()


def test_running_statistics_are_those_of_one_process(two):
    for process in two:
        results = dict(zip(NORMALISED, process["normalised"], strict=True))
        for momentum in (0.1, None):
            expected = normalised(momentum, 5)
            np.testing.assert_allclose(results[momentum, 5], expected, rtol=1e-12)
            assert "more than 1 value per channel" in results[momentum, 1]


def test_a_loss_that_is_not_finite_on_one_process_stops_all_before_the_step(two):
    first, second = (process["stopped"] for process in two)

    assert first[:3] == second[:3] == (None, 1, 16)
    for name, tensor in first[3].items():
        if not name.endswith(".grad") and "running" not in name:
            assert np.isfinite(tensor).all(), name
            np.testing.assert_array_equal(tensor, second[3][name])


# --- an evaluation


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 5)

    def features(self, inputs):
        return inputs


def measured(num_rows, bad_row=None):
    """Return the metrics of batches of 16 rows, and those after temperature."""
    torch.manual_seed(3)
    model = Linear()
    inputs, targets = torch.randn(num_rows, 6), torch.randint(0, 5, (num_rows,))
    targets[::7] = -100
    if bad_row is not None:
        inputs[bad_row] = torch.inf
    split, loss_fn = Split(inputs, targets), CrossEntropyLoss(weight=[1.0, 2.0, 3.0, 4.0, 5.0])
    evaluation.FEATURE_ROWS = 16
    with torch.no_grad():
        examples = PerExample(targets)
        metrics = evaluate(model, loss_fn, split, 5, examples=examples).metrics
        fit, after = recalibrate(model, loss_fn, split, split, 5)
        return metrics, after.metrics | {"temperature": fit.temperature}, examples.table.numpy()


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow), 4])
def test_metrics_are_those_of_one_process(world_size, two, monkeypatch):
    monkeypatch.setattr(evaluation, "FEATURE_ROWS", 16)
    num_rows = 41 if world_size < 4 else 37  # 3 batches: of four processes, one has no rows
    one = measured(num_rows)

    if world_size == 2:
        results = [process["measured"] for process in two]
    else:
        results = on(world_size, measured, num_rows)

    assert np.isnan(one[2]).any() and not (one[2] == 0).all(2).any()
    for metrics, temperature, table in results:
        assert np.array_equal(table, one[2], equal_nan=True)
        assert metrics.pop("count") == one[0]["count"]
        assert metrics.pop("accuracy") == one[0]["accuracy"]
        assert metrics == pytest.approx({name: one[0][name] for name in metrics}, rel=1e-12)
        assert temperature.pop("temperature") == one[1]["temperature"]
        assert temperature == pytest.approx({n: one[1][n] for n in temperature}, rel=1e-12)


def test_logits_that_are_not_finite_on_one_process_are_scored_by_none(two):
    assert [type(process["not finite"]) for process in two] == [DivergedError, DivergedError]


# --- a whole run

RUN = [
    *SMALL,
    "data.max_lines=90",
    "trainer.batch_size=64",
    "trainer.log_every=3",
    "report.kneser_ney.max_order=0",
]


def whole_run(folder, cfg, act=None, resume=False):
    """Run; in the second process `act` when step 6 of 16 is reported."""
    if act and distributed.rank() == 1:
        log_window = fit.log_window

        def acting(run, bar):
            if run.training.step == 6:
                act()
            log_window(run, bar)

        fit.log_window = acting
    try:
        # drawing takes longer than all else
        with distributed.lost_process_named(), patch.object(RunLog, "figure", lambda *_: None):
            return start(cfg, folder, resumed=resume).best
    except KeyboardInterrupt as stop:
        return type(stop).__name__


def names(folder):
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(str(file).split("tfevents")[0] for file in files)


def figures(folder):
    return [line for line in read_metrics(folder) if line["split"] != "time"]


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(tmp_path):
    quiet = [f"model.{name}=0" for name in ("dropout", "output_dropout", "input_dropout", "noise")]
    cfg = compose(*RUN, *quiet)

    two = on(2, whole_run, tmp_path / "two", cfg)
    one = whole_run(tmp_path / "one", cfg)

    assert two == [pytest.approx(one, rel=1e-5)] * 2
    assert names(tmp_path / "two") == names(tmp_path / "one")
    assert read_status(tmp_path / "two")["exit_code"] == 0
    for ours, theirs in zip(figures(tmp_path / "one"), figures(tmp_path / "two"), strict=True):
        assert list(theirs) == list(ours)
        for name in {"step", "loss", "nll", "brier", "nll_temperature"} & set(ours):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-5), name
    tables = [read_examples(tmp_path / name) for name in ("one", "two")]
    assert tables[1] == pytest.approx(tables[0], rel=1e-4)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_any_number_goes_on(tmp_path, capsys):
    folder, whole, alone = (tmp_path / name for name in ("stopped", "whole", "alone"))
    cfg = compose(*RUN)
    on(2, whole_run, whole, cfg)

    stopped = on(2, partial(whole_run, act=terminate), folder, cfg)

    assert stopped == ["Interrupted"] * 2
    status = read_status(folder)
    assert (status["status"], status["exit_code"], status["step"]) == ("interrupted", 143, 6)
    assert [path.name for path in step_files(folder)] == ["step-00000006.pt"]
    shutil.copytree(folder, alone)
    on(2, partial(whole_run, resume=True), folder, cfg)
    ours, theirs = (load_checkpoint(step_files(f)[0]) for f in (whole, folder))
    for name, weight in ours["model"].items():  # dropout and noise of both processes went on
        assert weight.equal(theirs["model"][name]), name
    assert figures(folder) == figures(whole)
    whole_run(alone, cfg, resume=True)
    assert "warning: went on cpu, 2 processes, " in capsys.readouterr().out
    assert read_status(alone)["status"] == "complete"


@pytest.mark.parametrize(
    "end",
    [partial(os._exit, 3), pytest.param(partial(time.sleep, 6), marks=pytest.mark.slow)],
    ids=["has died", "hangs"],
)
def test_no_process_waits_for_one_that(end, tmp_path):
    patience = timedelta(seconds=4)

    process = partial(whole_run, act=end)
    first, _ = on(2, process, tmp_path / "run", compose(*RUN), patience=patience)

    assert "another process of the run ended or does not answer" in str(first)
    status = read_status(tmp_path / "run")
    assert (status["status"], status["exit_code"]) == ("failed", 1)


def test_nobody_holds_the_group_when_it_is_destroyed(monkeypatch):
    """A group that outlives `destroy_process_group` aborts the process at its end, now and then."""
    destroy = torch.distributed.destroy_process_group

    def checked():
        held = [o for o in gc.get_objects() if type(o) is nn.parallel.DistributedDataParallel]
        destroy()
        assert not held

    def in_a_cycle():
        model = ParallelModel(nn.Linear(2, 2))
        model.averaged.owner = [model]

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", port)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", checked)

    with distributed.joined():
        in_a_cycle()


@pytest.mark.slow
def test_torchrun_has_one_folder_one_screen_and_one_line_for_a_mistake(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*torchrun, ROOT / "scripts/train_ngram.py", *RUN]

    good = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    bad = subprocess.run([*command, "loss=no"], cwd=tmp_path, capture_output=True, text=True)

    (folder,) = (tmp_path / "outputs").iterdir()
    assert (good.returncode, read_status(folder)["status"]) == (0, "complete")
    assert good.stdout.count("epoch 2/2") == good.stdout.count("run folder:") == 1
    assert (bad.returncode, bad.stderr.count("error: loss=no: no such option")) == (1, 1)


@pytest.mark.slow
def test_a_sweep_goes_through_submitit(command_line, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra: slurm")
    sweep = ["-m", "hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path / 'sweep'}"]

    code, _, _ = command_line(*RUN, *sweep, "seed=1,2")

    assert code == 0
    for seed in (1, 2):
        assert read_status(tmp_path / f"sweep/cross_entropy-seed{seed}")["status"] == "complete"
