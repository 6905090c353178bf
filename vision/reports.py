"""What the vision task reports beside the shared metrics: classes, mistakes, and features."""

import math
import re
from collections.abc import Sequence

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from training.data import Split
from training.errors import check_setting
from training.evaluation import has_features_and_head, log_probs_of
from training.run.report import Report, ReportContext

MAX_NUMBERED_CLASSES = 20  # the cells of a larger confusion matrix are too small for numbers

# Shapes: N images, K classes.


class ImageReport:
    """Log each class's accuracy and precision-recall curve, the confusion matrix, and mistakes.

    The probabilities are those of the loss's link, before any temperature.

    Args:
        mistakes: how many of the most confident mistakes are shown, 0 for none.
    """

    def __init__(self, mistakes: int) -> None:
        check_setting("mistakes", mistakes, 0 <= mistakes <= 100, "from 0 to 100")
        self.mistakes = mistakes

    def __call__(self, context: ReportContext) -> Report:
        """Report on the validation split during training, and on the test split at the end."""
        splits, log, step = context.splits, context.log, context.step
        held_out = [name for name in ("val", "test") if len(getattr(splits, name))] or ["train"]
        name = held_out[-1] if context.final else held_out[0]
        split, classes, num_classes = getattr(splits, name), splits.class_names, splits.num_classes
        chunks = log_probs_of(context.model, context.loss_fn, split, num_classes)
        rows = [(p.movedim(1, -1).flatten(0, -2).cpu(), y.flatten().cpu()) for p, y in chunks]
        log_probs, targets = (torch.cat(parts) for parts in zip(*rows, strict=True))
        counted = targets != context.loss_fn.ignore_index
        log_probs, targets = log_probs[counted], targets[counted]
        probs = log_probs.exp()  # (N, K)
        confidence, predicted = probs.max(1)
        cells = torch.bincount(targets * num_classes + predicted, minlength=num_classes**2)
        matrix = cells.view(num_classes, num_classes)  # [i, j]: images of class i predicted as j
        counts = matrix.sum(1)
        accuracy = {}
        for k, class_name in enumerate(classes):
            label = re.sub(r"[^\w.-]+", "_", class_name)  # a slash would begin a group of tags
            log.events.add_pr_curve(f"{name}/pr_{label}", targets == k, probs[:, k], step)
            if counts[k]:
                accuracy[f"accuracy_{label}"] = (matrix[k, k] / counts[k]).item()
        log.scalars(name, accuracy, step)
        if not context.final:
            return Report()
        log.figure(f"{name}/confusion", draw_confusion(matrix, classes, name), step)
        wrong = (predicted != targets).nonzero().squeeze(1)
        wrong = wrong[confidence[wrong].argsort(descending=True)[: self.mistakes]]
        if len(wrong) and are_images(split) and len(targets) == len(split):
            captions = [
                f"{classes[y]}\nas {classes[k]} {p:.3f}"
                for y, k, p in zip(targets[wrong], predicted[wrong], confidence[wrong], strict=True)
            ]
            images = split.inputs[wrong.to(split.inputs.device)].cpu()
            log.figure(f"{name}/mistakes", draw_images(images, captions), step)
        return Report(text=describe(matrix, classes))


class ImageFeatures:
    """At the end of a run, log the features of some images for TensorBoard's Projector.

    Args:
        images: how many of the first test images, 0 for none.
    """

    def __init__(self, images: int) -> None:
        check_setting("images", images, 0 <= images <= 10_000, "from 0 to 10000")
        self.images = images

    @torch.no_grad()
    def __call__(self, context: ReportContext) -> Report:
        """Log features of the test split, or of the training split where there is no test split.

        A model without `features` and `head` has none, and pixels have no picture of their own.
        """
        splits, model = context.splits, context.model
        split = (splits.test if len(splits.test) else splits.train).first(self.images)
        has_some = has_features_and_head(model) and split.targets.ndim == 1
        if context.final and self.images and has_some:
            model.eval()
            features = model.features(split.batch(slice(None))[0])  # type: ignore[operator]
            # The loss's link may rank classes otherwise than the logits do. The true class alone
            # would not be enough: TensorBoard refuses a table of one column.
            predicted = context.loss_fn.log_probs(model.head(features)).argmax(1)  # type: ignore[operator]
            columns = {
                "class": [splits.class_names[k] for k in split.targets.tolist()],
                "predicted": [splits.class_names[k] for k in predicted.tolist()],
            }
            # The Projector opens without a colour map and cannot be told otherwise, but it shows
            # pictures: of each point its image, in a frame whose colour is its class.
            palette = colormaps["tab10" if splits.num_classes <= 10 else "tab20"]
            colours = torch.tensor(palette(split.targets.cpu().numpy() % palette.N)).float()
            side = split.inputs.shape[-1] if are_images(split) else 8
            frame = (side + 3) // 5
            pictures = colours[:, :3, None, None].repeat(1, 1, side + 2 * frame, side + 2 * frame)
            if are_images(split):
                pictures[:, :, frame:-frame, frame:-frame] = split.inputs.cpu() / 255
            context.log.embedding("images", features.cpu(), columns, context.step, pictures)
        return Report()


def are_images(split: Split) -> bool:
    """Say whether the inputs are images of bytes (N, C, S, S), grey or coloured."""
    inputs = split.inputs
    return inputs.ndim == 4 and inputs.shape[1] in (1, 3) and inputs.dtype == torch.uint8


def describe(matrix: Tensor, classes: Sequence[str]) -> str:
    """Return one line that names the least accurate class and the most frequent mistake."""
    accuracy = (matrix.diag() / matrix.sum(1)).nan_to_num(1.0)  # 1 for a class without images
    worst = int(accuracy.argmin())
    mistakes = matrix - matrix.diag().diag()
    if not mistakes.any():
        return "no mistakes"
    true, predicted = divmod(int(mistakes.argmax()), len(classes))
    return (
        f"least accurate: {classes[worst]}, {accuracy[worst]:.2%}; most frequent mistake:"
        f" {classes[true]} taken for {classes[predicted]}, {mistakes.max()} of {matrix[true].sum()}"
    )


def draw_confusion(matrix: Tensor, classes: Sequence[str], name: str) -> Figure:
    """Draw the confusion matrix of a split: what each class was taken for, in percent of its row.

    The letters are as large as a row, so that those of ten classes can be read in a card of
    TensorBoard, which is 345 pixels wide and 215 high.
    """
    shares = (matrix / matrix.sum(1, keepdim=True)).nan_to_num(0.0)
    height = 0.26 * (min(len(classes), MAX_NUMBERED_CLASSES) + 4)
    figure = Figure(figsize=(1.6 * height, height), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_title(f"{name}: % of each true class", fontsize=11)
    axes.set_xlabel("predicted", fontsize=11)
    axes.set_ylabel("true (images)", fontsize=11)
    if len(classes) <= MAX_NUMBERED_CLASSES:
        rows = [f"{k} ({n})" for k, n in zip(classes, matrix.sum(1).tolist(), strict=True)]
        longest = max(map(len, classes))
        axes.set_xticks(range(len(classes)), classes, rotation=90 if longest > 3 else 0)
        axes.set_yticks(range(len(classes)), rows)
        axes.tick_params(labelsize=11)
        for i, j in matrix.nonzero().tolist():
            colour = "white" if shares[i, j] > 0.5 else "black"
            text = f"{100 * shares[i, j]:.0f}" if shares[i, j] >= 0.005 else "<1"
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=11)
    return figure


def draw_images(images: Tensor, captions: Sequence[str]) -> Figure:
    """Draw images (N, C, S, S) uint8, each under its caption, in a grid as wide as the figure."""
    columns = min(len(images), math.ceil((2.4 * len(images)) ** 0.5))
    rows, width = -(-len(images) // columns), 6.9 / columns
    longest = max(len(line) for caption in captions for line in caption.split("\n"))
    size = min(12.0, 72 * width / (0.6 * longest))  # a letter is .6 as wide as it is high
    above = 2.8 * size / 72  # two lines
    height = rows * (width + above)
    figure = Figure(figsize=(6.9, height), dpi=120)
    figure.subplots_adjust(0, 0, 1, 1 - above / height, wspace=0.04, hspace=above / width)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=size, pad=2)
        axes.axis("off")
    return figure
