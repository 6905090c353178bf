"""Interpolated modified Kneser-Ney: the n-gram model by counting that a neural one has to beat."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Shapes: N rows, T tokens of context, V vocabulary, C different contexts, G different n-grams.
# Contexts of one length are numbered: the id of a context is the position of its key among the
# sorted keys, and its key is id(the context without its farthest token) * (V + 1) + that token.
# An id is less than the length of the text, so that keys fit int64 at every order. The key of an
# n-gram is id(its context) * (V + 1) + its last token. The token id V stands before the text.

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """The smoothed counts of one order; context i has the n-grams starts[i] to starts[i + 1]."""

    contexts: Ints  # (C,) sorted keys
    backoff: Floats  # (C,) gamma(h)
    starts: Ints  # (C + 1,)
    words: Ints  # (G,) the last token of each n-gram
    probs: Floats  # (G,) (c(h w) - D(c(h w))) / c(h)


@dataclass(frozen=True)
class KneserNey:
    """An interpolated modified Kneser-Ney model over a closed vocabulary.

    With h a context, h' the same without its farthest word, and c(h) = sum over w of c(h w),

        p(w | h) = (c(h w) - D(c(h w))) / c(h) + gamma(h) p(w | h')
        gamma(h) = (D1 N1(h) + D2 N2(h) + D3 N3+(h)) / c(h)

    where N_i(h) is how many words follow h exactly i times (3+: three times or more). The discount
    D(i) is 0, D1, D2 or D3+ for counts i of 0, 1, 2 and more:

        D_i = i - (i + 1) Y n_(i+1) / n_i,    Y = n_1 / (n_1 + 2 n_2)

    where n_i is how many n-grams of that order have count i. In the highest order c counts how
    often an n-gram occurs; in lower orders, how many different words come before it. The start of
    the text counts as such a word. The recursion ends in the uniform 1 / V, so that no word has
    probability zero. After a context h that was never seen, p(w | h) = p(w | h'). An order in which
    some D_i is undefined or not in (0, i] takes 0.5, 1 and 1.5, as KenLM's --discount_fallback.

    Source: Chen and Goodman 1998, An Empirical Study of Smoothing Techniques for Language Modeling,
    TR-10-98, https://dash.harvard.edu/handle/1/25104739; Heafield et al. 2013 (KenLM),
    https://aclanthology.org/P13-2121.
    """

    unigram: Floats  # (V,)
    orders: tuple[_Order, ...]  # of 2, 3, ... tokens

    @classmethod
    def fit(cls, tokens: Tensor, vocab_size: int, order: int) -> "KneserNey":
        """Return the model of n-grams of up to `order` tokens, counted on token ids (N,)."""
        text: Ints = tokens.cpu().numpy()
        base = vocab_size + 1
        padded = np.concatenate([np.full(order, vocab_size), text])
        # For each position of the text: the id of its context, and of its n-gram one order below.
        context = shorter = np.zeros(len(text), np.int64)
        levels: list[list[Ints]] = []  # of each order: keys of contexts, keys of n-grams, counts
        for n in range(order):
            farthest = padded[order - n : -n] if n else 0  # the token by which each context grows
            keys, context = np.unique(context * base + farthest, return_inverse=True)
            ngrams, first, ngram, count = np.unique(
                context * base + text, return_index=True, return_inverse=True, return_counts=True
            )
            if n:  # each n-gram is one more word that comes before the shorter n-gram in it
                levels[-1][2] = np.bincount(shorter[first])
            levels.append([keys, ngrams, count])
            shorter = ngram
        unigrams, *orders = (_smooth(base, *level) for level in levels)
        unigram = np.full(vocab_size, unigrams.backoff[0] / vocab_size)
        unigram[unigrams.words] += unigrams.probs
        return cls(unigram, tuple(orders))

    def log_probs(self, contexts: Tensor) -> Tensor:
        """Return log p(w | context), (N, V) in float64 on the CPU, for contexts (N, T).

        The nearest token is the last. Only the last order - 1 tokens of a context matter; a context
        may also be shorter.
        """
        tokens: Ints = contexts.cpu().numpy()
        base = len(self.unigram) + 1
        probs = np.tile(self.unigram, (len(tokens), 1))  # (N, V)
        # the rows whose context of n tokens was seen, and the ids of these contexts
        rows, ids = np.arange(len(tokens)), np.zeros(len(tokens), np.int64)
        for n, order in enumerate(self.orders[: tokens.shape[1]], start=1):
            keys = ids * base + tokens[rows, -n]
            ids = np.searchsorted(order.contexts, keys)
            seen = order.contexts[np.minimum(ids, len(order.contexts) - 1)] == keys
            rows, ids = rows[seen], ids[seen]
            probs[rows] *= order.backoff[ids][:, None]
            sizes = order.starts[ids + 1] - order.starts[ids]
            row = np.repeat(np.arange(len(rows)), sizes)  # one entry per n-gram of these contexts
            ngram = np.arange(len(row)) + (order.starts[ids + 1] - sizes.cumsum())[row]
            probs[rows[row], order.words[ngram]] += order.probs[ngram]
        return torch.from_numpy(probs).log_()


def _smooth(base: int, contexts: Ints, ngrams: Ints, counts: Ints) -> _Order:
    """Return the order whose contexts and n-grams have these keys, and its n-grams these counts."""
    context, words = np.divmod(ngrams, base)
    discount = _discounts(counts)[np.minimum(counts, 3)]
    totals = np.bincount(context, counts)
    return _Order(
        contexts=contexts,
        backoff=np.bincount(context, discount) / totals,
        starts=np.append(0, np.bincount(context).cumsum()),
        words=words,
        probs=(counts - discount) / totals[context],
    )


def _discounts(counts: Ints) -> Floats:
    """Return (0, D1, D2, D3+) for an order whose n-grams have these counts."""
    n = np.bincount(counts, minlength=5)[:5]  # how many n-grams have count 0, 1, 2, 3, 4
    if n[1:4].all():
        i = np.arange(1, 4)
        d = i - (i + 1) * n[1] / (n[1] + 2 * n[2]) * n[i + 1] / n[i]
        if (d > 0).all() and (d <= i).all():
            return np.append(0, d)
    return np.array([0, 0.5, 1, 1.5])
