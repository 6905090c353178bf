"""The yardstick: against other libraries, against sums written out, and whatever the cut."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch

from metrics import Metrics, cached_rows

RESAMPLED = ("ece_null", "ece_low", "ece_high")


def sample(n=1500, classes=10, *, spread=2.0, temperature=1.4, seed=0, dtype=torch.float64):
    """Return log-probabilities of an overconfident model (n, C), and targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    truth = (logits / temperature).softmax(1)
    targets = torch.multinomial(truth, 1, generator=generator).squeeze(1)
    return logits.log_softmax(1).to(dtype), targets


def measure(log_probs, targets, classes=None, **options):
    metrics = Metrics(classes or log_probs.shape[1], **options)
    metrics.update(log_probs, targets)
    return metrics.compute()


@pytest.mark.parametrize("classes", [2, 10, 65, 30_000])
def test_nll_brier_and_accuracy_agree_with_scikit_learn(classes):
    log_probs, targets = sample(300 if classes < 100 else 30, classes)
    probs, labels = log_probs.exp().numpy(), np.arange(classes)

    found = measure(log_probs, targets)

    one_hot = np.eye(classes)[targets] if classes < 100 else None
    top = probs.argmax(1)
    nll = sklearn.metrics.log_loss(targets, probs, labels=labels)
    assert found["nll"] == pytest.approx(nll, abs=1e-9)
    assert found["perplexity"] == pytest.approx(math.exp(nll), rel=1e-9)
    assert found["accuracy"] == sklearn.metrics.accuracy_score(targets, top)
    if one_hot is not None:
        brier = sklearn.metrics.mean_squared_error(one_hot, probs) * classes
        assert found["brier"] == pytest.approx(brier, abs=1e-9)
    if classes > 2:
        top5 = sklearn.metrics.top_k_accuracy_score(targets, probs, k=5, labels=labels)
        assert found["top5"] == top5
    assert found["count"] == len(targets)


@pytest.mark.slow  # 3 s to import, in every process of the tests
def test_accuracy_perplexity_and_calibration_agree_with_torchmetrics():
    import torchmetrics.functional.classification as torchmetrics
    from torchmetrics.functional.text import perplexity

    log_probs, targets = sample()

    found = measure(log_probs, targets)

    def accuracy(k):
        return torchmetrics.multiclass_accuracy(
            log_probs, targets, 10, average="micro", top_k=k
        ).item()

    assert found["accuracy"] == pytest.approx(accuracy(1), abs=1e-7)  # theirs is float32
    assert found["top5"] == pytest.approx(accuracy(5), abs=1e-7)
    theirs = perplexity(log_probs[None], targets[None]).item()
    assert found["perplexity"] == pytest.approx(theirs, rel=1e-9)
    for norm, name in (("l1", "ece"), ("l2", "rmsce"), ("max", "mce")):
        error = torchmetrics.multiclass_calibration_error(
            log_probs.exp(), targets, 10, n_bins=15, norm=norm
        )
        assert found[name] == pytest.approx(error.item(), abs=3e-7), name


def test_metrics_of_three_rows_are_the_golden_numbers():
    logits = torch.tensor([[2, 1, 0.1]] * 3, dtype=torch.float64)
    nll = [0.4170300163, 1.4170300163, 2.3170300163]
    brier = [0.1847692033, 1.0179055397, 1.3056397003]

    for target in range(3):
        found = measure(logits[:1].log_softmax(1), torch.tensor([target]))
        assert found["nll"] == pytest.approx(nll[target], abs=1e-9)
        assert found["brier"] == pytest.approx(brier[target], abs=1e-9)
    found = measure(logits.log_softmax(1), torch.arange(3))
    assert found["nll"] == pytest.approx(np.mean(nll), abs=1e-9)
    assert found["accuracy"] == 1 / 3
    assert found["overconfidence"] == pytest.approx(0.6590011389 - 1 / 3, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 7, 61, 300])
def test_classwise_ece_is_the_mean_of_one_vs_rest_errors(classes):
    log_probs, targets = sample(700, classes)
    probs = log_probs.exp().numpy()
    outcomes = np.eye(classes)[targets]

    bins = np.digitize(probs, np.arange(1, 15) / 15, right=True)
    sums = [np.where(bins == b, probs - outcomes, 0).sum(0) for b in range(15)]

    expected = np.abs(sums).sum() / 700 / classes
    assert measure(log_probs, targets)["classwise_ece"] == pytest.approx(expected, abs=1e-12)


def test_classwise_ece_has_an_edge_in_the_bin_below():
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]])

    found = measure(probs.log(), torch.tensor([1, 0]), num_bins=2)["classwise_ece"]

    residuals = [0.5 + 0.4 - 1, 0.3 - 1 + 0.3, 0.2 + 0.3]  # of each class, all in the lower bin
    assert found == pytest.approx(sum(map(abs, residuals)) / 3 / 2, abs=1e-7)


def test_classwise_ece_needs_asking_above_a_thousand_classes():
    log_probs, targets = sample(20, 1001)

    assert "classwise_ece" not in measure(log_probs, targets)
    assert "classwise_ece" in measure(log_probs, targets, classwise=True)
    assert "classwise_ece" in measure(log_probs[:, :1000].log_softmax(1), targets % 1000)
    assert "classwise_ece" not in measure(*sample(20, 10), classwise=False)


def test_batches_of_any_size_and_type_can_follow_each_other():
    log_probs, targets = sample(900)
    metrics = Metrics(10)

    for i, rows in enumerate(torch.arange(900).split([1, 300, 2, 99, 400, 98])):
        batch = log_probs[rows].to((torch.float64, torch.float32)[i % 2])
        metrics.update(batch, targets[rows])

    whole, found = measure(log_probs, targets), metrics.compute()
    for name in ("nll", "brier", "accuracy", "top5", "count"):
        assert found[name] == pytest.approx(whole[name], rel=1e-6), name
    with pytest.raises(ValueError, match="1 rows"):  # after small batches that were fine
        metrics.update(log_probs[:1] + 1, targets[:1])
    assert metrics.compute() == found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12, abs=1e-13), name


@pytest.mark.parametrize("classes", [10, 1500])
def test_no_figure_depends_on_how_the_rows_were_cut(classes):
    log_probs, targets = sample(500, classes)
    targets[::7] = -100
    whole = measure(log_probs, targets)
    generator = np.random.default_rng(0)

    for cuts in (range(1, 500), sorted(generator.integers(0, 500, 9)), [0, 0, 499]):
        metrics = Metrics(classes)
        for rows in np.split(np.arange(500), cuts):
            metrics.update(log_probs[rows], targets[rows])
        assert_same(metrics.compute(), whole)


def test_no_figure_depends_on_how_the_rows_were_shared_out():
    log_probs, targets = sample(1000)
    whole = measure(log_probs, targets)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))

    parts = [Metrics(10) for _ in range(4)]  # the last one has no rows
    for part, rows in zip(parts, order.split(400), strict=False):
        part.update(log_probs[rows], targets[rows])
    for part in parts[1:]:
        parts[0].merge(part)

    assert_same(parts[0].compute(), whole)


def test_further_axes_are_rows():
    log_probs, targets = sample(60)
    cube = log_probs.reshape(4, 15, 10).movedim(2, 1)  # (N, C, d1)

    metrics = Metrics(10)
    metrics.update(cube, targets.reshape(4, 15))

    assert_same(metrics.compute(), measure(log_probs, targets))


@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_ignored_rows_count_nowhere_whatever_they_hold(ignore_index):
    log_probs, targets = sample(500)
    kept = targets != 3
    if ignore_index == -100:
        targets = torch.where(kept, targets, -100)
    spoilt = torch.where(kept[:, None], log_probs, math.nan)

    found = measure(spoilt, targets, ignore_index=ignore_index)

    assert_same(found, measure(log_probs[kept], targets[kept]))
    assert found["count"] == kept.sum()


@pytest.mark.parametrize("classes", [2, 10, 13_000])
def test_balanced_and_worst_class_accuracy_are_of_the_classes_that_occur(classes):
    log_probs, targets = sample(400 if classes < 100 else 60, classes, spread=8.0)
    targets[::5] = -100
    kept = targets != -100
    labels, top = targets[kept].numpy(), log_probs[kept].argmax(1).numpy()

    found = measure(log_probs, targets)

    recalls = [np.mean(top[labels == k] == k) for k in np.unique(labels)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-14)
    assert found["worst_class_accuracy"] == min(recalls)
    assert 0 < found["balanced_accuracy"] < 1
    if classes < 100:
        theirs = sklearn.metrics.balanced_accuracy_score(labels, top)
        assert found["balanced_accuracy"] == pytest.approx(theirs, abs=1e-14)


def test_a_rare_class_that_is_always_wrong_is_the_worst_and_lowers_the_mean_of_classes():
    log_probs = torch.full((100, 3), 0.1, dtype=torch.float64)
    log_probs[:, 0] = 0.8  # the frequent class, whatever the row; the last class does not occur
    targets = torch.tensor([0] * 98 + [1] * 2)

    found = measure(log_probs.log(), targets)

    assert (found["accuracy"], found["balanced_accuracy"]) == (0.98, 0.5)
    assert found["worst_class_accuracy"] == 0
    right = measure(log_probs.log()[:98], targets[:98])
    assert (right["balanced_accuracy"], right["worst_class_accuracy"]) == (1, 1)


def test_the_loss_is_the_sum_of_totals_over_the_sum_of_normalisers():
    log_probs, targets = sample(20)
    metrics = Metrics(10)
    metrics.update(log_probs[:5], targets[:5], loss_sums=(torch.tensor(3.0), torch.tensor(1.0)))
    metrics.update(log_probs[5:], targets[5:], loss_sums=(5.0, 9))

    assert metrics.compute()["loss"] == 0.8
    assert "loss" not in measure(log_probs, targets)


def test_of_equal_probabilities_the_lower_class_comes_first():
    uniform = torch.full((6, 6), 1 / 6, dtype=torch.float64).log()

    first, last = (measure(uniform[:1], torch.tensor([target])) for target in (0, 5))
    every = measure(uniform, torch.arange(6))

    assert (first["accuracy"], last["top5"]) == (1, 0)
    assert every["accuracy"] == 1 / 6  # as argmax says
    assert every["top5"] == 5 / 6


def test_perplexity_is_of_the_mean_nll_and_no_mean_of_perplexities():
    sure, unsure = math.log(2), math.log(72)
    log_probs = torch.tensor([[-sure, 0], [-unsure, 0]], dtype=torch.float64)
    log_probs[:, 1] = torch.log1p(-log_probs[:, 0].exp())
    metrics = Metrics(2)

    for row in log_probs.split(1):
        metrics.update(row, torch.tensor([0]))

    assert metrics.compute()["perplexity"] == pytest.approx(12)  # sqrt(2 * 72); the mean is 37


def test_the_brier_score_of_a_sure_model_keeps_its_digits():
    scores, targets = sample(500)
    scores = 10 * scores.float()
    scores[torch.arange(500), targets] = 16 + scores.amax(1)  # all right, and nearly certain

    log_probs = scores.log_softmax(1)
    found = measure(log_probs, targets)["brier"]

    p = log_probs.double().exp()
    others = p.scatter(1, targets[:, None], 0).square().sum(1)
    sure = torch.expm1(log_probs.double().gather(1, targets[:, None])).squeeze(1).square()
    assert found == pytest.approx((others + sure).mean().item(), rel=1e-5)
    assert 0 < found < 1e-10


def test_a_target_of_probability_zero_makes_nll_infinite_and_nothing_else():
    log_probs = torch.tensor([[0.0, -math.inf, -math.inf]] * 2)

    found = measure(log_probs, torch.tensor([0, 2]))

    assert found["nll"] == found["perplexity"] == math.inf
    assert (found["accuracy"], found["top5"], found["brier"], found["ece"]) == (0.5, 1, 1, 0.5)
    assert measure(log_probs, torch.tensor([0, 0]))["nll"] == 0


def test_a_huge_nll_has_an_infinite_perplexity():
    log_probs = torch.tensor([[0.0, -1e4]])

    assert measure(log_probs, torch.tensor([1]))["perplexity"] == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_shorter_floats_are_taken_and_summed_in_float64(dtype):
    log_probs, targets = sample(100, 13_000, dtype=dtype)

    found = measure(log_probs, targets)

    expected = -log_probs.double().gather(1, targets[:, None]).mean().item()
    assert found["nll"] == pytest.approx(expected, rel=1e-14)


def test_more_rows_than_fit_the_cache_are_measured_like_the_others():
    rows = cached_rows(2, "cpu")
    log_probs, targets = sample(100, 2)
    repeats = rows // 100 + 2

    found = measure(log_probs.repeat(repeats, 1), targets.repeat(repeats))

    once = measure(log_probs, targets)
    for name in once.keys() - {*RESAMPLED, "count", "rmsce_debiased", "ace"}:
        assert found[name] == pytest.approx(once[name], rel=1e-12), name


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x.fill_(math.nan), "1 rows hold NaN or do not sum to 1"),
        (lambda x: x.add_(0.01), "1 rows"),
        (lambda x: x.exp_(), "1 rows"),  # probabilities
        (lambda x: x.mul_(1.7), "1 rows"),  # logits
        (lambda x: x.fill_(-math.inf), "1 rows"),
        (lambda x: x[0].fill_(math.inf), "1 rows"),
    ],
)
def test_rows_that_are_no_log_probabilities_are_refused(spoil, message):
    log_probs, targets = sample(9)
    spoil(log_probs[4])
    metrics = Metrics(10)

    with pytest.raises(ValueError, match=message):
        metrics.update(log_probs, targets)
    with pytest.raises(ValueError, match="no rows"):  # nothing of them was added
        metrics.compute()


@pytest.mark.parametrize("target", [-1, 10, 2**40])
def test_targets_that_are_no_class_are_refused(target):
    log_probs, targets = sample(9)
    targets[5] = target

    with pytest.raises(ValueError, match=r"targets must be in \[0, 10\) .* 1 of them"):
        Metrics(10).update(log_probs, targets)


def test_wrong_shapes_and_types_are_refused():
    log_probs, targets = sample(9)

    with pytest.raises(ValueError, match=r"log_probs must be \(N, 7, ...\), got \(9, 10\)"):
        Metrics(7).update(log_probs, targets)
    with pytest.raises(ValueError, match=r"targets must be \(9,\), got \(8,\)"):
        Metrics(10).update(log_probs, targets[:8])
    with pytest.raises(TypeError, match=r"targets must be integer classes, got torch\.float64"):
        Metrics(10).update(log_probs, targets.double())
    with pytest.raises(TypeError, match=r"log_probs must be floating, got torch\.int64"):
        Metrics(10).update(log_probs.long(), targets)
    with pytest.raises(ValueError, match="num_classes must be >= 1, got 0"):
        Metrics(0)


def test_no_rows_at_all_are_refused_when_computing():
    metrics = Metrics(3)
    metrics.update(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    metrics.update(torch.zeros(2, 3).log_softmax(1), torch.tensor([-100, -100]))

    with pytest.raises(ValueError, match="no rows to compute metrics from"):
        metrics.compute()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_accelerator_gives_the_same_figures_and_refuses_the_same_rows():
    log_probs, targets = sample(5000, 100)
    targets[::9] = -100
    metrics = Metrics(100, device="cuda")
    metrics.update(log_probs.cuda(), targets.cuda())
    assert_same(metrics.compute(), measure(log_probs, targets))

    with pytest.raises(ValueError, match="do not sum to 1"):
        metrics.update(log_probs.cuda() + 1, targets.cuda())


def test_a_batch_that_is_refused_in_its_last_part_adds_nothing():
    rows = 2 * cached_rows(10, "cpu") + 5
    log_probs, targets = torch.full((rows, 10), 0.1).log(), torch.arange(rows) % 10
    metrics = Metrics(10)
    metrics.update(log_probs[:7], targets[:7])
    want = metrics.compute()
    log_probs[-1] = 0

    with pytest.raises(ValueError, match="1 rows hold NaN or do not sum to 1"):
        metrics.update(log_probs, targets)

    assert metrics.compute() == want
