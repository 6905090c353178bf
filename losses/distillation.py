"""Distillation: learn from the labels and from another model's probabilities."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import checks
from losses.base import ClassificationLoss, Reduction, at_least_float32


class DistillationLoss(ClassificationLoss):
    """Mix cross-entropy with the divergence from a teacher's softened probabilities.

    For student logits z, teacher logits t, T = `temperature`, a = `alpha` and target y:

        loss = (1 - a) (-ln softmax(z)_y) + a T^2 sum_k u_k ln(u_k / v_k),
        u = softmax(t / T),   v = softmax(z / T)

    alpha = 0 is CrossEntropyLoss. T^2 keeps the two gradients of one size as T changes.

        >>> import torch
        >>> student = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.0]])
        >>> teacher = torch.tensor([[1.5, 1.2, 0.3], [0.5, 2.5, 0.0]])
        >>> loss_fn = DistillationLoss(temperature=2.0, alpha=1.0, reduction="none")
        >>> loss_fn(student, torch.tensor([0, 1]), teacher_logits=teacher)
        tensor([0.0604, 0.0000])

    Hinton, Vinyals and Dean, 2015, Distilling the Knowledge in a Neural Network,
    https://arxiv.org/abs/1503.02531

    Args:
        teacher: gives logits for the student's inputs; on their device, in eval mode. Without one,
            every call needs `teacher_logits`.
        temperature: T > 0.
        alpha: the teacher's share, in [0, 1].
        ignore_index: class indices with this value count for nothing.
        reduction: mean, sum or none.
    """

    takes_probabilities = True

    def __init__(
        self,
        teacher: Callable[[Tensor], Tensor] | None = None,
        *,
        temperature: float = 2.0,
        alpha: float = 0.5,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        """Check and keep the arguments."""
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        if teacher is not None and not callable(teacher):
            raise TypeError(f"teacher must be a callable inputs -> logits, got {teacher!r}")
        # in a tuple, so that a teacher's weights are not this module's parameters nor its state
        self._teacher = (teacher,)
        self.temperature = checks.number("temperature", temperature, "(0, inf)")
        self.alpha = checks.number("alpha", alpha, "[0, 1]")

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        inputs: Tensor | None = None,
        teacher_logits: Tensor | None = None,
    ) -> Tensor:
        """Return the reduced loss; the teacher is asked about `inputs` unless it has answered."""
        return super().forward(logits, targets, self._ask(logits, inputs, teacher_logits))

    def sums(
        self,
        logits: Tensor,
        targets: Tensor,
        inputs: Tensor | None = None,
        teacher_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (total, normaliser); the teacher is asked unless it has answered."""
        return super().sums(logits, targets, self._ask(logits, inputs, teacher_logits))

    def _ask(self, logits: Tensor, inputs: Tensor | None, answer: Tensor | None) -> Tensor:
        (teacher,) = self._teacher
        if answer is None:
            if teacher is None or inputs is None:
                missing = "inputs" if teacher is not None else "a teacher in the constructor"
                raise ValueError(
                    f"DistillationLoss must hear its teacher, got no {missing} and no "
                    "teacher_logits: call loss_fn(logits, targets, inputs)"
                )
            with torch.no_grad():
                answer = teacher(inputs)
        if answer.shape != logits.shape:
            raise ValueError(
                f"teacher_logits must have the shape of logits, {tuple(logits.shape)}, got "
                f"{tuple(answer.shape)}: teacher and student need the same classes and inputs"
            )
        return answer.detach()

    def _weighted(self, logits: Tensor, targets: Tensor, inputs: Tensor | None) -> Tensor:
        assert inputs is not None  # by now the teacher's logits, see _ask
        teacher = at_least_float32(inputs).to(logits.dtype).view_as(logits)
        hard = F.cross_entropy(logits, targets, reduction="none", ignore_index=self.ignore_index)
        student = (logits / self.temperature).log_softmax(1)
        soft = (teacher / self.temperature).log_softmax(1)
        divergence = F.kl_div(student, soft, reduction="none", log_target=True).sum(1)
        return (1 - self.alpha) * hard + self.alpha * self.temperature**2 * divergence
