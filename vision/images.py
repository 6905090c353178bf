"""The images: scikit-learn's digits, torchvision's data sets, or a user's own files."""

import gzip
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.data import Split
from training.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

# images (N, C, S, S) uint8, the names of their classes, the images of a separate test split, if any
ImageSet = tuple[Split, tuple[str, ...], Split | None]


def read_digits() -> ImageSet:
    """Return scikit-learn's 1,797 handwritten digits, 8x8, with their 17 greys scaled to 0-255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    return Split(pixels, torch.from_numpy(digits.target).long()), tuple("0123456789"), None


def read_torchvision(dataset: str, root: Path, download: bool) -> ImageSet:
    """Return a data set that torchvision reads from `root`, after a download if asked for."""
    dataset_class = getattr(import_torchvision().datasets, dataset)
    folder, packed = root, sorted((root / dataset / "raw").glob("*-ubyte.gz"))
    try:
        # torchvision prints every address that it tries
        with TemporaryDirectory() as temporary, redirect_stdout(None):
            if len(packed) == 4 and not any(file.with_suffix("").exists() for file in packed):
                # it would unpack them beside themselves, in a folder that may be read-only
                folder = Path(temporary)
                raw = folder / dataset / "raw"
                raw.mkdir(parents=True)
                for file in packed:
                    (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
            parts = [dataset_class(folder, train, download=download) for train in (True, False)]
        return _images_of(parts[0]), tuple(parts[0].classes), _images_of(parts[1])
    except Exception as error:  # files that are missing, damaged or out of reach raise many types
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "" if download else "; data.download=true downloads it"
        raise DataError(f"data.root={root}: {dataset} cannot be read ({reason}){hint}") from error


def _images_of(part: Any) -> Split:
    """Return the images of a torchvision data set, with their targets checked."""
    targets = torch.as_tensor(part.targets).long()
    row, kind = int(targets.argmax()), "training" if part.train else "test"
    if targets[row] >= len(part.classes):
        raise ValueError(f"{kind} images, row {row} (from 0): no class has label {targets[row]}")
    pixels = torch.as_tensor(part.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Split(pixels, targets)


def import_torchvision() -> ModuleType:
    """Return torchvision, imported only where it is used because it takes seconds."""
    try:
        import torchvision

        return torchvision
    except Exception as error:  # RuntimeError, where torchvision was built for another torch
        raise DataError(
            f"torchvision cannot be imported ({error}); install the pair of torch and torchvision"
            " from one index: pip install --force-reinstall torch torchvision; data=digits and"
            " model=small_cnn need none"
        ) from error


def read_folder(root: Path, channels: int, image_size: int, resize: bool) -> ImageSet:
    """Return the images in `root`, which holds one folder per class.

    Where both root/train and root/test exist, each holds one folder per class, and the images of
    root/test are the test split. Files of different sizes are refused unless `resize` is true.
    """
    parts = [root / name for name in ("train", "test") if (root / name).is_dir()]
    parts = parts if len(parts) == 2 else [root]
    folder_class = import_torchvision().datasets.DatasetFolder
    try:
        folders = [folder_class(part, open_image, EXTENSIONS) for part in parts]
    except OSError as error:
        raise DataError(f"data.root={root}: {error}") from None
    names, others = folders[0].classes, folders[-1].classes
    if len(names) < 2:
        raise DataError(f"data.root={root}: must hold two folders or more, one per class: {names}")
    if names != others:
        different = ", ".join(sorted(set(names) ^ set(others)))
        raise DataError(f"data.root={root}: train and test must have the same classes: {different}")
    train, *test = (_read(part.samples, channels, image_size, resize) for part in folders)
    return train, tuple(names), test[0] if test else None


def _read(samples: list[tuple[str, int]], channels: int, side: int, resize: bool) -> Split:
    pixels: list[Tensor] = []
    first_size: tuple[int, int] | None = None
    for file, _ in samples:
        image = open_image(Path(file), channels)
        first_size = first_size or image.size
        if image.size != first_size and not resize:
            size, earlier = (" x ".join(map(str, s)) for s in (image.size, first_size))
            raise DataError(
                f"{file}: image {len(pixels)} (from 0) is {size}, those before are {earlier};"
                f" data.resize=true scales all of them to {side} x {side}"
            )
        pixels.append(middle_square(image, side))
    return Split(torch.stack(pixels), torch.tensor([target for _, target in samples]))


def open_image(file: Path, channels: int) -> Image.Image:
    """Return an image file in grey or in colour, turned as its EXIF orientation says."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits per pixel; `convert` would clip them at 255
                image = image.convert("I").point(lambda x: x * (1 / 256)).convert("L")
            return image.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "not an image that Pillow can read"
        raise DataError(f"{file}: cannot be read ({reason})") from None


def middle_square(image: Image.Image, image_size: int) -> Tensor:
    """Return the middle square of an image, scaled, as (C, S, S) uint8."""
    image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).view(image_size, image_size, -1)
    return pixels.permute(2, 0, 1).contiguous()
