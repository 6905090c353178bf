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
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folder")
    parser.add_argument("--logits", type=Path, metavar="FILE", help="npz with logits and labels")
    parser.add_argument("--fit-on", type=Path, metavar="OTHER", help="npz to fit T on (FILE)")
    parser.add_trust()
    arguments = parser.parse_args()
    if bool(arguments.runs) == bool(arguments.logits):
        raise ConfigError("give run folders or --logits FILE.npz, one of the two")
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
    try:
        fit = fit_temperature(fit_logits, fit_labels)
    except ValueError as error:
        raise DataError(f"{fit_on or file}: {error}") from error
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
    problem = find_problem(logits, labels)
    if problem:
        raise DataError(f"{file}: {problem}")
    return torch.from_numpy(logits.astype(np.float64)), torch.from_numpy(labels.astype(np.int64))


def find_problem(logits: np.ndarray, labels: np.ndarray) -> str:
    """Say why the arrays are not logits and labels; nothing if they are."""
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        return f"logits must be (N, C) and labels (N,), got {logits.shape} and {labels.shape}"
    if logits.dtype.kind not in "fiu" or labels.dtype.kind not in "iu":
        return f"logits must be numbers and labels integers, got {logits.dtype} and {labels.dtype}"
    if not len(logits):
        return "no rows"
    infinite = ~np.isfinite(logits).all(1)
    if infinite.any():
        return f"logits must be finite, row {infinite.argmax()} is not"
    outside = (labels < 0) | (labels >= logits.shape[1])
    if outside.any():
        row = outside.argmax()
        return f"labels must be in [0, {logits.shape[1]}), row {row} has {labels[row]}"
    if (logits >= 0).all() and np.allclose(logits.sum(1, dtype=np.float64), 1, rtol=0, atol=1e-3):
        return "logits are probabilities; give their logarithm"
    return ""


def print_rows(rows: dict[str, Row], protocol: str) -> None:
    """Print a row each: error, ECE, and ECE after temperature with T in brackets, in percent."""
    headings = ("error", "ECE", "ECE after (T)")
    numbers = (Column(heading, justify="right", no_wrap=True) for heading in headings)
    table = Table(Column("", overflow="fold"), *numbers)
    for name, (before, after, fit) in rows.items():
        bound = f", {fit.at_bound} bound" if fit.at_bound else ""
        error, ece, ece_after = 1 - before["accuracy"], before["ece"], after["ece"]
        after_cell = f"{100 * ece_after:.2f} ({fit.temperature:.4g}{bound})"
        table.add_row(name, f"{100 * error:.2f}", f"{100 * ece:.2f}", after_cell)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    console.print(f"in %, ECE with 15 bins; {protocol}")
    console.print(table)


if __name__ == "__main__":
    run_script(main)
