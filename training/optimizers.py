"""torch's optimizers with their ranges checked, and the learning-rate schedules.

Defaults are torch's; the options in `configs/optimizer/` have values of their own, such as betas.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor

from training.errors import check_setting

Schedule = Callable[[int, int], float]  # step (from 0), number of steps -> factor on the rate
Kind = TypeVar("Kind", bound=type[torch.optim.Optimizer])


def _eager(kind: Kind) -> Kind:
    """Return `kind` without what torch.compile needs of it: importing that takes a second.

    torch.optim's methods ask torch._dynamo whether they are being compiled, and load it to ask.
    """
    names = ("step", "add_param_group", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(methods["step"])
    return cast(Kind, type(kind.__name__, (kind,), methods))


SGD = _eager(torch.optim.SGD)
Adam, AdamW = _eager(torch.optim.Adam), _eager(torch.optim.AdamW)


def sgd(
    parameters: Iterable[Tensor],
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Return torch's SGD; torch itself takes a NaN learning rate and a momentum of 5."""
    check_setting("lr", lr, 0 < lr < math.inf, "a number above 0")
    check_setting("momentum", momentum, 0 <= momentum < 1, "a number in [0, 1)")
    check_setting("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or more")
    if nesterov and momentum == 0:
        raise ValueError("nesterov=true needs a momentum above 0, got momentum=0")
    parameters = list(parameters)
    return SGD(
        parameters,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
        foreach=False,  # not left to be found out at every step
        fused=parameters[0].device.type in ("cuda", "mps"),
    )


def adam(
    parameters: Iterable[Tensor],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> torch.optim.Optimizer:
    """Return torch's Adam (Kingma and Ba 2015, arXiv 1412.6980), whose decay is in the gradient.

    If `decoupled`, it is AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), whose decay is not.
    """
    check_adam("lr", lr, betas, eps, weight_decay)
    kind = AdamW if decoupled else Adam
    # fused: on a CPU, too, a third of the time or less
    return kind(parameters, lr, (betas[0], betas[1]), eps, weight_decay, fused=True)


adamw = partial(adam, weight_decay=0.01, decoupled=True)


def check_adam(
    name: str, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> None:
    """Refuse what Adam cannot use; `name` is that of the setting of its learning rate."""
    check_setting(name, lr, 0 < lr < math.inf, "a number above 0")
    check_setting("eps", eps, 0 < eps < math.inf, "a number above 0")
    check_setting("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or more")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {list(betas)}")
    longest = lr * max(1 / (1 - betas[0]), weight_decay)  # torch divides, and overflows on a CPU
    fits = "a number that fits into float32 when divided by 1 - betas[0]"
    check_setting(name, lr, longest < 3e38, fits)


@dataclass(frozen=True)
class WarmupCosine:
    """The factor on the learning rate: linear warm-up, then half a cosine down to `final`.

    A run shorter than twice its warm-up warms up for half of it. Loshchilov and Hutter 2017,
    arXiv 1608.03983.
    """

    warmup_steps: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        check_setting("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "0 or more")
        check_setting("final", self.final, 0 <= self.final <= 1, "a number in [0, 1]")

    def __call__(self, step: int, num_steps: int) -> float:
        """Return the factor at `step`, from 0, of `num_steps`."""
        warmup = min(self.warmup_steps, num_steps // 2)
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, num_steps - warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Constant:
    """The learning rate as it is."""

    def __call__(self, step: int, num_steps: int) -> float:
        """Return 1."""
        return 1.0
