"""What a model, data or a loss of one's own can get wrong is one line, before training."""

import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from test_your_own import FILES
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from losses import ClassificationLoss
from training.data import make_splits
from training.errors import ConfigError, DataError
from training.loop import Training
from training.optimizers import Constant, sgd
from training.run.build import try_first_examples
from training.settings import TrainerSettings

INPUTS, TARGETS = torch.randn(20, 6), torch.arange(20) % 3


class Model(nn.Linear):
    def __init__(self):
        super().__init__(6, 3)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, inputs):
        return super().forward(self.norm(inputs))


class Error(ClassificationLoss):
    def elementwise(self, logits, targets):
        return -logits.gather(1, targets[:, None])[:, 0]


def tried(model=None, loss_fn=None, targets=TARGETS):
    model, splits = model or Model(), make_splits((INPUTS, targets))
    settings = TrainerSettings(epochs=1, batch_size=4)
    parts = model, loss_fn or Error(), sgd(model.parameters(), lr=0.1), Constant(), settings
    try_first_examples(Training(*parts, 1), splits)


def model_with(**methods):
    return type("Net", (Model,), methods)()


def with_dropout(self, inputs):
    return Model.forward(self, nn.functional.dropout(inputs, 0.5, self.training))


def test_trying_leaves_weights_statistics_and_random_numbers_alone():
    model = model_with(forward=with_dropout)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()

    tried(model)

    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(torch.get_rng_state(), state)


def in_training(self, inputs):
    logits = Model.forward(self, inputs)
    return (logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_with(forward=in_training), r"must give logits \(8, 3\) .*, got tuple"),
        (model_with(forward=lambda s, x: Model.forward(s, x).detach()), "depend on no parameter"),
        (model_with(forward=lambda s, x: Model.forward(s, x.mul_(2))), "changes its inputs"),
        (model_with(features=lambda s, x: x, head=nn.Linear(6, 3)), r"is not head\(features"),
        (model_with(features=lambda s: 8, head=nn.Linear(6, 3)), "takes 1 positional argument"),
    ],
)  # fmt: skip
def test_a_models_mistake_is_named(model, message):
    inputs = INPUTS.clone()

    with pytest.raises(ConfigError, match=f"model: Net.*{message}"):
        tried(model)

    INPUTS.copy_(inputs)


@pytest.mark.parametrize("features", [["a", "b"], 8, nn.Identity()])
def test_what_is_only_called_features_does_not_matter(features):
    model = Model()
    model.features, model.head = features, nn.Linear(6, 5)

    tried(model)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            {"elementwise": lambda s, z, y: z.detach().numpy()},
            "must return one loss .*, got ndarray",
        ),
        ({"elementwise": ClassificationLoss.elementwise}, "must define elementwise"),
    ],
)
def test_a_losses_mistake_is_named(loss, message):
    with pytest.raises(ConfigError, match=f"loss: Mine.*{message}"):
        tried(loss_fn=type("Mine", (Error,), loss)())


@pytest.mark.parametrize("wrong", [lambda z, t: -t * z, lambda z, t: (-t * z).mean()])
def test_soft_losses_of_a_wrong_shape_are_refused(wrong):
    loss_fn = type("Mine", (Error,), {"soft_elementwise": lambda s, z, t: wrong(z, t)})()

    with pytest.raises(
        TypeError, match=r"must return one loss per target, a tensor of shape \(6,\)"
    ):
        loss_fn(torch.randn(6, 5), torch.rand(6, 5).softmax(1))


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (Items([{"x": 1, "y": 0}]), "train must be a pair .* or a Dataset of such pairs"),
        (Items([(1.0, 0, 2)]), "train must be a pair .* or a Dataset of such pairs"),
        (Items([(object(), 0)]), "train must be a pair .* or a Dataset of such pairs"),
        (Items([]), "train must be a pair .* or a Dataset of such pairs"),
        ((INPUTS, [["a"]] * 20), "train must be a pair"),
        ((INPUTS, TARGETS[1:]), "20 inputs and 19 targets"),
        ((INPUTS[:0], TARGETS[:0]), "at least one, got 0 inputs"),
        ((INPUTS, TARGETS.float()), r"targets of torch.float32, not whole numbers: long\(\)"),
        ((INPUTS, torch.eye(3)[TARGETS]), r"not whole numbers: argmax\(1\)"),
    ],
)
def test_examples_that_are_none_are_named(examples, message):
    with pytest.raises(ValueError, match=message):
        make_splits(examples)


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ((INPUTS[:, :4], TARGETS), r"val split has inputs \(4,\) .*, train has \(6,\)"),
        ((INPUTS.long(), TARGETS), "val split has inputs .*int64, train has .*float32"),
        ((INPUTS, TARGETS * 0 - 100), "val split has no target but -100"),
        ((INPUTS, TARGETS - 1), "val split, row 0 .* has target -1, which is none of 3 classes"),
    ],
)
def test_splits_that_do_not_fit_together_are_refused(val, message):
    splits = make_splits((INPUTS, TARGETS), val=val)

    with pytest.raises(DataError, match=message):
        splits.check(-100)


def test_a_dataset_is_the_tensors_in_it():
    splits = make_splits(TensorDataset(INPUTS, TARGETS))

    assert torch.equal(splits.train.inputs, INPUTS) and torch.equal(splits.train.targets, TARGETS)
    assert splits.class_counts.tolist() == [7, 7, 6] and len(splits.val) == 0


@pytest.mark.slow
def test_a_file_of_ones_own_does_not_hide_the_projects(tmp_path):
    assert "mine/losses.py" in FILES
    for file, text in FILES.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    (tmp_path / "mine" / "__init__.py").touch()
    words = ["mine/points.yaml", "trainer.epochs=1", "trainer.figures=0"]

    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "train.py", *words],
        cwd=tmp_path,
        env={"PYTHONPATH": f".:{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert re.search("│ test +│", done.stdout)
