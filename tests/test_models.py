"""The n-gram models, against what they should compute."""

import pytest
import torch
from torch.testing import assert_close

from losses import CrossEntropyLoss
from ngram.corpus import read_sonnets
from ngram.data import text_splits
from ngram.models import Dropout, NGramMLP, NGramTable

COUNTS = torch.tensor([10, 5, 3, 1, 1])


def mlp(**options):
    return NGramMLP(vocab_size=5, context_size=3, class_counts=COUNTS, **options)


def test_the_plain_model_is_embedding_linear_relu_linear():
    torch.manual_seed(0)
    model = mlp(embedding_dim=4, hidden_dim=7).double()
    inputs = torch.randint(5, (6, 3))

    logits = model(inputs)

    p = dict(model.named_parameters())
    x = torch.stack([torch.cat([p["embedding.weight"][i] for i in row]) for row in inputs])
    hidden = (x @ p["input.weight"].T + p["input.bias"]).clamp(min=0)
    assert_close(logits, hidden @ p["head.weight"].T + p["head.bias"], rtol=1e-12, atol=1e-12)
    assert set(p) == {
        "embedding.weight",
        *(f"{layer}.{kind}" for layer in ("input", "head") for kind in ("weight", "bias")),
    }


def test_a_deeper_model_adds_normalised_blocks_to_what_the_first_layer_gives():
    torch.manual_seed(0)
    model = mlp(embedding_dim=4, hidden_dim=7, depth=3, layer_norm=True).double()
    inputs = torch.randint(5, (6, 3))

    logits = model(inputs)

    p = dict(model.named_parameters())

    def linear(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def normalised(x):
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()

    x = normalised(linear("input", p["embedding.weight"][inputs].flatten(1))).clamp(min=0)
    for block in ("hidden.0", "hidden.1"):
        hidden = linear(f"{block}.1", normalised(x))
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        x = x + linear(f"{block}.3", hidden)
    assert_close(logits, linear("head", normalised(x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"tied": True, "layer_norm": True, "depth": 3}])
def test_logits_are_the_head_of_the_features(options):
    model, inputs = mlp(**options).eval(), torch.randint(5, (6, 3))

    assert_close(model(inputs), model.head(model.features(inputs)), rtol=0, atol=0)


def test_checkpoints_keep_the_names_of_their_weights():
    model = mlp(depth=2, layer_norm=True, tied=True, near=2, dropout=0.1, input_dropout=0.1)

    layers = ["input", "norm", "hidden.0.0", "hidden.0.1", "hidden.0.3", "output.0", "output.1"]
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(model.state_dict()) == expected | {
        "embedding.weight",
        "gates",
        "head.weight",
        "head.bias",
    }


def test_layers_that_do_nothing_are_not_called():
    model = mlp()

    assert model.layers == (model.input, torch.relu)


def test_tied_output_weights_are_the_embedding():
    model = mlp(tied=True)

    assert model.head.weight is model.embedding.weight


def test_the_unigram_bias_predicts_the_counted_frequencies():
    model = mlp(unigram_bias=True)

    assert_close(model.head.bias.softmax(0), COUNTS / 20, rtol=1e-6, atol=0)


def test_noise_replaces_its_share_by_unigram_draws_in_training_only():
    torch.manual_seed(0)
    model = mlp(noise=0.3)
    inputs = torch.full((100_000, 3), 4)

    noised = model._noised(inputs)

    kept = 1 - 0.3 * (1 - COUNTS[4] / 20)
    assert_close((noised == 4).float().mean(), kept, rtol=0, atol=0.005)
    drawn = noised[noised != 4].bincount(minlength=4).float()
    assert_close(drawn / drawn.sum(), COUNTS[:4] / 19, rtol=0, atol=0.01)
    model.eval()
    assert_close(model(inputs[:5]), model(inputs[:5]), rtol=0, atol=0)


def test_the_table_goes_to_the_counted_conditional_frequencies_under_cross_entropy():
    settings = {"level": "char", "min_count": 1, "unk": False, "split": (1, 0, 0, 0)}
    splits = text_splits(lambda: read_sonnets([18]), "18", context_size=2, **settings)
    split, num_classes = splits.train, splits.num_classes
    model, loss_fn = NGramTable(num_classes, 2), CrossEntropyLoss(reduction="sum")
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        total = loss_fn(model(split.inputs), split.targets)
        total.backward()
        return total

    optimizer.step(loss)

    contexts, place = split.inputs.unique(dim=0, return_inverse=True)
    counts = torch.zeros(len(contexts), num_classes)
    counts.index_put_((place, split.targets), torch.tensor(1.0), accumulate=True)
    frequencies = counts / counts.sum(1, keepdim=True)
    assert_close(model(contexts).softmax(1), frequencies, rtol=0, atol=5e-3)


def test_a_table_too_large_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match=r"^context_size=3 needs 1000\*\*4 logits"):
        NGramTable(vocab_size=1000, context_size=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"^dropout must be in \[0, 1\), got 1.0"),
        ({"hidden_dim": 0}, r"^hidden_dim must be from 1 to 16384, got 0"),
        ({"noise": -0.1}, r"^noise must be in \[0, 1\), got -0.1"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        mlp(**options)


def test_dropout_drops_its_share_and_keeps_the_mean_and_the_gradient():
    """The binomial of a million draws gives the tolerance: four standard errors."""
    x = torch.randn(1001, 999, requires_grad=True)  # no multiple of four
    for p in (0.2, 0.5, 0.6):
        layer = Dropout(p)
        torch.manual_seed(1)
        y = layer(x)
        y.sum().backward()

        dropped = y == 0
        share = dropped.double().mean().item()
        assert share == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5)
        rows = dropped.double().mean(1)
        assert rows.var().item() == pytest.approx(p * (1 - p) / 999, rel=0.2)  # one by one
        torch.testing.assert_close(y[~dropped], x.detach()[~dropped] / (1 - p), rtol=1e-4, atol=0)
        torch.testing.assert_close(x.grad, (~dropped) / (1 - p), rtol=1e-4, atol=0)
        x.grad = None
        torch.manual_seed(1)
        assert torch.equal(layer(x), y)
        assert layer.eval()(x) is x
    assert not Dropout(1.0)(x).any()
