"""Whether a damaged file of one's own is ever believed: images, texts, npz and idx files.

    python tests/stress/readers.py [--count 2000] [--seed 0]

Each trial changes a copy of a good file as a fuzzer does. The reader must give a right answer or
refuse with the one kind of error there is: never another error, and never a changed meaning without
a word, which is pixels that all became one value, a NUL in a text, or rows of scores that sum to 1.
"""

import argparse
import io
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from ngram.corpus import read_sonnets, read_text  # noqa: E402
from training.cli.calibrate_run import calibrate_file, read_logits  # noqa: E402
from training.errors import DataError  # noqa: E402
from vision.images import open_images, read_torchvision  # noqa: E402

RAMP = np.linspace(0, 1, 400).reshape(20, 20)
LOGITS = np.random.default_rng(0).normal(size=(50, 4))
LABELS = np.arange(50) % 4


def image(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    """Return the pixels as a file of that kind."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def images() -> list[bytes]:
    """Return good images of several kinds and depths, one with EXIF."""
    grey, deep = (255 * RAMP).astype(np.uint8), (65535 * RAMP).astype(np.uint16)
    exif = Image.Exif()
    exif[274], exif[271] = 6, "maker"
    kinds = [image(grey, kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP")]
    kinds += [image(deep, "PNG"), image(deep, "TIFF"), image(RAMP.astype(np.float32), "TIFF")]
    return [*kinds, image(np.stack([grey, grey.T, grey], 2), "JPEG", exif=exif)]


def texts() -> list[bytes]:
    """Return good texts in UTF-8."""
    return [read_sonnets([18]).encode(), "\ufeffna\u00efve caf\u00e9\r\n\u0939\u093f\n".encode()]


def archives() -> list[bytes]:
    """Return good npz files."""
    found = []
    for save, dtype in ((np.savez, float), (np.savez_compressed, np.float16)):
        file = io.BytesIO()
        save(file, logits=LOGITS.astype(dtype), labels=LABELS, ids=LABELS)
        found.append(file.getvalue())
    return found


def mutated(content: bytes) -> bytes:
    """Return the content with bytes flipped, cut off, repeated, zeroed or put at an extreme."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        start = random.randrange(max(1, len(changed)))
        end = start + random.choice((1, 2, 4, 16, 64))
        kind = random.choice(("flip", "extreme", "cut", "repeat", "zero", "remove"))
        if kind == "flip":
            changed[start : start + 1] = bytes([random.randrange(256)])
        elif kind == "extreme":
            changed[start:end] = random.choice((b"\xff", b"\x7f", b"\x80")) * (end - start)
        elif kind == "cut":
            del changed[start:]
        elif kind == "repeat":
            changed[start:start] = changed[start:end]
        elif kind == "zero":
            changed[start:end] = bytes(end - start)
        else:
            del changed[start:end]
    return bytes(changed)


def read_image(file: Path) -> str:
    """Open an image; say what is wrong with it."""
    (after,) = open_images([file], 1)
    with Image.open(file) as opened:
        before = np.asarray(opened.convert("RGBA") if opened.mode == "P" else opened)
    pixels = np.asarray(after)
    one_value = pixels.min() == pixels.max() and (before != before[0, 0]).any()
    return "all pixels became one value" if one_value else ""


def read_one_text(file: Path) -> str:
    """Read a text; say what is wrong with it."""
    return "holds a NUL" if "\0" in read_text(file) else ""


def read_archive(file: Path) -> str:
    """Read logits and measure them; say what is wrong with them."""
    logits, labels = read_logits(file)
    calibrate_file(file, None)
    same = np.allclose(logits, LOGITS, atol=1e-2) and np.array_equal(labels, LABELS)
    return "" if same else "other numbers than were saved"


def read_idx(file: Path) -> str:
    """Read Fashion-MNIST's layout, of which `file` is one; say what is wrong with it."""
    train, _, test, _ = read_torchvision("FashionMNIST", file.parents[2], False)
    same = len(train) == len(train.inputs) and test is not None and train.inputs.ndim == 4
    return "" if same else "images and labels of different number"


def trials(count: int, good: list[bytes], file: Path, read: Callable[[Path], str]) -> Counter[str]:
    """Return how often each outcome was seen, of `count` mutations of the good files."""
    found: Counter[str] = Counter()
    for i in range(count):
        content = mutated(good[i % len(good)])
        file.write_bytes(content)
        try:
            problem = read(file)
            found[f"WRONG: {problem}" if problem else "read"] += 1
        except DataError as error:
            one_line = "\n" not in " ".join(str(error).split())
            found["refused" if one_line else "WRONG: more than a line"] += 1
        except Exception as error:
            found[f"WRONG: {type(error).__name__}: {error}"[:100]] += 1
    return found


def idx(pixels: np.ndarray) -> bytes:
    """Return an array as an idx file."""
    head = bytes([0, 0, 8, pixels.ndim]) + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
    return head + pixels.astype(np.uint8).tobytes()


def main() -> None:
    """Mutate, read, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    warnings.simplefilter("ignore")  # Pillow's, of damaged tags
    wrong = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        generator = np.random.default_rng(0)
        for part, n in (("train", 30), ("t10k", 10)):
            pixels = idx(generator.integers(256, size=(n, 28, 28)))
            (raw / f"{part}-images-idx3-ubyte").write_bytes(pixels)
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(n) % 10))
        idx_file = raw / "train-labels-idx1-ubyte"
        readers = {
            "images": (images(), folder / "a.png", read_image),
            "texts": (texts(), folder / "a.txt", read_one_text),
            "npz": (archives(), folder / "a.npz", read_archive),
            "idx labels": ([idx_file.read_bytes()], idx_file, read_idx),
        }
        for reader, (good, file, read) in readers.items():
            found = trials(arguments.count, good, file, read)
            print(f"{reader}: {dict(sorted(found.items()))}", flush=True)
            wrong |= any("WRONG" in outcome for outcome in found)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
