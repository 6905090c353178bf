"""One yardstick for every loss: metrics of the probabilities that it believes in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses import ClassificationLoss
from training.calibration import Calibration
from training.calibration_error import Bins, expected_error
from training.data import Split
from training.errors import DivergedError
from training.metrics import Metrics

FEATURE_ROWS = 1024
CHUNK_LOGITS = 2**19  # about 2 MB in float32: what is done to a chunk's logits stays in cache


@dataclass(frozen=True)
class Evaluation:
    """A split's metrics by name, and the sums per bin of confidence for its diagram."""

    metrics: dict[str, float]
    bins: Bins


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loss_fn: ClassificationLoss,
    split: Split,
    num_classes: int,
    max_rows: int | None = None,
) -> Evaluation:
    """Measure the model on a split, by the probabilities of the loss's link.

    Where that link is not softmax, `ece_softmax` and `ece_own` stand beside `ece`, which is the
    reported one. A model whose outputs are not finite is never scored.
    """
    device = split.targets.device
    metrics = Metrics(num_classes, ignore_index=loss_fn.ignore_index, device=device)
    written = type(loss_fn).log_probs is not ClassificationLoss.log_probs  # a user's own link
    reports_own = written or loss_fn.link == "own"
    other_link = partial(F.log_softmax, dim=1) if reports_own else loss_fn.own_log_probs
    other = Calibration(device=device)
    chunks = partial(logits_of, model, split, num_classes, max_rows)
    try:
        for number, (logits, inputs, targets) in enumerate(chunks()):
            if number == 0:
                loss_fn.check(logits, targets)
            loss_sums = loss_fn.sums(logits, targets, inputs)
            metrics.update(loss_fn.log_probs(logits), targets, loss_sums=loss_sums)
            if loss_fn.link_differs:
                other.update_rows(other_link(logits), targets, ignore_index=loss_fn.ignore_index)
        figures = metrics.compute()
    except ValueError as error:
        if all(logits.isfinite().all() for logits, _, _ in chunks()):
            raise
        raise DivergedError("the model's logits are not finite, it is not scored") from error
    if loss_fn.link_differs:
        both = [figures["ece"], expected_error(other.bins())]
        figures |= zip(("ece_own", "ece_softmax")[:: 1 if reports_own else -1], both, strict=True)
    return Evaluation(figures, metrics.bins())


def logits_of(
    model: nn.Module, split: Split, num_classes: int, max_rows: int | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (logits, inputs, targets) of a few rows at a time, never those of a whole split.

    The model's `features` are computed in larger batches than its `head`, whose rows may be wide.
    """
    model.eval()
    rows = max(1, CHUNK_LOGITS // num_classes)
    total = min(len(split), max_rows or len(split))
    for start in range(0, total, FEATURE_ROWS):
        batch = slice(start, min(total, start + FEATURE_ROWS))
        inputs, targets = split.inputs[batch], split.targets[batch]
        features = model.features(inputs)  # type: ignore[operator]
        for chunk in zip(
            features.split(rows), inputs.split(rows), targets.split(rows), strict=True
        ):
            yield model.head(chunk[0]), chunk[1], chunk[2]  # type: ignore[operator]


def measure(
    log_probs_of: Callable[[Tensor], Tensor],
    split: Split,
    num_classes: int,
    max_rows: int | None = None,
) -> dict[str, float]:
    """Return the metrics of anything that gives log-probabilities (N, C) for inputs (N, ...)."""
    metrics = Metrics(num_classes)
    rows = max(1, CHUNK_LOGITS // num_classes)
    total = min(len(split), max_rows or len(split))
    for start in range(0, total, rows):
        batch = slice(start, min(total, start + rows))
        metrics.update(log_probs_of(split.inputs[batch].cpu()), split.targets[batch].cpu())
    return metrics.compute()
