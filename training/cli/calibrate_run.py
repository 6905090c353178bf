"""Fit a temperature, and print error and ECE before and after, as papers do.

    python scripts/calibrate.py outputs/RUN...
    python scripts/calibrate.py --logits FILE.npz

T is fitted on a run's calibration split and measured on its test split. FILE.npz holds arrays
`logits` (N, C) and `labels` (N,). By default T is fitted on the rows that it is measured on, which
for a single number flatters the result only a little; `--fit-on OTHER.npz` fits it on other rows.
"""

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table

import metrics
from metrics import MetricsReport
from training.cli.script import Parser, run_script
from training.errors import CheckpointError, ConfigError, DataError
from training.evaluation import evaluate, recalibrate
from training.run.finished import load_run


def main() -> None:
    """Calibrate what the command line names; exit with the right code."""
    run_script(calibrate)


def calibrate() -> None:
    """Parse the arguments, fit, and print the table."""
    parser = Parser(description="Temperature scaling of finished runs, or of logits from anywhere.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("runs", nargs="*", default=[], metavar="RUN", help="run folder")
    source.add_argument("--logits", type=Path, metavar="FILE", help="npz with logits and labels")
    parser.add_argument("--fit-on", type=Path, metavar="OTHER", help="npz to fit T on (FILE)")
    parser.add_argument("--data", default="", metavar="PATH", help="where a run's data is now")
    parser.add_trust()
    arguments = parser.parse_args()
    if arguments.fit_on and not arguments.logits:
        raise ConfigError("--fit-on needs --logits: a run has its own calibration split")
    if arguments.logits:
        rows = {arguments.logits.stem: calibrate_file(arguments.logits, arguments.fit_on)}
        print_rows(rows, f"T fitted on {arguments.fit_on or 'the same rows'}")
    else:
        rows = {
            Path(run).name: calibrate_run(run, arguments.trust, arguments.data)
            for run in arguments.runs
        }
        print_rows(rows, "test split, T fitted on the calibration split")


def calibrate_run(folder: str, trusted: list[str], data: str = "") -> MetricsReport:
    """Fit T on the run's calibration split, and measure its test split before and after."""
    run = load_run(folder, trusted)
    splits = run.splits(data)
    if not len(splits.calibration) or not len(splits.test):
        raise DataError(f"{folder}: its data has no calibration or no test split")
    try:
        before = evaluate(run.model, run.loss_fn, splits.test, splits.num_classes, objective=False)
        held_out = splits.calibration, splits.test
        fit, after = recalibrate(run.model, run.loss_fn, *held_out, splits.num_classes)
    except Exception as error:  # of weights that no training gives
        raise CheckpointError(f"{folder}: cannot be measured ({error})") from error
    return replace(before, fit=fit, after=after)


def calibrate_file(file: Path, fit_on: Path | None) -> MetricsReport:
    """Fit T on the logits of `fit_on`, or of `file` itself, and measure those of `file`."""
    logits, labels = read_logits(file)
    other_logits, other_labels = read_logits(fit_on) if fit_on else (logits, labels)
    try:
        return metrics.report(labels, logits=logits, fit_on=(other_labels, other_logits))
    except (ValueError, TypeError) as error:
        problem = str(error).replace("give probs=", "give their logarithm")
        raise DataError(f"{file}{f', {fit_on}' if fit_on else ''}: {problem}") from error


def read_logits(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (N, C) and labels (N,), or say what is wrong with the file.

    Arrays of other names are named, since they may be the ones that were meant.
    """
    saved = f"save both with np.savez('{file.stem}.npz', logits=..., labels=...)"
    try:
        with file.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                raise DataError(f"{file}: holds one array; {saved}")
            with zipfile.ZipFile(stream) as archive:
                if any(name.endswith("/data.pkl") for name in archive.namelist()):
                    raise DataError(f"{file}: is torch's own format; torch.load it, and {saved}")
                if damaged := archive.testzip():  # NumPy may not read as far as the checksum
                    raise DataError(f"{file}: {damaged} is damaged")
            stream.seek(0)
            arrays = np.load(stream, allow_pickle=False)
            found = [arrays[name] for name in ("logits", "labels") if name in arrays]
            others = sorted(set(arrays.files) - {"logits", "labels"})
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except DataError:
        raise
    except Exception as error:  # of damaged files NumPy and zipfile raise many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file}: cannot be read as an npz file of numbers ({reason})") from None
    if len(found) < 2:
        names = f", got {', '.join(others)}" if others else ""
        raise DataError(f"{file}: must hold arrays named logits and labels{names}")
    if not all(isinstance(array, np.ndarray) for array in found):
        raise DataError(f"{file}: logits and labels must be arrays; {saved}")
    if others:
        print(f"{file}: not used: {', '.join(others)}", file=sys.stderr)
    return found[0], found[1]


def print_rows(rows: dict[str, MetricsReport], protocol: str) -> None:
    """Print a row each: error, ECE, and ECE after temperature with T in brackets, in percent."""
    headings = ("error", "ECE", "ECE after (T)")
    numbers = (Column(heading, justify="right", no_wrap=True) for heading in headings)
    table = Table(Column("", overflow="fold"), *numbers)
    for name, report in rows.items():
        figures = report.to_dict()
        shares = 1 - figures["accuracy"], figures["ece"], figures["ece_temperature"]
        error, ece, ece_after = (f"{100 * share:.2f}" for share in shares)
        table.add_row(name, error, ece, f"{ece_after} ({figures['temperature']:.4g})")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    console.print(f"in %, ECE with 15 bins; {protocol}")
    console.print(table)
    for name, report in rows.items():
        if report.fit and report.fit.kept_because:
            console.print(f"{name}: T = 1 is kept: {report.fit.kept_because}", soft_wrap=True)
