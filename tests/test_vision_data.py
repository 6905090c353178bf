"""Images as splits: shares of each class, seeds, imbalance, and refused settings."""

import pytest
import torch
from conftest import compose
from torch.testing import assert_close

from training.data import Split
from training.run.targets import instantiate
from vision import data
from vision.augment import Augment
from vision.data import ImageSettings, image_splits, published, stratified

SETTINGS = {
    "channels": 1,
    "image_size": 4,
    "mean": [0.5],
    "std": [0.5],
    "split": [0.6, 0.1, 0.1, 0.2],
    "split_seed": 1,
    "imbalance": 1.0,
    "augment": Augment(1),
}


def numbered(counts, test=None):
    """Return images of which each has pixels of its own: its number, in base 256."""
    targets = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    pixels = torch.zeros(len(targets), 1, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(len(targets)) % 256
    pixels[:, 0, 0, 1] = torch.arange(len(targets)) // 256
    return Split(pixels, targets), tuple("abcdefghij"[: len(counts)]), test, 4


def numbers(split):
    return (split.inputs[:, 0, 0, 0].long() + 256 * split.inputs[:, 0, 0, 1].long()).tolist()


def split_up(images, **settings):
    return image_splits(lambda: images, "some", ImageSettings(**(SETTINGS | settings)))


def parts_of(splits):
    return [splits.train, splits.val, splits.calibration, splits.test]


def test_every_image_is_in_one_split_and_every_class_in_its_share():
    counts = [200, 100, 50]

    splits = split_up(numbered(counts))

    found = [number for part in parts_of(splits) for number in numbers(part)]
    assert sorted(found) == list(range(350))
    for part, share in zip(parts_of(splits), SETTINGS["split"], strict=True):
        assert part.targets.bincount().tolist() == [round(share * n) for n in counts]
        assert part.inputs.dtype == torch.uint8
        assert len(part.targets[:20].unique()) > 1  # shuffled: the first rows are a fair sample
    assert splits.class_counts.tolist() == [120, 60, 30]


def test_the_splits_are_a_function_of_their_seed():
    images = numbered([100, 100])
    first, again, other = (split_up(images, split_seed=seed) for seed in (1, 1, 2))

    assert numbers(first.test) == numbers(again.test)
    assert numbers(first.train) == numbers(again.train)
    assert sorted(numbers(first.test)) != sorted(numbers(other.test))


def test_the_test_images_do_not_depend_on_the_runs_seed():
    splits = [instantiate(compose(f"seed={seed}", task="vision").data) for seed in (1, 2)]

    assert torch.equal(splits[0].test.inputs, splits[1].test.inputs)


def test_imbalance_thins_only_training_classes_exponentially():
    images, fair = numbered([1000] * 5), SETTINGS["split"]
    even, thin = split_up(images), split_up(images, imbalance=0.01)

    expected = [600 * 0.01 ** (k / 4) for k in range(5)]
    assert_close(thin.class_counts.double(), torch.tensor(expected).double(), rtol=0, atol=1)
    assert set(numbers(thin.train)) < set(numbers(even.train))
    for part in ("val", "calibration", "test"):
        assert sorted(numbers(getattr(thin, part))) == sorted(numbers(getattr(even, part)))
    rare = stratified(torch.tensor([0] * 50 + [1] * 3), fair, torch.Generator(), imbalance=1e-9)
    assert torch.tensor([0] * 50 + [1] * 3)[rare[0]].bincount()[1] == 1  # never none at all


def labels_of(splits):
    """Return the label of each image of a split by its number."""
    return [
        dict(zip(numbers(part), part.targets.tolist(), strict=True)) for part in parts_of(splits)
    ]


def test_wrong_labels_are_another_class_with_the_same_chance_and_only_where_weights_are_chosen():
    images = numbered([3000] * 5)
    clean, noisy = split_up(images), split_up(images, label_noise=0.4)

    assert numbers(clean.train) == numbers(noisy.train)  # the same images in the same order
    for true, given in zip(labels_of(clean)[:2], labels_of(noisy)[:2], strict=True):
        assert sum(true[i] != given[i] for i in true) == round(0.4 * len(true))
    assert labels_of(clean)[2:] == labels_of(noisy)[2:]
    true, given = clean.train.targets, noisy.train.targets
    cells = torch.bincount(5 * true + given, minlength=25).view(5, 5)
    expected = torch.full((5, 5), 9000 * 0.4 / 20).fill_diagonal_(9000 * 0.6 / 5)
    assert ((cells - expected).abs() < 4.5 * expected.sqrt()).all()  # of Poisson draws
    assert noisy.class_counts.tolist() == cells.sum(0).tolist()


def test_labels_of_the_next_class_follow_their_own():
    images = numbered([100] * 3)
    clean, noisy = split_up(images), split_up(images, label_noise=0.3, noise_kind="next")

    for true, given in zip(labels_of(clean)[:2], labels_of(noisy)[:2], strict=True):
        steps = [(given[i] - true[i]) % 3 for i in true]
        assert steps.count(1) == round(0.3 * len(true)) and steps.count(2) == 0


def test_wrong_labels_are_a_function_of_their_seed_and_of_all_that_names_them():
    images = numbered([100] * 3)
    settings = [{}, {"label_noise": 0.3}, {"label_noise": 0.3, "noise_kind": "next"}]
    settings += [{"label_noise": 0.3, "split_seed": 2}, {"label_noise": 0.3}]

    plain, symmetric, following, other, again = (split_up(images, **s) for s in settings)

    digests = {s.fingerprint() for s in (plain, symmetric, following, other)}
    assert len(digests) == 4 and again.fingerprint() == symmetric.fingerprint()
    changed = [
        (clean.train.targets != noisy.train.targets).nonzero()[:, 0].tolist()
        for clean, noisy in ((plain, symmetric), (split_up(images, split_seed=2), other))
    ]
    assert len(changed[0]) == len(changed[1]) and changed[0] != changed[1]
    assert plain.protocol.endswith("train / val / calibration / test")
    assert symmetric.protocol == (
        f"{plain.protocol}, labels of 30 % changed in train and val (symmetric)"
    )
    assert following.protocol.endswith("changed in train and val (next)")


def test_without_noise_the_digits_are_those_of_before_to_the_last_byte():
    splits = instantiate(compose(task="vision").data)

    assert splits.fingerprint().startswith("d60d1a443eee1229")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"split": [1, 0]}, "split must be four shares"),
        ({"split": [0.5, 0.1, 0.1, 0.1]}, "split must be four shares"),
        ({"std": [0]}, "std must be 1 numbers, one per channel, above 0"),
        ({"mean": [0.5] * 3}, "mean must be 1 numbers"),
        ({"channels": 2}, "channels must be 1"),
        ({"label_noise": 1}, r"label_noise must be in \[0, 1\), got 1"),
        ({"label_noise": -0.1}, r"label_noise must be in \[0, 1\), got -0\.1"),
        ({"noise_kind": "uniform"}, "noise_kind must be symmetric or next, got uniform"),
        ({"imbalance": 1.5}, r"imbalance must be in \(0, 1\]"),
        ({"augment": Augment(1, cutout=4)}, r"augment\.cutout must be less than image_size \(4\)"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(setting, message):
    with pytest.raises(ValueError, match=message):
        ImageSettings(**(SETTINGS | setting))


def test_a_share_for_a_test_split_that_exists_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(data, "read_torchvision", pytest.fail)

    with pytest.raises(ValueError, match="split must be 0 for test"):
        published("MNIST", "data", True, **SETTINGS)


def test_a_share_for_a_test_folder_that_exists_is_refused():
    test = Split(torch.zeros(2, 1, 4, 4).byte(), torch.tensor([0, 1]))
    images = numbered([50, 50], test)

    with pytest.raises(ValueError, match="split must be 0 for test"):
        split_up(images)
    splits = split_up(images, split=[0.8, 0.1, 0.1, 0])
    assert torch.equal(splits.test.inputs, test.inputs)


def test_only_training_batches_are_augmented():
    splits = instantiate(compose(task="vision").data)

    assert splits.train.augment is not None
    assert all(part.augment is None for part in parts_of(splits)[1:])
