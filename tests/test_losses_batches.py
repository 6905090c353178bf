"""Every loss on every batch: extreme logits, further axes, masks, sums, widths of numbers."""

import math
from itertools import product

import pytest
import torch
from test_losses import NAMES, SQUARED_OUTPUTS, batch, gradient, make
from torch import tensor
from torch.nn import functional as F
from torch.testing import assert_close

from losses import (
    CrossEntropyLoss,
    DistillationLoss,
    FocalLoss,
    LogSoftmaxNLLLoss,
    OneVsRestBCELoss,
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


@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_give_finite_loss_gradient_and_log_probs(name):
    height = 1e3 if name in SQUARED_OUTPUTS else 1e4
    rows = [[height, 0, -height, 1, 2], [-height] * 5, [height] * 5, [height, height, 0, 0, 0]]
    targets = torch.arange(5).repeat(4)
    loss_fn = make(name)

    for dtype in DTYPES:
        logits = tensor(rows, dtype=dtype).repeat_interleave(5, 0)
        value, slope = gradient(loss_fn, logits, targets, logits)

        assert value.isfinite()
        assert slope.isfinite().all()
        assert slope.dtype == dtype
        for log_probs in (loss_fn.log_probs(logits), loss_fn.own_log_probs(logits)):
            assert log_probs.isfinite().all()
            assert_close(log_probs.exp().sum(1), torch.ones(20, dtype=log_probs.dtype))


@pytest.mark.parametrize("gamma", [0, 1e-3, 0.3, 0.5, 1, 2, 50, 1e4])
def test_focal_gradient_is_never_nan(gamma):
    loss_fn = FocalLoss(gamma=gamma, reduction="none")

    for y, dtype in product(range(3), (torch.float16, torch.float32, torch.float64)):
        heights = tensor([0, 1e-6, 1e-3, 1, 10, 17, 30, 88, 104, 1e3, 1e4]).to(dtype)
        logits = torch.stack([heights, -heights, torch.zeros_like(heights)], 1)
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
    [
        "cross_entropy",
        "weighted",
        "nll",
        "focal",
        "focal_half",
        "focal_weighted",
        "mse",
        "bce",
        "logit_adjusted",
        "generalised",
    ],
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


@pytest.mark.parametrize("name", NAMES)
def test_further_axes_are_rows_in_another_arrangement(name):
    loss_fn = make(name, reduction="none")

    for shape in ((3, 5, 4), (2, 5, 2, 1, 3, 2)):
        logits, targets = batch(*shape)
        rows = logits.detach().movedim(1, -1).reshape(-1, 5)
        flat_value, flat_slope = gradient(loss_fn, rows, targets.flatten(), rows)
        for arranged in (logits, logits.movedim(1, -1).contiguous().movedim(-1, 1)):
            value, slope = gradient(loss_fn, arranged, targets, logits.detach())

            assert_close(value, flat_value.view(targets.shape), rtol=1e-12, atol=1e-14)
            assert_close(slope.movedim(1, -1).reshape(-1, 5), flat_slope, rtol=1e-12, atol=1e-14)
        flat_log_probs = loss_fn.log_probs(rows)
        log_probs = loss_fn.log_probs(logits.detach()).movedim(1, -1).reshape(-1, 5)
        assert_close(log_probs, flat_log_probs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_one_unbatched_row_is_a_batch_of_one(name):
    logits, targets = batch(1, 5)

    for reduction in ("mean", "sum", "none"):
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


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_counts_is_zero_loss_and_zero_gradient(name):
    for rows, reduction in product((0, 4), ("mean", "sum")):
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


@pytest.mark.parametrize("name", NAMES)
def test_class_indices_of_another_width_are_cast(name):
    logits, targets = batch(6, 5)
    inputs, targets = logits.detach(), targets % 2
    expected = make(name)(logits, targets, inputs)

    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool):
        assert_close(make(name)(logits, targets.to(dtype), inputs), expected)


@pytest.mark.parametrize("name", NAMES)
def test_half_precisions_are_computed_in_float32(name):
    loss_fn = make(name)

    for dtype in (torch.float16, torch.bfloat16):
        logits, targets = batch(50, 5, dtype=dtype)
        value, slope = gradient(loss_fn, logits, targets, logits.detach())
        expected, wide_slope = gradient(loss_fn, logits.float(), targets, logits.detach().float())

        assert_close(value, expected, rtol=0, atol=0)
        assert_close(slope, wide_slope.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_gives_the_same_numbers(name):
    logits, targets = batch(6, 5, dtype=torch.float32)
    inputs = logits.detach()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = gradient(make(name), logits, targets, inputs)

    assert_close(narrow, gradient(make(name), logits, targets, inputs))


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


@pytest.mark.parametrize("num_classes", [2, 3, 64, 65, 1003])
@pytest.mark.parametrize("z", [-30.0, -3.0, 0.0, 3.0, 1e4])
def test_one_vs_rest_keeps_its_digits_over_many_classes(num_classes, z):
    logits, targets = torch.full((2, num_classes), z), torch.tensor([0, num_classes - 1])

    tail = math.log1p(math.exp(-abs(z)))
    expected = max(-z, 0) + tail + (num_classes - 1) * (max(z, 0) + tail)

    losses = OneVsRestBCELoss(reduction="none")(logits, targets)
    assert losses.tolist() == pytest.approx([expected] * 2, rel=1e-6)


def test_one_vs_rest_adds_up_what_is_far_below_rounding_of_one():
    logits, targets = torch.full((1, 1000), -30.0), torch.tensor([0])
    logits[0, 0] = 30.0

    loss = OneVsRestBCELoss()(logits, targets).item()

    assert loss == pytest.approx(1000 * math.log1p(math.exp(-30)), rel=1e-6, abs=0)


@pytest.mark.parametrize("name", NAMES)
def test_backward_twice_gives_the_gradient_twice(name):
    logits, targets = batch(6, 5)
    loss = make(name)(logits, targets, logits.detach())

    loss.backward(retain_graph=True)
    once = logits.grad.clone()
    loss.backward()

    assert_close(logits.grad, 2 * once)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_an_ignored_row_that_is_not_finite_has_gradient_0(name, reduction):
    for shape in ((6, 5), (6, 5, 3), (1200, 5)):
        logits, targets = batch(*shape)
        targets[1:3] = -100
        loss_fn = make(name, reduction=reduction)
        want = gradient(loss_fn, logits, targets, logits.detach())
        bad = logits.detach().clone()
        bad[1], bad[2] = math.nan, math.inf

        value, slope = gradient(loss_fn, bad, targets, logits.detach())

        assert_close(value, want[0], rtol=1e-12, atol=0)
        assert (slope[1:3] == 0).all()
        assert_close(slope, want[1], rtol=1e-12, atol=1e-15)


def test_the_gradient_of_another_loss_of_the_same_logits_is_left_as_it_is():
    logits, targets = batch(4, 5)
    targets[0] = -100

    (CrossEntropyLoss()(logits, targets) + logits.sum()).backward()

    assert (logits.grad[0] == 1).all()
