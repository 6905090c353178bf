"""From a loss's minimiser back to probabilities: what the links of several losses share."""

import torch
from torch import Tensor

from losses.base import class_axis


def with_floor(shares: Tensor, floor: float) -> Tensor:
    """Return the log of `shares`, normalised, the uniform mixed in: a zero has a finite nll."""
    axis = class_axis(shares)
    total, uniform = shares.sum(axis, keepdim=True), 1 / shares.shape[axis]
    probs = torch.where(total > 0, shares / total, uniform)
    return ((1 - floor) * probs + floor * uniform).log()


def without_weight(log_probs: Tensor, weight: Tensor, floor: float) -> Tensor:
    """Return log of p / w, normalised: the prior correction of class weights w, (C,).

    A class of weight zero was never asked for; it has probability zero, and the floor.
    """
    axis = class_axis(log_probs)
    weight = weight.to(log_probs.dtype).view(-1, *[1] * (log_probs.ndim - axis - 1))
    unseen = weight == 0
    log_probs = (log_probs - weight.log()).masked_fill(unseen, -torch.inf).log_softmax(axis)
    return with_floor(log_probs.exp(), floor) if bool(unseen.any()) else log_probs


def project_to_simplex(points: Tensor) -> Tensor:
    """Return the nearest distribution over the class axis, in squared distance (Duchi 2008)."""
    axis = class_axis(points)
    points = points - points.amax(axis, keepdim=True)  # keeps the digits of large points
    descending = points.sort(axis, descending=True).values.movedim(axis, -1)
    excess = descending.cumsum(-1) - 1  # of the sum of the k largest over 1
    count = torch.arange(1, points.shape[axis] + 1, device=points.device)
    num_kept = (descending * count > excess).sum(-1, keepdim=True)
    threshold = (excess.gather(-1, num_kept - 1) / num_kept).movedim(-1, axis)
    return (points - threshold).clamp(min=0)
