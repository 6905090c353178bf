"""Calibration error: other libraries where they are right, sums written out where none is.

Beside `test_metrics.py` (what a row adds) this is what the errors mean, and the faults that were
found in libraries, each as a test that this project passes. `test_metrics_chance.py` is what chance
does to the errors.
"""

import math
import tracemalloc

import numpy as np
import pytest
import sklearn.calibration
import torch
from test_metrics import measure, sample

from metrics import (
    Bins,
    Calibration,
    Metrics,
    adaptive_error,
    expected_error,
    group_equal,
    smooth_error,
)


def collect(confidence, correct, **options):
    calibration = Calibration(**options)
    calibration.update(
        torch.as_tensor(confidence, dtype=torch.float64), torch.as_tensor(correct, dtype=torch.bool)
    )
    return calibration


def predictions(n, *, overconfident=0.1, seed=0):
    """Return confidences in (0, 1) and whether each is correct, less often than it says."""
    generator = np.random.default_rng(seed)
    confidence = generator.beta(5, 2, n)
    return confidence, generator.random(n) < np.clip(confidence - overconfident, 0, 1)


def bin_sums(confidence, correct, num_bins=15):
    bins = np.digitize(confidence, np.arange(1, num_bins) / num_bins, right=True)
    return [
        (np.count_nonzero(bins == b), (confidence - correct)[bins == b].sum(), correct[bins == b])
        for b in range(num_bins)
        if (bins == b).any()
    ]


def exact_adaptive_error(confidence, correct, num_bins=15):
    """Return adaptive ECE, written out over the sorted predictions."""
    order = np.argsort(confidence)
    parts = np.array_split((confidence - correct)[order], num_bins)
    return sum(abs(part.sum()) for part in parts) / len(confidence)


@pytest.mark.parametrize("num_bins", [1, 7, 10, 15, 100])
@pytest.mark.parametrize("n", [5, 400, 6000])
def test_binned_errors_are_the_sums_written_out(n, num_bins):
    confidence, correct = predictions(n)
    sums = bin_sums(confidence, correct, num_bins)

    found = collect(confidence, correct, num_bins=num_bins).compute()

    assert found["ece"] == pytest.approx(sum(abs(s) for _, s, _ in sums) / n, abs=1e-12)
    assert found["mce"] == pytest.approx(max(abs(s / m) for m, s, _ in sums), abs=1e-12)
    square = sum(m / n * (s / m) ** 2 for m, s, _ in sums)
    assert found["rmsce"] == pytest.approx(math.sqrt(square), abs=1e-12)
    debiased = sum(
        m / n * ((s / m) ** 2 - c.mean() * (1 - c.mean()) / (m - 1)) for m, s, c in sums if m > 1
    )
    assert found["rmsce_debiased"] == pytest.approx(math.sqrt(max(debiased, 0)), abs=1e-9)
    overconfidence = confidence.mean() - correct.mean()
    assert found["overconfidence"] == pytest.approx(overconfidence, abs=1e-12)


def test_ece_mce_and_adaptive_ece_agree_with_scikit_learn():
    log_probs, targets = sample(3000)
    confidence, predicted = (tensor.numpy() for tensor in log_probs.exp().max(1))
    correct = predicted == targets.numpy()

    found = measure(log_probs, targets)

    def gaps(strategy):
        curve = sklearn.calibration.calibration_curve(
            correct, confidence, n_bins=15, strategy=strategy
        )
        return np.abs(curve[0] - curve[1])

    count, _ = np.histogram(confidence, np.linspace(0, 1, 16))
    ece = (gaps("uniform") * count[count > 0]).sum() / 3000
    assert found["ece"] == pytest.approx(ece, abs=1e-9)
    assert found["mce"] == pytest.approx(gaps("uniform").max(), abs=1e-9)
    equal_mass = gaps("quantile").mean()  # each of its bins has 200 predictions
    assert adaptive_error(group_equal(confidence, correct), 15) == pytest.approx(
        equal_mass, abs=1e-9
    )
    assert found["ace"] == pytest.approx(equal_mass, abs=1e-4)


def test_bins_agree_with_scikit_learn():
    confidence, correct = predictions(5000)
    accuracy, mean = sklearn.calibration.calibration_curve(correct, confidence, n_bins=15)

    bins = collect(confidence, correct).bins()

    filled = bins.count > 0
    np.testing.assert_allclose((bins.correct / np.maximum(bins.count, 1))[filled], accuracy)
    np.testing.assert_allclose((bins.confidence / np.maximum(bins.count, 1))[filled], mean)


@pytest.mark.parametrize("n", [3, 14, 15, 1000, 1234])
def test_adaptive_ece_cuts_the_sorted_predictions_in_equal_parts(n):
    confidence, correct = predictions(n)

    found = adaptive_error(group_equal(confidence, correct), 15)

    assert found == pytest.approx(exact_adaptive_error(confidence, correct), abs=1e-12)


def test_equal_confidences_have_no_order_in_adaptive_ece():
    confidence = np.repeat([0.3, 0.7], [60, 30])  # 10 and 5 of the 15 parts
    correct = np.tile([True, False, False, True, True], 18)  # 60 % of each

    found = [
        collect(confidence[order], correct[order]).compute()["ace"]
        for order in (np.arange(90), np.argsort(correct), np.argsort(~correct))
    ]

    assert found[0] == pytest.approx((60 * 0.3 + 30 * 0.1) / 90, abs=1e-12)
    assert found[1] == pytest.approx(found[0], abs=1e-12)
    assert found[2] == pytest.approx(found[0], abs=1e-12)


@pytest.mark.parametrize("overconfident", [0.0, 0.1])
@pytest.mark.parametrize("n", [3, 14, 15, 1000, 1234, 60_000])
def test_adaptive_ece_from_cells_is_exact_to_within_the_width_of_a_cell(n, overconfident):
    confidence, correct = predictions(n, overconfident=overconfident)
    tracker = collect(confidence, correct)

    found = tracker.compute()["ace"]

    expected = exact_adaptive_error(confidence, correct)
    assert found == pytest.approx(expected, abs=1 / tracker.num_cells)


@pytest.mark.parametrize("num_cells", [20, 60, 300])
def test_adaptive_ece_from_cells_is_off_by_what_a_cut_can_divide(num_cells):
    # where a cut takes j of the k predictions of a cell, j (1 - j/k) <= k/4 may be on either side
    for seed in range(10):
        confidence, correct = predictions(1000, overconfident=0, seed=seed)
        cell = np.ceil(confidence * num_cells).astype(int) - 1
        count, sure, right = (
            np.bincount(cell, weights, num_cells) for weights in (None, confidence, correct)
        )
        ends = np.cumsum([len(part) for part in np.array_split(np.arange(1000), 15)])[:-1]
        divided = np.sort(cell)[ends]  # the cell of the first prediction after each cut

        found = adaptive_error(Bins(count, sure, right.astype(int)), 15)

        bound = 2 * (1 + 1 / num_cells) * count[divided].sum() / 4 / 1000
        assert abs(found - exact_adaptive_error(confidence, correct)) <= bound


def smooth_by_quadrature(confidence, correct, sigma, points=1000, images=2):
    """Return smECE_sigma by adding up a Gaussian and its mirror images for each prediction."""
    t = (np.arange(points) + 0.5) / points
    density = np.zeros(points)
    for image in range(-images, images + 1):
        for sign in (1, -1):
            distance = t[:, None] - (sign * confidence + 2 * image)
            kernel = np.exp(-0.5 * (distance / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
            density += kernel @ (confidence - correct) / len(confidence)
    return np.abs(density).mean()


@pytest.mark.parametrize("overconfident", [0.0, 0.1, 0.4, -0.2])
def test_smooth_ece_is_its_own_bandwidth(overconfident):
    confidence, correct = predictions(400, overconfident=overconfident)

    sigma = collect(confidence, correct).compute()["smooth_ece"]

    assert smooth_by_quadrature(confidence, correct, sigma) == pytest.approx(sigma, abs=1e-5)


def test_smooth_ece_loses_no_mass_at_the_ends():
    # All predictions are as sure as can be and half are wrong: the authors' code shows less.
    sure = collect(np.ones(1000), np.arange(1000) % 2 == 0).compute()["smooth_ece"]
    unsure = collect(np.zeros(1000), np.arange(1000) % 2 == 0).compute()["smooth_ece"]

    assert sure == pytest.approx(0.5, abs=1e-6)
    assert unsure == pytest.approx(0.5, abs=1e-6)


def test_smooth_ece_of_no_residual_is_zero():
    assert smooth_error(np.zeros(4096)) < 2e-7


# --- faults that were found in libraries ---


def test_a_calibrated_stream_of_a_million_has_no_error():
    # torchmetrics adds up in float32 and shows .044 after five million
    metrics = Metrics(2)
    log_probs = torch.tensor([0.8, 0.2]).log().expand(50_000, 2)
    targets = (torch.arange(50_000) % 5 == 0).long()  # class 0 is right four times in five

    for _ in range(20):
        metrics.update(log_probs, targets)

    found = metrics.compute()
    assert found["count"] == 1_000_000
    for name in ("ece", "mce", "rmsce", "ace", "smooth_ece", "classwise_ece"):
        assert found[name] < 1e-6, name
    assert abs(found["overconfidence"]) < 1e-6


def test_certainty_falls_in_the_last_bin():
    # torchmetrics gives confidence 1 a bin of its own: (.05 + 1) / 2
    assert collect([0.95, 1.0], [True, False]).compute()["ece"] == pytest.approx(0.475, abs=1e-12)


def test_zero_and_one_fall_in_real_bins():
    bins = collect([0.0, 1.0], [True, False]).bins()

    assert bins.count.tolist() == [1, *[0] * 13, 1]
    assert expected_error(bins) == 1.0


@pytest.mark.parametrize("num_bins", [10, 15])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(num_bins):
    edges = np.arange(1, num_bins + 1) / num_bins

    through_logs = np.exp(np.log(edges))  # may come back a bit larger than it was
    for confidence in (edges, through_logs):
        bins = collect(confidence, [True] * num_bins, num_bins=num_bins).bins()
        assert bins.count.tolist() == [1] * num_bins


def test_logits_between_zero_and_one_are_not_taken_for_probabilities():
    # torchmetrics applies softmax only if a value lies outside [0, 1]
    logits = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))

    with pytest.raises(ValueError, match="must be log-probabilities: 50 rows"):
        Metrics(4).update(logits, torch.zeros(50, dtype=torch.int64))


def test_nan_is_no_small_error():
    # torch.histc drops NaN and bucketize puts it in the last bin
    log_probs, targets = sample(10)
    log_probs[3, 3] = math.nan

    with pytest.raises(ValueError, match="1 rows hold NaN"):
        Metrics(10).update(log_probs, targets)


def test_an_error_of_bins_is_no_mean_over_batches():
    confidence, correct = predictions(1000, overconfident=0)
    one = collect(confidence, correct).compute()["ece"]

    batches = [
        collect(c, r).compute()["ece"]
        for c, r in zip(np.split(confidence, 100), np.split(correct, 100), strict=True)
    ]

    assert np.mean(batches) > 3 * one


def test_one_class_is_predicted_with_certainty():
    found = measure(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64))

    assert (found["ece"], found["accuracy"], found["perplexity"], found["brier"]) == (0, 1, 1, 0)


def test_memory_does_not_grow_with_the_data():
    calibration = Calibration()
    confidence, correct = torch.full((1000,), 0.6), torch.ones(1000, dtype=torch.bool)

    def update(times):
        for _ in range(times):
            calibration.update(confidence, correct)

    update(2)
    tracemalloc.start()
    update(10)
    few = tracemalloc.get_traced_memory()[0]
    update(1000)
    many = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert many < few + 10_000  # of Python; of tensors:
    tensors = [value for value in vars(calibration).values() if isinstance(value, torch.Tensor)]
    assert sum(t.numel() for t in tensors) == 3 * calibration.num_cells


# --- the tracker by itself ---


def test_the_tracker_alone_gives_the_same_error_as_the_metrics():
    log_probs, targets = sample(800)
    targets[::5] = -100
    tracker = Calibration()

    tracker.update_rows(log_probs[:100], targets[:100])
    tracker.update_rows(
        log_probs[100:].reshape(7, 100, 10).movedim(2, 1), targets[100:].reshape(7, 100)
    )

    expected = measure(log_probs, targets)
    assert expected_error(tracker.bins()) == pytest.approx(expected["ece"], abs=1e-14)
    assert tracker.compute()["ace"] == pytest.approx(expected["ace"], abs=1e-14)


def test_nothing_to_compute_from_is_refused():
    with pytest.raises(ValueError, match="no rows to compute metrics from"):
        collect([], []).compute()
    with pytest.raises(ValueError, match="num_bins must be >= 1, got 0"):
        Calibration(0)
