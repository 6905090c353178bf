"""What a loss answers to bad arguments and bad batches, and that healthy ones raise no alarm."""

import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import tensor

from losses import (
    ClassificationLoss,
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
)

ON_LOGITS = [
    CrossEntropyLoss,
    LogSoftmaxNLLLoss,
    FocalLoss,
    SoftmaxMSELoss,
    LogitsMSELoss,
    RescaledMSELoss,
    OneVsRestBCELoss,
    HingeLoss,
    GeneralisedCrossEntropyLoss,
    lambda **options: LogitAdjustedLoss([5, 4, 3, 2, 1], **options),
    lambda **options: DistillationLoss(lambda x: x, **options),
]
weights = partial(class_weights, tensor([1, 2]))
adjusted = partial(LogitAdjustedLoss, [1, 2])
every_loss = pytest.mark.parametrize("make", ON_LOGITS)


def logits_of(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# Constructor arguments


UNIT, EVERY = "must be in [0, 1), got", "must be finite and >= 0, got"
NUMBER = "must be a number in [0, 1), got"


@pytest.mark.parametrize(
    ("make", "name", "value", "message"),
    [
        (CrossEntropyLoss, "label_smoothing", 2, f"{UNIT} 2"),
        (CrossEntropyLoss, "label_smoothing", 1.0, f"{UNIT} 1.0"),
        (CrossEntropyLoss, "label_smoothing", -0.1, f"{UNIT} -0.1"),
        (CrossEntropyLoss, "label_smoothing", math.nan, f"{UNIT} nan"),
        (CrossEntropyLoss, "label_smoothing", True, f"{NUMBER} True"),
        (CrossEntropyLoss, "label_smoothing", "0.1", f"{NUMBER} '0.1'"),
        (CrossEntropyLoss, "label_smoothing", None, f"{NUMBER} None"),
        (CrossEntropyLoss, "reduction", "average", "must be one of mean, sum, none, got 'average'"),
        (CrossEntropyLoss, "ignore_index", 1.5, "must be an integer, got 1.5"),
        (
            CrossEntropyLoss,
            "link",
            "sigmoid",
            "must be one of own, softmax, got 'sigmoid'",
        ),
        (CrossEntropyLoss, "floor", 1, f"{UNIT} 1"),
        (CrossEntropyLoss, "weight", [1, -1, 1], f"{EVERY} -1.0 for class 1"),
        (CrossEntropyLoss, "weight", [1, 1, math.inf], f"{EVERY} inf for class 2"),
        (CrossEntropyLoss, "weight", tensor([math.nan, 1]), f"{EVERY} nan for class 0"),
        (
            CrossEntropyLoss,
            "weight",
            [0, 0],
            "must be one number per class, (C,), not all 0, got shape (2,)",
        ),
        (CrossEntropyLoss, "weight", tensor(2.0), "must be one number per class, (C,), not all"),
        (CrossEntropyLoss, "weight", "balanced", "must be one number per class, got 'balanced'"),
        (CrossEntropyLoss, "weight", 3, "must be one number per class, (C,), not all 0, got shape"),
        (
            CrossEntropyLoss,
            "weight",
            [3],
            "must be one number per class, (C,), not all 0, got shape",
        ),
        (FocalLoss, "gamma", -1, "must be in [0, inf), got -1"),
        (FocalLoss, "gamma", math.inf, "must be in [0, inf), got inf"),
        (FocalLoss, "weight", [1, -1], f"{EVERY} -1.0 for class 1"),
        (adjusted, "tau", -1, "must be in [0, inf), got -1"),
        (adjusted, "link", "prior", "must be one of own, softmax, got 'prior'"),
        (LogitAdjustedLoss, "class_counts", [1, -1], f"{EVERY} -1.0 for class 1"),
        (LogitAdjustedLoss, "class_counts", [0, 0], "must be one number per class, (C,), not all"),
        (LogitAdjustedLoss, "class_counts", None, "must be one number per class, got None"),
        (GeneralisedCrossEntropyLoss, "q", 0, "must be in (0, 1], got 0"),
        (GeneralisedCrossEntropyLoss, "q", 1.1, "must be in (0, 1], got 1.1"),
        (RescaledMSELoss, "k", 0, "must be in (0, inf), got 0"),
        (RescaledMSELoss, "M", -30, "must be in (0, inf), got -30"),
        (LogitsMSELoss, "floor", -1, f"{UNIT} -1"),
        (OneVsRestBCELoss, "link", "Own", "must be one of own, softmax, got 'Own'"),
        (HingeLoss, "variant", "ww", "must be one of crammer_singer, weston_watkins, got 'ww'"),
        (HingeLoss, "margin", 0, "must be in (0, inf), got 0"),
        (DistillationLoss, "temperature", 0, "must be in (0, inf), got 0"),
        (DistillationLoss, "alpha", 1.1, "must be in [0, 1], got 1.1"),
        (DistillationLoss, "teacher", "run", "must be a callable inputs -> logits, got 'run'"),
        (MultiLabelBCELoss, "pos_weight", [1.0, 0.0], "must be finite and > 0, got 0.0"),
        (MultiLabelBCELoss, "weight", [1.0, -1.0], f"{EVERY} -1.0"),
        (weights, "scheme", "even", "must be one of balanced, effective_number, got 'even'"),
        (weights, "scheme", [1, -2], f"{EVERY} -2.0 for class 1"),
        (weights, "beta", 1, f"{UNIT} 1"),
        (class_weights, "class_counts", tensor([1, -2]), "must be one number >= 0 per class"),
        (partial(info_nce, torch.eye(2)), "tau", 0, "must be in (0, inf), got 0"),
        (info_nce, "similarity", torch.ones(2, 3), "must be a square matrix (N, N)"),
        (info_nce, "similarity", torch.eye(2).long(), "must be floating point, got torch.int64"),
    ],
)
def test_bad_argument_is_refused_by_name(make, name, value, message):
    with pytest.raises((ValueError, TypeError), match="^" + re.escape(f"{name} {message}")):
        make(**{name: value})


def test_numbers_of_numpy_are_numbers():
    loss_fn = FocalLoss(gamma=np.float32(2), ignore_index=np.int64(3))

    assert (loss_fn.gamma, loss_fn.ignore_index) == (2.0, 3)


# Batches, each on a module that has seen none


BATCH, ZEROS = logits_of(4, 5), tensor([0] * 4)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (BATCH, np.zeros(4, int), "targets must be a torch.Tensor, got ndarray"),
        ([[1.0, 2.0]], tensor([0]), "logits must be a torch.Tensor, got list"),
        (BATCH.long(), ZEROS, "logits must be floating point, got torch.int64: use logits.float()"),
        (
            logits_of(4, 1),
            ZEROS,
            "at least 2 classes on axis 1, got shape (4, 1): for one yes-or-no",
        ),
        (logits_of(4, 1), torch.ones(4, 1), "at least 2 classes on axis 1, got shape (4, 1)"),
        (logits_of(4, 0), ZEROS, "at least 2 classes on axis 1, got shape (4, 0)"),
        (logits_of(1)[0], tensor(0), "at least 2 classes on axis 0, got shape ()"),
        (BATCH, torch.zeros(4), "must be integers, got torch.float32: use targets.long()"),
        (
            BATCH,
            ZEROS[:, None],
            "shape (4,) for logits (4, 5), got (4, 1): use targets.reshape((4,))",
        ),
        (BATCH, ZEROS[None], "shape (4,) for logits (4, 5), got (1, 4): use targets.reshape((4,))"),
        (BATCH, ZEROS[:3], "got (3,): one class index for each row of logits"),
        (BATCH, torch.eye(5)[:4].long(), "got (4, 5): use class indices, targets.argmax(1)"),
        (
            logits_of(2, 7, 5),
            torch.zeros(2, 7).long(),
            "axis is 1 as in torch, so use logits.movedim",
        ),
        (logits_of(8), torch.zeros(8).long(), "got (8,): one row of logits takes one target"),
        (BATCH, tensor([0, 1, 5, 2]), "in [0, 5) or ignore_index (-100), got 5 at (2,)"),
        (BATCH, tensor([0, 1, 2, -1]), "in [0, 5) or ignore_index (-100), got -1 at (3,)"),
    ],
)
def test_bad_batch_is_refused_with_the_remedy_by_every_loss(logits, targets, message):
    for make in ON_LOGITS:
        with pytest.raises((ValueError, TypeError), match=re.escape(message)) as caught:
            make()(logits, targets, logits)

        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [3, 10, 100])
@pytest.mark.parametrize(
    ("whole", "decimals"), [(1, 2), (1, 3), (1, 4), (100, 0), (100, 1), (100, 2), (100, None)]
)
def test_probabilities_with_few_decimals_or_in_percent_are_refused(whole, decimals, classes):
    probs = whole * (2 * logits_of(200, classes)).double().softmax(1)
    probs = probs if decimals is None else probs.round(decimals=decimals)
    off = (probs.sum(1) / whole - 1).abs().max()
    unit = 1e-6 if decimals is None else 10.0**-decimals / whole
    if off > min(0.02, classes * unit / 2) + 1e-6:  # more is lost than the rule allows
        assert CrossEntropyLoss()(probs, tensor([0] * 200)).isfinite()
        return

    for dtype in (torch.float64, torch.float32):
        with pytest.raises(ValueError, match=rf"logits must be raw scores.* sum to {whole}"):
            CrossEntropyLoss()(probs.to(dtype), tensor([0] * 200))


def test_whole_numbers_and_other_scores_that_are_not_negative_are_logits():
    generator = torch.Generator().manual_seed(1)

    for scale in (3, 10, 40):
        whole = torch.randint(scale, (64, 10), generator=generator).float()
        assert CrossEntropyLoss()(whole, tensor([0] * 64)).isfinite()
    near = torch.rand(64, 10, generator=generator).softmax(1) * 1.01  # of full precision
    assert CrossEntropyLoss()(near, tensor([0] * 64)).isfinite()


def test_complex_logits_are_answered_in_one_line():
    with pytest.raises(TypeError, match=r"got torch\.complex64: use real numbers"):
        CrossEntropyLoss()(BATCH.to(torch.complex64), ZEROS)


@every_loss
def test_class_index_out_of_range_is_refused_on_later_batches_too(make):
    loss_fn = make(ignore_index=3)
    logits, good = logits_of(4, 5), tensor([0, 1, 2, 3])
    loss_fn(logits, good, logits)

    for index in (-1, 5, -100, 10**12):
        message = rf"targets must be class indices in .* got {index} at"
        with pytest.raises(ValueError, match=message):
            loss_fn(logits, tensor([0, 1, 3, index]), logits)


@every_loss
def test_softmax_applied_already_is_refused(make):
    if make is LogitsMSELoss:  # which aims at probabilities
        assert make()(torch.eye(3), torch.arange(3)) == 0
        return
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        probs = logits_of(6, 9).to(dtype).softmax(1)
        with pytest.raises(ValueError, match=r"logits must be raw scores.*take the softmax out"):
            make()(probs, tensor([0] * 6), logits_of(6, 9))
    probs = logits_of(2, 9, 4).softmax(1)
    with pytest.raises(ValueError, match="softmax was already applied"):
        make()(probs, torch.zeros(2, 4).long(), logits_of(2, 9, 4))


def test_negative_log_likelihood_refuses_what_is_no_log_probability():
    targets = tensor([0] * 6)

    with pytest.raises(ValueError, match=r"must be normalised, .* such as that of probabilities"):
        NLLLoss()(logits_of(6, 9).softmax(1), targets)
    with pytest.raises(ValueError, match=r"normalised, .* or of raw logits: use log_softmax"):
        NLLLoss()(logits_of(6, 9), targets)
    with pytest.raises(ValueError, match="or of raw logits"):
        NLLLoss()(logits_of(6, 9) - 10, targets)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        log_probs = (30 * logits_of(6, 900)).to(dtype).log_softmax(1)
        assert NLLLoss()(log_probs, targets).isfinite()


@pytest.mark.parametrize("make", [CrossEntropyLoss, lambda: DistillationLoss(lambda x: x)])
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.full((4, 5), 0.6), r"sum to 1 over the class axis \(1\), got .* least sum of 3"),
        (torch.zeros(4, 5), r"sum to 1 over the class axis \(1\), got .* a least sum of 0"),
        (tensor([[1.5, -0.5, 0, 0, 0]] * 4), ".* a least entry of -0.5"),
        (torch.full((4, 5), math.nan), ".* a least entry of nan"),
    ],
)
def test_targets_that_are_no_probabilities_are_refused(make, targets, message):
    with pytest.raises(
        ValueError, match="targets given as class probabilities must be >= 0 and " + message
    ):
        make()(logits_of(4, 5), targets, logits_of(4, 5))


def test_logits_squeezed_to_the_batch_with_labels_as_floats_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        CrossEntropyLoss()(logits_of(8), tensor([0.0, 1, 1, 0, 1, 0, 0, 1]))


def test_probability_targets_with_the_class_axis_last_are_refused():
    targets = logits_of(2, 7, 5).softmax(-1)

    with pytest.raises(ValueError, match="move the class axis"):
        CrossEntropyLoss()(logits_of(2, 7, 5), targets)


def test_ignored_indices_and_probability_targets_exclude_each_other():
    with pytest.raises(
        ValueError, match="ignore_index must be < 0 with class probabilities, got 1"
    ):
        CrossEntropyLoss(ignore_index=1)(logits_of(4, 5), logits_of(4, 5).softmax(1))


class Errors(ClassificationLoss):
    answer = staticmethod(lambda logits, targets: (logits.argmax(1) != targets).float())

    def elementwise(self, logits, targets):
        return self.answer(logits, targets)


def test_probability_targets_are_refused_by_a_loss_that_says_nothing_of_them():
    with pytest.raises(TypeError, match=r"Errors takes class indices.*use targets.argmax\(1\)"):
        Errors()(logits_of(4, 5), logits_of(4, 5).softmax(1))


@pytest.mark.parametrize(
    ("answer", "got"),
    [(lambda z, y: None, "None"), (lambda z, y: z.mean(), r"\(\)"), (lambda z, y: z, r"\(4, 5\)")],
)
def test_a_loss_that_returns_something_else_is_named(answer, got):
    loss_fn = Errors()
    loss_fn.answer = answer

    with pytest.raises(TypeError, match=rf"Errors.elementwise must .* shape \(4,\), got {got}"):
        loss_fn(logits_of(4, 5), torch.arange(4))


@pytest.mark.parametrize("make", [CrossEntropyLoss, LogSoftmaxNLLLoss, FocalLoss, HingeLoss])
def test_weights_of_the_wrong_length_name_both_lengths(make):
    with pytest.raises(ValueError, match="weight must be one number per class, 5, got 4"):
        make([1.0] * 4)(logits_of(4, 5), tensor([0] * 4))
    with pytest.raises(ValueError, match="weight must be one number per class, 5, got 6"):
        make([1.0] * 6)(logits_of(4, 5), tensor([0] * 4))


@pytest.mark.parametrize("shape", [(4, 5), (5,)])
def test_counts_of_the_wrong_length_name_both_lengths(shape):
    logits, targets = logits_of(*shape), torch.zeros(shape[:-1]).long()
    loss_fn = LogitAdjustedLoss([1, 2, 3])

    for use in (lambda: loss_fn(logits, targets), lambda: loss_fn.own_log_probs(logits)):
        with pytest.raises(ValueError, match="class_counts must be one number per class, 5, got 3"):
            use()


def test_multi_label_targets_are_checked():
    logits = logits_of(4, 5)

    assert MultiLabelBCELoss()(logits, torch.eye(5)[:4].long()).isfinite()  # integers are cast
    with pytest.raises(ValueError, match=r"targets of labels must lie in \[0, 1\], got 5.0"):
        MultiLabelBCELoss()(logits, 5 * torch.eye(5)[:4])
    with pytest.raises(ValueError, match=r"shape of logits, \(4, 5\).*use OneVsRestBCELoss"):
        MultiLabelBCELoss()(logits, tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="logits must be raw scores"):
        MultiLabelBCELoss()(logits.softmax(1), torch.eye(5)[:4])
    with pytest.raises(ValueError, match="pos_weight must be one number per label, 5, got 4"):
        MultiLabelBCELoss(pos_weight=[1.0] * 4)(logits, torch.eye(5)[:4])


def test_distillation_says_what_it_misses():
    logits, targets = logits_of(4, 5), tensor([0] * 4)

    with pytest.raises(
        ValueError, match=r"inputs must be given.*loss_fn\(logits, targets, inputs\)"
    ):
        DistillationLoss(lambda x: x)(logits, targets)
    with pytest.raises(ValueError, match=r"teacher's logits must be \(4, 5\), got \(4, 3\)"):
        DistillationLoss(lambda x: x[:, :3])(logits, targets, logits)
    with pytest.raises(ValueError, match="teacher's logits must be raw scores"):
        DistillationLoss()(logits, targets, logits.softmax(1))


def test_costly_checks_are_made_on_the_first_batch_and_when_asked():
    loss_fn = CrossEntropyLoss()
    logits, targets = logits_of(4, 5), tensor([0] * 4)
    loss_fn(logits, targets)

    assert loss_fn(logits.softmax(1), targets).isfinite()
    with pytest.raises(ValueError, match="softmax was already applied"):
        loss_fn.check(logits.softmax(1), targets)


def test_a_module_that_refused_its_first_batch_refuses_the_second():
    loss_fn = CrossEntropyLoss()

    for _ in range(2):
        with pytest.raises(ValueError, match="softmax was already applied"):
            loss_fn(logits_of(4, 5).softmax(1), tensor([0] * 4))


# No false alarm


@every_loss
def test_healthy_batches_raise_no_alarm(make):
    generator = torch.Generator().manual_seed(0)
    loss_fn = make()
    draws = [torch.randn, torch.rand, lambda *a, **k: torch.randn(*a, **k).log_softmax(1)]

    for i in range(300):
        rows, classes = torch.randint(2, 12, (2,), generator=generator).tolist()
        logits = 10 ** (i % 5 - 2) * draws[i % 3](rows, classes, generator=generator)
        targets = torch.randint(classes, (rows,), generator=generator)
        targets[i % rows] = -100
        loss_fn.check(logits, targets)


def test_healthy_log_probabilities_soft_targets_and_labels_raise_no_alarm():
    generator = torch.Generator().manual_seed(0)

    for i in range(300):
        rows, classes = torch.randint(2, 12, (2,), generator=generator).tolist()
        dtype = (torch.float32, torch.float64, torch.bfloat16, torch.float16)[i % 4]
        logits = (10 ** (i % 5 - 2) * torch.randn(rows, classes, generator=generator)).to(dtype)
        NLLLoss().check(logits.log_softmax(1), torch.zeros(rows, dtype=torch.long))
        CrossEntropyLoss().check(logits, logits.softmax(1))
        MultiLabelBCELoss().check(logits, logits.sigmoid())
