"""Draw what the losses do, as PNG files and as images in TensorBoard.

    python scripts/plot_losses.py --out outputs/losses

There are six figures: every loss against the probability of the true class; the gradient of
cross-entropy beside that of squared error; the least value that a loss with label smoothing can
have; entropy, cross-entropy and divergence in bits; naive and stable log-softmax at extreme logits;
a network that gives the loss its logits beside one that gives it their softmax, both trained here.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

import losses
from losses import CrossEntropyLoss
from training.cli.script import Parser, run_script
from training.run.folder import tensorboard_on

Curves = dict[str, Tensor]  # the label of each curve, and its height at each x

X_LABEL = "probability of the true class"
P = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)
HEIGHTS = torch.logspace(0, 4, 200, dtype=torch.float64)
STEPS = torch.arange(1, 201)
LOADED_DIE = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)

LOSSES = {
    "cross_entropy": CrossEntropyLoss(),
    "nll": losses.LogSoftmaxNLLLoss(),
    "label_smoothing 0.1": CrossEntropyLoss(label_smoothing=0.1),
    "weighted, w = 3": CrossEntropyLoss([3.0, 1.0]),
    "logit_adjusted, prior 0.1": losses.LogitAdjustedLoss([1, 9]),
    "focal, gamma 2": losses.FocalLoss(gamma=2),
    "generalised, q 0.7": losses.GeneralisedCrossEntropyLoss(q=0.7),
    "mse": losses.SoftmaxMSELoss(),
    "mse_logits": losses.LogitsMSELoss(),
    "mse_rescaled / (k + 1) M^2": losses.RescaledMSELoss(k=15, M=30),
    "bce": losses.OneVsRestBCELoss(),
    "hinge, crammer_singer": losses.HingeLoss(),
    "distillation": losses.DistillationLoss(temperature=1),
}
TEACHER = torch.tensor([[0.8, 0.2]]).log()  # what the teacher of the last gives
# What a model puts out if it means the probabilities p under a loss; elsewhere it is log p.
OUTPUTS = {
    "mse_logits": lambda p: p,
    "mse_rescaled / (k + 1) M^2": lambda p: 15 * 30 * p / (1 + 14 * p),
    "bce": torch.logit,
}


def distributions(p: Tensor, num_classes: int) -> Tensor:
    """Return rows (P, C) that give the first class p (P,) and share the rest among the others."""
    others = (1 - p) / (num_classes - 1)
    return torch.stack([p, *[others] * (num_classes - 1)], 1)


def loss_curves(p: Tensor) -> Curves:
    """Return every loss at each probability of the true class, the first of two."""
    curves, target = {}, torch.tensor([0])
    for name, loss_fn in LOSSES.items():
        rows = OUTPUTS.get(name, torch.log)(distributions(p, 2)).split(1)  # (1, 2) each
        curves[name] = torch.stack([loss_fn.sums(row, target, TEACHER)[0] for row in rows])
    curves["mse_rescaled / (k + 1) M^2"] /= 16 * 30**2
    return curves


def gradient_curves(a: Tensor) -> Curves:
    """Return d/dz of binary cross-entropy and of (a - 1)^2, where a = sigmoid(z), target 1."""
    z = torch.logit(a).requires_grad_()
    binary = losses.MultiLabelBCELoss(reduction="sum")(z, torch.ones_like(z))
    squared = (z.sigmoid() - 1).square().sum()
    return {
        "cross-entropy: a - 1": torch.autograd.grad(binary, z)[0],
        "squared error: 2 (a - 1) a (1 - a)": torch.autograd.grad(squared, z)[0],
    }


def smoothing_curves(p: Tensor) -> Curves:
    """Return the loss of ten classes, plain and smoothed, and the least that the latter can be.

    That is the entropy of the smoothed target, which is reached where the model equals it.
    """
    logits, target = distributions(p, 10).log(), torch.zeros(len(p), dtype=torch.long)
    least = torch.special.entr(distributions(p.new_tensor([0.91]), 10)).sum()
    return {
        "cross-entropy": CrossEntropyLoss().elementwise(logits, target),
        "label smoothing 0.1": CrossEntropyLoss(label_smoothing=0.1).elementwise(logits, target),
        f"entropy of the target: {least:.4f}": least.expand(len(p)),
    }


def bit_curves(p: Tensor) -> Curves:
    """Return the mean bits per throw of a loaded die coded as if its first face had p."""
    cross_entropy = -(LOADED_DIE * distributions(p, 6).log2()).sum(1)
    entropy = -(LOADED_DIE * LOADED_DIE.log2()).sum().expand(len(p))
    return {
        "cross-entropy H(loaded, p)": cross_entropy,
        "entropy H(loaded)": entropy,
        "divergence KL(loaded, p)": cross_entropy - entropy,
    }


def log_softmax_curves(heights: Tensor) -> Curves:
    """Return -log softmax of the logit 0 among (z, 0, -z) in float32, stable and naive."""
    logits = torch.stack([heights, torch.zeros_like(heights), -heights], 1).float()
    naive = -(logits.exp() / logits.exp().sum(1, keepdim=True)).log()[:, 1]
    end = heights[~naive.isfinite()].min()
    return {
        "stable: z - max - log sum exp(z - max)": -logits.log_softmax(1)[:, 1],
        f"naive: log(exp z / sum exp z), not finite from z = {end:.0f}": naive,
    }


def pipeline_curves(steps: Tensor) -> Curves:
    """Train softmax regression on digits with logits and, wrongly, with softmax before the loss.

    torch's cross-entropy takes logits: log-softmax and NLL are inside. Given probabilities, it
    takes a softmax of them, whose largest is at most e / (e + 9): it cannot fall below 1.46, and
    its gradient is small. The losses of this project refuse probabilities.
    """
    digits = load_digits()
    inputs = torch.tensor(digits.data / 16).float()
    targets = torch.tensor(digits.target)
    curves: Curves = {}
    for name, outputs_of in (("right", lambda logits: logits), ("wrong", lambda z: z.softmax(1))):
        model, found = nn.Linear(64, 10), []
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(int(steps.max())):
            loss = F.cross_entropy(outputs_of(model(inputs[::2])), targets[::2])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():  # the probabilities are the softmax of the logits in both
                test_nll = F.cross_entropy(model(inputs[1::2]), targets[1::2])
            found.append((loss.item(), test_nll.item()))
        its_loss, test_nll = torch.tensor(found, dtype=torch.float64)[steps - 1].T
        curves[f"{name}: its loss"] = its_loss
        curves[f"{name}: test nll, {test_nll[-1]:.2f} in the end"] = test_nll
    return curves


def merged(curves: Curves) -> Curves:
    """Return the curves with one label for all that lie in the same place."""
    labels: dict[tuple[float, ...], list[str]] = {}
    for label, y in curves.items():
        labels.setdefault(tuple(y.round(decimals=6).tolist()), []).append(label)
    return {" = ".join(names): torch.tensor(y) for y, names in labels.items()}


def mark_losses(axes: Axes) -> None:
    """Write the cross-entropy at three probabilities beside its curve."""
    axes.set_ylim(-0.1, 5)
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, "bbox": white}
    for p in (1.0, 0.1, 0.01):
        loss = abs(math.log(p))
        axes.plot(p, loss, "o", color="black", markersize=4, clip_on=False)
        text = f"p = {p:g}: {loss:.2f}" if loss else "p = 1: 0"
        axes.annotate(text, (p, loss), (8, 8), ha="right" if p == 1 else "left", **style)


def mark_ratios(axes: Axes) -> None:
    """Write how many times the one gradient is the other: 1 / (2 a (1 - a)) for some a."""
    title = "gradient at the logit; below: cross-entropy's in multiples of squared error's"
    axes.set(ylim=(-1.25, 0.05), title=title)
    for a in (0.01, 0.1, 0.5, 0.9, 0.99):
        height = -1.18 if a in (0.1, 0.9) else -1.1  # two rows, for 0.01 is near 0.1
        axes.text(a, height, f"{1 / (2 * a * (1 - a)):.3g}x", ha="center", fontsize=9)


def mark_pipelines(axes: Axes) -> None:
    """Write what each of the two computes."""
    axes.set(ylim=(0, 2.4), title="logits into the loss, and softmax before it")
    axes.text(20, 0.03, "right: logits -> [log_softmax -> NLL]", fontsize=9)
    axes.text(70, 2.27, "wrong: logits -> softmax -> [log_softmax -> NLL]", fontsize=9)


# the curves, their x, and the labels of both axes
FIGURES: dict[str, tuple[Callable[[Tensor], Curves], Tensor, str, str]] = {
    "loss_of_a_probability": (loss_curves, P, X_LABEL, "loss"),
    "gradient_at_the_logit": (gradient_curves, P, "a = sigmoid(z), target 1", "dloss / dz"),
    "smoothing_floor": (smoothing_curves, P, X_LABEL, "loss"),
    "bits": (bit_curves, P, "share of throws expected to show the loaded face", "bits"),
    "log_softmax": (log_softmax_curves, HEIGHTS, "z, of logits (z, 0, -z)", "-log softmax"),
    "softmax_before_the_loss": (pipeline_curves, STEPS, "step", "nats"),
}
MARKS: dict[str, Callable[[Axes], object]] = {  # what else a figure shows
    "loss_of_a_probability": mark_losses,
    "gradient_at_the_logit": mark_ratios,
    "log_softmax": lambda axes: axes.set(xscale="log", yscale="log"),
    "softmax_before_the_loss": mark_pipelines,
}


def draw(name: str) -> Figure:
    """Draw a figure of the above, with its legend beside it."""
    curves_of, x, xlabel, ylabel = FIGURES[name]
    figure = Figure(figsize=(9.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, (label, y) in enumerate(merged(curves_of(x)).items()):
        color = f"C{i}" if i < 10 else "black"  # there are ten of these
        axes.plot(x, y, color=color, label=label, linestyle=("-", "--", ":")[i % 3])
    axes.set(title=name.replace("_", " "), xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    if name in MARKS:
        MARKS[name](axes)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def main() -> None:
    """Draw every figure into the folder given, and print how to see them."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/losses"))
    out = parser.parse_args().out
    with SummaryWriter(str(out)) as writer:
        for name in FIGURES:
            file = out / f"{name}.png"
            figure = draw(name)
            figure.savefig(file, dpi=120)
            writer.add_figure(f"losses/{name}", figure)
            print(file)
    print(tensorboard_on(out))


if __name__ == "__main__":
    run_script(main)
