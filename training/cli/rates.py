"""Learning rates of a sweep: a figure, the best for each loss, and what lies beyond the edge."""

import json
import math
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from training.cli.comparison import labels
from training.cli.runs import RunRecord

SETTING = "optimizer.lr"
LEAST = 3  # rates of one loss: fewer have no inside
Tried = dict[float, float]  # rate: val nll, its mean over seeds, infinite where a run diverged


def tried_rates(runs: Iterable[RunRecord]) -> list[tuple[str, RunRecord, Tried]]:
    """Return what configurations are called, one run of each, and the rates that each was given.

    Configurations differ in more than seed and rate. Those with fewer than three rates are left
    out, and so is a rate of which a run neither ended nor diverged.
    """
    found: dict[str, dict[float, list[float]]] = {}
    first: dict[str, RunRecord] = {}
    for run in runs:
        others = {key: value for key, value in run.settings.items() if key != SETTING}
        key = json.dumps([run.task, run.data, run.code, run.loss, others])
        first.setdefault(key, replace(run, settings=others))
        nll = run.figures.get("val_nll", math.nan) if run.status == "complete" else math.nan
        nll = math.inf if run.status == "diverged" else nll
        found.setdefault(key, {}).setdefault(run.settings.get(SETTING, math.nan), []).append(nll)
    tried = []
    for label, (key, by_rate) in zip(labels([*first.values()]), found.items(), strict=True):
        means = {rate: fmean(by_rate[rate]) for rate in sorted(by_rate)}
        means = {rate: mean for rate, mean in means.items() if not math.isnan(rate + mean)}
        if len(means) >= LEAST and min(means.values()) < math.inf:
            tried.append((label, first[key], means))
    return tried


def draw_rates(tried: Iterable[tuple[str, RunRecord, Tried]], path: Path) -> None:
    """Draw val nll against the rate, a line per configuration, its best marked."""
    figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    for label, _, means in tried:
        rates, values = zip(*((r, v) for r, v in means.items() if v < math.inf), strict=True)
        (line,) = axes.plot(rates, values, marker=".", label=label.replace("$", r"\$"))
        best = min(rates, key=means.__getitem__)
        axes.plot(best, means[best], marker="o", markersize=10, color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="val nll")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path)


def beyond_the_edge(
    tried: Iterable[tuple[str, RunRecord, Tried]], again: Sequence[str]
) -> Iterator[str]:
    """Yield lines that name each best rate at the edge of those tried, and what tries more.

    Args:
        tried: as `tried_rates` returns it.
        again: the words that started the sweep.
    """
    names: list[str] = []
    losses: dict[str, dict[str, None]] = defaultdict(dict)  # by the rates to try, each once
    for label, run, means in tried:
        rates = [*means]
        best = min(rates, key=means.__getitem__)
        if best in (rates[0], rates[-1]):
            step = (rates[-1] / rates[0]) ** (1 / (len(rates) - 1))
            more = [best * step**k if best == rates[-1] else best / step**k for k in (1, 2)]
            losses[",".join(f"{rate:.1g}" for rate in more)][run.loss] = None
            names.append(f"{label} {best:g}")
    if names:
        yield f"\nbest at the edge of the rates tried: {', '.join(names)}; to try more:"
    kept = [word for word in again if word.split("=")[0] not in ("loss", SETTING)]
    for others, of_losses in losses.items():
        yield shlex.join([*kept, f"loss={','.join(of_losses)}", f"{SETTING}={others}"])
