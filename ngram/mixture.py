"""The mixture of a network and a counted model, w p_network + (1 - w) p_counted, and its best w.

Source: Jelinek and Mercer 1980, Interpolated estimation of Markov source parameters from sparse
data.
"""

import torch
from torch import Tensor

from ngram.models import LogProbs
from training.data import Split

CHUNK_ROWS = 512


def mixture(network: LogProbs, counted: LogProbs, weight: float) -> LogProbs:
    """Return the log-probabilities of w p_network + (1 - w) p_counted as a function."""

    def log_probs(contexts: Tensor) -> Tensor:
        return (weight * network(contexts).exp() + (1 - weight) * counted(contexts).exp()).log()

    return log_probs


def best_weight(network: LogProbs, counted: LogProbs, split: Split) -> float:
    """Return the w in [0, 1] at which the mixture has the least nll on a split.

    With p and q the probabilities that the network and the counted model give the target, the
    nll is convex in w and falls while the mean of (p - q) / (w p + (1 - w) q) is positive. Its
    minimum is found by bisection.
    """

    def target_probs(log_probs: LogProbs) -> Tensor:
        chunks = zip(split.inputs.split(CHUNK_ROWS), split.targets.split(CHUNK_ROWS), strict=True)
        return torch.cat([log_probs(x).gather(1, y[:, None]) for x, y in chunks]).exp()

    p, q = target_probs(network), target_probs(counted)
    low, high = 0.0, 1.0
    for _ in range(50):
        weight = (low + high) / 2
        slope = ((p - q) / (weight * p + (1 - weight) * q)).sum()
        low, high = (weight, high) if slope > 0 else (low, weight)
    return (low + high) / 2
