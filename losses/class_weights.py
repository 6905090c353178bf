"""Class weights from class counts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from losses import checks


def class_weights(
    class_counts: Tensor, scheme: str | Sequence[float] = "balanced", beta: float = 0.999
) -> Tensor:
    """Return a weight for each class, (K,) float64, from how often each occurs in training.

    For n = `class_counts`, their sum N and K classes, by `scheme`:

        balanced           w_k = N / (K n_k)
        effective_number   w_k = c (1 - beta) / (1 - beta^n_k), with c such that the mean is 1
        a list             w_k as given

    beta = 0 weighs all classes alike, and beta towards 1 weighs by 1 / n_k. A class absent from the
    training data counts as n_k = 1, so its weight is finite.

        >>> class_weights(torch.tensor([90, 9, 1]))
        tensor([ 0.3704,  3.7037, 33.3333], dtype=torch.float64)

    King and Zeng, 2001, Logistic Regression in Rare Events Data,
    https://doi.org/10.1093/oxfordjournals.pan.a004868; Cui et al., 2019, Class-Balanced Loss Based
    on Effective Number of Samples, https://arxiv.org/abs/1901.05555
    """
    beta = checks.number("beta", beta, "[0, 1)")
    if not isinstance(scheme, str):
        return checks.class_weight("scheme", scheme)
    checks.choice("scheme", scheme, ("balanced", "effective_number"))
    counts = torch.as_tensor(class_counts).to(checks.widest_float(class_counts))
    if counts.ndim != 1 or bool((counts < 0).any()):
        raise ValueError(f"class_counts must be one number >= 0 per class, got {class_counts}")
    present = counts.clamp(min=1)
    if scheme == "balanced":
        return counts.sum() / (len(counts) * present)
    weights = 1 / -torch.expm1(present * torch.tensor(beta, dtype=torch.float64).log())
    return weights / weights.mean()
