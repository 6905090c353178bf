"""Fit a temperature, and print error and ECE before and after, as papers do.

    python scripts/calibrate.py outputs/RUN...
    python scripts/calibrate.py --logits FILE.npz

T is fitted on a run's calibration split and measured on its test split. FILE.npz holds arrays
`logits` (N, C) and `labels` (N,). By default T is fitted on the rows that it is measured on, which
for a single number flatters the result only a little; `--fit-on OTHER.npz` fits it on other rows.
"""

import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Column, Table

from metrics import Metrics, TemperatureFit, apply_temperature, fit_temperature
from training.cli.script import Parser, run_script
from training.errors import ConfigError, DataError
from training.evaluation import evaluate, recalibrate
from training.run.finished import load_run

Row = tuple[dict[str, float], dict[str, float], TemperatureFit]  # metrics before and after


def main() -> None:
    """Parse the arguments, fit, and print the table."""
    parser = Parser(description="Temperature scaling of finished runs, or of logits from anywhere.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("runs", nargs="*", default=[], metavar="RUN", help="run folder")
    source.add_argument("--logits", type=Path, metavar="FILE", help="npz with logits and labels")
    parser.add_argument("--fit-on", type=Path, metavar="OTHER", help="npz to fit T on (FILE)")
    parser.add_trust()
    arguments = parser.parse_args()
    if arguments.fit_on and not arguments.logits:
        raise ConfigError("--fit-on needs --logits: a run has its own calibration split")
    if arguments.logits:
        rows = {arguments.logits.stem: calibrate_file(arguments.logits, arguments.fit_on)}
        print_rows(rows, f"T fitted on {arguments.fit_on or 'the same rows'}")
    else:
        rows = {Path(run).name: calibrate_run(run, arguments.trust) for run in arguments.runs}
        print_rows(rows, "test split, T fitted on the calibration split")


def calibrate_run(folder: str, trusted: list[str]) -> Row:
    """Fit T on the run's calibration split, and measure its test split before and after."""
    run = load_run(folder, trusted)
    splits = run.splits()
    if not len(splits.calibration) or not len(splits.test):
        raise DataError(f"{folder}: its data has no calibration or no test split")
    after = recalibrate(run.model, run.loss_fn, splits.calibration, splits.test, splits.num_classes)
    before = evaluate(run.model, run.loss_fn, splits.test, splits.num_classes)
    return before.metrics, after.test.metrics, after.fit


def calibrate_file(file: Path, fit_on: Path | None) -> Row:
    """Fit T on the logits of `fit_on`, or of `file` itself, and measure those of `file`."""
    logits, labels = read_logits(file)
    fit_logits, fit_labels = read_logits(fit_on) if fit_on else (logits, labels)
    if fit_logits.shape[1] != logits.shape[1]:
        raise DataError(f"{fit_on}: {fit_logits.shape[1]} classes, {file} has {logits.shape[1]}")
    fit = fit_temperature(fit_logits, fit_labels)
    return measure(logits, labels, 1.0), measure(logits, labels, fit.temperature), fit


def measure(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> dict[str, float]:
    """Return the metrics of the softmax of logits / T."""
    metrics = Metrics(logits.shape[1], classwise=False)
    for rows, targets in zip(logits.split(1024), labels.split(1024), strict=True):
        metrics.update(apply_temperature(rows, temperature), targets)
    return metrics.compute()


def read_logits(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (N, C) and labels (N,), or say what is wrong with the file."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            logits, labels = arrays["logits"], arrays["labels"]
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except KeyError:
        raise DataError(f"{file}: must hold arrays named logits and labels") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile):
        raise DataError(f"{file}: cannot be read as an npz file of numbers") from None
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        problem = f"logits must be (N, C) and labels (N,), got {logits.shape} and {labels.shape}"
    elif logits.dtype.kind not in "fiu" or labels.dtype.kind not in "iu":
        problem = f"logits must be numbers, labels integers, got {logits.dtype} and {labels.dtype}"
    elif not len(logits):
        problem = "no rows"
    elif (infinite := ~np.isfinite(logits).all(1)).any():
        problem = f"logits must be finite, row {infinite.argmax()} is not"
    elif (outside := (labels < 0) | (labels >= logits.shape[1])).any():
        row = outside.argmax()
        problem = f"labels must be in [0, {logits.shape[1]}), row {row} has {labels[row]}"
    elif (logits >= 0).all() and np.allclose(logits.sum(1, dtype=float), 1, rtol=0, atol=1e-3):
        problem = "logits are probabilities; give their logarithm"
    else:
        return torch.from_numpy(logits).double(), torch.from_numpy(labels).long()
    raise DataError(f"{file}: {problem}")


def print_rows(rows: dict[str, Row], protocol: str) -> None:
    """Print a row each: error, ECE, and ECE after temperature with T in brackets, in percent."""
    headings = ("error", "ECE", "ECE after (T)")
    numbers = (Column(heading, justify="right", no_wrap=True) for heading in headings)
    table = Table(Column("", overflow="fold"), *numbers)
    for name, (before, after, fit) in rows.items():
        shares = 1 - before["accuracy"], before["ece"], after["ece"]
        error, ece, ece_after = (f"{100 * share:.2f}" for share in shares)
        bound = f", {fit.at_bound} bound" if fit.at_bound else ""
        table.add_row(name, error, ece, f"{ece_after} ({fit.temperature:.4g}{bound})")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    console.print(f"in %, ECE with 15 bins; {protocol}")
    console.print(table)


if __name__ == "__main__":
    run_script(main)
