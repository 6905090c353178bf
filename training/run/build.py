"""Build what a run needs from its settings, and find out that it fits together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from losses import ClassificationLoss
from training.data import Splits, stream_seed
from training.distributed import from_main, is_main, local_rank, rank, world_size
from training.errors import ConfigError, DataError
from training.evaluation import logits_of
from training.loop import Training
from training.run.figures import COLUMNS
from training.run.identity import identity
from training.run.log import RunLog
from training.run.state import TrainingRun
from training.run.targets import find_target, instantiate, with_facts


@dataclass(frozen=True)
class Trust:
    """Whose settings these are: a run folder's (`guarded`), or the user's own command line's."""

    packages: tuple[str, ...] = ()
    guarded: bool = False

    def build(self, node: DictConfig, call_with: Any = None) -> Any:
        """Build what a part of the settings names."""
        return instantiate(node, self.packages, guarded=self.guarded, call_with=call_with)


def build(cfg: DictConfig, loss: str, folder: Path, console: Console, trust: Trust) -> TrainingRun:
    """Return the run that `cfg` describes, with the loss of option `loss`; write nothing.

    Everything is first built with a placeholder of two classes, so that bad arguments fail before
    the data is read.
    """
    device = pick_device(cfg.device)
    set_threads(cfg.threads)
    check_values(cfg)
    placeholder = with_facts(cfg, 2, torch.ones(2, dtype=torch.int64))
    settings = trust.build(cfg.trainer)
    reporters = [trust.build(node) for node in cfg.report.values()]
    build_parts(placeholder, torch.device("cpu"), trust)
    splits: Splits = trust.build(cfg.data)
    data = splits.fingerprint()
    if data != from_main(lambda: data):
        raise DataError(f"data: process {rank()} has read other examples than process 0")
    splits = splits.to(device)
    torch.manual_seed(stream_seed(cfg.seed, "init"))
    filled = with_facts(cfg, splits.num_classes, splits.class_counts, splits.class_names)
    model, loss_fn, optimizer, schedule = build_parts(filled, device, trust)
    splits.check(loss_fn.ignore_index)
    # dropout and the like: the same for any loss, another in each process
    torch.manual_seed(stream_seed(cfg.seed, "noise", *[rank()] * bool(rank())))
    training = Training(model, loss_fn, optimizer, schedule, settings, cfg.seed)
    try_first_examples(training, splits)
    return TrainingRun(
        training=training,
        splits=splits,
        reporters=reporters,
        folder=folder,
        console=console,
        log=RunLog(folder, writes=is_main()),
        identity=identity(cfg, loss, splits.protocol, data),
        config=OmegaConf.to_yaml(cfg),
    )


def build_parts(
    cfg: DictConfig, device: torch.device, trust: Trust
) -> tuple[nn.Module, ClassificationLoss, torch.optim.Optimizer, Any]:
    """Return model, loss, optimizer and schedule; `cfg` has the facts of the data."""
    model = trust.build(cfg.model).to(device)
    loss_fn = build_loss(cfg, trust).to(device)
    optimizer = trust.build(cfg.optimizer, call_with=[model.parameters()])
    return model, loss_fn, optimizer, trust.build(cfg.scheduler)


def build_loss(cfg: DictConfig, trust: Trust) -> ClassificationLoss:
    """Return the loss; one that cannot say which probabilities it means is refused."""
    name = cfg.loss._target_
    target = find_target("loss._target_", name, trust.packages, trust.guarded)
    if isinstance(target, type) and not issubclass(target, ClassificationLoss):
        reason = (
            "it takes log-probabilities and models here give logits: use loss=nll"
            if issubclass(target, nn.NLLLoss)
            else "subclass losses.ClassificationLoss, which says how logits become probabilities"
        )
        raise ConfigError(f"loss._target_={name}: not a ClassificationLoss; {reason}")
    loss_fn: Any = trust.build(cfg.loss)
    if not isinstance(loss_fn, ClassificationLoss):
        kind = type(loss_fn).__name__
        raise ConfigError(f"loss._target_={name}: not a ClassificationLoss; it gives a {kind}")
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
            reason = next(line for line in [*str(error).split("\n"), repr(error)] if line.strip())
            raise ConfigError(
                f"trainer.compile=true: torch cannot compile the model here ({reason});"
                " trainer.compile=false trains without"
            ) from error


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the first of cuda, mps and cpu that is here."""
    several = world_size() > 1
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and not several,
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, here in available.items() if here)
    if name == "cuda" and several:  # each process its own
        name = f"cuda:{local_rank()}"
    try:
        if not available.get(name.split(":")[0], False):
            raise RuntimeError
        device = torch.device(name)
        torch.empty(1, device=device)
    except RuntimeError:
        here = " or ".join(kind for kind, yes in available.items() if yes)
        raise ConfigError(f"device={name}: not available here; use auto or {here}") from None
    return device


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; null leaves torch's choice."""
    if threads is None:
        return
    if not isinstance(threads, int) or not 1 <= threads <= 4096:
        raise ConfigError(f"threads={threads}: must be null or from 1 to 4096")
    torch.set_num_threads(threads)
