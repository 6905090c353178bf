"""The image models against what they should compute, and that each loss can train one."""

import pytest
import torch
from conftest import ROOT, compose, run_epoch
from torch.nn import functional as F
from torch.testing import assert_close
from vision_runs import trained_run

from training.loop import Training
from training.run.finished import load_teacher
from training.run.targets import instantiate, with_facts
from vision.models import linear, mlp, resnet18, small_cnn

LOSSES = sorted(f.stem for f in (ROOT / "configs" / "loss").glob("*.yaml"))
GREY = {"num_classes": 3, "channels": 1, "image_size": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained_run(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("model", [linear, mlp, small_cnn, resnet18])
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32)])
def test_logits_are_the_head_of_the_features(model, channels, side):
    model = model(num_classes=3, channels=channels, image_size=side)
    inputs = torch.randn(2, channels, side, side)

    model.train()(inputs[:1])  # a last batch of one image does not stop training
    logits = model.eval()(inputs)

    assert logits.shape == (2, 3)
    assert_close(logits, model.head(model.features(inputs)), rtol=0, atol=0)


def test_linear_is_softmax_regression_on_pixels():
    model = linear(num_classes=3, channels=3, image_size=4)
    inputs = torch.randn(5, 3, 4, 4)

    logits = model(inputs)

    pixels = inputs.numpy().reshape(5, -1)
    weight, bias = (p.detach().double().numpy() for p in model.parameters())
    assert_close(logits.double(), torch.from_numpy(pixels @ weight.T + bias), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("side", "blocks"), [(8, 0), (16, 0), (8, 1), (28, 2)])
def test_small_cnn_is_four_convolutions_the_last_one_residual_and_blocks(side, blocks):
    torch.manual_seed(0)
    model = small_cnn(**(GREY | {"image_size": side}), width=4, blocks=blocks).eval()
    inputs = torch.randn(2, 1, side, side)

    state = iter([v for k, v in model.state_dict().items() if "num_batches" not in k])

    def convolution(x, pool=False):
        weight, scale, offset, mean, variance = (next(state) for _ in range(5))
        x = F.conv2d(x, weight, stride=2 if weight.shape[-1] == 4 else 1, padding=1)
        x = F.max_pool2d(x, 2) if pool else x
        return F.relu(F.batch_norm(x, mean, variance, scale, offset))

    x = convolution(inputs)
    x = convolution(convolution(x, pool=True))
    x = x + convolution(x)
    x = F.max_pool2d(x, 2) if blocks else x
    for _ in range(blocks):
        x = x + convolution(x)
    expected = F.linear(x.mean((2, 3)), next(state), next(state))
    assert next(state, None) is None
    assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)


def test_mirror_evaluates_the_mean_of_the_logits_of_an_image_and_its_mirror_image():
    torch.manual_seed(0)
    model = small_cnn(**GREY, width=4, mirror=True).eval()
    plain = small_cnn(**GREY, width=4).eval()
    plain.load_state_dict(model.state_dict())
    inputs = torch.randn(5, 1, 8, 8)
    mirrored = torch.from_numpy(inputs.numpy()[..., ::-1].copy())

    logits = model(inputs)

    assert (plain(inputs) - plain(mirrored)).abs().max() > 0.01  # else there is nothing to see
    assert_close(logits, (plain(inputs) + plain(mirrored)) / 2, rtol=1e-5, atol=1e-6)
    assert_close(logits, model(mirrored), rtol=1e-5, atol=1e-6)
    assert_close(model.train()(inputs), plain.train()(inputs), rtol=0, atol=0)


def test_blocks_refuse_images_that_pooling_would_leave_one_pixel_of():
    with pytest.raises(ValueError, match="image_size must be at least 8 where blocks > 0, got 7"):
        small_cnn(3, 1, 7, blocks=1)
    small_cnn(3, 1, 8, blocks=1).train()(torch.randn(1, 1, 8, 8))


@pytest.mark.parametrize(("model", "last"), [(small_cnn, "body.3"), (resnet18, "body.layer4")])
def test_the_gradient_of_the_last_convolutions_is_channels_last(model, last):
    model = model(num_classes=3, channels=1, image_size=16)
    gradients = []

    def keep(_module, _inputs, output):
        output.register_hook(gradients.append)

    model.get_submodule(last).register_forward_hook(keep)
    model(torch.randn(4, 1, 16, 16)).sum().backward()

    assert gradients[0].shape[2] > 1  # else both formats are the same
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def images():
    return instantiate(compose(task="vision").data).train.first(32)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_thirty_two_images_reach_zero_error_under_each_loss(loss, run, images):
    teacher = [f"teacher={run}"] if loss == "distillation" else []
    settings = ["model.width=8", "optimizer.lr=0.01", "trainer.batch_size=16"]
    cfg = compose(f"loss={loss}", *teacher, *settings, task="vision")
    if taught := load_teacher(cfg):
        taught = taught.logits
    cfg = with_facts(cfg, 10, images.targets.bincount(minlength=10), taught)
    torch.manual_seed(0)
    model, loss_fn, settings = map(instantiate, (cfg.model, cfg.loss, cfg.trainer))
    optimizer = instantiate(cfg.optimizer, call_with=[model.parameters()])

    training = Training(model, loss_fn, optimizer, lambda *_: 1.0, settings, 1)
    for epoch in range(1, 201):
        run_epoch(training, images, epoch)
        if epoch % 5 == 0:
            log_probs = loss_fn.log_probs(model.eval()(images.batch(slice(None))[0]))
            if torch.equal(log_probs.argmax(1), images.targets):
                return
    pytest.fail("some of 32 images are still mistaken")
