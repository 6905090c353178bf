"""Calibration error: other libraries where they are right, sums written out where none is.

Beside `test_metrics.py` (what a row adds) this is what the errors mean, what chance does to them,
and the faults that were found in libraries, each as a test that this project passes.
"""

import math
import tracemalloc

import netcal.metrics
import numpy as np
import pytest
import scipy.stats
import sklearn.calibration
import torch
import torchmetrics.functional.classification as torchmetrics
from test_metrics import measure, sample

from metrics.calibration import Calibration
from metrics.calibration_error import expected_error, smooth_error
from metrics.tracker import Metrics


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


def test_ece_mce_and_adaptive_ece_agree_with_netcal():
    log_probs, targets = sample(3000)
    probs, labels = log_probs.exp().numpy(), targets.numpy()

    found = measure(log_probs, targets)

    equal_mass = netcal.metrics.ECE(15, equal_intervals=False)
    assert found["ece"] == pytest.approx(netcal.metrics.ECE(15).measure(probs, labels), abs=1e-9)
    assert found["mce"] == pytest.approx(netcal.metrics.MCE(15).measure(probs, labels), abs=1e-9)
    assert found["ace"] == pytest.approx(equal_mass.measure(probs, labels), abs=1e-9)


@pytest.mark.parametrize(("norm", "name"), [("l1", "ece"), ("l2", "rmsce"), ("max", "mce")])
def test_errors_agree_with_torchmetrics_to_its_float32(norm, name):
    log_probs, targets = sample(3000)

    theirs = torchmetrics.multiclass_calibration_error(
        log_probs.exp(), targets, 10, n_bins=15, norm=norm
    )

    assert measure(log_probs, targets)[name] == pytest.approx(theirs.item(), abs=3e-7)


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
    order = np.argsort(confidence)
    parts = np.array_split((confidence - correct)[order], 15)

    found = collect(confidence, correct).compute()["ace"]

    assert found == pytest.approx(sum(abs(part.sum()) for part in parts) / n, abs=1e-12)


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


def test_beyond_its_limit_adaptive_ece_is_close_and_all_else_exact():
    confidence, correct = predictions(3000)
    exact = collect(confidence, correct).compute()

    for cuts in ([3000], [2999, 1], [10] * 300):
        small = Calibration(limit=2999)
        for part in torch.arange(3000).split(cuts):
            small.update(torch.tensor(confidence)[part], torch.tensor(correct)[part])
        found = small.compute()
        assert found["ace"] != exact["ace"]
        assert found["ace"] == pytest.approx(exact["ace"], abs=2e-4)
        for name in exact.keys() - {"ace"}:
            assert found[name] == pytest.approx(exact[name], abs=1e-12), name


def test_the_limit_counts_the_predictions_of_all_parts():
    confidence, correct = predictions(3000)
    exact = collect(confidence, correct).compute()["ace"]

    def merged(limit):
        first = collect(confidence[:1000], correct[:1000], limit=limit)
        first.merge(collect(confidence[1000:], correct[1000:], limit=limit))
        return first.compute()["ace"]

    assert merged(3000) == pytest.approx(exact, abs=1e-12)
    assert merged(2999) != exact
    first = collect(confidence[:10], correct[:10], limit=2900)
    first.merge(collect(confidence[10:], correct[10:], limit=2900))  # whose own limit is passed
    assert first.compute()["ace"] == pytest.approx(exact, abs=2e-4)


def smooth_by_quadrature(confidence, correct, sigma, points=4000, images=2):
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


def test_a_calibrated_stream_of_five_million_has_no_error():
    # torchmetrics adds up in float32 and shows .044
    metrics = Metrics(2)
    log_probs = torch.tensor([0.8, 0.2]).log().expand(50_000, 2)
    targets = (torch.arange(50_000) % 5 == 0).long()  # class 0 is right four times in five

    for _ in range(100):
        metrics.update(log_probs, targets)

    found = metrics.compute()
    assert found["count"] == 5_000_000
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
    calibration = Calibration(limit=1000)
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
    assert sum(t.numel() for t in tensors) == 2 * 1000 + 3 * calibration.num_cells


# --- what chance does ---


def resampled_null(confidence, draws, seed=1):
    generator = np.random.default_rng(seed)
    errors = []
    for _ in range(draws):
        labels = generator.random(len(confidence)) < confidence
        errors.append(sum(abs(s) for _, s, _ in bin_sums(confidence, labels)) / len(confidence))
    return np.array(errors)


@pytest.mark.parametrize("n", [30, 100, 1000, 10_000])
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
    generator = np.random.default_rng(1)
    errors = []
    for _ in range(1000):
        rows = generator.integers(0, n, n)
        errors.append(sum(abs(s) for _, s, _ in bin_sums(confidence[rows], correct[rows])) / n)
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
    chances = scipy.stats.binom.pmf(outcomes, n, p)

    found = collect(np.full(n, p), np.ones(n, dtype=bool)).compute()["ece_null"]

    assert found == pytest.approx((chances * abs(outcomes - n * p)).sum() / n, rel=1e-12)


def test_chance_is_seeded():
    log_probs, targets = sample(300)
    names = ("ece_low", "ece_high")

    first, again, other = (measure(log_probs, targets, seed=seed) for seed in (0, 0, 1))

    assert [first[name] for name in names] == [again[name] for name in names]
    assert all(first[name] != other[name] for name in names)
    assert first["ece"] == other["ece"]


def test_certain_and_right_leaves_nothing_to_chance():
    found = collect(np.ones(50), np.ones(50, dtype=bool)).compute()

    assert found["ece_null"] == found["ece_low"] == found["ece_high"] == found["ece"] == 0


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
    with pytest.raises(ValueError, match="no predictions"):
        collect([math.nan], [True]).compute()
    with pytest.raises(ValueError, match="num_bins must be >= 1, got 0"):
        Calibration(0)
