"""What a task shows beside the shared metrics: the contract, and the table on the terminal."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Column, Table
from torch import nn

from losses import ClassificationLoss
from training.data import Splits
from training.run.figures import COLUMNS
from training.run.log import RunLog
from training.run.untrusted import printable


@dataclass(frozen=True)
class ReportContext:
    """What a report may look at: at each evaluation that draws, and at the end (`final`)."""

    model: nn.Module
    loss_fn: ClassificationLoss
    splits: Splits
    log: RunLog
    step: int
    seed: int
    final: bool


@dataclass(frozen=True)
class Report:
    """What a report adds to the end of a run: rows of metrics for the table, and text below it."""

    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    text: str = ""


Reporter = Callable[[ReportContext], Report]


def print_table(console: Console, cells: list[list[str]]) -> None:
    """Print headings and rows."""
    headings, *rows = cells
    table = Table("", *(Column(heading, justify="right") for heading in headings[1:]))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def table_of(rows: dict[str, dict[str, float]], columns: list[str]) -> list[list[str]]:
    """Return headings and rows of metrics, the label first, without columns that no row has."""
    shown = [name for name in columns if any(name in row for row in rows.values())]
    cells = [["", *(COLUMNS[name][0] for name in shown)]]
    for label, row in rows.items():
        figures = (COLUMNS[name][1].format(row[name]) if name in row else "" for name in shown)
        cells.append([printable(label), *figures])
    return cells
