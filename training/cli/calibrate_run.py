"""Fit a temperature, and print error and ECE before and after, as papers do.

    python scripts/calibrate.py outputs/RUN...
    python scripts/calibrate.py --logits FILE.npz --out FOLDER

T is fitted on a run's calibration split and measured on its test split. FILE.npz holds arrays
`logits` (N, C) and `labels` (N,). By default T is fitted on the rows that it is measured on, which
for a single number flatters the result only a little; `--fit-on OTHER.npz` fits it on other rows.
FOLDER gets reliability.png, report.json with every figure, and the row of the table as row.md.
"""

import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

import metrics
from metrics import MetricsReport
from training.cli.script import Parser, run_script
from training.cli.tables import escape_markdown
from training.errors import CheckpointError, ConfigError, DataError
from training.evaluation import evaluate, recalibrate
from training.run.figures import markdown_rows
from training.run.finished import load_run
from training.run.folder import write_file, writing


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
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write diagram, figures, row")
    parser.add_argument("--data", default="", metavar="PATH", help="where a run's data is now")
    parser.add_trust()
    given = parser.parse_args()
    if (given.fit_on or given.out) and not given.logits:
        raise ConfigError("--fit-on and --out need --logits: a run has its own split and diagram")
    if given.logits:
        rows = {given.logits.stem: calibrate_file(given.logits, given.fit_on)}
        protocol = f"T fitted on {given.fit_on or 'the same rows'}"
    else:
        rows = {Path(run).name: calibrate_run(run, given.trust, given.data) for run in given.runs}
        protocol = "test split, T fitted on the calibration split"
    protocol = f"error, ECE and floor in %, ECE with 15 bins; {protocol}"
    try:
        if given.out:
            write_files(given.out, rows, protocol)
    finally:
        print_rows(rows, protocol)


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
            arrays = NpzFile(stream, allow_pickle=False)
            assert arrays.zip  # it is None once that is closed
            if any(name.endswith("/data.pkl") for name in arrays.files):
                raise DataError(f"{file}: is torch's own format; torch.load it, and {saved}")
            if damaged := arrays.zip.testzip():  # NumPy may not read as far as the checksum
                raise DataError(f"{file}: {damaged} is damaged")
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


def table(rows: dict[str, MetricsReport]) -> list[list[str]]:
    """Return headings and rows: error and ECE in percent, as papers print them, and the scores.

    ECE has its 95 % interval, and beside it the floor that chance alone gives it.
    """
    cells = [["", "error", "nll", "Brier", "ECE [95 %]", "floor", "ECE after (T)"]]
    for name, report in rows.items():
        figures = report.to_dict() | {"error": 1 - report.metrics["accuracy"]}
        percent = {key: f"{100 * value:.2f}" for key, value in figures.items()}
        scores = [f"{figures[key]:.4f}" for key in ("nll", "brier")]
        ece = "{ece} [{ece_low}, {ece_high}]".format_map(percent)
        after = f"{percent['ece_temperature']} ({figures['temperature']:.4g})"
        cells.append([name, percent["error"], *scores, ece, percent["ece_null"], after])
    return cells


def print_rows(rows: dict[str, MetricsReport], protocol: str) -> None:
    """Print the table, no number cut at 80 columns, and where T = 1 was kept."""
    headings, *cells = table(rows)
    columns = (Column(heading, justify="right", no_wrap=True) for heading in headings[1:])
    shown = Table(Column("", overflow="fold"), *columns, box=SIMPLE_HEAD, collapse_padding=True)
    for name, *figures in cells:
        shown.add_row(name, *(figure.replace(" [", "\n[") for figure in figures))
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    console.print(protocol)
    console.print(shown)
    for name, report in rows.items():
        if report.fit and report.fit.kept_because:
            console.print(f"{name}: T = 1 is kept: {report.fit.kept_because}", soft_wrap=True)


def write_files(folder: Path, rows: dict[str, MetricsReport], protocol: str) -> None:
    """Write the table as row.md, and of the last row the diagrams and every figure by its name.

    A figure that is not finite is null in report.json.
    """
    *_, report = rows.values()
    diagram = io.BytesIO()
    report.figure().savefig(diagram, format="png")
    figures = {k: v if math.isfinite(v) else None for k, v in report.to_dict().items()}
    cells = [[escape_markdown(name), *figures] for name, *figures in table(rows)]
    row = f"{markdown_rows(cells)}\n\n{protocol}\n"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "reliability.png", diagram.getvalue())
    write_file(folder / "report.json", (json.dumps(figures, indent=1) + "\n").encode())
    write_file(folder / "row.md", row.encode("utf-8", "backslashreplace"))
