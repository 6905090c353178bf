"""The page of a comparison: what it shows, and that whatever a run says stays text in it."""

import math
import re
import xml.etree.ElementTree as ElementTree
from datetime import date
from html import unescape

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_comparison import HOSTILE, PNG, only, write_run

from training.cli.page import curves, diagrams, draw_curves, page, pooled
from training.run.log import RunLog


@pytest.fixture
def two(tmp_path):
    """Compare two losses with three seeds each, which differ."""
    for loss, nll, noise in (("cross_entropy", 4.0, 0.01), ("mse", 4.5, 0.02)):
        for seed in (1, 2, 3):
            write_run(tmp_path / f"{loss}-seed{seed}", loss, seed, nll + noise * seed)
    return only([tmp_path])


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", *HOSTILE])
def test_the_page_says_what_made_it_and_when_and_its_verdict(two, text):
    command = ["python", "train.py", "-m", text]

    html = page([two], command)
    (heading,) = re.findall("<h1>(.*)</h1>", html)
    (made_by,) = re.findall("<code>(.*)</code>", html)

    assert "<script" not in html
    assert heading == "a text: losses compared" and f"{heading}, {date.today()}</title>" in html
    assert unescape(made_by).startswith("python train.py -m ") and text in unescape(made_by)
    verdict = re.findall("<li>(.*)</li>", html)
    assert tuple(map(unescape, verdict)) == two.verdict and "mse by 0.5200" in verdict[0]


def test_a_column_that_no_row_has_a_figure_for_is_left_out(tmp_path):
    for name, value in (("a", math.nan), ("b", 0.25)):
        write_run(tmp_path / name, table=["nll", "brier", "accuracy"], settings={"x": name})
        with (tmp_path / name / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(f'{{"step": 9, "split": "test", "brier": {value}}}\n'.replace("nan", "NaN"))

    assert "<th>Brier</th>" in page([only([tmp_path])], [])
    assert "<th>Brier</th>" not in page([only([tmp_path / "a"])], [])


def test_the_reliability_line_pools_all_seeds_and_leaves_out_bins_of_few(tmp_path):
    tables = []
    for seed in (1, 2):
        generator = np.random.default_rng(seed)
        confidence = generator.uniform(0.3, 1, 150)
        right = generator.uniform(size=150) < confidence**2
        table = np.stack([confidence, right, confidence], 1).astype(np.float32)
        table[:10] = np.nan  # not scored
        np.save(write_run(tmp_path / str(seed), seed=seed) / "examples.npy", table)
        tables.append(table[10:])
    confidence, right = np.concatenate(tables)[:, [2, 1]].T.astype(float)
    bins = np.digitize(confidence, np.arange(1, 15) / 15, right=True)
    expected = [
        (confidence[bins == b].mean(), right[bins == b].mean())
        for b in range(15)
        if (bins == b).sum() >= 20
    ]

    (row,) = only([tmp_path]).rows

    assert 3 < len(expected) < len(np.unique(bins))
    np.testing.assert_allclose(pooled(row), expected, rtol=1e-12)


def test_a_curve_is_the_mean_over_seeds_in_a_band_from_the_lowest_to_the_highest(two):
    axes = Figure().subplots()
    draw_curves(axes, two, "val/nll")

    band, line = axes.collections[1], axes.lines[1]  # of mse: 4.52, 4.54, 4.56 at the test
    assert sorted(map(tuple, line.get_xydata().round(9))) == [(5, 5.54), (9, 5.04)]
    corners = band.get_paths()[0].vertices
    assert {*map(tuple, corners.round(9))} == {(5, 5.52), (5, 5.56), (9, 5.02), (9, 5.06)}
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(("other", "scale"), [(4.0, "linear"), (900.0, "log")])
def test_losses_over_decades_are_drawn_in_log_scale(tmp_path, other, scale):
    write_run(tmp_path / "a", nll=4.0)
    write_run(tmp_path / "b", "mse", nll=other)
    axes = Figure().subplots()

    draw_curves(axes, only([tmp_path]), "val/nll")

    assert axes.get_yscale() == scale


def test_the_baseline_is_drawn_over_the_others_in_the_colour_of_text(two):
    axes = Figure().subplots()
    draw_curves(axes, two, "val/nll")

    baseline, other = axes.lines
    assert baseline.get_color() == "black" and baseline.get_zorder() > other.get_zorder()
    for svg in curves(two):
        strokes = re.findall(r"stroke: (#\w+)", svg)
        assert "#000000" in strokes  # which the page's style turns into that of its text
        assert not re.search(r"<text[^>]*fill", svg)
        ElementTree.fromstring(svg)


def test_long_curves_are_thinned_and_end_where_they_ended(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        for step in range(10, 5010):
            file.write(f'{{"step": {step}, "split": "train", "loss": {1 / step}}}\n')
    axes = Figure().subplots()

    draw_curves(axes, only([tmp_path]), "train/loss")

    steps = axes.lines[0].get_xdata()
    assert 50 < len(steps) <= 100 and max(steps) == 5009


def test_what_was_not_logged_is_not_spoken_of(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "examples.npy").unlink()
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    test = [line for line in lines if '"test"' in line]
    (folder / "metrics.jsonl").write_text("\n".join(test), encoding="utf-8")

    html = page([only([tmp_path])], [])

    assert "<svg" not in html and "Curves" not in html and "The first chart" not in html
    assert html.count("<img") == 1


def test_a_diagram_is_a_small_regular_png(tmp_path):
    folder = write_run(tmp_path / "run")
    file = folder / "test_reliability.png"
    rows = only([tmp_path]).rows

    assert [caption for caption, _ in diagrams(rows)] == ["cross_entropy, seed 1"]
    for content in (b"<svg onload='alert(1)'>", PNG + bytes(300_000)):
        file.write_bytes(content)
        assert not [*diagrams(rows)]
    file.unlink()
    (folder / "else.png").write_bytes(PNG)
    file.symlink_to(folder / "else.png")
    assert not [*diagrams(rows)]


def test_a_drawing_is_kept_in_few_colours_and_a_figure_with_pictures_in_all(tmp_path):
    from matplotlib.image import imread

    log = RunLog(tmp_path)
    shown = np.random.default_rng(1).uniform(size=(40, 40, 3))
    drawing, photograph = Figure((2, 2)), Figure((2, 2))
    drawing.subplots().plot([0, 1], "r")
    photograph.subplots().imshow(shown)
    for tag, figure in (("a/drawing", drawing), ("a/photograph", photograph)):
        log.figure(tag, figure, 1)
        figure.savefig(tmp_path / "exact.png")
        exact = imread(tmp_path / "exact.png")
        kept = imread(tmp_path / f"{tag.replace('/', '_')}.png")
        assert kept.shape == exact.shape
        colors = len(np.unique(kept.reshape(-1, 4), axis=0))
        assert (colors <= 256) == (tag == "a/drawing")
        assert np.abs(kept - exact).max() <= (0.2 if tag == "a/drawing" else 0)
