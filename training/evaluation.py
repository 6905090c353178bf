"""One yardstick for every loss: metrics of the probabilities that it believes in."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses import ClassificationLoss
from metrics.calibration import Calibration
from metrics.calibration_error import Bins, expected_error
from metrics.tracker import Metrics
from training.data import Split
from training.distributed import from_all, rank, together, world_size
from training.errors import DivergedError

FEATURE_ROWS = 1024
CHUNK_LOGITS = 2**19  # of one product with the head: with fewer rows it would be slower
PART_LOGITS = 2**18  # handed on at a time: what is done to them stays in cache, and in the heap


@dataclass(frozen=True)
class Evaluation:
    """A split's metrics by name, and the sums per bin of confidence for its diagram."""

    metrics: dict[str, float]
    bins: Bins


def evaluate(
    model: nn.Module,
    loss_fn: ClassificationLoss,
    split: Split,
    num_classes: int,
    max_rows: int | None = None,
) -> Evaluation:
    """Measure the model on a split, by the probabilities of the loss's link.

    Where that link is not softmax, `ece_softmax` and `ece_own` stand beside `ece`, which is the
    reported one. A model whose outputs are not finite is never scored. Of several processes each
    measures a share of the rows, and all get the figures of the whole split.
    """
    refusal: ValueError | None = None
    try:
        evaluation = _evaluate(model, loss_fn, split, num_classes, max_rows)
        if math.isfinite(evaluation.metrics.get("loss", 0.0)):
            return evaluation
    except ValueError as error:
        refusal = error
    # a link may make probabilities of what is not finite; the loss does not
    chunks = logits_of(model, split, num_classes, max_rows, shared=True)
    if not all(from_all(all(logits.detach().isfinite().all() for logits, _, _ in chunks))):
        raise DivergedError("the model's logits are not finite, it is not scored") from refusal
    if refusal:
        raise refusal
    return evaluation


@torch.no_grad()
def _evaluate(
    model: nn.Module,
    loss_fn: ClassificationLoss,
    split: Split,
    num_classes: int,
    max_rows: int | None,
) -> Evaluation:
    device = split.targets.device
    metrics = Metrics(num_classes, ignore_index=loss_fn.ignore_index, device=device)
    written = type(loss_fn).log_probs is not ClassificationLoss.log_probs  # a user's own link
    reports_own = written or loss_fn.link == "own"
    other_link = partial(F.log_softmax, dim=1) if reports_own else loss_fn.own_log_probs
    other = Calibration(device=device)
    first = True
    with together():
        for logits, inputs, targets in logits_of(model, split, num_classes, max_rows, shared=True):
            if first:
                loss_fn.check(logits, targets)
                first = False
            log_probs = loss_fn.log_probs(logits)
            loss_sums = loss_fn.sums(logits, targets, inputs)
            metrics.update(log_probs, targets, loss_sums=loss_sums)
            if loss_fn.link_differs:
                other.update_rows(other_link(logits), targets, ignore_index=loss_fn.ignore_index)
    metrics.all_reduce()
    figures = metrics.compute()
    if loss_fn.link_differs:
        other.all_reduce()
        both = [figures["ece"], expected_error(other.bins())]
        figures |= zip(("ece_own", "ece_softmax")[:: 1 if reports_own else -1], both, strict=True)
    return Evaluation(figures, metrics.bins())


def logits_of(
    model: nn.Module,
    split: Split,
    num_classes: int,
    max_rows: int | None = None,
    *,
    shared: bool = False,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (logits, inputs, targets) of a few rows at a time, never those of a whole split.

    The model's `features` are computed in larger batches than its `head`, whose rows may be wide.
    `shared` leaves to each process of a run its turns among the same batches: a row's logits do not
    depend on who computes them.
    """
    model.eval()
    rows, part = (max(1, n // num_classes) for n in (CHUNK_LOGITS, PART_LOGITS))
    total = min(len(split), max_rows or len(split))
    turn, turns = (rank(), world_size()) if shared else (0, 1)
    for start in range(turn * FEATURE_ROWS, total, turns * FEATURE_ROWS):
        batch = slice(start, min(total, start + FEATURE_ROWS))
        inputs, targets = split.inputs[batch], split.targets[batch]
        features = model.features(inputs)  # type: ignore[operator]
        for some, *given in zip(*(x.split(rows) for x in (features, inputs, targets)), strict=True):
            logits = model.head(some)  # type: ignore[operator]
            yield from zip(*(x.split(part) for x in (logits, *given)), strict=True)


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
