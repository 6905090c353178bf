"""TensorBoard in a real browser: its pages show what a sweep has logged."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMALL, compose

from training.run.start import start

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Yield a browser and the address of TensorBoard over two losses with two seeds each."""
    folder = tmp_path_factory.mktemp("sweep")
    for loss in ("cross_entropy", "mse"):
        for seed in (1, 2):
            cfg = compose(*SMALL, f"loss={loss}", f"seed={seed}", "trainer.log_every=2")
            start(cfg, folder / f"{loss}-seed{seed}", loss=loss, quiet=True)
    command = [Path(sys.executable).with_name("tensorboard"), "--logdir", folder, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = iter(server.stderr.readline, "")
            address = next(m[0] for line in said if (m := re.search(r"http://\S+/", line)))
            with playwright.sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1400, "height": 1000})
                page.set_default_timeout(60_000)
                page.base, page.folder = address, folder
                yield page
                browser.close()
        finally:
            server.terminate()


def go(page, tab):
    page.goto("about:blank")
    page.goto(f"{page.base}#{tab}")


def test_time_series_open_on_curves_of_every_run(page):
    go(page, "timeseries")

    for title in ("train/gradient_norm", "train/loss"):  # on the first screen
        card = page.get_by_text(title, exact=True).first
        card.wait_for()
        assert card.bounding_box()["y"] < 1000
    places = [
        page.get_by_text(section, exact=True).first.bounding_box()["y"]
        for section in ("train", "val", "~test", "~time")
    ]
    assert places == sorted(places)
    for run in ("cross_entropy-seed1", "cross_entropy-seed2", "mse-seed1", "mse-seed2"):
        page.get_by_text(run, exact=True).first.wait_for()


def test_custom_scalars_open_with_their_charts(page):
    go(page, "custom_scalars")

    for title in ("objective against nll", "train against val", "ECE before and after temperature"):
        page.get_by_text(title).first.wait_for()
    page.get_by_text("Matches (8)").first.wait_for()  # two tags of four runs


def test_hparams_have_a_row_a_loss_configuration(page):
    go(page, "hparams")

    for loss in ("cross_entropy", "mse"):
        page.get_by_text(re.compile(rf"^\s*{loss}-[0-9a-f]{{8}}\s*$")).first.wait_for()
    assert page.get_by_text(re.compile(r"^\s*(cross_entropy|mse)-[0-9a-f]{8}\s*$")).count() == 2
    page.get_by_text("loss.label_smoothing").first.wait_for()


def test_parallel_coordinates_draw_every_loss(page):
    go(page, "hparams")

    page.get_by_text(re.compile("parallel coordinates view", re.IGNORECASE)).first.click()
    lines = page.locator("tf-hparams-parallel-coords-plot g.foreground path")
    lines.first.wait_for(state="attached")
    assert lines.count() == 2  # a line for each loss, which holds both seeds
    axes = page.locator("tf-hparams-parallel-coords-plot text").all_text_contents()
    for name in ("loss", "cross_entropy", "mse", "optimizer.lr", "test/nll", "test/ece"):
        assert name in axes


def test_the_projector_shows_every_word(page):
    go(page, "projector")

    vectors = next(Path(page.folder).glob("*/*/words/tensors.tsv"))
    words = len(vectors.read_text(encoding="utf-8").splitlines())
    inside = page.frame_locator("iframe").first.frame_locator("iframe")
    inside.get_by_text(re.compile(rf"Points:\s*{words}")).first.wait_for()
