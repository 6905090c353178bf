"""Muon: its directions, its steps, what it takes of a model, and a run that goes on with it."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import compose
from small_runs import RUN, no_drawing  # noqa: F401
from test_resume import Killed, assert_same_run, stop_after
from torch import nn
from torch.testing import assert_close

from training.cli.resume import resumed_settings
from training.errors import DivergedError
from training.finite_check import FiniteCheck
from training.muon import Muon, orthogonal
from training.run.build import build_parts
from training.run.start import start
from training.run.targets import instantiate, with_facts

ITERATION = 3.4445, -4.7750, 2.0315


def to_one(values):
    """Return what three steps of the iteration make of singular values: it acts on each alone."""
    a, b, c = ITERATION
    for _ in range(3):
        values = a * values + b * values**3 + c * values**5
    return values


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24), (1, 9)])
def test_a_direction_keeps_the_singular_vectors_and_brings_the_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    share = values / values.norm()

    direction = orthogonal(matrix).double()

    # bfloat16 rounds to 2^-9 of a number, here in nine products one after the other
    assert_close(direction, left @ torch.diag(to_one(share)) @ right, rtol=0, atol=0.05)
    found = torch.linalg.svdvals(direction)[share > 0.02]
    assert len(found) >= 0.9 * min(shape)
    assert found.min() > 0.65 and found.max() < 1.25


def by_hand(weight, gradients, lr, momentum):
    """Take Muon's steps in float64, with an SVD in place of the iteration's products."""
    total = np.zeros_like(weight)
    for gradient in gradients:
        total = momentum * total + gradient
        wanted = gradient + momentum * total
        left, values, right = np.linalg.svd(wanted, full_matrices=False)
        direction = left * to_one(values / np.sqrt((values**2).sum())) @ right
        weight = weight * np.sqrt(len(weight)) / np.sqrt((weight**2).sum()) - lr * direction
    return weight


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rows", [4, 40])
def test_steps_are_those_of_a_loop_in_float64(rows, layout):
    generator = torch.Generator().manual_seed(2)
    first, *gradients = torch.randn(4, rows, 3, 2, 2, generator=generator)
    weight = nn.Parameter(first.clone(memory_format=layout))
    others = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3, 2)), nn.Parameter()
    parameters = [others[0], weight, others[1], others[2]]
    optimizer = Muon(parameters, lr=0.1, momentum=0.6)

    for gradient in gradients:
        weight.grad = gradient.clone(memory_format=layout)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())

    flat = [tensor.double().flatten(1).numpy() for tensor in (first, *gradients)]
    expected = torch.from_numpy(by_hand(flat[0], flat[1:], 0.1, 0.6)).view(first.shape)
    assert_close(weight.detach().double(), expected, rtol=0, atol=0.005)  # 5 % of a step
    assert all(torch.equal(p, torch.ones_like(p)) for p in others)


def test_all_but_the_matrices_move_as_by_adamw():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    copy = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    settings = {"betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    optimizer = Muon(model.parameters(), lr=0.1, adamw_lr=0.02, **settings)
    plain = torch.optim.AdamW(copy, lr=0.02, **settings)

    for step in range(3):
        for p, q in zip(model.parameters(), copy, strict=True):
            p.grad = q.grad = torch.linspace(1, -2, p.numel()).view_as(p) * (step + 1)
        optimizer.step()
        plain.step()

    for (name, p), q in zip(model.named_parameters(), copy, strict=True):
        assert torch.allclose(p, q, rtol=1e-6, atol=1e-7) == (name != "1.weight"), name


def taken(task, *overrides):
    """Return the names of what Muon takes of the model that a task's settings describe."""
    cfg = compose("optimizer=muon", *overrides, task=task)
    filled = with_facts(cfg, 7, torch.ones(7, dtype=torch.int64), None)
    model, _, optimizer, _ = build_parts(filled, torch.device("cpu"), instantiate)
    group = {id(p) for p in optimizer.param_groups[0]["params"]}
    return [name for name, p in model.named_parameters() if id(p) in group]


@pytest.mark.parametrize(
    ("task", "settings", "names"),
    [
        ("vision", ["model=linear"], []),
        ("vision", ["model=mlp"], ["body.4.weight"]),
        ("vision", [], ["body.1.0.weight", "body.2.0.weight", "body.3.inner.0.weight"]),
        ("ngram", ["model=ngram_table", "data.context_size=1"], []),
        # before the embedding come the gates; its own weights are those of the output, too
        ("ngram", [], ["input.weight"]),
        ("ngram", ["model.near=null"], ["input.weight"]),
        ("ngram", ["model.near=null", "model.tied=false"], ["input.weight"]),
        (
            "ngram",
            ["model.depth=2", "model.tied=false"],
            ["input.weight", "hidden.0.1.weight", "hidden.0.3.weight"],
        ),
    ],
)
def test_it_takes_the_matrices_between_the_first_and_the_last_and_no_embedding(
    task, settings, names
):
    assert taken(task, *settings) == names


def test_where_it_diverges_both_rates_are_named_and_both_are_lowered(tmp_path):
    cfg = compose(*RUN, "optimizer=muon", "optimizer.adamw_lr=1e30", "trainer.clip_norm=0")

    with pytest.raises(DivergedError) as stopped:
        start(cfg, tmp_path / "run")

    shown = r"learning rate \S+ and \S+e\+29; try optimizer.lr=0.01 optimizer.adamw_lr=1e\+29"
    assert re.search(shown, str(stopped.value))


def test_zeros_stay_zeros_and_what_has_no_gradient_stays():
    parameters = [nn.Parameter(torch.zeros(3, 3)) for _ in range(4)]
    frozen = parameters[2]
    frozen.data += 5
    optimizer = Muon(parameters, lr=0.1)

    for _ in range(2):
        for parameter in parameters:
            parameter.grad = None if parameter is frozen else torch.zeros(3, 3)
        optimizer.step()

    assert torch.equal(frozen, torch.full((3, 3), 5.0))
    assert all(torch.equal(p, torch.zeros(3, 3)) for p in parameters if p is not frozen)


def test_a_gradient_is_checked_before_each_step_on_every_device():
    model = nn.Linear(2, 2)
    training = SimpleNamespace(optimizer=Muon(model.parameters(), lr=0.1))

    assert not FiniteCheck(training, torch.device("cuda")).masked  # `step` would not read a mask


RUNS = {
    "ngram": (*RUN, "model.depth=2", "trainer.epochs=2"),
    "vision": (
        "model.width=4",
        "model.whiten=true",
        "trainer.epochs=2",
        "trainer.save_every=4",
        "report=null",
    ),
}


@pytest.mark.parametrize("task", RUNS)
def test_a_stopped_run_ends_bit_identical(task, tmp_path, monkeypatch):
    cfg = compose("optimizer=muon", *RUNS[task], "trainer.clip_norm=0.5", task=task)
    start(cfg.copy(), tmp_path / "whole", quiet=True)
    stop_after(monkeypatch, 6)
    with pytest.raises(Killed):
        start(cfg.copy(), tmp_path / "run", quiet=True)

    again = resumed_settings(tmp_path / "run", (), task)
    start(again, tmp_path / "run", resumed=True, guarded=True, quiet=True)

    assert_same_run(tmp_path / "run", tmp_path / "whole")
