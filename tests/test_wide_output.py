"""Many classes, computed a block of rows at a time: the same step as in one piece."""

import pytest
import torch
from conftest import compose, run_epoch
from test_training import Classifier, examples, training_of
from torch import nn

import losses
from training import wide_output as module
from training.data import Split, Splits
from training.errors import ConfigError, DivergedError
from training.loop import train_epoch
from training.optimizers import sgd
from training.run.build import try_first_examples

CLASSES = 37
WEIGHT = torch.linspace(0.0, 2.0, CLASSES)
FAMILY = {
    "cross_entropy": losses.CrossEntropyLoss,
    "weighted": lambda: losses.CrossEntropyLoss(WEIGHT, ignore_index=3),
    "label_smoothing": lambda: losses.CrossEntropyLoss(label_smoothing=0.1),
    "nll": losses.LogSoftmaxNLLLoss,
    "focal": lambda: losses.FocalLoss(WEIGHT),
    "mse": losses.SoftmaxMSELoss,
    "mse_logits": losses.LogitsMSELoss,
    "mse_rescaled": losses.RescaledMSELoss,
    "bce": losses.OneVsRestBCELoss,
    "hinge": losses.HingeLoss,
    "logit_adjusted": lambda: losses.LogitAdjustedLoss(torch.arange(CLASSES)),
    "generalised": losses.GeneralisedCrossEntropyLoss,
    "distillation": lambda: losses.DistillationLoss(TEACHER),
}
TEACHER = nn.Linear(5, CLASSES)


NOISE = ("noise", "dropout", "input_dropout", "output_dropout")


def cut_small(monkeypatch, wide):
    """Let 30 rows be several blocks of several pieces each, or never cut."""
    monkeypatch.setattr(module, "WIDE", 1 if wide else 10**12)
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    monkeypatch.setattr(module, "cached_rows", lambda *_: 3)


def gradients(loss_fn, model, inputs, targets, precision="float32"):
    """Return total, normaliser and every gradient of a training step on the whole batch."""
    settings = {"batch_size": len(inputs), "shuffle": False, "precision": precision}
    training = training_of(model, sgd(model.parameters(), lr=1e-30), loss_fn, **settings)
    training.epoch = 1
    update = next(train_epoch(training, Split(inputs, targets)))
    return [update.total, update.normaliser, *(p.grad for p in model.parameters())]


def assert_near(ours, theirs):
    """Float32 numbers that are added up in another order; each tensor by its own size."""
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 2e-6 * b.norm()


@pytest.mark.parametrize("name", FAMILY)
def test_blocks_give_the_value_and_gradient_of_the_whole_batch(name, monkeypatch):
    torch.manual_seed(0)
    model = Classifier(classes=CLASSES)
    inputs, targets = torch.randn(30, 5), torch.randint(CLASSES, (30,))
    loss_fn = FAMILY[name]()

    cut_small(monkeypatch, wide=False)
    whole = gradients(loss_fn, model, inputs, targets)
    cut_small(monkeypatch, wide=True)
    model.forward = None  # not what is called
    blocks = gradients(loss_fn, model, inputs, targets)

    assert_near(blocks, whole)


def test_every_loss_of_the_configs_is_compared():
    from conftest import ROOT

    assert {f.stem for f in (ROOT / "configs" / "loss").glob("*.yaml")} == set(FAMILY)


def test_a_head_without_bias_and_targets_that_are_probabilities_are_cut_too(monkeypatch):
    model = Classifier(classes=CLASSES)
    model.head = nn.Linear(8, CLASSES, bias=False)
    inputs, targets = torch.randn(30, 5), torch.randn(30, CLASSES).softmax(1)

    cut_small(monkeypatch, wide=False)
    whole = gradients(losses.CrossEntropyLoss(), model, inputs, targets)
    cut_small(monkeypatch, wide=True)
    blocks = gradients(losses.CrossEntropyLoss(), model, inputs, targets)

    assert_near(blocks, whole)


def test_bf16_blocks_round_no_more_than_autocast_does(monkeypatch):
    torch.manual_seed(0)
    model = Classifier(classes=CLASSES)
    inputs, targets = torch.randn(30, 5), torch.randint(CLASSES, (30,))
    loss_fn = losses.CrossEntropyLoss()

    cut_small(monkeypatch, wide=False)
    exact = gradients(loss_fn, model, inputs, targets)
    autocast = gradients(loss_fn, model, inputs, targets, "bf16")
    cut_small(monkeypatch, wide=True)
    blocks = gradients(loss_fn, model, inputs, targets, "bf16")

    for ours, theirs, truth in zip(blocks, autocast, exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - truth).norm() <= 1.5 * (theirs - truth).norm() + 1e-6


def test_a_tied_weight_gets_both_of_its_gradients(monkeypatch):
    from training.run.targets import instantiate, with_facts

    cfg = with_facts(
        compose(*(f"model.{name}=0" for name in NOISE)),
        CLASSES,
        torch.ones(CLASSES, dtype=torch.int64),
    )
    model = instantiate(cfg.model)
    assert model.head.weight is model.embedding.weight
    inputs, targets = torch.randint(CLASSES, (30, 12)), torch.randint(CLASSES, (30,))

    cut_small(monkeypatch, wide=False)
    whole = gradients(losses.CrossEntropyLoss(), model, inputs, targets)
    cut_small(monkeypatch, wide=True)
    blocks = gradients(losses.CrossEntropyLoss(), model, inputs, targets)

    assert_near(blocks, whole)


def test_a_loss_with_weights_of_its_own_sees_the_whole_batch(monkeypatch):
    class Tempered(losses.CrossEntropyLoss):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def sums(self, logits, targets, inputs=None):
            return super().sums(logits * self.scale, targets, inputs)

    loss_fn = Tempered()
    cut_small(monkeypatch, wide=True)
    gradients(loss_fn, Classifier(), *examples().batch(slice(None), 1))

    assert loss_fn.scale.grad.abs() > 0


def test_what_is_not_finite_in_a_block_stops_before_the_weights_change(monkeypatch):
    cut_small(monkeypatch, wide=True)
    split = examples(30)
    split.inputs[20] = torch.inf
    model = Classifier()
    before = model.head.weight.detach().clone()
    training = training_of(model, sgd(model.parameters(), lr=0.1), batch_size=30)

    with pytest.raises(DivergedError, match="before step 1: loss nan, first bad tensor inputs"):
        run_epoch(training, split, 1)

    assert torch.equal(model.head.weight, before)


def test_batches_that_are_not_shuffled_know_their_rows():
    seen = []

    def augment(split, indices, epoch):
        seen.append(indices.tolist())
        return split.inputs[indices], split.targets[indices]

    split = examples(10)
    split = Split(split.inputs, split.targets, augment)
    model = Classifier()
    training = training_of(model, sgd(model.parameters(), lr=0.1), shuffle=False)

    run_epoch(training, split, 1)

    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_model_that_cannot_be_compiled_is_refused_before_training(monkeypatch):
    def refuses(_):
        raise RuntimeError("\nno compiler found here\n at all")

    monkeypatch.setattr(torch, "compile", lambda _: refuses)
    split = examples()
    splits = Splits(split, split, split, split, torch.ones(3).long(), ("a", "b", "c"), "points")
    training = training_of(Classifier(), None, compile=True)

    with pytest.raises(ConfigError, match=r"cannot compile the model here \(no compiler found"):
        try_first_examples(training, splits)


@pytest.mark.slow
def test_a_compiled_model_trains_as_one_that_is_not():
    weights = []
    for compile in (False, True):
        torch.manual_seed(0)
        model = Classifier()
        optimizer = sgd(model.parameters(), lr=0.1)
        training = training_of(model, optimizer, epochs=2, compile=compile)
        for epoch in (1, 2):
            run_epoch(training, examples(), epoch)  # its last batch is smaller
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))

    assert torch.allclose(*weights, rtol=1e-5, atol=1e-6)
