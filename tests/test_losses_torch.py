"""Our modules in torch's place: the same numbers and gradients for every combination of options."""

from itertools import product

import pytest
import torch
from torch.testing import assert_close

import losses

SHAPES = [(6, 5), (5,), (3, 5, 2, 3), (0, 5)]  # rows, one row, further axes, nothing
REDUCTIONS = ["mean", "sum", "none"]
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0], dtype=torch.float64)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def combinations(**options):
    """Return every combination of these options, as keyword arguments."""
    return [dict(zip(options, values, strict=True)) for values in product(*options.values())]


def batch(shape, seed=0):
    """Return logits (N, C, d1..dk) or (C,), and class indices."""
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    axis = 1 if len(shape) > 1 else 0
    indices = torch.randint(5, shape[:axis] + shape[axis + 1 :], generator=generator)
    return logits, indices


def soft_targets(shape):
    """Return probabilities of the classes that themselves want a gradient."""
    probs = batch(shape, seed=1)[0].softmax(1 if len(shape) > 1 else 0)
    return probs.requires_grad_()


def value_and_gradients(module, logits, targets):
    """Return the value and the gradient with respect to logits and, where it has one, targets."""
    logits = logits.detach().clone().requires_grad_()
    wanted = [logits]
    if targets.requires_grad:
        targets = targets.detach().clone().requires_grad_()
        wanted.append(targets)
    value = module(logits, targets)
    outer = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view(value.shape)
    return value.detach(), *torch.autograd.grad((value * outer).sum(), wanted)


def assert_same(ours, theirs, logits, targets, factor=1):
    """Assert that two modules have the same value and gradients, but for a factor."""
    found, expected = (value_and_gradients(m, logits, targets) for m in (ours, theirs))
    if expected[0].isnan().any():  # torch's mean over nothing, which is 0 here
        assert not logits.numel()
        expected = tuple(torch.zeros_like(part) for part in expected)
    expected = tuple(factor * part for part in expected)
    assert_close(found, expected, rtol=1e-12, atol=1e-14)


@every_reduction
@every_shape
def test_cross_entropy_drops_in_for_torch(shape, reduction):
    logits, indices = batch(shape)
    options = combinations(weight=[None, WEIGHT], label_smoothing=[0.0, 0.1, 0.9])

    for some in options:
        some = some | {"reduction": reduction}
        for targets, ignored in (
            (soft_targets(shape), {}),
            (indices, {}),
            (indices, {"ignore_index": 3}),
        ):
            ours = losses.CrossEntropyLoss(**some, **ignored)
            theirs = torch.nn.CrossEntropyLoss(**some, **ignored)
            assert_same(ours, theirs, logits, targets)


@every_reduction
@every_shape
def test_losses_on_their_way_to_cross_entropy_drop_in_for_torch(shape, reduction):
    logits, indices = batch(shape)
    log_probs = logits.log_softmax(1 if len(shape) > 1 else 0)

    for some in combinations(weight=[None, WEIGHT], ignore_index=[-100, 3]):
        some = some | {"reduction": reduction}
        assert_same(losses.NLLLoss(**some), torch.nn.NLLLoss(**some), log_probs, indices)
        theirs = torch.nn.CrossEntropyLoss(**some)
        assert_same(losses.LogSoftmaxNLLLoss(**some), theirs, logits, indices)
        assert_same(losses.FocalLoss(gamma=0, **some), theirs, logits, indices)


@every_reduction
@every_shape
def test_multi_label_drops_in_for_torch(shape, reduction):
    logits, targets = batch(shape)[0], soft_targets(shape)
    last = torch.linspace(1, 9, shape[-1], dtype=torch.float64)  # of the last axis
    each = targets.detach() + 0.5  # a weight of every element

    per_label = torch.linspace(2, 7, shape[min(1, len(shape) - 1)], dtype=torch.float64)

    for some in combinations(weight=[None, last, each], pos_weight=[None, per_label]):
        some = some | {"reduction": reduction}
        ours = losses.MultiLabelBCELoss(**some)
        if some["pos_weight"] is not None:  # torch would put it on the last axis
            some["pos_weight"] = per_label.view(-1, *[1] * (len(shape) - 2))
        assert_same(ours, torch.nn.BCEWithLogitsLoss(**some), logits, targets)
        assert_same(
            losses.MultiLabelBCELoss(**some), torch.nn.BCEWithLogitsLoss(**some), logits, targets
        )


@every_reduction
def test_weston_watkins_is_classes_times_multi_margin(reduction):
    logits, targets = batch((6, 5))

    for some in combinations(weight=[None, WEIGHT], margin=[1.0, 0.3]):
        # torch's mean does not divide by the weights
        given = "sum" if some["weight"] is not None and reduction == "mean" else reduction
        some = some | {"reduction": given}
        ours = losses.HingeLoss(variant="weston_watkins", **some)
        assert_same(ours, torch.nn.MultiMarginLoss(**some), logits, targets, factor=5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_half_precision_probability_targets_are_taken_as_torch_takes_wide_ones(smoothing):
    logits, targets = batch((6, 5))[0].bfloat16(), soft_targets((6, 5)).detach().bfloat16()

    loss = losses.CrossEntropyLoss(label_smoothing=smoothing)(logits, targets)

    module = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    assert_close(loss, module(logits.float(), targets.float()))


def test_second_derivative_of_plain_cross_entropy_is_that_of_torch():
    logits, targets = batch((4, 5))[0], torch.tensor([0, 1, 2, -100])

    def hessian(module):
        return torch.autograd.functional.hessian(lambda z: module(z, targets), logits)

    assert_close(hessian(losses.CrossEntropyLoss()), hessian(torch.nn.CrossEntropyLoss()))
