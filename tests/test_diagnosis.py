"""Each disease is told by its first symptom, and healthy runs by none."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from conftest import SMALL, compose

sys.path.insert(0, str(Path(__file__).parent))  # settings of ill runs name what is in diseases.py
import diseases

from training.cli.diagnose_run import main
from training.errors import UserError
from training.run.diagnosis import diagnosis, findings
from training.run.evidence import Evidence
from training.run.folder import read_status
from training.run.signals import Interrupted
from training.run.start import start

CASES = [(task, name) for name, each in diseases.DISEASES.items() for task in each.tasks]
HEALTHY = {
    "vision": ("bce", "cross_entropy", "focal", "hinge", "label_smoothing", "mse", "mse_logits",
               "mse_rescaled", "weighted"),
    "ngram": ("bce", "cross_entropy", "focal", "label_smoothing", "mse"),
}  # fmt: skip
ILL_ON_TEXT = ("hinge", "mse_logits", "mse_rescaled", "weighted")
# a run of ten classes, as its folder has it
SOUND = {
    "data/classes": [10.0], "data/val_guess_nll": [2.3], "data/guess_nll": [2.3],
    "data/ignored": [0.0], "data/input_spread": [1.0], "data/input_size": [1.0],
    "data/trained": [1.0], "data/train_targets": [1000.0], "data/val_targets": [500.0],
    "data/test_targets": [500.0], "data/block_rows": [1.0], "data/scarcer": [1.1],
    "data/rarest": [90.0], "train/loss": [2.2, 0.9, 0.3], "val/loss": [1.5, 0.6, 0.5],
    "val/nll": [1.5, 0.6, 0.5], "val/accuracy": [0.5, 0.8, 0.85], "val/top5": [0.9, 0.99, 0.99],
    "val/worst_class_accuracy": [0.3, 0.7, 0.8], "val/balanced_accuracy": [0.5, 0.8, 0.85],
    "test/accuracy": [0.85], "test/ece": [0.03], "test/ece_low": [0.01], "test/ece_null": [0.02],
    "test/overconfidence": [0.01], "test/nll": [0.5], "test/nll_temperature": [0.49],
    "test/temperature": [1.1],
}  # fmt: skip
SETTINGS = {"optimizer.lr": 0.004, "trainer.epochs": 3, "loss.gamma": None, "data.min_count": 2}


def found(changes=(), **settings):
    """Return the findings on a sound run with some figures changed."""
    curves = {tag: list(enumerate(values)) for tag, values in (SOUND | dict(changes)).items()}
    return findings(Evidence(curves, SETTINGS | settings, surest=0.99))


def test_a_sound_run_has_no_finding_and_neither_has_one_without_figures():
    assert found() == []
    assert findings(Evidence({}, {}, math.nan)) == []


@pytest.mark.parametrize(
    ("changes", "symptom", "change"),
    [
        ({"data/ignored": [0.9]}, "most targets are ignored", "trainer.max_batches=2"),
        ({"data/input_spread": [0.0]}, "all inputs are the same", "trainer.max_batches=2"),
        ({"data/input_size": [120.0]}, "inputs are not normalised", "data.std=[36,60]"),
        ({"val/nll": [90.0, 0.6, 0.5]}, "a model that knows nothing", "optimizer.lr=0.002"),
        ({"val/nll": [9e5, 9e4, 113_670.0]}, "a model that knows nothing", "optimizer.lr=0.0004"),
        ({"data/scarcer": [50.0]}, "a class fails", "loss=weighted"),
        (
            {"data/rarest": [5.0], "val/worst_class_accuracy": [0.0, 0.1, 0.2]},
            "a class fails",
            "loss=weighted",
        ),
        ({"test/ece_low": [0.08], "test/overconfidence": [0.09]}, "over-conf", "loss=label_smo"),
        (
            {"test/ece_low": [0.08], "test/overconfidence": [-0.1]},
            "under-confident",
            "loss=label_smoothing",
        ),
        ({"val/nll": [1.5, 0.9, 0.6]}, "still learning at the end", "trainer.epochs=6"),
        (
            {"val/nll": [0.5, 0.7, 0.9], "val/accuracy": [0.85, 0.8, 0.8]},
            "later epochs made it worse",
            "trainer.epochs=1",
        ),
        ({"data/unk": [0.4]}, "many words are <unk>", "data.min_count=1"),
        ({"data/test_targets": [60.0]}, "the test split is too small", "data.split="),
        ({"data/block_rows": [200.0]}, "the val split is too small", "data.split="),
    ],
)
def test_a_symptom_in_a_sound_run_is_found_first_with_its_change(changes, symptom, change):
    first = found(changes, **{"data.std": [0.3, 0.5]})[0]

    assert first.symptom.startswith(symptom) and first.change.startswith(change)


def test_what_the_run_does_already_is_not_advised():
    rare = {"data/scarcer": [50.0]}
    weighted = {"loss.weight.class_counts": "${facts.class_counts}"}
    unsure = {"test/ece_low": [0.08], "test/overconfidence": [0.09]}

    assert found(rare, **weighted)[0].change == "loss=focal"
    assert found(rare, **{"loss.weight": [1.0, 2.0]})[0].change == "loss=focal"
    assert found(rare, **{"loss.weight": None})[0].change == "loss=weighted"
    assert found(rare, **weighted, **{"loss.gamma": 2.0})[0].change == ""
    assert found(unsure, **{"loss.label_smoothing": 0.1})[0].change == ""


def test_a_loss_of_smoothed_labels_that_stands_at_their_entropy_is_told():
    share = [0.91] + [0.01] * 9
    entropy = -sum(p * math.log(p) for p in share)
    curves = {"train/loss": [2.2, 1.01 * entropy, 1.005 * entropy]}

    assert found(curves, **{"loss.label_smoothing": 0.1})[0].symptom.startswith("the loss stands")
    assert found({"train/loss": [2.2, 1.1 * entropy]}, **{"loss.label_smoothing": 0.1}) == []


def test_cross_entropy_that_knows_less_than_the_shares_of_the_classes_is_hardly_trained():
    """It is not told to take cross-entropy; another loss with such figures is."""
    short = {"train/loss": [2.6, 2.5], "val/nll": [2.5], "val/loss": [2.5]}
    short |= {"val/accuracy": [0.1], "val/top5": [0.5], "val/worst_class_accuracy": [0.0]}
    short |= {"val/balanced_accuracy": [0.1], "test/accuracy": [0.1]}

    assert [each.change for each in found(short)] == ["optimizer.lr=0.04"]
    assert found(short | {"val/loss": [0.9]})[0].change == "loss=cross_entropy"


def test_a_try_that_was_stopped_goes_on_and_ctrl_c_is_no_traceback(short, monkeypatch, capsys):
    from training.run import fit

    real, new = fit.evaluate_epoch, short.with_name("run-try") / "optimizer.lr=0.02"

    def interrupted(run):
        real(run)
        raise Interrupted(2)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "evaluate_epoch", interrupted)
        code, shown = run(monkeypatch, capsys, short, "--try", "optimizer.lr=0.02")
    assert code == 130 and "Traceback" not in shown.err
    assert read_status(new)["status"] == "interrupted"
    assert shown.out.rstrip().endswith(f"-m training ngram resume={new}")

    code, shown = run(monkeypatch, capsys, short, "--try", "optimizer.lr=0.02")
    assert code == 0 and "optimizer.lr=0.02: the best val nll is" in shown.out
    assert read_status(new)["status"] == "complete"


def test_there_are_three_findings_at_most_and_one_where_it_explains_the_rest():
    many = {"val/nll": [1.5, 0.9, 0.6], "data/scarcer": [50.0], "data/unk": [0.4]}
    many |= {"data/test_targets": [60.0]}

    assert len(found(many)) == 3
    assert [each.symptom for each in found(many | {"data/input_spread": [0.0]})] == [
        "all inputs are the same"
    ]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnosis") / "run"
    words = [*SMALL, "trainer.epochs=1", "report=null", "optimizer.lr=1e-6"]
    start(compose(*words), folder, loss="cross_entropy", quiet=True)
    return folder


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["scripts/diagnose.py", *map(str, words)])
    try:
        main()
    except SystemExit as stop:
        return stop.code, capsys.readouterr()
    return 0, capsys.readouterr()


def test_a_change_that_is_printed_can_be_tried_and_is_compared(short, monkeypatch, capsys):
    code, shown = run(monkeypatch, capsys, short, "--try", "optimizer.lr=0.01")

    new = short.with_name("run-try") / "optimizer.lr=0.01"
    assert code == 0 and "optimizer.lr=0.01: the best val nll is" in shown.out
    status = json.loads((new / "status.json").read_text(encoding="utf-8"))
    assert status["status"] == "complete"
    before = json.loads((short / "status.json").read_text(encoding="utf-8"))["run"]["settings"]
    differs = {k for k, v in status["run"]["settings"].items() if before.get(k) != v}
    assert differs == {"optimizer.lr"}

    code, shown = run(monkeypatch, capsys, short, "--try", "loss=focal", "loss.gama=2")
    assert code == 2 and "loss.gama: no such setting" in shown.err


def test_on_a_run_without_a_finding_the_usual_changes_are_tried(short, monkeypatch, capsys):
    monkeypatch.setattr("training.cli.diagnose_run.diagnosis", lambda _: [])
    tried = []
    monkeypatch.setattr(
        "training.cli.diagnose_run.try_changes", lambda _, changes, __: tried.extend(changes)
    )

    assert run(monkeypatch, capsys, short, "--try")[0] == 0
    assert tried == ["trainer.max_batches=2", "optimizer.lr=5e-07", "loss=label_smoothing"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.jsonl", '{"step": 0, "split": "data", "classes": -3}\n'),
        ("metrics.jsonl", '{"step": 0, "split": "data", "classes": "x"}\n'),
        ("metrics.jsonl", '{"step": 1, "split": "val", "nll": Infinity, "loss": NaN}\n'),
        ("status.json", '{"status": ["x"], "message": {"a": 1}}'),
        ("config.yaml", "x"),
        ("examples.npy", "x"),
    ],
)
def test_a_folder_of_anyones_is_diagnosed_or_refused_in_one_line(file, text, short, tmp_path):
    shutil.copytree(short, tmp_path / "copy")
    (tmp_path / "copy" / file).write_text(text, encoding="utf-8")

    try:
        assert isinstance(diagnosis(tmp_path / "copy"), list)
    except UserError as error:
        assert "\n" not in str(error)


def test_a_folder_without_runs_is_refused_and_findings_are_no_failure(
    short, tmp_path, monkeypatch, capsys
):
    code, shown = run(monkeypatch, capsys, tmp_path)
    assert code == 4 and "holds no run" in shown.err

    code, shown = run(monkeypatch, capsys, short)
    assert code == 0 and "likely cause" in shown.out and f"{short} --try " in shown.out


@pytest.mark.slow
@pytest.mark.parametrize(("task", "name"), CASES)
def test_a_disease_is_told_by_its_first_symptom(task, name, tmp_path):
    folder = diseases.make_ill(task, name, tmp_path / "run")

    first, *_ = diagnosis(folder)

    assert first.symptom.startswith(diseases.DISEASES[name].symptom)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "loss"), [(task, loss) for task, losses in HEALTHY.items() for loss in losses]
)
def test_a_healthy_run_has_no_finding(task, loss, tmp_path):
    words = ["report=null", "trainer.figures=0", "threads=1", f"loss={loss}"]
    start(compose(*words, task=task), tmp_path / "run", loss=loss, quiet=True)

    assert diagnosis(tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.parametrize("loss", ILL_ON_TEXT)
def test_a_loss_that_is_ill_on_text_is_told_so(loss, tmp_path):
    words = ["report=null", "trainer.figures=0", "threads=1", f"loss={loss}"]
    start(compose(*words), tmp_path / "run", loss=loss, quiet=True)

    assert diagnosis(tmp_path / "run")
