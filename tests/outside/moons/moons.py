"""A task of one's own: which of two half moons does a point belong to?"""

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn

from training.data import Splits, make_splits


def points(count: int, noise: float, seed: int) -> Splits:
    """Return points (N, 2) of two classes; a fifth of them each for val, calibration and test."""
    inputs, targets = make_moons(count, noise=noise, random_state=seed)
    size = count // 5
    pairs = torch.tensor(inputs).split(size), torch.tensor(targets).split(size)
    parts = list(zip(*pairs, strict=True))
    val, calibration, test, *rest = parts
    train = torch.cat([x for x, _ in rest]), torch.cat([y for _, y in rest])
    names = ("upper", "lower")
    return make_splits(train, val=val, calibration=calibration, test=test, class_names=names)


class Network(nn.Module):
    """One hidden layer; its first layer finds out the number of coordinates by itself."""

    def __init__(self, num_classes: int, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LazyLinear(hidden), nn.Tanh(), nn.Linear(hidden, num_classes)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, 2)."""
        return self.layers(inputs)
