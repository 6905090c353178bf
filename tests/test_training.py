"""The shared loop: what a step does, what is logged, which weights are kept."""

import inspect
import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from conftest import compose, run_epoch
from small_runs import RUN, TINY, no_drawing, run_in  # noqa: F401
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from losses import CrossEntropyLoss, LogitsMSELoss, OneVsRestBCELoss
from training import optimizers
from training.data import Split, epoch_order
from training.errors import DivergedError
from training.evaluation import evaluate
from training.loop import Training, gradient_norms
from training.optimizers import Constant, WarmupCosine, adamw, sgd
from training.run.finished import load_run
from training.run.folder import read_metrics
from training.settings import TrainerSettings


class Classifier(nn.Module):
    """Features and head, the contract of every model."""

    def __init__(self, dim=5, classes=3):
        super().__init__()
        self.body = nn.Linear(dim, 8)
        self.head = nn.Linear(8, classes)

    def features(self, inputs):
        return self.body(inputs)

    def forward(self, inputs):
        return self.head(self.features(inputs))


def training_of(model, optimizer, loss_fn=None, **settings):
    settings = TrainerSettings(**({"epochs": 1, "batch_size": 4} | settings))
    optimizer = optimizer or sgd(model.parameters(), lr=0.1)
    return Training(model, loss_fn or CrossEntropyLoss(), optimizer, Constant(), settings, 1)


def examples(n=10):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 5, generator=generator)
    return Split(inputs, torch.randint(3, (n,), generator=generator))


def figures(folder, split=None):
    """Return {(split, metric, step): value} of a run's log, times left out."""
    found = {}
    for line in read_metrics(folder):
        step, name = line.pop("step"), line.pop("split")
        if name != "time" and split in (None, name):
            found |= {(name, metric, step): value for metric, value in line.items()}
    return found


# The loop of the tutorial, written out here on its own: one window at a time, SGD, no batches.
class TutorialModel(nn.Module):
    def __init__(self, vocab_size, embedding_dim, context_size):
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.linear1 = nn.Linear(context_size * embedding_dim, 128)
        self.linear2 = nn.Linear(128, vocab_size)

    def forward(self, inputs):
        return self.linear2(F.relu(self.linear1(self.embeddings(inputs).view(1, -1))))


def tutorial_losses(words, vocabulary, weights, epochs):
    ids = {word: i for i, word in enumerate(vocabulary)}
    model = TutorialModel(len(vocabulary), 10, 2)
    model.load_state_dict(weights)
    loss_function, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.001)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for i in range(2, len(words)):
            context = torch.tensor([ids[words[i - 1]], ids[words[i - 2]]])
            model.zero_grad()
            loss = loss_function(model(context), torch.tensor([ids[words[i]]]))
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)
    return losses


def our_losses(experiment, epochs):
    """Return the splits, the first weights, and the loss of each epoch, summed over windows."""
    from training.run.targets import instantiate, with_facts

    cfg = compose(f"experiment={experiment}")
    splits = instantiate(cfg.data)
    cfg = with_facts(cfg, splits.num_classes, splits.class_counts)
    torch.manual_seed(3)
    model, settings = instantiate(cfg.model), instantiate(cfg.trainer)
    optimizer = instantiate(cfg.optimizer, call_with=[model.parameters()])
    names = {"embedding": "embeddings", "input": "linear1", "head": "linear2"}
    weights = {
        f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v.clone()
        for k, v in model.state_dict().items()
    }
    schedule = instantiate(cfg.scheduler)
    training = Training(model, instantiate(cfg.loss), optimizer, schedule, settings, 1)
    losses = [run_epoch(training, splits.train, epoch) * 113 for epoch in range(1, epochs + 1)]
    return splits, weights, losses, training.step


def test_sonnet2_is_the_tutorials_loop():
    from ngram.corpus import read_sonnets

    splits, weights, ours, steps = our_losses("sonnet2", 4)
    _, same_weights, fast, fast_steps = our_losses("sonnet2_fast", 4)

    words = read_sonnets([2]).split()
    assert len(words) == 115 and len(splits.train) == 113 and splits.num_classes == 97
    assert (steps, fast_steps) == (4 * 113, 4)
    assert all(same_weights[name].equal(weight) for name, weight in weights.items())
    theirs = torch.tensor(tutorial_losses(words, splits.class_names, weights, 4))
    assert_close(torch.tensor(ours), theirs, rtol=1e-4, atol=0)
    # full batches take the gradient of all windows at once: the same to first order
    assert_close(torch.tensor(fast), theirs, rtol=5e-3, atol=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that looks often: it logs every third step, and reports at every evaluation."""
    return run_in(tmp_path_factory.mktemp("runs") / "whole", *RUN, "trainer.figures=3")


def test_nll_and_cross_entropy_give_the_same_run(whole, tmp_path):
    cross_entropy = figures(whole)
    nll = figures(run_in(tmp_path / "nll", *RUN, "loss=nll"))

    assert cross_entropy.keys() == nll.keys()
    assert {"train", "val", "test"} <= {split for split, _, _ in nll}
    for key, value in cross_entropy.items():
        assert nll[key] == pytest.approx(value, rel=1e-6, abs=1e-6), key


def test_the_same_seed_gives_the_same_run_bit_for_bit(whole, tmp_path):
    again = run_in(tmp_path / "again", *RUN, "trainer.figures=3")
    other = run_in(tmp_path / "other", *TINY, "seed=2")

    weights = [load_run(run).model.state_dict() for run in (whole, again, other)]

    assert figures(whole) == figures(again)
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not torch.equal(weights[0]["input.weight"], weights[2]["input.weight"])


def test_looking_more_often_does_not_change_training(whole, tmp_path):
    rarely = ("trainer.evaluate_every=3", "trainer.log_every=50", "trainer.save_every=5000")
    seldom = run_in(tmp_path / "seldom", *RUN, *rarely)

    last = max(step for _, _, step in figures(seldom, "val"))
    a, b = figures(whole, "val"), figures(seldom, "val")
    assert len(b) < len(a) and a["val", "nll", last] == b["val", "nll", last]


def test_losses_share_initial_weights_order_and_noise():
    cfg = [compose(f"loss={loss}") for loss in ("cross_entropy", "mse")]
    without = [{k: v for k, v in c.items() if k != "loss"} for c in cfg]

    assert without[0] == without[1]
    assert epoch_order(50, 1, 2).equal(epoch_order(50, 1, 2))


def test_the_order_is_a_function_of_seed_and_epoch_and_not_of_their_sum():
    orders = {(s, e): tuple(epoch_order(50, s, e).tolist()) for s in (1, 2) for e in (1, 2)}

    assert len(set(orders.values())) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())


def test_an_epoch_visits_every_example_once_and_its_loss_is_the_mean_over_examples():
    seen, split = [], examples(10)
    model = Classifier()
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    training = training_of(model, sgd(model.parameters(), lr=1e-12))

    loss = run_epoch(training, split, 1)

    rows = torch.cat(seen)
    assert [len(batch) for batch in seen] == [4, 4, 2]
    assert_close(rows, split.inputs[epoch_order(10, 1, 1)], rtol=0, atol=0)
    expected = F.cross_entropy(model(split.inputs), split.targets)
    assert loss == pytest.approx(expected.item(), rel=1e-5)  # not the mean of batch means


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_weights_change(where):
    model, split = Classifier(), examples()
    training = training_of(model, adamw(model.parameters(), lr=0.5), epochs=2)
    run_epoch(training, split, 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    if where == "loss":
        split.inputs[3] = torch.inf
    else:
        model.head.bias.register_hook(lambda gradient: gradient * torch.nan)
    training.settings.__dict__["batch_size"] = 10  # one batch: the bad one

    with pytest.raises(
        DivergedError, match=r"stopped before step 4: .*learning rate 0.5; try"
    ) as e:
        run_epoch(training, split, 2)

    assert e.value.exit_code == 3
    assert where == "gradient" or "loss inf" in str(e.value) or "loss nan" in str(e.value)
    assert where == "gradient" or "first bad tensor inputs" in str(e.value)
    if where == "gradient":
        assert "first bad tensor gradient head.bias" in str(e.value)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("kind", [optimizers.AdamW, optimizers.SGD])
def test_the_mask_skips_the_bad_update_and_all_after_it(kind):
    torch.manual_seed(0)
    model = Classifier()
    optimizer = kind(model.parameters(), lr=0.1, fused=True)
    training = training_of(model, optimizer)
    check = training.finite_check
    check.masked = True  # as on an accelerator
    check.bad_loss, check.first_bad_step = torch.zeros(()), torch.full((), torch.inf)
    optimizer.grad_scale, optimizer.found_inf = None, torch.zeros(())
    weights = []
    for scale in (1.0, math.nan, 1.0):
        optimizer.zero_grad()
        inputs = torch.ones(2, 5)
        logits = model(inputs)
        loss = logits.sum() * scale
        loss.backward()
        check(loss.detach(), gradient_norms(list(model.parameters())), inputs, logits)
        optimizer.step()
        training.step += 1
        weights.append(model.head.weight.detach().clone())

    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])
    with pytest.raises(DivergedError, match="before step 2"):
        check.raise_if_skipped()


def test_there_is_a_norm_of_each_gradient():
    parameters = [nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(3)), nn.Parameter()]
    parameters[0].grad, parameters[1].grad = torch.full((4,), 5.0), torch.tensor([1.0, -2, 3])

    norms = gradient_norms(parameters)

    assert [norm.item() for norm in norms] == pytest.approx([10, math.sqrt(14)], rel=1e-6)


@pytest.mark.parametrize("bound", [0.0, 0.1, 1e9])
def test_a_step_is_clipped_to_the_norm_and_left_alone_at_zero(bound):
    split = examples(4)
    loss_fn = CrossEntropyLoss(reduction="sum")
    moves = []
    for clip_norm in (0.0, bound):
        torch.manual_seed(0)
        model = Classifier()
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        optimizer = sgd(model.parameters(), 1.0)
        run_epoch(training_of(model, optimizer, loss_fn, clip_norm=clip_norm), split, 1)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        moves.append((after - before).norm())

    free = moves[0].item()
    assert moves[1].item() == pytest.approx(min(free, bound or free), rel=1e-4)


@pytest.mark.parametrize(
    ("ours", "plain", "settings"),
    [
        (sgd, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (adamw, torch.optim.AdamW, {"betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}),
    ],
)
def test_optimizers_step_and_resume_as_torchs_own_do(ours, plain, settings):
    weights = [torch.linspace(-1, 1, 6).requires_grad_() for _ in range(2)]
    optimizers = [
        kind([weight], lr=0.1, **settings)
        for kind, weight in zip((ours, plain), weights, strict=True)
    ]

    for step in range(4):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.linspace(1, -2, 6) * (step + 1)
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())

    assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-7)


COMPILER_IS_NOT_LOADED = """
import sys, torch
from training.optimizers import adamw, sgd
for make in (adamw, sgd):
    weight = torch.ones(3, requires_grad=True)
    weight.grad = torch.ones(3)
    optimizer = make([weight], lr=0.1)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
assert not sys.modules.get("torch._dynamo")
"""


def test_a_step_of_an_optimizer_asks_nothing_of_the_compiler(monkeypatch):
    methods = ("step", "add_param_group", "state_dict", "load_state_dict")
    for kind in (torch.optim.AdamW, torch.optim.SGD):
        for name in methods:  # torch keeps on a method what the compiler made of it
            vars(inspect.unwrap(getattr(kind, name))).pop("__dynamo_disable", None)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # who imports it now fails

    exec(COMPILER_IS_NOT_LOADED, {})

    with pytest.raises(ModuleNotFoundError):
        torch.optim.SGD([torch.ones(3)], lr=0.1)


@pytest.mark.slow
def test_a_step_of_an_optimizer_does_not_load_the_compiler():
    subprocess.run([sys.executable, "-c", COMPILER_IS_NOT_LOADED], check=True)


def test_warmup_cosine_rises_to_one_and_ends_at_its_share():
    factors = [WarmupCosine(warmup_steps=10, final=0.1)(s, 100) for s in range(100)]

    assert factors[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert factors[10] == 1 and max(factors) == 1
    assert factors[55] == pytest.approx(0.55)  # half way down from 1 to .1
    assert factors[-1] == pytest.approx(0.1, abs=1e-3)
    assert all(a >= b for a, b in pairwise(factors[10:]))


def test_figures_are_drawn_at_most_five_times_and_at_the_end():
    for epochs in (1, 3, 5, 7, 20, 101, 1000):
        settings = TrainerSettings(epochs=epochs, batch_size=1)
        drawn = [e for e in range(1, epochs + 1) if settings.draws(e)]
        assert len(drawn) == min(5, epochs) and drawn[-1] == epochs


@pytest.mark.parametrize("loss_fn", [LogitsMSELoss(), CrossEntropyLoss(), OneVsRestBCELoss()])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_model_whose_outputs_are_not_finite_is_never_scored(loss_fn, bad):
    model = Classifier()
    model.head.bias.data[1] = bad

    with pytest.raises(DivergedError, match="logits are not finite"):
        evaluate(model, loss_fn, examples(), 3)


def test_evaluation_does_not_depend_on_how_rows_are_cut(monkeypatch):
    model, split = Classifier(), examples(50)

    whole = evaluate(model, CrossEntropyLoss(), split, 3).metrics
    monkeypatch.setattr("training.evaluation.PARTS", 2)
    monkeypatch.setattr("training.evaluation.PART_LOGITS", 9)
    monkeypatch.setattr("training.evaluation.FEATURE_ROWS", 13)
    cut = evaluate(model, CrossEntropyLoss(), split, 3).metrics

    assert whole.keys() == cut.keys()
    assert cut == pytest.approx(whole, rel=1e-6, abs=1e-7)
    logits = model(split.inputs)
    assert whole["nll"] == pytest.approx(F.cross_entropy(logits, split.targets).item(), rel=1e-5)
    assert whole["count"] == 50


def test_the_kept_weights_are_those_of_the_lowest_val_nll(whole):
    val = {step: v for (_, name, step), v in figures(whole, "val").items() if name == "nll"}
    best = min(val, key=val.get)

    run = load_run(whole)

    assert run.step == best < max(val)  # it did get worse again
    splits = run.splits()
    again = evaluate(run.model, run.loss_fn, splits.val, splits.num_classes).metrics
    assert again["nll"] == pytest.approx(val[best], rel=1e-6)
    tested = {name: v for (_, name, _), v in figures(whole, "test").items()}
    again = evaluate(run.model, run.loss_fn, splits.test, splits.num_classes).metrics
    assert again == pytest.approx({k: tested[k] for k in again}, rel=1e-6)


def test_perplexity_is_exp_of_the_total_nll(whole):
    logged = figures(whole)

    perplexities = [key for key in logged if key[1] == "perplexity"]

    assert len(perplexities) == 4  # three epochs and the test
    for split, _, step in perplexities:
        expected = math.exp(logged[split, "nll", step])
        assert logged[split, "perplexity", step] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy", "nll", "label_smoothing", "weighted", "mse"])
def test_thirty_two_examples_reach_zero_error_under_each_loss(loss):
    from training.run.targets import instantiate, with_facts

    generator = torch.Generator().manual_seed(0)
    split = Split(
        torch.randn(32, 5, generator=generator), torch.randint(3, (32,), generator=generator)
    )
    cfg = with_facts(compose(f"loss={loss}"), 3, split.targets.bincount(minlength=3))
    torch.manual_seed(0)
    model = Classifier()
    model.body = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 8))
    settings = {"epochs": 100, "batch_size": 32}
    optimizer = adamw(model.parameters(), lr=0.1)
    training = training_of(model, optimizer, instantiate(cfg.loss), **settings)
    for epoch in range(1, 101):
        run_epoch(training, split, epoch)

    assert evaluate(model, training.loss_fn, split, 3).metrics["accuracy"] == 1
