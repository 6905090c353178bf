"""The run folder: who may write to it, and its files of settings and status."""

import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from training.errors import CheckpointError, ConfigError
from training.run.checkpoint import write_file
from training.run.identity import leaves
from training.run.status import CONFIG, STATUS, read_status


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


def write_settings(folder: Path, cfg: DictConfig) -> None:
    """Write the settings of a run."""
    write_file(folder / CONFIG, OmegaConf.to_yaml(kept_settings(cfg)).encode())


def kept_settings(cfg: DictConfig) -> DictConfig:
    """Return settings as a folder has them: unresolved, but for what only Hydra's command knows."""
    kept = OmegaConf.create({key: cfg._get_node(key) for key in cfg})
    for key, value in leaves(cfg).items():
        if "${hydra:" in str(value):
            OmegaConf.update(kept, key, OmegaConf.select(cfg, key))
    return kept


def write_status(folder: Path, **fields: Any) -> None:
    """Say in status.json how a run stands; what is not among `fields` stays as it was."""
    content = read_status(folder) | fields | {"pid": os.getpid(), "host": socket.gethostname()}
    write_file(folder / STATUS, (json.dumps(content, indent=1) + "\n").encode(), durable=False)
