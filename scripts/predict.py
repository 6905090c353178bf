"""Classify image files with a finished vision run.

python scripts/predict.py outputs/RUN IMAGE...
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from metrics import apply_temperature
from training.cli.script import Parser, run_script
from training.errors import CheckpointError, ConfigError
from training.run.finished import FinishedRun, load_run
from training.run.folder import read_metrics
from training.run.untrusted import folder_at_fault, printable
from vision.data import in_pixels
from vision.images import in_utf8, middle_square, open_images


def main() -> None:
    """Read the arguments, classify the images and print one line per image."""
    parser = Parser(description="Classify image files with a finished run.")
    parser.add_argument("run", help="run folder, as in outputs/vision-cross_entropy-seed1-...")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image file")
    parser.add_argument("--top", type=int, default=3, help="classes shown per image (3)")
    parser.add_trust()
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise ConfigError(f"--top {arguments.top}: must be at least 1")
    run = load_run(arguments.run, arguments.trust)
    with folder_at_fault(run.folder):
        probs, classes = predict(run, arguments.images).sort(1, descending=True)
    if not probs.isfinite().all():
        raise CheckpointError(f"{run.folder}: its model gives no finite probabilities")
    names = [printable(name) for name in run.class_names]
    for file, row, order in zip(arguments.images, probs, classes, strict=True):
        best = zip(row[: arguments.top], order[: arguments.top], strict=True)
        print(f"{in_utf8(str(file))}:", ", ".join(f"{names[k]} {p:.2%}" for p, k in best))


@torch.no_grad()
def predict(run: FinishedRun, files: list[Path]) -> Tensor:
    """Return probabilities (N, K) of the run's classes, calibrated by the run's temperature."""
    data = run.cfg.data
    if "image_size" not in data:
        raise ConfigError(f"{run.folder}: not a vision run; it reads no images")
    opened = open_images(files, data.channels)
    pixels = torch.stack([middle_square(image, data.image_size) for image in opened])
    images = (pixels.float() - in_pixels(data.mean)) / in_pixels(data.std)
    log_probs = run.loss_fn.log_probs(torch.cat([run.model(x) for x in images.split(256)]))
    fitted = [line["temperature"] for line in read_metrics(run.folder) if "temperature" in line]
    if not fitted:
        print(f"{run.folder}: no temperature was fitted, so T = 1 is used", file=sys.stderr)
    return apply_temperature(log_probs, fitted[-1] if fitted else 1.0).exp()


if __name__ == "__main__":
    run_script(main)
