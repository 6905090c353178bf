"""Text sampled from a model, by the probabilities that its loss implies."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from ngram.models import LogProbs
from ngram.tokens import NEWLINE, UNK, join_tokens


@torch.no_grad()
def sample_tokens(
    log_probs: LogProbs, words: Sequence[str], context: Sequence[int], temperature: float, seed: int
) -> Iterator[int]:
    """Yield word ids without end, each drawn from p ** (1 / temperature) given those before it.

    <unk> is never drawn: the other words share its probability in proportion to their own.

    Args:
        log_probs: contexts (1, T) -> log p (1, V).
        words: the vocabulary.
        context: the T ids that come before the first draw, in the order of the text.
        temperature: above 0; below 1 the likely words become likelier, above 1 less likely.
        seed: the same seed gives the same text.
    """
    generator = torch.Generator().manual_seed(seed)
    never_drawn = [i for i, word in enumerate(words) if word == UNK]
    window = list(context)
    while True:
        scores = log_probs(torch.tensor([window]))[0] / temperature
        scores[never_drawn] = -torch.inf
        token = int(torch.multinomial(scores.softmax(0), 1, generator=generator))
        yield token
        window = [*window[1:], token]


def sample_lines(
    tokens: Iterator[int], words: Sequence[str], num_lines: int, level: str
) -> list[str]:
    """Return the next `num_lines` lines that hold a word.

    A line ends at a line end, or once it is `longest` tokens long. The lines are fewer where too
    few come: a badly trained model may give nothing but line ends.
    """
    longest = 80 if level == "char" else 40 if NEWLINE in words else 9
    lines: list[str] = []
    line: list[str] = []
    for token in islice(tokens, 2 * num_lines * longest):
        word = words[token]
        if word != NEWLINE:
            line.append(word)
        if line and (word == NEWLINE or len(line) == longest):
            lines.append(join_tokens(line, level))
            line = []
        if len(lines) == num_lines:
            break
    return lines
