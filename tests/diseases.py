"""Runs that are ill on purpose: what tests diagnose, and what docs/diagnosis.md shows.

python tests/diseases.py FOLDER        # trains all of them, and draws a picture of each
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_method
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from omegaconf import open_dict
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from training.cli.settings import settings_of  # noqa: E402
from training.data import Split, Splits  # noqa: E402
from training.run.examples import read_examples  # noqa: E402
from training.run.folder import read_curves  # noqa: E402
from training.run.start import start  # noqa: E402


@dataclass(frozen=True)
class Disease:
    """One thing that is wrong, and the first symptom that it has to be told by."""

    symptom: str
    words: tuple[str, ...] = ()
    data: str = ""  # a name in `CHANGES`
    model: str = ""  # a class below
    tasks: tuple[str, ...] = ("vision", "ngram")


LR = 0.004  # of both tasks
DISEASES = {
    "targets_ignored": Disease("most targets are ignored", data="ignored"),
    "inputs_constant": Disease("all inputs are the same", data="constant"),
    "inputs_raw": Disease(
        "inputs are not normalised", ("data.mean=[0.0]", "data.std=[0.003922]"), tasks=("vision",)
    ),
    "softmax_inside": Disease("the model is right far more often than", model="SoftmaxInside"),
    "body_frozen": Disease("a part of the model is frozen", model="Frozen"),
    "labels_shuffled": Disease("training rows are learnt by heart, and", data="shuffled"),
    "labels_noisy": Disease("the test split is easier than the val", data="noisy"),
    "labels_noisy_in_training": Disease("under-confident", data="noisy_training"),
    # where only one word in four is foreseen, a fault of half the labels does not stand out
    "labels_off_by_one": Disease("the model wavers", data="off_by_one", tasks=("vision",)),
    "rate_300_times": Disease("a model that knows nothing", (f"optimizer.lr={300 * LR}",)),
    "rate_300_times_unclipped": Disease(
        "a model that knows nothing", (f"optimizer.lr={300 * LR}", "trainer.clip_norm=0")
    ),
    "rate_a_300th": Disease("hardly trained", (f"optimizer.lr={LR / 300}",)),
    "class_thinned": Disease("a class fails for want of examples", data="thinned"),
    "epochs_too_few": Disease("still learning at the end", ("trainer.epochs=1",)),
    "epochs_too_many": Disease(
        "later epochs made it worse", ("trainer.epochs=30",), tasks=("ngram",)
    ),
    "splits_tiny": Disease("the val split is too small", ("data.split=[0.96,0.01,0.01,0.02]",)),
    "too_many_classes": Disease("the loss gives no good", ("loss=mse_rescaled",), tasks=("ngram",)),
}
BASES = {
    "vision": ("vision.data.digits", "vision.models.small_cnn"),
    "ngram": ("ngram.data.sonnets", "ngram.models.NGramMLP"),
}


def make_ill(task: str, name: str, folder: Path) -> Path:
    """Train the run with this disease in `folder`; return the folder."""
    disease, (data, model) = DISEASES[name], BASES[task]
    loss = next((w.split("=")[1] for w in disease.words if w.startswith("loss=")), "cross_entropy")
    words = ["report=null", "trainer.figures=0", "threads=1", *disease.words]
    cfg, _ = settings_of(task, words)
    with open_dict(cfg):
        if disease.data:
            cfg.data.update({"_target_": "diseases.sick", "of": data, "disease": disease.data})
        if disease.model:
            cfg.model.update({"_target_": f"diseases.{disease.model}", "of": model})
    start(cfg, folder, loss=loss, quiet=True)
    return folder


def sick(of: str, disease: str, **settings: Any) -> Splits:
    """Return the splits of a data set's function with a disease."""
    splits: Splits = get_method(of)(**settings)
    names = ("train", "val", "calibration", "test")
    if disease != "constant":
        names = names[:1] if disease in ("thinned", "ignored", "noisy_training") else names[:2]
    generator = torch.Generator().manual_seed(0)
    changed = {n: CHANGES[disease](getattr(splits, n), splits, generator) for n in names}
    targets = changed["train"].targets
    counts = torch.bincount(targets[targets >= 0], minlength=splits.num_classes)
    return replace(splits, **changed, class_counts=counts)


def ignored(split: Split, *_: Any) -> Split:
    """Keep one target of fifty."""
    targets = torch.full_like(split.targets, -100)
    targets[::50] = split.targets[::50]
    return replace(split, targets=targets)


def constant(split: Split, *_: Any) -> Split:
    """Give every example the inputs of the first."""
    return replace(split, inputs=split.inputs[:1].expand_as(split.inputs))


def shuffled(split: Split, _: Splits, generator: torch.Generator) -> Split:
    """Give every example the target of another."""
    return replace(split, targets=split.targets[torch.randperm(len(split), generator=generator)])


def noisy(split: Split, splits: Splits, generator: torch.Generator) -> Split:
    """Draw two targets of five anew."""
    some = torch.rand(len(split), generator=generator) < 0.4
    other = torch.randint(splits.num_classes, (len(split),), generator=generator)
    return replace(split, targets=torch.where(some, other, split.targets))


def off_by_one(split: Split, splits: Splits, generator: torch.Generator) -> Split:
    """Give half of the examples the class after theirs."""
    half = torch.rand(len(split), generator=generator) < 0.5
    other = (split.targets + 1) % splits.num_classes
    return replace(split, targets=torch.where(half, other, split.targets))


def thinned(split: Split, splits: Splits, _: torch.Generator) -> Split:
    """Keep one in a hundred examples of the most frequent class."""
    keep = split.targets != splits.class_counts.argmax()
    keep[(~keep).nonzero()[::100, 0]] = True
    return replace(split, inputs=split.inputs[keep], targets=split.targets[keep])


CHANGES: dict[str, Callable[[Split, Splits, torch.Generator], Split]] = {
    each.__name__: each for each in (ignored, constant, shuffled, noisy, off_by_one, thinned)
} | {"noisy_training": noisy}


class SoftmaxInside(nn.Module):
    """A model that ends with a softmax: a little less, for plain probabilities are refused."""

    def __init__(self, of: str, **settings: Any) -> None:
        super().__init__()
        self.inner = get_method(of)(**settings)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs."""
        return 0.99 * self.inner(inputs).softmax(1)


class Frozen(SoftmaxInside):
    """A model whose last layer alone is trained."""

    def __init__(self, of: str, **settings: Any) -> None:
        super().__init__(of, **settings)
        self.inner.requires_grad_(False)
        self.inner.head.requires_grad_(True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.inner(inputs)
        return logits


def draw(folder: Path, title: str) -> Figure:
    """Draw the curves of a run, and how often its test predictions were right by confidence."""
    curves = read_curves(folder)
    figure = Figure(figsize=(7, 2.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for tag, colour in (("train/loss", "tab:gray"), ("val/nll", "tab:blue")):
        left.plot(*zip(*curves[tag], strict=True), ".-", color=colour, label=tag)
    guess = curves["data/val_guess_nll"][0][1]
    left.axhline(guess, color="black", linestyle=":", label="shares of the classes")
    left.set(yscale="log", xlabel="step", title=title)
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
    left.legend(fontsize="x-small")
    table = read_examples(folder)
    assert table is not None
    _, correct, confidence = torch.tensor(table[table[:, 0] == table[:, 0]]).T  # NaN: not scored
    bins = (confidence * 15).long().clamp(max=14)
    inside = torch.nn.functional.one_hot(bins, 15).double()
    shares = inside.mean(0)
    centres, heights = ((inside * each[:, None]).mean(0) / shares for each in (confidence, correct))
    right.scatter(centres, heights, 12 + 200 * shares, alpha=0.7)
    right.plot([0, 1], [0, 1], ":", color="black")
    right.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xlabel="confidence (area: share of rows)")
    right.set_ylabel("accuracy")
    return figure


def main() -> None:
    """Train what is not there yet, and draw."""
    runs, pictures = map(Path, sys.argv[1:3])
    pictures.mkdir(parents=True, exist_ok=True)
    for name, disease in {"healthy": Disease(""), **DISEASES}.items():
        DISEASES[name] = disease
        task = disease.tasks[0]
        folder = runs / f"{task}-{name}"
        if not (folder / "examples.npy").exists():
            make_ill(task, name, folder)
        draw(folder, f"{task}: {name.replace('_', ' ')}").savefig(pictures / f"{name}.png")


if __name__ == "__main__":
    main()
