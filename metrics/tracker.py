"""The yardstick of every loss: sums over the rows of a split, divided once at the end.

nll, Brier score, accuracy and calibration of the probabilities that a model reports; the objective
that was trained on stands beside them as `loss`. int64 counts and float64 sums on the device make
the answer independent of how the rows were cut into batches and shared out to processes.

N rows, C classes.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from metrics.calibration import Calibration
from metrics.calibration_error import Bins
from metrics.classwise_ece import ClasswiseCalibration
from metrics.rows import as_rows, cached_rows, plainly_scorable, rank_of_targets, tolerance


class Metrics:
    """Accumulate the metrics of a split.

    - `nll` = mean of -log p_y, `perplexity` = exp(nll)
    - `brier` = mean over rows of the *sum* over classes of (p_k - [k = y])^2, from 0 to 2
    - `accuracy` of the most probable class, `top5`: of the five most probable. Of equal
      probabilities the lower class comes first
    - `loss` = sum of the objective's totals / sum of its normalisers
    - `classwise_ece` = mean over classes of the ECE of p_k as the probability of y = k
    - all of `Calibration.compute`
    - `count` = the rows that were scored
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_bins: int = 15,
        ignore_index: int = -100,
        device: torch.device | str = "cpu",
        classwise: bool | None = None,
        seed: int = 0,
    ) -> None:
        """Start from nothing.

        Args:
            num_classes: C.
            num_bins: of ECE, MCE, RMSCE, adaptive and classwise ECE.
            ignore_index: rows with this target count nowhere.
            device: where the sums are kept.
            classwise: whether to compute classwise ECE, for which every probability must be binned.
                None: up to 1,000 classes.
            seed: of ECE's interval.
        """
        if num_classes < 1:
            raise ValueError(f"num_classes must be >= 1, got {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.seed = seed
        self.calibration = Calibration(num_bins, device=device)
        device = self.calibration.counts.device
        # rows scored, correct, in the top 5, not normalised, with a target that is no class
        self.counts = torch.zeros(5, dtype=torch.int64, device=device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.normaliser = torch.zeros((), dtype=torch.float64, device=device)
        if classwise is None:
            classwise = num_classes <= 1000
        self.classwise = ClasswiseCalibration(num_classes, num_bins, device) if classwise else None
        self.scratch = torch.empty(0, num_classes, device=device)
        self.size = cached_rows(num_classes, device)
        self.queue: list[tuple[Tensor, Tensor]] = []  # small batches: a pass costs its overhead
        self.num_queued = 0  # rows

    @torch.no_grad()
    def update(
        self,
        log_probs: Tensor,
        targets: Tensor,
        *,
        loss_sums: tuple[Tensor | float, Tensor | float] | None = None,
    ) -> None:
        """Add rows.

        Rows that hold NaN or do not sum to 1, and targets that are no class, are refused: at once
        on a CPU; elsewhere, where looking would stall the device's queue, by `compute`.

        Args:
            log_probs: (N, C) or (N, C, d1, ...), normalised over C.
            targets: (N,) or (N, d1, ...) classes.
            loss_sums: total and normaliser of the objective over the same rows.
        """
        log_probs, targets = as_rows(log_probs, targets, self.num_classes)
        device = self.counts.device
        log_probs, targets = log_probs.to(device), targets.to(device)
        if not self._enqueue(log_probs, targets):
            for rows in zip(log_probs.split(self.size), targets.split(self.size), strict=True):
                self._add(*rows)
        if loss_sums is not None:
            self.loss += loss_sums[0]
            self.normaliser += loss_sums[1]

    def _enqueue(self, log_probs: Tensor, targets: Tensor) -> bool:
        """Queue a small batch; not one that may be refused, which must be told at once."""
        room = self.size // 4
        if not 0 < 4 * len(targets) <= room:
            return False
        if log_probs.device.type == "cpu" and not plainly_scorable(log_probs, targets):
            return False
        of_another_type = self.queue and self.queue[0][0].dtype != log_probs.dtype
        if self.num_queued + len(targets) > room or of_another_type:
            self._flush()
        self.queue.append((log_probs.clone(), targets.clone()))
        self.num_queued += len(targets)
        return True

    def _flush(self) -> None:
        if self.queue:
            log_probs, targets = (torch.cat(parts) for parts in zip(*self.queue, strict=True))
            self.queue, self.num_queued = [], 0
            self._add(log_probs, targets)

    def _add(self, log_probs: Tensor, targets: Tensor) -> None:
        """Add (n, C) rows that fit the cache."""
        margin = tolerance(log_probs)
        if log_probs.dtype.itemsize < 4:
            log_probs = log_probs.float()
        valid = targets != self.ignore_index
        classes = targets.clamp(0, self.num_classes - 1)
        if len(self.scratch) < len(log_probs) or self.scratch.dtype != log_probs.dtype:
            self.scratch = torch.empty_like(log_probs)
        scratch = self.scratch[: len(log_probs)]  # fresh memory costs as much as what it is for
        rank = rank_of_targets(log_probs, classes[:, None], scratch)
        # exp2 takes a third of the time of exp on a CPU
        probs = torch.mul(log_probs, math.log2(math.e), out=scratch).exp2_()
        normalised = (probs.sum(1) - 1).abs() <= margin  # NaN is not
        correct = rank == 0
        flags = [valid, correct, rank < 5, ~normalised, classes != targets]
        counts = (torch.stack(flags) & valid).sum(1)
        if counts.device.type == "cpu":
            self._refuse(counts)
        rows = classes[:, None]
        log_y = log_probs.gather(1, rows).squeeze(1).double()
        probs_y = probs.gather(1, rows)
        others = torch.linalg.vector_norm(probs.scatter_(1, rows, 0), dim=1).double()
        brier = others.square() + log_y.expm1().square()  # no difference of numbers near 1
        probs.scatter_(1, rows, probs_y)
        self.counts += counts
        self.sums += torch.stack([-log_y, brier]).where(valid, 0).sum(1)
        confidence = log_probs.amax(1).double().exp()
        self.calibration.update(confidence.where(valid, math.nan), correct)
        if self.classwise:
            self.classwise.update(probs, classes, valid)

    def _refuse(self, counts: Tensor) -> None:
        """Raise for rows that cannot be scored."""
        not_normalised, not_a_class = counts[3:].tolist()
        if not_a_class:
            raise ValueError(
                f"targets must be in [0, {self.num_classes}) or {self.ignore_index} to be ignored: "
                f"{not_a_class} of them are not"
            )
        if not_normalised:
            raise ValueError(
                "log_probs must be log-probabilities: "
                f"{not_normalised} rows hold NaN or do not sum to 1"
            )

    def _tensors(self) -> list[Tensor]:
        self._flush()
        classwise = [self.classwise.residuals] if self.classwise else []
        return [self.counts, self.sums, self.loss, self.normaliser, *classwise]

    def merge(self, other: "Metrics") -> None:
        """Add the rows of another tracker, as if they had been added here."""
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine += theirs.to(mine.device)
        self.calibration.merge(other.calibration)

    def all_reduce(self) -> None:
        """Merge the trackers of all processes of the run, in each of them."""
        if not dist.is_initialized():
            return
        for tensor in self._tensors():
            dist.all_reduce(tensor)
        self.calibration.all_reduce()

    def bins(self) -> Bins:
        """Return the sums per bin of confidence."""
        self._flush()
        return self.calibration.bins()

    def compute(self) -> dict[str, float]:
        """Return every metric over all rows added so far."""
        self._flush()
        self._refuse(self.counts)
        count, correct, top5 = self.counts.tolist()[:3]
        if not count:
            raise ValueError("no rows to compute metrics from: none were added, or all are ignored")
        nll, brier = (self.sums / count).tolist()
        normaliser = self.normaliser.item()
        figures = {"loss": self.loss.item() / normaliser} if normaliser else {}
        figures |= {
            "nll": nll,
            "perplexity": math.exp(nll) if nll < 709 else math.inf,
            "accuracy": correct / count,
            "top5": top5 / count,
            "brier": brier,
        }
        figures |= self.calibration.compute(seed=self.seed)
        if self.classwise:
            figures["classwise_ece"] = self.classwise.error(count)
        return figures | {"count": float(count)}
