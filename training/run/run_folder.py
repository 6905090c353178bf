"""The run folder: one folder a run, and a finished run read back."""

import fcntl
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from losses import ClassificationLoss
from training.data import Splits
from training.errors import CheckpointError, ConfigError
from training.run.checkpoint import BEST_SCHEMA, load_checkpoint, load_weights, write_file
from training.run.identity import IDENTITY, digest
from training.run.resume import CONFIG, OVERRIDES, STATUS, command
from training.run.targets import instantiate

BEST = "checkpoints/best.pt"
TRUST = "a package of your own that the run's settings may name"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` while the block runs; a dead process keeps nobody out.

    The system drops the lock of a process that dies, however it dies.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckpointError(f"{folder}: in use by process {file.read()}") from None
        except OSError as error:  # a file system without locks
            print(f"warning: {folder}: cannot be locked ({error.strerror})", file=sys.stderr)
        file.truncate(0)  # what a dead process left
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def claim(folder: Path) -> None:
    """Refuse a folder that holds a run already."""
    if (folder / CONFIG).exists():
        raise ConfigError(
            f"hydra.run.dir={folder}: holds another run already; name a new folder, or leave it"
            f" out; resume={folder} goes on with it"
        )


def set_aside(folder: Path, damaged: list[Path]) -> None:
    """Rename damaged checkpoints, so that they count no more; remove what was never finished."""
    for path in damaged:
        path.rename(f"{path}.damaged")
    for file in (*folder.glob("*.tmp"), *folder.glob("checkpoints/*.tmp")):
        file.unlink()


def write_settings(folder: Path, cfg: DictConfig, overrides: Sequence[str], identity: str) -> None:
    """Write a run's settings, interpolations unresolved; config.yaml last, it makes a run of it."""
    write_file(folder / IDENTITY, identity.encode())
    write_file(folder / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(list(overrides))).encode())
    write_file(folder / CONFIG, OmegaConf.to_yaml(cfg).encode())


def write_status(
    folder: Path,
    task: str,
    status: str,
    step: int,
    message: str = "",
    exit_code: int | None = None,
) -> None:
    """Say how a run stands, for programs: exit codes get lost on the way."""
    content = {"status": status, "step": step, "task": task, "message": message}
    content |= {"exit_code": exit_code}
    content |= {"resume": command(folder), "pid": os.getpid(), "host": socket.gethostname()}
    write_file(folder / STATUS, (json.dumps(content, indent=1) + "\n").encode(), durable=False)


def with_facts(
    cfg: DictConfig, num_classes: int, class_counts: Tensor, class_names: Sequence[str] = ()
) -> DictConfig:
    """Return the settings with `facts` filled: what only the data knows.

    The counts stay a tensor: as a list, 13,000 of them would take seconds to merge and resolve.
    """
    facts = {"num_classes": num_classes, "class_counts": class_counts}
    facts["classes"] = digest(list(class_names)) if class_names else ""
    filled = OmegaConf.create({**cfg, "facts": {}}, flags={"allow_objects": True})
    for name, value in facts.items():
        filled.facts[name] = value
    return filled


@dataclass(frozen=True)
class FinishedRun:
    """A run read back: its settings, its best model, and its loss."""

    folder: Path
    cfg: DictConfig
    model: nn.Module
    loss_fn: ClassificationLoss
    class_names: tuple[str, ...]
    step: int
    trusted: tuple[str, ...]

    def splits(self) -> Splits:
        """Read the run's data again."""
        splits: Splits = instantiate(self.cfg.data, self.trusted)
        if splits.class_names != self.class_names:
            raise CheckpointError(
                f"{self.folder}: its data now has other classes than it was trained on; "
                "give the data of that run back, or train again"
            )
        return splits


def load_run(folder: str | Path, trusted: Iterable[str] = ()) -> FinishedRun:
    """Return the run in `folder` with the weights of its best checkpoint, in evaluation mode.

    A run folder may come from anyone: what its settings name is built only if the project, torch or
    a package of `trusted` defines it, whatever they say about trust themselves.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: not a run folder (no {CONFIG}); give one from outputs/")
    state = load_checkpoint(folder / BEST, BEST_SCHEMA)
    try:
        cfg = OmegaConf.load(folder / CONFIG)
        assert isinstance(cfg, DictConfig)
        names = state["class_names"]
        cfg = with_facts(cfg, len(names), state["class_counts"], names)
        nodes = cfg.model, cfg.loss
    except Exception as error:  # the YAML parser has many
        raise CheckpointError(f"{folder / CONFIG}: cannot be read ({error})") from error
    model = instantiate(nodes[0], trusted)
    load_weights(model, state, folder / BEST)
    return FinishedRun(
        folder=folder,
        cfg=cfg,
        model=model.eval().requires_grad_(False),
        loss_fn=instantiate(nodes[1], trusted),
        class_names=tuple(state["class_names"]),
        step=state["step"],
        trusted=tuple(trusted),
    )


def load_teacher(
    run: str, classes: str = "", trusted: Sequence[str] = ()
) -> Callable[[Tensor], Tensor]:
    """Return the model of a finished run: inputs -> logits, wherever the inputs are.

    `classes` is the digest of the student's class names, which have to be the teacher's.
    """
    finished = load_run(run, trusted)
    model = finished.model
    if classes and classes != digest(list(finished.class_names)):
        raise ConfigError(f"loss: teacher {run} was trained on other data, with other classes")

    def logits_of(inputs: Tensor) -> Tensor:
        try:
            return model.to(inputs.device)(inputs)
        except (IndexError, RuntimeError) as error:
            raise ValueError(f"teacher {run} was trained on other data: {error}") from error

    return logits_of


def best_state(
    model: nn.Module, splits: Splits, step: int, epoch: int, nll: float
) -> dict[str, Any]:
    """Return what a best checkpoint holds: plain types and tensors only."""
    return {
        "model": model.state_dict(),
        "class_names": list(splits.class_names),
        "class_counts": splits.class_counts,
        "step": step,
        "epoch": epoch,
        "val_nll": nll,
        "torch": str(torch.__version__),
    }


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`."""
    with (folder / "metrics.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
