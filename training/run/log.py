"""What a run leaves behind: TensorBoard events and `metrics.jsonl`, in the run folder itself."""

import io
import json
import os
import shutil
import socket
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import FileWriter, SummaryWriter

from training.errors import CheckpointError
from training.run.checkpoint import unwritable, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS, EVENTS = "metrics.jsonl", "events.out.tfevents."


class RunLog:
    """Write each figure twice: for TensorBoard and, one JSON object a line, for programs.

    Tags are `<split>/<metric>`; the x axis is always the optimizer step. `positions`, if set to
    those of a checkpoint before anything is written, cut the files back to what they were then: one
    file goes on as one curve. What the disk has no room for is told, waits in memory, and does not
    stop training.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.positions: dict[str, Any] = {}
        self.failures = 0

    @cached_property
    def files(self) -> tuple["GrowingFile", "GrowingFile"]:
        """The two files, opened when first written to."""
        for file in self.folder.glob(f"{EVENTS}*"):
            if file.name not in self.positions:  # written after the checkpoint
                file.unlink()
        started = f"{EVENTS}{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        events = next((name for name in self.positions if name.startswith(EVENTS)), started)
        lines, event_file = (
            GrowingFile(self.folder / name, *self.positions.get(name, ()))
            for name in (METRICS, events)
        )
        return lines, event_file

    @cached_property
    def events(self) -> SummaryWriter:
        """The writer of torch, for `add_scalar` and the like."""
        return EventLog(self.files[1])

    def scalars(self, split: str, metrics: dict[str, float], step: int) -> None:
        """Log numbers of one split."""
        for name, value in metrics.items():
            self.events.add_scalar(f"{split}/{name}", value, step)
        line = json.dumps({"step": step, "split": split, **metrics}) + "\n"
        self.files[0].write(line.encode())
        self.flush()

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Log text that keeps its lines."""
        indented = "\n".join(f"    {line}" for line in text.split("\n"))
        self.events.add_text(tag, indented, step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Log a figure, and keep the last of each tag as PNG in the run folder.

        It is drawn once: `add_figure` would draw it again, and drawing costs more than evaluating.
        """
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        png = buffer.getvalue()
        path = self.folder / f"{tag.replace('/', '_')}.png"
        self.attempt(lambda: write_file(path, png, durable=False))
        image = Summary.Image(encoded_image_string=png)
        image.width, image.height = (int(n) for n in figure.canvas.get_width_height())
        self.summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def embedding(
        self,
        tag: str,
        vectors: Tensor,
        columns: Mapping[str, Sequence[str]],
        step: int,
        images: Tensor | None = None,
    ) -> None:
        """Log points (N, D) for the Projector, with two facts of each or more; images in [0, 1].

        A resumed run writes them once more at the same place.
        """
        shutil.rmtree(self.folder / f"{step:05d}", ignore_errors=True)
        known = [list(row) for row in zip(*columns.values(), strict=True)]

        def write() -> None:
            try:
                self.events.add_embedding(vectors, known, images, step, tag, list(columns))
            except OSError as error:
                raise unwritable(self.folder, error, vectors.nbytes) from error

        self.attempt(write)

    def summary(self, summary: Summary, step: int = 0) -> None:
        """Log what torch's writer has no method for."""
        self.events._get_file_writer().add_summary(summary, step)

    def attempt(self, write: Callable[[], None]) -> bool:
        """Write something; a failure is told and counted, and training goes on."""
        try:
            write()
        except CheckpointError as error:
            self.failures += 1
            print(f"warning: {error}; training goes on", file=sys.stderr, flush=True)
            return False
        return True

    def flush(self) -> None:
        """Hand everything to the operating system."""
        for file in self.files:
            self.attempt(file.flush)

    def sync(self) -> dict[str, Any]:
        """Hand everything to the disk; return the `positions` that a checkpoint needs."""
        self.flush()
        for file in self.files:
            self.attempt(file.sync)
        return {file.path.name: file.position() for file in self.files}

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        for file in self.files:
            file.file.close()


class NoLog(RunLog):
    """The log of a process that is not the first of its run: nothing is written."""

    def scalars(self, split: str, metrics: dict[str, float], step: int) -> None:
        """Write nothing."""

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Write nothing."""

    def attempt(self, write: Callable[[], None]) -> bool:
        """Write nothing, which succeeds."""
        return True

    def sync(self) -> dict[str, Any]:
        """Have no files."""
        return {}

    def flush(self) -> None:
        """Write nothing."""

    close = flush


class GrowingFile:
    """A file that is only appended to, whole pieces or none.

    Args:
        path: the file.
        size: how much of it to keep.
        checksum: CRC-32 of that.
        waiting: what the disk had no room for then.
    """

    def __init__(self, path: Path, size: int = 0, checksum: int = 0, waiting: str = "") -> None:
        self.path = path
        self.file = path.open("ab", buffering=0)
        self.file.truncate(min(size, self.file.tell()))
        content = path.read_bytes()
        self.size, self.checksum = len(content), zlib.crc32(content)
        if (self.size, self.checksum) != (size, checksum):
            lost = f"{size - self.size:,} bytes are missing" if self.size < size else "was changed"
            print(f"warning: {path}: {lost}; what it shows may have gaps", file=sys.stderr)
        self.waiting = bytearray(waiting, "latin-1")
        self.full = False

    def write(self, data: bytes) -> int:
        """Take `data` to be written with the next `flush`."""
        self.waiting += data
        return len(data)

    def flush(self) -> None:
        """Append what waits; where there is no room, remove its half again and tell once."""
        if not self.waiting:
            return
        try:
            written = self.file.write(self.waiting)
            while written < len(self.waiting):
                written += self.file.write(self.waiting[written:])
        except OSError as error:
            self.file.truncate(self.size)
            told, self.full = self.full, True
            if not told:
                raise unwritable(self.path, error, len(self.waiting)) from error
            return
        self.full = False
        self.size += written
        self.checksum = zlib.crc32(self.waiting, self.checksum)
        self.waiting.clear()

    def sync(self) -> None:
        """Wait until the disk has it."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise unwritable(self.path, error, 0) from error

    def position(self) -> tuple[int, int, str]:
        """Return what the next process needs to go on from here."""
        return self.size, self.checksum, self.waiting.decode("latin-1")


class EventWriter(FileWriter):
    """Write TensorBoard events to a file that can be cut back and continued."""

    def __init__(self, file: GrowingFile) -> None:
        self.folder = str(file.path.parent)
        self.records = RecordWriter(file)
        if not file.size and not file.waiting:
            self.add_event(Event(file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        """Return the run folder."""
        return self.folder

    def add_event(
        self, event: Event, step: int | None = None, walltime: float | None = None
    ) -> None:
        """Add an event."""
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        self.records.write(event.SerializeToString())

    def flush(self) -> None:
        """Leave it to the log, which knows what to do about a full disk."""

    close = flush


class EventLog(SummaryWriter):
    """The `add_scalar` and the like of torch, with that file behind them."""

    def __init__(self, file: GrowingFile) -> None:
        self.writer = EventWriter(file)
        super().__init__(self.writer.folder)

    def _get_file_writer(self) -> FileWriter:
        return self.writer
