"""The bundled text, tokens, vocabulary, blocks and windows."""

import hashlib
import re
import shlex
import shutil
import subprocess
from email.message import Message
from io import BytesIO

import pytest
import torch

from ngram import corpus
from ngram.corpus import read_sonnets, read_text, read_tiny_shakespeare
from ngram.data import sonnets, text_splits
from ngram.tokens import (
    NEWLINE,
    UNK,
    Tokenizer,
    encode,
    join_tokens,
    tokenizer_for,
    vocabulary_of,
)
from training.errors import DataError

TEXT = "The cat sat.\nThe dog ran!\n\nThe cat's dog sat on the mat.\nA cat and a dog.\n" * 5


def test_the_sonnets_have_their_structure():
    poems = read_sonnets().strip("\n").split("\n\n")

    lines = [poem.split("\n") for poem in poems]

    assert len(poems) == 154
    assert sum(map(len, lines)) == 2155
    expected = {99: 15, 126: 12}
    assert all(len(p) == expected.get(n, 14) for n, p in enumerate(lines, start=1))
    assert all(line == line.strip() and line for poem in lines for line in poem)
    assert all(line[0].isupper() or line[0] in "'\"" for poem in lines for line in poem)


def test_known_first_and_last_lines_of_sonnets():
    poems = read_sonnets().strip("\n").split("\n\n")

    def first(n):
        return poems[n - 1].split("\n")[0]

    assert first(1) == "From fairest creatures we desire increase,"
    assert first(18) == "Shall I compare thee to a summer's day?"
    assert first(29).startswith("When, in disgrace with fortune and men's eyes")
    assert first(73).startswith("That time of year thou mayst in me behold")
    assert first(116).startswith("Let me not to the marriage of true minds")
    assert first(130).startswith("My mistress' eyes are nothing like the sun")
    assert poems[153].split("\n")[-1].rstrip(".") == (
        "Love's fire heats water, water cools not love"
    )


def test_no_line_of_the_sonnets_stands_twice_but_the_shared_couplet():
    lines = [line for line in read_sonnets().split("\n") if line]

    repeated = {line for line in lines if lines.count(line) > 1}

    assert len(repeated) <= 2  # 36 and 96 end alike


def test_words_keep_inner_apostrophes_and_p1_cuts_at_them():
    line = ["Thy beauty's field, feel'st 'tis"]

    assert Tokenizer()(line) == ["thy", "beauty's", "field", ",", "feel'st", "'", "tis", NEWLINE]
    p1 = tokenizer_for("p1", Tokenizer())
    assert p1(line) == re.findall(r"\w+|[^\w\s]", line[0])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e", 2),  # Hindi
        ("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0e04\u0e23\u0e31\u0e1a", 2),  # Thai
        ("cafe\u0301 nai\u0308ve", 2),  # accents as marks of their own
        ("\u0130stanbul", 1),  # whose small letter is i and a dot above
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", 1),  # Persian, with a joiner
    ],
)
def test_a_mark_belongs_to_its_letter(line, words):
    assert Tokenizer(line_ends="drop")([line]) == line.lower().split()
    assert len(line.split()) == words


def test_a_curly_apostrophe_is_a_straight_one_and_unk_in_a_text_is_one_token():
    words = Tokenizer(line_ends="drop")

    assert words(["Don\u2019t stop"]) == words(["don't stop"]) == ["don't", "stop"]
    assert words(["a <unk>, b<UNK>"]) == ["a", "<unk>", ",", "b", "<unk>"]
    assert Tokenizer(level="char", line_ends="drop")(["\u2019"]) == ["\u2019"]


def test_the_tokens_of_the_sonnets_are_those_of_the_published_figures():
    lines = read_sonnets().removesuffix("\n").split("\n")
    p1 = tokenizer_for("p1", Tokenizer())

    digests = [hashlib.sha256(repr(t(lines)).encode()).hexdigest()[:16] for t in (Tokenizer(), p1)]

    assert digests == ["3ef44a387a06468b", "c591aea9297975a7"]


def test_line_ends_are_dropped_or_counted_as_asked():
    lines = ["a b", "", "c"]

    assert Tokenizer(line_ends="drop")(lines) == ["a", "b", "c"]
    assert Tokenizer(line_ends="nonblank")(lines) == ["a", "b", NEWLINE, "c", NEWLINE]
    assert Tokenizer(line_ends="all")(lines) == ["a", "b", NEWLINE, NEWLINE, "c", NEWLINE]
    assert Tokenizer(level="char", line_ends="all")(["Ab", ""]) == ["a", "b", NEWLINE, NEWLINE]


def test_a_protocol_refuses_a_setting_changed_beside_it():
    with pytest.raises(ValueError, match=r"^line_ends=all is fixed by protocol=p1 to drop"):
        tokenizer_for("p1", Tokenizer(line_ends="all"))


def test_joined_tokens_read_like_text():
    tokens = ["when", ",", "in", "disgrace", NEWLINE, "and", "eyes", "!"]

    assert join_tokens(tokens, "word") == "when, in disgrace\nand eyes!"
    assert join_tokens("ab\nc", "char") == "ab\nc"


def small(**settings):
    defaults = {"context_size": 2, "split": (0.5, 0.2, 0.1, 0.2), "min_count": 1}
    return text_splits(lambda: TEXT, "a text", **(defaults | settings))


def test_blocks_are_contiguous_and_each_token_after_the_first_window_is_predicted_once():
    splits = small()
    blocks = [splits.train, splits.val, splits.calibration, splits.test]

    predicted = [splits.class_names[i] for block in blocks for i in block.targets]

    lines = TEXT.removesuffix("\n").split("\n")
    known = set(splits.class_names)
    expected = [t if t in known else UNK for t in Tokenizer()(lines)]
    assert predicted == expected[2:]
    train_tokens = Tokenizer()(lines[: len(lines) // 2])
    assert len(splits.train) == len(train_tokens) - 2


def test_characters_are_cut_at_the_exact_share():
    splits = small(level="char", line_ends="all", lowercase=False, split=(0.8, 0, 0.1, 0.1))
    blocks = [splits.train, splits.val, splits.calibration, splits.test]

    predicted = "".join(splits.class_names[i] for block in blocks for i in block.targets)

    assert predicted == TEXT[2:]
    ends = [int(0.8 * len(TEXT)), int(0.9 * len(TEXT))]
    assert TEXT[ends[1] - 1] != "\n"  # not where a line ends
    sizes = [ends[0] - 2, 0, ends[1] - ends[0], len(TEXT) - ends[1]]
    assert [len(block) for block in blocks] == sizes


def test_a_window_holds_the_tokens_before_its_target_across_blocks():
    splits, backwards = small(), small(nearest_first=True)

    stream = torch.cat([splits.train.inputs[0], *[b.targets for b in (splits.train, splits.val)]])
    at = 2 + len(splits.train)  # the first target of val

    assert splits.val.inputs[0].tolist() == stream[at - 2 : at].tolist()
    assert backwards.val.inputs[0].tolist() == stream[at - 2 : at].flip(0).tolist()


def test_the_vocabulary_and_counts_come_from_the_training_block_alone():
    text = "a a b b rare\n" * 4 + "a heldout b\n"
    splits = text_splits(
        lambda: text, "t", context_size=1, split=(0.8, 0, 0, 0.2), line_ends="drop"
    )

    assert splits.class_names == (UNK, "a", "b", "rare")
    assert splits.class_counts.tolist() == [0, 7, 8, 4]  # the very first token has no window
    assert splits.test.targets.tolist() == [1, 0, 2]


def test_words_below_the_minimum_count_are_unknown_everywhere():
    words = vocabulary_of(["x", "x", "y", "z", "z", "z"], min_count=2, unk=True)

    assert words == (UNK, "z", "x")
    assert encode(["y", "x", "q"], words) == [0, 2, 0]


def test_without_unk_an_unseen_token_is_refused_by_name():
    with pytest.raises(DataError, match=r"has no <unk> \('dog'\); train with data.unk=true"):
        text_splits(
            lambda: "a b\na b\na b\na dog\n",
            "t",
            context_size=1,
            split=(0.75, 0, 0, 0.25),
            min_count=1,
            unk=False,
        )


def test_the_protocol_line_says_what_a_perplexity_was_measured_on():
    splits = sonnets(context_size=4, protocol="p1")

    share = (splits.test.targets == 0).double().mean().item()
    assert splits.protocol == (
        r"sonnets p1: words \w+|[^\w\s], cased, line ends dropped;"
        f" vocabulary {splits.num_classes:,} (min count 2), <unk> {share:.1%} of targets and scored"
    )
    assert 0.1 < share < 0.25


def test_too_short_a_text_is_refused():
    with pytest.raises(DataError, match=r"2 training tokens are too few for data.context_size=2"):
        text_splits(lambda: "one two\n", "t", context_size=2, line_ends="drop", split=(1, 0, 0, 0))


def test_a_text_that_cannot_be_split_or_has_no_words_says_which():
    with pytest.raises(DataError, match=r"split by lines, of which there are 1\)"):
        text_splits(lambda: "a b c " * 400, "text", context_size=2)
    with pytest.raises(DataError, match=r"no two words come data\.min_count=2 times"):
        text_splits(
            lambda: "\n".join(f"w{i} v{i}" for i in range(40)),
            "text",
            context_size=2,
            line_ends="drop",
        )


def test_a_text_that_says_unk_means_the_one_of_the_vocabulary():
    splits = text_splits(lambda: "a <unk> b\n" * 40, "t", context_size=1, level="whitespace")

    assert sorted(splits.class_names) == ["\n", "<unk>", "a", "b"]
    assert splits.class_counts[0] == (splits.train.targets == 0).sum() > 20


def test_text_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")

    with pytest.raises(DataError, match=r"latin.txt: not UTF-8 \(byte 2\)"):
        read_text(tmp_path / "latin.txt")


class Page(BytesIO):
    """What a server answers."""

    def info(self):
        return Message()


def test_a_download_that_is_not_the_file_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "urlopen", lambda _: Page(b"<html>sign in</html>"))

    with pytest.raises(DataError, match=r"could not be downloaded from https://.* give a copy"):
        read_tiny_shakespeare(None, str(tmp_path))

    assert list(tmp_path.iterdir()) == []


def test_a_verified_download_is_kept_and_not_fetched_again(tmp_path, monkeypatch):
    content, fetched = b"to be or not\n", []
    monkeypatch.setattr(corpus, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(
        torch.hub, "urlopen", lambda request: fetched.append(request.full_url) or Page(content)
    )

    texts = [read_tiny_shakespeare(None, str(tmp_path / "new")) for _ in range(2)]

    assert texts == [content.decode()] * 2
    assert len(fetched) == 1 and fetched[0].startswith("https://")
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["tinyshakespeare.txt"]


def test_a_copy_that_is_another_text_is_refused(tmp_path):
    copy = tmp_path / "copy.txt"
    copy.write_text("not it", encoding="utf-8")

    with pytest.raises(DataError, match=r"copy.txt: not tiny Shakespeare"):
        read_tiny_shakespeare(str(copy), "nowhere")


PROSE = "Le caf\u00e9 de la gare est ferm\u00e9.\nUn \u00e9t\u00e9 \u00e0 Gen\u00e8ve.\n" * 3
CHINESE = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002\n\u6211\u4eec\u53bb\u516c\u56ed\u3002\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (PROSE, "latin-1"),
        (PROSE.replace("ferm", "\u201cferm\u201d"), "cp1252"),
        (CHINESE, "gbk"),
        (TEXT, "utf-16-le"),
        (TEXT, "utf-16-be"),
        (CHINESE, "utf-16"),
        (TEXT, "utf-32"),
    ],
)
def test_another_encoding_is_answered_with_a_command_that_converts_the_file(
    text, encoding, tmp_path
):
    file = tmp_path / "a text.txt"
    file.write_bytes(text.encode(encoding))

    with pytest.raises(DataError) as error:
        read_text(file)

    (command,) = re.findall("`(.*)`", str(error.value))
    if shutil.which("iconv"):
        new = tmp_path / "new.txt"
        subprocess.run(command.replace("NEW", shlex.quote(str(new))), shell=True, check=True)
        assert read_text(new) == text


def test_an_empty_text_is_told_so_and_line_ends_become_newlines(tmp_path):
    file = tmp_path / "text.txt"
    for content in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"text\.txt: is empty"):
            read_text(file)

    file.write_bytes(b"one\r\ntwo\rthree\n")
    assert read_text(file) == "one\ntwo\nthree\n"
