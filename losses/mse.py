"""Squared errors: of the softmax (Brier), of the raw outputs, and of the rescaled raw outputs."""

import torch
from torch import Tensor

from losses import checks
from losses.base import ClassificationLoss, Link, Reduction, at_least_float32
from losses.gradient import split_softmax
from losses.link import project_to_simplex, with_floor


class SoftmaxMSELoss(ClassificationLoss):
    """Take the squared distance from softmax(logits) to the one-hot target: the Brier score.

    For logits z, p = softmax(z), target y:

        loss = sum_k (p_k - [k = y])^2 = sum_{k != y} p_k^2 + (1 - p_y)^2

    Summed over classes, not averaged as torch's MSELoss would. Its minimiser is softmax(z) = eta,
    as of CrossEntropyLoss, but it never exceeds 2, and its gradient vanishes where p_y is near 0.

        >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> SoftmaxMSELoss(reduction="none")(logits, torch.tensor([0, 1]))
        tensor([0.1848, 0.0488])

    Brier, 1950, Verification of Forecasts Expressed in Terms of Probability,
    https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2

    Args:
        ignore_index: targets with this value count for nothing.
        reduction: mean (over the rows that count), sum, or none.
    """

    def __init__(self, *, ignore_index: int = -100, reduction: Reduction = "mean") -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return sum_{k != y} p_k^2 + (1 - p_y)^2."""
        others = logits.softmax(1).scatter(1, targets.unsqueeze(1), 0)
        # 1 - p_y is the sum of the others, which keeps its digits where p_y rounds to 1
        return others.square().sum(1) + others.sum(1).square()

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return sum_k (p_k - q_k)^2 for target probabilities q."""
        return (logits.softmax(1) - targets).square().sum(1)

    def quick_elementwise(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same; its gradient is 2 p_k (p_k + p_y q - S) at k != y, and -2 p_y loss at y.

        S is the sum of p_k^2 over k != y, and q = 1 - p_y.
        """
        rows = targets.unsqueeze(1)
        others, p, q = split_softmax(logits, rows)
        squares = torch.linalg.vector_norm(others, dim=1, keepdim=True).square()
        losses = squares + q.square()
        # in sixteen parts, because one more (N, C) tensor would cost a third of the time
        for part, scale in zip(others.chunk(16), (2 * (p * q - squares)).chunk(16), strict=True):
            part.mul_(2 * part + scale)
        return losses, others.scatter_(1, rows, -2 * p * losses)


class RescaledMSELoss(ClassificationLoss):
    """Regress the raw outputs on a tall one-hot: `M` at the target, 0 elsewhere.

    For raw outputs z, `k`, `M` and target y:

        loss = k (z_y - M)^2 + sum_{j != y} z_j^2

    k = 1, M = 1 is LogitsMSELoss; the larger both, the less the many zeros of many classes outweigh
    the one target. Its minimiser for true probabilities eta is z = k M eta / (1 + (k - 1) eta), and
    the link solves that for eta, z clamped to [0, M] first; softmax(z) would be meaningless.

        >>> outputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 30.0, 0.0]])
        >>> RescaledMSELoss(reduction="none")(outputs, torch.tensor([0, 1]))
        tensor([11761.,     0.])

    Hui and Belkin, 2021, Evaluation of Neural Architectures Trained with Square Loss vs
    Cross-Entropy in Classification Tasks, https://arxiv.org/abs/2006.07322

    Args:
        k: > 0, how much more the error at the target counts than that at another class.
        M: > 0, the height that the output of the target is regressed on.
        ignore_index: targets with this value count for nothing.
        reduction: mean (over the rows that count), sum, or none.
        link: what `log_probs` reports: `own` for the solution for eta, or `softmax`.
        floor: share of the uniform distribution in the own link, which can reach zero.
    """

    def __init__(
        self,
        *,
        k: float = 15.0,
        M: float = 30.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        link: Link = "own",
        floor: float = 1e-3,
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction, link=link, floor=floor)
        self.k = checks.number("k", k, "(0, inf)")
        self.M = checks.number("M", M, "(0, inf)")

    def _check_values(self, logits: Tensor) -> None:
        if self.M > 1:  # with M = 1 the outputs are meant to be probabilities
            super()._check_values(logits)

    def elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return k (z_y - M)^2 + sum_{j != y} z_j^2."""
        rows = targets.unsqueeze(1)
        z_y = logits.gather(1, rows).squeeze(1)
        others = logits.scatter(1, rows, 0)
        return self.k * (z_y - self.M).square() + others.square().sum(1)

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return sum_k q_k k (z_k - M)^2 + (1 - q_k) z_k^2: its mean over targets drawn from q."""
        tall, flat = self.k * (logits - self.M).square(), logits.square()
        return (targets * tall + (1 - targets) * flat).sum(1)

    def quick_elementwise(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same; its gradient is 2 z_j at j != y, and 2 k (z_y - M) at y."""
        rows = targets.unsqueeze(1)
        error = logits.gather(1, rows) - self.M
        slope = (2 * logits).scatter_(1, rows, 0)  # (N, C, d1..dk)
        squares = torch.linalg.vector_norm(slope, dim=1, keepdim=True).square() / 4
        return self.k * error.square() + squares, slope.scatter_(1, rows, 2 * self.k * error)

    def own_log_probs(self, logits: Tensor) -> Tensor:
        """Return the log of z / (k M - (k - 1) z), normalised, floor mixed in."""
        z = at_least_float32(logits).clamp(0, self.M)  # beyond M the fraction has a pole
        return with_floor(z / (self.k * self.M - (self.k - 1) * z), self.floor)


class LogitsMSELoss(RescaledMSELoss):
    """Regress the raw outputs on the one-hot target, as least squares does.

    For raw outputs z and target y:

        loss = sum_k (z_k - [k = y])^2

    SoftmaxMSELoss without the softmax; RescaledMSELoss with k = 1, M = 1, up to the link. Its
    minimiser is z = eta itself, so the link is the nearest point of the probability simplex.

        >>> outputs = torch.tensor([[0.6, 0.3, 0.1], [0.0, 1.0, 0.0]])
        >>> LogitsMSELoss(reduction="none")(outputs, torch.tensor([0, 1]))
        tensor([0.2600, 0.0000])

    Rifkin, Yeo and Poggio, 2003, Regularized Least-Squares Classification,
    https://cbcl.mit.edu/publications/ps/rlsc.pdf; Duchi et al., 2008, Efficient Projections onto
    the l1-Ball (the link), https://doi.org/10.1145/1390156.1390191

    Args:
        ignore_index: targets with this value count for nothing.
        reduction: mean (over the rows that count), sum, or none.
        link: what `log_probs` reports: `own` for the nearest point of the simplex, or `softmax`.
        floor: share of the uniform distribution in the own link, which can reach zero.
    """

    def __init__(
        self,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        link: Link = "own",
        floor: float = 1e-3,
    ) -> None:
        super().__init__(
            k=1, M=1, ignore_index=ignore_index, reduction=reduction, link=link, floor=floor
        )

    def soft_elementwise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return sum_k (z_k - q_k)^2 for target probabilities q."""
        return (logits - targets).square().sum(1)

    def own_log_probs(self, logits: Tensor) -> Tensor:
        """Return the log of the nearest distribution, floor mixed in."""
        return with_floor(project_to_simplex(at_least_float32(logits)), self.floor)
