"""A comparison as one page of HTML, which needs no server and no other file."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure

from training.cli.comparison import Comparison, Row
from training.cli.differences import NUM_BINS, FloatArray, bins_of
from training.cli.tables import cells
from training.run.examples import read_examples
from training.run.folder import shell_line
from training.run.untrusted import is_plain

COLORS = [str(color) for color in TABLEAU_COLORS.values()]
CURVES = ("val/nll", "val/accuracy", "val/ece", "train/loss")
POINTS = 100  # of a curve, about: more make the page large, and nobody sees them
MANY_TIMES = 20  # one line that is so many times another has it lie on zero, but in log scale
FEWEST = 20  # predictions of a bin: of fewer, the accuracy is mostly chance
LARGEST = 200_000  # bytes of a diagram: the page is there to be sent
PNG = b"\x89PNG\r\n\x1a\n"  # what every such file begins with


def page(comparisons: Sequence[Comparison], command: Sequence[str]) -> str:
    """Return the page that `page.html` describes: verdict, table, curves, reliability diagrams.

    Args:
        comparisons: one per task.
        command: the words that made them.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    environment.globals |= {f.__name__: f for f in (cells, look, curves, reliability, diagrams)}
    data = ", ".join(comparison.protocol.split(":")[0] for comparison in comparisons)
    about = {"data": data, "date": f"{datetime.now():%Y-%m-%d}", "command": shell_line(command)}
    template = environment.get_template("page.html")
    return template.render(comparisons=comparisons, fewest=FEWEST, **about) + "\n"


def look(comparison: Comparison, index: int) -> tuple[str, str, int]:
    """Return colour, line style and order of a row; through the baseline's line others are seen."""
    if comparison.rows[index] == comparison.baseline:
        return "black", "dashed", 3
    return COLORS[index % 10], ("solid", "dashed", "dotted")[index // 10 % 3], 2


def diagrams(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """Yield caption and PNG, in base64, of the reliability diagram of each row's first seed."""
    for row in rows:
        run = min(row.runs, key=lambda run: run.seed)
        files = sorted(filter(is_plain, run.folder.glob("*_reliability.png")))
        small = [file.read_bytes() for file in files if file.stat().st_size <= LARGEST]
        for content in [content for content in small if content.startswith(PNG)][:1]:
            yield f"{row.label}, seed {run.seed}", base64.b64encode(content).decode()


def curves(comparison: Comparison) -> Iterator[str]:
    """Yield as SVG what the runs logged: a chart per figure, with a line per row."""
    logged = {tag for row in comparison.rows for run in row.runs for tag in run.curves}
    for tag in filter(logged.__contains__, CURVES):
        yield chart(3.3, draw_curves, comparison, tag)


def reliability(comparison: Comparison) -> str:
    """Return as SVG the accuracy by confidence of all rows; nothing if no run has its examples."""
    lines = [pooled(row) for row in comparison.rows]
    return chart(4.6, draw_reliability, comparison, lines) if any(map(len, lines)) else ""


def chart(width: float, draw: Callable[..., None], *what: object) -> str:
    """Return as SVG what `draw` draws, `width` inches wide."""
    height = 0.8 * width
    with rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "losses"}):
        figure = Figure(figsize=(width, height))
        # fixed margins: a layout that measures every text would take longer than all the drawing
        figure.subplots_adjust(0.55 / width, 0.45 / height, 1 - 0.1 / width, 1 - 0.3 / height)
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, *what)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]  # without the heading of an XML file


def draw_curves(axes: Axes, comparison: Comparison, tag: str) -> None:
    """Draw one figure of all rows over the steps: mean and range over seeds, where all have it."""
    for i, row in enumerate(comparison.rows):
        logged = [dict(run.curves.get(tag, ())) for run in row.runs]
        steps = sorted(set.intersection(*map(set, logged)))
        steps = steps[:: -(len(steps) // POINTS + 1)]  # from the last
        values = np.array([[curve[step] for step in steps] for curve in logged])  # (runs, steps)
        color, style, order = look(comparison, i)
        # a line through one point would not be seen
        marker = "o" if len(steps) == 1 else ""
        axes.plot(steps, values.mean(0), color=color, ls=style, marker=marker, zorder=order)
        axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.1, lw=0)
    axes.set(title=f"{tag} (not comparable)" if tag == "train/loss" else tag, xlabel="step")
    drawn = np.concatenate([line.get_ydata() for line in axes.lines])
    positive = drawn[drawn > 0]
    if tag != "val/accuracy" and positive.size and positive.max() > MANY_TIMES * positive.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # much quicker than powers of ten
        axes.minorticks_off()


def pooled(row: Row) -> FloatArray:
    """Return mean confidence and accuracy (B, 2) of the bins of a row's runs, all taken together.

    Bins of fewer than `FEWEST` predictions are left out.
    """
    tables = [read_examples(run.folder) for run in row.runs]
    table = np.concatenate([np.empty((0, 3)), *(t for t in tables if t is not None)])  # in float64
    table = table[~np.isnan(table[:, 2])]
    bins = bins_of(table[:, 2])
    count = np.bincount(bins, minlength=NUM_BINS)
    sums = np.stack([np.bincount(bins, table[:, i], NUM_BINS) for i in (2, 1)], axis=1)
    return sums[count >= FEWEST] / count[count >= FEWEST, None]


def draw_reliability(axes: Axes, comparison: Comparison, lines: Sequence[FloatArray]) -> None:
    """Draw accuracy against confidence, a line per row; the diagonal is a calibrated model's."""
    axes.plot([0, 1], [0, 1], color="#888888", lw=1, ls=(0, (4, 3)))
    for i, line in enumerate(lines):
        color, style, order = look(comparison, i)
        axes.plot(*line.T, color=color, ls=style, marker=".", zorder=order)
    axes.set(title="reliability", xlabel="confidence", ylabel="accuracy")
