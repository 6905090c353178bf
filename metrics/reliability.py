"""Reliability diagrams: accuracy against confidence, and how much of the gap chance explains."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metrics.calibration_error import Bins, FloatArray
from metrics.floor_and_interval import null_correct

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, BLUE, RED, GREY = "#202020", "#1f5fa8", "#e4572e", "#b8bec6"
# Every colour is set, whatever the user's style, to be readable on a dark page and on a light one.
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "white"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "font.size": 14,
    "legend.fontsize": 13,
    "legend.handlelength": 1.0,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 0.9,
}


@dataclass(frozen=True)
class ReliabilityData:
    """What one diagram shows: arrays (B,) with NaN in empty bins, and ECE with what chance does."""

    share: FloatArray  # of all predictions; 0 in empty bins
    confidence: FloatArray  # mean of the bin
    accuracy: FloatArray  # of the bin
    low: FloatArray  # of a calibrated model, 95 times in 100 this bin's accuracy is between low
    high: FloatArray  # and high; all bins at once are much less often
    ece: float
    ece_low: float  # 95 % interval of the expected ECE
    ece_high: float
    ece_null: float  # floor of ECE: its mean for a calibrated model
    label: str = ""  # first line of the title


def reliability_data(
    bins: Bins, metrics: dict[str, float], *, label: str = "", seed: int = 0
) -> ReliabilityData:
    """Return what a diagram shows, from `Metrics.bins()` and `Metrics.compute()`.

    Args:
        bins: equal-width bins, at least one of which is not empty.
        metrics: figures by name, of which `ece`, `ece_low`, `ece_high` and `ece_null` are shown.
        label: first line of the title.
        seed: of the 95 % band of each bin, which is drawn.
    """
    count = np.where(bins.count > 0, bins.count, np.nan)
    correct = null_correct(bins, seed)
    low, high = np.quantile(correct, [0.025, 0.975], axis=1) / count
    return ReliabilityData(
        share=bins.count / bins.count.sum(),
        confidence=bins.confidence / count,
        accuracy=bins.correct / count,
        low=low,
        high=high,
        label=label,
        **{name: metrics[name] for name in ("ece", "ece_low", "ece_high", "ece_null")},
    )


def draw_reliability(*panels: ReliabilityData) -> "Figure":
    """Draw diagrams side by side, such as before and after temperature scaling.

    The letters are large for the size of the figure, so that they can be read in a card of
    TensorBoard, which is 345 pixels wide and 215 high. Matplotlib is imported here, because it is
    slow to import.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(3.1 * len(panels) + 1.0, 4.3), dpi=160, layout="constrained")
        axes = figure.subplots(
            2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=[3.2, 0.8]
        )
        for column, data in enumerate(panels):
            _draw_accuracy(axes[0, column], data)
            share, width = data.share, 1 / len(data.share)
            axes[1, column].bar(
                np.arange(len(share)) * width, share, width, align="edge", color=BLUE
            )
            axes[1, column].set_xlabel("confidence")
            _describe_fullest_bin(axes[1, column], data)
        axes[0, 0].set_ylabel("accuracy")
        axes[1, 0].set_ylabel("share")
        entries = axes[0, 0].get_legend_handles_labels()
        figure.legend(*entries, loc="outside lower center", ncols=3)
    return figure


def _draw_accuracy(axes: "Axes", data: ReliabilityData) -> None:
    width = 1 / len(data.share)
    left = np.arange(len(data.share)) * width
    band = data.high - data.low
    axes.bar(left, band, width, data.low, align="edge", color=GREY, label="95 % per bin")
    chance = (data.low <= data.accuracy) & (data.accuracy <= data.high)
    for some, alpha in ((chance, 0.2), (~chance, 0.55)):  # what chance explains is faint
        gap = np.where(some, data.accuracy - data.confidence, np.nan)
        axes.bar(left, gap, width, data.confidence, align="edge", color=RED, alpha=alpha)
    axes.bar(0, 0, color=RED, alpha=0.55, label="gap")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.hlines(
        data.accuracy, left, left + width, BLUE, linewidth=2.5, clip_on=False, label="accuracy"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.set_xticklabels(["0", "0.5", "1"])
    ece = f"ECE {data.ece:.3f} [{data.ece_low:.3f}, {data.ece_high:.3f}]"
    heading = f"{data.label}\n" if data.label else ""
    axes.set_title(f"{heading}{ece}\nfloor {data.ece_null:.3f}", fontsize=14)


def _describe_fullest_bin(axes: "Axes", data: ReliabilityData) -> None:
    """Write what a bin with most rows has, in which a gap that weighs much is too thin to be seen.

    It stands beside the bin's bar, over the low ones; a bin in the middle leaves it no place.
    """
    b = int(data.share.argmax())
    place = (b + 0.5) / len(data.share)
    if data.share[b] < 0.5 or 0.3 < place < 0.7:
        return
    text = f"{data.share[b]:.0%} of rows: confidence\n"
    text += f"{data.confidence[b]:.3f}, accuracy {data.accuracy[b]:.3f}"
    x, side = (0.02, "left") if place > 0.5 else (0.98, "right")
    axes.text(x, 0.98, text, fontsize=12, va="top", ha=side, transform=axes.transAxes)
