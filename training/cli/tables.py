"""A comparison as a table: in the terminal, and in the files beside its runs."""

import csv
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.cli.comparison import SIGNIFICANCE, Comparison, Row
from training.run.figures import COLUMNS


class Cell(NamedTuple):
    """One cell of a table, as plain text: whoever shows it escapes it."""

    text: str
    best: bool = False  # shown in bold


def headings(comparison: Comparison) -> list[str]:
    """Return the heading of each column."""
    return ["loss", "seeds", *(COLUMNS[name][0] for name in comparison.columns)]


def cells(comparison: Comparison) -> list[list[Cell]]:
    """Return the rows of the table: label, number of seeds, and the figures."""
    rows = []
    for row in comparison.rows:
        label = f"{row.label} ({row.excluded})" if row.excluded else row.label
        figures = [_figure(comparison, row, name) for name in comparison.columns]
        rows.append([Cell(label), Cell(str(len(row.runs))), *figures])
    return rows


def _figure(comparison: Comparison, row: Row, name: str) -> Cell:
    """Return mean and spread of a figure, with a star if it differs from the baseline's."""
    mean, spread = row.mean(name), row.spread(name)
    if math.isnan(mean):
        return Cell("")
    form = COLUMNS[name][1]
    text = form.format(mean)
    if spread is not None:
        text += f" ± {form.format(spread)}"
    if name == "ece_temperature":
        text += f" (T {row.mean('temperature'):.2f})"
    if comparison.differs_from_baseline(row, name):
        text += "*"
    return Cell(text, best=not row.excluded and mean == comparison.best(name))


def notes(comparison: Comparison) -> list[str]:
    """Return the lines below the table: how to read it, which rows won, which runs are left out."""
    legend = "mean ± standard deviation over seeds; bold: the best"
    if comparison.baseline:
        legend += f"; *: differs from {comparison.baseline.label} by more than its seeds explain"
        legend += f" (paired t-test, p < {SIGNIFICANCE})"
    else:
        legend += f"; no run of the baseline ({comparison.rows[0].runs[0].baseline})"
    lines = [legend]
    lowest: dict[str, str] = {}  # the label of each loss's row with the lowest validation nll
    for row in sorted(comparison.compared, key=lambda row: row.mean("val_nll")):
        lowest.setdefault(row.loss, row.label)
    if len(lowest) < len(comparison.compared):
        lines.append(f"lowest val nll: {'; '.join(lowest.values())}")
    return [*lines, *comparison.notes]


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the table; `Text` keeps rich from reading markup in what came from a run."""
    table = Table()
    for i, heading in enumerate(headings(comparison)):
        table.add_column(heading, justify="right" if i else "left", no_wrap=i > 0)
    for row in cells(comparison):
        table.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
    console.print()
    console.print(Text(comparison.protocol), soft_wrap=True)
    console.print(table)
    for note in notes(comparison):
        console.print(Text(note), soft_wrap=True)


def markdown(comparison: Comparison) -> str:
    """Return the table as Markdown."""
    names = headings(comparison)
    rows = [names, ["---"] + ["---:"] * (len(names) - 1)]
    for row in cells(comparison):
        texts = [(escape_markdown(cell.text), cell.best) for cell in row]
        rows.append([f"**{text}**" if best else text for text, best in texts])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    below = "\n".join(f"- {escape_markdown(note)}" for note in notes(comparison))
    return f"{escape_markdown(comparison.protocol)}\n\n{table}\n\n{below}\n"


def escape_markdown(text: str) -> str:
    r"""Return one line of text that Markdown shows as it is, also inside a table.

    >>> escape_markdown(r"word_pattern=\w+|[/], <b>*")
    'word_pattern=\\\\w+\\|\\[/\\], \\<b>\\*'
    """
    return re.sub(r"[\\|*`\[\]]|<(?=\S)", r"\\\g<0>", " ".join(text.split()))


def write_files(comparisons: list[Comparison], folder: Path) -> list[Path]:
    """Write `compare.md`, `compare.csv` and `compare.html`; return their paths."""
    from training.cli.page import page  # its imports take half a second

    files = [folder / f"compare.{kind}" for kind in ("md", "csv", "html")]
    files[0].write_text("\n".join(map(markdown, comparisons)), encoding="utf-8")
    write_csv(comparisons, files[1])
    files[2].write_text(page(comparisons), encoding="utf-8")
    return files


def write_csv(comparisons: Iterable[Comparison], path: Path) -> None:
    """Write every figure of every row, not only those shown: its mean, spread, and seeds."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        titles = "task", "loss", "excluded", "seeds", "figure", "mean", "standard deviation"
        writer.writerow(titles)
        for comparison in comparisons:
            for row in comparison.rows:
                for name in dict.fromkeys(name for run in row.runs for name in run.figures):
                    begin = [comparison.task, row.label, row.excluded, len(row.values(name)), name]
                    writer.writerow([*begin, row.mean(name), row.spread(name)])
