"""What the vision task adds to the shared metrics: what is mistaken for what, and which images."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training.evaluation import log_probs_of
from training.run.report import Report, ReportContext

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NUMBERS = 20  # classes; the numbers of a larger confusion matrix could not be read

# Shapes: N images, K classes.


class ImageReport:
    """Log accuracy and a precision-recall curve a class, the confusion matrix, and mistakes.

    Probabilities are those of the loss's link, before any temperature.

    Args:
        mistakes: how many of the most confident ones are shown, 0 for none.
    """

    def __init__(self, mistakes: int) -> None:
        if not 0 <= mistakes <= 100:
            raise ValueError(f"mistakes must be from 0 to 100, got {mistakes}")
        self.mistakes = mistakes

    def __call__(self, context: ReportContext) -> Report:
        """Look at the test split at the end, at the validation split before."""
        splits, log, step = context.splits, context.log, context.step
        held_out = [name for name in ("val", "test") if len(getattr(splits, name))] or ["train"]
        name = held_out[-1] if context.final else held_out[0]
        split, classes = getattr(splits, name), splits.class_names
        chunks = log_probs_of(
            context.model, context.loss_fn, split, splits.num_classes, context.max_rows
        )
        log_probs, targets = (torch.cat(parts).cpu() for parts in zip(*chunks, strict=True))
        probs = log_probs.exp()  # (N, K)
        confidence, predicted = probs.max(1)
        matrix = confusion(targets, predicted, len(classes))
        total = matrix.sum(1)
        accuracy = {
            f"accuracy_{tag(label)}": (matrix[k, k] / total[k]).item()
            for k, label in enumerate(classes)
            if total[k]
        }
        log.scalars(name, accuracy, step)
        for k, label in enumerate(classes):
            log.events.add_pr_curve(f"{name}/pr_{tag(label)}", targets == k, probs[:, k], step)
        if not context.final:
            return Report()
        log.figure(f"{name}/confusion", draw_confusion(matrix, classes), step)
        wrong = (predicted != targets).nonzero().squeeze(1)
        wrong = wrong[confidence[wrong].argsort(descending=True)[: self.mistakes]]
        if len(wrong):
            captions = [
                f"{classes[y]}\nas {classes[k]} {p:.3f}"
                for y, k, p in zip(targets[wrong], predicted[wrong], confidence[wrong], strict=True)
            ]
            images = split.inputs[wrong.to(split.inputs.device)].cpu()
            log.figure(f"{name}/mistakes", draw_images(images, captions), step)
        return Report(text=describe(matrix, classes))


class ImageFeatures:
    """Log what feeds the model's output layer for TensorBoard's Projector, at the end.

    Args:
        images: how many of the first test images, 0 for none.
    """

    def __init__(self, images: int) -> None:
        if not 0 <= images <= 10_000:
            raise ValueError(f"images must be from 0 to 10000, got {images}")
        self.images = images

    @torch.no_grad()
    def __call__(self, context: ReportContext) -> Report:
        """Take the features of the test split, of train where none is held out."""
        splits = context.splits
        split = (splits.test if len(splits.test) else splits.train).first(self.images)
        if context.final and self.images:
            context.model.eval()
            features = context.model.features(split.inputs)  # type: ignore[operator]
            # a link ranks as it likes, so the loss is asked; one column alone TensorBoard refuses
            guesses = context.loss_fn.log_probs(context.model.head(features)).argmax(1)  # type: ignore[operator]
            known = {
                name: [splits.class_names[k] for k in classes.tolist()]
                for name, classes in (("class", split.targets), ("predicted", guesses))
            }
            pictures = split.inputs.cpu() / 255
            context.log.embedding("images", features.cpu(), known, context.step, pictures)
        return Report()


def tag(label: str) -> str:
    """Return a class's name as part of a tag, where a slash would begin a group."""
    return re.sub(r"[^\w.-]+", "_", label)


def confusion(targets: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Return how often class i was taken for class j, (K, K) int64."""
    cells = torch.bincount(targets * num_classes + predicted, minlength=num_classes**2)
    return cells.view(num_classes, num_classes)


def describe(matrix: Tensor, classes: Sequence[str]) -> str:
    """Say in a line which class is hardest, and which mistake is the most frequent."""
    accuracy = (matrix.diag() / matrix.sum(1)).nan_to_num(1.0)  # a class without images is not hard
    worst = int(accuracy.argmin())
    mistakes = matrix - matrix.diag().diag()
    if not mistakes.any():
        return "no mistakes"
    true, predicted = divmod(int(mistakes.argmax()), len(classes))
    return (
        f"least accurate: {classes[worst]}, {accuracy[worst]:.2%}; most frequent mistake:"
        f" {classes[true]} taken for {classes[predicted]}, {mistakes.max()} of {matrix[true].sum()}"
    )


def draw_confusion(matrix: Tensor, classes: Sequence[str]) -> "Figure":
    """Draw rows of true and columns of predicted classes; colours are shares of the row."""
    from matplotlib import style
    from matplotlib.figure import Figure

    shares = (matrix / matrix.sum(1, keepdim=True)).nan_to_num(0.0)
    size = 2.0 + 0.4 * min(len(classes), MOST_NUMBERS)
    with style.context("default"):
        figure = Figure(figsize=(size, size), dpi=120, layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="true")
        if len(classes) <= MOST_NUMBERS:
            places = range(len(classes))
            axes.set_xticks(places, classes, rotation=90)
            axes.set_yticks(places, classes)
            for i, j in matrix.nonzero().tolist():
                colour = "white" if shares[i, j] > 0.5 else "black"
                axes.text(j, i, str(int(matrix[i, j])), ha="center", va="center", color=colour)
    return figure


def draw_images(images: Tensor, captions: Sequence[str]) -> "Figure":
    """Draw images (N, C, S, S) uint8 side by side, each under its caption."""
    from matplotlib import style
    from matplotlib.figure import Figure

    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    with style.context("default"):
        figure = Figure(figsize=(1.7 * columns, 1.9 * rows), dpi=120, layout="constrained")
        cells = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in cells:
            axes.axis("off")
        for axes, image, caption in zip(cells, images, captions, strict=False):
            axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set_title(caption, fontsize=8)
    return figure
