"""Temperature for a trained model: fitted on one split, measured on another."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from losses import ClassificationLoss
from metrics.temperature import TemperatureFit, apply_temperature, fit_temperature_in_chunks
from metrics.tracker import Metrics
from training.data import Split
from training.distributed import from_main, together
from training.evaluation import Evaluation, logits_of

MAX_KEPT = 2**26  # log-probabilities; a larger calibration split is computed again in each pass


@dataclass(frozen=True)
class Recalibration:
    """A temperature, and the test split measured with it."""

    fit: TemperatureFit
    test: Evaluation

    def scalars(self) -> dict[str, float]:
        """Return T and the test metrics, named `*_temperature`, to stand beside those without."""
        metrics = {f"{name}_temperature": value for name, value in self.test.metrics.items()}
        del metrics["count_temperature"]
        return {"temperature": self.fit.temperature} | metrics


@torch.no_grad()
def log_probs_of(
    model: nn.Module,
    loss_fn: ClassificationLoss,
    split: Split,
    num_classes: int,
    max_rows: int | None = None,
    *,
    shared: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (log_probs, targets) of a few rows at a time, by the link that the loss reports."""
    for logits, _, targets in logits_of(model, split, num_classes, max_rows, shared=shared):
        yield loss_fn.log_probs(logits), targets


def recalibrate(
    model: nn.Module,
    loss_fn: ClassificationLoss,
    calibration: Split,
    test: Split,
    num_classes: int,
    max_rows: int | None = None,
) -> Recalibration:
    """Fit T on `calibration` and measure `test` with it; T = 1 where the fit ends at a bound."""

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        return log_probs_of(model, loss_fn, calibration, num_classes, max_rows)

    def fitted() -> TemperatureFit:
        kept = list(chunks()) if len(calibration) * num_classes <= MAX_KEPT else None
        return fit_temperature_in_chunks(
            lambda: chunks() if kept is None else kept, ignore_index=loss_fn.ignore_index
        )

    fit = from_main(fitted)
    if fit.at_bound:  # on a split without mistakes T goes to 0: certain, also of the wrong
        fit = replace(fit, temperature=1.0, nll_after=fit.nll_before)
    metrics = Metrics(num_classes, ignore_index=loss_fn.ignore_index, device=test.targets.device)
    with together():
        rows = log_probs_of(model, loss_fn, test, num_classes, max_rows, shared=True)
        for log_probs, targets in rows:
            metrics.update(apply_temperature(log_probs, fit.temperature), targets)
    metrics.all_reduce()
    return Recalibration(fit, Evaluation(metrics.compute(), metrics.bins()))
