"""The numbers of the lessons in docs/ are those of the code."""

import re
from statistics import fmean, stdev

import pytest
import torch
from conftest import ROOT

from losses import (
    CrossEntropyLoss,
    FocalLoss,
    GeneralisedCrossEntropyLoss,
    LogitAdjustedLoss,
    LogitsMSELoss,
    OneVsRestBCELoss,
    RescaledMSELoss,
    SoftmaxMSELoss,
)
from metrics import Calibration
from training import errors

ETA = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
LOSSES = {
    "cross_entropy": CrossEntropyLoss(reduction="none"),
    "label_smoothing": CrossEntropyLoss(label_smoothing=0.1, reduction="none", floor=0),
    "weighted": CrossEntropyLoss([1.0, 2.0, 4.0], reduction="none"),
    "logit_adjusted": LogitAdjustedLoss([1, 2, 4], reduction="none"),
    "generalised": GeneralisedCrossEntropyLoss(reduction="none"),
    "focal": FocalLoss(gamma=2, reduction="none"),
    "mse": SoftmaxMSELoss(reduction="none"),
    "mse_logits": LogitsMSELoss(reduction="none", floor=0),
    "mse_rescaled": RescaledMSELoss(reduction="none", floor=0),
    "bce": OneVsRestBCELoss(reduction="none"),
}


def table(page, heading):
    """Return the rows of the first table below a heading, as lists of cells."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    text = text.split(f"\n{heading}\n")[1].split("\n#")[0]
    rows = [line.strip("|").split("|") for line in text.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def minimiser(loss_fn):
    """Return the logits of the least expected loss under ETA, found by L-BFGS from 0."""
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        expected = (ETA * loss_fn(logits.expand(3, 3), torch.arange(3))).sum()
        expected.backward()
        return expected

    for _ in range(5):
        optimizer.step(closure)
    return logits.detach()


@pytest.mark.parametrize("name", LOSSES)
def test_the_table_of_minima_is_what_each_loss_has(name):
    lines = table("losses.md", "## What a link is")
    rows = {re.findall(r"`(\w+)`", line[0])[0]: line[1:] for line in lines}
    written = torch.tensor([[float(x) for x in cell.split()] for cell in rows[name]]).double()

    logits = minimiser(LOSSES[name])

    found = [logits, logits.softmax(1), LOSSES[name].own_log_probs(logits).exp()]
    assert rows.keys() == LOSSES.keys()
    torch.testing.assert_close(torch.cat(found), written, rtol=0, atol=6e-5)


def test_the_worked_example_of_ece():
    calibration = Calibration()
    confidence = torch.tensor([0.95, 1.0], dtype=torch.float64)
    calibration.update(confidence, torch.tensor([True, False]))

    assert abs(calibration.compute()["ece"] - 0.475) < 1e-12


@pytest.mark.parametrize(("num_rows", "written"), [(100, 0.089), (1000, 0.028), (10_000, 0.009)])
def test_the_floor_of_ece_is_what_calibrated_models_show(num_rows, written):
    generator = torch.Generator().manual_seed(1)
    eces = []
    for _ in range(200):
        confidence = 0.5 + 0.5 * torch.rand(num_rows, generator=generator, dtype=torch.float64)
        calibration = Calibration()
        correct = torch.rand(num_rows, generator=generator) < confidence
        calibration.update(confidence, correct)
        eces.append(abs(calibration.bins().residual).sum() / num_rows)

    page = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
    assert re.search(r"perfectly calibrated model \| \.089 \| \.028 \| \.009 \|", page)
    standard_error = stdev(eces) / len(eces) ** 0.5
    assert abs(fmean(eces) - written) < 4 * standard_error + 5e-4  # the page has three decimals


def test_the_table_of_exit_codes_is_that_of_the_errors():
    listed = {row[0] for row in table("running.md", "## Exit codes")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]

    codes = {str(kind.exit_code) for kind in kinds if issubclass(kind, errors.UserError)}

    assert codes <= listed == {"0", "1", "2", "3", "4", "5", "129, 130, 143"}
