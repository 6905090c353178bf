"""Distillation: learn from the labels and from another model's probabilities."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import checks
from losses.base import ClassificationLoss, Reduction
from losses.gradient import is_transformed


class DistillationLoss(ClassificationLoss):
    """Mix cross-entropy with the divergence from a teacher's softened probabilities.

    For student logits z, teacher logits t, T = `temperature`, a = `alpha` and target y:

        loss = (1 - a) (-ln softmax(z)_y) + a T^2 sum_k u_k ln(u_k / v_k),
        u = softmax(t / T),   v = softmax(z / T)

    alpha = 0 is CrossEntropyLoss. T^2 keeps the two gradients of one size as T changes.

        >>> student = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> teacher = torch.tensor([[1.5, 1.2, 0.3], [0.5, 2.5, 0.0]])
        >>> loss_fn = DistillationLoss(temperature=2.0, alpha=1.0, reduction="none")
        >>> loss_fn(student, torch.tensor([0, 1]), teacher)
        tensor([0.0604, 0.0000])

    Hinton, Vinyals and Dean, 2015, Distilling the Knowledge in a Neural Network,
    https://arxiv.org/abs/1503.02531

    Args:
        teacher: gives logits for the student's inputs; on their device, in eval mode. Without one,
            the teacher's logits take the place of the inputs in every call.
        temperature: T, > 0.
        alpha: a, in [0, 1]: the teacher's share of the loss.
        ignore_index: class indices with this value count for nothing.
        reduction: mean (over the rows that count), sum, or none.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor], Tensor] | None = None,
        *,
        temperature: float = 2.0,
        alpha: float = 0.5,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        if teacher is not None and not callable(teacher):
            raise TypeError(f"teacher must be a callable inputs -> logits, got {teacher!r}")
        # in a tuple, so that a teacher's weights are not this module's parameters nor its state
        self._teacher = (teacher,)
        self._teacher_checked = False
        self.temperature = checks.number("temperature", temperature, "(0, inf)")
        self.alpha = checks.number("alpha", alpha, "[0, 1]")

    def _losses(self, logits: Tensor, targets: Tensor, inputs: Tensor | None) -> Tensor:
        hard = F.cross_entropy(logits, targets, reduction="none", ignore_index=self.ignore_index)
        student = (logits / self.temperature).log_softmax(1)
        soft = (self._teacher_logits(logits, inputs) / self.temperature).log_softmax(1)
        u = soft.exp()
        divergence = torch.where(u == 0, 0, u * (soft - student)).sum(1)
        # a share of 0 leaves out what may be infinite
        parts = (1 - self.alpha, hard), (self.alpha * self.temperature**2, divergence)
        return sum((share * part for share, part in parts if share), torch.zeros_like(hard))

    @torch.no_grad()
    def _teacher_logits(self, logits: Tensor, inputs: Tensor | None) -> Tensor:
        if inputs is None:
            raise ValueError(
                "inputs must be given, or the teacher's logits: loss_fn(logits, targets, inputs)"
            )
        (teacher,) = self._teacher
        answer = inputs if teacher is None else teacher(inputs)
        answer = answer if answer.ndim > 1 else answer.unsqueeze(0)
        if answer.shape != logits.shape:
            shape = tuple(logits.shape)
            raise ValueError(f"teacher's logits must be {shape}, got {tuple(answer.shape)}")
        if not self._teacher_checked and not is_transformed(logits):
            checks.not_probabilities(answer, "the teacher's logits")
            self._teacher_checked = True
        return answer.detach().to(logits.dtype)
