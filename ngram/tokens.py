"""Tokens: what a word is, which line ends count, and the vocabulary of the training block."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

from training.errors import DataError

UNK = "<unk>"
NEWLINE = "\n"


@dataclass(frozen=True)
class Tokenizer:
    r"""The settings that a perplexity depends on, and so is shown with.

    level: "word" (matches of `word_pattern`), "char", or "whitespace" (what spaces separate).
    word_pattern: a regular expression; the default keeps `beauty's` and `feel'st` whole and makes
        each punctuation mark a token.
    lowercase: fold case before cutting.
    line_ends: "drop", "nonblank" (a token after each line with words), or "all" (blank lines too).
    min_count: words rarer than this in the training block become <unk>.
    unk: whether the vocabulary has <unk>, an ordinary word that is predicted and scored.
    """

    level: str = "word"
    word_pattern: str = r"\w+(?:'\w+)*|[^\w\s]"
    lowercase: bool = True
    line_ends: str = "nonblank"
    min_count: int = 2
    unk: bool = True

    def __post_init__(self) -> None:
        if self.level not in ("word", "char", "whitespace"):
            raise ValueError(f"level must be word, char or whitespace, got {self.level}")
        if self.line_ends not in ("drop", "nonblank", "all"):
            raise ValueError(f"line_ends must be drop, nonblank or all, got {self.line_ends}")
        if self.min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {self.min_count}")
        if not self.unk and self.min_count > 1:
            raise ValueError(f"min_count must be 1 where unk=false, got {self.min_count}")
        try:
            re.compile(self.word_pattern)
        except re.error as error:
            raise ValueError(
                f"word_pattern must be a regular expression, got {self.word_pattern} ({error})"
            ) from None

    def __call__(self, lines: Iterable[str]) -> list[str]:
        """Return the tokens of `lines` as one stream."""
        tokens: list[str] = []
        for line in lines:
            tokens += self._cut(line.lower() if self.lowercase else line)
            if self.line_ends == "all" or (self.line_ends == "nonblank" and line.strip()):
                tokens.append(NEWLINE)
        return tokens

    def _cut(self, line: str) -> list[str]:
        if self.level == "word":
            return [match.group() for match in re.finditer(self.word_pattern, line)]
        return list(line) if self.level == "char" else line.split()

    def describe(self) -> str:
        """Say in a few words what the tokens are."""
        cut = f"words {self.word_pattern}" if self.level == "word" else f"{self.level} level"
        case = "lower case" if self.lowercase else "cased"
        ends = {"drop": "dropped", "nonblank": "tokens", "all": "tokens, blank lines too"}
        return f"{cut}, {case}, line ends {ends[self.line_ends]}"


# p1, the protocol of the figures that this project quotes beside KenLM's.
PROTOCOLS = {"p1": Tokenizer(word_pattern=r"\w+|[^\w\s]", lowercase=False, line_ends="drop")}


def tokenizer_for(protocol: str | None, settings: Tokenizer) -> Tokenizer:
    """Return the tokenizer of a named protocol, or of the settings where there is none.

    A protocol fixes every setting: one that was changed beside it is refused, not overruled.
    """
    if protocol is None:
        return settings
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be null or {', '.join(PROTOCOLS)}, got {protocol}")
    fixed, default = PROTOCOLS[protocol], Tokenizer()
    for name in (f.name for f in fields(Tokenizer)):
        value = getattr(settings, name)
        if value not in (getattr(fixed, name), getattr(default, name)):
            raise ValueError(
                f"{name}={value} is fixed by protocol={protocol} to {getattr(fixed, name)};"
                " leave one of the two out"
            )
    return fixed


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids: <unk> first where there is one, then by falling count."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, tokens: Sequence[str], min_count: int, unk: bool) -> "Vocabulary":
        """Return the vocabulary of the training tokens."""
        counts = Counter(tokens)
        if unk:
            del counts[UNK]  # a text may say <unk> itself, and means this one
        kept = sorted((w for w in counts if counts[w] >= min_count), key=lambda w: (-counts[w], w))
        return cls((UNK, *kept) if unk else tuple(kept))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Map each word to its id."""
        return {word: i for i, word in enumerate(self.words)}

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Return the ids of `tokens`; a word outside is <unk>, or refused where there is none."""
        unk = self.ids.get(UNK)
        if unk is None:
            unknown = sorted(set(tokens) - self.ids.keys())
            if unknown:
                raise DataError(
                    f"data.unk=false, but {len(unknown)} tokens of the held-out text are not in the"
                    f" training block ({', '.join(map(repr, unknown[:5]))}); set data.unk=true"
                )
            return [self.ids[t] for t in tokens]
        return [self.ids.get(t, unk) for t in tokens]


def join_tokens(tokens: Iterable[str], level: str) -> str:
    """Return readable text: no space before closing punctuation, none around line ends."""
    if level == "char":
        return "".join(tokens)
    text = " ".join(tokens)
    if level == "word":
        text = re.sub(r" (?=[,.;:!?)\]])", "", text)
    return re.sub(r" ?\n ?", "\n", text)
