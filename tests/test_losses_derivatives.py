"""Every loss can be differentiated as often as one likes, by each of torch's ways to do so."""

from itertools import product

import pytest
import torch
from test_losses import TABLE, WEIGHT, batch, gradient
from torch import tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn import functional as F
from torch.testing import assert_close

from losses import (
    ClassificationLoss,
    CrossEntropyLoss,
    FocalLoss,
    MultiLabelBCELoss,
    NLLLoss,
    OneVsRestBCELoss,
    RescaledMSELoss,
    SoftmaxMSELoss,
)

# torch's own, when it first differentiates forwards
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
EYE = torch.eye(5, dtype=torch.float64)

# name: (how to make the loss, from logits and class indices to its own inputs and targets)
FAMILY = {name: (make, lambda z, y: (z, y)) for name, (make, _) in TABLE.items()} | {
    "log_probs": (NLLLoss, lambda z, y: (z.log_softmax(1 if z.ndim > 1 else 0), y)),
    "multi_label": (
        lambda **options: MultiLabelBCELoss(WEIGHT, pos_weight=WEIGHT, **options),
        lambda z, y: (z, EYE[y]),
    ),
    "soft_targets": (
        lambda **options: CrossEntropyLoss(WEIGHT, label_smoothing=0.1, **options),
        lambda z, y: (z, 0.8 * EYE[y] + 0.04),
    ),
}
# cross-entropy has a quick form for smoothed class indices alone
QUICK = [
    name
    for name, (make, _) in TABLE.items()
    if make()._has_quick_form and getattr(make(), "label_smoothing", 1) > 0
]
# one of every class, and those of several formulas in each
COMPILED = [
    "cross_entropy", "smoothed_weighted", "nll", "focal_weighted", "mse", "mse_rescaled", "bce",
    "crammer_singer", "weston_watkins", "distillation", "logit_adjusted", "generalised",
]  # fmt: skip
every_loss = pytest.mark.parametrize("name", FAMILY)
every_quick_form = pytest.mark.parametrize("name", QUICK)


def fresh(name, targets, **options):
    """Return logits -> loss, of a module that has not seen a batch."""
    make, adapt = FAMILY[name]
    loss_fn = make(**options)
    return lambda z: loss_fn(*adapt(z, targets), torch.linspace(-1, 2, z.numel()).view(z.shape))


def numerical_gradient(f, x, step=1e-5):
    """Return the gradient of a function by central differences, an entry at a time."""
    slope = torch.zeros_like(x)
    for i in range(x.numel()):
        e = torch.zeros_like(x)
        e.view(-1)[i] = step
        slope.view(-1)[i] = (f(x + e) - f(x - e)) / (2 * step)
    return slope


# The quick form


def plain_and_quick(name, logits, targets, **options):
    """Return (value, gradient) of the plain formula and of the quick form, unreduced."""
    plain, quick = (TABLE[name][0](reduction="none", **options) for _ in range(2))
    plain._has_quick_form = False
    return gradient(plain, logits, targets), gradient(quick, logits, targets)


def test_every_gradient_by_hand_is_compared():
    assert set(QUICK) >= {
        "smoothed", "focal", "mse", "mse_logits", "mse_rescaled", "bce", "crammer_singer",
        "weston_watkins", "logit_adjusted",
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(40, 5), (4, 5, 3), (2, 5, 3, 2)])
@every_quick_form
def test_quick_form_equals_the_plain_formula(name, shape):
    logits, targets = batch(*shape)
    targets.view(-1)[::3] = 2

    plain, quick = plain_and_quick(name, logits, targets, ignore_index=2)

    assert_close(quick, plain, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_quick_form
def test_quick_form_equals_the_plain_formula_at_extreme_logits(name, dtype):
    h = 1e4
    rows = [[h, 0, -h, 1, 2], [-h] * 5, [h] * 5, [h, h, 0, 0, 0]]
    logits = tensor(rows, dtype=dtype).repeat_interleave(5, 0)
    targets = torch.arange(5).repeat(4)

    plain, quick = plain_and_quick(name, logits, targets)

    assert plain[0].isfinite().all() and plain[1].isfinite().all()
    eps = torch.finfo(dtype).eps
    assert_close(quick, plain, rtol=8 * eps, atol=eps)


# logit adjustment has the digits of torch's cross-entropy
@pytest.mark.parametrize("name", [name for name in QUICK if name != "logit_adjusted"])
def test_both_forms_keep_the_digits_of_a_saturated_row(name):
    logits, target = tensor([[25.0, 0.0, 1.0, 0.0, -1.0]]), tensor([0])  # 1 - p rounds to 0

    exact = plain_and_quick(name, logits.double(), target)[0]

    for value, slope in plain_and_quick(name, logits, target):
        assert_close(value.double(), exact[0], rtol=1e-5, atol=1e-30)
        assert_close(slope.double(), exact[1], rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("gamma", [0, 1e-3, 0.3, 0.5, 1, 2, 50])
def test_plain_focal_has_finite_first_and_second_derivatives(gamma):
    for y, dtype in product(range(3), (torch.float32, torch.float64)):
        heights = tensor([0, 1e-6, 1e-3, 1, 10, 17, 30, 88, 104, 1e3, 1e4], dtype=dtype)
        logits = torch.stack([heights, -heights, torch.zeros_like(heights)], 1).requires_grad_()
        losses = FocalLoss(gamma=gamma).elementwise(logits, torch.full((len(heights),), y))
        (slope,) = torch.autograd.grad(losses.sum(), logits, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), logits)

        assert losses.isfinite().all() and (losses >= 0).all()
        assert slope.isfinite().all()
        assert curvature.isfinite().all()


# Autograd


@every_loss
def test_first_and_second_derivatives_are_those_of_finite_differences(name):
    logits, targets = batch(3, 5, seed=1)
    if name not in ("multi_label", "soft_targets"):
        targets[0] = -100
    loss = fresh(name, targets)

    assert torch.autograd.gradcheck(loss, logits, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, logits, check_batched_grad=True)


@pytest.mark.parametrize("name", ["smoothed_weighted", "focal_half", "mse", "weston_watkins"])
def test_derivatives_over_further_axes_are_those_of_finite_differences(name):
    logits, targets = batch(2, 5, 3, seed=1)

    assert torch.autograd.gradgradcheck(fresh(name, targets), logits)


@every_loss
def test_a_gradient_penalty_has_the_gradient_of_finite_differences(name):
    inputs, targets = batch(6, 4)
    inputs, layer = inputs.detach(), torch.randn(5, 4, dtype=torch.float64)
    loss = fresh(name, targets)

    def penalised(w, create_graph=True):
        x = inputs.clone().requires_grad_()
        value = loss(x @ w.T)
        (slope,) = torch.autograd.grad(value, x, create_graph=create_graph)
        return value + slope.square().sum()

    w = layer.clone().requires_grad_()
    penalised(w).backward()

    expected = numerical_gradient(lambda w: penalised(w.requires_grad_(), False).detach(), layer)
    assert_close(w.grad, expected, rtol=1e-6, atol=1e-7)


@every_quick_form
def test_create_graph_gives_the_gradient_of_an_ordinary_backward(name):
    logits, targets = batch(6, 5)
    loss = TABLE[name][0]()(logits, targets)

    (plain,) = torch.autograd.grad(loss, logits, create_graph=True)
    (quick,) = torch.autograd.grad(loss, logits)

    assert plain.requires_grad
    assert not quick.requires_grad
    assert_close(plain, quick, rtol=1e-11, atol=1e-14)


@every_loss
def test_forward_mode_gives_the_directional_derivative(name):
    logits, targets = batch(6, 5)
    direction = torch.randn(6, 5, dtype=torch.float64)
    loss = fresh(name, targets)

    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(logits.detach(), direction))
        value, slope = forward_ad.unpack_dual(dual)

    expected, full = gradient(fresh(name, targets), logits)
    assert_close(value, expected, rtol=1e-12, atol=0)
    assert_close(slope, (full * direction).sum(), rtol=1e-11, atol=1e-13)


# torch.func


@every_loss
def test_vmap_equals_row_by_row(name):
    logits, targets = batch(6, 5)
    logits = logits.detach()
    make, adapt = FAMILY[name]
    loss_fn, each = make(), make()
    batched = adapt(logits, targets)

    losses = vmap(loss_fn)(*batched, logits)  # one row at a time, (C,)
    pairs = vmap(loss_fn)(*(x.unflatten(0, (3, 2)) for x in (*batched, logits)))  # two rows, (2, C)

    rows = list(zip(*batched, logits, strict=True))
    assert_close(losses, torch.stack([each(*row) for row in rows]), rtol=1e-12, atol=1e-14)
    halves = zip(*(x.split(2) for x in (*batched, logits)), strict=True)
    expected = torch.stack([each(*half) for half in halves])
    assert_close(pairs, expected, rtol=1e-12, atol=1e-14)


@every_loss
def test_functional_derivatives_are_those_of_autograd(name):
    logits, targets = batch(4, 5)
    logits, direction = logits.detach(), torch.randn(4, 5, dtype=torch.float64)
    value, slope = gradient(fresh(name, targets), logits)
    curvature = torch.autograd.functional.hessian(fresh(name, targets), logits)

    assert_close(grad(fresh(name, targets))(logits), slope, rtol=1e-11, atol=1e-14)
    assert_close(jacrev(fresh(name, targets))(logits), slope, rtol=1e-11, atol=1e-14)
    found = jvp(fresh(name, targets), (logits,), (direction,))
    assert_close(found, (value, (slope * direction).sum()), rtol=1e-11, atol=1e-13)
    assert_close(hessian(fresh(name, targets))(logits), curvature, rtol=1e-10, atol=1e-13)
    assert_close(jacrev(grad(fresh(name, targets)))(logits), curvature, rtol=1e-10, atol=1e-13)


@every_loss
def test_a_checked_module_is_transformed_too(name):
    logits, targets = batch(4, 5)
    logits = logits.detach()
    loss = fresh(name, targets)
    value, slope = gradient(loss, logits)

    assert_close(grad(loss)(logits), slope, rtol=1e-11, atol=1e-14)
    assert hessian(loss)(logits).isfinite().all()
    assert_close(vmap(loss)(logits.expand(2, 4, 5)), value.expand(2), rtol=1e-12, atol=0)


@every_loss
def test_gradients_per_sample_are_those_of_each_sample(name):
    inputs, targets = batch(6, 4)
    inputs, model = inputs.detach(), torch.nn.Linear(4, 5, dtype=torch.float64)
    make, adapt = FAMILY[name]
    loss_fn = make()
    params = {key: value.detach() for key, value in model.named_parameters()}

    def loss(params, x, y):
        z = functional_call(model, params, (x[None],))
        return loss_fn(*adapt(z, y[None]), z.detach())

    found = vmap(grad(loss), (None, 0, 0))(params, inputs, targets)

    for i in range(6):
        model.zero_grad()
        z = model(inputs[i : i + 1])
        make()(*adapt(z, targets[i : i + 1]), z.detach()).backward()
        for key, parameter in model.named_parameters():
            assert_close(found[key][i], parameter.grad, rtol=1e-11, atol=1e-14)


def test_a_module_made_under_a_transform_still_checks_its_first_ordinary_batch():
    loss_fn, logits = FocalLoss(), torch.randn(4, 5)
    targets = tensor([0] * 4)
    vmap(loss_fn)(logits, targets)

    with pytest.raises(ValueError, match="softmax was already applied"):
        loss_fn(logits.softmax(1), targets)


def test_what_functional_gradients_give_is_no_part_of_a_graph():
    logits, targets = batch(6, 5)

    slope = grad(lambda z: FocalLoss()(z, targets))(logits.detach())

    assert not slope.requires_grad


def test_second_derivatives_are_those_worked_out_by_hand():
    z, y = tensor([[0.3, -0.2]], dtype=torch.float64), tensor([0])
    s = torch.sigmoid(z)[0]

    assert_close(
        hessian(lambda z: RescaledMSELoss(k=15)(z, y))(z).flatten(),
        tensor([30.0, 0, 0, 2]).double(),
    )
    assert_close(
        hessian(lambda z: OneVsRestBCELoss()(z, y))(z).reshape(2, 2), torch.diag(s * (1 - s))
    )
    # two classes, p = sigmoid(z_0 - z_1) = sigmoid(u): 2 (1 - p)^2 has slope -4 (1-p)^2 p in u
    p = torch.sigmoid(z[0, 0] - z[0, 1])
    curvature = 4 * (1 - p) ** 2 * p * (3 * p - 1)
    found = hessian(lambda z: SoftmaxMSELoss()(z, y))(z).reshape(2, 2)
    assert_close(found, curvature * tensor([[1.0, -1], [-1, 1]]).double())


# torch.compile


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_every_compiled_loss_gives_the_same_numbers(backend):
    logits, targets = batch(6, 5)
    torch.compiler.reset()
    modules = [TABLE[name][0]() for name in COMPILED]

    def every_loss(z, inputs):
        return torch.stack([module(z, targets, inputs) for module in modules])

    compiled = torch.compile(every_loss, fullgraph=True, backend=backend)
    found = compiled(logits, logits.detach())  # all at once, because each start takes a second

    for name, value in zip(COMPILED, found, strict=True):
        slope = torch.autograd.grad(value, logits, retain_graph=True)[0]
        expected = gradient(TABLE[name][0](), logits, targets, logits.detach())
        assert_close((value.detach(), slope), expected, msg=lambda text, name=name: name + text)


def test_a_loss_of_ones_own_needs_no_quick_form():
    class Logistic(ClassificationLoss):
        def elementwise(self, logits, targets):
            return F.softplus(logits.amax(1) - logits.gather(1, targets[:, None])[:, 0])

    logits, targets = batch(4, 5, seed=1)

    assert torch.autograd.gradgradcheck(lambda z: Logistic()(z, targets), logits)
