"""The tour: what the notebook keeps is short and tells nothing of a machine, and its cells run.

After a change, run it (`jupyter nbconvert --execute --inplace docs/tour.ipynb`), and take the lines
`run folder` and `look at it` and all metadata of cells out of it: they name what is on a machine.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"
CHECKS = """
from math import isclose

assert list(runs) == ["cross_entropy", "label_smoothing"] and loss == "label_smoothing"
assert [type(run.loss_fn).__name__ for run in runs.values()] == ["CrossEntropyLoss"] * 2
assert [line.get_label() for line in axes.get_lines()] == list(runs)
assert all(len(line.get_xdata()) == 10 for line in axes.get_lines())
for name, run in runs.items():
    measured = reports[name].to_dict()
    for figure in ("nll", "ece", "accuracy", "nll_temperature"):
        assert isclose(measured[figure], run.figures[f"test/{figure}"], rel_tol=1e-3), figure
    assert len(reports[name].figure().axes) == 4

# what the text says of them
smoothed, plain = (reports[name].to_dict() for name in ("label_smoothing", "cross_entropy"))
assert smoothed["ece"] > 2 * plain["ece"] and smoothed["ece"] > 2 * smoothed["ece_temperature"]
assert abs(smoothed["accuracy"] - plain["accuracy"]) < 0.03
bins = reports["label_smoothing"].bins
assert bins.confidence.sum() < bins.correct.sum()
assert by_softmax.metrics["ece"] > 2 * by_link.metrics["ece"]

tracker = metrics.Metrics(num_classes=10)
tracker.update(loss_fn.log_probs(logits), labels)
assert 0 <= by_link.metrics["ece"] <= 1 and by_link.metrics["count"] == 797
assert isclose(by_link.metrics["ece"], tracker.compute()["ece"], rel_tol=1e-5)
"""


@pytest.fixture(scope="module")
def cells():
    return json.loads(TOUR.read_text(encoding="utf-8"))["cells"]


def code_of(cells):
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def kept(cells, kind):
    """Return what the cells keep of one kind, such as image/png; `text` is what was printed."""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    found = [output.get("data", {}).get(kind, output.get(kind)) for output in outputs]
    return ["".join(content) for content in found if content]


def test_it_is_short(cells):
    assert len(cells) <= 15
    assert TOUR.stat().st_size < 300_000
    assert max(len("".join(cell["source"]).split("\n")) for cell in cells) <= 20


def test_it_can_be_read_without_running_it(cells):
    printed = "".join(kept(cells, "text/plain") + kept(cells, "text"))

    assert len(kept(cells, "image/png")) == 3
    assert len(re.findall(r"^epoch ", printed, re.MULTILINE)) == 20
    assert printed.count("95 % interval") == 4


def test_what_it_keeps_names_no_machine(cells):
    shown = "".join(kept(cells, "text") + kept(cells, "text/plain") + kept(cells, "text/html"))

    assert not re.findall(r"(?<![\w<.])~?/[\w.-]+/\S*|[A-Z]:\\\S*|\w*@\w*|tmp\w*", shown)
    assert not [cell["metadata"] for cell in cells if cell["metadata"]]


@pytest.mark.slow
def test_its_cells_run_in_order_and_leave_nothing_behind(cells, tmp_path):
    lines = [line for code in code_of(cells) for line in code.split("\n")]
    program = "\n".join(line for line in lines if not line.startswith("%"))
    environment = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "TMPDIR": str(tmp_path)}
    environment |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch")}

    done = subprocess.run(
        [sys.executable, "-c", program + CHECKS],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder: ") == 2
    assert {path.name for path in tmp_path.iterdir()} <= {"torch"}
