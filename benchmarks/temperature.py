"""Which rule for the temperature harms least: over splits of a data set, for every loss.

    python benchmarks/temperature.py train FOLDER digits 1 20
    python benchmarks/temperature.py train FOLDER fashion_mnist 1 1 data.root=IMAGES
    python benchmarks/temperature.py compare FOLDER

`train` trains each loss once on each split (6 CPU-seconds for the digits), and keeps in FOLDER what
the best weights say of the calibration and the test split; what is there is not trained again.
Settings may follow. `compare` fits each rule on the one and measures it on the other.
"""

import argparse
import copy
import math
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # files here are called as packages are

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from metrics import apply_temperature, fit_temperature  # noqa: E402
from training.cli.settings import settings_of  # noqa: E402
from training.evaluation import evaluate, log_probs_of  # noqa: E402
from training.loop import train_epoch  # noqa: E402
from training.run.build import build  # noqa: E402
from training.run.targets import instantiate  # noqa: E402

LOSSES = (  # nll gives the numbers of cross_entropy, and distillation needs a teacher
    "bce", "cross_entropy", "focal", "hinge", "label_smoothing", "mse", "mse_logits",
    "mse_rescaled", "weighted",
)  # fmt: skip
EXPERIMENTS = {"digits": "compare_losses", "fashion_mnist": "[fashion_mnist_adamw,compare_losses]"}
RULES = ("fitted T", "ts-mix", "T if clear")


def train(folder: Path, data: str, seeds: range, overrides: list[str]) -> None:
    """Train each loss once on each split, and keep what it says of the held-out rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for loss in LOSSES:
            file = folder / f"{data}-{loss}-{seed}.npz"
            if file.exists():
                continue
            words = [f"experiment={EXPERIMENTS[data]}", f"loss={loss}", "report=null"]
            words += [f"data.split_seed={seed}", f"seed={seed}", *overrides]
            cfg, _ = settings_of("vision", words)
            run = build(cfg, loss, folder, Console(quiet=True), instantiate)
            training, splits = run.training, run.splits
            best, weights = math.inf, {}
            for epoch in range(1, training.settings.epochs + 1):
                training.epoch, training.visited = epoch, 0
                for _ in train_epoch(training, splits.train):
                    pass
                val = evaluate(run.model, training.loss_fn, splits.val, splits.num_classes)
                if val.metrics["nll"] < best:
                    best, weights = val.metrics["nll"], copy.deepcopy(run.model.state_dict())
            run.model.load_state_dict(weights)
            arrays = {}
            for name in ("calibration", "test"):
                held_out = getattr(splits, name)
                chunks = log_probs_of(run.model, training.loss_fn, held_out, splits.num_classes)
                scores, targets = (torch.cat(parts) for parts in zip(*chunks, strict=True))
                arrays |= {f"{name}_scores": scores.numpy(), f"{name}_targets": targets.numpy()}
            np.savez(file, **arrays)


def test_nlls(file: Path) -> list[float]:
    """Return the test nll with T = 1, and with each of `RULES`."""
    arrays = np.load(file)
    held_out = {name: torch.from_numpy(arrays[name]) for name in arrays}
    calibration, test = held_out["calibration_scores"].double(), held_out["test_scores"].double()
    targets = held_out["test_targets"]
    fit = fit_temperature(calibration, held_out["calibration_targets"])

    def nll(log_probs: Tensor) -> float:
        return F.nll_loss(log_probs, targets).item()

    # Laplace smoothing as in ts-mix of probmetrics (Berta et al. 2025): the probabilities at
    # the fitted T, with a share of 1 / (n + 1) of the uniform distribution
    share = 1 / (len(calibration) + 1)
    uniform = math.log(share / test.shape[1])
    mixed = math.log1p(-share) + apply_temperature(test, fit.temperature)
    fitted = 1.0 if fit.at_bound else fit.temperature
    return [
        nll(test.log_softmax(1)),
        nll(apply_temperature(test, fitted)),
        nll(torch.logaddexp(mixed, torch.tensor(uniform))),
        nll(apply_temperature(test, fit.to_apply)),
    ]


def compare(folder: Path) -> None:
    """Print for each loss how each rule changes the test nll: mean and worst over splits."""
    print("change of test nll by the rule: mean over splits, and the worst split")
    print(f"{'':16}{'splits':>6}{'T = 1':>9}" + "".join(f"{rule:>18}" for rule in RULES))
    found = {loss: [test_nlls(f) for f in folder.glob(f"*-{loss}-*.npz")] for loss in LOSSES}
    found["all"] = [row for rows in found.values() for row in rows]
    for loss, rows in found.items():
        if rows:
            nlls = np.array(rows)
            changes = nlls[:, 1:] - nlls[:, :1]
            cells = zip(changes.mean(0), changes.max(0), strict=True)
            shown = "".join(f"{mean:>+9.4f}{worst:>+9.4f}" for mean, worst in cells)
            print(f"{loss:16}{len(rows):6}{nlls[:, 0].mean():9.4f}{shown}")


def main() -> None:
    """Train or compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", nargs="?", default="digits", choices=EXPERIMENTS)
    parser.add_argument("first", nargs="?", type=int, default=1, help="split seed")
    parser.add_argument("last", nargs="?", type=int, default=20, help="split seed")
    parser.add_argument("overrides", nargs="*", help="settings, such as data.root=FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "train":
        seeds = range(arguments.first, arguments.last + 1)
        train(arguments.folder, arguments.data, seeds, arguments.overrides)
    else:
        compare(arguments.folder)


if __name__ == "__main__":
    main()
