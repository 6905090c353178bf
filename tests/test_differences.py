"""Differences between configurations: their variance, interval and p-value; by plain arithmetic."""

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import t, ttest_rel

from metrics import Metrics, PerExample
from training.cli.differences import Difference, difference, ece_parts, holm
from training.errors import DataError
from training.run.examples import read_examples, write_examples


def drawn(num_seeds, num_rows, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.0, (num_seeds, num_rows))


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_without_noise_of_the_test_split_it_is_scipys_paired_t_test(num_seeds):
    of_seeds = drawn(num_seeds, 1)
    found = difference(np.repeat(of_seeds, 50, 1), block_rows=10)
    scipys = ttest_rel(of_seeds[:, 0], np.zeros(num_seeds))
    interval = scipys.confidence_interval()

    assert found.p == pytest.approx(scipys.pvalue, rel=1e-9)
    assert [f for _, f in found.errors] == pytest.approx([num_seeds - 1] * 2, rel=1e-9)
    assert found.interval() == pytest.approx((interval.low, interval.high), rel=1e-9)


@pytest.mark.parametrize("block_rows", [1, 7, 10])  # 7: the last block is shorter
def test_the_variance_is_that_of_seeds_and_that_of_blocks(block_rows):
    values = drawn(3, 60)
    values[:, 11] = np.nan  # a target that is ignored
    kept = [i for i in range(60) if i != 11]
    mean = sum(values[s, i] for s in range(3) for i in kept) / (3 * 59)
    seeds = np.var([values[s, kept].mean() for s in range(3)], ddof=1) / 3
    sums = {}
    for i in kept:
        block = i // block_rows
        sums[block] = sums.get(block, 0) + values[:, i].mean() - mean
    blocks = len(sums) / (len(sums) - 1) * sum(u * u for u in sums.values()) / 59**2
    freedom = (seeds + blocks) ** 2 / (seeds**2 / 2 + blocks**2 / (len(sums) - 1))
    errors = (np.sqrt(seeds + blocks), freedom), (np.sqrt(seeds), 2)

    found = difference(values, block_rows)

    assert found.mean == pytest.approx(mean, rel=1e-12)
    assert np.array(found.errors) == pytest.approx(np.array(errors), rel=1e-12)
    assert found.p == pytest.approx(max(2 * t.sf(abs(mean) / e, f) for e, f in errors), rel=1e-9)
    half = max(e * t.ppf(0.975, f) for e, f in errors)
    assert found.interval() == pytest.approx((mean - half, mean + half), rel=1e-9)


def test_seeds_that_agree_on_the_number_right_do_not_prove_a_difference():
    a, b = np.zeros((3, 360)), np.zeros((3, 360))
    for seed in range(3):  # one more is right in each, but not the same ones
        a[seed, 10 * seed : 10 * seed + 4] = 1
        b[seed, 200 + 10 * seed : 205 + 10 * seed] = 1

    assert difference(b - a).p > 0.5


def test_too_few_seeds_or_blocks_give_no_difference_and_equal_runs_none_that_counts():
    assert difference(drawn(2, 100)) is None
    assert difference(drawn(3, 100), block_rows=50) is None
    assert difference(np.full((3, 100), np.nan)) is None
    assert difference(np.zeros((3, 0))) is None
    assert difference(np.zeros((3, 100))).p == 1


def test_holms_p_values_are_those_of_an_example_by_hand():
    given = [Difference(0.0, ((1.0, 9.0),), p) for p in (0.04, 0.01, 0.03, 0.6)]

    assert [each.p for each in holm(given)] == pytest.approx([0.09, 0.04, 0.09, 0.6], rel=1e-12)
    assert holm([]) == []


def some_predictions():
    generator = torch.Generator().manual_seed(1)
    log_probs = (2 * torch.randn(300, 4, generator=generator)).log_softmax(1)
    targets = torch.randint(0, 4, (300,), generator=generator)
    targets[::9] = -100
    return log_probs, targets


def test_the_rows_of_a_split_have_its_metrics_as_their_means():
    log_probs, targets = some_predictions()
    metrics, examples = Metrics(4), PerExample(targets)
    metrics.update(log_probs, targets)
    for numbers in (torch.arange(100, 300), torch.arange(100)):  # in whatever order
        examples.update(numbers, log_probs[numbers], targets[numbers])

    table = examples.table[:, 0].double().numpy()
    figures = metrics.compute()
    means = np.nanmean(table, 0)
    assert means[0] == pytest.approx(figures["nll"], rel=1e-6)
    assert means[1] == pytest.approx(figures["accuracy"], rel=1e-6)
    assert means[2] - means[1] == pytest.approx(figures["overconfidence"], abs=1e-6)
    assert np.nanmean(ece_parts(table)) == pytest.approx(figures["ece"], abs=1e-6)
    assert np.isnan(table[:, 0]).tolist() == (targets == -100).tolist()
    assert table[1, 0] == pytest.approx(-log_probs[1, targets[1]].item(), rel=1e-6)


def test_the_positions_of_an_example_are_rows_in_its_order():
    log_probs, targets = some_predictions()
    whole = PerExample(targets)
    whole.update(torch.arange(300), log_probs, targets)
    of_images = PerExample(targets.view(50, 6))
    of_images.update(torch.arange(50), log_probs.view(50, 6, 4).movedim(2, 1), targets.view(50, 6))

    torch.testing.assert_close(
        of_images.table.flatten(0, 1), whole.table[:, 0], rtol=0, atol=0, equal_nan=True
    )


def test_a_table_is_read_back_as_it_was_written(tmp_path):
    table = np.array([[2.5, 1, 0.75], [np.nan] * 3, [np.inf, 0, 1]], np.float32)
    write_examples(tmp_path, table)

    assert np.array_equal(read_examples(tmp_path), table, equal_nan=True)
    assert (tmp_path / "examples.npy").stat().st_size == 128 + table.nbytes
    assert read_examples(tmp_path / "none") is None


def header(shape, kind="<f4"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("content", [
    b"", b"garbage", b"PK\x03\x04", pickle.dumps([1, 2]),
    header((2**40, 3)), header((10, 3)) + bytes(8), header((-1, 3)),
    header((2, 3), "|O") + bytes(48),
    header((2, 2)) + bytes(16), header((6,)) + bytes(24), header((2, 3), "<f8") + bytes(48),
    header((1_000_001, 3)) + bytes(12 * 1_000_001),
    header((1, 3)) + np.array([1, 2, 0.5], "<f4").tobytes(),
    header((1, 3)) + np.array([1, 1, np.nan], "<f4").tobytes(),
])  # fmt: skip
def test_a_table_of_anyones_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "examples.npy").write_bytes(content)

    with pytest.raises(
        DataError, match=r"examples.npy: cannot be read \(.+\); leave the run out"
    ) as e:
        read_examples(tmp_path)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400
