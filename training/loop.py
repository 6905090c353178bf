"""The training loop: the same for every task, model and loss."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from losses import ClassificationLoss
from training.data import Split, epoch_order
from training.distributed import Together, agreed, own_share
from training.errors import DivergedError
from training.objective import Objective
from training.run.log import RunLog

Schedule = Callable[[int, int], float]
OnStep = Callable[[int, float, float], None]
TINY = torch.finfo(torch.float32).tiny  # where every target is ignored: 0 / TINY, not 0 / 0


@dataclass(frozen=True)
class TrainerSettings:
    """How to train: what `configs/trainer/` lists.

    Args:
        epochs: passes over the training split.
        batch_size: examples a step.
        shuffle: visit the examples in an order drawn from (seed, epoch), else as they come.
        clip_norm: bound on the norm of the whole gradient; 0 leaves it alone.
        precision: float32, or bf16 for the model's forward and backward; weights, loss, metrics and
            evaluation stay float32.
        compile: pass the model through torch.compile in training, which takes a minute; where that
            fails, go on without.
        evaluate_every: epochs from one evaluation to the next; the last epoch always has one.
        log_every: steps from one logged training loss to the next.
        save_every: steps from one checkpoint to the next; each evaluation has one, too.
        figures: how many evaluations draw, beside the last.
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
            if value is not None and not 1 <= value <= 10**9:
                raise ValueError(f"{name} must be from 1 to 10**9, got {value}")
        if not 0 <= self.clip_norm < math.inf:
            raise ValueError(f"clip_norm must be at least 0 (0: no clipping), got {self.clip_norm}")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"precision must be float32 or bf16, got {self.precision}")
        if not 0 <= self.figures <= 100:
            raise ValueError(f"figures must be from 0 to 100, got {self.figures}")

    def steps_per_epoch(self, num_examples: int) -> int:
        """Return the number of optimizer steps in an epoch."""
        batches = math.ceil(num_examples / self.batch_size)
        return min(batches, self.max_batches or batches)

    def evaluates(self, epoch: int) -> bool:
        """Say whether there is an evaluation after `epoch` (from 1)."""
        return epoch % self.evaluate_every == 0 or epoch == self.epochs

    def draws(self, epoch: int) -> bool:
        """Say whether the evaluation after `epoch` is one of the few that draw."""
        evaluations = math.ceil(self.epochs / self.evaluate_every)
        spacing = evaluations / self.figures if self.figures else math.inf
        number = math.ceil(epoch / self.evaluate_every)  # from 1
        return epoch == self.epochs or int(number / spacing) > int((number - 1) / spacing)


@dataclass
class Trainer:
    """What training changes, and what a step of it needs.

    `on_step(step, loss, examples a second)` is told every `log_every` steps; `save()` is called
    every `save_every`, and after the step during which a signal was added to `signals` (of any
    process of the run).
    """

    model: nn.Module
    loss_fn: ClassificationLoss
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    settings: TrainerSettings
    seed: int
    log: RunLog
    step: int = 0
    epoch: int = 0  # under way, from 1
    visited: int = 0  # examples of that epoch
    on_step: OnStep = field(default=lambda *_: None)
    save: Callable[[], None] = field(default=lambda: None)
    signals: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = self.settings
        self.objective = Objective(self.model, self.loss_fn, settings.precision, settings.compile)
        self.summed = Together(self.objective) if dist.is_initialized() else self.objective
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.epoch_loss = RunningLoss()
        self.window = RunningLoss()  # since something was last logged; epochs may be shorter

    def begin(self, epoch: int) -> None:
        """Go to the start of `epoch`, unless it is under way."""
        if epoch != self.epoch:
            self.epoch, self.visited, self.epoch_loss = epoch, 0, RunningLoss()

    def set_lr(self, num_steps: int) -> None:
        """Set the learning rates of the next step, of `num_steps` in all."""
        factor = self.schedule(self.step, num_steps)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * factor

    def num_steps(self, num_examples: int) -> int:
        """Return the steps of the whole run: those made, and those that its settings ask for."""
        settings = self.settings
        a_epoch = settings.steps_per_epoch(num_examples)
        here = max(0, a_epoch - math.ceil(self.visited / settings.batch_size))
        return self.step + here + a_epoch * max(0, settings.epochs - max(1, self.epoch))

    def log_window(self) -> None:
        """Log the mean loss since the last time, if there was a step; begin a new mean."""
        window, self.window = self.window, RunningLoss()
        if not window.examples:
            return
        loss, rate = window.mean(), window.rate()
        lr = self.optimizer.param_groups[0]["lr"]
        self.log.scalars("train", {"loss": loss, "lr": lr}, self.step)
        self.log.scalars("time", {"examples_per_s": rate}, self.step)
        self.on_step(self.step, loss, rate)


def train_epoch(trainer: Trainer, split: Split, epoch: int) -> float:
    """Make one pass over the split, or the rest of it where it was resumed; return its mean loss.

    That is the sum of losses / the sum of normalisers.
    """
    trainer.begin(epoch)
    objective, optimizer, settings = trainer.summed, trainer.optimizer, trainer.settings
    num_steps = trainer.num_steps(len(split))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    guard = Guard(trainer, split.targets.device)
    sums = trainer.loss_fn.reduction == "sum"
    trainer.model.train()
    for rows, num_examples in _batches(split, epoch, trainer):
        trainer.set_lr(num_steps)
        inputs, targets = split.batch(rows, epoch)
        total, normaliser = objective(inputs, targets)
        share = None if sums else normaliser.clamp(min=TINY).reciprocal()
        for p in parameters:
            p.grad = None  # optimizer.zero_grad() does so in ten times as long
        total.backward(share)  # the gradient of total x share, the loss
        norms = clip_gradient(parameters, settings.clip_norm)
        guard.check(total, norms, share)
        optimizer.step()
        trainer.step += 1
        trainer.visited += num_examples

        counted = guard.value(total), guard.value(normaliser), num_examples
        trainer.epoch_loss.add(*counted)
        trainer.window.add(*counted)
        if trainer.step % settings.log_every == 0:
            guard.read()
            trainer.log_window()
        if agreed(trainer.signals) or trainer.step % settings.save_every == 0:
            guard.read()
            trainer.save()
    guard.read()
    return trainer.epoch_loss.mean()


def _batches(split: Split, epoch: int, trainer: Trainer) -> Iterator[tuple[Tensor | slice, int]]:
    """Yield this process's rows of each batch not yet visited, and the examples of the batch.

    Rows are indices on the split's device, or a slice.
    """
    n, settings = len(split), trainer.settings
    size = settings.batch_size
    limit = min(n, settings.steps_per_epoch(n) * size)
    if settings.shuffle:
        order = epoch_order(n, trainer.seed, epoch)[:limit].to(split.targets.device)
    for start in range(trainer.visited, limit, size):
        end = min(limit, start + size)
        rows = slice(*own_share(start, end))
        yield order[rows] if settings.shuffle else rows, end - start


def clip_gradient(parameters: list[nn.Parameter], clip_norm: float) -> list[Tensor]:
    """Scale the gradients down to a norm of `clip_norm`, unless it is 0.

    Return numbers that are finite if the gradients are: the norm before, or that of each gradient.
    """
    norms = list(torch._foreach_norm([g for p in parameters if (g := p.grad) is not None]))
    if clip_norm > 0:
        norms = [torch.linalg.vector_norm(torch.stack(norms))]
        clip_grads_with_norm_(parameters, clip_norm, norms[0])
    return norms


class RunningLoss:
    """A mean loss since some step: sums of totals and normalisers, and the examples' rate."""

    def __init__(self) -> None:
        self.total: float | Tensor = 0.0
        self.normaliser: float | Tensor = 0.0
        self.examples = 0
        self.start = time.perf_counter()

    def add(self, total: float | Tensor, normaliser: float | Tensor, examples: int) -> None:
        """Add a batch."""
        self.total = self.total + total
        self.normaliser = self.normaliser + normaliser
        self.examples += examples

    def mean(self) -> float:
        """Return the mean; 0 where every target was ignored."""
        normaliser = float(self.normaliser)
        return float(self.total) / normaliser if normaliser else 0.0

    def state(self) -> list[float]:
        """Return the sums, to be given back to `add`."""
        return [float(self.total), float(self.normaliser), self.examples]

    def rate(self) -> float:
        """Return examples a second."""
        return self.examples / (time.perf_counter() - self.start)


class Guard:
    """Stop before a loss or gradient that is not finite reaches the weights.

    On a CPU each step is read as it comes. Elsewhere reading would stall the queue: a flag on the
    device makes the fused optimizers skip the update (and every one after), and is read when
    something is logged. An optimizer that has no such flag is read at each step.
    """

    def __init__(self, trainer: Trainer, device: torch.device) -> None:
        self.trainer = trainer
        fused = getattr(trainer.optimizer, "_step_supports_amp_scaling", False)
        self.masked = device.type != "cpu" and fused
        self.bad_loss = torch.zeros((), device=device)
        if self.masked:
            self.first_bad = torch.full((), torch.inf, device=device)  # step
            trainer.optimizer.found_inf = torch.zeros((), device=device)  # type: ignore[attr-defined]
            trainer.optimizer.grad_scale = None  # type: ignore[attr-defined]

    def check(self, total: Tensor, norms: list[Tensor], share: Tensor | None = None) -> None:
        """Refuse the step, or mask it, if the loss or a norm of the gradient is not finite.

        The loss is total x share, or the total.
        """
        if not self.masked:
            if not all(math.isfinite(number.item()) for number in (total, *norms)):
                loss = total if share is None else total * share
                self._stop(self.trainer.step, loss, self.trainer.objective.seen)
            return
        loss = total.detach() if share is None else total.detach() * share
        step = torch.where(
            (loss + torch.stack(norms).sum()).isfinite(), torch.inf, float(self.trainer.step)
        )
        self.bad_loss = torch.where(self.first_bad.isfinite(), self.bad_loss, loss)
        self.first_bad = torch.minimum(self.first_bad, step)
        self.trainer.optimizer.found_inf = self.first_bad.isfinite().float()  # type: ignore[attr-defined]

    def value(self, x: Tensor) -> float | Tensor:
        """Return `x` to be added up: a number, or a float64 tensor where reading would stall."""
        return x.detach().double() if self.masked else x.item()

    def read(self) -> None:
        """Stop if a step was masked since the last reading."""
        if self.masked and self.first_bad.isfinite():
            self._stop(int(self.first_bad), self.bad_loss, {})

    def _stop(self, step: int, loss: Tensor, seen: dict[str, Tensor]) -> None:
        trainer = self.trainer
        # in the order of the computation: weights, what came of them, gradients
        parameters = dict(trainer.model.named_parameters())
        named: dict[str, Tensor] = {f"weight {name}": p for name, p in parameters.items()}
        named |= seen | {"loss": loss}
        named |= {f"gradient {n}": p.grad for n, p in parameters.items() if p.grad is not None}
        found = (name for name, tensor in named.items() if not tensor.isfinite().all())
        first = next(found, "norm of the gradient")
        lr = trainer.optimizer.param_groups[0]["lr"]
        clip = "" if 0 < trainer.settings.clip_norm <= 1 else " trainer.clip_norm=1"
        raise DivergedError(
            f"stopped before step {step + 1}: loss {loss.item():g}, first bad tensor {first}, at"
            f" learning rate {lr:g}; try optimizer.lr={trainer.base_lrs[0] / 10:g},{clip}"
            " or more scheduler.warmup_steps"
        )
