"""Our modules in torch's place: the cases and reference functions that torch tests its own with."""

import warnings
from functools import cache

import pytest
import torch
from torch.testing import assert_close

import losses

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)  # that hypothesis is not installed
    from torch.testing._internal.common_modules import module_db


@cache
def cases(name):
    """Return (description, options, input, target, torch's reference) of a module of torch.nn."""
    (info,) = [info for info in module_db if info.module_cls is getattr(torch.nn, name)]
    torch.manual_seed(0)
    found = []
    for case in info.module_inputs_func(info, "cpu", torch.float64, True, training=True):
        options = dict(case.constructor_input.kwargs)
        if options.get("weight") is not None:
            options["weight"] = options["weight"].abs()  # ours refuses negative weights
        desc = "squared" if "p" in options else case.desc  # p = 2, which HingeLoss does not offer
        found.append((desc or "plain", options, *case.forward_input.args))
    return found


def pairs(*names, without=()):
    """Return (module, number of the case) for every case whose description has none of these."""
    return [
        pytest.param(name, i, id=f"{name}-{case[0]}")
        for name in names
        for i, case in enumerate(cases(name))
        if not any(word in case[0] for word in without)
    ]


def value_and_gradients(module, logits, targets):
    """Return the value and the gradient with respect to logits and, where it has one, targets."""
    logits = logits.detach().clone().requires_grad_()
    wanted = [logits]
    if targets.requires_grad:
        targets = targets.detach().clone().requires_grad_()
        wanted.append(targets)
    value = module(logits, targets)
    outer = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view(value.shape)
    return value.detach(), *torch.autograd.grad((value * outer).sum(), wanted)


OURS = {
    "CrossEntropyLoss": losses.CrossEntropyLoss,
    "NLLLoss": losses.NLLLoss,
    "BCEWithLogitsLoss": losses.MultiLabelBCELoss,
}


@pytest.mark.parametrize(("name", "i"), pairs(*OURS))
def test_drops_in_for_torch(name, i):
    _, options, logits, targets = cases(name)[i]

    ours = value_and_gradients(OURS[name](**options), logits, targets)

    theirs = value_and_gradients(getattr(torch.nn, name)(**options), logits, targets)
    if theirs[0].isnan().any():  # torch's mean over no targets at all
        assert (targets == options["ignore_index"]).all()
        theirs = tuple(torch.zeros_like(part) for part in theirs)
    assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "i"), pairs("CrossEntropyLoss", without=["smoothing", "prob"]))
def test_nll_spelled_out_and_focal_without_gamma_drop_in_for_cross_entropy(name, i):
    _, options, logits, targets = cases(name)[i]
    expected = value_and_gradients(losses.CrossEntropyLoss(**options), logits, targets)

    for module in (losses.LogSoftmaxNLLLoss(**options), losses.FocalLoss(gamma=0, **options)):
        assert_close(value_and_gradients(module, logits, targets), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "i"), pairs("MultiMarginLoss", without=["squared"]))
def test_weston_watkins_is_classes_times_multi_margin(name, i):
    _, options, logits, targets = cases(name)[i]
    if "weight" in options:
        options = options | {"reduction": "sum"}  # torch's mean does not divide by the weights

    ours = value_and_gradients(
        losses.HingeLoss(variant="weston_watkins", **options), logits, targets
    )

    theirs = value_and_gradients(torch.nn.MultiMarginLoss(**options), logits, targets)
    assert_close(ours, tuple(logits.shape[1] * part for part in theirs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("shape", [(30, 5), (3, 5, 2, 7)])
def test_options_of_cross_entropy_combine_as_in_torch(shape, smoothing, weighted, reduction):
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    soft = torch.randn(shape, generator=generator, dtype=torch.float64).softmax(1)
    indices = torch.randint(5, soft[:, 0].shape, generator=generator)
    options = {
        "weight": torch.rand(5, generator=generator).double() if weighted else None,
        "label_smoothing": smoothing,
        "reduction": reduction,
    }

    for targets, ignored in ((soft, {}), (indices, {}), (indices, {"ignore_index": 3})):
        assert_close(
            value_and_gradients(losses.CrossEntropyLoss(**options, **ignored), logits, targets),
            value_and_gradients(torch.nn.CrossEntropyLoss(**options, **ignored), logits, targets),
            rtol=1e-12,
            atol=1e-14,
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_half_precision_probability_targets_are_taken_as_torch_takes_wide_ones(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.bfloat16)
    targets = torch.randn(6, 5, generator=generator).softmax(1).bfloat16()

    loss = losses.CrossEntropyLoss(label_smoothing=smoothing)(logits, targets)

    module = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    assert_close(loss, module(logits.float(), targets.float()))


def test_pos_weight_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    targets = (torch.rand(6, 5, generator=generator) < 0.4).double()
    options = {"weight": torch.rand(6, 1).double(), "pos_weight": torch.linspace(1, 9, 5).double()}

    assert_close(
        value_and_gradients(losses.MultiLabelBCELoss(**options), logits, targets),
        value_and_gradients(torch.nn.BCEWithLogitsLoss(**options), logits, targets),
        rtol=1e-12,
        atol=0,
    )


def test_second_derivative_of_plain_cross_entropy_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, -100])

    def hessian(module):
        return torch.autograd.functional.hessian(lambda z: module(z, targets), logits)

    assert_close(hessian(losses.CrossEntropyLoss()), hessian(torch.nn.CrossEntropyLoss()))
