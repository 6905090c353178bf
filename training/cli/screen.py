"""What a command prints to: losing it, as when a terminal is closed, stops nothing."""

import io
import multiprocessing
import os
import sys
from typing import cast


class Screen(io.FileIO):
    """A file whose writes never fail: what it cannot take is lost."""

    def write(self, content: bytes) -> int:  # type: ignore[override]
        """Write what can be written; say that all was."""
        try:
            # of jobs side by side: the bar of their sweep, which is drawn again, gives way to it
            is_over_bar = multiprocessing.parent_process() and content != b"\n" and self.isatty()
            written = super().write(b"\r\x1b[K" * bool(is_over_bar) + content)
            return min(written or len(content), len(content))
        except OSError:  # it is closed, full, or nobody reads it
            return len(content)


def keep_printing() -> None:
    """Let what is printed from here on be lost where it cannot be written.

    A character that the screen's encoding lacks is shown as its number, here and in jobs.

    A stream that somebody else has put in the place of Python's own stays as it is.
    """
    os.environ.setdefault("PYTHONIOENCODING", ":backslashreplace")
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # else a run's file would take the place
        pass  # of a stream that was closed, and be printed to
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            binary = io.BufferedWriter(cast(io.FileIO, Screen(number, "w", closefd=False)))
            encoding = stream.encoding if stream else "utf-8"
            by_line = number == 2 or os.isatty(number)
            text = io.TextIOWrapper(binary, encoding, "backslashreplace", None, by_line)
            setattr(sys, name, text)
