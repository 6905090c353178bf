"""What a run does on a GPU: the same as on a CPU, but for rounding."""

import pytest
import torch
from conftest import SMALL
from test_wide_output import CLASSES, FAMILY, TEACHER
from torch.testing import assert_close

from training.errors import DivergedError
from training.run.folder import read_metrics

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
# each device has random numbers of its own
EXACT = {
    "ngram": [*SMALL, "model.dropout=0", "model.input_dropout=0", "model.noise=0"],
    "vision": ["trainer.epochs=2", "trainer.figures=0", "model.width=8"],
}


def nll_of_test(folder):
    return next(m["nll"] for m in read_metrics(folder) if m["split"] == "test" and "nll" in m)


@pytest.mark.parametrize("task", EXACT)
def test_a_run_ends_where_it_ends_on_a_cpu(task, train):
    cpu = train(*EXACT[task], "device=cpu", task=task, name="cpu")
    gpu = train(*EXACT[task], f"device={DEVICE}", task=task, name="gpu")
    fast = ("trainer.precision=bf16", "trainer.compile=true")
    bf16 = train(*EXACT[task], f"device={DEVICE}", *fast, task=task, name="bf16")

    assert nll_of_test(gpu) == pytest.approx(nll_of_test(cpu), rel=0.01)
    assert nll_of_test(bf16) == pytest.approx(nll_of_test(cpu), rel=0.05)


@pytest.mark.parametrize("name", FAMILY)
def test_losses_and_links_are_those_of_a_cpu(name):
    torch.manual_seed(0)
    logits, inputs = torch.randn(30, CLASSES), torch.randn(30, 5)
    targets = torch.randint(CLASSES, (30,))
    loss_fn = FAMILY[name]()
    expected = *loss_fn.sums(logits, targets, inputs), loss_fn.log_probs(logits)

    on_gpu = [x.to(DEVICE) for x in (logits, targets, inputs)]
    loss_fn.to(DEVICE)
    TEACHER.to(DEVICE)
    found = *loss_fn.sums(*on_gpu), loss_fn.log_probs(on_gpu[0])
    TEACHER.cpu()

    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_stops_the_run_and_writes_no_weights(train, tmp_path):
    with pytest.raises(DivergedError, match="stopped before step"):
        train(*SMALL, f"device={DEVICE}", "optimizer=sgd", "optimizer.lr=1e38")

    assert not list(tmp_path.rglob("*.pt"))
