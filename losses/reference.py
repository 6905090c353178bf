"""Every loss in NumPy, float64, as its paper writes it, in log space where numbers could overflow.

For tests and figures. Rows of logits (N, C) and class indices (N,) give one loss per row, (N,).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def log_softmax(logits: Array) -> Array:
    """Return z_k - ln sum_j exp(z_j); the maximum is subtracted first against overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits: Array) -> Array:
    """Return exp(z_k) / sum_j exp(z_j)."""
    return np.exp(log_softmax(logits))


def one_hot(targets: Indices, num_classes: int) -> Array:
    """Return rows with 1 at the target and 0 elsewhere."""
    return np.eye(num_classes)[targets]


def cross_entropy(
    logits: Array, targets: Indices, weight: Array | None = None, label_smoothing: float = 0.0
) -> Array:
    """Return sum_k w_k q_k (-ln p_k), q the one-hot mixed with the uniform (Szegedy 2016)."""
    num_classes = logits.shape[1]
    q = (1 - label_smoothing) * one_hot(targets, num_classes) + label_smoothing / num_classes
    w = np.ones(num_classes) if weight is None else weight
    return -(w * q * log_softmax(logits)).sum(axis=1)


def logit_adjusted(logits: Array, targets: Indices, counts: Indices, tau: float = 1.0) -> Array:
    """Return cross-entropy of z + t ln prior, a class without rows counted as 1 (Menon 2021)."""
    prior = np.maximum(counts, 1) / counts.sum()
    return cross_entropy(logits + tau * np.log(prior), targets)


def generalised(logits: Array, targets: Indices, q: float) -> Array:
    """Return (1 - p_y^q) / q (Zhang and Sabuncu 2018)."""
    return (1 - softmax(logits)[np.arange(len(targets)), targets] ** q) / q


def focal(logits: Array, targets: Indices, gamma: float, weight: Array | None = None) -> Array:
    """Return -w_y (1 - p_y)^gamma ln p_y (Lin 2017, who calls w alpha)."""
    p = softmax(logits)[np.arange(len(targets)), targets]
    return (1 - p) ** gamma * cross_entropy(logits, targets, weight)


def softmax_mse(logits: Array, targets: Indices) -> Array:
    """Return sum_k (p_k - [k = y])^2 (Brier 1950)."""
    error = softmax(logits) - one_hot(targets, logits.shape[1])
    return (error**2).sum(axis=1)


def rescaled_mse(logits: Array, targets: Indices, k: float = 1.0, M: float = 1.0) -> Array:
    """Return k (z_y - M)^2 + sum_{j != y} z_j^2 (Hui and Belkin 2021); k = M = 1: least squares."""
    hot = one_hot(targets, logits.shape[1])
    return (hot * k * (logits - M) ** 2 + (1 - hot) * logits**2).sum(axis=1)


def binary_cross_entropy(logits: Array, targets: Array, pos_weight: Array | float = 1.0) -> Array:
    """Return -c t ln s - (1 - t) ln(1 - s) of every element, s = 1 / (1 + exp(-z)).

    -ln s = max(-z, 0) + ln(1 + exp(-|z|)), and -ln(1 - s) is the same with z for -z.
    """
    tail = np.log1p(np.exp(-np.abs(logits)))
    positive = pos_weight * targets * (np.maximum(-logits, 0) + tail)
    return positive + (1 - targets) * (np.maximum(logits, 0) + tail)


def one_vs_rest(logits: Array, targets: Indices) -> Array:
    """Return the binary cross-entropies of the one-hot, summed over classes."""
    hot = one_hot(targets, logits.shape[1])
    return binary_cross_entropy(logits, hot).sum(axis=1)


def hinge(logits: Array, targets: Indices, variant: str, margin: float = 1.0) -> Array:
    """Return the largest (Crammer and Singer) or the sum (Weston and Watkins) of violations."""
    rows = np.arange(len(targets))
    violations = np.maximum(0, margin + logits - logits[rows, targets][:, None])
    violations[rows, targets] = 0
    return violations.max(1) if variant == "crammer_singer" else violations.sum(1)


def distillation(
    logits: Array, targets: Indices, teacher_logits: Array, temperature: float, alpha: float
) -> Array:
    """Return (1 - a) cross-entropy + a T^2 KL(teacher at T, student at T) (Hinton 2015)."""
    log_u, log_v = log_softmax(teacher_logits / temperature), log_softmax(logits / temperature)
    divergence = (np.exp(log_u) * (log_u - log_v)).sum(axis=1)
    hard = cross_entropy(logits, targets)
    return (1 - alpha) * hard + alpha * temperature**2 * divergence


def info_nce(similarity: Array, tau: float) -> float:
    """Return the mean of -ln softmax(s_i / tau)_i over rows i (van den Oord 2018)."""
    return float(-np.diag(log_softmax(similarity / tau)).mean())


def class_weights(counts: Indices, scheme: str, beta: float = 0.999) -> Array:
    """Return N / (K n_k), or (1 - beta) / (1 - beta^n_k) with mean 1 (Cui 2019)."""
    present = np.maximum(counts, 1)
    if scheme == "balanced":
        return counts.sum() / (len(counts) * present)
    effective = (1 - beta) / (1 - beta**present)
    return effective / effective.mean()


def entropy(p: Array, base: float = 2.0) -> float:
    """Return -sum_k p_k log p_k, in bits unless another base is given (Shannon 1948)."""
    return cross_entropy_of(p, p, base)


def cross_entropy_of(p: Array, q: Array, base: float = 2.0) -> float:
    """Return -sum_k p_k log q_k: what a code made for q costs when p is true."""
    present = p > 0
    return float(-(p[present] * np.log(q[present])).sum() / np.log(base))


def divergence(p: Array, q: Array, base: float = 2.0) -> float:
    """Return sum_k p_k log(p_k / q_k), the part of that cost which is waste (Kullback, Leibler)."""
    return cross_entropy_of(p, q, base) - entropy(p, base)
