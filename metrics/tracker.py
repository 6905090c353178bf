"""The metrics by which any losses can be compared: sums over rows, divided once at the end.

nll, Brier score, accuracy and calibration of the probabilities that a model reports. The objective
that was trained on stands beside them as `loss`. int64 counts and float64 sums on the device make
the answer independent of how the rows were cut into batches and shared out to processes.

N rows, C classes.
"""

import math

import torch
from torch import Tensor

from metrics.calibration import Calibration
from metrics.calibration_error import Bins
from metrics.classwise_ece import ClasswiseCalibration
from metrics.rows import as_rows, cached_rows, rank_of_targets
from metrics.sums import Sums


class Metrics(Sums):
    """Accumulate the metrics of a split.

    - `nll` = mean of -log p_y, in nats; `perplexity` = exp(nll)
    - `brier` = mean over rows of the *sum* over classes of (p_k - [k = y])^2, from 0 to 2
    - `accuracy` = share of rows whose most probable class is the target; `top5` = share whose
      target is among the five most probable. On ties the lower class ranks first
    - `balanced_accuracy`, `worst_class_accuracy` = mean and least of the accuracies of the classes,
      each over the rows whose target is that class; a class without such rows counts in neither
    - `loss` = sum of the objective's totals / sum of its normalisers
    - `classwise_ece` = mean over classes of the ECE of p_k as the probability of y = k
    - every figure of `Calibration.compute`
    - `count` = number of rows that were scored

    Args:
        num_classes: C.
        num_bins: number of bins of ECE, MCE, RMSCE, adaptive and classwise ECE.
        ignore_index: rows with this target count nowhere.
        device: where the sums are kept; for mps, the CPU.
        classwise: whether to compute classwise ECE, for which every probability must be binned.
            None means up to 1,000 classes.

    Raises:
        ValueError: `num_classes` or `num_bins` is below 1.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_bins: int = 15,
        ignore_index: int = -100,
        device: torch.device | str = "cpu",
        classwise: bool | None = None,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be >= 1, got {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.calibration = Calibration(num_bins, device=device)
        device = self.calibration.count.device
        # log p_y, Brier score, whether among the top 5
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.loss_sums = torch.zeros(2, dtype=torch.float64, device=device)  # total, normaliser
        # rows whose target is each class, and how many of them are correct
        self.of_class = torch.zeros(2, num_classes, dtype=torch.int64, device=device)
        if classwise is None:
            classwise = num_classes <= 1000
        self.classwise = ClasswiseCalibration(num_classes, num_bins, device) if classwise else None
        self.tensors = [self.sums, self.loss_sums, self.of_class, *self.calibration.tensors]
        if self.classwise:
            self.tensors.append(self.classwise.residuals)

    @torch.no_grad()
    def update(
        self,
        log_probs: Tensor,
        targets: Tensor,
        *,
        loss_sums: tuple[Tensor | float, Tensor | float] | None = None,
    ) -> None:
        """Add rows.

        Args:
            log_probs: (N, C) or (N, C, d1, ...), normalised over C; a tensor or an array.
            targets: (N,) or (N, d1, ...) classes; a tensor or an array.
            loss_sums: total and normaliser of the objective over the same rows.

        Raises:
            ValueError: a shape is wrong, a row holds NaN or does not sum to 1, or a target is no
                class.
            TypeError: `log_probs` are not floating, or `targets` are.
        """
        device = self.sums.device
        log_probs = torch.as_tensor(log_probs, device=device)
        targets = torch.as_tensor(targets, device=device)
        rows, classes = as_rows(log_probs, targets, self.num_classes, self.ignore_index)
        size = cached_rows(self.num_classes, device)
        before = [sums.clone() for sums in self.tensors] if len(rows) > size else []
        try:
            for start in range(0, len(rows), size):
                self._add(rows[start : start + size], classes[start : start + size])
        except ValueError:  # a batch is added whole or not at all
            for sums, old in zip(self.tensors, before, strict=False):
                sums.copy_(old)
            raise
        if loss_sums is not None:
            for mine, new in zip(self.loss_sums, loss_sums, strict=True):
                mine += new.to(device) if isinstance(new, Tensor) else new

    def _add(self, log_probs: Tensor, targets: Tensor) -> None:
        """Add rows (n, C) that fit the cache, and their targets (n, 1)."""
        margin = max(1e-4, 8 * torch.finfo(log_probs.dtype).eps)  # how far rounding takes a sum
        if log_probs.dtype.itemsize < 4:
            log_probs = log_probs.float()
        # exp2 takes a third of the time of exp on a CPU
        probs = (log_probs * math.log2(math.e)).exp2_()
        off = probs.sum(1).sub_(1)
        if not float(torch.linalg.vector_norm(off, math.inf)) <= margin:
            num_bad = len(off) - int((off.abs() <= margin).sum())  # NaN is not
            raise ValueError(
                f"log_probs must be log-probabilities: {num_bad} rows hold NaN or do not sum to 1"
            )
        log_y = log_probs.gather(1, targets)
        rank = rank_of_targets(log_probs, targets, log_y)
        correct = rank == 0
        self.calibration.update(log_probs.amax(1).double().exp(), correct)
        classes = targets.squeeze(1)
        self.of_class[0].index_add_(0, classes, torch.ones_like(classes))
        self.of_class[1].index_add_(0, classes, correct.long())
        if self.classwise:
            self.classwise.update(probs, targets)
        log_y = log_y.squeeze(1).double()
        # The target's own term by expm1: a difference of numbers near 1 would lose its digits.
        others = torch.linalg.vector_norm(probs.scatter_(1, targets, 0), dim=1).double()
        brier = others.square() + log_y.expm1().square()
        self.sums += torch.stack([log_y, brier, rank < 5]).sum(1)

    def bins(self) -> Bins:
        """Return the sums per equal-width bin of confidence, for `reliability_data`."""
        return self.calibration.bins()

    def compute(self, *, seed: int = 0) -> dict[str, float]:
        """Return every metric over all rows added so far; ECE's interval is drawn with `seed`.

        Raises:
            ValueError: no rows were added, or all of them are ignored.
        """
        calibration = self.calibration.compute(seed=seed)
        bins = self.bins()
        count = int(bins.count.sum())
        log_y, brier, top5 = (self.sums / count).tolist()
        nll = 0.0 - log_y  # not -0.0
        rows, correct = self.of_class[:, self.of_class[0] > 0].double()
        accuracies = correct / rows  # of the classes that occur
        total, normaliser = self.loss_sums.tolist()
        figures = {"loss": total / normaliser} if normaliser else {}
        figures |= {
            "nll": nll,
            "perplexity": math.exp(nll) if nll < 709 else math.inf,
            "accuracy": int(bins.correct.sum()) / count,
            "balanced_accuracy": accuracies.mean().item(),
            "worst_class_accuracy": accuracies.min().item(),
            "top5": top5,
            "brier": brier,
        }
        figures |= calibration
        if self.classwise:
            figures["classwise_ece"] = self.classwise.error(count)
        return figures | {"count": float(count)}
