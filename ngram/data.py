"""Text as splits: consecutive blocks of the text, and in each, windows of tokens with targets."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ngram.corpus import read_sonnets, read_text, read_tiny_shakespeare
from ngram.tokens import UNK, Tokenizer, encode, tokenizer_for, vocabulary_of
from training.data import Split, Splits, check_shares
from training.errors import DataError, check_setting

BLOCK_SIZE = 100  # tokens whose figures depend on each other: a scene, a poem


def sonnets(numbers: list[int] | None = None, **settings: Any) -> Splits:
    """Return windows over the bundled Sonnets; the settings are those of `text_splits`."""
    return text_splits(partial(read_sonnets, numbers), "sonnets", **settings)


def tiny_shakespeare(path: str | None, root: str, download: bool = True, **settings: Any) -> Splits:
    """Return windows over tiny Shakespeare: a copy at `path`, or one downloaded into `root`."""
    read = partial(read_tiny_shakespeare, path, root, download)
    return text_splits(read, "tiny Shakespeare", **settings)


def text_file(path: str | None, **settings: Any) -> Splits:
    """Return windows over any UTF-8 text file."""
    if path is None:
        raise ValueError("path is required: data.path=FILE, a UTF-8 text")
    return text_splits(partial(read_text, Path(path)), Path(path).name, **settings)


def text_splits(
    read: Callable[[], str],
    name: str,
    *,
    context_size: int,
    nearest_first: bool = False,
    split: Sequence[float] = (0.8, 0.05, 0.05, 0.1),
    max_lines: int | None = None,
    protocol: str | None = None,
    **tokenizer_settings: Any,
) -> Splits:
    """Cut a text into four consecutive blocks, and each block into windows.

    Every token of a block is predicted once, from the `context_size` tokens before it. The first
    windows of a block look back into the block before, as a reader would. Only the first
    `context_size` tokens of the whole text are not predicted.

    Args:
        read: returns the text; it is called once the settings are known to be good.
        name: what the text is called beside the figures.
        context_size: how many tokens predict the next one.
        nearest_first: whether contexts are counted back from the target, and so reversed.
        split: shares of the lines, or at level=char of the characters, for train, val, calibration
            and test; they sum to 1.
        max_lines: use only the first lines of the text.
        protocol: a name from `ngram.tokens.PROTOCOLS`, which fixes the tokenizer.
        tokenizer_settings: the fields of `ngram.tokens.Tokenizer`.
    """
    check_setting("context_size", context_size, 1 <= context_size <= 2**14, "from 1 to 16384")
    check_shares(split)
    check_setting("max_lines", max_lines, max_lines is None or max_lines > 0, "null or at least 1")
    tokenizer = tokenizer_for(protocol, Tokenizer(**tokenizer_settings))
    lines = read().removesuffix("\n").split("\n")[:max_lines]
    blocks = blocks_of(lines, tokenizer, split)
    if len(blocks[0]) <= context_size:
        raise DataError(
            f"{name}: {len(blocks[0])} training tokens are too few for"
            f" data.context_size={context_size}; give a longer text, or more data.max_lines"
            f" (words are split by lines, of which there are {len(lines)})"
        )
    words = vocabulary_of(blocks[0], tokenizer.min_count, tokenizer.unk)
    if len(words) < 2:
        raise DataError(
            f"{name}: no two words come data.min_count={tokenizer.min_count} times in the training"
            " block; give a longer text, or set data.min_count=1"
        )
    ids = torch.tensor(encode([token for block in blocks for token in block], words))
    contexts = in_text_order(ids.unfold(0, context_size, 1)[:-1], nearest_first).contiguous()
    targets = ids[context_size:]
    edges = [0, *(end - context_size for end in accumulate(map(len, blocks)))]
    train, val, calibration, test = (Split(contexts[i:j], targets[i:j]) for i, j in pairwise(edges))
    label = f"{name} {protocol}" if protocol else name
    unknown = f", no {UNK}"
    if UNK in words:
        share = ((test if len(test) else train).targets == words.index(UNK)).double().mean()
        unknown = f" (min count {tokenizer.min_count}), {UNK} {share:.1%} of targets and scored"
    about = f"{label}: {tokenizer.describe()}; vocabulary {len(words):,}{unknown}"
    class_counts = torch.bincount(train.targets, minlength=len(words))
    known = {"unk": float(class_counts[words.index(UNK)] / len(train))} if UNK in words else {}
    return Splits(train, val, calibration, test, class_counts, words, about, BLOCK_SIZE, known)


def blocks_of(lines: list[str], tokenizer: Tokenizer, split: Sequence[float]) -> list[list[str]]:
    """Return the tokens of each block; a block's share is one of lines, or of characters.

    Characters are shared out exactly because published splits of characters end within a line.
    """
    by_char = tokenizer.level == "char"
    pieces = tokenizer(lines) if by_char else lines
    # 1e-9: the rounded sum of the shares must not cost a block its last piece
    edges = [0, *(int(len(pieces) * share + 1e-9) for share in accumulate(split))]
    blocks = [list(pieces[start:end]) for start, end in pairwise(edges)]
    return blocks if by_char else [tokenizer(block) for block in blocks]


def in_text_order(contexts: Tensor, nearest_first: bool) -> Tensor:
    """Return the data's contexts (N, T) in the order of the text, nearest token last.

    The same call turns contexts in the order of the text into those of the data.
    """
    return contexts.flip(1) if nearest_first else contexts
