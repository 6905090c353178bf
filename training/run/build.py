"""Build what a run needs from its settings, and find out that it fits together."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from losses import ClassificationLoss
from metrics import Metrics
from training.data import Split, Splits, stream_seed
from training.distributed import from_main, local_rank, rank, world_size
from training.errors import ConfigError, DataError, first_line
from training.evaluation import has_features_and_head, on_trial
from training.loop import Training
from training.run.figures import COLUMNS
from training.run.finished import FinishedRun
from training.run.identity import identity
from training.run.kept_settings import GROUPS, as_written, is_secret, kept_settings
from training.run.state import TrainingRun
from training.run.targets import where, with_facts

Make = Callable[..., Any]  # `instantiate`, once it knows whom to trust


def build(
    cfg: DictConfig,
    loss: str,
    folder: Path,
    console: Console,
    make: Make,
    teacher: FinishedRun | None = None,
) -> TrainingRun:
    """Return the run that `cfg` describes, with the loss of option `loss`; write nothing.

    Everything is first built with a placeholder of two classes, so that bad arguments fail before
    the data is read.
    """
    device = pick_device(cfg.device)
    set_threads(cfg.threads)
    check_values(cfg)
    settings = make(cfg.trainer)
    nodes = (cfg.report or {}).items()
    reporters = {str(name): make(node) for name, node in nodes if node is not None}
    logits_of = teacher.logits if teacher else None
    placeholder = with_facts(cfg, 2, torch.ones(2, dtype=torch.int64), logits_of)
    build_parts(placeholder, torch.device("cpu"), make)
    splits: Splits = make(cfg.data, kind=Splits)
    data = splits.fingerprint()
    if data != from_main(lambda: data):
        raise DataError(f"data: process {rank()} has read other examples than process 0")
    cut = {n: getattr(splits, n).first(settings.max_rows) for n in ("val", "calibration", "test")}
    splits = replace(splits, **cut).to(device)
    torch.manual_seed(stream_seed(cfg.seed, "init"))
    if teacher and teacher.class_names != splits.class_names:
        problem = "was trained on other data, with other classes"
        raise ConfigError(f"teacher={teacher.folder}: {problem}")
    filled = with_facts(cfg, splits.num_classes, splits.class_counts, logits_of)
    model, loss_fn, optimizer, schedule = build_parts(filled, device, make, splits.train)
    splits.check(loss_fn.ignore_index)
    # dropout and the like: the same for any loss, another in each process
    torch.manual_seed(stream_seed(cfg.seed, "noise", *[rank()] * bool(rank())))
    training = Training(model, loss_fn, optimizer, schedule, settings, cfg.seed)
    try_first_examples(training, splits)
    block_rows = splits.block_size * math.prod(splits.train.targets.shape[1:])
    of_teacher = teacher.digest() if teacher else ""
    written = as_written(cfg, is_secret)
    what_it_is = identity(written, loss, splits.protocol, data, block_rows, of_teacher)
    config = OmegaConf.to_yaml(kept_settings(cfg))
    return TrainingRun(training, splits, reporters, folder, console, what_it_is, config)


def build_parts(
    cfg: DictConfig, device: torch.device, make: Make, split: Split | None = None
) -> tuple[nn.Module, ClassificationLoss, torch.optim.Optimizer, Any]:
    """Return model, loss, optimizer and schedule; `cfg` has the facts of the data.

    The training `split` is for models that have to see inputs before they are trained.
    """
    model = make(cfg.model, kind=nn.Module).to(device)
    if split is not None:
        prepare(model, split)
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.weight.is_embedding = True  # type: ignore[attr-defined]  # for training/muon.py
    parameters = list(model.parameters())
    if any(map(is_lazy, parameters)):  # until there is data
        parameters = [nn.Parameter(torch.zeros(1))]
    loss_fn = build_loss(cfg, make).to(device)
    optimizer = make(cfg.optimizer, call_with=[parameters])
    return model, loss_fn, optimizer, make(cfg.scheduler)


@torch.no_grad()
def prepare(model: nn.Module, split: Split) -> None:
    """Show the model inputs, if it has to see them before it is trained.

    A model that is lazy gets its sizes, and its initial weights, from a pass over the first example
    of the training `split`. One that has a method `prepare` is called with inputs from all over it,
    about 2^21 numbers; weights from a checkpoint replace what it does with them.
    """
    name = type(model).__name__
    if any(map(is_lazy, model.parameters())):
        called(model.eval(), split.batch(slice(0, 1))[0], name)
    for key, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ConfigError(f"model: {key} is lazy and got no inputs to be sized by")
    if method := getattr(model, "prepare", None):
        rows = slice(None, None, math.ceil(split.inputs.numel() / 2**21))
        called(method, split.batch(rows)[0], f"the method prepare of {name}")


def build_loss(cfg: DictConfig, make: Make) -> ClassificationLoss:
    """Return the loss; one that cannot say which probabilities it means is refused."""
    name = cfg.loss._target_
    if name.startswith("torch.") and name.endswith("NLLLoss"):
        hint = "it takes log-probabilities and models here give logits: use loss=nll"
        raise ConfigError(f"loss._target_={name}: not a ClassificationLoss; {hint}")
    loss_fn: ClassificationLoss = make(cfg.loss, kind=ClassificationLoss)
    if not hasattr(loss_fn, "reduction"):
        raise ConfigError(
            f"loss._target_={name}: its __init__ must call super().__init__(**options)"
        )
    if loss_fn.reduction == "none":
        raise ConfigError("loss.reduction=none: must be mean or sum, training needs one number")
    return loss_fn


def check_values(cfg: DictConfig) -> None:
    """Refuse values that no constructor would."""
    if not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed={cfg.seed}: must be from 0 to 4294967295")
    for name in GROUPS:
        if not isinstance(cfg.get(name), DictConfig):
            raise ConfigError(f"{name}={cfg.get(name)}: choose an option, as `--help` lists them")
    for name in cfg.table:
        if name not in COLUMNS:
            raise ConfigError(f"table={list(cfg.table)}: {name} is none of {', '.join(COLUMNS)}")


def try_model(model: nn.Module, splits: Splits) -> Tensor:
    """Return logits of a few examples; what is wrong with them is a setting's fault."""
    inputs, targets = splits.train.batch(slice(0, 8))
    name = type(model).__name__
    given = f"for inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}"
    expected = (len(inputs), splits.num_classes, *targets.shape[1:])
    devices = [] if inputs.device.type == "cpu" else [inputs.device]
    with torch.random.fork_rng(devices, device_type=inputs.device.type):
        trained = called(on_trial(model.train()), inputs, name)
    with torch.no_grad():
        logits = parts = called(model.eval(), inputs, name)
        if has_features_and_head(model):
            parts = called(lambda x: model.head(model.features(x)), inputs, name)  # type: ignore[operator]
    for output in (logits, trained):
        if not isinstance(output, Tensor) or output.shape != expected:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            hint = " (targets of one class each are (N,))" if targets.ndim > 1 else ""
            raise ConfigError(f"model: {name} must give logits {expected} {given}, got {got}{hint}")
    if not trained.requires_grad:
        raise ConfigError(f"model: {name}: its logits depend on no parameter that is trained")
    if parts.shape != logits.shape or not torch.allclose(parts, logits, 1e-3, 1e-3, True):
        raise ConfigError(
            f"model: {name}: model(inputs) is not head(features(inputs)); rename one of the two"
        )
    if not logits.isfinite().all():
        raise ConfigError(f"model: {name} gives logits that are not finite {given}")
    return logits


def try_first_examples(training: Training, splits: Splits) -> None:
    """Show model, loss and metrics a few examples: what they refuse is a setting's fault."""
    loss_fn, num_classes = training.loss_fn, splits.num_classes
    logits = try_model(training.model, splits)
    name = type(loss_fn).__name__
    try:
        inputs, targets = splits.train.batch(slice(0, 8), epoch=1)
        total, _ = loss_fn.sums(logits.requires_grad_(), targets, inputs)
        if not total.requires_grad:
            raise ValueError(f"{name}: its loss does not depend on the logits, nothing is learnt")
        if targets.ndim != logits.ndim:  # no class probabilities
            metrics = Metrics(num_classes, ignore_index=loss_fn.ignore_index, device=logits.device)
            metrics.update(loss_fn.log_probs(logits.detach()), targets)
    except (ValueError, TypeError) as error:
        link = "log_probs must be log-probabilities"
        message = str(error).replace(link, f"{name}.{link}")
        raise ConfigError(f"loss: {message}") from error
    except Exception as error:
        raise ConfigError(f"loss: {name}: {first_line(error)}{where(error)}") from error
    if training.settings.compile:
        try:
            training.called_model(inputs)
        except Exception as error:  # of torch's compiler, or of the C++ compiler behind it
            raise ConfigError(
                "trainer.compile=true: torch cannot compile the model here"
                f" ({first_line(error)}); trainer.compile=false trains without"
            ) from error


def called(model: Callable[[Tensor], Any], inputs: Tensor, name: str) -> Any:
    """Return model(inputs); an error of the model's names it and its line."""
    version = inputs._version
    try:
        output = model(inputs)
    except Exception as error:
        raise ConfigError(
            f"model: {name} cannot read inputs of shape {tuple(inputs.shape)} and"
            f" {inputs.dtype}: {first_line(error)}{where(error)}"
        ) from error
    if inputs._version != version:
        raise ConfigError(
            f"model: {name} changes its inputs in place, and they may be the data itself; let it"
            " make a new tensor"
        )
    return output


def pick_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is cuda where there is one, else cpu."""
    several = world_size() > 1
    has_mps = torch.backends.mps.is_available() and not several
    here = ["cuda"] * torch.cuda.is_available() + ["cpu"] + ["mps"] * has_mps
    if name == "auto":  # a CPU trains models of this size more quickly than mps
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
