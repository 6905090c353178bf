"""Kneser-Ney against the paper's formulas read literally, and against examples by hand."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from ngram.corpus import read_sonnets
from ngram.kneser_ney import KneserNey
from ngram.tokens import Tokenizer, encode, vocabulary_of


def zipf_text(length, vocab_size, seed=0):
    weights = 1 / np.arange(1, vocab_size + 1)
    return torch.from_numpy(
        np.random.default_rng(seed).choice(vocab_size, length, p=weights / weights.sum())
    )


class PaperKneserNey:
    """Chen and Goodman 1998 read aloud: dicts of tuples, one word at a time."""

    def __init__(self, text, vocab_size, order):
        self.vocab_size = vocab_size
        text = ["<s>"] * order + text
        places = range(order, len(text))
        self.followers, self.discounts = {}, {}
        for n in range(1, order + 1):
            if n == order:
                counts = Counter(tuple(text[i - n + 1 : i + 1]) for i in places)
            else:
                before = defaultdict(set)
                for i in places:
                    before[tuple(text[i - n + 1 : i + 1])].add(text[i - n])
                counts = {ngram: len(words) for ngram, words in before.items()}
            self.discounts[n] = self.discounts_of(Counter(counts.values()))
            for ngram, count in counts.items():
                self.followers.setdefault(ngram[:-1], {})[ngram[-1]] = count

    @staticmethod
    def discounts_of(n):
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            d = (1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3])
            if 0 < d[0] <= 1 and 0 < d[1] <= 2 and 0 < d[2] <= 3:
                return d
        return (0.5, 1, 1.5)

    def prob(self, word, context):
        lower = self.prob(word, context[1:]) if context else 1 / self.vocab_size
        if context not in self.followers:
            return lower
        followers, discounts = self.followers[context], self.discounts[len(context) + 1]
        total = sum(followers.values())
        gamma = sum(discounts[min(c, 3) - 1] for c in followers.values()) / total
        count = followers.get(word, 0)
        discount = discounts[min(count, 3) - 1] if count else 0
        return (count - discount) / total + gamma * lower


def assert_same_as_paper(text, vocab_size, order, contexts, words):
    paper = PaperKneserNey(text.tolist(), vocab_size, order)

    actual = KneserNey.fit(text, vocab_size, order).log_probs(contexts)

    expected = [
        [math.log(paper.prob(w, tuple(c))) for w in words]
        for c in contexts[:, max(0, contexts.shape[1] - order + 1) :].tolist()
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual[:, words], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("length", [8, 2000])  # 8: every order falls back to .5, 1, 1.5
def test_probabilities_are_those_of_the_paper(order, length):
    text = zipf_text(length, 12)
    unseen = zipf_text(50 * 4, 12, seed=1).view(-1, 4)
    contexts = torch.cat([unseen, zipf_text(length, 12).unfold(0, 4, 1)[:50]])

    assert_same_as_paper(text, 14, order, contexts, range(14))


def test_probabilities_on_verse_are_those_of_the_paper():
    tokens = Tokenizer()(read_sonnets([1, 2, 3, 4, 5]).split("\n"))
    words = vocabulary_of(tokens, 2, True)
    text = torch.tensor(encode(tokens, words))

    assert_same_as_paper(text, len(words), 3, text[:40].unfold(0, 2, 1), range(20))


def test_long_contexts_of_a_large_vocabulary_do_not_overflow():
    text = zipf_text(300, 20) * 50_000  # 1,000,000 ** 7 is 2 ** 139

    assert_same_as_paper(text, 1_000_000, 8, text[:28].view(4, 7), text.unique().tolist())


def test_bigrams_of_three_tokens_are_those_computed_by_hand():
    model = KneserNey.fit(torch.tensor([0, 1, 0]), vocab_size=2, order=2)

    probs = model.log_probs(torch.tensor([[0], [1]])).exp()

    # 0 follows the start and 1, 1 follows 0: p(0) = (2 - 1) / 3 + (1 + .5) / 3 / 2 = 7 / 12, and
    # p(1 | 0) = (1 - .5) / 1 + .5 / 1 * 5 / 12.
    expected = torch.tensor([[7, 17], [19, 5]], dtype=torch.float64) / 24
    torch.testing.assert_close(probs, expected, rtol=1e-12, atol=0)


def test_discounts_come_from_the_counts_of_counts():
    text = torch.arange(10).repeat_interleave(torch.tensor([1, 1, 1, 1, 2, 2, 2, 3, 3, 4]))

    probs = KneserNey.fit(text, vocab_size=11, order=1).log_probs(torch.empty(1, 0)).exp()

    # n = 4, 3, 2, 1: Y = 4 / 10 and D = .4, 1.2, 2.2.
    gamma = (4 * 0.4 + 3 * 1.2 + 3 * 2.2) / 20
    counted = torch.tensor([0.6] * 4 + [0.8] * 3 + [0.8] * 2 + [1.8, 0], dtype=torch.float64)
    torch.testing.assert_close(probs, (counted / 20 + gamma / 11)[None], rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_rows_sum_to_one_and_are_never_zero(order):
    text = zipf_text(5000, 300)
    contexts = torch.randint(310, (400, 4), generator=torch.Generator().manual_seed(0))

    log_probs = KneserNey.fit(text, 310, order).log_probs(contexts)

    assert log_probs.shape == (400, 310) and log_probs.dtype == torch.float64
    assert log_probs.isfinite().all()
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(400).double(), rtol=0, atol=1e-12)


def test_tokens_beyond_the_order_are_not_looked_at():
    model = KneserNey.fit(zipf_text(2000, 12), 12, 3)
    contexts = zipf_text(60, 12, seed=1).view(-1, 6)

    assert torch.equal(model.log_probs(contexts), model.log_probs(contexts[:, -2:]))


def test_after_an_unseen_context_the_shorter_one_decides():
    text = torch.tensor([0, 1, 2, 0, 1, 3, 2, 1])
    model = KneserNey.fit(text, 4, 3)

    assert torch.equal(
        model.log_probs(torch.tensor([[3, 1]])), model.log_probs(torch.tensor([[1]]))
    )


def test_rows_do_not_depend_on_the_chunk_they_are_in():
    text = zipf_text(2000, 12)
    model, contexts = KneserNey.fit(text, 12, 4), text.unfold(0, 3, 1)

    chunks = [model.log_probs(chunk) for chunk in contexts.split(7)]

    assert torch.equal(torch.cat(chunks), model.log_probs(contexts))
