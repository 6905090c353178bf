"""What TensorBoard opens with: the figures it draws, their order, and the columns of HParams."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from training.run.identity import leaves
from training.run.targets import CONFIGS

CLASSES = ("accuracy", "balanced_accuracy", "worst_class_accuracy")
CURVES = (
    *("loss", "nll", "perplexity", *CLASSES, "brier"),
    *("ece", "ece_null", "ece_softmax", "ece_own"),
)
SHOWN = {  # the figures that TensorBoard draws, 25 at most; `metrics.jsonl` has all of them
    "train": (*CURVES, "lr", "gradient_norm"),
    "val": CURVES,
    "test": (
        *("nll", *CLASSES, "brier", "ece"),
        *("temperature", "nll_temperature", "ece_temperature"),
    ),
    "time": ("examples_per_s", "seconds"),
    "data": (),
}
# Five columns of HParams are displayed: those marked as different, then by name.
DISPLAYED = ("loss", "model", "optimizer.lr", "trainer.batch_size", "trainer.epochs")
CHARTS = {  # of TensorBoard's Custom Scalars: {section: {chart: [kind, tags]}}
    "objective and yardstick": {
        "objective against nll (val)": ["Multiline", ["val/loss", "val/nll"]],
        "train against val (objective)": ["Multiline", ["train/loss", "val/loss"]],
    },
    "calibration": {
        "ECE and its floor (val)": ["Multiline", ["val/ece$", "val/ece_null"]],
        "ECE before and after temperature (test)": [
            "Multiline",
            ["~test/ece$", "~test/ece_temperature"],
        ],
    },
}


def is_shown(group: str, name: str) -> bool:
    """Say whether TensorBoard draws a figure; a group of one's own is drawn whole."""
    return name in SHOWN.get(group, [name])


def tag_of(tag: str) -> str:
    """Return TensorBoard's tag: it sorts sections by name, and the curves of training come first.

    What is measured once, at the end, follows them: "test/nll" is "~test/nll" there.
    """
    return tag if tag.startswith(("train/", "val/")) else f"~{tag}"


def hparams(identity: Mapping[str, Any], metrics: Iterable[str]) -> list[Summary]:
    """Return what HParams reads: the columns of all runs, and the settings of this one.

    TensorBoard takes the columns from any one run, and its parallel coordinates leave out a run
    that lacks a displayed one. So each run announces the settings of every loss in `configs/`, and
    marks as different, and so displays, some that every run has. Seeds of one configuration share
    their trial.

    Args:
        identity: what the run is.
        metrics: tags of the figures at its end, the most important first.
    """
    settings = identity["settings"]
    shown = {"loss": identity["loss"], "model": settings["model._target_"].rsplit(".", 1)[-1]}
    for key, value in settings.items():
        if key.startswith(("loss.", "optimizer.", "trainer.")) and not key.endswith("_"):
            plain = isinstance(value, bool | int | float | str)
            shown[key] = value if plain else json.dumps(value)
    options = sorted((CONFIGS / "loss").glob("*.yaml"))
    columns = {
        f"loss.{key}": value
        for file in options
        for key, value in leaves(OmegaConf.load(file)).items()  # type: ignore[arg-type]
        if not key.endswith("_") and key != "defaults" and "${" not in str(value)
    } | shown
    number, text = api_pb2.DATA_TYPE_FLOAT64, api_pb2.DATA_TYPE_STRING
    types = {bool: api_pb2.DATA_TYPE_BOOL, int: number, float: number}
    infos = [
        api_pb2.HParamInfo(name=key, type=types.get(type(value), text), differs=key in DISPLAYED)
        for key, value in columns.items()
    ]
    infos[list(columns).index("loss")].domain_discrete.extend(file.stem for file in options)
    experiment = api_pb2.Experiment(hparam_infos=infos)
    for tag in metrics:
        experiment.metric_infos.add(name={"tag": tag_of(tag)}, display_name=tag)
    announced = plugin_summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))
    return [announced, hparams_pb(shown, trial_id=identity["group"])]


def plugin_summary(tag: str, data: HParamsPluginData) -> Summary:
    """Return a summary that carries data of the HParams plugin."""
    about = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])
