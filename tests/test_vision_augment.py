"""Augmentation against the same draws and images computed with NumPy."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from training.data import stream_seed
from vision.augment import Augment, uniforms


def draws_by_hand(seed, epoch, index, num_draws):
    """Splitmix64 on Python's integers."""
    found = []
    for column in range(num_draws):
        x = (index * num_draws + column) * 0x9E3779B97F4A7C15 + stream_seed(seed, "augment", epoch)
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

    images = augment(pictures, indices, 6)

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

    images = Augment(seed=1, crop=0.5)(ramp, indices, 1)

    rows = images[:, 0]
    assert_close(rows, rows[:, :1].expand_as(rows), rtol=0, atol=1e-4)  # the ramp has no rows
    steps = rows[:, 0, 2:-1] - rows[:, 0, 1:-2]
    assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-4)
    assert steps.min() >= 0.5 - 1e-4 and steps.max() <= 1 + 1e-4 and steps.std() > 0.1
    assert rows.min() >= 0 and rows.max() <= side - 1


def test_an_augmented_image_depends_on_seed_epoch_and_index_only(pictures):
    options = {"shift": 2, "crop": 0.7, "flip": True, "cutout": 3}
    augment, indices = Augment(seed=1, **options), torch.arange(12)
    whole = augment(pictures, indices, 3)

    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    pieces = [augment(pictures[part], part, 3) for part in order.split(5)]

    assert_close(torch.cat(pieces), whole[order], rtol=0, atol=1e-4)
    for other in (augment(pictures, indices, 4), Augment(seed=2, **options)(pictures, indices, 3)):
        assert ((other - whole).abs().amax((1, 2, 3)) > 1).all()


def test_no_augmentation_leaves_the_bytes_alone(pictures):
    assert Augment(seed=1)(pictures, torch.arange(12), 1) is pictures
