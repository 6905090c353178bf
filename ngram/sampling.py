"""Text sampled from a model, by the probabilities that its loss implies."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import nn

from losses import ClassificationLoss
from ngram.tokens import NEWLINE, UNK, join_tokens


@torch.no_grad()
def sample_tokens(
    model: nn.Module,
    loss_fn: ClassificationLoss,
    words: Sequence[str],
    context: Sequence[int],
    *,
    temperature: float = 1.0,
    seed: int = 0,
    nearest_first: bool = False,
) -> Iterator[int]:
    """Yield word ids without end, each drawn from p ** (1 / temperature) given those before it.

    <unk> is never drawn: the other words share its probability in proportion to their own.

    Args:
        model: contexts (1, T) -> logits (1, V).
        loss_fn: its link gives p.
        words: the vocabulary.
        context: the T ids that come before the first draw, in the order of the text.
        temperature: above 0; below 1 the likely words become likelier, above 1 less likely.
        seed: the same seed gives the same text.
        nearest_first: whether the model reads its contexts counted back from the target.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    never_drawn = [i for i, word in enumerate(words) if word == UNK]
    window = list(context)
    model.eval()
    while True:
        inputs = torch.tensor([window[::-1] if nearest_first else window], device=device)
        log_probs = loss_fn.log_probs(model(inputs))[0].double().cpu() / temperature
        log_probs[never_drawn] = -torch.inf
        token = int(torch.multinomial(log_probs.softmax(0), 1, generator=generator))
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
