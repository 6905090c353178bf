"""Augmentation of whole batches on the device, its randomness a function of what is augmented."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data import stream_seed

# splitmix64 (Steele, Lea and Flood 2014): (shift, factor) of each round, factors as signed int64
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


@dataclass(frozen=True)
class Augment:
    """Shift, crop, flip and cut out of training images, each drawn for (seed, epoch, index).

    Shift, crop and flip only say from where each row and each column of the image is read; reading
    between two pixels interpolates. So an image is two small matrix products: rows @ image @
    columns.

    Args:
        seed: the run's.
        shift: pixels that an image moves at most, up or down and left or right.
        crop: share of the side that a crop keeps at least; what is kept is scaled to the whole.
        flip: mirror every second image, left to right.
        cutout: side in pixels of a black square around a random pixel (DeVries and Taylor 2017,
            arXiv 1708.04552).
    """

    seed: int
    shift: int = 0
    crop: float = 1.0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("shift", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be in (0, 1], got {self.crop}")

    def __call__(self, inputs: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Return images (N, C, S, S) as float32 in the units of `inputs`."""
        if not (self.shift or self.flip or self.cutout or self.crop < 1):
            return inputs
        side = inputs.shape[-1]
        pixels = torch.arange(side, device=inputs.device)
        draws = uniforms(self.seed, epoch, indices, 8)
        zoom = 1 - (1 - self.crop) * draws[:, 0:1]
        corner = ((2 * self.shift + 1) * draws[:, 1:3]).floor() - self.shift
        corner = corner + (1 - zoom) * side * draws[:, 3:5]
        sources = corner[:, :, None] + ((pixels + 0.5) * zoom - 0.5)[:, None]  # (N, 2, S)
        rows, columns = (interpolation(source) for source in sources.unbind(1))
        if self.flip:
            columns = torch.where(draws[:, 5, None, None] < 0.5, columns.flip(1), columns)
        images = rows[:, None] @ inputs.float() @ columns[:, None].mT
        if self.cutout:
            start = (draws[:, 6:8] * side).floor() - self.cutout // 2
            distance = pixels - start[:, :, None]  # (N, 2, S)
            hidden = (distance >= 0) & (distance < self.cutout)
            images = images * ~(hidden[:, 0, :, None] & hidden[:, 1, None])[:, None]
        return images


def interpolation(sources: Tensor) -> Tensor:
    """Return the matrices (N, S, S) that read S pixels at positions (N, S); mirrored outside."""
    side = sources.shape[1]
    last = side - 1
    sources = last - (last - sources.abs()).abs()
    return F.relu(1 - (sources[:, :, None] - torch.arange(side, device=sources.device)).abs())


def uniforms(seed: int, epoch: int, indices: Tensor, num_draws: int) -> Tensor:
    """Return float32 draws (N, D) in [0, 1), a function of (seed, epoch, index) and the column.

    Each is the hash of a counter, so that no draw depends on which came before it. int64 arithmetic
    wraps, as splitmix64 wants it; a right shift keeps the sign, which the masks take away.
    """
    counters = indices[:, None] * num_draws + torch.arange(num_draws, device=indices.device)
    x = counters * GOLDEN + stream_seed(seed, "augment", epoch)
    for shift, factor in ROUNDS:
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    x = x ^ (x >> 31 & (1 << 33) - 1)
    return (x >> 40 & (1 << 24) - 1).float() / (1 << 24)  # the top 24 bits: exact in float32
