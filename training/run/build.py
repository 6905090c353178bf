"""Build what a run needs from its settings, and find out that it fits together."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from losses import ClassificationLoss
from training.data import Splits, stream_seed
from training.distributed import from_main, local_rank, rank, world_size
from training.errors import ConfigError, DataError
from training.evaluation import logits_of
from training.loop import Training
from training.run.figures import COLUMNS
from training.run.folder import kept_settings
from training.run.identity import identity
from training.run.state import TrainingRun
from training.run.targets import with_facts

Make = Callable[..., Any]  # `instantiate`, once it knows whom to trust


def build(cfg: DictConfig, loss: str, folder: Path, console: Console, make: Make) -> TrainingRun:
    """Return the run that `cfg` describes, with the loss of option `loss`; write nothing.

    Everything is first built with a placeholder of two classes, so that bad arguments fail before
    the data is read.
    """
    device = pick_device(cfg.device)
    set_threads(cfg.threads)
    check_values(cfg)
    settings = make(cfg.trainer)
    reporters = [make(node) for node in cfg.report.values()]
    placeholder = with_facts(cfg, 2, torch.ones(2, dtype=torch.int64))
    build_parts(placeholder, torch.device("cpu"), make)
    splits: Splits = make(cfg.data)
    data = splits.fingerprint()
    if data != from_main(lambda: data):
        raise DataError(f"data: process {rank()} has read other examples than process 0")
    cut = {n: getattr(splits, n).first(settings.max_rows) for n in ("val", "calibration", "test")}
    splits = replace(splits, **cut).to(device)
    torch.manual_seed(stream_seed(cfg.seed, "init"))
    filled = with_facts(cfg, splits.num_classes, splits.class_counts, splits.class_names)
    model, loss_fn, optimizer, schedule = build_parts(filled, device, make)
    splits.check(loss_fn.ignore_index)
    # dropout and the like: the same for any loss, another in each process
    torch.manual_seed(stream_seed(cfg.seed, "noise", *[rank()] * bool(rank())))
    training = Training(model, loss_fn, optimizer, schedule, settings, cfg.seed)
    try_first_examples(training, splits)
    what_it_is = identity(cfg, loss, splits.protocol, data)
    config = OmegaConf.to_yaml(kept_settings(cfg))
    return TrainingRun(training, splits, reporters, folder, console, what_it_is, config)


def build_parts(
    cfg: DictConfig, device: torch.device, make: Make
) -> tuple[nn.Module, ClassificationLoss, torch.optim.Optimizer, Any]:
    """Return model, loss, optimizer and schedule; `cfg` has the facts of the data."""
    model = make(cfg.model).to(device)
    loss_fn = build_loss(cfg, make).to(device)
    optimizer = make(cfg.optimizer, call_with=[model.parameters()])
    return model, loss_fn, optimizer, make(cfg.scheduler)


def build_loss(cfg: DictConfig, make: Make) -> ClassificationLoss:
    """Return the loss; one that cannot say which probabilities it means is refused."""
    name = cfg.loss._target_
    # torch's own losses are refused whatever their arguments
    loss_fn = None if name.startswith("torch.") else make(cfg.loss)
    if not isinstance(loss_fn, ClassificationLoss):
        reason = (
            "it takes log-probabilities and models here give logits: use loss=nll"
            if name.endswith("NLLLoss")
            else "subclass losses.ClassificationLoss, which says how logits become probabilities"
        )
        raise ConfigError(f"loss._target_={name}: not a ClassificationLoss; {reason}")
    if loss_fn.reduction == "none":
        raise ConfigError("loss.reduction=none: must be mean or sum, training needs one number")
    return loss_fn


def check_values(cfg: DictConfig) -> None:
    """Refuse values that no constructor would."""
    if not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed={cfg.seed}: must be from 0 to 4294967295")
    for name in ("data", "model", "loss", "optimizer", "scheduler", "trainer", "report"):
        if not isinstance(cfg.get(name), DictConfig):
            raise ConfigError(f"{name}={cfg.get(name)}: choose an option, as `--help` lists them")
    for name in cfg.table:
        if name not in COLUMNS:
            raise ConfigError(f"table={list(cfg.table)}: {name} is none of {', '.join(COLUMNS)}")


def try_first_examples(training: Training, splits: Splits) -> None:
    """Show the model and the loss a few examples: what they refuse is a setting's fault."""
    examples = splits.train.first(8)
    logits, inputs, targets = next(logits_of(training.model, examples, splits.num_classes))
    try:
        training.loss_fn.sums(logits, targets, inputs)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"loss: {error}") from error
    if training.settings.compile:
        try:
            training.called_model(inputs)
        except Exception as error:  # of torch's compiler, or of the C++ compiler behind it
            reason = (str(error).strip() or repr(error)).split("\n")[0]
            raise ConfigError(
                f"trainer.compile=true: torch cannot compile the model here ({reason});"
                " trainer.compile=false trains without"
            ) from error


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the first of cuda, mps and cpu that is here."""
    here, several = ["cpu"], world_size() > 1
    if torch.backends.mps.is_available() and not several:
        here.insert(0, "mps")
    if torch.cuda.is_available():
        here.insert(0, "cuda")
    if name == "auto":
        name = here[0]
    if name == "cuda" and several:  # each process its own
        name = f"cuda:{local_rank()}"
    with suppress(RuntimeError):  # no device has that number
        if name.split(":")[0] in here:
            device = torch.empty(1, device=name).device
            if device.type == "cuda":
                torch.cuda.set_device(device)  # whose random numbers a checkpoint keeps
            return device
    raise ConfigError(f"device={name}: not available here; use auto or {' or '.join(here)}")


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; null leaves torch's choice."""
    if threads is not None:
        if not isinstance(threads, int) or not 1 <= threads <= 4096:
            raise ConfigError(f"threads={threads}: must be null or from 1 to 4096")
        torch.set_num_threads(threads)
