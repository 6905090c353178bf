"""A comparison as a table: in the terminal, and in the files beside its runs."""

import csv
import io
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from training.cli.comparison import Comparison, Row
from training.run.figures import COLUMNS, markdown_rows
from training.run.folder import write_file

# headings: what a narrow screen shows before all others
IMPORTANT = (
    *("loss", "nll", "accuracy", "worst class", "ECE", "balanced accuracy", "ECE at T"),
    *("seeds", "refinement", "calibration", "val nll"),
)
LABEL = 24  # characters that the names of rows have, before a column is left out for their sake


def cells(comparison: Comparison, *, spreads: bool = True) -> list[list[Text]]:
    """Return the headings and the rows: label, number of seeds, and the figures, the best in bold.

    `Text` keeps rich from reading markup in what came from a run; other formats escape it.
    """
    headings = ["loss", "seeds", *(COLUMNS[name][0] for name in comparison.columns)]
    rows = [[Text(heading) for heading in headings]]
    for row in comparison.rows:
        label = f"{row.label} ({row.excluded})" if row.excluded else row.label
        figures = [_figure(comparison, row, name, spreads) for name in comparison.columns]
        rows.append([Text(label), Text(str(len(row.runs))), *figures])
    return rows


def _figure(comparison: Comparison, row: Row, name: str, spreads: bool) -> Text:
    """Return mean and spread of a figure, with a star if it differs from the baseline's."""
    mean, spread = row.mean(name), row.spread(name)
    if math.isnan(mean):
        return Text()
    form = COLUMNS[name][1]
    text = form.format(mean)
    if spreads and spread is not None:
        text += f" ± {form.format(spread)}"
    if name == "ece_temperature":
        text += f" (T {row.mean('temperature'):.2f})"
    if row.differs(name):
        text += "*"
    is_best = not row.excluded and mean == comparison.best(name)
    return Text(text, style="bold" if is_best else "")


def print_comparisons(comparisons: Iterable[Comparison], width: int | None = None) -> None:
    """Print the tables, with what they were measured on above, and the notes and verdict below."""
    width = width or (None if sys.stdout.isatty() else 240)
    console = Console(width=width, highlight=False)
    for comparison in comparisons:
        table, is_whole = _table_that_fits(comparison, console)
        lines = [*comparison.notes, "", *comparison.verdict]
        if not is_whole:
            lines.insert(0, "a wider screen shows more, and compare.html all of it")
        console.print()
        for part in (Text(comparison.protocol), table, *map(Text, lines)):
            console.print(part, soft_wrap=isinstance(part, Text) and not console.is_terminal)


def _table_that_fits(comparison: Comparison, console: Console) -> tuple[Table, bool]:
    """Return the table, on a narrow screen with fewer columns or no spreads, and if it is whole.

    Long names of rows are folded at blanks.
    """
    for spreads, least in ((True, 5), (False, 2)):
        rows = cells(comparison, spreads=spreads)
        headings = [heading.plain for heading in rows[0]]
        ranked = [*dict.fromkeys([*(name for name in IMPORTANT if name in headings), *headings])]
        for count in range(len(headings), min(least, len(headings)) - 1, -1):
            kept = [i for i, name in enumerate(headings) if name in ranked[:count]]
            label, *names = (rows[0][i] for i in kept)
            numbers = (Column(name, justify="right", no_wrap=True) for name in names)
            table = Table(Column(label, overflow="fold", max_width=LABEL), *numbers)
            for row in rows[1:]:
                table.add_row(*(row[i] for i in kept))
            unlimited = console.options.update(width=10_000)
            fits = console.measure(table, options=unlimited).maximum <= console.width
            table.columns[0].max_width = None
            if fits:
                return table, spreads and count == len(headings)
    return table, False


def markdown(comparison: Comparison) -> str:
    """Return the table as Markdown."""
    rows = []
    for row in cells(comparison):
        texts = [(escape_markdown(cell.plain), cell.style) for cell in row]
        rows.append([f"**{text}**" if bold else text for text, bold in texts])
    lines = (*comparison.notes, *comparison.verdict)
    below = "\n".join(f"- {escape_markdown(line)}" for line in lines)
    return f"{escape_markdown(comparison.protocol)}\n\n{markdown_rows(rows)}\n\n{below}\n"


def escape_markdown(text: str) -> str:
    r"""Return one line of text that Markdown shows as it is, also inside a table.

    >>> escape_markdown(r"word_pattern=\w+|[/], <b>*")
    'word_pattern=\\\\w+\\|\\[/\\], \\<b>\\*'
    """
    return re.sub(r"[\\|*`\[\]]|<(?=\S)", r"\\\g<0>", " ".join(text.split()))


def write_files(comparisons: list[Comparison], folder: Path, command: Sequence[str]) -> list[Path]:
    """Write `compare.md`, `compare.csv` and `compare.html`; return their paths.

    Args:
        comparisons: one per task.
        folder: where the files go.
        command: the words that made the comparisons, which the page shows.
    """
    from training.cli.page import page  # its imports take half a second

    files = [folder / f"compare.{kind}" for kind in ("md", "csv", "html")]
    texts = "\n".join(map(markdown, comparisons)), csv_of(comparisons), page(comparisons, command)
    for file, text in zip(files, texts, strict=True):
        write_file(file, text.encode(), durable=False)
    return files


def csv_of(comparisons: Iterable[Comparison]) -> str:
    """Return every figure of every row, not only those shown: its mean, spread, and seeds.

    Where a figure is measured per example, its difference to the baseline follows, with a 95 %
    interval, Holm's p-value, and the smallest difference that would have been found 4 times in 5.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    titles = ["task", "loss", "excluded", "seeds", "figure", "mean", "standard deviation"]
    writer.writerow([*titles, "difference", "low", "high", "p", "smallest"])
    for comparison in comparisons:
        for row in comparison.rows:
            for name in dict.fromkeys(name for run in row.runs for name in run.figures):
                begin = [comparison.task, row.label, row.excluded, len(row.values(name)), name]
                found = row.differences.get(name)
                end = (found.mean, *found.interval(), found.p, found.smallest()) if found else ()
                writer.writerow([*begin, row.mean(name), row.spread(name), *end])
    return file.getvalue()
