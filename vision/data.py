"""Images as splits: every class in the same shares, as uint8 tensors that stay on the device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data import Split, Splits, check_shares, stream_seed
from training.errors import DataError, check_setting
from vision.augment import Augment
from vision.images import ImageSet, read_digits, read_folder, read_torchvision

DATASETS = ("MNIST", "FashionMNIST", "CIFAR10")


@dataclass(frozen=True)
class ImageSettings:
    """The settings of any images.

    channels: C, 1 (grey) or 3 (colour).
    image_size: S, the side in pixels.
    mean: of the pixels scaled to [0, 1], one number per channel; taken off what a model is given.
    std: of the pixels scaled to [0, 1], one number per channel; divides what a model is given.
    split: shares of train, val, calibration and test; the last is 0 where a test split exists.
    split_seed: decides which images are held out.
    imbalance: of the training images of class k (from 0) of K, the share imbalance ** (k / (K - 1))
        is kept.
    augment: changes the images of training batches.
    label_noise: share of the training labels, and of the validation labels, that are changed to
        another class; which ones is a function of `split_seed`.
    noise_kind: the other class: symmetric (any of the others, all equally probable) or next (k + 1,
        and 0 for the last).
    """

    channels: int
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    split: Sequence[float]
    split_seed: int
    imbalance: float
    augment: Augment
    label_noise: float = 0.0
    noise_kind: str = "symmetric"

    def __post_init__(self) -> None:
        check_setting("channels", self.channels, self.channels in (1, 3), "1 (grey) or 3 (colour)")
        check_setting("image_size", self.image_size, 4 <= self.image_size <= 1024, "from 4 to 1024")
        mean, std = list(self.mean), list(self.std)
        numbers = f"{self.channels} numbers, one per channel"
        check_setting("mean", mean, len(mean) == self.channels, numbers)
        is_positive = len(std) == self.channels and min(std) > 0
        check_setting("std", std, is_positive, f"{numbers}, above 0")
        check_shares(self.split)
        check_setting("imbalance", self.imbalance, 0 < self.imbalance <= 1, "in (0, 1]")
        check_setting("label_noise", self.label_noise, 0 <= self.label_noise < 1, "in [0, 1)")
        is_kind = self.noise_kind in ("symmetric", "next")
        check_setting("noise_kind", self.noise_kind, is_kind, "symmetric or next")
        for name in ("shift", "cutout"):
            pixels, limit = getattr(self.augment, name), f"less than image_size ({self.image_size})"
            check_setting(f"augment.{name}", pixels, pixels < self.image_size, limit)

    def check_no_test_share(self) -> None:
        """Refuse a share for the test split, for images that have a test split of their own."""
        allowed = "0 for test, as in [0.9,0.05,0.05,0.0]: these images have a test split"
        check_setting("split", list(self.split), self.split[3] == 0, allowed)

    def mislabelled(self, split: Split, num_classes: int, generator: torch.Generator) -> Split:
        """Return the split with the share `label_noise` of its labels changed, rounded to rows."""
        count = round(self.label_noise * len(split))
        changed = torch.randperm(len(split), generator=generator)[:count]
        end = num_classes if self.noise_kind == "symmetric" else 2  # the next is one step away
        steps = torch.randint(1, end, (count,), generator=generator)
        return replace(split, targets=split.targets.index_add(0, changed, steps) % num_classes)


def digits(**settings: Any) -> Splits:
    """Return scikit-learn's handwritten digits; the settings are those of `ImageSettings`."""
    return image_splits(read_digits, "digits", ImageSettings(**settings))


def published(dataset: str, root: str, download: bool, **settings: Any) -> Splits:
    """Return a data set of torchvision's; its test split stays the test split."""
    check_setting("dataset", dataset, dataset in DATASETS, f"one of {', '.join(DATASETS)}")
    images = ImageSettings(**settings)
    images.check_no_test_share()  # now, before a download
    return image_splits(partial(read_torchvision, dataset, Path(root), download), dataset, images)


def image_folder(root: str | None, resize: bool, **settings: Any) -> Splits:
    """Return image files in one folder per class; those in root/test are the test split."""
    if root is None:
        raise ValueError("root is required: data.root=FOLDER, with one folder of images per class")
    images = ImageSettings(**settings)
    read = partial(read_folder, Path(root), images.channels, images.image_size, resize)
    return image_splits(read, Path(root).name, images)


def image_splits(read: Callable[[], ImageSet], name: str, settings: ImageSettings) -> Splits:
    """Cut images into splits that have every class in the same shares.

    Args:
        read: returns the images.
        name: what the images are called beside the figures.
        settings: see `ImageSettings`.
    """
    images, names, published_test, side = read()
    if published_test:
        settings.check_no_test_share()
    if settings.channels == 3 and images.inputs.shape[1] == 1:  # grey, for a model of colours
        images = replace(images, inputs=images.inputs.expand(-1, 3, -1, -1))
    size = " x ".join(map(str, images.inputs.shape[1:]))
    if size != f"{settings.channels} x {settings.image_size} x {settings.image_size}":
        raise DataError(f"{name}: images are {size}; set data.channels and data.image_size to that")
    generator = torch.Generator().manual_seed(stream_seed(settings.split_seed, "split"))
    indices = stratified(images.targets, settings.split, generator, settings.imbalance)
    parts = [Split(images.inputs[i], images.targets[i]) for i in indices]
    if published_test:
        parts[3] = published_test
    mean, std = in_pixels(settings.mean), in_pixels(settings.std)
    train, val, calibration, test = (replace(part, mean=mean, std=std) for part in parts)
    if not len(train):
        raise DataError(f"{name}: no training images are left; give more, or change data.split")
    sizes = " / ".join(f"{len(part):,}" for part in (train, val, calibration, test))
    shape = f"{settings.image_size}x{settings.image_size}x{settings.channels}"
    about = f"{name}: {len(names)} classes, {shape}, {sizes} train / val / calibration / test"
    if published_test:
        about += " (the published one)"
    if settings.imbalance < 1:
        about += f", training classes thinned to {settings.imbalance:g}"
    if settings.label_noise:
        generator.manual_seed(stream_seed(settings.split_seed, "label_noise"))
        train, val = (settings.mislabelled(p, len(names), generator) for p in (train, val))
        share, kind = f"{100 * settings.label_noise:.4g} %", settings.noise_kind
        about += f", labels of {share} changed in train and val ({kind})"
    class_counts = torch.bincount(train.targets, minlength=len(names))
    train = replace(train, augment=replace(settings.augment, num_classes=len(names)))
    # of images that were not scaled, image_size says it all
    numbers = {"shorter_side": float(side)} if side != settings.image_size else {}
    return Splits(train, val, calibration, test, class_counts, names, about, numbers=numbers)


def in_pixels(numbers: Sequence[float]) -> Tensor:
    """Return numbers for pixels in [0, 1], one per channel, as (C, 1, 1) for 0 to 255."""
    return 255 * torch.tensor(list(numbers)).view(-1, 1, 1)


def stratified(
    targets: Tensor, shares: Sequence[float], generator: torch.Generator, imbalance: float = 1.0
) -> list[Tensor]:
    """Return the shuffled indices of each share; the first share is thinned by `imbalance`.

    The images of each class are put in random order at even distances between 0 and 1, and the
    shares cut that line.
    """
    order = torch.randperm(len(targets), generator=generator)
    order = order[targets[order].argsort(stable=True)]  # by class, in random order within a class
    classes = targets[order]
    counts = classes.bincount()
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[classes]
    place = (rank + 0.5) / counts[classes].double()
    edges = torch.tensor(list(accumulate(shares))[:-1], dtype=torch.float64)
    part = torch.bucketize(place, edges - 1e-9)
    kept = imbalance ** (classes.double() / max(1, len(counts) - 1))
    part[(part == 0) & (place >= shares[0] * kept) & (rank > 0)] = -1
    parts = [order[part == number] for number in range(len(shares))]
    return [indices[torch.randperm(len(indices), generator=generator)] for indices in parts]
