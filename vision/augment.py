"""Augmentation of whole batches on the device; its randomness depends on what is augmented only."""

from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from training.data import Split, stream_seed
from training.errors import check_setting

# splitmix64 (Steele, Lea and Flood 2014): the (shift, factor) of each round. Factors are int64.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


@dataclass(frozen=True)
class Augment:
    """Shift, crop, flip and cut out of training images, each drawn for (seed, epoch, index).

    Shift, crop and flip decide from which position of the image each row and each column of the
    result is read. A position between two pixels is interpolated, so that the result is two small
    matrix products: rows @ image @ columns.

    Args:
        seed: the seed of the run.
        shift: how many pixels an image moves at most, up or down and left or right.
        crop: the least share of the side that a crop keeps; the crop is scaled to the whole side.
        flip: whether every second image, at random, is mirrored left to right.
        cutout: the side in pixels of a black square around a random pixel (DeVries and Taylor 2017,
            arXiv 1708.04552).
        mixup: alpha of Beta(alpha, alpha), from which the share of each image in its mixture with
            another image is drawn, and so its class's share of the target (Zhang et al. 2018,
            arXiv 1710.09412); 0: no mixtures.
        num_classes: K, for targets that are shares; the data sets it.
    """

    seed: int
    shift: int = 0
    crop: float = 1.0
    flip: bool = False
    cutout: int = 0
    mixup: float = 0.0
    num_classes: int = 0

    def __post_init__(self) -> None:
        check_setting("shift", self.shift, self.shift >= 0, "at least 0")
        check_setting("cutout", self.cutout, self.cutout >= 0, "at least 0")
        check_setting("crop", self.crop, 0 < self.crop <= 1, "in (0, 1]")
        check_setting("mixup", self.mixup, 0 <= self.mixup <= 100, "from 0 to 100")

    def __call__(self, split: Split, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Return images (N, C, S, S), and classes (N,) or, of mixed images, their shares (N, K)."""
        images, targets = self.moved(split.inputs[indices], indices, epoch), split.targets[indices]
        if not self.mixup:
            return images, targets
        draws = uniforms(self.seed, epoch, indices, 2, "mixup").cpu().double()  # mps has none
        partners = (draws[:, 0] * len(split)).long().to(indices.device)
        both = targets, split.targets[partners]
        share = betaincinv(self.mixup, self.mixup, draws[:, 1].numpy())  # Beta's quantile
        share = torch.from_numpy(share).to(images.device, torch.float32)[:, None]
        others = self.moved(split.inputs[partners], partners, epoch).float()
        images = images.float().lerp(others, 1 - share[:, :, None, None])
        mine, theirs = (F.one_hot(classes, self.num_classes).float() for classes in both)
        return images, mine.lerp(theirs, 1 - share)

    def moved(self, inputs: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Return images (N, C, S, S) shifted, cropped, flipped and cut, in the same units."""
        if not (self.shift or self.flip or self.cutout or self.crop < 1):
            return inputs
        side = inputs.shape[-1]
        pixels = torch.arange(side, device=inputs.device)
        draws = uniforms(self.seed, epoch, indices, 8)
        zoom = 1 - (1 - self.crop) * draws[:, 0:1]
        corner = ((2 * self.shift + 1) * draws[:, 1:3]).floor() - self.shift
        corner = corner + (1 - zoom) * side * draws[:, 3:5]
        positions = corner[:, :, None] + ((pixels + 0.5) * zoom - 0.5)[:, None]  # (N, 2, S)
        rows, columns = (interpolation(position) for position in positions.unbind(1))
        if self.flip:
            columns = torch.where(draws[:, 5, None, None] < 0.5, columns.flip(1), columns)
        images = rows[:, None] @ inputs.float() @ columns[:, None].mT
        if self.cutout:
            start = (draws[:, 6:8] * side).floor() - self.cutout // 2
            distance = pixels - start[:, :, None]  # (N, 2, S)
            inside = (distance >= 0) & (distance < self.cutout)
            images = images * ~(inside[:, 0, :, None] & inside[:, 1, None])[:, None]
        return images


def interpolation(positions: Tensor) -> Tensor:
    """Return the matrices (N, S, S) that read S pixels at positions (N, S); mirrored outside."""
    side = positions.shape[1]
    last = side - 1
    positions = last - (last - positions.abs()).abs()
    return F.relu(1 - (positions[:, :, None] - torch.arange(side, device=positions.device)).abs())


def uniforms(
    seed: int, epoch: int, indices: Tensor, num_draws: int, stream: str = "augment"
) -> Tensor:
    """Return float32 draws (N, D) in [0, 1), each a function of (seed, epoch, index, column).

    A draw is the hash of a counter, so that it does not depend on earlier draws. splitmix64 wants
    arithmetic modulo 2^64, and int64 wraps in that way. It also wants right shifts that bring in
    zeros, but those of int64 bring in the sign, so the masks clear these bits.
    """
    counters = indices[:, None] * num_draws + torch.arange(num_draws, device=indices.device)
    x = counters * GOLDEN + stream_seed(seed, stream, epoch)
    for shift, factor in ROUNDS:
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    x = x ^ (x >> 31 & (1 << 33) - 1)
    return (x >> 40 & (1 << 24) - 1).float() / (1 << 24)  # float32 holds 24 bits exactly
