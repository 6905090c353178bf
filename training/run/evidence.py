"""The figures and settings of a run, as the rules of a diagnosis ask for them; no torch here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.run.examples import read_examples
from training.run.folder import CONFIG, Curves, read_curves, read_status
from training.run.identity import leaves
from training.run.kept_settings import read_config


@dataclass(frozen=True)
class Finding:
    """A symptom, its evidence in figures, its likely cause, and the setting to change first."""

    symptom: str
    evidence: str
    cause: str
    change: str = ""  # as in "optimizer.lr=0.002"; nothing where no setting mends it

    def __str__(self) -> str:
        return f"{self.symptom}: {self.evidence}; likely cause: {self.cause}"


@dataclass(frozen=True)
class Evidence:
    """Figures and settings of a run, as the rules ask for them."""

    curves: Curves
    settings: Mapping[str, Any]
    surest: float  # the confidence that one in a hundred test examples exceeds

    def curve(self, tag: str) -> list[float]:
        """Return the values of a figure over training, or NaN."""
        return [value for _, value in self.curves.get(tag, [])] or [math.nan]

    def last(self, tag: str) -> float:
        """Return the last value of a figure."""
        return self.curve(tag)[-1]

    def at_best(self, name: str) -> float:
        """Return a figure of the validation split at its least nll."""
        nlls, values = self.curve("val/nll"), self.curve(f"val/{name}")
        return values[min(range(len(values)), key=lambda i: nlls[i])]

    def number(self, name: str) -> float:
        """Return a setting that is a number; NaN where it is none."""
        value = self.settings.get(name)
        return float(value) if isinstance(value, int | float) else math.nan

    def times(self, name: str, factor: float) -> str:
        """Return the change that multiplies a setting, or each number of one that is a list."""
        value = self.settings.get(name)
        if isinstance(value, int):
            return f"{name}={max(1, round(factor * value))}"
        if isinstance(value, float):
            return f"{name}={factor * value:.2g}"
        try:
            return f"{name}=[{','.join(f'{factor * each:.3g}' for each in value or ())}]"
        except TypeError:  # no number, in a folder from anyone
            return ""

    def is_nll(self) -> bool:
        """Say whether the objective is the nll, so that the two can be compared."""
        return math.isclose(self.last("val/loss"), self.last("val/nll"), rel_tol=1e-3)

    def is_weighted(self) -> bool:
        """Say whether the loss has weights, or knows the classes' shares otherwise."""
        names = ("loss.weight", "loss.class_counts")
        return any(v is not None for name, v in self.settings.items() if name.startswith(names))

    def smoothed(self) -> str:
        """Return the change to a loss that wrong labels disturb less, if it is another."""
        return "" if self.number("loss.label_smoothing") > 0 else "loss=label_smoothing"


def read_evidence(folder: Path) -> Evidence:
    """Return the evidence in a run folder, as far as there is any."""
    status = read_status(folder)
    settings = leaves(read_config(folder)) if (folder / CONFIG).exists() else {}
    settings |= {"status": status.get("status"), "message": status.get("message")}
    table = read_examples(folder)
    surest = math.nan if table is None else float(np.nanquantile(table[:, 2], 0.99))
    return Evidence(read_curves(folder), settings, surest)
