"""What a run logs: every figure for TensorBoard and, in `metrics.jsonl`, for programs."""

import io
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from training.run.checkpoint import unwritable, write_file
from training.run.event_file import EventLog, GrowingFile
from training.run.status import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVENTS = "events.out.tfevents."
CHARTS = {  # of TensorBoard's Custom Scalars: {section: {chart: [kind, tags]}}
    "objective and yardstick": {
        "objective against nll (val)": ["Multiline", ["val/loss", "val/nll"]],
        "train against val (objective)": ["Multiline", ["train/loss", "val/loss"]],
    },
    "calibration": {
        "ECE and its floor (val)": ["Multiline", ["val/ece$", "val/ece_null"]],
        "ECE before and after temperature (test)": [
            "Multiline",
            ["test/ece$", "test/ece_temperature"],
        ],
    },
}


class RunLog:
    """Write each figure twice: for TensorBoard, and as one JSON object per line.

    Tags are `<split>/<metric>`; the x axis is always the optimizer step. `positions`, if set to
    those of a checkpoint before anything is written, cut the files back to what they were then, so
    that a resumed run goes on with one curve in one file. A file that cannot be written raises
    `CheckpointError`. Only the first process of a run writes (`writes`).
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes
        self.positions: dict[str, Any] = {}

    @cached_property
    def files(self) -> tuple[GrowingFile, GrowingFile]:
        """The lines and the events, opened when first written to."""
        for file in self.folder.glob(f"{EVENTS}*"):
            if file.name not in self.positions:  # written after the checkpoint
                file.unlink()
        new = f"{EVENTS}{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        events = next((name for name in self.positions if name.startswith(EVENTS)), new)
        lines, event_file = (
            GrowingFile(self.folder / name, *self.positions.get(name, ()))
            for name in (METRICS, events)
        )
        return lines, event_file

    @cached_property
    def events(self) -> SummaryWriter:
        """Torch's writer, for `add_scalar` and the like."""
        return EventLog(self.files[1])

    def scalars(self, split: str, metrics: dict[str, float], step: int) -> None:
        """Log numbers of one split."""
        if not self.writes:
            return
        for name, value in metrics.items():
            self.events.add_scalar(f"{split}/{name}", value, step)
        line = json.dumps({"step": step, "split": split, **metrics}) + "\n"
        self.files[0].write(line.encode())
        self.flush()

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Log text that keeps its lines."""
        if self.writes:
            indented = "\n".join(f"    {line}" for line in text.split("\n"))
            self.events.add_text(tag, indented, step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Log a figure, and keep the last of each tag as PNG in the run folder.

        It is drawn once: `add_figure` would draw it again, and drawing costs more than evaluating.
        """
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        png = buffer.getvalue()
        write_file(self.folder / f"{tag.replace('/', '_')}.png", png, durable=False)
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
        """Log points (N, D) for the Projector, with two or more facts of each; images in [0, 1].

        A resumed run writes them once more at the same place.
        """
        shutil.rmtree(self.folder / f"{step:05d}", ignore_errors=True)
        facts = [list(row) for row in zip(*columns.values(), strict=True)]
        try:
            self.events.add_embedding(vectors, facts, images, step, tag, list(columns))
        except OSError as error:
            raise unwritable(self.folder, error, vectors.nbytes) from error

    def summary(self, summary: Summary, step: int = 0) -> None:
        """Log what torch's writer has no method for."""
        self.events._get_file_writer().add_summary(summary, step)

    def start(self, identity: Mapping[str, Any], config: str) -> None:
        """Log what the run is: its settings, its data, its hyper-parameters, and charts of both.

        The hyper-parameters lie in the run's own event file (`add_hparams` would make one more run,
        and so one more curve in every chart); seeds of one configuration share their trial.
        """
        shown = {"loss": identity["loss"]}
        for key, value in identity["settings"].items():
            if key.startswith(("loss.", "optimizer.", "trainer.")) and not key.endswith("_"):
                plain = isinstance(value, bool | int | float | str)
                shown[key] = value if plain else json.dumps(value)
        if self.writes:
            self.text("config", config)
            self.text("data", identity["protocol"])
            self.summary(hparams_pb(shown, trial_id=identity["group"]))
            self.events.add_custom_scalars(CHARTS)

    def end(self, *, success: bool) -> None:
        """Log how the run ended: once, since TensorBoard keeps the first end that it reads."""
        if not self.writes:
            return
        status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
        ended = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        data = plugin_data_pb2.HParamsPluginData(session_end_info=ended)
        value = Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(data)
        )
        value.tensor.CopyFrom(metadata.NULL_TENSOR)
        self.summary(Summary(value=[value]))

    def flush(self, *, durable: bool = False) -> dict[str, tuple[int, int]]:
        """Hand everything to the system, or the disk; return the `positions` to resume from."""
        if not self.writes:
            return {}
        for file in self.files:
            file.flush(durable=durable)
        return {file.path.name: (file.size, file.checksum) for file in self.files}

    def close(self) -> None:
        """Flush and close; what cannot be written was refused before."""
        if self.writes:
            for file in self.files:
                with suppress(OSError):
                    file.file.close()
