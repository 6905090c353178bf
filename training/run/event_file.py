"""Files that only grow, so that a resumed run can go on with them: figures and events."""

import os
import sys
import time
import zlib
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter

from training.run.checkpoint import unwritable


class GrowingFile:
    """A file that is only appended to; a run that goes on cuts it back to its checkpoint.

    Args:
        path: the file.
        size: how many bytes of it to keep.
        checksum: the CRC-32 of those.
    """

    def __init__(self, path: Path, size: int = 0, checksum: int = 0) -> None:
        self.path = path
        try:
            self.file = path.open("ab")
            self.file.truncate(min(size, self.file.tell()))
            content = path.read_bytes()
        except OSError as error:
            raise unwritable(path, error, 0) from error
        self.size, self.checksum = len(content), zlib.crc32(content)
        if (self.size, self.checksum) != (size, checksum):
            lost = f"{size - self.size:,} bytes are missing" if self.size < size else "was changed"
            print(f"warning: {path}: {lost}; what it shows may have gaps", file=sys.stderr)

    def write(self, data: bytes) -> int:
        """Append `data`; it reaches the file with the next `flush`, or before."""
        try:
            self.file.write(data)
        except OSError as error:
            raise unwritable(self.path, error, len(data)) from error
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)
        return len(data)

    def flush(self, *, durable: bool = False) -> None:
        """Hand everything to the operating system, and wait for the disk where `durable`."""
        try:
            self.file.flush()
            if durable:
                os.fsync(self.file.fileno())
        except OSError as error:
            raise unwritable(self.path, error, self.size) from error


class _EventWriter(FileWriter):
    """torch's file writer, but for a file that can be cut back and continued."""

    def __init__(self, file: GrowingFile) -> None:
        self.folder = str(file.path.parent)
        self.records = RecordWriter(file)
        if not file.size:
            self.add_event(Event(file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        return self.folder

    def add_event(
        self, event: Event, step: int | None = None, walltime: float | None = None
    ) -> None:
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        self.records.write(event.SerializeToString())

    def flush(self) -> None:
        pass  # the log flushes the file

    close = flush


class EventLog(SummaryWriter):
    """torch's `SummaryWriter` (`add_scalar` and the like) on that file."""

    def __init__(self, file: GrowingFile) -> None:
        self.writer = _EventWriter(file)
        super().__init__(self.writer.folder)

    def _get_file_writer(self) -> FileWriter:
        return self.writer
