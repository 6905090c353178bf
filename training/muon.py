"""Muon: matrices of hidden layers move by orthogonal steps, all other parameters by AdamW."""

from collections.abc import Iterable

import torch
from torch import Tensor

from training.errors import check_setting
from training.optimizers import AdamW, check_adam


class Muon(AdamW):  # type: ignore[misc, valid-type]  # mypy takes no class that a function made
    """Muon for the matrices of hidden layers, torch's fused AdamW for all other parameters.

    Matrices of hidden layers are the parameters of two or more dimensions except the first and the
    last of them, in the order of `model.parameters()`, and except the weights of `nn.Embedding`,
    whose rows are looked up one by one (`training/run/build.py` marks them). Such a weight W
    (R, ...) is a matrix of R rows, of convolutions with a filter in each. With its gradient G, a
    step is

        B <- momentum B + G
        W <- sqrt(R) W / |W| - lr orthogonal(G + momentum B)

    with Frobenius norms. The rescaling keeps the angle of a step from shrinking as weights grow; it
    suits layers before a normalisation, which does not mind the scale.

    This is the Muon of Keller Jordan's airbench, https://github.com/KellerJordan/cifar10-airbench
    (airbench itself: arXiv 2404.00498). torch.optim.Muon takes matrices only; over flattened views
    it learns as much (docs/vision.md), but would be a second optimizer with a state of its own.

    Args:
        parameters: those of a model, in its order.
        lr: of the matrices; a step changes each of their singular values by about as much.
        momentum: of the matrices.
        adamw_lr: the learning rate of AdamW, as the arguments after it.
        betas: see torch.optim.AdamW.
        eps: see torch.optim.AdamW.
        weight_decay: see torch.optim.AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.6,
        adamw_lr: float = 0.004,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        check_setting("lr", lr, 0 < lr <= 100, "a number above 0, at most 100")
        check_setting("momentum", momentum, 0 <= momentum < 1, "a number in [0, 1)")
        check_adam("adamw_lr", adamw_lr, betas, eps, weight_decay)
        parameters = list(parameters)
        inner = [p for p in parameters if p.ndim >= 2][1:-1]
        matrices = {p: None for p in inner if not getattr(p, "is_embedding", False)}
        others = [p for p in parameters if p not in matrices]
        groups = [
            {"params": [*matrices], "lr": lr, "momentum": momentum},
            {"params": others, "setting": "adamw_lr"},
        ]
        super().__init__(groups, adamw_lr, (betas[0], betas[1]), eps, weight_decay, fused=True)
        self._step_supports_amp_scaling = False  # `step` reads no mask: training/finite_check.py

    @torch.no_grad()
    def step(self) -> None:
        """Make a step; gradients of matrices are gone then."""
        group = self.param_groups[0]
        for weight in group["params"]:
            if weight.grad is None:
                continue
            gradient, weight.grad = weight.grad, None  # so AdamW leaves the weight alone
            state = self.state[weight]
            if not state:  # AdamW wants a step in every state that it loads
                state.update(step=torch.zeros(()), momentum_buffer=torch.zeros_like(weight))
            state["step"] += 1
            total = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
            direction = orthogonal(gradient.add(total, alpha=group["momentum"]).flatten(1))
            weight.mul_(len(weight) ** 0.5 / weight.norm().clamp(min=1e-7))
            weight.sub_(direction.view(weight.shape), alpha=group["lr"])
        super().step()


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about U V^T of a matrix U S V^T: its singular values S become about 1.

    Three steps of a Newton-Schulz iteration, X <- a X + b (X X^T) X + c (X X^T)^2 X, in bfloat16;
    X starts as the matrix over its norm. Singular values above .02 of that norm end in [.65, 1.25];
    the smaller ones grow 40 times. Zeros stay zeros.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix / matrix.norm().clamp(min=1e-7)).bfloat16()
    x = x.mT if is_tall else x  # the smaller square is the cheaper one
    for _ in range(3):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if is_tall else x).to(matrix.dtype)
