"""Sampling: from the model's own probabilities, repeatable, without <unk>; and its script."""

import sys
from itertools import islice, repeat

import pytest
import torch
from conftest import SMALL
from torch import nn

from losses import CrossEntropyLoss
from ngram.models import log_probs_by
from ngram.sampling import sample_lines, sample_tokens
from ngram.tokens import NEWLINE, UNK
from scripts import generate
from training.cli.script import run_script

WORDS = [UNK, "a", "b", NEWLINE]


class Fixed(nn.Module):
    """The same logits after any context; keeps the contexts that it was asked about."""

    def __init__(self, probs):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probs).log())
        self.seen = []

    def forward(self, inputs):
        self.seen.append(inputs[0].tolist())
        return self.logits.expand(len(inputs), -1)


def draw(n, model, temperature=1.0, seed=0, nearest_first=False):
    log_probs = log_probs_by(model, CrossEntropyLoss(), nearest_first)
    return list(islice(sample_tokens(log_probs, WORDS, [1, 2], temperature, seed), n))


def test_tokens_follow_the_probabilities_and_never_are_unk():
    drawn = torch.tensor(draw(2000, Fixed([0.5, 0.3, 0.15, 0.05]))).bincount(minlength=4) / 2000

    assert drawn[0] == 0
    assert drawn[1:].tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


def test_temperature_sharpens_and_the_seed_repeats():
    model = Fixed([0.1, 0.5, 0.3, 0.1])
    cold = torch.tensor(draw(2000, model, temperature=0.5)).bincount(minlength=4) / 2000

    assert cold[1:].tolist() == pytest.approx([25 / 35, 9 / 35, 1 / 35], abs=0.03)
    assert draw(50, model, seed=3) == draw(50, model, seed=3) != draw(50, model, seed=4)


@pytest.mark.parametrize("backwards", [False, True])
def test_each_draw_becomes_the_nearest_token_of_the_next_context(backwards):
    model = Fixed([0.1, 0.5, 0.3, 0.1])

    drawn = draw(3, model, nearest_first=backwards)

    text = [1, 2, *drawn]
    contexts = [text[i : i + 2] for i in range(3)]
    assert model.seen == [c[::-1] if backwards else c for c in contexts]


def test_lines_end_at_line_ends_and_empty_ones_are_left_out():
    tokens = iter([3, 1, 2, 3, 3, 2, 3, 1])

    assert sample_lines(tokens, WORDS, 2, "word") == ["a b", "b"]
    assert sample_lines(iter([1] * 18), WORDS[:3], 2, "word") == ["a a a a a a a a a"] * 2
    assert sample_lines(repeat(3), WORDS, 2, "word") == []  # no word ever comes


def test_a_model_that_gives_line_ends_without_end_gives_no_lines():
    assert sample_lines(repeat(WORDS.index(NEWLINE)), WORDS, 2, "word") == []


def run_generate(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, arguments)])
    code = 0
    try:
        run_script(generate.main)
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_the_script_continues_the_prompt_and_names_unknown_words(train, monkeypatch, capsys):
    run = train(
        *SMALL, "trainer.epochs=1", "trainer.max_batches=2", "report.kneser_ney.max_order=0"
    )
    capsys.readouterr()
    arguments = [run, "--prompt", "thy beauty, o blockchain", "--length", "12", "--seed", "5"]

    code, out, err = run_generate(monkeypatch, capsys, *arguments)

    assert code == 0 and err == "not in the vocabulary: blockchain\n"
    assert out.startswith("thy beauty, o blockchain")
    assert run_generate(monkeypatch, capsys, *arguments)[1] == out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--temperature", "0"], 2, "--temperature 0.0: must be above 0"),
        (["--length", "0"], 2, "--length 0: must be at least 1"),
        (["--lenght", "3"], 2, "unrecognized arguments: --lenght 3"),
        (["--seed", "x"], 2, "argument --seed: invalid int value: 'x'"),
        ([], 5, "nowhere: not a run folder"),
    ],
)
def test_the_script_answers_mistakes_in_one_line(options, code, message, monkeypatch, capsys):
    found, _, err = run_generate(monkeypatch, capsys, "nowhere", *options)

    assert found == code
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
