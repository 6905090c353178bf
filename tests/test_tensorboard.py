"""What TensorBoard reads: the event file of a run, read back."""

import re
from itertools import pairwise

import numpy as np
import pytest
from conftest import SMALL, compose
from matplotlib.figure import Figure
from PIL import Image
from small_runs import TINY, run_in
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    list_session_groups,
    metadata,
)

from metrics import MetricsReport
from training.errors import DivergedError
from training.run import fit
from training.run.checkpoint import load_checkpoint
from training.run.folder import read_metrics
from training.run.log import RunLog
from training.run.signals import Interrupted
from training.run.start import start


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs") / "run"
    words = ("data.max_lines=120", "trainer.epochs=7", "trainer.figures=5", "trainer.log_every=10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsReport, "figure", lambda _: Figure((1, 1)))  # a real one takes long
        start(compose(*SMALL, *words), folder)
    return folder


def test_scalars_are_few_and_stand_by_split_and_metric_at_the_optimizer_step(run):
    events = read(run)
    logged = {}
    for line in read_metrics(run):
        step, split = line.pop("step"), line.pop("split")
        for name, value in line.items():
            logged.setdefault(f"{split}/{name}", []).append((step, value))

    tags = events.Tags()["scalars"]

    assert len(tags) <= 25 < len(logged)
    assert {
        *(f"val/{m}" for m in ("loss", "nll", "perplexity", "accuracy", "brier", "ece")),
        *("val/balanced_accuracy", "val/worst_class_accuracy", "~test/worst_class_accuracy"),
        *("train/loss", "train/lr", "train/gradient_norm", "~test/nll", "~test/ece_temperature"),
    } <= set(tags)
    for tag in tags:
        seen = [(e.step, e.value) for e in events.Scalars(tag)]
        assert seen == [(s, pytest.approx(v, rel=1e-6)) for s, v in logged[tag.lstrip("~")]], tag
    steps = [e.step for e in events.Scalars("val/nll")]
    assert len(steps) == 7 and len({b - a for a, b in pairwise(steps)}) == 1


def test_train_and_val_are_the_first_sections(run):
    events = read(run)
    shown = [*events.Tags()["scalars"], *events.Tags()["images"]]

    sections = sorted({tag.split("/")[0] for tag in shown})

    assert sections == ["train", "val", "~test", "~time"]


def test_a_loss_with_a_link_of_its_own_has_25_scalars_at_most(tmp_path):
    small = ("trainer.epochs=1", "report.kneser_ney.max_order=0", "report.verse.lines=0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "figure", lambda *_: None)
        start(compose(*SMALL, *small, "loss=focal"), tmp_path / "run", quiet=True)

    tags = read(tmp_path / "run").Tags()["scalars"]

    assert len(tags) <= 25 and {"val/ece_softmax", "val/ece_own"} <= set(tags)


def test_the_results_are_one_table_of_text(run):
    (event,) = read(run).Tensors("results/text_summary")
    heading, rule, *rows = event.tensor_proto.string_val[0].decode().split("\n")
    lines = read_metrics(run)
    (nll,) = [line["nll"] for line in lines if line["split"] == "test" and "nll" in line]

    assert heading.startswith("|  | nll | perplexity | accuracy |")
    assert rule.count("---:") == heading.count("|") - 2
    assert rows[0].startswith(f"| test | {nll:.4f} | ")
    assert any(row.startswith("| test, Kneser-Ney") for row in rows)


def test_every_run_announces_the_settings_of_every_loss_and_displays_what_all_runs_have(run):
    values = {}
    for raw in RawEventFileLoader(str(next(run.glob("events.*")))).Load():
        for value in Event.FromString(raw).summary.value:
            values[value.tag] = value.metadata.plugin_data.content
    announced = metadata.parse_experiment_plugin_data(values[metadata.EXPERIMENT_TAG])
    own = metadata.parse_session_start_info_plugin_data(values[metadata.SESSION_START_INFO_TAG])
    columns = {info.name: info for info in announced.hparam_infos}
    by_name = sorted(columns.values(), key=lambda info: (not info.differs, info.name))

    assert {"loss.gamma", "loss.M", "loss.alpha", "loss.weight.scheme"} <= set(columns)
    assert set(own.hparams) <= set(columns)
    displayed = [info.name for info in by_name[:5]]
    assert displayed[0] == "loss" and "optimizer.lr" in displayed
    assert set(displayed) <= set(own.hparams)
    names = [metric.display_name for metric in announced.metric_infos]
    assert names[:4] == ["test/nll", "test/accuracy", "test/ece", "test/ece_temperature"]
    assert {metric.name.tag for metric in announced.metric_infos} <= set(
        read(run).Tags()["scalars"]
    )


def test_the_config_and_verse_are_text_and_diagrams_are_few(run):
    events = read(run)

    texts = {
        tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
        if tag.endswith("text_summary")
    }
    diagrams = events.Images("val/reliability")

    assert "_target_: losses.CrossEntropyLoss" in texts["config/text_summary"]
    assert "vocabulary" in texts["data/text_summary"]
    for verse in ("verse/text_summary", "verse, best weights/text_summary"):
        assert len(texts[verse].strip().split("\n")) == 2
    assert len(diagrams) == 5
    assert diagrams[-1].step == events.Scalars("val/nll")[-1].step
    assert len(events.Images("~test/reliability")) == 1


@pytest.mark.slow
def test_hparams_show_a_row_a_loss_configuration_that_opens_to_its_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(RunLog, "figure", lambda *_: None)
    small = [*SMALL, "trainer.epochs=1", "report.kneser_ney.max_order=0", "report.verse.lines=0"]
    for loss, seed in (("cross_entropy", 1), ("cross_entropy", 2), ("focal", 1)):
        cfg = compose(*small, f"loss={loss}", f"seed={seed}")
        start(cfg, tmp_path / f"{loss}-seed{seed}", loss=loss, quiet=True)
    with pytest.raises(DivergedError):
        cfg = compose(*small, "optimizer.lr=1e30", "loss=focal")
        start(cfg, tmp_path / "bad", loss="focal", quiet=True)

    groups = session_groups(tmp_path)

    sessions = {tuple(sorted(s.name for s in g.sessions)) for g in groups}
    assert sessions == {
        ("cross_entropy-seed1", "cross_entropy-seed2"),
        ("focal-seed1",),
        ("bad",),
    }
    for group in groups:
        shown = {name: value_of(value) for name, value in group.hparams.items() if value}
        assert "seed" not in shown
        assert shown["loss"] == group.sessions[0].name.split("-")[0].replace("bad", "focal")
        loss = compose(f"loss={shown['loss']}").loss
        assert {f"loss.{key}" for key in loss if not key.startswith("_")} <= set(shown)
        bad = group.sessions[0].name == "bad"
        status = api_pb2.STATUS_FAILURE if bad else api_pb2.STATUS_SUCCESS
        assert [s.status for s in group.sessions] == [status] * len(group.sessions)
    assert {f.parent.name for f in tmp_path.rglob("events*")} == {
        f.name for f in tmp_path.iterdir()
    }


def test_a_run_under_way_has_no_end_yet(tmp_path):
    def stopped(self):
        raise Interrupted(15)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(fit, "save", stopped)
        run_in(tmp_path / "run", *TINY, "trainer.save_every=1")
    groups = session_groups(tmp_path)

    assert [s.status for g in groups for s in g.sessions] == [api_pb2.STATUS_UNKNOWN]


def session_groups(folder):
    """Return the rows of the HParams page, as TensorBoard itself makes them."""
    runs = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(folder))
    runs.Reload()
    provider = data_provider.MultiplexerDataProvider(runs, str(folder))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=api_pb2.Status.values(),
    )
    response = list_session_groups.Handler(RequestContext(), context, "", wanted).run()
    return response.session_groups


def value_of(value):
    return getattr(value, value.WhichOneof("kind")) if value.WhichOneof("kind") else None


def test_custom_scalars_name_tags_that_the_run_has(run):
    events = read(run)
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    tags = events.Tags()["scalars"]
    charts = [chart for category in layout.category for chart in category.chart]

    assert len(charts) == 4
    for chart in charts:
        for pattern in chart.multiline.tag:
            assert sum(bool(re.match(pattern, tag)) for tag in tags) == 1, pattern


def test_the_projector_has_each_word_with_its_count(run):
    config = (run / "projector_config.pbtxt").read_text(encoding="utf-8")
    (words,) = run.glob("*/words/metadata.tsv")
    rows = [line.split("\t") for line in words.read_text(encoding="utf-8").splitlines()]
    vectors = np.loadtxt(words.with_name("tensors.tsv"))
    state = load_checkpoint(run / "checkpoints" / "best.pt")
    order = state["class_counts"].argsort(descending=True, stable=True)

    assert f"{words.parent.parent.name}/words/tensors.tsv" in config
    assert rows[0] == ["word", "count"]
    assert [int(count) for _, count in rows[1:]] == state["class_counts"][order].tolist()
    assert rows[1][0] in ascii(state["class_names"][order[0]])
    assert np.allclose(vectors, state["model"]["embedding.weight"][order], atol=1e-6)
    with Image.open(words.with_name("sprite.png")) as sprite:  # a frequent word is yellow
        assert sprite.getpixel((0, 0)) == (253, 231, 36)


def test_there_is_one_event_file_and_no_other_run(run):
    assert len(list(run.rglob("events.out.tfevents.*"))) == 1
    assert next(run.glob("events.out.tfevents.*")).parent == run
