"""TensorBoard's HParams and Custom Scalars: a row a loss configuration, and charts of both curves.

Everything lies in the run's own event file; an extra run, as `add_hparams` makes, would be one more
curve in every chart.
"""

import json
import time

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from training.run.log import RunLog

LAYOUT = {
    "objective and yardstick": {
        "objective against nll (val)": ["Multiline", ["val/loss", "val/nll"]],
        "train against val (objective)": ["Multiline", ["train/loss", "val/loss"]],
    },
    "calibration": {
        "ECE and its floor (val)": ["Multiline", ["val/ece$", "val/ece_null"]],
        "ECE before and after temperature (test)": [
            "Multiline",
            ["test/ece$", "test/ece_temperature"],
        ],
    },
}


def log_start(log: RunLog, identity: str) -> None:
    """Write the settings as hyper-parameters; seeds of one configuration share their trial."""
    run = json.loads(identity)
    shown = {"loss": run["loss"]}
    for key, value in run["settings"].items():
        if key.startswith(("loss.", "optimizer.", "trainer.")) and not key.endswith("_"):
            plain = isinstance(value, bool | int | float | str)
            shown[key] = value if plain else json.dumps(value)
    log.summary(hparams_pb(shown, trial_id=run["group"]))
    log.events.add_custom_scalars(LAYOUT)


def log_end(log: RunLog, success: bool) -> None:
    """Write how the run ended: once, since TensorBoard keeps the first that it reads."""
    status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
    value = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(data)
    )
    value.tensor.CopyFrom(metadata.NULL_TENSOR)
    log.summary(Summary(value=[value]))
