"""Draw what the losses do, as PNG files and as images in TensorBoard.

    python scripts/plot_losses.py --out outputs/losses

There are five figures: every loss against the probability of the true class; the gradient of
cross-entropy beside that of squared error; the least value that a loss with label smoothing can
have; entropy, cross-entropy and divergence in bits; naive and stable log-softmax at extreme logits.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

import losses
from losses import ClassificationLoss, CrossEntropyLoss, reference
from training.cli.script import Parser, run_script

LOADED_DIE = [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
FAIR_DIE = [1 / 6] * 6
X_LABEL = "probability of the true class"
P = torch.linspace(0.001, 0.999, 400, dtype=torch.float64)  # probabilities of the true class

# For each curve: its loss, and the function from the probabilities of two classes to the outputs
# of a model that mean these probabilities under that loss.
CURVES: dict[str, tuple[ClassificationLoss, Callable[[Tensor], Tensor]]] = {
    "cross_entropy": (CrossEntropyLoss(), torch.log),
    "nll": (losses.LogSoftmaxNLLLoss(), torch.log),
    "label_smoothing 0.1": (CrossEntropyLoss(label_smoothing=0.1), torch.log),
    "weighted, w = 3": (CrossEntropyLoss([3.0, 1.0]), torch.log),
    "focal, gamma 2": (losses.FocalLoss(gamma=2), torch.log),
    "mse": (losses.SoftmaxMSELoss(), torch.log),
    "mse_logits": (losses.LogitsMSELoss(), lambda probs: probs),
    "mse_rescaled / (k + 1) M^2": (
        losses.RescaledMSELoss(k=15, M=30),
        lambda probs: 15 * 30 * probs / (1 + 14 * probs),
    ),
    "bce": (losses.OneVsRestBCELoss(), torch.logit),
    "hinge, crammer_singer": (losses.HingeLoss(), torch.log),
    "distillation, teacher (0.8, 0.2)": (
        losses.DistillationLoss(lambda _: torch.tensor([[0.8, 0.2]]).log(), temperature=1),
        torch.log,
    ),
}


def loss_curves(p: Tensor) -> dict[str, Tensor]:
    """Return every loss at each probability p (P,) of the true class, the first of two."""
    curves = {}
    target = torch.tensor([0])
    for name, (loss_fn, outputs_of) in CURVES.items():
        rows = outputs_of(torch.stack([p, 1 - p], 1)).split(1)  # (1, 2) each
        curves[name] = torch.stack([loss_fn.sums(row, target, row)[0] for row in rows])
    curves["mse_rescaled / (k + 1) M^2"] /= 16 * 30**2
    return curves


def _draw_losses(axes: Axes) -> None:
    for i, (name, curve) in enumerate(loss_curves(P).items()):
        axes.plot(P, curve, label=name, linestyle=("-", "--", ":")[i % 3])
    axes.set(title="Loss of a probability", xlabel=X_LABEL, ylabel="loss", ylim=(-0.1, 5))


def gradient_curves(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return d/dz of (a - 1)^2 and of binary cross-entropy, where a = sigmoid(z), target 1."""
    z = torch.logit(a).requires_grad_()
    squared = (z.sigmoid() - 1).square().sum()
    binary = losses.MultiLabelBCELoss(reduction="sum")(z, torch.ones_like(z))
    return torch.autograd.grad(squared, z)[0], torch.autograd.grad(binary, z)[0]


def _draw_gradients(axes: Axes) -> None:
    squared, binary = gradient_curves(P)
    axes.plot(P, binary, label="cross-entropy: a - 1")
    axes.plot(P, squared, label="squared error: 2 (a - 1) a (1 - a)")
    marks = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    axes.plot(marks, gradient_curves(marks)[1], "o", color="C0")
    for a, small, large in zip(marks, *gradient_curves(marks), strict=True):
        place = (float(a), float(large))
        axes.annotate(f"{large / small:.3g}x", place, (6, -10), textcoords="offset points")
    axes.set(xlabel="a = sigmoid(z), target 1", ylabel="dloss / dz", title="Gradient at the logit")


def smoothing_curve(p: Tensor, num_classes: int, smoothing: float) -> tuple[Tensor, float]:
    """Return the smoothed loss at each p, and the entropy of its targets, which is its least value.

    p (P,) is the probability of the true class; the other classes share the rest equally.
    """
    others = ((1 - p) / (num_classes - 1)).unsqueeze(1).expand(-1, num_classes - 1)
    logits = torch.cat([p.unsqueeze(1), others], 1).log()
    loss_fn = CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
    losses_at_p = loss_fn(logits, torch.zeros(len(p), dtype=torch.long))
    smoothed_target = np.full(num_classes, smoothing / num_classes)
    smoothed_target[0] += 1 - smoothing
    return losses_at_p, reference.entropy(smoothed_target, base=np.e)


def _draw_smoothing(axes: Axes) -> None:
    p = torch.linspace(0.3, 0.9999, 400, dtype=torch.float64)
    smoothed, least = smoothing_curve(p, 10, 0.1)
    axes.plot(p, smoothing_curve(p, 10, 0.0)[0], label="cross-entropy")
    axes.plot(p, smoothed, label="label smoothing 0.1, 10 classes")
    axes.axhline(least, color="grey", linestyle=":", label=f"entropy of the target: {least:.4f}")
    axes.set(title="The least loss under label smoothing", xlabel=X_LABEL, ylabel="loss")


def bits(p: list[float], q: list[float]) -> dict[str, float]:
    """Return the mean bits per draw from p, coded for p and coded for q, and their difference."""
    true, assumed = np.array(p), np.array(q)
    return {
        "entropy H(p)": reference.entropy(true),
        "cross-entropy H(p, q)": reference.cross_entropy_of(true, assumed),
        "divergence KL(p, q)": reference.divergence(true, assumed),
    }


def _draw_bits(axes: Axes) -> None:
    costs = bits(LOADED_DIE, FAIR_DIE)
    axes.bar_label(axes.bar(list(costs), list(costs.values())), fmt="%.4f")
    axes.set(ylabel="bits", title="A loaded die (p), coded as if it were fair (q)")


def log_softmax_curves(heights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probability of the logit 0 among (z, 0, -z) in float32, naive and stable."""
    logits = torch.stack([heights, torch.zeros_like(heights), -heights], 1).float()
    naive = logits.exp() / logits.exp().sum(1, keepdim=True)
    return naive.log()[:, 1], logits.log_softmax(1)[:, 1]


def _draw_log_softmax(axes: Axes) -> None:
    heights = torch.logspace(0, 4, 200)
    naive, stable = log_softmax_curves(heights)
    axes.loglog(heights, -stable, label="stable: z - max - log sum exp(z - max)")
    finite = naive.isfinite()
    label = f"naive: log(exp z / sum exp z), not finite from z = {heights[~finite].min():.0f}"
    axes.loglog(heights[finite], -naive[finite], "--", linewidth=3, label=label)
    axes.set(xlabel="z", ylabel="-log softmax", title="The logit 0 among (z, 0, -z), float32")


FIGURES = {
    "loss_of_a_probability": _draw_losses,
    "gradient_at_the_logit": _draw_gradients,
    "smoothing_floor": _draw_smoothing,
    "bits": _draw_bits,
    "log_softmax": _draw_log_softmax,
}


def main() -> None:
    """Draw every figure into the folder given, and print how to see them."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/losses"))
    out = parser.parse_args().out
    with SummaryWriter(str(out)) as writer:
        for name, draw in FIGURES.items():
            figure = Figure(figsize=(7, 4.5), layout="constrained")
            axes = figure.subplots()
            axes.grid(alpha=0.3)
            draw(axes)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize="small")
            figure.savefig(out / f"{name}.png", dpi=120)
            writer.add_figure(f"losses/{name}", figure)
            print(out / f"{name}.png")
    print(f"tensorboard --logdir {out}")


if __name__ == "__main__":
    run_script(main)
