"""Draw what the losses do, as PNG files and as images in TensorBoard.

    python scripts/plot_losses.py --out outputs/losses

There are five figures: every loss against the probability of the true class; the gradient of
cross-entropy beside that of squared error; the least value that a loss with label smoothing can
have; entropy, cross-entropy and divergence in bits; naive and stable log-softmax at extreme logits.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

import losses
from losses import CrossEntropyLoss, DistillationLoss
from training.cli.script import Parser, run_script
from training.run.folder import tensorboard_on

Curves = dict[str, Tensor]  # the label of each curve, and its height at each x

X_LABEL = "probability of the true class"
P = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)
HEIGHTS = torch.logspace(0, 4, 200, dtype=torch.float64)
LOADED_DIE = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)

LOSSES = {
    "cross_entropy": CrossEntropyLoss(),
    "nll": losses.LogSoftmaxNLLLoss(),
    "label_smoothing 0.1": CrossEntropyLoss(label_smoothing=0.1),
    "weighted, w = 3": CrossEntropyLoss([3.0, 1.0]),
    "focal, gamma 2": losses.FocalLoss(gamma=2),
    "mse": losses.SoftmaxMSELoss(),
    "mse_logits": losses.LogitsMSELoss(),
    "mse_rescaled / (k + 1) M^2": losses.RescaledMSELoss(k=15, M=30),
    "bce": losses.OneVsRestBCELoss(),
    "hinge, crammer_singer": losses.HingeLoss(),
    "distillation": DistillationLoss(lambda _: torch.tensor([[0.8, 0.2]]).log(), temperature=1),
}
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
        curves[name] = torch.stack([loss_fn.sums(row, target, row)[0] for row in rows])
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


LOG = {"xscale": "log", "yscale": "log"}
FIGURES = {  # the curves, their x, the labels of both axes, and further settings of these
    "loss_of_a_probability": (loss_curves, P, X_LABEL, "loss", {"ylim": (-0.1, 5)}),
    "gradient_at_the_logit": (gradient_curves, P, "a = sigmoid(z), target 1", "dloss / dz", {}),
    "smoothing_floor": (smoothing_curves, P, X_LABEL, "loss", {}),
    "bits": (bit_curves, P, "share of throws expected to show the loaded face", "bits", {}),
    "log_softmax": (log_softmax_curves, HEIGHTS, "z, of logits (z, 0, -z)", "-log softmax", LOG),
}


def main() -> None:
    """Draw every figure into the folder given, and print how to see them."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/losses"))
    out = parser.parse_args().out
    with SummaryWriter(str(out)) as writer:
        for name, (curves_of, x, xlabel, ylabel, further) in FIGURES.items():
            figure = Figure(figsize=(7, 4.5), layout="constrained")
            axes = figure.subplots()
            for i, (label, y) in enumerate(curves_of(x).items()):
                axes.plot(x, y, label=label, linestyle=("-", "--", ":")[i % 3])
            axes.set(title=name.replace("_", " "), xlabel=xlabel, ylabel=ylabel, **further)
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
            file = out / f"{name}.png"
            figure.savefig(file, dpi=120)
            writer.add_image(f"losses/{name}", imread(file), dataformats="HWC")
            print(file)
    print(tensorboard_on(out))


if __name__ == "__main__":
    run_script(main)
