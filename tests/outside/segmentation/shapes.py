"""Every pixel has a class: background, a bright square, or a dark one."""

import torch
from torch import nn

from training.data import Splits, make_splits

SIDE = 16


def shapes(count: int, noise: float, seed: int) -> Splits:
    """Return images (N, 1, 16, 16) with a class for each pixel, (N, 16, 16)."""
    generator = torch.Generator().manual_seed(seed)
    images = noise * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    targets = torch.zeros(count, SIDE, SIDE, dtype=torch.int64)
    for image, target in zip(images, targets, strict=True):
        for label, brightness in ((1, 1.0), (2, -1.0)):
            row, column = torch.randint(0, SIDE - 5, (2,), generator=generator).tolist()
            image[0, row : row + 5, column : column + 5] += brightness
            target[row : row + 5, column : column + 5] = label
    parts = zip(images.split(count // 5), targets.split(count // 5), strict=True)
    pairs = list(parts)
    train = torch.cat([x for x, _ in pairs[3:]]), torch.cat([y for _, y in pairs[3:]])
    return make_splits(
        train,
        val=pairs[0],
        calibration=pairs[1],
        test=pairs[2],
        class_names=("background", "bright", "dark"),
    )


class Pixels(nn.Sequential):
    """Two convolutions from images to logits (N, 3, 16, 16)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(1, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, num_classes, 5, padding=2),
        )
