"""Temperature scaling (Guo 2017, arXiv:1706.04599): one number, fitted on the calibration split.

Log-probabilities (or logits, which differ by a constant per row) are divided by T and renormalised.
The order of the classes stays the same, so accuracy does too. T > 1 makes a model less confident.

n rows, C classes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metrics.rows import as_rows, cached_rows, float64_device

Chunks = Callable[[], Iterable[tuple[Tensor, Tensor]]]


SOME_ROWS = 1000  # from so many on, a sixteenth of the rows is fitted first
MAX_SOME = 2**26  # numbers among which that sixteenth is sought, to bound the memory
WIDTH = 1e4  # T is sought between spread / WIDTH and spread * WIDTH
CLEAR = 1.645  # standard errors: chance alone exceeds them one time in 20


@dataclass(frozen=True)
class TemperatureFit:
    """A fitted temperature T, and the nll of the split that it was fitted on.

    `at_bound` is "lower" where every target is already the most probable class, so that nll falls
    without end as T goes to 0. It is "upper" where the scores say nothing about the targets, or the
    opposite of the truth, so that nll falls without end as T grows. T is then the bound of the
    search: take it as a warning, and do not use it.

    `noise` is the gain in nll that chance explains. It has three parts: 1.645 standard errors of
    the mean over rows of the gain; 1/n, by which one fitted number flatters nll on the rows that it
    was fitted to (Akaike 1974); and what one more row would cost, because a standard error that
    rests on one mistake or two does not know how many the next rows hold. That row is like the
    worst one, or it is a mistake as sure as the median row is right, with log-odds o = ln p / (1 -
    p) at T = 1: it would cost (1/T - 1) o.
    """

    temperature: float
    at_bound: Literal["lower", "upper"] | None
    nll_before: float  # with T = 1
    nll_after: float  # with the fitted T
    noise: float = 0.0

    @property
    def to_apply(self) -> float:
        """The temperature to measure with: T, or 1 at a bound and where the gain is within noise.

        T is multiplied by c where the scores are. This is not, where it is 1.
        """
        return 1.0 if self.kept_because else self.temperature

    @property
    def kept_because(self) -> str:
        """Why `to_apply` is 1, in a few words; "" where it is T."""
        if self.at_bound:
            return f"the fit ended at its {self.at_bound} bound"
        if self.nll_before - self.nll_after <= self.noise:
            return f"T = {self.temperature:.3f} gains no more than noise"
        return ""


class Point(NamedTuple):
    """What one pass at some beta finds: nll, its derivatives by beta and more, means over rows."""

    nll: float
    slope: float
    curvature: float
    third: float
    spread: float  # mean distance of a score from its target's; 0 if not asked
    wrong: float  # share of the targets that are not ranked first
    nlls: Tensor  # of each row, (n,)


Evaluate = Callable[[float], Point]


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

    This minimises nll, which is convex in beta = 1/T, by Halley's steps inside a bracket, in
    float64. For scores z of target y and d_k = z_k - z_y, nll is the mean of
    log sum_k exp(beta d_k), and its derivatives are the means of E_p[d], Var_p[d] and the third
    central moment of d, where p = softmax(beta z). Of many rows, some are fitted first, and all
    from there. The bounds of T are relative to the spread of the scores, so that multiplying the
    scores by c multiplies T by c.

    Args:
        chunks: returns the pieces (log_probs, targets), as for `fit_temperature`. It is called once
            for each pass, of which there are three or four for many rows, and up to ten for few.
        ignore_index: rows with this target are left out.

    Raises:
        ValueError: there are no rows, a target is no class, a score is NaN or +inf, or a target's
            score is -inf.
        TypeError: `log_probs` are not floating, or `targets` are.
    """
    some: list[tuple[Tensor, Tensor]] = []
    evaluate = partial(_evaluate, chunks, ignore_index)
    start = evaluate(1.0, some)
    if start.spread == 0:  # every class is as probable as every other, at any T
        return TemperatureFit(1.0, None, start.nll, start.nll)
    low, high = min(1.0, 1 / (WIDTH * start.spread)), max(1.0, WIDTH / start.spread)
    if start.wrong == 0:
        beta, point = high, evaluate(high)
    else:
        beta, point = 1.0, start
        if sum(len(classes) for _, classes in some) >= SOME_ROWS:
            of_some = partial(_evaluate, lambda: some, ignore_index)
            near, _ = _minimum(of_some, 1.0, of_some(1.0), low, high)
            if low < near < high:
                beta, point = near, evaluate(near)
        beta, point = _minimum(evaluate, beta, point, low, high)
    bounds: dict[float, Literal["lower", "upper"]] = {high: "lower", low: "upper"}
    at_bound = bounds.get(beta)
    if point.nll > start.nll:  # by rounding
        beta, point = 1.0, start
    gains = start.nlls - point.nlls
    odds = max(0.0, -float(start.nlls.clamp(min=1e-16).expm1().log().median()))  # of nll = -ln p
    num_rows, worst = len(gains), max(0.0, -float(gains.min()), (beta - 1) * odds)
    error = float(gains.std(correction=int(num_rows > 1))) / math.sqrt(num_rows)
    noise = (1 + worst) / num_rows + CLEAR * error
    return TemperatureFit(1 / beta, at_bound, start.nll, point.nll, noise)


def _minimum(
    evaluate: Evaluate, beta: float, point: Point, low: float, high: float
) -> tuple[float, Point]:
    """Return the beta in [low, high] where the slope is 0, or else the nearer end, and its nll.

    The search begins at `beta`, where nll and its derivatives are `point`.
    """
    ends = (low, high)
    for _ in range(100):
        nll, slope, curvature, third, *_ = point
        low, high = (beta, high) if slope < 0 else (low, beta)
        curvature = max(curvature, 1e-300)
        bend = slope * third / (2 * curvature)  # what Halley's step adds to Newton's
        step = -slope / (curvature - max(min(bend, curvature / 2), -curvature))
        if abs(step) <= 1e-5 * beta:  # Halley cubes the error: after this step it is 1e-15
            return beta + step, point._replace(nll=nll + slope * step / 2)
        guess = min(max(beta + step, ends[0]), ends[1])
        if not low < guess < high and guess not in ends:
            guess = math.sqrt(low * high)
        if guess == beta:
            break
        beta = guess
        point = evaluate(beta)
    return beta, point


@torch.no_grad()
def _evaluate(
    chunks: Chunks,
    ignore_index: int,
    beta: float,
    some: list[tuple[Tensor, Tensor]] | None = None,
) -> Point:
    """Go through the split once; if `some` is given, put every sixteenth row into it."""
    total = torch.zeros(6, dtype=torch.float64)
    num_rows, nlls = 0, []
    for log_probs, targets in chunks():
        device = float64_device(log_probs.device)
        rows = log_probs.to(device), targets.to(device)
        scores, classes = as_rows(*rows, log_probs.shape[1], ignore_index)
        if some is not None and num_rows * scores.shape[1] < MAX_SOME:
            these = slice(-num_rows % 16, None, 16)
            some.append((scores[these], classes[these, 0]))
        num_rows += len(classes)
        size = max(1, cached_rows(scores.shape[1], scores.device) // 16)
        for few, of_few in zip(scores.split(size), classes.split(size), strict=True):
            of_rows = _of_rows(few.double(), of_few, beta, some is not None)  # (n, 6)
            total += of_rows.sum(0).cpu()
            nlls.append(of_rows[:, 0].cpu())
    if not num_rows:
        raise ValueError("no rows to fit a temperature to")
    if not total.isfinite().all():
        raise ValueError(
            "cannot fit a temperature: a row holds NaN or +inf, or gives its target probability 0"
        )
    nll, slope, curvature, third, spread, wrong = (total / num_rows).tolist()
    return Point(nll, slope, curvature, third, spread, wrong, torch.cat(nlls))


def _of_rows(scores: Tensor, classes: Tensor, beta: float, with_spread: bool) -> Tensor:
    """Return the figures of a `Point` for each row, (n, 6); the spread is 0 if not asked.

    Scores are (n, C), classes (n, 1).
    """
    margins = scores - scores.gather(1, classes)
    top = margins.amax(1, keepdim=True)
    weights = torch.sub(margins, top).mul_(beta).exp_()  # softmax, up to its denominator
    total = weights.sum(1, keepdim=True)
    nll = beta * top + total.log()
    spread = torch.zeros_like(nll)
    if with_spread:
        spread = margins.where(margins > -math.inf, 0).abs_().mean(1, keepdim=True)
    margins.clamp_(min=-1e150)  # of impossible classes: 0 times this, however often, is 0
    mean = (weights * margins).sum(1, keepdim=True) / total
    margins.sub_(mean)
    curvature = weights.mul_(margins).mul_(margins).sum(1, keepdim=True) / total
    third = weights.mul_(margins).sum(1, keepdim=True) / total
    return torch.cat([nll, mean, curvature, third, spread, (top > 0).double()], 1)
