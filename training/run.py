"""One run, from settings to figures: build, train, keep the best, test, report."""

import sys
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from losses import ClassificationLoss
from training.config import find_target, instantiate
from training.data import Splits, stream_seed
from training.errors import ConfigError
from training.evaluation import logits_of
from training.log import RunLog
from training.loop import Trainer, TrainerSettings
from training.report import Reporter
from training.run_folder import claim, with_facts
from training.session import Session, finish, fit


def run(cfg: DictConfig, folder: Path) -> float:
    """Train and test what `cfg` describes, in `folder`; return the nll that chose the weights."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    device = pick_device(cfg.device)
    set_threads(cfg.threads)
    settings, reporters = try_settings(cfg)
    splits: Splits = instantiate(cfg.data, cfg.trusted_targets)
    claim(folder, cfg)
    print(f"data: {splits.protocol}", flush=True)

    filled = with_facts(cfg, splits.num_classes, splits.class_counts)
    splits = splits.to(device)
    torch.manual_seed(stream_seed(cfg.seed, "init"))
    model = instantiate(filled.model, cfg.trusted_targets).to(device)
    loss_fn = build_loss(filled).to(device)
    parameters = [model.parameters()]
    optimizer = instantiate(filled.optimizer, cfg.trusted_targets, call_with=parameters)
    schedule = instantiate(filled.scheduler, cfg.trusted_targets)
    torch.manual_seed(stream_seed(cfg.seed, "noise"))  # dropout and the like: the same for any loss

    try_loss(model, loss_fn, splits)
    log = RunLog(folder)
    log.text("config", OmegaConf.to_yaml(cfg))
    log.text("data", splits.protocol)
    trainer = Trainer(model, loss_fn, optimizer, schedule, settings, cfg.seed, log)
    session = Session(trainer, splits, reporters, folder, console)
    try:
        nll = fit(session)
        finish(session, list(cfg.table))
        return nll
    finally:
        log.close()


def try_settings(cfg: DictConfig) -> tuple[TrainerSettings, list[Reporter]]:
    """Build everything once on stand-in facts, so that no setting is found wrong after the data."""
    if not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed={cfg.seed}: must be from 0 to 4294967295")
    trial = with_facts(cfg, 2, torch.ones(2, dtype=torch.int64))
    settings = instantiate(trial.trainer, cfg.trusted_targets)
    build_loss(trial)
    model = instantiate(trial.model, cfg.trusted_targets)
    instantiate(trial.optimizer, cfg.trusted_targets, call_with=[model.parameters()])
    instantiate(trial.scheduler, cfg.trusted_targets)
    return settings, [instantiate(node, cfg.trusted_targets) for node in trial.report.values()]


def build_loss(cfg: DictConfig) -> ClassificationLoss:
    """Return the loss; one that cannot say which probabilities it means is refused."""
    target = find_target("loss._target_", cfg.loss._target_, cfg.trusted_targets)
    if isinstance(target, type) and not issubclass(target, ClassificationLoss):
        reason = (
            "it takes log-probabilities and models here give logits: use loss=nll"
            if issubclass(target, torch.nn.NLLLoss)
            else "subclass losses.ClassificationLoss, which says how logits become probabilities"
        )
        raise ConfigError(f"loss._target_={cfg.loss._target_}: not a ClassificationLoss; {reason}")
    loss_fn: ClassificationLoss = instantiate(cfg.loss, cfg.trusted_targets)
    if loss_fn.reduction == "none":
        raise ConfigError("loss.reduction=none: must be mean or sum, training needs one number")
    return loss_fn


def try_loss(model: torch.nn.Module, loss_fn: ClassificationLoss, splits: Splits) -> None:
    """Show the loss a few examples first: what it refuses there is a setting's fault."""
    logits, inputs, targets = next(logits_of(model, splits.train.first(8), splits.num_classes))
    try:
        loss_fn.sums(logits, targets, inputs)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"loss: {error}") from error


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the first of cuda, mps and cpu that is here."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, here in available.items() if here))
    if not available.get(name.split(":")[0], False):
        here = " or ".join(kind for kind, yes in available.items() if yes)
        raise ConfigError(f"device={name}: not available here; use auto or {here}")
    return torch.device(name)


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; null leaves torch's choice."""
    if threads is None:
        return
    if not isinstance(threads, int) or not 1 <= threads <= 4096:
        raise ConfigError(f"threads={threads}: must be null or from 1 to 4096")
    torch.set_num_threads(threads)
