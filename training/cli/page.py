"""A comparison as one page of HTML, which needs no server and no other file."""

import base64
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean

from jinja2 import Environment, FileSystemLoader
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.cli.comparison import Comparison, Row
from training.cli.tables import cells
from training.run.untrusted import is_plain

CURVES = ("val/nll", "val/accuracy", "val/ece", "train/loss")
LEGEND = 2.2  # inches
PNG = b"\x89PNG\r\n\x1a\n"  # what every such file begins with


def page(comparisons: Iterable[Comparison]) -> str:
    """Return the page that `page.html` describes: tables, curves, reliability diagrams."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    environment.globals |= {"cells": cells, "curves": curves, "diagrams": diagrams}
    return environment.get_template("page.html").render(comparisons=comparisons) + "\n"


def diagrams(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """Yield caption and PNG, in base64, of the reliability diagram of each row's first seed."""
    for row in rows:
        run = min(row.runs, key=lambda run: run.seed)
        files = sorted(filter(is_plain, run.folder.glob("*_reliability.png")))
        images = [content for content in map(Path.read_bytes, files) if content.startswith(PNG)]
        for content in images[:1]:
            yield f"{row.label}, seed {run.seed}", base64.b64encode(content).decode()


def curves(comparison: Comparison) -> str:
    """Return the curves of all rows as SVG; nothing if the runs logged none of them."""
    logged = {tag for row in comparison.rows for run in row.runs for tag in run.curves}
    tags = [tag for tag in CURVES if tag in logged]
    if not tags:
        return ""
    with rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "losses"}):
        width = 3.2 * len(tags) + LEGEND
        figure = Figure(figsize=(width, 3.1))
        panels = figure.subplots(1, len(tags), squeeze=False)[0]
        # fixed margins: a layout that measures every text would take longer than all the drawing
        figure.subplots_adjust(0.7 / width, 0.15, 1 - LEGEND / width, 0.9, 0.25)
        for axes, tag in zip(panels, tags, strict=True):
            draw_curves(axes, comparison, tag)
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="center right", frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]  # without the heading of an XML file


def draw_curves(axes: Axes, comparison: Comparison, tag: str) -> None:
    """Draw one figure of all rows over the steps: the mean over seeds, where all have the step."""
    for i, row in enumerate(comparison.rows):
        by_step: dict[int, list[float]] = {}
        for run in row.runs:
            for step, value in run.curves.get(tag, ()):
                by_step.setdefault(step, []).append(value)
        steps = sorted(step for step, values in by_step.items() if len(values) == len(row.runs))
        means = [fmean(by_step[step]) for step in steps]
        # a line through one point would not be seen
        (line,) = axes.plot(steps, means, marker="o" if len(steps) == 1 else "")
        line.set_label(row.label.replace("$", r"\$"))  # a dollar would begin a formula
        if row is comparison.baseline:
            line.set(color="black", linewidth=2.0)
        else:
            line.set(color=colormaps["tab20"](i % 20), linestyle="-" if i < 20 else "--")
    axes.set(title=f"{tag} (not comparable)" if tag == "train/loss" else tag, xlabel="step")
    axes.spines[["top", "right"]].set_visible(False)
    if tag == "train/loss":
        axes.set_yscale("log")
