"""Tokens and the vocabulary: what counts as a word, whether line ends count, which words are kept.

Every perplexity depends on these settings, so it is shown together with them.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from training.errors import DataError, check_setting

UNK = "<unk>"
NEWLINE = "\n"
LEVELS = ("word", "char", "whitespace")
LINE_ENDS = {"drop": "dropped", "nonblank": "tokens", "all": "tokens, blank lines too"}


@dataclass(frozen=True)
class Tokenizer:
    r"""The settings that turn lines of text into tokens, and tokens into a vocabulary.

    level: "word" (matches of `word_pattern`), "char" (characters), or "whitespace" (what stands
        between spaces). Words have a curly apostrophe as a straight one.
    word_pattern: a regular expression; the default keeps `beauty's` and `feel'st` whole and makes
        each punctuation mark a token. Combining marks belong to the letter before them, whatever
        the pattern, and <unk> in a text is one token.
    lowercase: turn capitals into small letters first.
    line_ends: "drop" (no tokens for them), "nonblank" (a token after each line that is not blank),
        or "all" (a token after each line).
    min_count: words that are rarer than this in the training split become <unk>.
    unk: whether the vocabulary has <unk>, which is predicted and scored like any other word.
    """

    level: str = "word"
    word_pattern: str = r"\w+(?:'\w+)*|[^\w\s]"
    lowercase: bool = True
    line_ends: str = "nonblank"
    min_count: int = 2
    unk: bool = True

    def __post_init__(self) -> None:
        check_setting("level", self.level, self.level in LEVELS, f"one of {', '.join(LEVELS)}")
        known = f"one of {', '.join(LINE_ENDS)}"
        check_setting("line_ends", self.line_ends, self.line_ends in [*LINE_ENDS], known)
        is_allowed = self.min_count >= 1 if self.unk else self.min_count == 1
        check_setting("min_count", self.min_count, is_allowed, "at least 1, and 1 where unk=false")
        try:
            re.compile(self.word_pattern)
        except re.error as error:
            raise ValueError(
                f"word_pattern must be a regular expression, got {self.word_pattern} ({error})"
            ) from None

    def __call__(self, lines: Iterable[str]) -> list[str]:
        """Return the tokens of all lines as one list."""
        tokens: list[str] = []
        for line in lines:
            tokens += self._split_line(line.lower() if self.lowercase else line)
            if self.line_ends == "all" or (self.line_ends == "nonblank" and line.strip()):
                tokens.append(NEWLINE)
        return tokens

    def _split_line(self, line: str) -> list[str]:
        if self.level == "char":
            return list(line)
        line = line.replace("\u2019", "'")  # the curly apostrophe
        if self.level == "whitespace":
            return line.split()
        tokens: list[str] = []
        for i, part in enumerate(line.split(UNK)):  # <unk> in a text is one token
            tokens += [UNK] * (i > 0) + self._words(part)
        return tokens

    def _words(self, text: str) -> list[str]:
        if text.isascii():
            return [match.group() for match in re.finditer(self.word_pattern, text)]
        # The pattern sees letters without their marks, and each takes its marks along.
        starts = [i for i, letter in enumerate(text) if not is_mark(letter)]
        letters = "".join(text[i] for i in starts)
        starts.append(len(text))
        found = re.finditer(self.word_pattern, letters)
        return [text[starts[match.start()] : starts[match.end()]] for match in found]

    def describe(self) -> str:
        """Return a few words that say what the tokens are."""
        unit = f"words {self.word_pattern}" if self.level == "word" else f"{self.level} level"
        case = "lower case" if self.lowercase else "cased"
        return f"{unit}, {case}, line ends {LINE_ENDS[self.line_ends]}"


def is_mark(letter: str) -> bool:
    """Say whether a character belongs to the letter before it: accents, vowel signs, joiners."""
    return unicodedata.category(letter).startswith("M") or letter in "\u200c\u200d"


# p1 is the protocol of the figures that this project compares with KenLM's.
PROTOCOLS = {"p1": Tokenizer(word_pattern=r"\w+|[^\w\s]", lowercase=False, line_ends="drop")}


def tokenizer_for(protocol: str | None, settings: Tokenizer) -> Tokenizer:
    """Return the tokenizer of a named protocol, or `settings` where no protocol is named.

    A protocol fixes every setting. A setting that was changed as well is refused.
    """
    if protocol is None:
        return settings
    known = f"null or {', '.join(PROTOCOLS)}"
    check_setting("protocol", protocol, protocol in PROTOCOLS, known)
    fixed = asdict(PROTOCOLS[protocol])
    for name, value in asdict(settings).items():
        if value not in (fixed[name], getattr(Tokenizer, name)):  # the latter is its default
            raise ValueError(
                f"{name}={value} is fixed by protocol={protocol} to {fixed[name]};"
                " leave one of the two out"
            )
    return PROTOCOLS[protocol]


def vocabulary_of(tokens: Iterable[str], min_count: int, unk: bool) -> tuple[str, ...]:
    """Return the words of the training split: <unk>, where there is one, then by falling count."""
    counts = Counter(tokens)
    if unk:
        del counts[UNK]  # where the text itself says <unk>, it is the same word
    kept = sorted((w for w in counts if counts[w] >= min_count), key=lambda w: (-counts[w], w))
    return (UNK, *kept) if unk else tuple(kept)


def encode(tokens: Sequence[str], words: Sequence[str]) -> list[int]:
    """Return the place of each token among `words`; others become <unk>, or are refused without."""
    ids = {word: i for i, word in enumerate(words)}
    unknown = sorted(set(tokens) - ids.keys())
    if unknown and UNK not in ids:
        raise DataError(
            f"{len(unknown)} tokens are not in the training text, which has no {UNK}"
            f" ({', '.join(map(repr, unknown[:5]))}); train with data.unk=true"
        )
    return [ids[token] if token in ids else ids[UNK] for token in tokens]


def join_tokens(tokens: Iterable[str], level: str) -> str:
    """Return readable text: no space before closing punctuation, none around line ends."""
    if level == "char":
        return "".join(tokens)
    text = " ".join(tokens)
    if level == "word":
        text = re.sub(r" (?=[,.;:!?)\]])", "", text)
    return re.sub(r" ?\n ?", "\n", text)
