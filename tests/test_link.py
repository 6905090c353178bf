"""From the minimiser of a loss back to the probabilities that it was shown."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from losses import (
    CrossEntropyLoss,
    DistillationLoss,
    FocalLoss,
    GeneralisedCrossEntropyLoss,
    HingeLoss,
    LogitAdjustedLoss,
    LogitsMSELoss,
    LogSoftmaxNLLLoss,
    MultiLabelBCELoss,
    OneVsRestBCELoss,
    RescaledMSELoss,
    SoftmaxMSELoss,
    info_nce,
)

WEIGHT = [0.5, 2.0, 1.0]
ETA = tensor([[0.6, 0.3, 0.1], [0.05, 0.2, 0.75], [0.34, 0.33, 0.33]], dtype=torch.float64)

# every row of the table of links, with the floor left out where the link has one
LINKED = {
    "cross_entropy": (CrossEntropyLoss, {}),
    "nll": (LogSoftmaxNLLLoss, {}),
    "mse": (SoftmaxMSELoss, {}),
    "mse_logits": (LogitsMSELoss, {"floor": 0}),
    "mse_rescaled": (RescaledMSELoss, {"floor": 0}),
    "mse_rescaled_low": (RescaledMSELoss, {"k": 3, "M": 1, "floor": 0}),
    "label_smoothing": (CrossEntropyLoss, {"label_smoothing": 0.1, "link": "own", "floor": 0}),
    "weighted": (CrossEntropyLoss, {"weight": WEIGHT, "link": "own"}),
    "weighted_smoothing": (
        CrossEntropyLoss,
        {"weight": WEIGHT, "label_smoothing": 0.1, "link": "own", "floor": 0},
    ),
    "focal_0": (FocalLoss, {"gamma": 0}),
    "focal_half": (FocalLoss, {"gamma": 0.5}),
    "focal_1": (FocalLoss, {"gamma": 1}),
    "focal_3": (FocalLoss, {"gamma": 3}),
    "focal_weighted": (FocalLoss, {"weight": WEIGHT, "gamma": 2}),
    "bce": (OneVsRestBCELoss, {}),
    "logit_adjusted": (LogitAdjustedLoss, {"class_counts": [5, 20, 1], "link": "own"}),
    "logit_adjusted_half": (
        LogitAdjustedLoss,
        {"class_counts": [5, 0, 1], "tau": 0.5, "link": "own"},
    ),
    "generalised": (GeneralisedCrossEntropyLoss, {}),
    "generalised_low": (GeneralisedCrossEntropyLoss, {"q": 0.05}),
}
# their links also say which classes are frequent
REORDERS = [name for name in LINKED if "weighted" in name or "adjusted" in name]


def minimiser(expected_loss, size):
    """Return the logits with the least expected loss, by a second-order method in float64."""
    logits = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=500,
        tolerance_grad=1e-11,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = expected_loss(logits)
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach()


@pytest.mark.parametrize("name", LINKED)
def test_link_recovers_the_probabilities_that_the_loss_was_minimised_for(name):
    make, options = LINKED[name]
    loss_fn = make(reduction="none", **options)

    for eta in ETA:
        logits = minimiser(lambda z, eta=eta: eta @ loss_fn(z.expand(3, 3), torch.arange(3)), 3)

        assert_close(loss_fn.log_probs(logits).exp(), eta, rtol=0, atol=1e-5)
        assert_close(loss_fn.own_log_probs(logits).exp(), eta, rtol=0, atol=1e-5)


def test_without_its_prior_logit_adjustment_gives_the_probabilities_of_balanced_classes():
    counts = tensor([5.0, 20.0, 1.0], dtype=torch.float64)
    loss_fn = LogitAdjustedLoss(counts, reduction="none")

    for eta in ETA:
        logits = minimiser(lambda z, eta=eta: eta @ loss_fn(z.expand(3, 3), torch.arange(3)), 3)

        balanced = eta / counts
        assert_close(loss_fn.log_probs(logits).exp(), balanced / balanced.sum(), rtol=0, atol=1e-5)


def test_the_minimiser_of_generalised_is_a_power_of_the_truth_and_with_q_one_its_peak():
    eta = ETA[0]
    for q in (0.3, 0.7, 1.0):
        loss_fn = GeneralisedCrossEntropyLoss(q=q, reduction="none", link="softmax")
        logits = minimiser(lambda z, f=loss_fn: eta @ f(z.expand(3, 3), torch.arange(3)), 3)

        power = eta ** (1 / (1 - q)) if q < 1 else tensor([1.0, 0.0, 0.0]).double()
        assert_close(loss_fn.log_probs(logits).exp(), power / power.sum(), rtol=0, atol=1e-5)


def test_distilling_true_probabilities_is_recovered_by_softmax():
    eta = ETA[0]
    loss_fn = DistillationLoss(
        lambda x: eta.log().expand(3, 3), temperature=3, alpha=0.4, reduction="none"
    )

    logits = minimiser(lambda z: eta @ loss_fn(z.expand(3, 3), torch.arange(3), torch.empty(3)), 3)

    assert_close(loss_fn.log_probs(logits).exp(), eta, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pos_weight", [None, [0.2, 1.0, 9.0]])
def test_multi_label_link_recovers_each_label(pos_weight):
    eta = tensor([0.6, 0.02, 0.9], dtype=torch.float64)
    loss_fn = MultiLabelBCELoss(pos_weight=pos_weight, reduction="sum")

    logits = minimiser(lambda z: loss_fn(z, eta), 3)

    assert_close(loss_fn.log_probs(logits).exp(), eta, rtol=0, atol=1e-5)
    odds = torch.ones(3) if pos_weight is None else tensor(pos_weight)
    s = logits.sigmoid()
    assert_close(loss_fn.log_probs(logits).exp(), s / (s + odds * (1 - s)), check_dtype=False)


def test_info_nce_is_the_cross_entropy_of_the_softmax_over_candidates():
    similarity = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))

    log_probs = (similarity / 0.3).log_softmax(1)

    assert_close(info_nce(similarity, 0.3), -log_probs.diag().mean())


# Which link is reported


@pytest.mark.parametrize(
    ("loss_fn", "reports_own", "differs"),
    [
        (CrossEntropyLoss(), False, False),
        (CrossEntropyLoss(label_smoothing=0.1), False, True),
        (CrossEntropyLoss(label_smoothing=0.1, link="own"), True, True),
        (CrossEntropyLoss(WEIGHT), False, True),
        (CrossEntropyLoss(WEIGHT, link="own"), True, True),
        (LogSoftmaxNLLLoss(), False, False),
        (FocalLoss(), True, True),
        (FocalLoss(link="softmax"), False, True),
        (FocalLoss(gamma=0), True, False),
        (LogitAdjustedLoss(WEIGHT), False, True),
        (LogitAdjustedLoss(WEIGHT, link="own"), True, True),
        (GeneralisedCrossEntropyLoss(), True, True),
        (GeneralisedCrossEntropyLoss(link="softmax"), False, True),
        (GeneralisedCrossEntropyLoss(q=1), True, False),
        (SoftmaxMSELoss(), False, False),
        (LogitsMSELoss(), True, True),
        (LogitsMSELoss(link="softmax"), False, True),
        (RescaledMSELoss(), True, True),
        (OneVsRestBCELoss(), True, True),
        (OneVsRestBCELoss(link="softmax"), False, True),
        (HingeLoss(), False, False),
        (DistillationLoss(), False, False),
        (MultiLabelBCELoss(), True, True),
    ],
)
def test_the_reported_link_is_the_one_chosen_or_the_default(loss_fn, reports_own, differs):
    logits = tensor([[2.0, 1.0, 0.1], [-1.0, 0.3, 0.4]], dtype=torch.float64)
    softmax, own = logits.log_softmax(1), loss_fn.own_log_probs(logits)

    assert_close(loss_fn.log_probs(logits), own if reports_own else softmax)
    assert loss_fn.link_differs == differs
    assert differs == (not torch.allclose(own, softmax))


@pytest.mark.parametrize("name", [name for name in LINKED if name not in REORDERS])
def test_links_without_weights_rank_classes_as_the_logits_do(name):
    make, options = LINKED[name]
    loss_fn = make(**options)
    logits = 3 * torch.randn(200, 6, generator=torch.Generator().manual_seed(0)).double()

    ranked = loss_fn.log_probs(logits).exp().gather(1, logits.argsort(1))

    assert (ranked.diff(dim=1) >= -1e-12).all()


@pytest.mark.parametrize(
    "make",
    [
        FocalLoss,
        lambda w: CrossEntropyLoss(w, link="own"),
        lambda w: LogitAdjustedLoss(w, link="own"),
    ],
)
def test_the_prior_correction_reorders_classes(make):
    logits = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)).double()
    loss_fn = make(torch.linspace(0.1, 3, 6))

    assert (loss_fn.log_probs(logits).argmax(1) != logits.argmax(1)).any()


@pytest.mark.parametrize("name", LINKED)
def test_links_of_half_precisions_are_computed_in_float32(name):
    make, options = LINKED[name]
    loss_fn = make(**options)
    logits = 3 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))

    for dtype in (torch.float16, torch.bfloat16):
        narrow = logits.to(dtype)
        wide = loss_fn.own_log_probs(narrow.float())
        assert_close(loss_fn.own_log_probs(narrow), wide, rtol=0, atol=0)


# Floor


def test_what_is_not_a_number_is_not_taken_for_knowing_nothing():
    for make, options in LINKED.values():
        log_probs = make(**options).log_probs(tensor([[math.nan, 1.0, 2.0]]))
        assert log_probs.isnan().any(), make


@pytest.mark.parametrize(
    "make",
    [
        LogitsMSELoss,
        RescaledMSELoss,
        lambda floor: CrossEntropyLoss(label_smoothing=0.3, link="own", floor=floor),
        lambda floor: CrossEntropyLoss([0.0, 1.0, 1.0, 1.0], link="own", floor=floor),
        lambda floor: FocalLoss([0.0, 1.0, 1.0, 1.0], floor=floor),
    ],
    ids=["mse_logits", "mse_rescaled", "label_smoothing", "weight 0", "focal weight 0"],
)
def test_floor_is_the_uniform_share_mixed_in(make):
    logits = tensor([[-3.0, 9.0, -4.0, 2.0], [-1.0, -1.0, -1.0, -1.0]], dtype=torch.float64)

    bare, floored = (make(floor=floor).log_probs(logits).exp() for floor in (0, 0.001))

    assert (bare == 0).any()
    assert_close(floored, 0.999 * bare + 0.001 / 4)
    assert make(floor=0.001).log_probs(logits).min() >= math.log(0.001 / 4) - 1e-12


def test_rescaled_outputs_beyond_the_pole_stay_probabilities():
    loss_fn = RescaledMSELoss(k=15, M=30, floor=0)

    probs = loss_fn.log_probs(tensor([[33.0, 1.0, -2.0], [-5.0, -1.0, 0.0]])).exp()

    assert_close(probs.sum(1), torch.ones(2))
    assert (probs >= 0).all()
    assert probs[0].argmax() == 0
    assert_close(probs[1], torch.full((3,), 1 / 3))  # nothing above 0: no opinion


def test_simplex_projection_is_the_nearest_distribution():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(50, 4, generator=generator, dtype=torch.float64)

    probs = LogitsMSELoss(floor=0).log_probs(outputs).exp()

    assert_close(probs.sum(1), torch.ones(50).double())
    distance = (probs - outputs).square().sum(1)
    others = torch.rand(2000, 4, generator=generator).double().log().neg()
    others = others / others.sum(1, keepdim=True)
    assert (torch.cdist(outputs, others).square() >= distance[:, None] - 1e-12).all()


@pytest.mark.parametrize("gamma", [0.5, 3, 70])
def test_focal_link_is_that_of_the_paper(gamma):
    probs = tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    q = 1 - probs
    h = probs / (q**gamma - gamma * q ** (gamma - 1) * probs * probs.log())

    log_probs = FocalLoss(gamma=gamma).log_probs(probs.log())

    assert_close(log_probs.exp(), h / h.sum(), rtol=1e-11, atol=0)


@pytest.mark.parametrize("least", [-79.0, -80.0, -81.0, -200.0, -torch.inf])
def test_one_vs_rest_link_and_its_gradient_are_right_where_sigmoids_vanish(least):
    logits = torch.tensor([[least, 0.0, 1.0, 30.0]], requires_grad=True)
    exact = logits.detach().double().requires_grad_()

    found = OneVsRestBCELoss().log_probs(logits)
    expected = F.logsigmoid(exact).log_softmax(1)
    found[0, 1].backward()
    expected[0, 1].backward()

    assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.5, 1, 3, 100])
def test_focal_link_keeps_the_digits_of_saturated_rows(gamma):
    logits = tensor([[30.0, 0.0, 1.0], [0.0, 60.0, 1.0]])
    loss_fn = FocalLoss(gamma=gamma)

    single, double = loss_fn.log_probs(logits), loss_fn.log_probs(logits.double())

    assert_close(single.double(), double, rtol=1e-5, atol=1e-12)
