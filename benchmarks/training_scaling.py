"""How examples per second change with vocabulary, batch and text."""

import statistics
import time

from torch import Tensor

from benchmarks.training_common import WIDE, compose, for_splits, measure, ratio
from benchmarks.training_wide import step_cases, synthetic
from training.data import epoch_order
from training.loop import Training
from training.run.targets import instantiate

SCALED = ["plain loop, float32", "this loop, float32", "this loop, bf16"]


def scaling(text: str, rounds: int, plot: str | None) -> None:
    """Print how examples per second change with vocabulary, batch and text."""
    panels = []
    for title, sizes in (
        ("classes, 1,024 rows a batch", [(v, v, 1024) for v in (1000, 4000, 15630, 68500)]),
        ("rows a batch, 15,630 classes", [(b, 15630, b) for b in (32, 128, 512, 2048)]),
    ):
        heading(title)
        panels.append((title, [scaled(n, rounds, *synthetic(v, b)) for n, v, b in sizes]))
    title = "training tokens of the complete works, 1,024 rows a batch"
    heading(title)
    rows = []
    for lines in (5000, 15000, 45000, 10**6):
        cfg = compose(*WIDE, f"data.path={text}", f"data.max_lines={lines}")
        begun = time.perf_counter()
        splits = instantiate(cfg.data)
        note = (
            f"{splits.num_classes:8,} classes, read and cut in {time.perf_counter() - begun:.1f} s"
        )
        batch = splits.train.batch(epoch_order(len(splits.train), 1, 1)[:1024], 1)
        rows.append(scaled(len(splits.train), rounds, for_splits(cfg, splits), batch, note))
    panels.append((title.replace(" of the complete works", ""), rows))
    if plot:
        draw(panels, plot)


def heading(title: str) -> None:
    """Print the head of a table."""
    print(f"\nexamples per second, and time beside the plain loop's, by {title}")
    print(f"{'':9} {SCALED[0]:>20} " + " ".join(f"{name:>31}" for name in SCALED[1:]))


def scaled(
    size: int, rounds: int, training: Training, batch: tuple[Tensor, Tensor], note: str = ""
) -> tuple[int, list[float]]:
    """Measure and print a row; return its size and rates."""
    cases = step_cases(training, batch, len(training.model.head.weight))  # type: ignore[union-attr, arg-type]
    times = measure({name: cases[name] for name in SCALED}, rounds)
    rates = [len(batch[1]) / statistics.median(own) for own in times.values()]
    texts = ["", *(ratio(times[name], times[SCALED[0]]) for name in SCALED[1:])]
    widths = (20, 31, 31)
    cells = (
        f"{f'{rate:,.0f} {text}':>{w}}" for rate, text, w in zip(rates, texts, widths, strict=True)
    )
    print(f"{size:9,} " + " ".join(cells) + note, flush=True)
    return size, rates


def draw(panels: list[tuple[str, list[tuple[int, list[float]]]]], path: str) -> None:
    """Draw examples per second, a panel a size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        for i, name in enumerate(SCALED):
            axes.loglog([r[0] for r in rows], [r[1][i] for r in rows], marker="o", label=name)
        axes.set_xlabel(title, fontsize=8)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("examples per second")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=80)
