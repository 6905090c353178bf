"""What TensorBoard reads: the event file of a run, read back."""

from itertools import pairwise

import pytest
from conftest import SMALL, compose
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training import run as training_run
from training.run_folder import read_metrics


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs") / "run"
    training_run.run(
        compose(*SMALL, "trainer.epochs=7", "trainer.figures=5", "trainer.log_every=10"), folder
    )
    return folder


def test_scalars_stand_by_split_and_metric_at_the_optimizer_step(run):
    events = read(run)
    logged = {}
    for line in read_metrics(run):
        step, split = line.pop("step"), line.pop("split")
        for name, value in line.items():
            logged.setdefault(f"{split}/{name}", []).append((step, value))

    tags = events.Tags()["scalars"]

    assert set(tags) == set(logged)
    assert {
        *(f"val/{m}" for m in ("loss", "nll", "perplexity", "accuracy", "brier", "ece")),
        *("train/loss", "train/lr", "test/nll", "test/kneser_ney_nll", "test/mixture_nll"),
    } <= set(tags)
    for tag in tags:
        seen = [(e.step, e.value) for e in events.Scalars(tag)]
        assert seen == [(s, pytest.approx(v, rel=1e-6)) for s, v in logged[tag]], tag
    steps = [e.step for e in events.Scalars("val/nll")]
    assert len(steps) == 7 and len({b - a for a, b in pairwise(steps)}) == 1


def test_the_config_and_verse_are_text_and_diagrams_are_few(run):
    events = read(run)

    texts = {
        tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
    }
    diagrams = events.Images("val/reliability")

    assert "_target_: losses.CrossEntropyLoss" in texts["config/text_summary"]
    assert "vocabulary" in texts["data/text_summary"]
    assert len(texts["verse/text_summary"].strip().split("\n")) == 2
    assert len(diagrams) == 5
    assert diagrams[-1].step == events.Scalars("val/nll")[-1].step
    assert len(events.Images("test/reliability")) == 1


def test_there_is_one_event_file_and_no_other_run(run):
    assert len(list(run.rglob("events.out.tfevents.*"))) == 1
    assert next(run.glob("events.out.tfevents.*")).parent == run
