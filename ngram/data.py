"""Windows of text: `context_size` tokens predict the next one."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ngram.corpus import read_sonnets, read_text, read_tiny_shakespeare
from ngram.tokens import UNK, Tokenizer, Vocabulary, tokenizer_for
from training.data import Split, Splits, check_shares
from training.errors import ConfigError, DataError

MAX_WINDOWS = 2**28  # ids, 2 GB


def sonnets(numbers: list[int] | None = None, **settings: Any) -> Splits:
    """Return windows over the bundled Sonnets; settings as in `text_splits`."""
    return text_splits(lambda: read_sonnets(numbers), "sonnets", **settings)


def tiny_shakespeare(path: str | None, root: str, **settings: Any) -> Splits:
    """Return windows over tiny Shakespeare: a copy at `path`, or one downloaded into `root`."""
    copy = Path(path) if path else None
    read = partial(read_tiny_shakespeare, copy, Path(root))
    return text_splits(read, "tiny Shakespeare", **settings)


def text_file(path: str | None, **settings: Any) -> Splits:
    """Return windows over any UTF-8 text file."""
    if path is None:
        raise ValueError("path is required: data.path=FILE, a UTF-8 text")
    return text_splits(lambda: read_text(Path(path)), Path(path).name, **settings)


def text_splits(
    read: Callable[[], str],
    name: str,
    *,
    context_size: int,
    nearest_first: bool = False,
    split: Sequence[float] = (0.8, 0.05, 0.05, 0.1),
    max_lines: int | None = None,
    protocol: str | None = None,
    **tokenizer: Any,
) -> Splits:
    """Cut a text into contiguous blocks of lines, or of characters, and each block into windows.

    Every token of a block is predicted once, from the `context_size` tokens before it: the first
    windows of a block look back into the block before, as a reader would. Only the very first
    `context_size` tokens of the text have no window.

    Args:
        read: returns the text; called once the settings are known to be good.
        name: what to call it where figures are shown.
        context_size: tokens of context, at least 1.
        nearest_first: contexts counted back from the target instead of in the order of the text.
        split: shares of the lines, or at level=char of the characters, for train, val, calibration
            and test; they sum to 1.
        max_lines: use only the first lines.
        protocol: a name from `ngram.tokens.PROTOCOLS`, which fixes the tokenizer.
        tokenizer: the fields of `ngram.tokens.Tokenizer`.
    """
    cut = tokenizer_for(protocol, Tokenizer(**tokenizer))
    _check_settings(context_size, split, max_lines)
    lines = read().removesuffix("\n").split("\n")[:max_lines]
    by_char = cut.level == "char"  # published splits may end within a line
    pieces = cut(lines) if by_char else lines
    edges = [0, *(int(len(pieces) * share + 1e-9) for share in accumulate(split))]
    blocks = [pieces[a:b] if by_char else cut(pieces[a:b]) for a, b in pairwise(edges)]
    if len(blocks[0]) <= context_size:
        mend = "give a longer text, or more data.max_lines"
        if not by_char and len(lines) < 10:
            mend = f"the text is split by lines and has {len(lines)}; break it into more"
        raise DataError(
            f"{name}: {len(blocks[0])} training tokens are too few for"
            f" data.context_size={context_size}; {mend}"
        )
    if sum(map(len, blocks)) * context_size > MAX_WINDOWS:
        raise ConfigError(
            f"data.context_size={context_size}: the windows of {sum(map(len, blocks)):,} tokens"
            f" would hold more than {MAX_WINDOWS:,} ids; use a smaller one, or data.max_lines"
        )
    vocabulary = Vocabulary.of(blocks[0], cut.min_count, cut.unk)
    if len(vocabulary.words) < 2:
        raise DataError(
            f"{name}: no two words come data.min_count={cut.min_count} times in the training block;"
            " give a longer text, or set data.min_count=1"
        )
    ids = torch.tensor([i for block in blocks for i in vocabulary.encode(block)])
    windows, targets = windows_of(ids, context_size, nearest_first)
    ends = torch.tensor([len(block) for block in blocks]).cumsum(0) - context_size
    starts = [0, *ends.tolist()]
    train, val, calibration, test = (Split(windows[a:b], targets[a:b]) for a, b in pairwise(starts))
    return Splits(
        train=train,
        val=val,
        calibration=calibration,
        test=test,
        class_counts=torch.bincount(train.targets, minlength=len(vocabulary.words)),
        class_names=vocabulary.words,
        protocol=_describe(name, protocol, cut, vocabulary, test if len(test) else train),
    )


def windows_of(ids: Tensor, context_size: int, nearest_first: bool) -> tuple[Tensor, Tensor]:
    """Return contexts (N - context_size, context_size) and the tokens (N - context_size,) after."""
    contexts = ids.unfold(0, context_size, 1)[:-1]
    if nearest_first:
        contexts = contexts.flip(1)
    return contexts.contiguous(), ids[context_size:]


def _check_settings(context_size: int, split: Sequence[float], max_lines: int | None) -> None:
    if not 1 <= context_size <= 2**14:
        raise ValueError(f"context_size must be from 1 to 16384, got {context_size}")
    check_shares(split)
    if max_lines is not None and max_lines < 1:
        raise ValueError(f"max_lines must be null or at least 1, got {max_lines}")


def _describe(
    name: str, protocol: str | None, cut: Tokenizer, vocabulary: Vocabulary, scored: Split
) -> str:
    label = f"{name} {protocol}" if protocol else name
    text = f"{label}: {cut.describe()}; vocabulary {len(vocabulary.words):,}"
    if UNK not in vocabulary.ids:
        return f"{text}, no {UNK}"
    share = (scored.targets == vocabulary.ids[UNK]).double().mean().item()
    return f"{text} (min count {cut.min_count}), {UNK} {share:.1%} of targets and scored"
