"""Filters that are whitened from training images, and what a model is given to prepare with."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import compose
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from training.data import Split
from training.errors import ConfigError
from training.run.build import build_parts
from training.run.finished import load_run
from training.run.targets import instantiate, with_facts
from vision import models
from vision.models import small_cnn


def images(channels, side, num=200):
    """Return images whose neighbouring pixels and channels are alike."""
    noise = torch.randn(num, channels, side, side, generator=torch.Generator().manual_seed(3))
    return F.avg_pool2d(noise, 3, stride=1, padding=1) + noise.mean(1, keepdim=True) / 3 + noise / 2


@pytest.mark.parametrize(("channels", "side", "size"), [(1, 8, 9), (3, 8, 27), (1, 16, 16)])
@pytest.mark.parametrize("width", [1, 8, 32, 70])
def test_outputs_of_whitened_filters_are_uncorrelated_and_of_unit_variance(
    channels, side, size, width
):
    model = small_cnn(2, channels, side, width=width, whiten=True)
    weight = model.body[0][0].weight
    before, inputs = weight.detach().clone(), images(channels, side)

    model.prepare(inputs)

    kernel, stride = (4, 2) if side == 16 else (3, 1)
    count = min(size, width // 2)
    outputs = F.conv2d(inputs, weight, stride=stride, padding=1).transpose(0, 1).flatten(1)
    covariance = np.cov(outputs.detach().numpy().astype(float)[:count]).reshape(count, count)
    # an eigenvalue s gives the variance s / (s + .0005), and none of these is below .02
    np.testing.assert_allclose(covariance, np.eye(count), rtol=0, atol=0.03)
    assert torch.equal(weight[:count], -weight[count : 2 * count])
    assert torch.equal(weight[2 * count :], before[2 * count :])
    assert weight.shape[-1] == kernel


def test_the_filters_are_those_of_the_largest_eigenvalues():
    inputs = images(1, 8)
    filters = []
    for width in (4, 18):
        model = small_cnn(2, 1, 8, width=width, whiten=True)
        model.prepare(inputs)
        filters.append(model.body[0][0].weight[: width // 2].detach())

    norms = filters[1].flatten(1).norm(dim=1)  # 1 / sqrt(s)

    assert torch.equal(filters[0], filters[1][:2])
    assert (norms.diff() > 0).all()


@pytest.mark.parametrize("inputs", [torch.zeros(3, 3, 8, 8), torch.ones(1, 3, 8, 8)])
def test_images_without_contrast_give_finite_filters(inputs):
    model = small_cnn(2, 3, 8, whiten=True)

    model.prepare(inputs)

    assert model.body[0][0].weight.isfinite().all()
    assert model.body[0][0].weight.abs().max() < 50  # 1 / sqrt(.0005) is 45


class Prepared(nn.Module):
    """Make a layer out of what it is given."""

    given = ()

    def __init__(self, num_classes, **_):
        super().__init__()
        self.flat = nn.Flatten()

    def prepare(self, inputs):
        Prepared.given = (*Prepared.given, inputs)
        self.layer = nn.Linear(inputs[0].numel(), 2)

    def forward(self, inputs):
        return self.layer(self.flat(inputs))


def built(split, *overrides):
    cfg = compose(*overrides, task="vision")
    filled = with_facts(cfg, 2, torch.ones(2, dtype=torch.int64), None)
    make = partial(instantiate, guarded=False)
    return build_parts(filled, torch.device("cpu"), make, split)


def test_a_model_prepares_once_with_rows_from_all_of_the_training_split():
    split = Split(
        torch.arange(9.0)[:, None, None, None].expand(9, 1, 8, 1024**2 // 8), torch.zeros(9)
    )

    model, _, optimizer, _ = built(split, "model._target_=test_whitening.Prepared")

    (given,) = Prepared.given
    assert given[:, 0, 0, 0].tolist() == [0, 5]  # two images are 2^21 pixels
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


def test_what_prepare_refuses_is_one_line():
    split = Split(torch.full((4, 1, 8, 8), torch.nan), torch.zeros(4))

    with pytest.raises(ConfigError, match=r"model: the method prepare of ImageModel .*\(4, 1, 8"):
        built(split, "model.whiten=true")


def test_a_run_has_the_filters_in_its_checkpoint_and_needs_no_images_to_load(train, monkeypatch):
    small = ("trainer.epochs=1", "trainer.max_batches=1", "model.width=2", "report=null")
    folder = train("model.whiten=true", "optimizer.lr=1e-9", *small, task="vision")
    split = instantiate(compose(task="vision").data).train
    model = built(split, "model.whiten=true", "model.width=2", "seed=9")[0]
    monkeypatch.setattr(models, "whiten_filters", lambda *_: pytest.fail("called"))

    loaded = load_run(folder).model

    found, expected = (m.body[0][0].weight for m in (loaded, model))
    assert_close(found, expected, rtol=0, atol=1e-6)
