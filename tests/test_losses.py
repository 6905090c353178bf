"""Value and gradient of every loss: papers, golden numbers, identities, extremes, shapes, sums."""

import math

import numpy as np
import pytest
import torch
from torch import tensor
from torch.nn import functional as F
from torch.testing import assert_close

from losses import (
    ClassificationLoss,
    CrossEntropyLoss,
    DistillationLoss,
    FocalLoss,
    HingeLoss,
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


@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 3, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_every_gradient_is_the_derivative_of_its_value(name, shape):
    logits, targets = batch(*shape, seed=1)
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


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [
        (CrossEntropyLoss(reduction="none"), CE),
        (LogSoftmaxNLLLoss(reduction="none"), CE),
        (
            CrossEntropyLoss(label_smoothing=0.1, reduction="none"),
            [0.5136966829, 1.4136966829, 2.2236966829],
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
    ],
    ids=["gamma 0", "gamma 0, weights 1", "smoothing 0", "weights 1", "nll", "alpha 0"],
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

    loss_fn(logits, targets, torch.randn(4, 5)).backward()

    assert network.weight.grad is None
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


# Extremes

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss_fn", [CrossEntropyLoss(), LogSoftmaxNLLLoss(), FocalLoss(gamma=0)])
def test_golden_cross_entropy_at_a_thousand(loss_fn, dtype):
    logits = tensor([[1000, 0, -1000]], dtype=dtype)
    slopes = [[0, 0, 0], [1, -1, 0], [1, 0, -1]]

    for y in range(3):
        value, slope = gradient(loss_fn, logits, tensor([y]))

        assert value.item() == 1000 * y
        assert slope.tolist() == [slopes[y]]
        assert slope.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_give_finite_loss_gradient_and_log_probs(name, dtype):
    height = 1e3 if name in SQUARED_OUTPUTS else 1e4
    rows = [[height, 0, -height, 1, 2], [-height] * 5, [height] * 5, [height, height, 0, 0, 0]]
    logits = tensor(rows, dtype=dtype).repeat_interleave(5, 0)
    targets = torch.arange(5).repeat(4)
    loss_fn = make(name)

    value, slope = gradient(loss_fn, logits, targets, logits)

    assert value.isfinite()
    assert slope.isfinite().all()
    assert slope.dtype == dtype
    for log_probs in (loss_fn.log_probs(logits), loss_fn.own_log_probs(logits)):
        assert log_probs.isfinite().all()
        assert_close(log_probs.exp().sum(1), torch.ones(20, dtype=log_probs.dtype))


@pytest.mark.parametrize("gamma", [0, 1e-3, 0.3, 0.5, 1, 2, 50, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_focal_gradient_is_never_nan(gamma, dtype):
    heights = tensor([0, 1e-6, 1e-3, 1, 10, 17, 30, 88, 104, 1e3, 1e4]).to(dtype)
    logits = torch.stack([heights, -heights, torch.zeros_like(heights)], 1)
    loss_fn = FocalLoss(gamma=gamma, reduction="none")

    for y in range(3):
        value, slope = gradient(loss_fn, logits, torch.full((len(heights),), y))

        assert value.isfinite().all() and (value >= 0).all()
        assert slope.isfinite().all()
        assert_close(slope.sum(1), torch.zeros_like(heights), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["focal", "focal_half", "mse"])
def test_slope_of_a_saturated_row_keeps_its_digits(name):
    logits = tensor([[25.0, 0.0, 1.0, 0.0, -1.0]])  # 1 - p rounds to 0 in float32
    target = tensor([0])

    single = gradient(make(name), logits, target)[1]
    double = gradient(make(name), logits.double(), target)[1]

    assert_close(single.double(), double, rtol=1e-5, atol=0)


# under the others an output of -inf is infinitely wrong
@pytest.mark.parametrize(
    "name",
    ["cross_entropy", "weighted", "nll", "focal", "focal_half", "focal_weighted", "mse", "bce"],
)
def test_a_masked_class_leaves_other_rows_alone(name):
    logits, _ = batch(4, 5)
    masked = logits.detach().clone()
    masked[:, 0] = -math.inf
    targets = tensor([1, 2, -100, 4])

    value, slope = gradient(make(name), masked, targets)

    assert value.isfinite()
    assert slope.isfinite().all()
    assert (slope[:, 0] == 0).all()
    for log_probs in (make(name).log_probs(masked), make(name).own_log_probs(masked)):
        assert_close(log_probs.exp().sum(1), torch.ones(4, dtype=torch.float64))


# Shapes, masks, sums


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 5, 3, 4), (2, 5, 2, 1, 3, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_further_axes_are_rows_in_another_arrangement(name, shape):
    logits, targets = batch(*shape)
    rows = logits.detach().movedim(1, -1).reshape(-1, 5)
    loss_fn = make(name, reduction="none")

    flat_value, flat_slope = gradient(loss_fn, rows, targets.flatten(), rows)
    for arranged in (logits, logits.movedim(1, -1).contiguous().movedim(-1, 1)):
        value, slope = gradient(loss_fn, arranged, targets, logits.detach())

        assert_close(value, flat_value.view(targets.shape), rtol=1e-12, atol=1e-14)
        assert_close(slope.movedim(1, -1).reshape(-1, 5), flat_slope, rtol=1e-12, atol=1e-14)
    flat_log_probs = loss_fn.log_probs(rows)
    log_probs = loss_fn.log_probs(logits.detach()).movedim(1, -1).reshape(-1, 5)
    assert_close(log_probs, flat_log_probs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_one_unbatched_row_is_a_batch_of_one(name, reduction):
    logits, targets = batch(1, 5)
    loss_fn = make(name, reduction=reduction)

    value, slope = gradient(loss_fn, logits[0], targets[0], logits.detach()[0])

    assert value.shape == ()
    expected, expected_slope = gradient(loss_fn, logits, targets, logits.detach())
    assert_close(value, expected.squeeze(), rtol=1e-14, atol=0)
    assert_close(slope, expected_slope[0], rtol=1e-14, atol=0)
    assert_close(loss_fn.own_log_probs(logits[0]), loss_fn.own_log_probs(logits)[0])


@pytest.mark.parametrize("name", NAMES)
def test_sums_add_up_over_any_cut_of_the_batch(name):
    logits, targets = batch(23, 5, seed=4)
    targets[::5] = -100
    loss_fn = make(name)
    inputs = logits.detach()

    total, normaliser = loss_fn.sums(logits, targets, inputs)
    pieces = [
        loss_fn.sums(*piece)
        for cut in ([1] * 23, [23], [7, 0, 16])
        for piece in zip(logits.split(cut), targets.split(cut), inputs.split(cut), strict=True)
    ]

    assert total.shape == normaliser.shape == ()
    for start, stop in ((0, 23), (23, 24), (24, 27)):
        assert_close(sum(p[0] for p in pieces[start:stop]), total, rtol=1e-13, atol=1e-13)
        assert_close(sum(p[1] for p in pieces[start:stop]), normaliser, rtol=1e-13, atol=0)
    assert_close(loss_fn(logits, targets, inputs), total / normaliser, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_ignored_targets_count_for_nothing(name):
    logits, targets = batch(12, 5)
    loss_fn = make(name, ignore_index=2)
    targets[3] = 2
    kept = targets != 2

    value, slope = gradient(loss_fn, logits, targets, logits.detach())
    expected, expected_slope = gradient(loss_fn, logits[kept], targets[kept], logits[kept].detach())

    assert_close(value, expected, rtol=1e-13, atol=0)
    assert_close(slope[kept], expected_slope, rtol=1e-13, atol=1e-16)
    assert (slope[~kept] == 0).all()


@pytest.mark.parametrize("rows", [0, 4])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_counts_is_zero_loss_and_zero_gradient(name, reduction, rows):
    logits, targets = batch(rows, 5)
    loss_fn = make(name, reduction=reduction)

    value, slope = gradient(loss_fn, logits, targets.fill_(-100), logits.detach())

    assert value == 0
    assert (slope == 0).all()
    assert loss_fn.sums(logits, targets, logits.detach())[1] == 0


def test_weights_of_zero_for_all_that_came_are_zero_loss_and_zero_gradient():
    logits, _ = batch(4, 5)

    for loss_fn in (CrossEntropyLoss([1, 0, 1, 1, 1]), FocalLoss([1, 0, 1, 1, 1])):
        value, slope = gradient(loss_fn, logits, tensor([1, 1, 1, 1]))

        assert value == 0
        assert (slope == 0).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
@pytest.mark.parametrize("name", NAMES)
def test_class_indices_of_another_width_are_cast(name, dtype):
    logits, targets = batch(6, 5)
    inputs, targets = logits.detach(), targets % 2

    assert_close(make(name)(logits, targets.to(dtype), inputs), make(name)(logits, targets, inputs))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_computed_in_float32(name, dtype):
    logits, targets = batch(50, 5, dtype=dtype)
    loss_fn = make(name)

    value, slope = gradient(loss_fn, logits, targets, logits.detach())
    expected, wide_slope = gradient(loss_fn, logits.float(), targets, logits.detach().float())

    assert_close(value, expected, rtol=0, atol=0)
    assert_close(slope, wide_slope.to(dtype), rtol=0, atol=0)


# Other people's code


@pytest.mark.parametrize("name", ["cross_entropy", "smoothed", "focal", "mse", "bce"])
def test_compiled_loss_gives_the_same_numbers(name):
    logits, targets = batch(6, 5)
    compiled = torch.compile(make(name), fullgraph=True, backend="aot_eager")

    assert_close(gradient(compiled, logits, targets), gradient(make(name), logits, targets))


@pytest.mark.parametrize("name", NAMES)
def test_autocast_gives_the_same_numbers(name):
    logits, targets = batch(6, 5, dtype=torch.float32)
    inputs = logits.detach()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = gradient(make(name), logits, targets, inputs)

    assert_close(narrow, gradient(make(name), logits, targets, inputs))


@pytest.mark.parametrize("name", ["focal", "mse", "bce", "smoothed"])
def test_a_second_derivative_is_refused_not_wrong(name):
    logits, targets = batch(6, 5)
    (slope,) = torch.autograd.grad(make(name)(logits, targets), logits, create_graph=True)

    with pytest.raises(RuntimeError, match="differentiable once"):
        slope.square().sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):  # asked for by name
        torch.autograd.grad(slope.square().sum(), logits)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.functional.hessian(lambda z: make(name)(z, targets), logits.detach())


def test_what_functional_gradients_give_is_no_part_of_a_graph():
    logits, targets = batch(6, 5)

    slope = torch.func.grad(lambda z: make("focal")(z, targets))(logits.detach())

    assert not slope.requires_grad


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_leaves_out_classes_that_both_or_the_teacher_rule_out(temperature):
    impossible, targets = torch.tensor([[-torch.inf, 1.0, 2.0]]), torch.tensor([2])
    likely, mix = torch.tensor([[0.0, 1.0, 2.0]]), {"temperature": temperature, "alpha": 0.5}

    def divergence(student):
        u = (impossible[0, 1:] / temperature).softmax(0)
        log_v = (student / temperature).log_softmax(1)[0, 1:]
        return temperature**2 * (u * (u.log() - log_v)).sum()

    for student in (likely, impossible):
        hard = F.cross_entropy(student, targets)
        found = DistillationLoss(**mix)(student, targets, impossible)
        assert_close(found, (hard + divergence(student)) / 2, rtol=1e-5, atol=1e-6)

    only_labels = DistillationLoss(alpha=0.0)(impossible, targets, likely)
    assert_close(only_labels, F.cross_entropy(impossible, targets))


def test_one_vs_rest_keeps_the_tail_of_softplus():
    logits, targets = torch.tensor([[23.0, 23.0]], dtype=torch.float64), torch.tensor([0])

    expected = 23 + 2 * math.log1p(math.exp(-23))  # softplus(-23) + softplus(23)

    assert OneVsRestBCELoss()(logits, targets).item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_backward_twice_gives_the_gradient_twice(name):
    logits, targets = batch(6, 5)
    loss = make(name)(logits, targets, logits.detach())

    loss.backward(retain_graph=True)
    once = logits.grad.clone()
    loss.backward()

    assert_close(logits.grad, 2 * once)


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


def test_a_loss_of_ones_own_with_its_own_link_says_that_it_differs():
    class SharpLoss(ClassificationLoss):
        def elementwise(self, logits, targets):
            return F.cross_entropy(logits / 2, targets, reduction="none")

        def log_probs(self, logits):
            return (logits / 2).log_softmax(1)

    loss_fn = SharpLoss()
    logits, _ = batch(4, 5)

    assert loss_fn.link_differs
    assert_close(loss_fn.own_log_probs(logits), (logits / 2).log_softmax(1))
