"""What chance does to ECE: its floor and interval, against labels and predictions drawn again."""

import math

import numpy as np
import pytest
from test_metrics import sample
from test_metrics_calibration import collect, predictions

from metrics import Metrics


def errors_of(bins, residuals):
    """Return the ECE of each row of bins and of confidence minus correctness, (draws, n)."""
    draws, n = residuals.shape
    cells = bins + 15 * np.arange(draws)[:, None]
    sums = np.bincount(cells.ravel(), residuals.ravel(), 15 * draws)
    return np.abs(sums.reshape(draws, 15)).sum(1) / n


def bins_of(confidence):
    return np.digitize(confidence, np.arange(1, 15) / 15, right=True)


def resampled_null(confidence, draws, seed=1):
    generator = np.random.default_rng(seed)
    labels = generator.random((draws, len(confidence))) < confidence
    return errors_of(np.tile(bins_of(confidence), (draws, 1)), confidence - labels)


@pytest.mark.parametrize("n", [30, 1000, 10_000])
@pytest.mark.parametrize("shape", [(5, 2), (30, 1), (0.5, 0.5)])
def test_the_null_value_is_the_mean_ece_of_labels_drawn_from_the_confidences(n, shape):
    confidence = np.random.default_rng(n).beta(*shape, n)
    errors = resampled_null(confidence, 400)

    found = collect(confidence, confidence > 0.5).compute()["ece_null"]

    noise = errors.std() / math.sqrt(400)
    assert found == pytest.approx(errors.mean(), abs=4 * noise)


@pytest.mark.parametrize("overconfident", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("n", [100, 2000])
def test_the_interval_is_that_of_predictions_drawn_again(n, overconfident):
    confidence, correct = predictions(n, overconfident=overconfident)
    rows = np.random.default_rng(1).integers(0, n, (1000, n))
    errors = errors_of(bins_of(confidence)[rows], (confidence - correct)[rows])
    low, high = np.quantile(errors, [0.025, 0.975])

    found = collect(confidence, correct).compute()

    shift = found["ece"] - np.mean(errors)
    noise = 0.12 * (high - low)  # of the quantiles of 1,000 and of 500 draws
    assert found["ece_low"] == pytest.approx(max(low + shift, 0), abs=noise)
    assert found["ece_high"] == pytest.approx(high + shift, abs=noise)
    assert found["ece_low"] <= found["ece"] <= found["ece_high"]


@pytest.mark.parametrize(("n", "overconfident"), [(300, 0.15), (1000, 0.0)])
def test_the_interval_holds_the_ece_of_other_test_sets_of_this_size(n, overconfident):
    def ece(seed):
        return collect(*predictions(n, overconfident=overconfident, seed=seed)).compute()

    found = [ece(seed) for seed in range(100)]
    mean = np.mean([f["ece"] for f in found])

    covered = np.mean([f["ece_low"] <= mean <= f["ece_high"] for f in found])
    assert covered >= 0.88


def test_one_bin_of_equal_confidences_has_its_null_value_in_closed_form():
    n, p = 40, 0.8
    outcomes = np.arange(n + 1)
    chances = np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in outcomes])

    found = collect(np.full(n, p), np.ones(n, dtype=bool)).compute()["ece_null"]

    assert found == pytest.approx((chances * abs(outcomes - n * p)).sum() / n, rel=1e-12)


def test_chance_is_seeded():
    tracker = Metrics(10)
    tracker.update(*sample(300))
    names = ("ece_low", "ece_high")

    first, again, other = (tracker.compute(seed=seed) for seed in (0, 0, 1))

    assert [first[name] for name in names] == [again[name] for name in names]
    assert all(first[name] != other[name] for name in names)
    assert first["ece"] == other["ece"]


def test_certain_and_right_leaves_nothing_to_chance():
    found = collect(np.ones(50), np.ones(50, dtype=bool)).compute()

    assert found["ece_null"] == found["ece_low"] == found["ece_high"] == found["ece"] == 0
