"""Checkpoints: plain types, written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch

from training.errors import CheckpointError


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors, plain types) so that `path` is the old file or the new, never half.

    Temporary name, fsync, rename, fsync of the folder: after a power cut, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint as data: nothing in it is ever executed."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give the folder of a finished run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises six different types for damaged files
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path}: damaged, cannot be read ({reason})") from error
    if not isinstance(state, dict) or "model" not in state:
        raise CheckpointError(f"{path}: not a checkpoint of this project")
    return state
