"""Checkpoints: plain types, written whole or not at all, and checked before they are believed."""

import io
import zipfile
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import CheckpointError, first_line, warn
from training.run.folder import write_file, writing

FORMAT = 1
BEST = "checkpoints/best.pt"  # in a run folder: the weights of the lowest validation nll
KEPT = 2  # of the checkpoints to resume from; one would be lost with its only damaged file
MOST_VALUES = 10**7  # of one checkpoint, once each is counted wherever it stands
SCHEMA: dict[str, type] = {"model": dict, "step": int}
BEST_SCHEMA = SCHEMA | {"class_names": list, "class_counts": Tensor}


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors, plain types) with `write_file`; make its folder, not the run's."""
    buffer = io.BytesIO()  # torch's own writer answers a full disk with an internal assertion
    torch.save({"format": FORMAT, **state}, buffer)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    write_file(path, buffer.getbuffer())


def load_checkpoint(path: Path, schema: dict[str, type] = SCHEMA) -> dict[str, Any]:
    """Read a checkpoint as data: nothing in it is ever executed."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give the folder of a finished run")
    try:
        check_archive(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if (found := state.get("format")) != FORMAT:
            raise ValueError(f"format is {found}, expected {FORMAT}")
        for name, kind in schema.items():
            if not isinstance(state.get(name), kind):
                raise ValueError(f"field {name} is missing, or is no {kind.__name__}")
            if kind is int and not 0 <= state[name] < 2**63:
                raise ValueError(f"field {name} is out of range")
        check_tensors(state)
    except Exception as error:  # damaged files raise a dozen different types
        lines = str(error).split("\n")  # torch's own name the error in one of many
        reason = next((line for line in lines if "Error: " in line), first_line(error)).strip()
        raise CheckpointError(f"{path}: cannot be used ({reason})") from error
    return state


def check_archive(path: Path) -> None:
    """Compare every record with its checksum, which torch does not."""
    with zipfile.ZipFile(path) as archive:
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise ValueError("holds compressed records, torch writes none")
        if bad := archive.testzip():
            raise ValueError(f"checksum of {bad} is wrong")


def check_tensors(state: Any) -> None:
    """Refuse tensors that say they are larger than what the file holds of them.

    Nor may lists within lists be without end: ten that each hold the next one twice are a thousand.
    """
    left = [state]
    for _ in range(MOST_VALUES):
        if not left:
            return
        value = left.pop()
        if isinstance(value, dict | list | tuple):
            left += value.values() if isinstance(value, dict) else value
        elif isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu":
                raise ValueError(f"holds a tensor of {value.layout} on {value.device}")
            size = value.nbytes
            if size > max(value.untyped_storage().nbytes(), 10**6):  # small ones may repeat
                raise ValueError(f"holds a tensor of {size:,} bytes, which are not in the file")
    raise ValueError(f"holds more than {MOST_VALUES:,} values")


def load_weights(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Put the weights of a checkpoint into the model; refuse those that do not fit or are NaN."""
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: does not fit the model of this run ({reason})") from error
    if bad := first_bad(model):
        raise CheckpointError(f"{path}: {bad} is not finite")


def check_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Refuse a state that is not of the kind that a step makes.

    A step fails where a name is missing, and fused kernels read beyond the end of what is smaller
    than its parameter. So a copy makes a step, on zeros, and shows what is expected.
    """
    copies = {parameter: torch.zeros_like(parameter) for parameter in optimizer.state}
    for zeros in copies.values():
        zeros.grad = torch.zeros_like(zeros)
    fresh = type(optimizer).__new__(type(optimizer))
    vars(fresh).update(vars(optimizer), state=defaultdict(dict))
    fresh.param_groups = [
        group | {"params": [copies[p] for p in group["params"] if p in copies]}
        for group in optimizer.param_groups
    ]
    fresh.step()
    for parameter, zeros in copies.items():
        for name, made in fresh.state[zeros].items():
            value = optimizer.state[parameter].get(name)
            if _kind(value) != _kind(made):
                raise CheckpointError(
                    f"{path}: {name} of the optimizer does not fit a parameter of shape"
                    f" {tuple(parameter.shape)}"
                )


def _kind(value: Any) -> Any:
    is_tensor = isinstance(value, Tensor)
    return (value.shape, value.dtype, value.stride()) if is_tensor else type(value)


def first_bad(model: nn.Module) -> str | None:
    """Return the first parameter that is not finite, or buffer that holds NaN, by its name."""
    bad = [name for name, tensor in model.named_parameters() if not tensor.isfinite().all()]
    # a mask may well be infinite
    bad += [name for name, tensor in model.named_buffers() if tensor.isnan().any()]
    return bad[0] if bad else None


def step_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint to resume from at `step` is kept."""
    return folder / "checkpoints" / f"step-{step:08d}.pt"


def step_files(folder: Path) -> list[Path]:
    """Return the checkpoints to resume from, the newest first."""
    files = [
        f for f in folder.glob("checkpoints/step-*.pt") if f.stem[5:].isdecimal() and f.is_file()
    ]
    return sorted(files, key=lambda file: int(file.stem[5:]), reverse=True)


def save_newest(state: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint to resume from; remove those that are older than the newest two."""
    save_checkpoint(state, step_path(folder, state["step"]))
    for old in step_files(folder)[KEPT:]:
        with suppress(OSError):  # what cannot be removed now goes with the next
            old.unlink()


def load_newest(folder: Path, schema: dict[str, type]) -> dict[str, Any]:
    """Return the newest good checkpoint to resume from; rename damaged ones, so they count no more.

    A run that was stopped before its first checkpoint has none: {}.
    """
    damaged: dict[Path, CheckpointError] = {}
    for path in step_files(folder):
        try:
            state = load_checkpoint(path, schema)
        except CheckpointError as error:
            damaged[path] = error
            continue
        for other, problem in damaged.items():
            warn(f"{problem}; {path.name} is used")
            with writing(other):
                other.replace(f"{other}.damaged")
        return state
    if damaged:
        causes = "; ".join(map(str, damaged.values()))
        raise CheckpointError(f"no checkpoint can be used, none was changed: {causes}")
    return {}
