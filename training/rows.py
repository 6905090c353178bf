"""How rows of scores over many classes are gone through: flat, and a few at a time."""

import torch
from torch import Tensor


def cached_rows(num_classes: int, device: torch.device | str) -> int:
    """Return how many rows of C classes to go through at a time, so that passes find them in cache.

    A CPU makes a softmax over 64 rows of 13,000 classes nearly three times as fast as over 1,024;
    an accelerator only asks for few launches.
    """
    elements = 2**20 if torch.device(device).type == "cpu" else 2**27
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
