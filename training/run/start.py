"""One run, from settings to figures: build, train, keep the best, test, report."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from losses import ClassificationLoss
from training.data import Splits, stream_seed
from training.distributed import from_main, is_main, local_rank, peers, rank
from training.errors import CheckpointError, ConfigError, DataError, DivergedError
from training.evaluation import logits_of
from training.loop import Trainer, TrainerSettings
from training.run.cost import Cost
from training.run.figures import COLUMNS
from training.run.hparams import log_end, log_start
from training.run.identity import identity
from training.run.log import NoLog, RunLog
from training.run.report import Reporter
from training.run.resume import check_changes, command, read_status
from training.run.run_folder import claim, locked, set_aside, with_facts, write_settings
from training.run.session import Session, finish, fit
from training.run.signals import Interrupted, handling
from training.run.targets import find_target, instantiate


def run(
    cfg: DictConfig,
    folder: Path,
    overrides: Sequence[str] = (),
    choices: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> float:
    """Train and test what `cfg` describes, in `folder`; return the nll that chose the weights.

    With `cfg.resume` the run in `folder` goes on: to the same end, bit for bit, as if it had never
    stopped. `overrides` are what the settings were composed of, kept so that it can; `choices` the
    option of each group. A `quiet` run prints warnings only. Of several processes the first has the
    folder, and reads and writes it for all.
    """
    cost = Cost()
    width = None if sys.stdout.isatty() else 120
    console = Console(width=width, highlight=False, quiet=quiet)
    resumed, cfg.resume = bool(cfg.resume), None
    if resumed and is_main():
        check_changes(folder, cfg, console)
    session = build(cfg, folder, console)
    session.cost = cost
    session.identity = identity(cfg, choices or {}, session.splits.protocol, session.data)
    console.print(f"data: {session.splits.protocol}", markup=False, soft_wrap=True)
    lock = locked(folder) if is_main() else nullcontext()
    with lock, handling(session.trainer.signals.append):
        if not resumed and is_main():
            claim(folder)
        damaged = session.restore_newest() if resumed else []
        complete = resumed and from_main(lambda: read_status(folder).get("status")) == "complete"
        if complete and session.finished >= session.trainer.settings.epochs:
            console.print(
                f"already complete at step {session.trainer.step}: {folder}", soft_wrap=True
            )
            return session.best
        if resumed and is_main():
            set_aside(folder, damaged)
            session.check_best()
            console.print(f"resuming at step {session.trainer.step}")
        if is_main():
            write_settings(folder, cfg, overrides, session.identity)
        return train(session, list(cfg.table))


def train(session: Session, columns: list[str]) -> float:
    """Train and test; leave word in status.json of how it ended."""
    trainer, log, folder = session.trainer, session.trainer.log, session.folder
    session.write_status("running")
    try:
        if session.config != session.logged_config:
            log.text("config", session.config, trainer.step)
        if not trainer.step:
            log.text("data", session.splits.protocol)
            if is_main():
                log_start(log, session.identity)
        with peers():
            nll = fit(session)
            finish(session, columns)
        if is_main():
            log_end(log, success=True)
        log.flush()
        if log.failures:
            raise CheckpointError(
                f"{folder}: the run has ended, but {log.failures} files could not be written, see"
                f" the warnings above; with room on the disk: {command(folder)}"
            )
        session.write_status("complete", exit_code=0)
        return nll
    except BaseException as error:
        status = {DivergedError: "diverged", Interrupted: "interrupted"}.get(type(error), "failed")
        if status != "interrupted" and is_main():
            log_end(log, success=False)
        session.write_status(status, str(error), getattr(error, "exit_code", 1))
        if status == "interrupted":
            print(f"interrupted at step {trainer.step}; go on with:\n{command(folder)}", flush=True)
        raise
    finally:
        log.close()


def build(cfg: DictConfig, folder: Path, console: Console) -> Session:
    """Build all that a run needs, and find out that it fits together; write nothing."""
    device = pick_device(cfg.device)
    set_threads(cfg.threads)
    settings, reporters = try_settings(cfg)
    splits: Splits = instantiate(cfg.data, cfg.trusted_targets)
    data = splits.fingerprint()
    if data != from_main(lambda: data):
        raise DataError(f"data: process {rank()} has read other examples than process 0")
    filled = with_facts(cfg, splits.num_classes, splits.class_counts, splits.class_names)
    splits = splits.to(device)
    torch.manual_seed(stream_seed(cfg.seed, "init"))
    model = instantiate(filled.model, cfg.trusted_targets).to(device)
    loss_fn = build_loss(filled).to(device)
    splits.check(loss_fn.ignore_index)
    parameters = [model.parameters()]
    optimizer = instantiate(filled.optimizer, cfg.trusted_targets, call_with=parameters)
    schedule = instantiate(filled.scheduler, cfg.trusted_targets)
    # dropout and the like: the same for any loss, another in each process
    torch.manual_seed(stream_seed(cfg.seed, "noise", *[rank()] * bool(rank())))
    try_loss(model, loss_fn, splits)
    log = RunLog(folder) if is_main() else NoLog(folder)
    trainer = Trainer(model, loss_fn, optimizer, schedule, settings, cfg.seed, log)
    config = OmegaConf.to_yaml(cfg)
    return Session(trainer, splits, reporters, folder, console, cfg.task, config, data)


def try_settings(cfg: DictConfig) -> tuple[TrainerSettings, list[Reporter]]:
    """Build everything once on stand-in facts, so that no setting is found wrong after the data."""
    if not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed={cfg.seed}: must be from 0 to 4294967295")
    for name in ("data", "model", "loss", "optimizer", "scheduler", "trainer", "report"):
        if not isinstance(cfg.get(name), DictConfig):
            raise ConfigError(f"{name}={cfg.get(name)}: choose an option, as `--help` lists them")
    for name in cfg.table:
        if name not in COLUMNS:
            raise ConfigError(f"table={list(cfg.table)}: {name} is none of {', '.join(COLUMNS)}")
    if not all(isinstance(name, str) for name in cfg.trusted_targets):
        raise ConfigError(f"trusted_targets={list(cfg.trusted_targets)}: must be names of packages")
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
    several = dist.is_initialized()
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
