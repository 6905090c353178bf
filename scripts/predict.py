"""Classify image files with a finished vision run.

    python scripts/predict.py outputs/RUN IMAGE...

IMAGE is a file, a folder, or a pattern in quotes, such as "photos/**/*.png". Where folders are
named as the run's classes, the accuracy is printed below the images.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path

import torch
from torch import Tensor

from metrics import apply_temperature
from training.cli.script import Parser, run_script
from training.errors import CheckpointError, ConfigError
from training.run.finished import FinishedRun, load_run
from training.run.folder import read_metrics, write_file
from training.run.untrusted import folder_at_fault, printable
from vision.data import in_pixels
from vision.images import EXTENSIONS, image_files, in_utf8, middle_square, open_images


def main() -> None:
    """Read the arguments, classify the images, write the files and print a line per image."""
    parser = Parser(description="Classify image files with a finished run.")
    parser.add_argument("run", help="run folder, as in outputs/vision-cross_entropy-seed1-...")
    images = "image file, folder, or pattern in quotes, as in 'photos/**/*.png'"
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=images)
    parser.add_argument("--top", type=int, default=3, help="classes shown per image (3)")
    for option in ("--csv", "--json"):
        parser.add_argument(option, type=Path, metavar="FILE", help="write all classes to FILE")
    parser.add_trust()
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise ConfigError(f"--top {arguments.top}: must be at least 1")
    for file in filter(None, (arguments.csv, arguments.json)):
        if file.suffix.lower() in EXTENSIONS:
            raise ConfigError(f"{file}: is named as an image, and would be written over")
    run = load_run(arguments.run, arguments.trust)
    labels = dict(pair for word in arguments.images for pair in find_images(word, run.class_names))
    with folder_at_fault(run.folder):
        probs, scales = predict(run, list(labels))
    if not probs.isfinite().all():
        raise CheckpointError(f"{run.folder}: its model gives no finite probabilities")
    far = [scale for scale in scales if not 0.5 <= scale <= 2]
    names, rows, lines = [printable(name) for name in run.class_names], [], []
    for (file, label), row, scale in zip(labels.items(), probs, scales, strict=True):
        best = row.argsort(descending=True)[: arguments.top]
        shown = ", ".join(f"{names[k]} {row[k]:.2%}" for k in best)
        if scale in far:
            shown += f" (scaled x {scale:.2g})"
        lines.append(f"{in_utf8(str(file))}: {shown}")
        rows.append([in_utf8(str(file)), label, names[best[0]], scale, *row.tolist()])
    if far:
        lines.append(f"{len(far)} of {len(rows)} images: scaled far against the training images")
    if right := [row[1] == row[2] for row in rows if row[1]]:
        share = sum(right) / len(right)
        lines.append(f"accuracy {share:.2%} of {len(right)} images in folders named as a class")
    columns = ["file", "label", "predicted", "scale", *(f"p({name})" for name in names)]
    try:
        write_rows(columns, rows, arguments.csv, arguments.json)
    finally:
        print(*lines, sep="\n")


def write_rows(
    columns: list[str], rows: list[list[str | float]], as_csv: Path | None, as_json: Path | None
) -> None:
    """Write a row per image as comma-separated values, and as a list of objects."""
    if as_csv:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([columns, *rows])
        write_file(as_csv, text.getvalue().encode())
    if as_json:
        objects = [dict(zip(columns, row, strict=True)) for row in rows]
        write_file(as_json, json.dumps(objects, indent=1).encode())


def find_images(word: str, class_names: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Yield the image files that an argument means, each with the class its folder is named as.

    Looked at are the folder that was given, or that holds the file, and those below it. The deepest
    that is named as a class counts; where none is, the class is "".
    """
    matches = [] if os.path.lexists(word) else sorted(glob(word, recursive=True))
    for path in map(Path, matches or [word]):
        is_folder = path.is_dir()
        top = Path(os.path.abspath(path if is_folder else path.parent))
        for file in image_files(path) if is_folder else [path]:
            parts = Path(os.path.abspath(file)).relative_to(top.parent).parts[:-1]
            named = [name for name in map(in_utf8, parts) if name in class_names]
            yield file, printable(named[-1]) if named else ""


@torch.no_grad()
def predict(run: FinishedRun, files: list[Path]) -> tuple[Tensor, list[float]]:
    """Return probabilities (N, K), calibrated by the run's temperature, and scales.

    The scale is 2 for an image half as large as the training images were before they were scaled.
    """
    data = run.cfg.data
    if "image_size" not in data:
        raise ConfigError(f"{run.folder}: not a vision run; it reads no images")
    kept = {name: value for line in read_metrics(run.folder) for name, value in line.items()}
    if "temperature" not in kept:
        print(f"{run.folder}: no temperature was fitted, so T = 1 is used", file=sys.stderr)
    pixels, scales = [], []
    for image in open_images(files, data.channels):
        pixels.append(middle_square(image, data.image_size))
        scales.append(kept.get("shorter_side", data.image_size) / min(image.size))
    mean, std = in_pixels(data.mean), in_pixels(data.std)
    logits = [run.model((some.float() - mean) / std) for some in torch.stack(pixels).split(256)]
    log_probs = run.loss_fn.log_probs(torch.cat(logits))
    return apply_temperature(log_probs, kept.get("temperature", 1.0)).exp(), scales


if __name__ == "__main__":
    run_script(main)
