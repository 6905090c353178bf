"""Where images come from: scikit-learn's digits, torchvision's data sets, a user's own files."""

import gzip
import importlib
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

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
    """Images with the names of their classes, and the published test images where there are any."""

    images: Images
    class_names: tuple[str, ...]
    test: Images | None = None


def read_digits() -> ImageSet:
    """Return scikit-learn's 1,797 handwritten digits, 8x8; their 17 greys become 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    return ImageSet(Images(pixels, torch.from_numpy(digits.target).long()), tuple("0123456789"))


def read_torchvision(dataset: str, root: Path, download: bool) -> ImageSet:
    """Return a data set as torchvision reads, and if asked downloads, it."""
    kind = getattr(import_torchvision("datasets"), dataset)
    folder = root / dataset / "raw"
    packed = sorted(folder.glob("*-ubyte.gz"))
    unpacked = [file for file in packed if not file.with_suffix("").exists()]
    try:
        if packed and unpacked == packed:  # torchvision wants to unpack beside them, and may not
            with TemporaryDirectory() as place:
                copy = Path(place) / dataset / "raw"
                copy.mkdir(parents=True)
                for file in packed:
                    (copy / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
                train, test = (kind(place, train=part) for part in (True, False))
        else:
            with redirect_stdout(None):  # it tells of every address that it tries
                train, test = (kind(root, train=part, download=download) for part in (True, False))
        names = tuple(train.classes)
        return ImageSet(_published(train, names), names, _published(test, names))
    except DataError as error:
        raise DataError(f"data.root={root}: {dataset}, {error}") from None
    except Exception as error:  # files that are missing, damaged or out of reach raise many types
        what = f"{dataset} could not be read" if not download else f"{dataset} could not be had"
        mend = "" if download else "; data.download=true fetches it"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"data.root={root}: {what} ({reason}){mend}") from error


def _published(part: Any, class_names: Sequence[str]) -> Images:
    targets = torch.as_tensor(part.targets).long()
    bad = ((targets < 0) | (targets >= len(class_names))).nonzero()
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{'training' if part.train else 'test'} images, row {row} (from 0): label"
            f" {int(targets[row])} is none of {len(class_names)} classes (from 0)"
        )
    pixels = torch.as_tensor(part.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Images(pixels, targets)


def import_torchvision(part: str) -> ModuleType:
    """Return a module of torchvision, which costs seconds: only what uses it imports it."""
    try:
        return importlib.import_module(f"torchvision.{part}")
    except Exception as error:  # a torchvision made for another torch raises RuntimeError
        reason = str(error).split("\n")[0]
        raise DataError(
            f"torchvision cannot be imported ({reason}); install the pair of torch and torchvision"
            " from one index: pip install --force-reinstall torch torchvision; data=digits and"
            " model=small_cnn need none"
        ) from error


def read_folder(root: Path, channels: int, image_size: int, resize: bool) -> ImageSet:
    """Return the images in `root`, a folder a class; root/train and root/test are kept apart.

    Files of different sizes are refused, unless it was asked to `resize` them.
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
            f"data.root={root}: must hold at least two folders of images, one a class, found"
            f" {len(names)}"
        )
    for part in parts[1:]:
        for folder in sorted(part.iterdir()):
            if folder.is_dir() and folder.name not in names:
                raise DataError(
                    f"{folder}: is no class of {parts[0]}; take it out, or add it there"
                )
    images = [_read_classes(part, names, channels, image_size, resize) for part in parts]
    return ImageSet(images[0], tuple(names), *images[1:])


def _read_classes(
    root: Path, names: Sequence[str], channels: int, image_size: int, resize: bool
) -> Images:
    files = [
        (file, target)
        for target, name in enumerate(names)
        for file in sorted((root / name).rglob("*"))
        if file.suffix.lower() in EXTENSIONS
    ]
    for target, name in enumerate(names):
        if not any(found == target for _, found in files):
            raise DataError(f"{root / name}: holds no images ({' '.join(EXTENSIONS)})")
    pixels, first = [], None
    for row, (file, _) in enumerate(files):
        image = open_image(file, channels)
        first = first or image.size
        if image.size != first and not resize:
            sizes = [" x ".join(map(str, size)) for size in (image.size, first)]
            raise DataError(
                f"{file}: image {row} (from 0) is {sizes[0]}, those before are {sizes[1]};"
                f" data.resize=true scales all of them to {image_size} x {image_size}"
            )
        pixels.append(scaled(image, image_size))
    return Images(torch.stack(pixels), torch.tensor([target for _, target in files]))


def read_image(file: Path, channels: int, image_size: int) -> Tensor:
    """Return an image file as (C, S, S) uint8: grey or colour, scaled, its middle square."""
    return scaled(open_image(file, channels), image_size)


def open_image(file: Path, channels: int) -> Image.Image:
    """Return an image file, grey or in colour, the right way up."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` cuts off at 255
                image = image.convert("I").point(lambda x: x * (1 / 256)).convert("L")
            return image.convert(MODES[channels])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not an image that Pillow can read"
        raise DataError(f"{file}: cannot be read ({reason})") from None


def scaled(image: Image.Image, image_size: int) -> Tensor:
    """Return an image's middle square as (C, S, S) uint8."""
    channels = len(image.getbands())
    image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image_size, image_size, channels).permute(2, 0, 1).contiguous()
