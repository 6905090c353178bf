"""What a run leaves behind: TensorBoard events and `metrics.jsonl`, in the run folder itself."""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunLog:
    """Write each figure twice: for TensorBoard and, one JSON object a line, for programs.

    Tags are `<split>/<metric>`; the x axis is always the optimizer step.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events = SummaryWriter(str(folder))
        self.lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def scalars(self, split: str, metrics: dict[str, float], step: int) -> None:
        """Log numbers of one split."""
        for name, value in metrics.items():
            self.events.add_scalar(f"{split}/{name}", value, step)
        self.lines.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")

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
        (self.folder / f"{tag.replace('/', '_')}.png").write_bytes(png)
        image = Summary.Image(encoded_image_string=png)
        image.width, image.height = (int(n) for n in figure.canvas.get_width_height())
        self.events._get_file_writer().add_summary(
            Summary(value=[Summary.Value(tag=tag, image=image)]), step
        )

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self.events.flush()
        self.lines.flush()

    def close(self) -> None:
        """Flush and close."""
        self.events.close()
        self.lines.close()
