"""Steps with large vocabularies: time, rounding in bfloat16, and peak memory."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.training_common import (
    WIDE,
    Case,
    compare,
    compose,
    epochs_of,
    for_splits,
    prepare,
    timed,
)
from training.cli.settings import CONFIGS
from training.data import Split, epoch_order
from training.evaluation import evaluate
from training.loop import Training
from training.optimizers import Constant, adamw
from training.run.targets import instantiate

COMMAND = str(Path(__file__).with_name("training.py"))
ALL_TYPES = ["data.protocol=null", "data.level=whitespace", "data.line_ends=drop"]
ALL_TYPES += ["data.lowercase=false", "data.min_count=1", "data.unk=false"]
ALL_TYPES += ["data.split=[1.0,0.0,0.0,0.0]"]


def plain_step(model: nn.Module, loss: Callable[..., Tensor], optimizer: Any, bf16: bool) -> Any:
    """Return a training step as it is usually written: all logits of the batch at once."""

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(inputs)
        loss(logits, targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def linear_cross_entropy_step(model: Any, optimizer: Any, chunk_rows: int | None) -> Any:
    """Return a step with torch's own chunks, of so many rows or as torch chooses."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_rows)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        head = model.head
        F.linear_cross_entropy(
            model.features(inputs), head.weight, targets, linear_bias=head.bias, options=options
        ).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def step_cases(
    training: Training, batch: tuple[Tensor, Tensor], num_classes: int
) -> dict[str, Case]:
    """Return a step each: three products, plain loops, torch's chunks, and this loop."""
    inputs, targets = batch
    copies = [copy.deepcopy(training.model).train() for _ in range(4)]
    made = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in copies]
    split = Split(inputs, targets)
    h = torch.randn(len(inputs), training.model.head.in_features)  # type: ignore[union-attr, arg-type]
    weight, g = training.model.head.weight.detach(), torch.randn(len(inputs), num_classes)  # type: ignore[union-attr, operator]

    def products() -> None:
        _ = h @ weight.T, g @ weight, g.T @ h  # type: ignore[union-attr, operator]

    def ours(precision: str) -> Case:
        model = copy.deepcopy(training.model)
        settings = replace(
            training.settings, batch_size=len(inputs), precision=precision, shuffle=False
        )
        optimizer = adamw(model.parameters(), lr=1e-3)
        own = Training(model, training.loss_fn, optimizer, Constant(), settings, 1)
        train = epochs_of(own, split)
        return timed(lambda: train(1))

    plain, bf16 = (
        plain_step(m, F.cross_entropy, o, b)
        for m, o, b in zip(copies, made, (False, True), strict=False)
    )
    default, chunked = (
        linear_cross_entropy_step(m, o, rows)
        for m, o, rows in zip(copies[2:], made[2:], (None, 256), strict=True)
    )
    return {
        "three products alone": timed(products),
        "plain loop, float32": timed(lambda: plain(inputs, targets)),
        "this loop, float32": ours("float32"),
        "torch linear_cross_entropy, float32": timed(lambda: default(inputs, targets)),
        "the same, batch_chunk_size=256": timed(lambda: chunked(inputs, targets)),
        "plain loop, bf16 autocast": timed(lambda: bf16(inputs, targets)),
        "this loop, bf16": ours("bf16"),
    }


def wide(text: str, rounds: int) -> None:
    """Steps on the complete works with both vocabularies."""
    for extra in ([], ALL_TYPES):
        cfg = compose(*WIDE, f"data.path={text}", *extra)
        splits = instantiate(cfg.data)
        training = for_splits(cfg, splits)
        batch = splits.train.batch(epoch_order(len(splits.train), 1, 1)[:1024], 1)
        cases = step_cases(training, batch, splits.num_classes)
        compare(f"a step of 1,024 rows, {splits.num_classes:,} words", cases, rounds)


def precision(text: str, steps: int) -> None:
    """Train as many steps in each way, and compare the validation nll."""
    cfg = compose(*WIDE, f"data.path={text}", f"trainer.max_batches={steps}", "trainer.epochs=1")
    splits = instantiate(cfg.data)
    found = {}
    for name in ("float32", "bf16"):
        cfg.trainer.precision = name
        training = for_splits(cfg, splits)
        epochs_of(training, splits.train)(1)
        val = splits.val.first(30_000)
        result = evaluate(training.model, training.loss_fn, val, splits.num_classes)
        found[name] = result.metrics["nll"]
        print(f"{name}: validation nll {found[name]:.4f} after {steps} steps", flush=True)
    print(f"bf16 / float32: {found['bf16'] / found['float32']:.5f}")


def synthetic(
    num_classes: int, batch_size: int, *overrides: str
) -> tuple[Training, tuple[Tensor, Tensor]]:
    """Return what trains tiny Shakespeare's model, and a batch of random words."""
    cfg = compose(*WIDE, f"trainer.batch_size={batch_size}", *overrides)
    training = prepare(cfg, num_classes, torch.ones(num_classes, dtype=torch.int64))
    contexts = torch.randint(num_classes, (batch_size, cfg.data.context_size))
    return training, (contexts, torch.randint(num_classes, (batch_size,)))


def peak(loss: str, ours: bool, num_classes: int, batch_size: int) -> float:
    """Return by how many MiB a step raises this process's peak memory."""
    if sys.platform == "win32":  # it has no `resource`
        return math.nan
    import resource

    training, (inputs, targets) = synthetic(num_classes, batch_size, *loss.split(","))
    plain = plain_step(training.model.train(), training.loss_fn, training.optimizer, False)

    def step(n: int) -> None:
        if ours:
            epochs_of(training, Split(inputs[:n], targets[:n]))(1)
        else:
            plain(inputs[:n], targets[:n])

    step(2)  # moments, and what is loaded on first use
    training.optimizer.zero_grad()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(batch_size)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def peaks(loss: str, num_classes: int, batch_size: int) -> tuple[float, float]:
    """Return the MiB of the plain loop and of this one, each in a fresh process."""
    both = []
    for ours in ([], ["--ours"]):
        sizes = [f"--classes={num_classes}", f"--rows={batch_size}"]
        command = [sys.executable, COMMAND, "memory", f"--peak-of=loss={loss}", *sizes, *ours]
        out = subprocess.run(command, capture_output=True, check=True, text=True)
        both.append(float(out.stdout))
    return both[0], both[1]


def memory(num_classes: int, batch_size: int) -> None:
    """Print a row for every loss of `configs/loss` that needs no other run."""
    names = sorted(file.stem for file in (CONFIGS / "loss").glob("*.yaml"))
    names.remove("distillation")
    print(f"peak memory of a step, {num_classes:,} classes x {batch_size:,} rows, MiB")
    print(f"{'':40} {'plain loop':>10} {'this loop':>10} {'ratio':>6}")
    for name in [*names, "hinge,loss.variant=weston_watkins"]:
        plain, ours = peaks(name, num_classes, batch_size)
        print(f"{name:40} {plain:10.0f} {ours:10.0f} {ours / plain:6.2f}", flush=True)
