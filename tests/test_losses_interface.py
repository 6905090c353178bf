"""What a loss shows of itself, what a loss of one's own has to write, and how weights are kept."""

import inspect
import re

import pytest
import torch
from test_losses import NAMES, batch, gradient, make
from torch import nn, tensor
from torch.nn import functional as F
from torch.testing import assert_close

import losses
from losses import (
    ClassificationLoss,
    CrossEntropyLoss,
    DistillationLoss,
    FocalLoss,
    GeneralisedCrossEntropyLoss,
    HingeLoss,
    LogitsMSELoss,
    MultiLabelBCELoss,
    OneVsRestBCELoss,
    RescaledMSELoss,
)

CLASSES = [c for c in map(losses.__dict__.get, losses.__all__) if inspect.isclass(c)]
every_class = pytest.mark.parametrize("loss_class", CLASSES)


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [
        (
            FocalLoss(gamma=3),
            "FocalLoss(weight=None, gamma=3.0, ignore_index=-100, reduction='mean', link='own', "
            "floor=0.001)",
        ),
        (
            CrossEntropyLoss([1, 2, 4], label_smoothing=0.1),
            "CrossEntropyLoss(weight=Tensor(3,), ignore_index=-100, reduction='mean', "
            "label_smoothing=0.1, link='softmax', floor=0.001)",
        ),
        (
            DistillationLoss(nn.Linear(2, 2), alpha=1),
            "DistillationLoss(temperature=2.0, alpha=1.0, ignore_index=-100, reduction='mean')",
        ),
        (
            losses.LogitAdjustedLoss([90, 9, 1]),
            "LogitAdjustedLoss(class_counts=Tensor(3,), tau=1.0, ignore_index=-100, "
            "reduction='mean', link='softmax')",
        ),
        (
            MultiLabelBCELoss(pos_weight=[1.0, 2.0]),
            "MultiLabelBCELoss(weight=None, reduction='mean', pos_weight=Tensor(2,))",
        ),
    ],
)
def test_repr_shows_the_arguments(loss_fn, expected):
    assert repr(loss_fn) == expected


@every_class
def test_help_explains_every_argument(loss_class):
    arguments = inspect.getdoc(loss_class).split("\nArgs:\n")[1]

    explained = re.findall(r"^    (\w+): \S", arguments, re.MULTILINE)
    assert explained == list(inspect.signature(loss_class).parameters)


@every_class
def test_every_argument_with_a_link_has_own_or_softmax_as_its_default(loss_class):
    link = inspect.signature(loss_class).parameters.get("link")

    assert link is None or link.default in ("own", "softmax")


@pytest.mark.parametrize(
    "make_loss",
    [FocalLoss, LogitsMSELoss, RescaledMSELoss, OneVsRestBCELoss, GeneralisedCrossEntropyLoss],
)
def test_a_loss_whose_minimiser_is_not_softmax_reports_its_own_link(make_loss):
    assert make_loss().link == "own"
    assert CrossEntropyLoss().link == "softmax"


# A loss of one's own


def test_a_loss_of_ones_own_is_one_method():
    class MarginLoss(ClassificationLoss):
        def elementwise(self, logits, targets):
            return logits.amax(1) - logits.gather(1, targets.unsqueeze(1)).squeeze(1)

    loss_fn = MarginLoss([1.0, 3.0])
    logits = tensor([[2.0, 0.5], [1.0, 0.0], [0.0, 5.0]])
    targets = tensor([0, 1, -100])

    assert loss_fn(logits, targets) == 3.0 * 1.0 / 4.0
    assert_close(loss_fn.log_probs(logits), logits.log_softmax(1))
    assert not loss_fn.link_differs
    with pytest.raises(ValueError, match=r"targets must be class indices in \[0, 2\)"):
        loss_fn(logits, tensor([0, 1, 2]))


class SharpLoss(ClassificationLoss):
    """Cross-entropy of logits / 2, whose minimiser is not softmax(logits)."""

    def elementwise(self, logits, targets):
        return F.cross_entropy(logits / 2, targets, reduction="none")

    def own_log_probs(self, logits):
        return (logits / 2).log_softmax(1)


def test_overriding_own_log_probs_gives_a_loss_its_link():
    logits = batch(4, 5)[0].detach()

    assert SharpLoss().link_differs
    assert_close(SharpLoss().log_probs(logits), (logits / 2).log_softmax(1))
    assert_close(SharpLoss(link="softmax").log_probs(logits), logits.log_softmax(1))
    assert_close(SharpLoss(link="softmax").own_log_probs(logits), (logits / 2).log_softmax(1))


@pytest.mark.parametrize("name", NAMES)
def test_a_subclass_with_another_formula_is_computed_by_it(name):
    parent = type(make(name))
    if parent is DistillationLoss:  # its formula needs the inputs, too
        return

    class Halved(parent):
        def elementwise(self, logits, targets):
            return super().elementwise(logits, targets) / 2

    logits, targets = batch(6, 5)
    needed = {"class_counts": [5, 4, 3, 2, 1]} if parent is losses.LogitAdjustedLoss else {}
    value, slope = gradient(parent(**needed), logits, targets)

    assert_close(gradient(Halved(**needed), logits, targets), (value / 2, slope / 2))


def test_a_formula_from_another_base_class_is_the_one_computed():
    class Double:
        def elementwise(self, logits, targets):
            return 2 * FocalLoss.elementwise(self, logits, targets)

    class DoubleFocal(Double, FocalLoss):
        pass

    logits, targets = batch(6, 5)

    assert_close(DoubleFocal()(logits, targets), 2 * FocalLoss()(logits, targets))


# Weights


TENTHS = [0.1, 0.7, 0.3]


@pytest.mark.parametrize(
    "make_loss",
    [
        CrossEntropyLoss,
        lambda weight: CrossEntropyLoss(weight, label_smoothing=0.1),
        losses.LogSoftmaxNLLLoss,
        FocalLoss,
        HingeLoss,
    ],
)
def test_weights_in_a_list_keep_their_digits(make_loss):
    logits, targets = batch(8, 3)
    exact = make_loss(tensor(TENTHS, dtype=torch.float64))

    assert_close(
        gradient(make_loss(TENTHS), logits, targets),
        gradient(exact, logits, targets),
        rtol=0,
        atol=0,
    )
    assert make_loss(TENTHS)(logits.float(), targets).dtype == torch.float32
    assert make_loss(TENTHS)(logits.half(), targets).dtype == torch.float32


def test_weights_of_labels_in_a_list_keep_their_digits():
    logits = batch(8, 3)[0]
    options = {"weight": TENTHS, "pos_weight": [1.1, 2.3, 0.9]}
    targets = torch.rand(8, 3, dtype=torch.float64)

    loss = MultiLabelBCELoss(**options)(logits, targets)

    exact = {key: tensor(value, dtype=torch.float64) for key, value in options.items()}
    assert_close(loss, nn.BCEWithLogitsLoss(**exact)(logits, targets), rtol=1e-14, atol=0)
    single = MultiLabelBCELoss(**options)(logits.float(), targets.float())
    assert single.dtype == torch.float32
    link = MultiLabelBCELoss(**options).log_probs(logits)
    assert_close(link, F.logsigmoid(logits - exact["pos_weight"].log()), rtol=1e-14, atol=0)


# The kernel of plain cross-entropy


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 1.0, 0.25, 3.0]])
def test_sums_of_plain_cross_entropy_are_those_of_torch_to_the_last_digit(weight, dtype):
    logits, targets = batch(50, 5, dtype=dtype)
    targets[::7] = -100
    loss_fn = CrossEntropyLoss(weight)
    wide = logits.float() if dtype in (torch.float16, torch.bfloat16) else logits
    w = None if weight is None else tensor(weight, dtype=wide.dtype)

    for _ in range(2):  # the first batch is checked, the second is not
        found = gradient(lambda z, y: loss_fn.sums(z, y)[0], logits, targets)

        total = F.cross_entropy(wide, targets, w, reduction="sum")
        expected = total.detach(), torch.autograd.grad(total, logits, retain_graph=True)[0]
        assert_close(found, expected, rtol=0, atol=0)
        if dtype == torch.float64 or weight is None:
            mean = F.cross_entropy(wide, targets, w)
            assert_close(loss_fn(logits, targets), mean, rtol=0, atol=0)
