"""Classify image files with a finished vision run.

python scripts/predict.py outputs/RUN IMAGE...
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from metrics.temperature import apply_temperature
from training.errors import ConfigError, UserError
from training.run.finished import TRUST, FinishedRun, load_run, read_metrics
from vision.images import read_image


def main() -> None:
    """Parse, classify, print a line an image."""
    parser = argparse.ArgumentParser(description="Classify image files with a finished run.")
    parser.add_argument("run", help="run folder, as in outputs/vision-cross_entropy-seed1-...")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image file")
    parser.add_argument("--top", type=int, default=3, help="classes shown an image (3)")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help=TRUST)
    arguments = parser.parse_args()
    try:
        if arguments.top < 1:
            raise ConfigError(f"--top {arguments.top}: must be at least 1")
        run = load_run(arguments.run, arguments.trust)
        probs, classes = predict(run, arguments.images).sort(1, descending=True)
        for file, row, order in zip(arguments.images, probs, classes, strict=True):
            best = zip(row[: arguments.top], order[: arguments.top], strict=True)
            print(f"{file}:", ", ".join(f"{run.class_names[k]} {p:.2%}" for p, k in best))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@torch.no_grad()
def predict(run: FinishedRun, files: list[Path]) -> Tensor:
    """Return the probabilities (N, K) of the run's classes, calibrated by its temperature."""
    data = run.cfg.data
    if "image_size" not in data:
        raise ConfigError(f"{run.folder}: not a vision run; it reads no images")
    images = torch.stack([read_image(file, data.channels, data.image_size) for file in files])
    logits = torch.cat([run.model(batch) for batch in images.split(256)])
    return apply_temperature(run.loss_fn.log_probs(logits), temperature_of(run)).exp()


def temperature_of(run: FinishedRun) -> float:
    """Return the temperature that the run fitted at its end, on its calibration split."""
    for line in reversed(read_metrics(run.folder)):
        if "temperature" in line:
            return float(line["temperature"])
    print(f"{run.folder}: has no temperature, so these are its loss's own", file=sys.stderr)
    return 1.0


if __name__ == "__main__":
    main()
