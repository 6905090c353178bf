"""metrics.report: one call for labels and logits, probabilities or log-probabilities."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.metrics import accuracy_score, log_loss

import metrics
from losses import checks
from metrics.rows import whole_of_rows


@pytest.fixture
def data():
    generator = np.random.default_rng(3)
    logits = 2 * generator.normal(size=(4000, 5))
    uniform = generator.uniform(size=(4000, 1))
    true_probs = np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True)  # T = 2 is right
    labels = (true_probs.cumsum(1) < uniform).sum(1).clip(max=4)
    return labels, logits


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def test_the_figures_are_those_of_scikit_learn(data):
    labels, logits = data

    figures = metrics.report(labels, logits=logits).to_dict()

    probs = softmax(logits)
    assert figures["nll"] == pytest.approx(log_loss(labels, probs), rel=1e-12)
    assert figures["accuracy"] == accuracy_score(labels, probs.argmax(1))
    assert figures["brier"] == pytest.approx(((probs - np.eye(5)[labels]) ** 2).sum(1).mean())


def test_the_three_kinds_and_both_libraries_agree(data):
    labels, logits = data
    probs = softmax(logits)

    want = metrics.report(labels, logits=logits).to_dict()

    for given in (
        metrics.report(labels, probs=probs),
        metrics.report(torch.tensor(labels), log_probs=torch.tensor(np.log(probs))),
        metrics.report(labels.astype(np.float32), logits=torch.tensor(logits, requires_grad=True)),
    ):
        got = given.to_dict()
        assert got.keys() == want.keys()
        assert_allclose([got[k] for k in want], list(want.values()), rtol=1e-9, atol=1e-12)


def test_targets_of_more_axes_are_scored_as_rows(data):
    labels, logits = data
    image_logits = logits.reshape(10, 20, 20, 5).transpose(0, 3, 1, 2)

    got = metrics.report(labels.reshape(10, 20, 20), logits=image_logits).to_dict()

    want = metrics.report(labels, logits=logits).to_dict()
    assert_allclose([got[k] for k in want], list(want.values()), rtol=1e-9)


def test_a_temperature_is_fitted_on_other_rows_and_found(data):
    labels, logits = data

    report = metrics.report(
        labels[:2000], logits=logits[:2000], fit_on=(labels[2000:], logits[2000:])
    )

    figures = report.to_dict()
    assert figures["temperature"] == pytest.approx(2, rel=0.1)
    assert figures["ece_temperature"] < figures["ece"] / 2
    assert figures["accuracy_temperature"] == figures["accuracy"]
    assert len(report.figure().axes) == 4
    lines = str(report).split("\n")
    assert lines[1].startswith("before") and lines[2].startswith(
        f"T = {report.fit.temperature:.3f}"
    )
    assert f"{figures['nll_temperature']:.4f}" in lines[2]
    assert max(map(len, lines)) <= 80


def test_to_dict_holds_plain_numbers(data):
    labels, logits = data

    report = metrics.report(labels[:50], logits=logits[:50])

    assert all(type(value) is float for value in report.to_dict().values())
    assert len(report.figure().axes) == 2


ROWS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.3, -2.0]])


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        ([0, 1], {"logits": ROWS.softmax(1)}, "sum to 1: give probs="),
        ([0, 1], {"log_probs": ROWS.softmax(1)}, "sum to 1: give probs="),
        ([0, 1], {"log_probs": ROWS}, "do not sum to 1: give logits="),
        ([0, 1], {"probs": ROWS}, "do not: give logits="),
        ([0, 1], {"probs": ROWS.log_softmax(1)}, "are logarithms: give log_probs="),
        ([[1, 0, 0], [0, 1, 0]], {"logits": ROWS}, r"use labels.argmax\(1\)"),
        ([[0], [1]], {"logits": ROWS}, r"use labels.reshape\(2,\)"),
        ([0.5, 1], {"logits": ROWS}, "whole numbers"),
        ([0, 3], {"logits": ROWS}, r"classes from 0 to 2, row 1 \(from 0\) has 3"),
        ([0, 1], {"logits": ROWS * torch.nan}, r"must be finite, row 0 \(from 0\) is not"),
        ([0, 1], {"logits": [0.2, 0.8]}, r"must be \(N, C\)"),
        ([0, 1], {"logits": ROWS, "fit_on": ([0], ROWS[:1, :2])}, "fit_on has 2 classes, got 3"),
    ],
)
def test_wrong_input_is_answered_with_the_call_that_is_right(labels, given, message):
    with pytest.raises(ValueError, match=message):
        metrics.report(labels, **given)


def test_probabilities_of_few_decimals_are_probabilities_by_the_rule_of_the_losses(data):
    labels, logits = data
    probs = softmax(logits / 4).round(3)

    got = metrics.report(labels, probs=probs)

    assert got.metrics["ece"] == pytest.approx(
        metrics.report(labels, probs=probs / probs.sum(1, keepdims=True)).metrics["ece"]
    )
    with pytest.raises(ValueError, match="sum to 1: give probs="):
        metrics.report(labels, logits=probs)
    rows = torch.tensor(probs)
    for values in (rows, rows[:40] * 100, rows.round(decimals=1), rows.float(), rows.half(), ROWS):
        whole = whole_of_rows(values, max(1e-4, torch.finfo(values.dtype).eps))
        assert whole == checks.whole_of_rows(values)


@pytest.mark.parametrize("given", [{}, {"logits": ROWS, "probs": ROWS}])
def test_exactly_one_kind_is_given(given):
    with pytest.raises(TypeError, match="give one of logits=, probs= and log_probs="):
        metrics.report([0, 1], **given)


def test_ignored_labels_count_nowhere(data):
    labels, logits = data
    some = labels.copy()
    some[::3] = -100

    got = metrics.report(some, logits=logits).to_dict()

    kept = np.arange(len(labels)) % 3 > 0
    want = metrics.report(labels[kept], logits=logits[kept]).to_dict()
    assert_allclose([got[k] for k in want], list(want.values()), rtol=1e-12)


def test_reversed_arrays_and_unsigned_labels_are_taken(data):
    labels, logits = data

    got = metrics.report(labels[::-1].astype(np.uint16), logits=logits[::-1]).to_dict()

    assert got["nll"] == pytest.approx(metrics.report(labels, logits=logits).metrics["nll"])


def test_a_fit_that_ends_at_a_bound_is_marked():
    logits, labels = 4 * torch.eye(3).repeat(5, 1), torch.arange(15) % 3

    report = metrics.report(labels, logits=logits, fit_on=(labels, logits))

    assert str(report).endswith("\nT = 1 is kept: the fit ended at its lower bound")
    assert report.to_dict()["temperature"] == 1
    assert report.after.metrics == report.metrics
    with pytest.raises(TypeError, match=r"fit_on must be a pair \(labels, logits\), got Tensor"):
        metrics.report(labels, logits=logits, fit_on=logits)


def test_the_tracker_takes_arrays_and_forgets_on_reset(data):
    labels, logits = data
    tracker = metrics.Metrics(5)
    tracker.update(np.log(softmax(logits[:50])), labels[:50])

    tracker.reset()
    tracker.update(np.log(softmax(logits)), labels)

    assert tracker.compute()["count"] == 4000
    assert tracker.compute()["nll"] == pytest.approx(log_loss(labels, softmax(logits)))
