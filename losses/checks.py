"""Input checks shared by all losses, and their error messages.

Each message says what was expected, what came, and how to fix it. The message about a constructor
argument begins with the argument's name.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

Values = Tensor | Sequence[float]


def number(name: str, value: float, interval: str) -> float:
    """Return `value` as a float if it lies in `interval`, such as "[0, 1)" or "(0, inf)"."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in {interval}, got {value!r}")
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    at_open_end = (value == low and interval[0] == "(") or (value == high and interval[-1] == ")")
    if at_open_end or not low <= value <= high:  # NaN is not
        raise ValueError(f"{name} must be in {interval}, got {value!r}")
    return float(value)


def choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def index(name: str, value: int) -> int:
    """Return `value` if it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return int(value)


def widest_float(value: object) -> torch.dtype:
    """Return float64, or float32 for what is on Apple's GPUs, which have no float64."""
    on_mps = isinstance(value, Tensor) and value.device.type == "mps"
    return torch.float32 if on_mps else torch.float64


def factors(name: str, value: Values, *, allowed: str = ">= 0") -> Tensor:
    """Return finite factors, ">= 0" or "> 0", as a tensor of `widest_float`."""
    try:
        values = torch.as_tensor(value, dtype=widest_float(value))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be one number per class, got {value!r}") from None
    bad = ~(values.isfinite() & (values > 0 if allowed == "> 0" else values >= 0))
    if bad.any():
        where = f" for class {int(bad.nonzero()[0, -1])}" if values.ndim else ""
        raise ValueError(f"{name} must be finite and {allowed}, got {values[bad][0].item()}{where}")
    return values


def class_weight(name: str, value: Values) -> Tensor:
    """Return one factor >= 0 per class, (C,), not all of them 0."""
    values = factors(name, value)
    if values.ndim != 1 or len(values) < 2 or not values.any():
        shape = tuple(values.shape)
        raise ValueError(f"{name} must be one number per class, (C,), not all 0, got shape {shape}")
    return values


def types(logits: Tensor, targets: Tensor) -> None:
    """Check that both are tensors, and the logits floating point."""
    for name, value in (("logits", logits), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not logits.is_floating_point():
        fix = "real numbers" if logits.is_complex() else "logits.float()"
        raise TypeError(f"logits must be floating point, got {logits.dtype}: use {fix}")


def shapes(logits: Tensor, targets: Tensor, weight: Tensor | None) -> bool:
    """Check types and shapes; return whether the targets are class probabilities.

    It compares sizes and reads no number, so it is cheap enough for every training step.
    """
    types(logits, targets)
    shape = tuple(logits.shape)
    axis = 1 if len(shape) > 1 else 0
    num_classes = shape[axis] if shape else 1
    if num_classes < 2:
        raise ValueError(
            f"logits must have at least 2 classes on axis {axis}, got shape {shape}: "
            "for one yes-or-no output use MultiLabelBCELoss"
        )
    if weight is not None and len(weight) != num_classes:
        raise ValueError(f"weight must be one number per class, {num_classes}, got {len(weight)}")
    if targets.shape == shape and targets.is_floating_point():
        return True
    expected = shape[:axis] + shape[axis + 1 :]
    if targets.shape != expected:
        raise ValueError(
            f"targets must have shape {expected} for logits {shape}, got {tuple(targets.shape)}: "
            f"{_fix_of_shape(shape, targets.shape, expected)}"
        )
    if targets.is_floating_point():
        raise TypeError(f"targets must be integers, got {targets.dtype}: use targets.long()")
    return False


def _fix_of_shape(logits: tuple[int, ...], targets: torch.Size, expected: tuple[int, ...]) -> str:
    if len(logits) == 1:
        return "one row of logits takes one target, so keep both axes of a batch, (N, C)"
    if targets == logits:
        return "use class indices, targets.argmax(1)"
    if targets == logits[:-1]:
        return "the class axis is 1 as in torch, so use logits.movedim(-1, 1)"
    if targets.numel() == math.prod(expected):
        return f"use targets.reshape({expected})"
    return "one class index for each row of logits"


def class_indices(targets: Tensor, num_classes: int, ignore_index: int) -> None:
    """Check that every target lies in [0, num_classes) or is `ignore_index`."""
    bad = ((targets < 0) | (targets >= num_classes)) & (targets != ignore_index)
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"targets must be class indices in [0, {num_classes}) or ignore_index "
            f"({ignore_index}), got {targets[where].item()} at {where}: are they counted from 0?"
        )


def class_probabilities(targets: Tensor, ignore_index: int) -> None:
    """Check that floating-point targets (N, C, d1..dk) are probabilities over axis 1."""
    if ignore_index >= 0:
        raise ValueError(f"ignore_index must be < 0 with class probabilities, got {ignore_index}")
    off = (targets.sum(1, dtype=torch.float32) - 1).abs()
    if not ((targets >= 0).all() and (off <= _tolerance(targets)).all()):  # NaN is not
        raise ValueError(
            "targets given as class probabilities must be >= 0 and sum to 1 over the class axis "
            f"(1), got a least entry of {targets.min():g} and a least sum of "
            f"{targets.sum(1).min():g}: move the class axis to 1, or pass class indices as integers"
        )


def labels(logits: Tensor, targets: Tensor) -> None:
    """Check types and shapes of logits and of one target in [0, 1] for each."""
    types(logits, targets)
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets must have the shape of logits, {tuple(logits.shape)}, got "
            f"{tuple(targets.shape)}: for class indices use OneVsRestBCELoss"
        )


def between_0_and_1(targets: Tensor) -> None:
    """Check that every target lies in [0, 1]."""
    bad = ~((targets >= 0) & (targets <= 1))
    if bad.any():
        raise ValueError(f"targets of labels must lie in [0, 1], got {targets[bad][0].item()}")


def not_probabilities(logits: Tensor, name: str = "logits") -> None:
    """Refuse logits (N, C, d1..dk) if every row is a probability distribution, or one in percent.

    The numbers may have been rounded to 10^-k: then they are all multiples of that, and a row sums
    to 1 within min(0.02, C 10^-k / 2).
    """
    whole = whole_of_rows(logits)
    if whole:
        raise ValueError(
            f"{name} must be raw scores, got rows that are >= 0 and sum to {whole}, so softmax was "
            "already applied: take the softmax out of the model, the loss applies it itself"
        )


def whole_of_rows(values: Tensor) -> int:
    """Return what every row sums to, rounding allowed, if none is < 0: 1 or 100, else 0."""
    if not values.numel() or not (values >= 0).all():
        return 0
    whole = 1 if float(values.sum(1).max()) < 10 else 100
    shares, digits = values.cpu().double() / whole, torch.finfo(values.dtype).eps
    off = float((shares.sum(1) - 1).abs().max())
    if off <= _tolerance(values):
        return whole
    for k in range(1, 7):
        # a type with few digits of its own cannot show to how many decimals a number was rounded
        if off <= min(0.02, values.shape[1] * 10.0**-k / 2) + 1e-6 and 10.0**-k > 5 * digits:
            rest = (shares - shares.round(decimals=k)).abs()
            if (rest <= digits * shares + 1e-15).all():
                return whole
    return 0


def log_probabilities(log_probs: Tensor) -> None:
    """Check that every row of (N, C, d1..dk) holds normalised log-probabilities."""
    off = log_probs.float().logsumexp(1).abs()
    if not (off < 10 * _tolerance(log_probs)).all():
        raise ValueError(
            f"log_probs must be normalised, got a logsumexp off by {off.max():.2g}, such as that "
            "of probabilities or of raw logits: use log_softmax(logits, 1) first"
        )


def _tolerance(values: Tensor) -> float:
    return max(1e-4, torch.finfo(values.dtype).eps)
