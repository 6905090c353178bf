"""From a loss's minimiser back to probabilities: what the links of several losses share."""

import torch
from torch import Tensor

from losses.base import class_axis


def with_floor(shares: Tensor, floor: float) -> Tensor:
    """Return the log of `shares`, normalised, the uniform mixed in: a zero has a finite nll."""
    axis = class_axis(shares)
    total, uniform = shares.sum(axis, keepdim=True), 1 / shares.shape[axis]
    probs = torch.where(total == 0, uniform, shares / total)  # NaN stays NaN
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
    """Return the nearest distribution over the class axis, in squared distance.

    It is (points - threshold), cut at 0, with the threshold that makes it sum to 1: the mean excess
    of those above it, found from below in a few passes (Michelot 1986), where sorting takes many.
    """
    axis = class_axis(points)
    points = points - points.amax(axis, keepdim=True)  # keeps the digits of large points
    threshold = torch.full_like(points.narrow(axis, 0, 1), -1)  # the largest point gets 1 at most
    while True:
        kept = points > threshold
        total = torch.where(kept, points, 0).sum(axis, keepdim=True)
        higher = (total - 1) / kept.sum(axis, keepdim=True)
        if not (higher > threshold).any():
            return (points - threshold).clamp(min=0)
        threshold = torch.maximum(threshold, higher)
