"""A real browser: TensorBoard's pages and compare.html show what a sweep has logged."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMALL, compose
from test_comparison import only, write_run

from training.cli.tables import write_files
from training.run.start import start

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory, browser):
    """Yield a page and the address of TensorBoard over two losses with two seeds each."""
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
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.set_default_timeout(60_000)
            page.base, page.folder = address, folder
            yield page
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


def test_diagrams_are_opaque_and_sharp_where_tensorboard_is_dark(page):
    page.goto("about:blank")
    page.goto(f"{page.base}?darkMode=true#images")

    picture = page.locator("tf-image-loader img").first
    picture.wait_for()
    assert brightness(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.3
    corner = """(image) => {
        const canvas = document.createElement("canvas")
        canvas.width = image.naturalWidth
        canvas.height = image.naturalHeight
        const context = canvas.getContext("2d")
        context.drawImage(image, 0, 0)
        return [image.naturalWidth, ...context.getImageData(1, 1, 1, 1).data]
    }"""
    width, *color = picture.evaluate(corner)
    assert width >= 480 and min(color) >= 250


LOSSES = ("cross_entropy", "bce", "focal", "hinge", "label_smoothing", "mse", "mse_logits")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Write the page of seven losses with three seeds each, and of a long name and many columns."""
    folder = tmp_path_factory.mktemp("compared")
    table = ["nll", "accuracy", "ece", "perplexity", "brier", "error", "balanced_accuracy"]
    for i, loss in enumerate(LOSSES):
        long = {"settings": {"data.name": f"{'long_' * 30}{i}"}} if i == 6 else {}
        for seed in (1, 2, 3):
            nll = 4 + 0.1 * i + (0.01 + 0.001 * i) * seed
            run = write_run(folder / f"{loss}-{seed}", loss, seed, nll, table=table, **long)
            with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write('{"step": 9, "split": "test", "perplexity": 60.0, "brier": 0.5, ')
                file.write('"balanced_accuracy": 0.2, "nll_temperature": 3.75}\n')
    comparison = only([folder])
    command = ["python", "train.py", "-m", f"loss={','.join(LOSSES)}"]
    return comparison, write_files([comparison], folder, command)[-1]


@pytest.fixture(params=[(800, "light"), (1400, "light"), (800, "dark")], ids=str)
def sheet(request, browser, compared):
    """Open the page in one width and scheme; nothing may be fetched, refused or fail in it."""
    width, scheme = request.param
    sheet = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, fetched = [], []
    sheet.on("console", lambda message: said.append(message.text))
    sheet.on("request", lambda request: fetched.append(request.url))
    sheet.goto(compared[1].as_uri())
    sheet.width, sheet.scheme = width, scheme
    yield sheet
    sheet.close()
    assert not said and {url.split(":")[0] for url in fetched} <= {"file", "data"}


def brightness(color):
    """Return the mean of red, green and blue, from 0 to 1."""
    return sum(map(int, re.findall(r"\d+", color)[:3])) / (3 * 255)


def styles(sheet, selector, name):
    script = f"(all) => all.map(each => getComputedStyle(each).{name})"
    return sheet.locator(selector).evaluate_all(script)


def test_the_page_shows_rows_verdict_and_what_made_it(sheet, compared):
    comparison, _ = compared

    names = sheet.locator("tbody th").all_inner_texts()
    assert [name.strip() for name in names] == [row.label for row in comparison.rows]
    assert sheet.locator(".verdict li").all_inner_texts() == [*comparison.verdict]
    assert sheet.locator(".verdict li").first.bounding_box()["y"] < 900  # on the first screen
    assert "python train.py -m loss=cross_entropy,bce" in sheet.locator("code").inner_text()
    assert sheet.locator("svg").count() == 3 and sheet.locator("dt").count() == 5


def test_only_the_table_scrolls_sideways_and_its_names_stay(sheet):
    assert sheet.evaluate("document.documentElement.scrollWidth") == sheet.width
    box = sheet.locator(".table")
    inside, outside = box.evaluate("box => [box.scrollWidth, box.clientWidth]")
    assert inside > outside  # else there is nothing to scroll here
    name, figure = box.locator("tbody tr").last.locator("> *").all()[:2]
    before = name.bounding_box(), figure.bounding_box()

    box.evaluate("box => { box.scrollLeft = 120 }")

    assert name.bounding_box() == before[0]
    assert figure.bounding_box()["x"] == pytest.approx(before[1]["x"] - 120, abs=1)
    assert name.bounding_box()["width"] < outside / 2  # there is room for figures beside it
    top = name.evaluate("""name => {
        const box = name.getBoundingClientRect()
        return name.contains(document.elementFromPoint(box.right - 5, box.top + 10))
    }""")
    assert top  # nothing shows through


def test_text_and_charts_can_be_read_in_both_schemes(sheet):
    dark = sheet.scheme == "dark"

    (paper,) = styles(sheet, "body", "backgroundColor")
    assert (brightness(paper) < 0.2) == dark and (brightness(paper) > 0.9) != dark
    inks = [*styles(sheet, "body, p, td, th, dt, dd, li, h1", "color")]
    inks += styles(sheet, "svg text", "fill")
    assert all(abs(brightness(ink) - brightness(paper)) > 0.5 for ink in inks)
    drawn = [*styles(sheet, "svg *", "stroke"), *styles(sheet, "svg *", "fill")]
    assert "rgb(0, 0, 0)" not in drawn and drawn.count(inks[0]) > 20  # axes, bands, markers
    names = styles(sheet, "tbody th", "backgroundColor")
    assert set(names) == {paper}  # opaque over the figures that move under them
    assert set(styles(sheet, "figure img", "backgroundColor")) == {"rgb(255, 255, 255)"}


def test_charts_are_as_large_as_they_were_drawn_and_stand_in_the_page(sheet):
    for chart in sheet.locator("svg, figure").all():
        box = chart.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= sheet.width
    sizes = sheet.locator("svg text").evaluate_all(
        "all => all.map(each => parseFloat(getComputedStyle(each).fontSize) *"
        " each.ownerSVGElement.getScreenCTM().a)"
    )
    assert min(sizes) >= 9  # pixels
