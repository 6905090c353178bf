"""Value and gradient of every loss: papers, golden numbers, identities."""

import numpy as np
import pytest
import torch
from torch import tensor
from torch.nn import functional as F
from torch.testing import assert_close

from losses import (
    CrossEntropyLoss,
    DistillationLoss,
    FocalLoss,
    GeneralisedCrossEntropyLoss,
    HingeLoss,
    LogitAdjustedLoss,
    LogitsMSELoss,
    LogSoftmaxNLLLoss,
    MultiLabelBCELoss,
    NLLLoss,
    OneVsRestBCELoss,
    RescaledMSELoss,
    SoftmaxMSELoss,
    class_weights,
    info_nce,
    reference,
)

WEIGHT = tensor([0.5, 2.0, 1.0, 0.25, 3.0], dtype=torch.float64)
W = WEIGHT.numpy()
COUNTS = [90, 9, 0, 400, 1]
TEACHER = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def teacher(inputs):
    """Answer rows of inputs with five logits each, any further axes kept."""
    axis = 1 if inputs.ndim > 1 else 0
    return (inputs.double().movedim(axis, -1) @ TEACHER).movedim(-1, axis)


# name: the loss as made with some options, and the same in NumPy
TABLE = {
    "cross_entropy": (CrossEntropyLoss, reference.cross_entropy),
    "smoothed": (
        lambda **o: CrossEntropyLoss(label_smoothing=0.1, **o),
        lambda z, y: reference.cross_entropy(z, y, label_smoothing=0.1),
    ),
    "weighted": (
        lambda **o: CrossEntropyLoss(WEIGHT, **o),
        lambda z, y: reference.cross_entropy(z, y, W),
    ),
    "smoothed_weighted": (
        lambda **o: CrossEntropyLoss(WEIGHT, label_smoothing=0.3, **o),
        lambda z, y: reference.cross_entropy(z, y, W, 0.3),
    ),
    "logit_adjusted": (
        lambda **o: LogitAdjustedLoss(COUNTS, **o),
        lambda z, y: reference.logit_adjusted(z, y, np.array(COUNTS)),
    ),
    "generalised": (GeneralisedCrossEntropyLoss, lambda z, y: reference.generalised(z, y, 0.7)),
    "absolute": (
        lambda **o: GeneralisedCrossEntropyLoss(q=1, **o),
        lambda z, y: reference.generalised(z, y, 1),
    ),
    "nll": (LogSoftmaxNLLLoss, reference.cross_entropy),
    "focal": (FocalLoss, lambda z, y: reference.focal(z, y, 2)),
    "focal_half": (lambda **o: FocalLoss(gamma=0.5, **o), lambda z, y: reference.focal(z, y, 0.5)),
    "focal_weighted": (
        lambda **o: FocalLoss(WEIGHT, gamma=3, **o),
        lambda z, y: reference.focal(z, y, 3, W),
    ),
    "mse": (SoftmaxMSELoss, reference.softmax_mse),
    "mse_logits": (LogitsMSELoss, reference.rescaled_mse),
    "mse_rescaled": (RescaledMSELoss, lambda z, y: reference.rescaled_mse(z, y, 15, 30)),
    "bce": (OneVsRestBCELoss, reference.one_vs_rest),
    "crammer_singer": (HingeLoss, lambda z, y: reference.hinge(z, y, "crammer_singer")),
    "weston_watkins": (
        lambda **o: HingeLoss(variant="weston_watkins", margin=0.7, **o),
        lambda z, y: reference.hinge(z, y, "weston_watkins", 0.7),
    ),
    "hinge_weighted": (
        lambda **o: HingeLoss(WEIGHT, **o),
        lambda z, y: W[y] * reference.hinge(z, y, "crammer_singer"),
    ),
    "distillation": (
        lambda **o: DistillationLoss(teacher, temperature=3, alpha=0.7, **o),
        lambda z, y: reference.distillation(z, y, z @ TEACHER.numpy(), 3, 0.7),
    ),
}
NAMES = list(TABLE)
SQUARED_OUTPUTS = ("mse_logits", "mse_rescaled")


def make(name, **options):
    return TABLE[name][0](**options)


def batch(*shape, seed=0, dtype=torch.float64, scale=2.0):
    """Return logits (N, C, d1..dk) that want a gradient, and targets (N, d1..dk)."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(shape[1], shape[:1] + shape[2:], generator=generator)
    return logits.to(dtype).requires_grad_(), targets


def gradient(loss_fn, logits, *rest):
    """Return (value, gradient) of a loss."""
    logits = logits.detach().clone().requires_grad_()
    value = loss_fn(logits, *rest)
    return value.detach(), torch.autograd.grad(value.sum(), logits)[0]


# Reference, derivative, golden numbers


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_equals_its_paper(name):
    logits, targets = batch(40, 5)
    z, y = logits.detach().numpy(), targets.numpy()
    expected = TABLE[name][1](z, y)

    losses = make(name, reduction="none")(logits, targets, logits.detach())

    assert_close(losses.detach().numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_every_gradient_is_the_derivative_of_its_value(name):
    logits, targets = batch(2, 5, 3, 2, seed=1)
    targets.view(-1)[0] = -100
    inputs = logits.detach().clone()

    assert torch.autograd.gradcheck(lambda z: make(name)(z, targets, inputs), logits)


def test_multi_label_and_info_nce_equal_their_papers():
    logits, _ = batch(8, 8)
    z = logits.detach().numpy()
    targets = (torch.rand(8, 8, generator=torch.Generator().manual_seed(3)) < 0.3).double()
    pos_weight = torch.linspace(0.5, 4, 8, dtype=torch.float64)
    loss_fn = MultiLabelBCELoss(pos_weight=pos_weight, reduction="none")
    expected = reference.binary_cross_entropy(z, targets.numpy(), pos_weight.numpy())

    assert_close(loss_fn(logits, targets).detach().numpy(), expected, rtol=1e-12, atol=1e-14)
    assert info_nce(logits, 0.3).item() == pytest.approx(reference.info_nce(z, 0.3), rel=1e-12)


LOGITS = tensor([[2.0, 1.0, 0.1]] * 3, dtype=torch.float64)
CE = [0.4170300163, 1.4170300163, 2.3170300163]
ADJUSTED = [0.0377290412, 3.3403141342, 6.4375387116]  # z + ln(90, 9, 1) / 100
HALF_ADJUSTED = [0.1240739712, 2.2753665177, 4.2739788063]  # tau = 1/2
GENERALISED = [0.3616749650, 0.8987663241, 1.1464015738]  # q = .7


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [
        (CrossEntropyLoss(reduction="none"), CE),
        (LogSoftmaxNLLLoss(reduction="none"), CE),
        (
            CrossEntropyLoss(label_smoothing=0.1, reduction="none"),
            [0.5136966829, 1.4136966829, 2.2236966829],
        ),
        (LogitAdjustedLoss([90, 9, 1], reduction="none"), ADJUSTED),
        (LogitAdjustedLoss([90, 9, 1], tau=0.5, reduction="none"), HALF_ADJUSTED),
        (GeneralisedCrossEntropyLoss(reduction="none"), GENERALISED),
        (
            GeneralisedCrossEntropyLoss(q=1, reduction="none"),
            [0.3409988611, 0.7575670293, 0.9014341096],
        ),
        (
            GeneralisedCrossEntropyLoss(q=0.01, reduction="none"),
            [0.4161616536, 1.4070374011, 2.2903930016],
        ),
        (SoftmaxMSELoss(reduction="none"), [0.1847692033, 1.0179055397, 1.3056397003]),
        (HingeLoss(reduction="none"), [0, 2.0, 2.9]),
        (HingeLoss(variant="weston_watkins", reduction="none"), [0, 3 * 0.7, 3 * 1.6]),
    ],
)
def test_golden_losses_of_three_logits(loss_fn, expected):
    losses = loss_fn(LOGITS, torch.arange(3))

    assert_close(losses, tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("p", "surprise", "focal"),
    [
        (0.01, 4.6051701860, 4.5135272993),
        (0.1, 2.3025850930, 1.8650939253),
        (0.5, 0.6931471806, 0.1732867951),
        (0.9, 0.1053605157, 0.0010536052),
        (0.99, 0.0100503359, 1.00503359e-6),
    ],
)
def test_golden_losses_of_a_probability(p, surprise, focal):
    logits = tensor([[p, 1 - p]], dtype=torch.float64).log()
    target = tensor([0])

    assert CrossEntropyLoss()(logits, target).item() == pytest.approx(surprise, abs=1e-10)
    assert NLLLoss()(logits, target).item() == pytest.approx(surprise, abs=1e-10)
    assert FocalLoss(gamma=2)(logits, target).item() == pytest.approx(focal, abs=1e-10)


def test_golden_weights_and_weighted_mean():
    weight = class_weights(tensor([90, 9, 1]))
    logits = tensor([[2, 1, 0.1], [0.5, 2.5, 0], [0, 0, 3]], dtype=torch.float64)
    targets = torch.arange(3)

    assert_close(weight.numpy(), np.array([10 / 27, 100 / 27, 100 / 3]), rtol=1e-15, atol=0)
    assert CrossEntropyLoss(weight)(logits, targets).item() == pytest.approx(
        0.1081924462, abs=1e-10
    )
    assert CrossEntropyLoss()(logits, targets).item() == pytest.approx(0.2362290232, abs=1e-10)


@pytest.mark.parametrize(
    ("temperature", "divergence"), [(1, 0.0602951199), (2, 0.0150927839), (4, 0.0036364249)]
)
def test_golden_distillation(temperature, divergence):
    loss_fn = DistillationLoss(temperature=temperature, alpha=1)
    teacher_logits = tensor([[1.5, 1.2, 0.3]], dtype=torch.float64)

    loss = loss_fn(LOGITS[:1], tensor([0]), teacher_logits)

    assert loss.item() == pytest.approx(temperature**2 * divergence, abs=temperature**2 * 1e-10)


@pytest.mark.parametrize(("n", "tau", "expected"), [(4, 0.5, 0.3407529539), (8, 1, 1.2740088362)])
def test_golden_info_nce(n, tau, expected):
    assert info_nce(torch.eye(n).double(), tau).item() == pytest.approx(expected, abs=1e-10)


def test_smoothed_loss_never_falls_below_the_entropy_of_its_targets():
    q = torch.full((10,), 0.01, dtype=torch.float64)
    q[0] += 0.9
    loss_fn = CrossEntropyLoss(label_smoothing=0.1)

    floor = loss_fn(q.log()[None], tensor([0]))

    assert floor.item() == pytest.approx(0.5002880351, abs=1e-10)
    logits, _ = batch(500, 10)
    assert (
        CrossEntropyLoss(label_smoothing=0.1, reduction="none")(logits, tensor([0] * 500)) > floor
    ).all()


@pytest.mark.parametrize("counts", [[90, 9, 1], [5, 0, 100000, 3]])
@pytest.mark.parametrize("scheme", ["balanced", "effective_number"])
def test_class_weights_equal_their_papers(counts, scheme):
    weight = class_weights(tensor(counts), scheme, beta=0.99)

    assert_close(
        weight.numpy(), reference.class_weights(np.array(counts), scheme, 0.99), rtol=1e-12, atol=0
    )


def test_effective_number_goes_from_equal_to_balanced_weights():
    counts = tensor([90, 9, 1])
    balanced = class_weights(counts)

    assert_close(class_weights(counts, "effective_number", beta=0), torch.ones(3).double())
    nearly = class_weights(counts, "effective_number", beta=1 - 1e-9)
    assert_close(nearly, balanced / balanced.mean(), rtol=1e-6, atol=0)


# Identities


@pytest.mark.parametrize(
    "other",
    [
        FocalLoss(gamma=0),
        FocalLoss([1.0] * 5, gamma=0),
        CrossEntropyLoss(label_smoothing=0),
        CrossEntropyLoss([1.0] * 5),
        LogSoftmaxNLLLoss(),
        DistillationLoss(teacher, alpha=0),
        LogitAdjustedLoss(COUNTS, tau=0),
        LogitAdjustedLoss([7] * 5),
        GeneralisedCrossEntropyLoss(q=1e-13),
    ],
    ids=[
        "gamma 0",
        "gamma 0, weights 1",
        "smoothing 0",
        "weights 1",
        "nll",
        "alpha 0",
        "tau 0",
        "equal counts",
        "q near 0",
    ],
)
def test_is_cross_entropy_in_value_and_gradient(other):
    logits, targets = batch(30, 5)
    inputs = logits.detach()

    assert_close(
        gradient(other, logits, targets, inputs),
        gradient(F.cross_entropy, logits, targets),
        rtol=1e-12,
        atol=1e-15,
    )


def test_half_the_absolute_error_of_the_probabilities_is_generalised_with_q_one():
    logits, targets = batch(30, 5)

    expected = (logits.softmax(1) - F.one_hot(targets, 5)).abs().sum(1).mean() / 2

    assert_close(GeneralisedCrossEntropyLoss(q=1)(logits, targets), expected, rtol=1e-12, atol=0)


def test_counts_given_as_shares_adjust_alike_and_no_rows_count_as_one():
    logits, targets = batch(30, 3)
    counted = gradient(LogitAdjustedLoss([90, 9, 1]), logits, targets)

    for counts in (tensor([0.9, 0.09, 0.01]), tensor([90, 9, 0])):
        found = gradient(LogitAdjustedLoss(counts), logits, targets)
        assert_close(found, counted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(30, 5), (4, 5, 3)])
def test_probability_one_hots_are_class_indices(shape, smoothing):
    logits, targets = batch(*shape)
    one_hot = F.one_hot(targets, 5).movedim(-1, 1).double()
    loss_fn = CrossEntropyLoss(label_smoothing=smoothing)

    assert_close(
        gradient(loss_fn, logits, one_hot),
        gradient(loss_fn, logits, targets),
        rtol=1e-12,
        atol=1e-15,
    )


def test_probability_targets_of_another_width_are_those_of_the_logits():
    logits, _ = batch(6, 5, dtype=torch.float32)
    soft = torch.rand(6, 5, generator=torch.Generator().manual_seed(2)).double().softmax(1)

    for width in (torch.float64, torch.float32):
        assert_close(
            CrossEntropyLoss()(logits, soft.to(width)), F.cross_entropy(logits, soft.float())
        )


def test_distilling_oneself_gives_no_gradient():
    logits, targets = batch(9, 5)
    loss_fn = DistillationLoss(lambda x: x, alpha=1)

    value, slope = gradient(loss_fn, logits, targets, logits.detach())

    assert value.abs() < 1e-15
    assert slope.abs().max() < 1e-15


def test_the_teacher_is_neither_trained_nor_part_of_the_loss():
    logits, targets = batch(4, 5, dtype=torch.float32)
    network = torch.nn.Linear(5, 5)
    loss_fn = DistillationLoss(network)

    teacher_logits = torch.randn(4, 5, requires_grad=True)

    loss_fn(logits, targets, torch.randn(4, 5)).backward()
    DistillationLoss()(logits, targets, teacher_logits).backward()

    assert network.weight.grad is None
    assert teacher_logits.grad is None
    assert list(loss_fn.parameters()) == []
    assert loss_fn.state_dict() == {}


def test_one_against_the_rest_is_multi_label_on_one_hots():
    logits, targets = batch(7, 5)
    one_hot = F.one_hot(targets, 5).double()

    expected = 5 * MultiLabelBCELoss()(logits, one_hot)

    assert_close(OneVsRestBCELoss()(logits, targets), expected, rtol=1e-12, atol=0)


def test_squared_output_error_is_rescaled_with_k_and_m_one():
    logits, targets = batch(7, 5)

    assert_close(
        gradient(RescaledMSELoss(k=1, M=1), logits, targets),
        gradient(LogitsMSELoss(), logits, targets),
        rtol=0,
        atol=0,
    )
