"""Augmentation against the same draws and images computed with NumPy."""

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch.testing import assert_close

from training.data import Split, stream_seed
from vision.augment import Augment, uniforms


def draws_by_hand(seed, epoch, index, num_draws, stream="augment"):
    """Splitmix64 on Python's integers."""
    found = []
    for column in range(num_draws):
        x = (index * num_draws + column) * 0x9E3779B97F4A7C15 + stream_seed(seed, stream, epoch)
        x %= 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        x ^= x >> 31
        found.append((x >> 40) / 2**24)
    return found


def test_draws_are_splitmix64_of_seed_epoch_and_index():
    indices = torch.tensor([0, 7, 123456])

    draws = uniforms(3, 5, indices, 4)

    expected = [draws_by_hand(3, 5, i, 4) for i in indices.tolist()]
    assert torch.equal(draws, torch.tensor(expected))


def test_draws_are_uniform_and_uncorrelated():
    draws = uniforms(1, 1, torch.arange(100_000), 8).double()

    assert_close(draws.mean(0), torch.full((8,), 0.5).double(), rtol=0, atol=0.004)
    assert_close(torch.cov(draws.T) * 12, torch.eye(8).double(), rtol=0, atol=0.02)
    assert_close(torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1].item(), 0.0,
                 rtol=0, atol=0.02)  # fmt: skip


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (12, 3, 9, 9), generator=generator, dtype=torch.uint8)


def test_shift_flip_and_cutout_are_what_numpy_makes_of_the_same_draws(pictures):
    augment, indices = Augment(seed=4, shift=2, flip=True, cutout=3), torch.arange(100, 112)

    images = augment.moved(pictures, indices, 6)

    for i, image in enumerate(pictures.numpy()):
        draws = draws_by_hand(4, 6, 100 + i, 8)
        top, left = (int(5 * u) for u in draws[1:3])
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="reflect")
        expected = padded[:, top : top + 9, left : left + 9].astype(np.float32)
        if draws[5] < 0.5:
            expected = expected[:, :, ::-1].copy()
        y, x = (int(9 * u) - 1 for u in draws[6:8])
        expected[:, max(0, y) : y + 3, max(0, x) : x + 3] = 0
        assert np.array_equal(images[i], expected)


def test_a_crop_reads_an_image_along_a_straight_line():
    side, indices = 16, torch.arange(50)
    ramp = torch.arange(side).float().expand(50, 1, side, side)

    images = Augment(seed=1, crop=0.5).moved(ramp, indices, 1)

    rows = images[:, 0]
    assert_close(rows, rows[:, :1].expand_as(rows), rtol=0, atol=1e-4)  # the ramp has no rows
    steps = rows[:, 0, 2:-1] - rows[:, 0, 1:-2]
    assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-4)
    assert steps.min() >= 0.5 - 1e-4 and steps.max() <= 1 + 1e-4 and steps.std() > 0.1
    assert rows.min() >= 0 and rows.max() <= side - 1


def test_an_augmented_image_depends_on_seed_epoch_and_index_only(pictures):
    options = {"shift": 2, "crop": 0.7, "flip": True, "cutout": 3}
    augment, indices = Augment(seed=1, **options), torch.arange(12)
    whole = augment.moved(pictures, indices, 3)

    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    pieces = [augment.moved(pictures[part], part, 3) for part in order.split(5)]

    assert_close(torch.cat(pieces), whole[order], rtol=0, atol=1e-4)
    others = augment.moved(pictures, indices, 4), Augment(2, **options).moved(pictures, indices, 3)
    for other in others:
        assert ((other - whole).abs().amax((1, 2, 3)) > 1).all()


def test_no_augmentation_leaves_the_bytes_alone(pictures):
    split = Split(pictures, torch.arange(12))

    inputs, targets = Augment(seed=1)(split, torch.arange(2, 7), 1)

    assert torch.equal(inputs, pictures[2:7]) and inputs.dtype == torch.uint8
    assert targets.tolist() == [2, 3, 4, 5, 6]


def test_mixup_mixes_images_and_targets_by_the_same_share(pictures):
    split = Split(pictures, torch.arange(12) % 4)
    augment = Augment(seed=1, mixup=0.4, num_classes=4)
    indices = torch.arange(3, 12)

    inputs, targets = augment(split, indices, 2)

    assert_close(targets.sum(1), torch.ones(9))
    shares = []
    for i, image, target in zip(indices.tolist(), inputs, targets, strict=True):
        place, quantile = draws_by_hand(1, 2, i, 2, "mixup")
        j, share = int(place * 12), beta(0.4, 0.4).ppf(quantile)
        expected = share * pictures[i].double() + (1 - share) * pictures[j].double()
        assert_close(image.double(), expected, rtol=1e-5, atol=1e-3)
        one_hots = torch.eye(4)[[i % 4, j % 4]].double()
        assert_close(target.double(), share * one_hots[0] + (1 - share) * one_hots[1])
        shares.append(share)
    assert min(abs(share - 0.5) for share in shares) < 0.2  # some are real mixtures


def test_a_mixture_depends_on_seed_epoch_and_index_only(pictures):
    split = Split(pictures, torch.arange(12) % 4)
    augment = Augment(seed=1, shift=1, mixup=1.0, num_classes=4)
    whole = augment(split, torch.arange(12), 3)

    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    pieces = [augment(split, part, 3) for part in order.split(5)]

    for got, expected in zip(zip(*pieces, strict=True), whole, strict=True):
        assert_close(torch.cat(got), expected[order], rtol=0, atol=1e-4)
