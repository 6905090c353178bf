"""The texts: the bundled Sonnets, a download that is verified, or any file; each is one string."""

import codecs
import hashlib
import re
import shlex
from pathlib import Path

import torch

from training.errors import DataError

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def read_sonnets(numbers: list[int] | None = None) -> str:
    """Return the Sonnets, or those with the given numbers, with a blank line between two."""
    text = (Path(__file__).parent / "text" / "sonnets.txt").read_text(encoding="utf-8")
    if numbers is None:
        return text
    sonnets = text.strip("\n").split("\n\n")
    if not numbers or any(isinstance(n, bool) or n not in range(1, 155) for n in numbers):
        raise ValueError(f"numbers must be sonnets from 1 to 154, got {list(numbers)}")
    return "\n\n".join(sonnets[n - 1] for n in numbers) + "\n"


def read_text(path: Path) -> str:
    """Return the UTF-8 text of a file, with every line end as a newline."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"data.path={path}: cannot be read ({error.strerror}); give the path of a text file"
        ) from None
    try:
        text = content.decode("utf-8-sig")
        problem = f"holds a NUL character (byte {content.index(0)})" if "\0" in text else ""
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 (byte {error.start})"
    if problem:
        source = likely_encoding(content)
        raise DataError(
            f"{path}: {problem}; it may be {source}: convert it with"
            f" `iconv -f {source} -t utf-8 {shlex.quote(str(path))} > NEW`"
        )
    if not text:
        raise DataError(f"{path}: is empty; give a text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def likely_encoding(content: bytes) -> str:
    """Return the name for iconv of an encoding that bytes which are no UTF-8 text may be in."""
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    if b"\0" in content:  # the empty half of a letter of ASCII
        return "UTF-16LE" if content.index(0) % 2 else "UTF-16BE"
    # letters beyond ASCII take two bytes in GBK; in Latin-1 they seldom stand side by side
    beyond = re.findall(rb"[\x80-\xff]+", content)
    if sum(len(run) % 2 == 0 for run in beyond) > len(beyond) / 2 and _decodes(content, "gb18030"):
        return "GB18030"
    has_controls = re.search(rb"[\x80-\x9f]", content)  # which no text in Latin-1 has
    return "WINDOWS-1252" if has_controls and _decodes(content, "cp1252") else "ISO-8859-1"


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        return bool(content.decode(encoding))
    except UnicodeDecodeError:
        return False


def read_tiny_shakespeare(path: str | None, root: str, download: bool = True) -> str:
    """Return the text known as tiny Shakespeare: from `path`, or from a download kept in `root`."""
    file = Path(path or Path(root) / "tinyshakespeare.txt")
    if path is None and not file.exists():
        if not download:
            raise DataError(f"{file} is missing; data.download=true downloads it")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # the file appears only once its content is verified, whoever else asks for it
            torch.hub.download_url_to_file(URL, str(file), SHA256, progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: its SHA-256 is another
            raise DataError(
                f"{file} is missing and could not be downloaded from {URL} ({error});"
                " give a copy with data.path=FILE, or use data=sonnets, which needs no network"
            ) from None
    text = read_text(file)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        raise DataError(
            f"{file}: not tiny Shakespeare (SHA-256 {found}, expected {SHA256});"
            " delete it to download it again, or use data=text_file for another text"
        )
    return text
