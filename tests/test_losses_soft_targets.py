"""Class probabilities as targets: what each loss makes of them, and which refuses them."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.testing import assert_close

from losses import (
    CrossEntropyLoss,
    FocalLoss,
    GeneralisedCrossEntropyLoss,
    HingeLoss,
    LogitAdjustedLoss,
    LogitsMSELoss,
    LogSoftmaxNLLLoss,
    NLLLoss,
    OneVsRestBCELoss,
    RescaledMSELoss,
    SoftmaxMSELoss,
)

WEIGHT = [1.0, 2.0, 0.0, 0.5]
# those that are linear in the target: their loss is the mean of that of a drawn class
LINEAR = [
    CrossEntropyLoss(reduction="none"),
    CrossEntropyLoss(WEIGHT, label_smoothing=0.1, reduction="none"),
    FocalLoss(reduction="none"),
    FocalLoss(WEIGHT, gamma=0.5, reduction="none"),
    LogitAdjustedLoss([9, 5, 0, 1], reduction="none"),
    GeneralisedCrossEntropyLoss(reduction="none"),
    GeneralisedCrossEntropyLoss(q=1, reduction="none"),
    LogSoftmaxNLLLoss(WEIGHT, reduction="none"),
    OneVsRestBCELoss(reduction="none"),
    RescaledMSELoss(reduction="none"),
]
SQUARED = [SoftmaxMSELoss(reduction="none"), LogitsMSELoss(reduction="none")]
ALL = [*LINEAR, *SQUARED]


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(5)
    return 3 * torch.randn(6, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def probs():
    generator = torch.Generator().manual_seed(6)
    return torch.rand(6, 4, generator=generator, dtype=torch.float64).softmax(1)


@pytest.mark.parametrize("loss_fn", ALL, ids=repr)
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 2)])
def test_one_hot_probabilities_are_class_indices(loss_fn, shape, logits):
    logits = logits.reshape(shape)
    targets = torch.arange(6).reshape(shape[:1] + shape[2:]) % 4
    one_hot = F.one_hot(targets, 4).movedim(-1, 1).double()

    assert_close(loss_fn(logits, one_hot), loss_fn(logits, targets), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("loss_fn", LINEAR, ids=repr)
def test_the_loss_is_the_mean_over_classes_drawn_from_the_targets(loss_fn, logits, probs):
    by_class = [loss_fn(logits, torch.full((6,), k)) for k in range(4)]

    assert_close(loss_fn(logits, probs), (probs * torch.stack(by_class, 1)).sum(1), rtol=1e-10,
                 atol=1e-10)  # fmt: skip


def test_squared_errors_are_the_distance_to_the_targets(logits, probs):
    assert_close(SQUARED[0](logits, probs), (logits.softmax(1) - probs).pow(2).sum(1))
    assert_close(SQUARED[1](logits, probs), (logits - probs).pow(2).sum(1))


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_focal_without_gamma_and_nll_are_torchs_cross_entropy(weight, reduction, logits, probs):
    expected = F.cross_entropy(
        logits, probs, torch.tensor(weight).double() if weight else None, reduction=reduction
    )

    assert_close(FocalLoss(weight, gamma=0, reduction=reduction)(logits, probs), expected)
    assert_close(LogSoftmaxNLLLoss(weight, reduction=reduction)(logits, probs), expected)
    assert_close(NLLLoss(weight, reduction=reduction)(logits.log_softmax(1), probs), expected)


@pytest.mark.parametrize("loss_fn", ALL, ids=repr)
def test_gradients_are_those_of_finite_differences(loss_fn, logits, probs):
    logits.requires_grad_()

    assert gradcheck(lambda z: loss_fn(z, probs), logits)
    assert gradgradcheck(lambda z: loss_fn(z, probs), logits)


@pytest.mark.parametrize("loss_fn", ALL, ids=repr)
def test_extreme_logits_have_finite_losses_and_gradients(loss_fn):
    logits = torch.tensor([[1e4, 0.0, -1e4, 0.0], [80.0, -80.0, 0.0, 0.0]], requires_grad=True)
    probs = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0]])

    loss_fn(logits, probs).sum().backward()

    assert logits.grad.isfinite().all()


def test_probabilities_of_zero_do_not_make_nan_of_impossible_classes():
    log_probs = torch.tensor([[0.0, -torch.inf]])

    assert NLLLoss()(log_probs, torch.tensor([[1.0, 0.0]])).item() == 0


def test_a_hinge_refuses_them_and_says_why(logits, probs):
    with pytest.raises(TypeError, match=r"between one class and the others.*targets\.argmax\(1\)"):
        HingeLoss()(logits, probs)
