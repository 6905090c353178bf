"""The network and the counts mixed: the weight, and the figures of a run."""

import numpy as np
import pytest
import torch
from torch import nn

from losses import CrossEntropyLoss, LogitsMSELoss
from ngram.data import sonnets
from ngram.kneser_ney import KneserNey
from ngram.mixture import best_weight
from ngram.reports import KneserNeyBaseline
from training.data import Split
from training.run.folder import read_metrics
from training.run.log import RunLog
from training.run.report import ReportContext


def weight_of(p, q):
    rows = Split(torch.arange(len(p)), torch.zeros(len(p), dtype=torch.long))
    given = [torch.tensor(probs, dtype=torch.float64).log()[:, None] for probs in (p, q)]
    return best_weight(lambda x: given[0][x], lambda x: given[1][x], rows)


@pytest.mark.parametrize("times", [1, 400])  # 400: in several chunks
def test_the_weight_is_that_of_the_least_nll(times):
    unsure = weight_of([0.9, 0.9, 0.9, 0.1, 0.1] * times, [0.3, 0.3, 0.3, 0.5, 0.5] * times)
    certain = weight_of([1.0, 1.0, 1.0, 0.0] * times, [0.0, 0.0, 0.0, 1.0] * times)

    # 3 (.9 - .3) / (.3 + .6 w) = 2 (.5 - .1) / (.5 - .4 w) at w = .55
    assert unsure == pytest.approx(0.55, rel=1e-12)
    # of two that are certain, the share of rows in which the first is right
    assert certain == pytest.approx(0.75, rel=1e-12)


def test_the_weight_stops_at_0_and_1():
    assert weight_of([0.2, 0.1], [0.3, 0.4]) == pytest.approx(0, abs=1e-12)
    assert weight_of([0.3, 0.4], [0.2, 0.1]) == pytest.approx(1, abs=1e-12)


class SkipBigrams(nn.Module):
    """Scores looked up by the word before the nearest; only in training are they dropped."""

    def __init__(self, scores, place):
        super().__init__()
        self.scores, self.place, self.dropout = nn.Parameter(scores), place, nn.Dropout(0.9)

    def forward(self, inputs):
        return self.dropout(self.scores[inputs[:, self.place]])


def report_on(data, loss_fn, scores, nearest_first, folder):
    model = SkipBigrams(scores, 1 if nearest_first else -2).train()
    log = RunLog(folder)
    context = ReportContext(model, loss_fn, data, log, step=7, seed=1, final=True)
    report = KneserNeyBaseline(max_order=2, nearest_first=nearest_first)(context)
    log.close()
    return report.rows, read_metrics(folder)[-1]


@pytest.mark.parametrize("nearest_first", [False, True])
@pytest.mark.parametrize("loss_fn", [CrossEntropyLoss(), LogitsMSELoss()], ids=["softmax", "own"])
def test_the_mixture_is_the_one_computed_at_once(loss_fn, nearest_first, tmp_path):
    settings = {"context_size": 3, "max_lines": 600}
    data, ordered = sonnets(**settings, nearest_first=nearest_first), sonnets(**settings)
    counts = torch.ones(data.num_classes, data.num_classes, dtype=torch.float64) / 100
    pairs = ordered.train.inputs[:, -2], ordered.train.targets
    probs = counts.index_put_(pairs, torch.tensor(1.0).double(), accumulate=True)
    probs = (probs / probs.sum(1, keepdim=True)).float()
    scores = probs if isinstance(loss_fn, LogitsMSELoss) else probs.log()

    rows, logged = report_on(data, loss_fn, scores, nearest_first, tmp_path)

    text = torch.cat([ordered.train.inputs[0], ordered.train.targets])
    order, weight = int(logged["kneser_ney_order"]), logged["mixture_weight"]
    counted = KneserNey.fit(text, data.num_classes, order)

    def both(split):
        y = split.targets[:, None]
        p = loss_fn.log_probs(scores[split.inputs[:, -2]].double()).gather(1, y)
        return p.exp().numpy(), counted.log_probs(split.inputs).gather(1, y).exp().numpy()

    grid = np.linspace(0, 1, 2001)
    p, q = both(ordered.calibration)
    best = grid[np.log(grid * p + (1 - grid) * q).mean(0).argmax()]
    p, q = both(ordered.test)
    assert 0.02 < best < 0.98
    assert weight == pytest.approx(best, abs=1 / 2000)
    nll = -np.log(weight * p + (1 - weight) * q).mean()
    assert logged["mixture_nll"] == pytest.approx(nll, rel=1e-6)
    assert (
        rows[f"test, mixed with Kneser-Ney {order} (w = {weight:.2f})"]["nll"]
        == (logged["mixture_nll"])
    )
    assert logged["mixture_nll"] < min(logged["kneser_ney_nll"], -np.log(p).mean())


def test_with_no_calibration_split_there_is_no_mixture(tmp_path):
    data = sonnets(context_size=3, max_lines=600, split=(0.8, 0.1, 0.0, 0.1))
    scores = torch.zeros(data.num_classes, data.num_classes)

    rows, logged = report_on(data, CrossEntropyLoss(), scores, False, tmp_path)

    assert list(rows) == [f"test, Kneser-Ney {int(logged['kneser_ney_order'])}"]
    assert not any(name.startswith("mixture") for name in logged)
