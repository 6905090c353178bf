"""Rows of scores over many classes: flat, a few at a time, and ranked."""

import torch
from torch import Tensor


def cached_rows(num_classes: int, device: torch.device | str) -> int:
    """Return how many rows of C classes to go through at a time, so that passes find them in cache.

    A CPU makes a softmax over 64 rows of 13,000 classes nearly three times as fast as over 1,024;
    an accelerator only asks for few launches.
    """
    elements = 2**20 if torch.device(device).type == "cpu" else 2**24
    return max(1, elements // num_classes)


def as_rows(log_probs: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Check shapes and types of (N, C, ...) and (N, ...); return them as (n, C) and (n,)."""
    shape = log_probs.shape
    if len(shape) < 2 or shape[1] != num_classes:
        raise ValueError(f"log_probs must be (N, {num_classes}, ...), got {tuple(shape)}")
    if targets.shape != shape[:1] + shape[2:]:
        wanted = tuple(shape[:1] + shape[2:])
        raise ValueError(f"targets must be {wanted}, got {tuple(targets.shape)}")
    if not log_probs.is_floating_point():
        raise TypeError(f"log_probs must be floating, got {log_probs.dtype}")
    if targets.is_floating_point():
        raise TypeError(f"targets must be integer classes, got {targets.dtype}")
    if len(shape) > 2:
        log_probs = log_probs.movedim(1, -1).reshape(-1, num_classes)
    return log_probs, targets.reshape(-1).long()


def tolerance(log_probs: Tensor) -> float:
    """Return how far from 1 the sum of a row may be, given how far rounding takes it."""
    return max(1e-4, 8 * torch.finfo(log_probs.dtype).eps)


def plainly_scorable(log_probs: Tensor, targets: Tensor) -> bool:
    """Say whether all rows (n, C) sum to 1 and all targets (n,) are classes, in few operations."""
    ends = (*log_probs.exp().sum(1).aminmax(), *targets.aminmax())
    least, most, first, last = (end.item() for end in ends)
    margin = tolerance(log_probs)
    normalised = least >= 1 - margin and most <= 1 + margin  # NaN is not
    return normalised and first >= 0 and last < log_probs.shape[1]


def rank_of_targets(scores: Tensor, targets: Tensor, scratch: Tensor) -> Tensor:
    """Count, for each row (n, C), the classes before the target: higher, or as high and lower.

    Comparisons that write floats are vectorised; `max(1)` with its index, `topk` and sums of
    booleans are not, and take 5 to 10 times as long over many classes.

    Args:
        scores: (n, C).
        targets: (n, 1) classes.
        scratch: (n, C) of the same type, overwritten.
    """
    target_scores = scores.gather(1, targets)
    rank: Tensor = torch.gt(scores, target_scores, out=scratch).sum(1)
    tied = torch.ge(scores, target_scores, out=scratch).sum(1) - rank > 1
    # Only in rows where the target is not alone at its height does the order of classes matter.
    rows = tied.nonzero().squeeze(1) if scores.device.type == "cpu" else slice(None)
    before = torch.arange(scores.shape[1], device=scores.device) < targets[rows]
    rank[rows] += ((scores[rows] == target_scores[rows]) & before).sum(1)
    return rank
