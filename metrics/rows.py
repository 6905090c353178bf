"""Rows of scores over many classes: checked and flattened, a few at a time, and ranked."""

import torch
from torch import Tensor


def cached_rows(num_classes: int, device: torch.device | str) -> int:
    """Return how many rows of C classes to process at a time, so that they stay in the CPU's cache.

    A CPU makes a softmax over 64 rows of 13,000 classes nearly three times as fast as one over
    1,024 rows. An accelerator only needs few launches, so it takes more rows.
    """
    elements = 2**20 if torch.device(device).type == "cpu" else 2**24
    return max(1, elements // num_classes)


def float64_device(device: torch.device | str) -> torch.device:
    """Return the device, or the CPU for Apple's GPUs, which have no float64."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def as_rows(
    log_probs: Tensor, targets: Tensor, num_classes: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Check (N, C, ...) and (N, ...), and return the rows to score as (n, C) and (n, 1).

    Rows whose target is `ignore_index` are left out.

    Raises:
        ValueError: a shape is wrong, or a target is neither a class nor `ignore_index`.
        TypeError: `log_probs` are not floating, or `targets` are.
    """
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
    classes = targets.reshape(-1, 1).long()
    last = num_classes - 1
    if 0 <= ignore_index <= last or not torch.equal(classes, classes.clamp(0, last)):
        kept = classes.squeeze(1) != ignore_index
        log_probs, classes = log_probs[kept], classes[kept]
        num_outside = int((classes != classes.clamp(0, last)).sum())
        if num_outside:
            raise ValueError(
                f"targets must be in [0, {num_classes}) or {ignore_index} to be ignored: "
                f"{num_outside} of them are not"
            )
    return log_probs, classes


def whole_of_rows(values: Tensor, tolerance: float) -> int:
    """Return what all rows (N, C, ...) sum to, rounding allowed, if none is < 0: 1 or 100, else 0.

    Rounded are numbers that are all multiples of 10^-k, in rows that sum to 1 within
    min(0.02, C 10^-k / 2); in percent likewise, divided by 100. (`losses.checks` has this, too.)
    """
    if not values.numel() or not (values >= 0).all():
        return 0
    whole = 1 if float(values.sum(1).max()) < 10 else 100
    shares, digits = values.double() / whole, torch.finfo(values.dtype).eps
    off = float((shares.sum(1) - 1).abs().max())
    if off <= tolerance:
        return whole
    for k in range(1, 7):
        # a type with few digits of its own cannot show to how many decimals a number was rounded
        if off <= min(0.02, values.shape[1] * 10.0**-k / 2) + 1e-6 and 10.0**-k > 5 * digits:
            rest = (shares - shares.round(decimals=k)).abs()
            if (rest <= digits * shares + 1e-15).all():
                return whole
    return 0


def rank_of_targets(scores: Tensor, targets: Tensor, target_scores: Tensor) -> Tensor:
    """Count the classes ranked above the target; on ties the lower index ranks first.

    Comparisons that write floats are vectorised on a CPU. `max(1)` with its index, `topk` and sums
    of booleans are not, and take 5 to 10 times as long over many classes.

    Args:
        scores: (n, C).
        targets: (n, 1) classes.
        target_scores: (n, 1) scores of the targets.

    Returns:
        (n,) ranks, 0 where the target is the predicted class.
    """
    scratch = torch.empty_like(scores)
    rank = torch.gt(scores, target_scores, out=scratch).sum(1)
    equal = torch.eq(scores, target_scores, out=scratch)
    # the order of the classes matters only where there are ties; to look is to wait for a GPU
    if not scores.is_cpu or int(equal.sum()) > len(rank):
        classes = torch.arange(scores.shape[1], device=scores.device)
        rank += equal.mul_(classes < targets).sum(1)
    return rank
