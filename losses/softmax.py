"""The softmax, split into the target's probability and that of the other classes."""

from torch import Tensor


def split_softmax(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (others, p, q): softmax with the target's entry at 0, that entry, and 1 - p.

    q is the sum of the others, so it keeps its digits where p rounds to 1.

    Args:
        logits: (N, C, d1..dk), detached.
        targets: class indices, (N, d1..dk).
    """
    rows = targets.unsqueeze(1)
    others = logits.softmax(1)  # (N, C, d1..dk)
    p = others.gather(1, rows).squeeze(1)
    others.scatter_(1, rows, 0)
    return others, p, others.sum(1)
