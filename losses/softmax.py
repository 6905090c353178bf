"""The softmax, split into the target's probability and that of the other classes."""

from torch import Tensor


def split_softmax(logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (others, p, q): softmax with the target's entry at 0, that entry, and 1 - p.

    `logits` are (N, C, d1..dk), detached; the targets `rows`, p and q are (N, 1, d1..dk). q is the
    sum of the others, so it keeps its digits where p rounds to 1.
    """
    others = logits.softmax(1)
    p = others.gather(1, rows)
    others.scatter_(1, rows, 0)
    return others, p, others.sum(1, keepdim=True)
