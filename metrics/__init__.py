"""What probabilities are worth: scores, calibration, temperature, reliability diagrams.

print(report(labels, logits=logits))  # all figures of some predictions, in one call

metrics = Metrics(num_classes=10)  # or batch by batch
for log_probs, targets in batches:
    metrics.update(log_probs, targets)
print(metrics.compute()["ece"])
draw_reliability(reliability_data(metrics.bins(), metrics.compute())).savefig("diagram.png")
"""

from metrics.calibration import Calibration
from metrics.calibration_error import (
    Bins,
    adaptive_error,
    expected_error,
    group_equal,
    maximum_error,
    root_mean_square_error,
    smooth_error,
)
from metrics.floor_and_interval import bootstrap_interval, null_error
from metrics.per_example import PerExample
from metrics.predictions import MetricsReport, report
from metrics.reliability import ReliabilityData, draw_reliability, reliability_data
from metrics.rows import cached_rows
from metrics.temperature import (
    TemperatureFit,
    apply_temperature,
    fit_temperature,
    fit_temperature_in_chunks,
)
from metrics.tracker import Metrics

__all__ = [
    "Bins", "Calibration", "Metrics", "MetricsReport", "PerExample", "ReliabilityData",
    "TemperatureFit", "adaptive_error", "apply_temperature", "bootstrap_interval", "cached_rows",
    "draw_reliability", "expected_error", "fit_temperature", "fit_temperature_in_chunks",
    "group_equal", "maximum_error", "null_error", "reliability_data", "report",
    "root_mean_square_error", "smooth_error",
]  # fmt: skip
