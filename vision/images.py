"""The images: scikit-learn's digits, torchvision's data sets, or a user's own files."""

import gzip
import os
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from PIL.Image import Transpose
from torch import Tensor

from training.data import Split
from training.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TURNS = {  # for each value of EXIF's tag Orientation
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

# images (N, C, S, S) uint8, the names of their classes, the images of a separate test split if any,
# and the median of the training images' shorter sides in pixels, before they were scaled
ImageSet = tuple[Split, tuple[str, ...], Split | None, float]


def read_digits() -> ImageSet:
    """Return scikit-learn's 1,797 handwritten digits, 8x8, with their 17 greys scaled to 0-255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
    return Split(pixels, torch.from_numpy(digits.target).long()), tuple("0123456789"), None, 8


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
        train, test = map(_images_of, parts)
        return train, tuple(parts[0].classes), test, train.inputs.shape[-1]
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
    Names that begin with a dot, and __MACOSX, are skipped at every level.
    """
    parts = [root / name for name in ("train", "test") if (root / name).is_dir()]
    parts = parts if len(parts) == 2 else [root]
    try:
        classes = [
            [f for f in sorted(part.iterdir()) if f.is_dir() and _is_data(f)] for part in parts
        ]
        files = [[image_files(folder) for folder in folders] for folders in classes]
    except OSError as error:
        raise DataError(f"data.root={root}: {error.filename}: {error.strerror}") from None
    # a name that is not UTF-8 is shown with its bytes escaped
    names, *others = ([in_utf8(folder.name) for folder in folders] for folders in classes)
    if len(names) < 2:
        raise DataError(f"data.root={root}: must hold two folders or more, one per class: {names}")
    if others and names != others[0]:
        different = ", ".join(sorted(set(names) ^ set(others[0])))
        raise DataError(f"data.root={root}: train and test must have the same classes: {different}")
    (train, side), *test = (_read(of_part, channels, image_size, resize) for of_part in files)
    return train, tuple(names), test[0][0] if test else None, side


def _is_data(path: Path) -> bool:
    """Say whether a file or folder is meant, and not left there by an editor or an archiver."""
    return not path.name.startswith(".") and path.name != "__MACOSX"


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and in those below it, links to folders among them."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        folders[:] = sorted(name for name in folders if _is_data(here / name))
        for name in folders:
            if here.resolve().is_relative_to((here / name).resolve()):
                raise DataError(f"{here / name}: is a link to a folder that it is in; remove it")
        found += [here / name for name in names if name.lower().endswith(EXTENSIONS)]
    found = sorted(filter(_is_data, found))
    if not found:
        known = ", ".join(EXTENSIONS)
        raise DataError(f"{folder}: holds no image file, whose name ends in one of {known}")
    return found


def in_utf8(name: str) -> str:
    """Return the name of a file as text; bytes that are not UTF-8 become a backslash, x and hex."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _read(classes: list[list[Path]], channels: int, side: int, resize: bool) -> tuple[Split, float]:
    """Return the images, with the median of their shorter sides."""
    pixels: list[Tensor] = []
    sizes: list[tuple[int, int]] = []
    files = [file for files in classes for file in files]
    for file, image in zip(files, open_images(files, channels), strict=True):
        sizes.append(image.size)
        if image.size != sizes[0] and not resize:
            size, earlier = (" x ".join(map(str, s)) for s in (image.size, sizes[0]))
            raise DataError(
                f"{file}: image {len(pixels)} (from 0) is {size}, those before are {earlier};"
                f" data.resize=true scales all of them to {side} x {side}"
            )
        pixels.append(middle_square(image, side))
    targets = torch.arange(len(classes)).repeat_interleave(torch.tensor([*map(len, classes)]))
    return Split(torch.stack(pixels), targets), median(map(min, sizes))


def open_images(files: Iterable[Path], channels: int) -> Iterator[Image.Image]:
    """Yield image files in grey or in colour, turned as their EXIF orientation says.

    Pixels of 8 bits stay as they are. Floats are from 0 to 1 and are multiplied by 255; pixels of
    16 or 32 bits are from 0 to 65535 and are divided by 256. Pixels outside are refused, as is an
    image of different pixels that would become one value. Where no file has deep pixels above
    4095, they hold 12 bits or fewer, and the first such file is refused.
    """
    largest, first_deep = 0, ""
    for file in files:
        try:
            image = _upright(file)
            about = f"{file}: mode {image.mode}"
            in_bytes = image
            if image.mode.startswith(("F", "I")):  # `convert` would clip them at 255
                deep, limit = np.asarray(image), 1 if image.mode == "F" else 65535
                low, high = deep.min(), deep.max()
                about += f" with pixels from {low:g} to {high:g}"
                if not (low >= 0 and high <= limit):  # NaN is not
                    raise DataError(
                        f"{about}: must be from 0 to {limit}; scale them, or save 8 bits"
                    )
                if limit > 1:
                    largest, first_deep = max(largest, high), first_deep or about
                scaled = deep // 256 if limit > 1 else (255 * deep).round()
                in_bytes = Image.fromarray(scaled.astype(np.uint8))
            result = in_bytes.convert("L" if channels == 1 else "RGB")
            if _is_one_value(result) and not _is_one_value(image):
                raise DataError(
                    f"{about}: different pixels all become {result.getpixel((0, 0))};"
                    " save what is to be seen as grey or colour of 8 bits"
                )
        except DataError:
            raise
        except Exception as error:  # of damaged files Pillow raises many types
            reason = getattr(error, "strerror", None) or "not an image that Pillow can read"
            raise DataError(f"{file}: cannot be read ({reason})") from None
        yield result
    if 0 < largest < 4096:
        raise DataError(
            f"{first_deep}: no file has pixels above {largest}, and of 16 bits 65535 is white;"
            " multiply them, or save 8 bits"
        )


def _upright(file: Path) -> Image.Image:
    """Return an image turned as its EXIF says; of that only the orientation is read."""
    with Image.open(file) as image:
        image.load()
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        return image if turn is None else image.transpose(turn)


def _is_one_value(image: Image.Image) -> bool:
    """Say whether all pixels are the same, transparency among them."""
    pixels = np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image)
    return bool((pixels == pixels[0, 0]).all())


def middle_square(image: Image.Image, image_size: int) -> Tensor:
    """Return the middle square of an image, scaled, as (C, S, S) uint8."""
    image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).view(image_size, image_size, -1)
    return pixels.permute(2, 0, 1).contiguous()
