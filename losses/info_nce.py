"""InfoNCE: cross-entropy where the classes are the other rows of the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import checks
from losses.base import at_least_float32


def info_nce(similarity: Tensor, tau: float = 0.1) -> Tensor:
    """Return how surprising it is that row i's partner is column i, averaged over rows.

    For similarities s, (N, N), with the true pairs on the diagonal:

        loss = mean_i (-ln softmax(s_i / tau)_i)

    CrossEntropyLoss on s / tau with the row number as target. One direction; the symmetric loss is
    the mean of info_nce(s) and info_nce(s.T). Its optimum is a log density ratio, softmax over the
    candidates of this batch, so values of different N cannot be compared.

        >>> info_nce(torch.eye(2), tau=0.5)
        tensor(0.1269)

    van den Oord, Li and Vinyals, 2018, Representation Learning with Contrastive Predictive Coding,
    https://arxiv.org/abs/1807.03748
    """
    tau = checks.number("tau", tau, "(0, inf)")
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(
            f"similarity must be a square matrix (N, N), true pairs on the diagonal, got shape "
            f"{tuple(similarity.shape)}"
        )
    if not similarity.is_floating_point():
        raise TypeError(f"similarity must be floating point, got {similarity.dtype}")
    targets = torch.arange(len(similarity), device=similarity.device)
    return F.cross_entropy(at_least_float32(similarity) / tau, targets)
