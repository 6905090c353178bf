"""What is read from a run folder is data, whoever wrote it: no link, no odd text, no odd number."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.errors import CheckpointError, UserError, first_line


@contextmanager
def folder_at_fault(folder: Path) -> Iterator[None]:
    """Say in one line what fails because of what a run folder holds: it may come from anyone."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # types and sizes that no constructor thought of raise anything
        problem = f"{type(error).__name__}: {first_line(error)[:400]}"
        raise CheckpointError(f"{folder}: cannot be used as it is ({problem})") from error


def read_json(text: str) -> Any:
    """Return what JSON of a run says, its texts `printable` and its numbers of 64 bits."""

    def safe(value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("a number of more than 64 bits")
        return printable(value) if isinstance(value, str) else value

    try:
        return changed(json.loads(text), safe, printable)
    except RecursionError as error:
        raise ValueError("lists within lists without end") from error


def changed(
    value: Any, change: Callable[[Any], Any], change_key: Callable[[Any], Any] = lambda key: key
) -> Any:
    """Return plain data in which each value that holds no others is changed, and each key."""
    if isinstance(value, dict):
        return {change_key(k): changed(v, change, change_key) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [changed(inner, change, change_key) for inner in value]
    return change(value)


def printable(text: str, keep: str = "") -> str:
    r"""Return text in which what steers a terminal, or is not seen, is written as in Python.

    >>> printable("red \x1b[31m, tab \t")
    'red \\x1b[31m, tab \\t'
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def is_plain(file: Path) -> bool:
    """Say whether that is a file, and no link or pipe."""
    return file.is_file() and not file.is_symlink()


def refuse_links(folder: Path, *, to_write: bool = False) -> None:
    """Refuse a folder that holds a link: what is read or written in it could be anywhere.

    What is written (`to_write`) may have no second name either, which a hard link gives it. The
    folder may be a link itself, because that path was typed.
    """
    for base, folders, files in os.walk(folder):
        for path in (Path(base, name) for name in (*folders, *files)):
            is_usual = path.is_file() or path.is_dir() or not os.path.lexists(path)  # gone by now
            is_usual &= not to_write or not path.is_file() or path.stat().st_nlink < 2
            if path.is_symlink() or not is_usual:
                raise CheckpointError(
                    f"{path}: is a link, or no file; a run folder is read and written only where it"
                    " holds nothing but files: put a copy in its place, or delete it"
                )
