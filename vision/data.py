"""Images as splits: stratified, seeded, whole on the device as uint8."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data import Split, Splits, check_shares, stream_seed
from training.errors import DataError
from vision.augment import Augment
from vision.images import ImageSet, read_digits, read_folder, read_torchvision

DATASETS = ("MNIST", "FashionMNIST", "CIFAR10")


def digits(**settings: Any) -> Splits:
    """Return scikit-learn's handwritten digits; settings as in `image_splits`."""
    return image_splits(read_digits, "digits", **settings)


def published(dataset: str, root: str, download: bool, **settings: Any) -> Splits:
    """Return a data set of torchvision's; its test split stays the test split."""
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {dataset}")
    read = partial(read_torchvision, dataset, Path(root), download)
    return image_splits(read, dataset, has_test=True, **settings)


def image_folder(root: str | None, resize: bool, **settings: Any) -> Splits:
    """Return image files in folders, one a class; those in root/test are the test split."""
    if root is None:
        raise ValueError("root is required: data.root=FOLDER, with a folder of images a class")
    read = partial(read_folder, Path(root), settings["channels"], settings["image_size"], resize)
    return image_splits(read, Path(root).name, **settings)


def image_splits(
    read: Callable[[], ImageSet],
    name: str,
    *,
    channels: int,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    split: Sequence[float],
    split_seed: int,
    imbalance: float,
    augment: Augment,
    has_test: bool = False,
) -> Splits:
    """Cut images into splits that have every class in the same shares.

    Args:
        read: returns the images; called once the settings are known to be good.
        name: what to call them where figures are shown.
        channels: C, 1 (grey) or 3 (colour).
        image_size: S, the side in pixels.
        mean: of the pixels in [0, 1], a number a channel; models take it and `std` from here.
        std: of the pixels in [0, 1], a number a channel.
        split: shares of train, val, calibration and test; the last is 0 where a test split exists.
        split_seed: which images are held out.
        imbalance: of class k (from 0) of K, imbalance ** (k / (K - 1)) of the training images stay.
        augment: changes training batches.
        has_test: the set is known to have a test split of its own.
    """
    _check_settings(channels, image_size, mean, std, split, imbalance, augment)
    if has_test:
        _check_no_share(split)
    found = read()
    if found.test:
        _check_no_share(split)
    images, num_classes = found.images, len(found.class_names)
    if images.pixels.shape[1:] != (channels, image_size, image_size):
        shape = " x ".join(map(str, images.pixels.shape[1:]))
        raise DataError(
            f"{name}: images are {shape}; set data.channels and data.image_size to that"
        )
    generator = torch.Generator().manual_seed(stream_seed(split_seed, "split"))
    parts = stratified(images.targets, split, generator, imbalance)
    train, val, calibration, test = (Split(images.pixels[i], images.targets[i]) for i in parts)
    if found.test:
        test = Split(found.test.pixels, found.test.targets)
    if not len(train):
        raise DataError(f"{name}: no training images are left; give more, or change data.split")
    return Splits(
        train=Split(train.inputs, train.targets, augment),
        val=val,
        calibration=calibration,
        test=test,
        class_counts=torch.bincount(train.targets, minlength=num_classes),
        class_names=found.class_names,
        protocol=_describe(name, (train, val, calibration, test), found, imbalance),
    )


def stratified(
    targets: Tensor, shares: Sequence[float], generator: torch.Generator, imbalance: float = 1.0
) -> list[Tensor]:
    """Return the indices of each share, shuffled; the first one is thinned by `imbalance`.

    The images of a class stand in random order on the line from 0 to 1, and the shares cut it.
    """
    order = torch.randperm(len(targets), generator=generator)
    order = order[targets[order].argsort(stable=True)]  # by class, in random order within
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


def _check_settings(
    channels: int,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    split: Sequence[float],
    imbalance: float,
    augment: Augment,
) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}")
    if not 4 <= image_size <= 1024:
        raise ValueError(f"image_size must be from 4 to 1024, got {image_size}")
    if len(mean) != channels:
        raise ValueError(f"mean must be {channels} numbers, one a channel, got {list(mean)}")
    if len(std) != channels or min(std) <= 0:
        raise ValueError(f"std must be {channels} numbers above 0, one a channel, got {list(std)}")
    check_shares(split)
    if not 0 < imbalance <= 1:
        raise ValueError(f"imbalance must be in (0, 1], got {imbalance}")
    for setting in ("shift", "cutout"):
        pixels = getattr(augment, setting)
        if pixels >= image_size:
            raise ValueError(
                f"augment.{setting} must be less than image_size ({image_size}), got {pixels}"
            )


def _check_no_share(split: Sequence[float]) -> None:
    if split[3] != 0:
        raise ValueError(
            "split must leave 0 for test, as in [0.9,0.05,0.05,0.0]: these images have a test"
            f" split of their own, got {list(split)}"
        )


def _describe(name: str, parts: Sequence[Split], found: ImageSet, imbalance: float) -> str:
    sizes = " / ".join(f"{len(part):,}" for part in parts)
    channels, side = found.images.pixels.shape[1], found.images.pixels.shape[2]
    text = f"{name}: {len(found.class_names)} classes, {side}x{side}x{channels}"
    text += f", {sizes} train / val / calibration / test"
    text += " (the published one)" if found.test else ""
    return text + (f", training classes thinned to {imbalance:g}" if imbalance < 1 else "")
