"""What a vision run reports: accuracies, curves, mistakes, and features in the Projector."""

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

    last = [line for line in read_metrics(run) if "accuracy_3" in line and line["split"] == "test"]

    assert len(last) == 1
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
    assert len(events.Tensors("val/pr_3")) == 1  # during training; at the end it is the test split
    assert len(events.Images("test/confusion")) == len(events.Images("test/mistakes")) == 1


def test_the_projector_has_each_test_image_with_its_class_and_the_guess(run):
    (facts,) = run.glob("*/images/metadata.tsv")
    header, *rows = [line.split("\t") for line in facts.read_text().splitlines()]
    features = np.loadtxt(facts.with_name("tensors.tsv"))
    targets = load_run(run).splits().test.targets[:500]
    right = sum(a == b for a, b in rows) / len(rows)
    (test,) = [line for line in read_metrics(run) if line["split"] == "test" and "nll" in line]

    assert header == ["class", "predicted"]
    assert len(rows) == len(features) == len(targets) == test["count"]
    assert [label for label, _ in rows] == [str(k) for k in targets.tolist()]
    assert right == pytest.approx(test["accuracy"])
    with Image.open(facts.with_name("sprite.png")) as sprite:
        assert sprite.width == sprite.height and sprite.width % 8 == 0


def test_the_most_confident_mistakes_are_shown_with_their_labels(run, monkeypatch):
    shown = {}
    monkeypatch.setattr(reports, "draw_images", lambda i, c: shown.update(images=i, captions=c))
    monkeypatch.setattr(reports, "draw_confusion", lambda m, c: shown.update(matrix=m))
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
    assert (fit.at_bound, fit.temperature) == ("lower", 1.0)
    assert after.metrics["nll"] == pytest.approx(before["nll"], rel=1e-6)
