"""Evaluation: measure a model by the probabilities that its loss implies, whatever the loss."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from losses import ClassificationLoss
from metrics import (
    Calibration,
    Metrics,
    MetricsReport,
    PerExample,
    TemperatureFit,
    apply_temperature,
    expected_error,
    fit_temperature_in_chunks,
)
from training.data import Split
from training.distributed import from_main, rank, same_refusal, world_size
from training.errors import DivergedError

FEATURE_ROWS = 1024
PART_LOGITS = 2**18  # handed on at a time, so that what is done to them stays in the CPU's cache
PARTS = 2  # of one product with the head: with fewer rows it would be slower
MAX_KEPT = 2**26  # log-probabilities; a larger calibration split is computed again in each pass


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loss_fn: ClassificationLoss,
    split: Split,
    num_classes: int,
    *,
    objective: bool = True,
    examples: PerExample | None = None,
) -> MetricsReport:
    """Evaluate a model on a split, using the probabilities that its loss implies.

    Without `objective`, which may need a teacher, the loss itself is left out. What the model makes
    of each example goes into `examples`, if that is given.

    Where the loss's link is not softmax, `ece_softmax` and `ece_own` stand beside `ece`, which is
    the reported one of the two. Of several processes each measures a share of the rows, and all get
    the figures of the whole split.

    Raises:
        DivergedError: an output of the model is not finite.
    """
    device, ignore_index = split.targets.device, loss_fn.ignore_index
    metrics = Metrics(num_classes, ignore_index=ignore_index, device=device)
    other = Calibration(device=device)  # of the link that is not reported
    by_own_link = loss_fn.link == "own"
    batches = logits_of(model, split, num_classes, shared=True)
    with same_refusal():
        for i, (logits, inputs, targets, numbers) in enumerate(batches):
            if i == 0:
                loss_fn.check(logits, targets)
            # a link may make probabilities of logits that are not finite
            if not (math.isfinite(logits.sum().item()) or logits.isfinite().all()):
                raise DivergedError("the model's logits are not finite, it is not scored")
            loss_sums = loss_fn.sums(logits, targets, inputs) if objective else None
            log_probs = loss_fn.log_probs(logits)
            metrics.update(log_probs, targets, loss_sums=loss_sums)
            if examples:
                examples.update(numbers, log_probs, targets, ignore_index=ignore_index)
            if loss_fn.link_differs:
                unreported = logits.log_softmax(1) if by_own_link else loss_fn.own_log_probs(logits)
                other.update_rows(unreported, targets, ignore_index=ignore_index)
    metrics.all_reduce()
    if examples:
        examples.all_reduce()
    figures = metrics.compute()
    if loss_fn.link_differs:
        other.all_reduce()
        figures[f"ece_{loss_fn.link}"] = figures["ece"]
        figures["ece_softmax" if by_own_link else "ece_own"] = expected_error(other.bins())
    return MetricsReport(figures, metrics.bins())


def has_features_and_head(model: nn.Module) -> bool:
    """Say whether model(inputs) is head(features(inputs)), `features` being a method.

    Some of torchvision's models have parts of these names, between which more happens.
    """
    features = getattr(model, "features", None)
    is_method = callable(features) and not isinstance(features, nn.Module)
    return is_method and isinstance(getattr(model, "head", None), nn.Module)


def on_trial(model: nn.Module) -> Callable[[Tensor], Any]:
    """Return the model with copies of its buffers, such as running means: none changes."""
    return partial(functional_call, model, {n: b.clone() for n, b in model.named_buffers()})


def logits_of(
    model: nn.Module, split: Split, num_classes: int, *, shared: bool = False
) -> Iterator[tuple[Tensor, ...]]:
    """Yield (logits, inputs, targets, numbers) of a few rows at a time, never of a whole split.

    The numbers are those of the examples in the split. Where the model has `features` and `head`,
    features are computed in larger batches than logits, whose rows may be wide. `shared` leaves to
    each process of a run its turns among the same batches: a row's logits do not depend on who
    computes them.
    """
    model.eval()
    positions = max(1, math.prod(split.targets.shape[1:]))  # of each example, that have a target
    part = max(1, PART_LOGITS // (num_classes * positions))
    turn, turns = (rank(), world_size()) if shared else (0, 1)
    size = max(1, FEATURE_ROWS // positions)
    for start in range(turn * size, len(split), turns * size):
        inputs, targets = split.batch(slice(start, start + size))
        numbers = torch.arange(start, start + len(targets), device=targets.device)
        if not has_features_and_head(model):
            yield from pieces(part, model(inputs), inputs, targets, numbers)
            continue
        features = model.features(inputs)  # type: ignore[operator]
        for some, *others in pieces(PARTS * part, features, inputs, targets, numbers):
            logits = model.head(some)  # type: ignore[operator]
            yield from pieces(part, logits, *others)


def pieces(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few rows of each tensor, until there are no more."""
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


@torch.no_grad()
def log_probs_of(
    model: nn.Module, loss_fn: ClassificationLoss, split: Split, num_classes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (log_probs, targets) of a few rows at a time, by the link that the loss reports."""
    for logits, _, targets, _ in logits_of(model, split, num_classes):
        yield loss_fn.log_probs(logits), targets


def measure(
    log_probs_at: Callable[[Tensor], Tensor], split: Split, num_classes: int
) -> dict[str, float]:
    """Return the metrics of anything that gives log-probabilities (N, C) for inputs (N, ...)."""
    metrics = Metrics(num_classes)
    rows = max(1, PARTS * PART_LOGITS // num_classes)
    for start in range(0, len(split), rows):
        inputs, targets = split.batch(slice(start, start + rows))
        metrics.update(log_probs_at(inputs.cpu()), targets.cpu())
    return metrics.compute()


def recalibrate(
    model: nn.Module, loss_fn: ClassificationLoss, calibration: Split, test: Split, num_classes: int
) -> tuple[TemperatureFit, MetricsReport]:
    """Fit T on `calibration`, and measure `test` with the T that is to be applied."""
    ignore_index = loss_fn.ignore_index

    def fitted() -> TemperatureFit:
        chunks = partial(log_probs_of, model, loss_fn, calibration, num_classes)
        if calibration.targets.numel() * num_classes > MAX_KEPT:
            return fit_temperature_in_chunks(chunks, ignore_index=ignore_index)
        kept = [*chunks()]
        return fit_temperature_in_chunks(lambda: kept, ignore_index=ignore_index)

    fit = from_main(fitted)
    metrics = Metrics(num_classes, ignore_index=ignore_index, device=test.targets.device)
    with same_refusal(), torch.no_grad():
        for logits, _, targets, _ in logits_of(model, test, num_classes, shared=True):
            metrics.update(apply_temperature(loss_fn.log_probs(logits), fit.to_apply), targets)
    metrics.all_reduce()
    return fit, MetricsReport(metrics.compute(), metrics.bins())
