"""scripts/plot_losses.py: the numbers behind the figures, and where the figures go."""

import math
import re
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from losses import reference
from scripts import plot_losses
from training.cli.script import run_script

P = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)


def test_curves_are_the_losses_of_the_papers():
    curves = plot_losses.loss_curves(P)

    assert_close(curves["cross_entropy"], -P.log())
    assert_close(curves["nll"], -P.log())
    assert_close(curves["weighted, w = 3"], -3 * P.log())
    assert_close(curves["label_smoothing 0.1"], -0.95 * P.log() - 0.05 * (1 - P).log())
    assert_close(curves["logit_adjusted, prior 0.1"], (1 + 9 * (1 - P) / P).log())
    assert_close(curves["generalised, q 0.7"], (1 - P**0.7) / 0.7)
    assert_close(curves["focal, gamma 2"], -((1 - P) ** 2) * P.log())
    assert_close(curves["mse"], 2 * (1 - P) ** 2)
    assert_close(curves["mse_logits"], 2 * (1 - P) ** 2)
    assert_close(curves["bce"], -2 * P.log())
    assert_close(curves["hinge, crammer_singer"], (1 - torch.logit(P)).clamp(min=0))
    assert_close(curves["mse_rescaled / (k + 1) M^2"].diff().sign(), -torch.ones(4).double())


def test_gradients_have_the_true_ratios():
    binary, squared = plot_losses.gradient_curves(P).values()

    assert_close(squared, torch.tensor([-0.019602, -0.162, -0.25, -0.018, -0.000198]).double())
    assert_close(binary, P - 1)
    ratios = (binary / squared).tolist()
    assert ratios == pytest.approx([50.505, 5.5556, 2, 5.5556, 50.505], rel=1e-4)


def test_smoothed_loss_touches_its_floor_at_the_smoothed_target():
    curves = plot_losses.smoothing_curves(torch.tensor([0.5, 0.91, 0.99]).double())
    plain, smoothed, floor = curves.values()

    assert list(curves)[2] == "entropy of the target: 0.5003"
    assert floor.tolist() == pytest.approx([0.5002880351] * 3, abs=1e-10)
    assert smoothed[1].item() == pytest.approx(floor[1].item())
    assert (smoothed[[0, 2]] > floor[0]).all()
    assert_close(plain, -torch.tensor([0.5, 0.91, 0.99]).double().log())


def test_bits_of_known_distributions():
    cross_entropy, entropy, divergence = plot_losses.bit_curves(
        torch.tensor([1 / 6, 0.5]).double()
    ).values()

    assert cross_entropy.tolist() == pytest.approx([2.5850, 2.1610], abs=1e-4)
    assert entropy.tolist() == pytest.approx([2.1610, 2.1610], abs=1e-4)
    assert divergence.tolist() == pytest.approx([0.4240, 0], abs=1e-4)
    die = plot_losses.LOADED_DIE.numpy()
    assert reference.entropy(die) == pytest.approx(entropy[0].item(), rel=1e-12)
    assert reference.divergence(die, np.full(6, 1 / 6)) == pytest.approx(divergence[0].item())
    assert reference.entropy(np.array([0.9, 0.1])) == pytest.approx(0.4690, abs=1e-4)
    one = reference.cross_entropy_of(np.array([1.0]), np.array([0.5]))
    assert one == pytest.approx(math.log2(2))


def test_naive_log_softmax_is_lost_where_the_stable_one_is_right():
    heights = torch.tensor([1.0, 80.0, 100.0, 10000.0])
    stable, naive = plot_losses.log_softmax_curves(heights).values()

    assert_close(naive[:2], stable[:2])
    assert not naive[2:].isfinite().any()
    assert_close(stable[1:], heights[1:])


@pytest.mark.slow
def test_softmax_before_the_loss_costs_what_is_written():
    steps = torch.tensor([1, 200])
    curves = plot_losses.pipeline_curves(steps)
    right_loss, right_nll, wrong_loss, wrong_nll = curves.values()

    bound = math.log((math.e + 9) / math.e)  # of a softmax of ten probabilities
    assert wrong_loss[-1] > bound > right_loss[-1]
    assert wrong_nll[-1] > 1.5 * right_nll[-1]
    assert f"{wrong_nll[-1]:.2f} in the end" in list(curves)[3]


@pytest.mark.slow
@pytest.mark.parametrize("name", plot_losses.FIGURES)
def test_no_two_curves_are_alike_and_what_is_written_lies_inside_the_axes(name):
    figure = plot_losses.draw(name)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    curves = [line for line in axes.lines if len(line.get_xdata()) > 1]
    box = axes.get_window_extent()

    assert len({line.get_color() for line in curves}) == len(curves)
    heights = [np.asarray(line.get_ydata(), dtype=float) for line in curves]
    for i, y in enumerate(heights):
        assert not any(np.allclose(y, other) for other in heights[:i])
    assert figure.legends[0].get_window_extent().x0 >= box.x1  # beside the plot
    for text in axes.texts:
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0 and extent.x1 <= box.x1
        assert box.y0 <= extent.y0 and extent.y1 <= box.y1


def test_cross_entropy_is_marked_at_three_probabilities():
    (axes,) = plot_losses.draw("loss_of_a_probability").axes

    texts = [text.get_text() for text in axes.texts]

    assert texts == ["p = 1: 0", "p = 0.1: 2.30", "p = 0.01: 4.61"]


@pytest.mark.parametrize("name", plot_losses.FIGURES)
def test_every_curve_of_a_figure_has_a_height_at_each_x(name):
    curves_of, x, *_ = plot_losses.FIGURES[name]

    curves = curves_of(x[::40])

    assert len(curves) > 1
    assert all(y.shape == x[::40].shape for y in curves.values())


def test_each_figure_is_a_png_and_an_image_in_tensorboard(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plot_losses.py", "--out", str(tmp_path / "figures")])
    names = {"smoothing_floor", "log_softmax"}
    monkeypatch.setattr(plot_losses, "FIGURES", {n: plot_losses.FIGURES[n] for n in names})

    plot_losses.main()

    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == names
    events = EventAccumulator(str(tmp_path / "figures")).Reload()
    assert set(events.Tags()["images"]) == {f"losses/{name}" for name in names}
    assert capsys.readouterr().out.endswith(f"tensorboard --logdir {tmp_path / 'figures'}\n")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["plot_losses.py", "--out", str(tmp_path / "file" / "folder")])

    with pytest.raises(SystemExit) as stop:
        run_script(plot_losses.main)

    assert stop.value.code == 2
    assert re.fullmatch(r"error: .*Not a directory: '.*file/folder'\n", capsys.readouterr().err)
