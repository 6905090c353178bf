"""Stop before a loss or gradient that is not finite reaches the weights."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training.errors import DivergedError

if TYPE_CHECKING:
    from training.loop import Training


class FiniteCheck:
    """Check the loss and the norm of the gradient of each step, before the optimizer's update.

    On a CPU a step that is not finite raises at once. Elsewhere reading the numbers would stall the
    device's queue: a mask on the device makes torch's fused optimizers skip the update (and every
    later one), and `raise_if_skipped` reads the mask when something is logged or saved. With an
    optimizer that has no such mask each step is read.
    """

    def __init__(self, training: "Training", device: torch.device) -> None:
        self.training = training
        optimizer = training.optimizer
        has_mask = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.masked = device.type != "cpu" and has_mask
        if self.masked:
            self.bad_loss = torch.zeros((), device=device)
            self.first_bad_step = torch.full((), torch.inf, device=device)
            optimizer.found_inf = torch.zeros((), device=device)  # type: ignore[attr-defined]
            optimizer.grad_scale = None  # type: ignore[attr-defined]

    def __call__(self, loss: Tensor, norms: list[Tensor], inputs: Tensor, outputs: Tensor) -> None:
        """Raise `DivergedError`, or mask the step, where `loss` or a norm is not finite.

        `inputs` and `outputs` of the model are looked at for the first tensor that is not finite.
        """
        if not self.masked:
            if not all(math.isfinite(number.item()) for number in (loss, *norms)):
                raise self._diverged(self.training.step, loss, inputs=inputs, outputs=outputs)
            return
        loss = loss.detach()
        is_good = torch.stack([loss, *norms]).isfinite().all()
        step = torch.where(is_good, torch.inf, float(self.training.step))
        self.bad_loss = torch.where(self.first_bad_step.isfinite(), self.bad_loss, loss)
        self.first_bad_step = torch.minimum(self.first_bad_step, step)
        found_inf = self.first_bad_step.isfinite().float()
        self.training.optimizer.found_inf = found_inf  # type: ignore[attr-defined]

    def raise_if_skipped(self) -> None:
        """Raise `DivergedError` if an update was skipped since the last call."""
        if self.masked and self.first_bad_step.isfinite():
            raise self._diverged(int(self.first_bad_step), self.bad_loss)

    def _diverged(self, step: int, loss: Tensor, **computed: Tensor) -> DivergedError:
        """Return the error that names the first bad tensor, in the order of the computation."""
        training = self.training
        parameters = dict(training.model.named_parameters())
        tensors: dict[str, Tensor] = {f"weight {name}": p for name, p in parameters.items()}
        tensors |= computed | {"loss": loss}
        tensors |= {f"gradient {n}": p.grad for n, p in parameters.items() if p.grad is not None}
        bad = (name for name, tensor in tensors.items() if not tensor.isfinite().all())
        first = next(bad, "norm of the gradient")
        now, lower = training.rates()
        clip = "" if 0 < training.settings.clip_norm <= 1 else " trainer.clip_norm=1"
        return DivergedError(
            f"stopped before step {step + 1}: loss {loss.item():g}, first bad tensor {first}, at"
            f" learning rate {now}; try {lower},{clip} or more scheduler.warmup_steps"
        )
