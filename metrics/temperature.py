"""Temperature scaling (Guo 2017, arXiv:1706.04599): one number, fitted on the calibration split.

Log-probabilities (or logits, which differ by a constant per row) are divided by T and renormalised.
The order of the classes stays the same, so accuracy does too. T > 1 makes a model less confident.

n rows, C classes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from metrics.rows import as_rows, cached_rows

Chunks = Callable[[], Iterable[tuple[Tensor, Tensor]]]

WIDTH = 1e4  # T is sought between scale / WIDTH and scale * WIDTH


@dataclass(frozen=True)
class TemperatureFit:
    """A fitted temperature T, and the nll of the split that it was fitted on.

    `at_bound` is "lower" where every target is already the most probable class, so that nll falls
    without end as T goes to 0. It is "upper" where the scores say nothing about the targets, or the
    opposite of the truth, so that nll falls without end as T grows. T is then the bound of the
    search: take it as a warning, and do not use it.
    """

    temperature: float
    at_bound: Literal["lower", "upper"] | None
    nll_before: float  # with T = 1
    nll_after: float  # with the fitted T


def apply_temperature(log_probs: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities (N, C, ...), divided by T > 0 and renormalised."""
    return (log_probs / temperature).log_softmax(1)


def fit_temperature(
    log_probs: Tensor, targets: Tensor, *, ignore_index: int = -100
) -> TemperatureFit:
    """Fit T to log-probabilities or logits (N, C, ...) and classes (N, ...).

    Rows whose target is `ignore_index` are left out. `fit_temperature_in_chunks` has the method and
    the errors raised.
    """
    return fit_temperature_in_chunks(lambda: [(log_probs, targets)], ignore_index=ignore_index)


def fit_temperature_in_chunks(chunks: Chunks, *, ignore_index: int = -100) -> TemperatureFit:
    """Fit T to a split given in pieces, so that it need not be in memory at once.

    This minimises nll, which is convex in beta = 1/T, by Newton steps inside a bracket, in float64.
    For scores z of target y and d_k = z_k - z_y, nll is the mean of log sum_k exp(beta d_k), its
    slope the mean of E_p[d] and its curvature the mean of Var_p[d], where p = softmax(beta z). The
    bounds of T are relative to the spread of the scores, so that multiplying the scores by c
    multiplies T by c.

    Args:
        chunks: returns the pieces (log_probs, targets), as for `fit_temperature`. It is called once
            for each of about ten passes.
        ignore_index: rows with this target are left out.

    Raises:
        ValueError: there are no rows, a target is no class, a score is NaN or +inf, or a target's
            score is -inf.
        TypeError: `log_probs` are not floating, or `targets` are.
    """
    evaluate = partial(_evaluate, chunks, ignore_index)
    _, _, variance, wrong = evaluate(0.0)
    start = evaluate(1.0)
    if variance == 0:  # every class is as probable as every other, at any T
        return TemperatureFit(1.0, None, start[0], start[0])
    scale = math.sqrt(variance)  # the scores' standard deviation within a row
    low, high = min(1.0, 1 / (WIDTH * scale)), max(1.0, WIDTH / scale)
    if wrong == 0:
        beta, nll = high, evaluate(high)[0]
    else:
        beta, nll = _newton(evaluate, start, low, high)
    bounds: dict[float, Literal["lower", "upper"]] = {high: "lower", low: "upper"}
    at_bound = bounds.get(beta)
    if nll > start[0]:  # by rounding
        beta, nll = 1.0, start[0]
    return TemperatureFit(1 / beta, at_bound, start[0], nll)


def _newton(
    evaluate: Callable[[float], list[float]], start: list[float], low: float, high: float
) -> tuple[float, float]:
    """Return the beta in [low, high] where the slope is 0, or else the nearer end, and its nll."""
    beta, ends = 1.0, (low, high)
    nll, slope, curvature, _ = start
    for _ in range(100):
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = -slope / max(curvature, 1e-300)
        if abs(step) <= 1e-9 * beta:  # Newton squares the error: after this step it is 1e-18
            return beta + step, nll
        guess = min(max(beta + step, ends[0]), ends[1])
        if not low < guess < high and guess not in ends:
            guess = math.sqrt(low * high)
        if guess == beta:
            break
        beta = guess
        nll, slope, curvature, _ = evaluate(beta)
    return beta, nll


@torch.no_grad()
def _evaluate(chunks: Chunks, ignore_index: int, beta: float) -> list[float]:
    """Go through the split once; return the means that `_sums` names."""
    total = torch.zeros(4, dtype=torch.float64)
    num_rows = 0
    for log_probs, targets in chunks():
        scores, classes = as_rows(log_probs, targets, log_probs.shape[1], ignore_index)
        num_rows += len(classes)
        size = max(1, cached_rows(scores.shape[1], scores.device) // 4)
        for some, of_some in zip(scores.split(size), classes.split(size), strict=True):
            total += _sums(some.double(), of_some, beta).cpu()
    if not num_rows:
        raise ValueError("no rows to fit a temperature to")
    if not total.isfinite().all():
        raise ValueError(
            "cannot fit a temperature: a row holds NaN or +inf, or gives its target probability 0"
        )
    return (total / num_rows).tolist()


def _sums(scores: Tensor, classes: Tensor, beta: float) -> Tensor:
    """Return nll, its slope, its curvature and the targets not ranked first, summed over rows.

    Scores are (n, C), classes (n, 1), the sums (4,).
    """
    margins = scores - scores.gather(1, classes)
    logits = beta * margins if beta else margins.masked_fill(margins > -math.inf, 0)
    probs = logits.softmax(1)
    top = margins.amax(1)
    nll = beta * top - probs.amax(1).log()  # reuses the exponentials of the softmax
    margins.clamp_(min=-1e150)  # of impossible classes: 0 times this, or its square, is 0
    mean = torch.linalg.vecdot(probs, margins)
    variance = torch.linalg.vecdot(probs, (margins - mean[:, None]).square_())
    return torch.stack([nll, mean, variance, (top > 0).double()]).sum(1)
