"""How to train: what `configs/trainer/` lists."""

import math
from dataclasses import dataclass

from training.errors import check_setting


@dataclass(frozen=True)
class TrainerSettings:
    """How long to train, in which batches, and how often to look.

    The defaults are those of a plain loop, for programs. A run takes every value from its settings:
    `configs/trainer/default.yaml` has other ones.

    Args:
        epochs: passes over the training split.
        batch_size: examples per step, over all processes.
        shuffle: visit the examples in an order drawn from (seed, epoch), else as they come.
        clip_norm: bound on the norm of the whole gradient; 0 leaves the gradient alone.
        precision: float32, or bf16 for the model's forward and backward pass; weights, loss,
            metrics and evaluation stay float32.
        compile: pass the model through torch.compile in training, which takes a minute.
        evaluate_every: epochs from one evaluation to the next; the last epoch always has one.
        log_every: steps from one logged training loss to the next.
        save_every: steps from one checkpoint to the next; each evaluation saves one, too.
        figures: how many evaluations draw figures, beside the last.
        max_batches: cut epochs and evaluations short, for trying things out.
    """

    epochs: int
    batch_size: int
    shuffle: bool = True
    clip_norm: float = 0.0
    precision: str = "float32"
    compile: bool = False
    evaluate_every: int = 1
    log_every: int = 50
    save_every: int = 5000
    figures: int = 5
    max_batches: int | None = None

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "evaluate_every", "log_every", "save_every")
        for name in (*counts, "max_batches"):
            value = getattr(self, name)
            is_allowed = value is None or (isinstance(value, int) and 1 <= value <= 10**9)
            check_setting(name, value, is_allowed, "a whole number from 1 to 10**9")
        clip_norm, precision = self.clip_norm, self.precision
        check_setting("clip_norm", clip_norm, 0 <= clip_norm < math.inf, "0 (no clipping) or more")
        check_setting("precision", precision, precision in ("float32", "bf16"), "float32 or bf16")
        check_setting("figures", self.figures, 0 <= self.figures <= 100, "from 0 to 100")

    @property
    def max_rows(self) -> int | None:
        """How many examples an evaluation is cut to; None: all."""
        return self.max_batches and self.max_batches * self.batch_size

    def steps_per_epoch(self, num_examples: int) -> int:
        """Return the number of optimizer steps per epoch."""
        batches = math.ceil(num_examples / self.batch_size)
        return min(batches, self.max_batches or batches)

    def evaluates(self, epoch: int) -> bool:
        """Say whether there is an evaluation after `epoch` (from 1)."""
        return epoch % self.evaluate_every == 0 or epoch == self.epochs

    def draws(self, epoch: int) -> bool:
        """Say whether the evaluation after `epoch` is one of those that draw figures."""
        evaluations = math.ceil(self.epochs / self.evaluate_every)
        spacing = evaluations / self.figures if self.figures else math.inf
        number = math.ceil(epoch / self.evaluate_every)  # of this evaluation, from 1
        return epoch == self.epochs or int(number / spacing) > int((number - 1) / spacing)
