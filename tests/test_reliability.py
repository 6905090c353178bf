"""Reliability diagrams: what they show, and that they can be read."""

import importlib
import sys

import numpy as np
import pytest
from test_metrics_calibration import predictions

from metrics import Calibration, draw_reliability, reliability_data


def diagram(confidence, correct, **options):
    import torch

    calibration = Calibration()
    calibration.update(torch.as_tensor(confidence), torch.as_tensor(correct))
    return reliability_data(calibration.bins(), calibration.compute(), **options)


@pytest.fixture(scope="module")
def data():
    return diagram(*predictions(3000), label="before")


def test_a_bin_shows_its_share_mean_confidence_and_accuracy(data):
    confidence, correct = predictions(3000)
    bins = np.digitize(confidence, np.arange(1, 15) / 15, right=True)

    for b in range(15):
        chosen = bins == b
        assert data.share[b] == chosen.mean()
        if chosen.any():
            assert data.confidence[b] == pytest.approx(confidence[chosen].mean())
            assert data.accuracy[b] == pytest.approx(correct[chosen].mean())
        else:
            assert np.isnan([data.confidence[b], data.accuracy[b], data.low[b], data.high[b]]).all()
    assert data.share.sum() == pytest.approx(1)


def test_the_numbers_of_the_title_are_the_logged_ones(data):
    import torch

    calibration = Calibration()
    calibration.update(*map(torch.as_tensor, predictions(3000)))
    logged = calibration.compute()

    for name in ("ece", "ece_low", "ece_high", "ece_null"):
        assert getattr(data, name) == logged[name]


def test_a_calibrated_model_stays_in_the_band_95_times_in_100():
    inside = filled = 0
    for seed in range(60):
        shown = diagram(*predictions(2000, overconfident=0, seed=seed))
        filled += np.count_nonzero(shown.share)
        inside += np.count_nonzero((shown.low <= shown.accuracy) & (shown.accuracy <= shown.high))

    assert 0.94 <= inside / filled <= 0.985  # counts are whole, so a little more than 95 %


def test_the_band_is_narrow_where_there_are_many_predictions(data):
    many = data.share > 0.1
    few = (data.share > 0) & (data.share < 0.01)

    assert (data.high - data.low)[many].max() < (data.high - data.low)[few].min()


def test_panels_stand_side_by_side_with_what_they_show_in_their_titles(data):
    after = diagram(*predictions(3000, overconfident=0), label="after, T = 1.31")

    figure = draw_reliability(data, after)

    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [
        f"before\nECE {data.ece:.3f} [{data.ece_low:.3f}, {data.ece_high:.3f}]\n"
        f"floor {data.ece_null:.3f}",
        f"after, T = 1.31\nECE {after.ece:.3f} [{after.ece_low:.3f}, {after.ece_high:.3f}]\n"
        f"floor {after.ece_null:.3f}",
    ]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(legend) == ["95 % per bin", "accuracy", "gap"]


def test_the_gap_reaches_from_confidence_to_accuracy_and_chance_is_faint(data):
    axes = draw_reliability(data).axes[0]

    drawn = {}  # bin: (faint, bottom, height)
    for bar in axes.patches:
        alpha = bar.get_alpha()
        if alpha is not None and bar.get_height() == bar.get_height():
            b = round(bar.get_x() * 15)
            drawn[b] = (alpha < 0.5, bar.get_y(), bar.get_height())
    for b in np.flatnonzero(data.share):
        faint, bottom, height = drawn[b]
        assert bottom == pytest.approx(data.confidence[b])
        assert bottom + height == pytest.approx(data.accuracy[b])
        assert faint == (data.low[b] <= data.accuracy[b] <= data.high[b])


def pixels(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(90)  # half the usual, which takes less time
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_the_picture_is_opaque_and_dark_on_white_whatever_the_users_style(data):
    from matplotlib import rc_context

    plain = pixels(draw_reliability(data))
    with rc_context({"figure.facecolor": "black", "axes.facecolor": "black", "text.color": "w"}):
        styled = pixels(draw_reliability(data))

    assert (plain[..., 3] == 255).all()
    assert (plain[[0, 0, -1, -1], [0, -1, 0, -1], :3] == 255).all()
    np.testing.assert_array_equal(styled, plain)


def test_letters_can_be_read_in_a_card_of_tensorboard(data):
    from matplotlib.text import Text

    for panels in ([data], [data, data]):
        figure = draw_reliability(*panels)
        width, height = figure.get_size_inches()
        shrink = min(345 / width, 215 / height) / 72  # points to pixels in a card
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()]
        assert min(sizes) * shrink >= 8
        assert figure.get_figwidth() * figure.dpi >= 480 * len(panels)  # and sharp when enlarged


def test_nothing_runs_into_its_neighbour_or_over_the_edge(data):
    figure = draw_reliability(data, data)
    for shown in (figure, draw_reliability(data)):
        pixels(shown)
        legend = shown.legends[0].get_window_extent()
        assert shown.bbox.x0 <= legend.x0 < legend.x1 <= shown.bbox.x1

    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert boxes[0].x1 < boxes[1].x0
    assert boxes[1].x1 <= figure.bbox.x1


@pytest.mark.parametrize(("confidence", "b"), [(0.98, 14), (0.05, 0)])
def test_a_bin_with_most_rows_has_its_figures_written_beside_its_bar(confidence, b):
    many, few = np.full(900, confidence), np.linspace(0.01, 0.99, 100)
    everything = np.concatenate([many, few])
    right = np.arange(1000) % 20 > 0
    inside = (everything > b / 15) & (everything <= (b + 1) / 15)

    figure = draw_reliability(diagram(everything, right), diagram(everything, right))
    pixels(figure)
    axes = figure.axes[2]  # the shares of the first panel
    (text,) = axes.texts

    assert text.get_text() == (
        f"{inside.mean():.0%} of rows: confidence\n"
        f"{everything[inside].mean():.3f}, accuracy {right[inside].mean():.3f}"
    )
    box = text.get_window_extent()
    assert axes.bbox.x0 < box.x0 < box.x1 < axes.bbox.x1 and axes.bbox.y0 < box.y0
    assert not box.overlaps(axes.patches[b].get_window_extent())


def test_nothing_is_written_where_no_bin_has_most_rows_or_its_bar_leaves_no_place():
    few = np.linspace(0.01, 0.99, 100)
    middle = np.concatenate([few, np.full(900, 0.5)])

    for confidence in (few, middle):
        figure = draw_reliability(diagram(confidence, confidence > 0.5))
        assert not any(axes.texts for axes in figure.axes)


def test_a_single_prediction_can_be_drawn():
    pixels(draw_reliability(diagram([1.0], [True])))
    shown = diagram(np.array([0.4]), [False])

    assert shown.share[5] == 1
    assert (shown.low[5], shown.accuracy[5], shown.high[5]) == (0, 0, 1)


def test_matplotlib_is_imported_only_to_draw(monkeypatch, data):
    for name in [*sys.modules, "matplotlib", "matplotlib.figure"]:
        if name.split(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)  # to import it is an error now
        elif name.split(".")[0] == "metrics":
            monkeypatch.delitem(sys.modules, name)

    metrics = importlib.import_module("metrics")

    with pytest.raises(ImportError, match="matplotlib"):
        metrics.draw_reliability(data)
