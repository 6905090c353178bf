"""What a run logs: every figure in `metrics.jsonl`, and those for the eye in TensorBoard."""

import io
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import FileWriter, SummaryWriter

from training.run.dashboard import CHARTS, hparams, is_shown, plugin_summary, tag_of
from training.run.folder import CONFIG, METRICS, GrowingFile, write_file, writing
from training.run.untrusted import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVENTS = "events.out.tfevents.run"  # TensorBoard looks for `tfevents` in a name
Positions = dict[str, tuple[int, int]]  # a file's size and checksum, by its name


class RunLog:
    """Write every figure as part of a JSON object per line; TensorBoard gets what people look at.

    Tags are `<split>/<metric>`; the x axis is always the optimizer step. `positions`, which `flush`
    returned at a checkpoint, cut the files back to what they were then, so that a resumed run goes
    on with one curve in one file. A file that cannot be written raises `CheckpointError`.
    """

    def __init__(self, folder: Path, positions: Positions | None = None) -> None:
        self.folder, positions = folder, positions or {}
        self.lines = GrowingFile(folder / METRICS, *positions.get(METRICS, ()))
        self.event_file = EventFile(folder / EVENTS, *positions.get(EVENTS, ()))
        self.events = EventLog(self.event_file)  # torch's writer: `add_scalar` and the like

    def scalars(self, group: str, metrics: dict[str, float], step: int) -> None:
        """Log numbers of one group: a split, "time", or a group of one's own."""
        for name, value in metrics.items():
            if is_shown(group, name):
                self.events.add_scalar(tag_of(f"{group}/{name}"), value, step)
        line = json.dumps({"step": step, "split": group, **metrics}) + "\n"
        self.lines.write(line.encode())
        self.flush()

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Log text that keeps its lines."""
        indented = "\n".join(f"    {line}" for line in text.split("\n"))
        self.events.add_text(tag, indented, step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Log a figure, and keep the last of each tag as PNG in the run folder.

        It is drawn once: `add_figure` would draw it again, and drawing costs more than evaluating.
        A drawing has few colours, and takes a third of the room with a table of them.
        """
        pixels, buffer = io.BytesIO(), io.BytesIO()
        figure.savefig(pixels, format="rgba")
        size = figure.canvas.get_width_height()
        picture = Image.frombytes("RGBA", size, pixels.getvalue())
        if not any(axes.images for axes in figure.axes):
            picture = picture.quantize(method=Image.Quantize.FASTOCTREE)
        picture.save(buffer, format="png")
        png = buffer.getvalue()
        write_file(self.folder / f"{tag.replace('/', '_')}.png", png, durable=False)
        image = Summary.Image(encoded_image_string=png)
        image.width, image.height = size
        summary = Summary(value=[Summary.Value(tag=tag_of(tag), image=image)])
        self.events.writer.add_summary(summary, step)

    def embedding(
        self,
        tag: str,
        vectors: Tensor,
        columns: Mapping[str, Sequence[str]],
        step: int,
        pictures: Tensor,
    ) -> None:
        """Log points (N, D) for the Projector, with two or more facts of each.

        A resumed run writes them once more at the same place.

        Args:
            tag: what the points are.
            vectors: the points.
            columns: the facts, by their name.
            step: the optimizer step.
            pictures: (N, 3, S, S) in [0, 1], what shows each point.
        """
        shutil.rmtree(self.folder / f"{step:05d}", ignore_errors=True)
        facts = [[*map(printable, row)] for row in zip(*columns.values(), strict=True)]
        with writing(self.folder, vectors.nbytes):
            self.events.add_embedding(vectors, facts, pictures, step, tag, list(columns))

    def start(
        self, identity: Mapping[str, Any], config: str, step: int, metrics: Sequence[str]
    ) -> None:
        """Log what the run is: its settings, its data, its hyper-parameters, and charts of both.

        A run that goes on at `step` logs its settings once more if they have changed. The
        hyper-parameters lie in the run's own event file (`add_hparams` would make one more run, and
        so one more curve in every chart). `metrics` are the tags of its figures at the end.
        """
        path = self.folder / CONFIG
        if not step:
            self.events.writer.add_event(Event(file_version="brain.Event:2"))
            self.text("config", config)
            self.text("data", identity["protocol"])
            for summary in hparams(identity, metrics):
                self.events.writer.add_summary(summary, 0)
            self.events.add_custom_scalars(CHARTS)
        elif path.read_text(encoding="utf-8") != config:
            self.text("config", config, step)
        write_file(path, config.encode())  # last, because it makes a run of the folder

    def end(self, *, success: bool) -> None:
        """Log how the run ended."""
        status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
        ended = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        data = plugin_data_pb2.HParamsPluginData(session_end_info=ended)
        self.events.writer.add_summary(plugin_summary(metadata.SESSION_END_INFO_TAG, data), 0)
        self.flush()

    def flush(self, *, durable: bool = False) -> Positions:
        """Hand everything to the system, or the disk; return the `positions` to resume from."""
        files = (self.lines, self.event_file)
        return {file.path.name: file.flush(durable=durable) for file in files}

    def close(self) -> None:
        """Close the files; what cannot be written was refused before."""
        for file in (self.lines, self.event_file):
            with suppress(OSError):
                file.file.close()


class EventFile(GrowingFile):
    """An event file that can be cut back and continued: what torch's `FileWriter` writes to."""

    def add_event(self, event: Event) -> None:
        """Append an event."""
        RecordWriter(self).write(event.SerializeToString())

    def get_logdir(self) -> str:
        """Return its folder."""
        return str(self.path.parent)


class EventLog(SummaryWriter):
    """torch's `SummaryWriter` (`add_scalar` and the like) on such a file."""

    def __init__(self, file: EventFile) -> None:
        self.writer = FileWriter.__new__(FileWriter)  # its constructor would open a file of its own
        self.writer.event_writer = file
        super().__init__(file.get_logdir())

    def _get_file_writer(self) -> FileWriter:
        return self.writer
