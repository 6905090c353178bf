"""Checkpoints: plain types, written whole or not at all, and checked before they are believed."""

import errno
import io
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from training.errors import CheckpointError

FORMAT = 1
BEST = "checkpoints/best.pt"  # in a run folder: the weights of the lowest validation nll
KEPT = 2  # of the checkpoints to resume from; one would be lost with its only damaged file
SCHEMA = {"model": dict, "step": int, "epoch": int}
BEST_SCHEMA = SCHEMA | {"class_names": list, "class_counts": Tensor}
RESUME_SCHEMA = SCHEMA | {
    "task": str,
    "optimizer": dict,
    "optimizer_class": str,
    "visited": int,
    "finished": int,
    "epoch_loss": list,
    "window": list,
    "best": float,
    "best_step": int,
    "random": dict,
    "log": dict,
    "data": str,
    "seconds": list,
    "machine": str,
}


def write_file(
    path: Path, content: bytes | memoryview, *, durable: bool = True, last: bool = True
) -> None:
    """Write so that `path` is the old file or the new, never half.

    Temporary name, fsync, rename, fsync of the folder: after a power cut, too, where `durable`.
    The folder is left to the next write to it where this is not the `last`.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if not durable or not last:
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise unwritable(path, error, len(content)) from error


def unwritable(path: Path, error: OSError, size: int) -> CheckpointError:
    """Say why `size` bytes could not be written."""
    reason = error.strerror
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            reason = f"disk full: {size:,} bytes needed, {free:,} free; {error.strerror}"
    return CheckpointError(f"{path}: cannot be written ({reason})")


def save_checkpoint(state: dict[str, Any], path: Path, *, last: bool = True) -> None:
    """Write `state` (tensors, plain types) with `write_file`."""
    buffer = io.BytesIO()  # torch's own writer answers a full disk with an internal assertion
    torch.save({"format": FORMAT, **state}, buffer)
    write_file(path, buffer.getbuffer(), last=last)


def load_checkpoint(path: Path, schema: dict[str, type] = SCHEMA) -> dict[str, Any]:
    """Read a checkpoint as data: nothing in it is ever executed."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give the folder of a finished run")
    try:
        with path.open("rb") as file:
            _check_archive(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise a dozen different types
        lines = [*str(error).split("\n"), type(error).__name__]
        reason = next((line for line in lines if "Error: " in line), lines[0] or lines[-1]).strip()
        raise CheckpointError(f"{path}: damaged, cannot be read ({reason})") from error
    _check_schema(path, state, schema)
    return state


def _check_archive(file: BinaryIO) -> None:
    """Compare every record with its checksum, which torch does not."""
    with zipfile.ZipFile(file) as archive:
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise ValueError("holds compressed records, torch writes none")
        bad = archive.testzip()
    if bad:
        raise ValueError(f"checksum of {bad} is wrong")


def _check_schema(path: Path, state: Any, schema: dict[str, type]) -> None:
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of this project (format {found}, expected {FORMAT})"
        )
    for name, kind in schema.items():
        if not isinstance(state.get(name), kind):
            found = type(state[name]).__name__ if name in state else "nothing"
            raise CheckpointError(f"{path}: field {name} holds {found}, expected {kind.__name__}")


def load_weights(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Put the weights of a checkpoint into the model; refuse those that do not fit or are NaN."""
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: does not fit the model of this run ({reason})") from error
    bad = first_bad(model)
    if bad:
        raise CheckpointError(f"{path}: {bad} is not finite")


def first_bad(model: nn.Module) -> str | None:
    """Return the first parameter that is not finite, or buffer that holds NaN, by its name."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return name
    for name, buffer in model.named_buffers():  # a mask may well be infinite
        if buffer.isnan().any():
            return name
    return None


def step_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint to resume from at `step` is kept."""
    return folder / "checkpoints" / f"step-{step:08d}.pt"


def step_files(folder: Path) -> list[Path]:
    """Return the checkpoints to resume from, the newest first."""
    files = (folder / "checkpoints").glob("step-*.pt")
    numbers = {int(f.stem[5:]): f for f in files if re.fullmatch(r"step-\d{8,}", f.stem)}
    return [numbers[n] for n in sorted(numbers, reverse=True)]


def use_newest(folder: Path, use: Callable[[dict[str, Any], Path], None]) -> list[Path]:
    """Hand the newest good checkpoint to `use`, which may refuse it; return those refused before.

    A run that was stopped before its first checkpoint has none: nothing is handed over.
    """
    refused: list[CheckpointError] = []
    files = step_files(folder)
    for path in files:
        try:
            use(load_checkpoint(path, RESUME_SCHEMA), path)
        except CheckpointError as error:
            refused.append(error)
        else:
            for problem in refused:
                print(f"warning: {problem}; {path.name} is used", file=sys.stderr)
            return files[: len(refused)]
    if refused:
        causes = "; ".join(map(str, refused))
        raise CheckpointError(f"no checkpoint can be used, none was changed: {causes}")
    return []
