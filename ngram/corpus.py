"""The texts: the bundled Sonnets, a download that is verified, or any file; each is one string."""

import fcntl
import hashlib
import os
import urllib.request
from pathlib import Path

from training.errors import DataError

TINY_SHAKESPEARE = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINY_SHAKESPEARE_BYTES = 1_115_394


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
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 (byte {error.start}); convert it, for example with"
            f" `iconv -t utf-8 {path}`"
        ) from None
    except OSError as error:
        raise DataError(
            f"data.path={path}: cannot be read ({error.strerror}); give the path of a text file"
        ) from None


def read_tiny_shakespeare(path: str | None, root: str) -> str:
    """Return the text known as tiny Shakespeare: from `path`, or from a download kept in `root`."""
    file = Path(path or Path(root) / "tinyshakespeare.txt")
    if path is None and not file.exists():
        _download(TINY_SHAKESPEARE, file, TINY_SHAKESPEARE_SHA256, TINY_SHAKESPEARE_BYTES)
    text = read_text(file)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != TINY_SHAKESPEARE_SHA256:
        raise DataError(
            f"{file}: not tiny Shakespeare (SHA-256 {found}, expected {TINY_SHAKESPEARE_SHA256});"
            " delete it to download it again, or use data=text_file for another text"
        )
    return text


def _download(url: str, file: Path, sha256: str, size: int) -> None:
    """Download `url` into `file`, which appears only once its content is verified.

    Where several processes ask for the file, one downloads it while the others wait for a lock.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(file.parent, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it ends
        if not file.exists():
            with urllib.request.urlopen(url, timeout=30) as response:
                content = response.read(size + 1)
            found = hashlib.sha256(content).hexdigest()
            if found != sha256:
                raise OSError(f"received {len(content)} bytes with SHA-256 {found}, not {sha256}")
            file.with_suffix(".part").write_bytes(content)
            os.replace(file.with_suffix(".part"), file)
        os.close(lock)
    except OSError as error:  # URLError and timeouts are OSErrors
        raise DataError(
            f"{file} is missing and could not be downloaded ({url}: {error});"
            " give a copy with data.path=FILE, or use data=sonnets, which needs no network"
        ) from None
