"""The run folder: its files, how they are written and read back, and who may; no torch here."""

import errno
import json
import math
import os
import re
import shlex
import shutil
import socket
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from training.errors import CheckpointError, ConfigError, warn
from training.run.untrusted import is_plain, read_json, refuse_links

CONFIG, STATUS, METRICS = "config.yaml", "status.json", "metrics.jsonl"
Curves = dict[str, list[tuple[int, float]]]  # tag, as in "val/nll": (step, value)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` while the block runs; a dead process keeps nobody out.

    The system drops the lock of a process that dies, however it dies.
    """
    lock = FileLock(folder / "lock", fallback_to_soft=False)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder, to_write=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            status, owner = read_status(folder), "another process"  # the lock does not say which
            if status.get("status") == "running":  # else it has not come to write its own
                owner = f"process {status.get('pid')} on {status.get('host')}"
            raise CheckpointError(f"{folder}: in use by {owner}") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            # a file system without locks
            warn(f"{folder}: cannot be locked ({error.strerror})")
    try:
        yield
    finally:
        lock.release()


def claim(folder: Path) -> None:
    """Refuse a folder that holds a run already."""
    if (folder / CONFIG).exists():
        raise ConfigError(
            f"hydra.run.dir={folder}: holds another run already; name a new folder, or leave it"
            f" out; resume={folder} goes on with it"
        )


def read_status(folder: Path) -> dict[str, Any]:
    """Return a run's status.json; nothing where it has none that can be read."""
    file = folder / STATUS
    try:
        status = read_json(file.read_text(encoding="utf-8")) if is_plain(file) else {}
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def write_status(folder: Path, **fields: Any) -> None:
    """Say in status.json how a run stands; what is not among `fields` stays as it was."""
    content = read_status(folder) | fields | {"pid": os.getpid(), "host": socket.gethostname()}
    write_file(folder / STATUS, (json.dumps(content, indent=1) + "\n").encode(), durable=False)


def from_here(path: Path) -> str:
    """Return a path as short as it can be typed."""
    with suppress(ValueError):  # a path on another drive
        if not (relative := os.path.relpath(path)).startswith(".."):
            return relative
    return str(path)


def shell_line(words: Sequence[str]) -> str:
    """Return words as the user's shell reads them; cmd and PowerShell share the double quote."""
    if sys.platform != "win32":
        return shlex.join(words)
    return " ".join(w if re.fullmatch(r"[\w.:=/\\-]+", w) else f'"{w}"' for w in words)


def tensorboard_on(folder: Path) -> str:
    """Return the command that shows the runs in `folder`."""
    command = from_here(Path(sys.executable).with_name("tensorboard"))
    return shell_line([command, "--logdir", from_here(folder)])


@contextmanager
def writing(path: Path, size: int = 0) -> Iterator[None]:
    """Say in one line why `path`, with `size` bytes, could not be written while the block ran."""
    try:
        yield
    except OSError as error:
        reason = error.strerror
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            with suppress(OSError):
                free = shutil.disk_usage(path.parent).free
                reason = f"disk full: {size:,} bytes needed, {free:,} free; {error.strerror}"
                # Windows has no such call, and some file systems have no such limit
                system = os.statvfs(path.parent) if hasattr(os, "statvfs") else None
                if system and system.f_files and not system.f_favail:
                    limit = "the file system holds as many files as it can (inodes)"
                    reason = f"{limit}; {free:,} free"
        raise CheckpointError(f"{path}: cannot be written ({reason})") from error


def write_file(path: Path, content: bytes | memoryview, *, durable: bool = True) -> None:
    """Write so that `path` is the old file or the new, never half.

    Temporary name, fsync, rename, fsync of the folder: after a power cut, too, where `durable`.
    """
    temporary = path.parent / f"{path.name}.{os.getpid()}.tmp"  # `path` may be "."
    with writing(path, len(content)):
        try:
            temporary.unlink(missing_ok=True)  # of a process that died, or a link
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            replace_file(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if durable and hasattr(os, "O_DIRECTORY"):  # Windows opens no folder
            folder = os.open(path.parent, os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)


def replace_file(source: Path, target: Path) -> None:
    """Rename `source` over `target`, which Windows refuses while any program has `target` open."""
    for seconds in (0.01, 0.1, 1.0):
        with suppress(PermissionError):
            os.replace(source, target)
            return
        time.sleep(seconds)
    os.replace(source, target)


class GrowingFile:
    """A file that is only appended to; a run that goes on cuts it back to its checkpoint.

    Args:
        path: the file.
        size: how many bytes of it to keep.
        checksum: the CRC-32 of those.
    """

    def __init__(self, path: Path, size: int = 0, checksum: int = 0) -> None:
        self.path = path
        with writing(path):
            self.file = path.open("ab")
            self.file.truncate(min(size, self.file.tell()))
            content = path.read_bytes()
        self.size, self.checksum = len(content), zlib.crc32(content)
        if (self.size, self.checksum) != (size, checksum):
            lost = f"{size - self.size:,} bytes are missing" if self.size < size else "was changed"
            warn(f"{path}: {lost}; what it shows may have gaps")

    def write(self, data: bytes) -> None:
        """Append `data`; it reaches the file with the next `flush`, or before."""
        with writing(self.path, len(data)):
            self.file.write(data)
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)

    def is_in_place(self) -> bool:
        """Say whether the file that is written to is still the one at its path."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), self.path.stat())
        except OSError:
            return False

    def flush(self, *, durable: bool = False) -> tuple[int, int]:
        """Hand everything to the system, or the disk (`durable`); return size and checksum."""
        if not self.is_in_place():
            raise CheckpointError(
                f"{self.path}: is no longer there: the run folder was moved, deleted or replaced"
                " while the run was at work, so it stops"
            )
        with writing(self.path, self.size):
            self.file.flush()
            if durable:
                os.fsync(self.file.fileno())
        return self.size, self.checksum


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`; none if it ended before it had a figure.

    Raises:
        ValueError: a line is no object of a step, the name of a split, and numbers.
    """
    file = folder / METRICS
    text = file.read_text(encoding="utf-8") if is_plain(file) else ""
    # the last line of a run that was killed may be half written
    lines = [read_json(line) for line in text.split("\n") if line.endswith("}")]
    for line in lines:
        entry = dict(line)
        is_right = type(entry.pop("step")) is int and isinstance(entry.pop("split"), str)
        if not is_right or any(type(value) not in (int, float) for value in entry.values()):
            raise ValueError(f"{METRICS} has a line of another kind")
        for name, value in entry.items():
            if abs(value) > 1e100:  # a perplexity, exp(nll), comes there; its square is no float
                line[name] = math.copysign(math.inf, value)
    return lines


def read_curves(folder: Path) -> Curves:
    """Return the figures of a run's `metrics.jsonl` by tag."""
    curves: Curves = {}
    for entry in read_metrics(folder):
        step, split = entry.pop("step"), entry.pop("split")
        for name, value in entry.items():
            curves.setdefault(f"{split}/{name}", []).append((step, value))
    return curves
