"""All metrics of some predictions in one call, before and after a temperature.

    report = metrics.report(labels, logits=logits, fit_on=(other_labels, other_logits))
    print(report)
    report.figure().savefig("diagram.png")

N rows, C classes.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metrics.calibration_error import Bins
from metrics.reliability import draw_reliability, reliability_data
from metrics.rows import whole_of_rows
from metrics.temperature import TemperatureFit, apply_temperature, fit_temperature
from metrics.tracker import Metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("nll", "accuracy", "brier", "ece", "ece_low", "ece_high", "ece_null")
TOLERANCE = 1e-3  # of a row's sum: probabilities that were rounded to float16 are taken


@dataclass(frozen=True)
class MetricsReport:
    """The metrics of a set of predictions; `after` is those with the fitted temperature.

    `metrics` has the names and units of `Metrics.compute`.
    """

    metrics: dict[str, float]
    bins: Bins
    fit: TemperatureFit | None = None
    after: "MetricsReport | None" = None

    def __str__(self) -> str:
        rows = {"": self}
        if self.fit and self.after:
            rows = {"before": self, f"T = {self.fit.to_apply:.3f}": self.after}
        width = max(map(len, rows))
        headings = (
            f"{'nll':>8}{'accuracy':>10}{'Brier':>8}{'ECE':>8}  {'95 % interval':<16} {'floor':>6}"
        )
        lines = [" " * width + headings]
        for name, each in rows.items():
            nll, accuracy, brier, ece, low, high, floor = (each.metrics[key] for key in SHOWN)
            figures = f"{nll:>8.4f}{accuracy:>10.2%}{brier:>8.4f}{ece:>8.4f}"
            lines.append(f"{name:<{width}}{figures}  [{low:.4f}, {high:.4f}] {floor:>6.4f}")
        if self.fit and self.fit.kept_because:
            lines.append(f"T = 1 is kept: {self.fit.kept_because}")
        return "\n".join(lines)

    def figure(self) -> "Figure":
        """Return the reliability diagram, or both, before and after the temperature.

        A notebook shows it where `%matplotlib inline` has been run.
        """
        if not (self.fit and self.after):
            return draw_reliability(reliability_data(self.bins, self.metrics))
        label = f"after, T = {self.fit.to_apply:.2f}"
        return draw_reliability(
            reliability_data(self.bins, self.metrics, label="before"),
            reliability_data(self.after.bins, self.after.metrics, label=label),
        )

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers by name, those of `with_temperature` among them."""
        return self.metrics | self.with_temperature()

    def with_temperature(self) -> dict[str, float]:
        """Return the temperature, and the metrics with it, named `*_temperature`; {} without."""
        if not (self.fit and self.after):
            return {}
        after = {f"{name}_temperature": value for name, value in self.after.metrics.items()}
        del after["count_temperature"]
        return {"temperature": self.fit.to_apply} | after


def report(
    labels: Any,
    *,
    logits: Any = None,
    probs: Any = None,
    log_probs: Any = None,
    fit_on: tuple[Any, Any] | None = None,
    num_bins: int = 15,
    ignore_index: int = -100,
) -> MetricsReport:
    """Return nll, accuracy, Brier score and calibration of predictions for `labels`.

    Exactly one of `logits`, `probs` and `log_probs` says what the predictions are; what they are is
    never guessed. All may be NumPy arrays or tensors, on any device; they are measured on the CPU.

    Args:
        labels: (N,) or (N, d1, ...) whole numbers, the classes counted from 0.
        logits: (N, C) or (N, C, d1, ...); their softmax is measured.
        probs: the same shape, in [0, 1] and summing to 1 over the classes.
        log_probs: the logarithm of such probabilities.
        fit_on: (labels, predictions of the same kind) of other examples, to which a temperature is
            fitted; the examples are then measured with it as well, or with 1 where it is of no use:
            `TemperatureFit.to_apply`.
        num_bins: number of bins of confidence.
        ignore_index: labels with this value count nowhere.

    Raises:
        ValueError: a shape or a value is wrong, or the predictions are of another kind than said.
        TypeError: not exactly one kind of predictions is given.
    """
    given = {"logits": logits, "probs": probs, "log_probs": log_probs}
    kinds = [kind for kind, values in given.items() if values is not None]
    if len(kinds) != 1:
        raise TypeError(
            f"give one of logits=, probs= and log_probs=, got {' and '.join(kinds) or 'none'}"
        )
    kind = kinds[0]
    scores, targets = _checked(labels, given[kind], kind, ignore_index)
    metrics = partial(_measured, targets=targets, num_bins=num_bins, ignore_index=ignore_index)
    before = metrics(scores)
    if fit_on is None:
        return before
    if not isinstance(fit_on, tuple | list) or len(fit_on) != 2:
        raise TypeError(f"fit_on must be a pair (labels, {kind}), got {type(fit_on).__name__}")
    other_scores, other_targets = scores, targets
    if not (fit_on[0] is labels and fit_on[1] is given[kind]):
        other_scores, other_targets = _checked(*fit_on, kind, ignore_index)
    if other_scores.shape[1] != scores.shape[1]:
        classes = f"{other_scores.shape[1]} classes, got {scores.shape[1]} to measure"
        raise ValueError(f"fit_on has {classes}")
    fit = fit_temperature(other_scores, other_targets, ignore_index=ignore_index)
    after = metrics(apply_temperature(scores, fit.to_apply))
    return MetricsReport(before.metrics, before.bins, fit, after)


def _measured(
    log_probs: Tensor, targets: Tensor, num_bins: int, ignore_index: int
) -> MetricsReport:
    metrics = Metrics(log_probs.shape[1], num_bins=num_bins, ignore_index=ignore_index)
    metrics.update(log_probs, targets)
    return MetricsReport(metrics.compute(), metrics.bins())


def _checked(labels: Any, predictions: Any, kind: str, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return log-probabilities (N, C, ...) and labels (N, ...) on the CPU; refuse another kind."""
    values, targets = _tensor(predictions, kind), _tensor(labels, "labels")
    values, targets = values.detach().cpu(), targets.detach().cpu()
    if not values.is_floating_point():
        values = values.double()
    if values.dtype.itemsize < 4:
        values = values.float()
    if values.ndim < 2:
        raise ValueError(f"{kind} must be (N, C) or (N, C, d1, ...), got {tuple(values.shape)}")
    if targets.shape == values.shape:
        raise ValueError("labels must be classes, got one column per class: use labels.argmax(1)")
    if not len(values):
        raise ValueError(f"{kind} has no rows")
    expected = values.shape[:1] + values.shape[2:]
    if targets.shape != expected:
        hint = ""
        if targets.numel() == expected.numel():
            hint = f": use labels.reshape{tuple(expected)}"
        elif targets.ndim > values.ndim:
            hint = f": labels come first, report(labels, {kind}={kind})"
        raise ValueError(f"labels must be {tuple(expected)}, got {tuple(targets.shape)}{hint}")
    if targets.is_floating_point() and not torch.equal(targets, targets.round()):
        raise ValueError("labels must be whole numbers, the classes counted from 0")
    targets = targets.long()
    bad = (values.isnan() | (values == torch.inf)).flatten(1).any(1)
    if bad.any():
        raise ValueError(f"{kind} must be finite, row {int(bad.nonzero()[0])} (from 0) is not")
    outside = ((targets < 0) | (targets >= values.shape[1])) & (targets != ignore_index)
    if outside.any():
        place = outside.nonzero()[0].tolist()
        row, label = place[0], int(targets[tuple(place)])
        classes = f"classes from 0 to {values.shape[1] - 1}"
        raise ValueError(f"labels must be {classes}, row {row} (from 0) has {label}")
    whole = whole_of_rows(values, TOLERANCE)
    exp_sums_to_1 = kind != "logits" and _near_1(values.exp().sum(1))
    if whole and (kind != "probs" or whole == 100):
        fix = "divide them by 100 and " if whole == 100 else ""
        raise ValueError(f"{kind}: these rows are >= 0 and sum to {whole}: {fix}give probs=")
    if kind == "probs" and not whole:
        right = "are logarithms: give log_probs=" if exp_sums_to_1 else "do not: give logits="
        raise ValueError(f"probs must be >= 0 and sum to 1 over axis 1, and these rows {right}")
    if kind == "log_probs" and not exp_sums_to_1:
        raise ValueError("log_probs: the exponentials of these rows do not sum to 1: give logits=")
    return (values.log() if kind == "probs" else values).log_softmax(1), targets


def _tensor(numbers: Any, name: str) -> Tensor:
    """Return an array or a tensor of real numbers as a tensor."""
    if isinstance(numbers, np.ndarray):
        if numbers.dtype.kind not in "biufc":
            raise ValueError(
                f"{name} must be numbers, got {numbers.dtype}: give each class's place among the"
                " columns of the predictions, from 0"
            )
        wide = numbers.dtype.kind == "f" and numbers.dtype.itemsize > 8
        native = np.float64 if wide else numbers.dtype.newbyteorder("=")
        # without the negative strides of a reversed array, which torch refuses
        numbers = np.ascontiguousarray(numbers, native)
    tensor = torch.as_tensor(numbers)
    if tensor.is_complex():
        raise ValueError(f"{name} must be real numbers, got {tensor.dtype}")
    return tensor


def _near_1(sums: Tensor) -> bool:
    return bool(((sums - 1).abs() <= TOLERANCE).all())
