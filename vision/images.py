"""The images: scikit-learn's digits, torchvision's data sets, or a user's own files."""

import gzip
import importlib
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MODES = {1: "L", 3: "RGB"}  # Pillow's names for grey and colour


@dataclass(frozen=True)
class Images:
    """Labelled images: pixels (N, C, S, S) uint8, targets (N,) int64."""

    pixels: Tensor
    targets: Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images, the names of their classes, and the images of a separate test split, if any."""

    images: Images
    class_names: tuple[str, ...]
    test: Images | None = None


def read_digits() -> ImageSet:
    """Return scikit-learn's 1,797 handwritten digits, 8x8, with their 17 greys scaled to 0-255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    return ImageSet(Images(pixels, torch.from_numpy(digits.target).long()), tuple("0123456789"))


def read_torchvision(dataset: str, root: Path, download: bool) -> ImageSet:
    """Return a data set that torchvision reads from `root`, after a download if asked for."""
    dataset_class = getattr(import_torchvision("datasets"), dataset)
    packed = sorted((root / dataset / "raw").glob("*-ubyte.gz"))
    try:
        if packed and not any(file.with_suffix("").exists() for file in packed):
            # torchvision would unpack them into their own folder, which may be read-only
            with TemporaryDirectory() as temporary:
                copy = Path(temporary) / dataset / "raw"
                copy.mkdir(parents=True)
                for file in packed:
                    (copy / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
                parts = [dataset_class(temporary, train=train) for train in (True, False)]
        else:
            with redirect_stdout(None):  # torchvision prints every address that it tries
                parts = [dataset_class(root, train, download=download) for train in (True, False)]
        return ImageSet(_images_of(parts[0]), tuple(parts[0].classes), _images_of(parts[1]))
    except DataError as error:
        raise DataError(f"data.root={root}: {dataset}, {error}") from None
    except Exception as error:  # files that are missing, damaged or out of reach raise many types
        problem = "could not be downloaded" if download else "could not be read"
        hint = "" if download else "; data.download=true downloads it"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"data.root={root}: {dataset} {problem} ({reason}){hint}") from error


def _images_of(part: Any) -> Images:
    """Return the images of a torchvision data set, with their targets checked."""
    targets = torch.as_tensor(part.targets).long()
    bad = ((targets < 0) | (targets >= len(part.classes))).nonzero()
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{'training' if part.train else 'test'} images, row {row} (from 0): label"
            f" {int(targets[row])} is none of {len(part.classes)} classes (from 0)"
        )
    pixels = torch.as_tensor(part.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Images(pixels, targets)


def import_torchvision(part: str) -> ModuleType:
    """Return a module of torchvision, imported only where it is used because it takes seconds."""
    try:
        return importlib.import_module(f"torchvision.{part}")
    except Exception as error:  # RuntimeError, where torchvision was built for another torch
        reason = str(error).split("\n")[0]
        raise DataError(
            f"torchvision cannot be imported ({reason}); install the pair of torch and torchvision"
            " from one index: pip install --force-reinstall torch torchvision; data=digits and"
            " model=small_cnn need none"
        ) from error


def read_folder(root: Path, channels: int, image_size: int, resize: bool) -> ImageSet:
    """Return the images in `root`, which holds one folder per class.

    Where both root/train and root/test exist, each holds one folder per class, and the images of
    root/test are the test split. Files of different sizes are refused unless `resize` is true.
    """
    parts = [root / name for name in ("train", "test") if (root / name).is_dir()]
    if len(parts) < 2:
        parts = [root]
    try:
        names = sorted(folder.name for folder in parts[0].iterdir() if folder.is_dir())
    except OSError as error:
        raise DataError(f"data.root={root}: cannot be read ({error.strerror})") from None
    if len(names) < 2:
        raise DataError(
            f"data.root={root}: must hold at least two folders of images, one per class, found"
            f" {len(names)}"
        )
    for part in parts[1:]:
        for folder in sorted(part.iterdir()):
            if folder.is_dir() and folder.name not in names:
                raise DataError(
                    f"{folder}: {parts[0]} has no such class; remove it, or add it there"
                )
    images = [_read_classes(part, names, channels, image_size, resize) for part in parts]
    return ImageSet(images[0], tuple(names), *images[1:])


def _read_classes(
    root: Path, names: Sequence[str], channels: int, image_size: int, resize: bool
) -> Images:
    files_of = {
        name: [f for f in sorted((root / name).rglob("*")) if f.suffix.lower() in EXTENSIONS]
        for name in names
    }
    for name, files in files_of.items():
        if not files:
            raise DataError(f"{root / name}: holds no images ({' '.join(EXTENSIONS)})")
    pixels: list[Tensor] = []
    targets: list[int] = []
    first_size: tuple[int, int] | None = None
    for target, files in enumerate(files_of.values()):
        for file in files:
            image = open_image(file, channels)
            first_size = first_size or image.size
            if image.size != first_size and not resize:
                size, earlier = (" x ".join(map(str, s)) for s in (image.size, first_size))
                raise DataError(
                    f"{file}: image {len(pixels)} (from 0) is {size}, those before are {earlier};"
                    f" data.resize=true scales all of them to {image_size} x {image_size}"
                )
            pixels.append(middle_square(image, image_size))
            targets.append(target)
    return Images(torch.stack(pixels), torch.tensor(targets))


def read_image(file: Path, channels: int, image_size: int) -> Tensor:
    """Return the middle square of an image file, scaled, as (C, S, S) uint8."""
    return middle_square(open_image(file, channels), image_size)


def open_image(file: Path, channels: int) -> Image.Image:
    """Return an image file in grey or in colour, turned as its EXIF orientation says."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits per pixel; `convert` would clip them at 255
                image = image.convert("I").point(lambda x: x * (1 / 256)).convert("L")
            return image.convert(MODES[channels])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not an image that Pillow can read"
        raise DataError(f"{file}: cannot be read ({reason})") from None


def middle_square(image: Image.Image, image_size: int) -> Tensor:
    """Return the middle square of an image, scaled, as (C, S, S) uint8."""
    image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).view(image_size, image_size, -1)
    return pixels.permute(2, 0, 1).contiguous()
