"""The training loop: the same for every task, model and loss."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from losses import ClassificationLoss
from losses.base import TINY
from training.data import Split, epoch_order
from training.distributed import own_share, world_size
from training.finite_check import FiniteCheck
from training.optimizers import Schedule
from training.parallel import ParallelModel, sum_over_processes
from training.settings import TrainerSettings
from training.wide_output import rows_that_make_it_wide, sums_by_blocks


class Update(NamedTuple):
    """What one update of the weights was computed from; total / normaliser is its mean loss.

    That mean is what is logged and printed, also where `reduction=sum` makes `total` the objective.
    """

    total: Tensor  # sum of the batch's losses
    normaliser: Tensor
    num_examples: int
    norms: list[Tensor]  # of the gradient of each parameter, before clipping


def train_epoch(training: "Training", split: Split) -> Iterator[Update]:
    """Train to the end of the epoch under way; yield after each update of the weights."""
    optimizer, loss_fn, settings = training.optimizer, training.loss_fn, training.settings
    model = training.called_model
    wide_rows = rows_that_make_it_wide(training.model, loss_fn)
    bf16 = partial(torch.autocast, split.targets.device.type, torch.bfloat16)
    autocast = bf16 if settings.precision == "bf16" else nullcontext
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    several_processes = world_size() > 1
    training.model.train()
    for lr_factor, rows, num_examples in training.steps_left(split):
        for group, lr in zip(optimizer.param_groups, training.base_lrs, strict=True):
            group["lr"] = lr * lr_factor
        inputs, targets = split.batch(rows, training.epoch)
        if len(inputs) >= wide_rows:  # so many rows have 2^21 logits: training/wide_output.py
            with autocast():
                outputs = features = model.features(inputs)  # type: ignore[operator]
            total, normaliser = sums_by_blocks(training, features, targets, inputs)
        else:
            with autocast():
                outputs = logits = model(inputs)
            total, normaliser = loss_fn.sums(logits, targets, inputs)
        if several_processes:
            total, normaliser = sum_over_processes(total, normaliser)
        loss = total if loss_fn.reduction == "sum" else total / normaliser.clamp(min=TINY)
        zero_grad(parameters)
        loss.backward()
        norms = gradient_norms(parameters)
        training.finite_check(loss, norms, inputs, outputs)  # clipping would make NaN of an inf
        if settings.clip_norm > 0:
            norm = torch.linalg.vector_norm(torch.stack(norms))  # of the whole gradient
            clip_grads_with_norm_(parameters, settings.clip_norm, norm)
        optimizer.step()
        training.step += 1
        training.visited += num_examples
        yield Update(total.detach(), normaliser, num_examples, norms)
    training.finite_check.raise_if_skipped()


def zero_grad(parameters: list[nn.Parameter]) -> None:
    """Drop all gradients; `optimizer.zero_grad` does the same in ten times as long."""
    for parameter in parameters:
        parameter.grad = None


def gradient_norms(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return the Euclidean norm of the gradient of each parameter."""
    return list(torch._foreach_norm([g for p in parameters if (g := p.grad) is not None]))


@dataclass
class Training:
    """What training steps read and change.

    `called_model` is the model as training calls it: compiled where the settings say so, and with
    gradients summed over processes where there are several. It shares its weights with `model`.
    """

    model: nn.Module
    loss_fn: ClassificationLoss
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    settings: TrainerSettings
    seed: int
    step: int = 0  # updates made
    epoch: int = 0  # under way, from 1
    visited: int = 0  # examples of that epoch

    def __post_init__(self) -> None:
        self.called_model = self.model
        if self.settings.compile:
            self.called_model = cast(nn.Module, torch.compile(self.model))
        if world_size() > 1:
            self.called_model = ParallelModel(self.called_model)
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.device = next(self.model.parameters()).device
        self.finite_check = FiniteCheck(self, self.device)

    def rates(self) -> tuple[str, str]:
        """Return the learning rates now, and settings that make all of them a tenth, in words."""
        groups = self.optimizer.param_groups
        now = dict.fromkeys(f"{group['lr']:g}" for group in groups)
        lower = {
            g.get("setting", "lr"): lr / 10 for g, lr in zip(groups, self.base_lrs, strict=True)
        }
        return " and ".join(now), " ".join(f"optimizer.{name}={lr:g}" for name, lr in lower.items())

    def num_steps(self, num_examples: int) -> int:
        """Return the steps of the whole run: those made, and those that are left to make.

        The epoch under way is 0 before the first.
        """
        settings = self.settings
        per_epoch = settings.steps_per_epoch(num_examples)
        left_of_epoch = max(0, per_epoch - math.ceil(self.visited / settings.batch_size))
        return self.step + left_of_epoch + per_epoch * max(0, settings.epochs - max(1, self.epoch))

    def steps_left(self, split: Split) -> Iterator[tuple[float, Tensor | slice, int]]:
        """Yield what each step needs that is left of the epoch.

        That is the factor on the learning rate, this process's rows of the batch (indices on the
        split's device, or a slice), and the number of examples of the whole batch.
        """
        n, settings = len(split), self.settings
        num_steps = self.num_steps(n)
        limit = min(n, settings.steps_per_epoch(n) * settings.batch_size)
        if settings.shuffle:
            order = epoch_order(n, self.seed, self.epoch)[:limit].to(split.targets.device)
        for start in range(self.visited, limit, settings.batch_size):
            end = min(limit, start + settings.batch_size)
            rows = slice(*own_share(start, end))
            lr_factor = self.schedule(self.step, num_steps)
            yield lr_factor, order[rows] if settings.shuffle else rows, end - start
