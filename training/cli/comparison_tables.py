"""A comparison for the terminal, as Markdown, as CSV, and as one page of HTML."""

import base64
import csv
import html
import io
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from training.cli.comparison import SIGNIFICANCE, Comparison, Row, Run
from training.run.figures import COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = ("val/nll", "val/accuracy", "val/ece", "train/loss")


def cell(comparison: Comparison, row: Row, name: str, bold: str) -> str:
    """Return a figure as text: mean, spread, the mark of a real difference, bold where best."""
    mean, spread = row.mean(name), row.spread(name)
    if math.isnan(mean):
        return ""
    form = COLUMNS[name][1]
    text = form.format(mean) + (f" ± {form.format(spread)}" if spread is not None else "")
    if name == "ece_temperature":
        text += f" (T {row.mean('temperature'):.2f})"
    text += "*" if comparison.differs(row, name) else ""
    return bold.format(text) if not row.mark and mean == comparison.best(name) else text


def cells(comparison: Comparison, bold: str) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the table; `bold` is a format, as in "**{}**"."""
    headings = ["loss", "seeds", *(COLUMNS[name][0] for name in comparison.columns)]
    rows = [
        [
            f"{row.label} ({row.mark})" if row.mark else row.label,
            str(len(row.runs)),
            *(cell(comparison, row, name, bold) for name in comparison.columns),
        ]
        for row in comparison.rows
    ]
    return headings, rows


def notes(comparison: Comparison) -> list[str]:
    """Return what has to be said below the table."""
    legend = "mean ± standard deviation over seeds; bold: the best"
    if comparison.baseline:
        legend += f"; *: differs from {comparison.baseline.label} by more than its seeds explain"
        legend += f" (paired t-test, p < {SIGNIFICANCE})"
    else:
        legend += f"; no run of the baseline ({comparison.rows[0].runs[0].identity['baseline']})"
    said = [legend]
    chosen: dict[str, str] = {}
    for row in sorted(comparison.compared, key=lambda row: row.mean("val_nll")):
        chosen.setdefault(row.runs[0].identity["loss"], row.label)
    if len(chosen) < len(comparison.compared):
        said.append(f"lowest val nll: {'; '.join(chosen.values())}")
    return [*said, *comparison.notes]


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the table."""
    headings, rows = cells(comparison, "[bold]{}[/]")
    table = Table()
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=i > 0)
    for row in rows:
        table.add_row(*row)
    console.print(f"\n{comparison.protocol}", markup=False, soft_wrap=True)
    console.print(table)
    for note in notes(comparison):
        console.print(note, markup=False, soft_wrap=True)


def markdown(comparison: Comparison) -> str:
    """Return the table as Markdown."""
    headings, rows = cells(comparison, "**{}**")
    rule = ["---", *["---:"] * (len(headings) - 1)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (headings, rule, *rows))
    below = "\n".join(f"- {note}".replace("*:", "\\*:") for note in notes(comparison))
    return f"{comparison.protocol}\n\n{table}\n\n{below}\n"


def write_csv(comparisons: Iterable[Comparison], path: Path) -> None:
    """Write every figure of every row, not only those shown: its mean, spread, and seeds."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "loss", "mark", "seeds", "figure", "mean", "standard deviation"])
        for comparison in comparisons:
            for row in comparison.rows:
                names = dict.fromkeys(name for run in row.runs for name in run.figures)
                for name in names:
                    spread = row.spread(name)
                    begin = [comparison.task, row.label, row.mark, len(row.values(name)), name]
                    writer.writerow([*begin, row.mean(name), "" if spread is None else spread])


def page(comparisons: Iterable[Comparison]) -> str:
    """Return a page that needs no server and no other file: tables, curves, diagrams."""
    parts = []
    for comparison in comparisons:
        headings, rows = cells(comparison, "\0{}\1")  # marks that survive escaping
        lines = ["".join(f"<th>{html.escape(h)}</th>" for h in headings)]
        lines += ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
        table = "".join(f"<tr>{line}</tr>" for line in lines)
        below = "".join(f"<p>{html.escape(note)}</p>" for note in notes(comparison))
        parts += [
            f"<h1>{html.escape(comparison.task)}</h1><p>{html.escape(comparison.protocol)}</p>"
        ]
        parts += [f"<table>{table}</table>{below}".replace("\0", "<b>").replace("\1", "</b>")]
        parts += [curves(comparison), *map(diagram, comparison.rows)]
    return f"{HEAD}{''.join(parts)}</body></html>\n"


HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Losses compared</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em; color: #202020 }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .25em .7em; text-align: right; white-space: nowrap }
tr { border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
p { color: #505050; margin: .5em 0 }
svg { max-width: 100%; height: auto }
figure { display: inline-block; margin: 0 1em 1em 0; width: 320px; vertical-align: top }
figure img { width: 100% }
</style></head><body>"""


def diagram(row: Row) -> str:
    """Return the reliability diagram of a row's first seed as HTML, or nothing if it drew none."""
    run: Run = min(row.runs, key=lambda run: run.identity["seed"])
    file = next((f for f in sorted(run.folder.glob("*_reliability.png"))), None)
    if file is None:
        return ""
    image = base64.b64encode(file.read_bytes()).decode()
    caption = html.escape(f"{row.label}, seed {run.identity['seed']}")
    return (
        f'<figure><img alt="reliability diagram of {caption}" src="data:image/png;base64,{image}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def curves(comparison: Comparison) -> str:
    """Return the curves of all rows as SVG: the mean over seeds of each logged step."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = [
        t for t in CURVES if any(t in run.curves for row in comparison.rows for run in row.runs)
    ]
    if not shown:
        return ""
    with rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "losses"}):
        width = 3.2 * len(shown) + 2.2
        figure = Figure(figsize=(width, 3.1))
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        # fixed margins: a layout that measures every text would take longer than all the drawing
        figure.subplots_adjust(0.5 / width, 0.15, 1 - 2.2 / width, 0.9, 0.2)
        for axes, tag in zip(panels, shown, strict=True):
            draw_curves(axes, comparison, tag)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="center right", frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().split("?>", 1)[1].split(">", 1)[1]  # without XML's own heading


def draw_curves(axes: "Axes", comparison: Comparison, tag: str) -> None:
    """Draw one figure of all rows over the steps, the mean over seeds."""
    from matplotlib import colormaps

    for i, row in enumerate(comparison.rows):
        by_step: dict[int, list[float]] = {}
        for run in row.runs:
            for step, value in run.curves.get(tag, ()):
                by_step.setdefault(step, []).append(value)
        points = [
            (step, fmean(v)) for step, v in sorted(by_step.items()) if len(v) == len(row.runs)
        ]
        style: dict[str, Any] = {
            "color": colormaps["tab20"](i % 20),
            "linestyle": "-" if i < 20 else "--",
        }
        if row is comparison.baseline:
            style = {"color": "black", "linewidth": 2.0}
        axes.plot([s for s, _ in points], [v for _, v in points], label=row.label, **style)
    axes.set(title=f"{tag} (each its own)" if tag == "train/loss" else tag, xlabel="step")
    axes.spines[["top", "right"]].set_visible(False)
    if tag == "train/loss":
        axes.set_yscale("log")


def write_files(comparisons: list[Comparison], folder: Path) -> list[Path]:
    """Write `compare.md`, `compare.csv` and `compare.html`; return their paths."""
    files = [folder / f"compare.{kind}" for kind in ("md", "csv", "html")]
    files[0].write_text("\n".join(map(markdown, comparisons)), encoding="utf-8")
    write_csv(comparisons, files[1])
    files[2].write_text(page(comparisons), encoding="utf-8")
    return files
