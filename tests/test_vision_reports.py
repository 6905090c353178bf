"""What a vision run reports: accuracies, curves, mistakes, and features in the Projector."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from vision_runs import predictions, trained_run

from training.data import Split
from training.evaluation import evaluate, recalibrate
from training.run.finished import load_run
from training.run.folder import read_metrics
from training.run.report import ReportContext
from vision import reports
from vision.reports import describe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained_run(tmp_path_factory.getbasetemp())


def test_class_accuracies_and_curves_are_those_of_the_test_split(run):
    split, log_probs = predictions(run)
    matrix = confusion_matrix(split.targets, log_probs.argmax(1))
    events = EventAccumulator(str(run), size_guidance={"tensors": 0, "images": 0}).Reload()

    per_class = [line for line in read_metrics(run) if "accuracy_3" in line]
    last = [line for line in per_class if line["split"] == "test"]
    val = [line["step"] for line in read_metrics(run) if line["split"] == "val"]

    assert len(last) == 1
    assert max(val) in [line["step"] for line in per_class if line["split"] == "val"]
    assert not any("accuracy_" in tag for tag in events.Tags()["scalars"])
    for k in range(10):
        expected = matrix[k, k] / matrix[k].sum()
        assert last[0][f"accuracy_{k}"] == pytest.approx(expected, rel=1e-6)
    (event,) = events.Tensors("test/pr_3")
    curve = np.frombuffer(event.tensor_proto.tensor_content, np.float32)
    curve = curve if len(curve) else np.array(event.tensor_proto.float_val)
    true_positives, false_positives = curve.reshape(6, -1)[:2]
    chosen = log_probs[:, 3].exp() >= 0.5
    half = len(true_positives) // 2  # of 127 thresholds from 0 to 1
    assert true_positives[half] == (chosen & (split.targets == 3)).sum()
    assert false_positives[half] == (chosen & (split.targets != 3)).sum()
    assert len(events.Tensors("val/pr_3")) == 2  # of both epochs; after that, of the test split
    assert len(events.Images("~test/confusion")) == len(events.Images("~test/mistakes")) == 1


def test_the_projector_has_each_test_image_with_its_class_and_the_guess(run):
    (facts,) = run.glob("*/images/metadata.tsv")
    header, *rows = [line.split("\t") for line in facts.read_text(encoding="utf-8").splitlines()]
    features = np.loadtxt(facts.with_name("tensors.tsv"))
    targets = load_run(run).splits().test.targets[:500]
    right = sum(a == b for a, b in rows) / len(rows)
    (test,) = [line for line in read_metrics(run) if line["split"] == "test" and "nll" in line]

    assert header == ["class", "predicted"]
    assert len(rows) == len(features) == len(targets) == test["count"]
    assert [label for label, _ in rows] == [str(k) for k in targets.tolist()]
    assert right == pytest.approx(test["accuracy"])
    with Image.open(facts.with_name("sprite.png")) as sprite:
        assert sprite.width == sprite.height and sprite.width % 12 == 0
        frames = [sprite.getpixel((12 * i, 0)) for i in range(sprite.width // 12)]
    colour_of = dict(zip(targets.tolist(), frames, strict=False))
    assert len(set(colour_of.values())) == len(colour_of)  # a colour for each class
    assert frames == [colour_of[k] for k in targets[: len(frames)].tolist()]


def test_the_most_confident_mistakes_are_shown_with_their_labels(run, monkeypatch):
    shown = {}
    monkeypatch.setattr(reports, "draw_images", lambda i, c: shown.update(images=i, captions=c))
    monkeypatch.setattr(reports, "draw_confusion", lambda m, *_: shown.update(matrix=m))
    finished, log = load_run(run), type("Log", (), {})()
    log.scalars = log.figure = lambda *_: None
    log.events = type("Events", (), {"add_pr_curve": lambda *_: None})
    context = ReportContext(
        finished.model, finished.loss_fn, finished.splits(), log, 1, 1, final=True
    )

    report = reports.ImageReport(mistakes=3)(context)

    split, log_probs = predictions(run)
    confidence, predicted = log_probs.exp().max(1)
    wrong = [i for i in range(len(split)) if predicted[i] != split.targets[i]]
    wrong = sorted(wrong, key=lambda i: -confidence[i])[:3]
    assert len(wrong) == 3
    assert torch.equal(shown["images"], split.inputs[wrong])
    assert shown["captions"] == [
        f"{split.targets[i]}\nas {predicted[i]} {confidence[i]:.3f}" for i in wrong
    ]
    expected = confusion_matrix(split.targets, predicted)
    assert np.array_equal(shown["matrix"], expected)
    off_diagonal = expected - np.diag(np.diag(expected))
    assert f"{off_diagonal.max()} of " in report.text


def test_a_confusion_matrix_has_a_title_and_the_shares_of_each_row():
    figure = reports.draw_confusion(torch.tensor([[499, 1, 0], [6, 2, 0], [0, 0, 4]]), "abc", "val")
    (axes,) = figure.axes

    cells = {text.get_position(): text.get_text() for text in axes.texts}

    assert axes.get_title() == "val: % of each true class"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (500)", "b (8)", "c (4)"]
    shares = {(0, 0): "100", (1, 0): "<1", (0, 1): "75", (1, 1): "25", (2, 2): "100"}
    assert cells == shares  # (predicted, true)


@pytest.mark.parametrize("count", [1, 3, 20, 100])
def test_the_grid_of_mistakes_fills_its_width(count):
    captions = ["trouser\nas ankle boot 0.937"] * count
    figure = reports.draw_images(torch.zeros(count, 1, 8, 8, dtype=torch.uint8), captions)
    figure.draw_without_rendering()

    boxes = [axes.get_window_extent() for axes in figure.axes]
    titles = [axes.title.get_window_extent() for axes in figure.axes]

    columns = len({round(box.x0) for box in boxes})
    wide = sum(box.width for box in boxes[:columns]) / figure.bbox.width
    assert wide > 0.9
    row = titles[:columns]
    assert all(a.x1 <= b.x0 + 1 for a, b in pairwise(row))
    assert titles[0].x0 >= -1 and titles[0].y1 <= figure.bbox.y1 + 1


def test_a_run_without_mistakes_says_so():
    assert describe(torch.eye(3).long() * 4, "abc") == "no mistakes"
    text = describe(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), "abc")  # none of class c
    assert text.startswith(
        "least accurate: a, 75.00%; most frequent mistake: a taken for b, 1 of 4"
    )


def test_a_calibration_split_without_mistakes_leaves_the_temperature_alone(run):
    finished = load_run(run)
    splits = finished.splits()
    right = predictions(run, "calibration")[1].argmax(1) == splits.calibration.targets
    perfect = Split(*splits.calibration.batch(right))

    fit, after = recalibrate(finished.model, finished.loss_fn, perfect, splits.test, 10)

    before = evaluate(finished.model, finished.loss_fn, splits.test, 10).metrics
    assert (fit.at_bound, fit.to_apply) == ("lower", 1.0)
    assert after.metrics["nll"] == pytest.approx(before["nll"], rel=1e-6)
