"""Learning rates of a sweep: a figure, the best of each loss, and what lies beyond the edge."""

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from training.cli.comparison import labels
from training.cli.runs import RunRecord

SETTING = "optimizer.lr"
LEAST = 3  # rates of one loss: fewer have no inside
Tried = tuple[str, str, dict[float, float]]  # label, loss, and val nll by learning rate


def tried_rates(runs: Iterable[RunRecord]) -> list[Tried]:
    """Return the rates that each configuration was given, where they are three or more.

    Configurations differ in more than seed and rate. The val nll is its mean over seeds, infinite
    where a run diverged; runs that neither ended nor diverged are left out.
    """
    found: dict[str, tuple[RunRecord, dict[float, list[float]]]] = {}
    for run in runs:
        others = {key: value for key, value in run.settings.items() if key != SETTING}
        ends = {"complete": run.figures.get("val_nll"), "diverged": math.inf}
        nll, rate = ends.get(run.status), run.settings.get(SETTING)
        key = json.dumps([run.task, run.data, run.code, run.loss, others])
        by_rate = found.setdefault(key, (replace(run, settings=others), {}))[1]
        if isinstance(rate, float) and rate > 0 and nll is not None and nll > -math.inf:
            by_rate.setdefault(rate, []).append(nll)
    tried = []
    names = labels([run for run, _ in found.values()])
    for label, (run, by_rate) in zip(names, found.values(), strict=True):
        means = {rate: fmean(nlls) for rate, nlls in sorted(by_rate.items())}
        if len(means) >= LEAST and min(means.values()) < math.inf:
            tried.append((label, run.loss, means))
    return tried


def draw_rates(tried: Iterable[Tried], path: Path) -> None:
    """Draw val nll against the rate, a line per configuration, its best marked."""
    figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    for i, (label, _, means) in enumerate(tried):
        color, style = f"C{i % 10}", ".-" if i < 10 else ".:"  # there are ten colours
        name = label.replace("$", r"\$")
        axes.plot([*means], [*means.values()], style, color=color, label=name)
        best = best_rate(means)
        axes.plot(best, means[best], "o", markersize=10, color=color)
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="val nll (dot: the best)")
    ticks = sorted({rate for _, _, means in tried for rate in means})
    axes.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path)


def best_rate(means: dict[float, float]) -> float:
    """Return the learning rate of the lowest val nll."""
    return min(means, key=means.__getitem__)


def beyond_edges(tried: Iterable[Tried]) -> dict[str, list[str]]:
    """Return losses whose best rate is the lowest or highest tried, by the two to try next.

    The rates are written as a sweep takes them, with a comma; a loss is named once for each pair.
    """
    losses: dict[str, list[str]] = {}
    for _, loss, means in tried:
        best, low, high = best_rate(means), min(means), max(means)
        if best in (low, high):
            step = (high / low) ** (1 / (len(means) - 1))
            more = [best * step**k if best == high else best / step**k for k in (1, 2)]
            named = losses.setdefault(",".join(f"{rate:.1g}" for rate in more), [])
            named += [] if loss in named else [loss]
    return losses


def edge_lines(tried: Sequence[Tried], again: Sequence[str]) -> Iterator[str]:
    """Yield lines: the configurations whose best rate is at the edge, and commands that try more.

    Args:
        tried: as `tried_rates` returns it.
        again: the words that started the sweep.
    """
    at_edge = [each for each in tried if beyond_edges([each])]
    if at_edge:
        names = "; ".join(f"{label} {best_rate(means):g}" for label, _, means in at_edge)
        yield f"\nbest at the edge of the rates tried: {names}; to try more:"
    kept = [word for word in again if word.split("=")[0] not in ("loss", SETTING)]
    for rates, losses in beyond_edges(tried).items():
        yield shlex.join([*kept, f"loss={','.join(losses)}", f"{SETTING}={rates}"])
