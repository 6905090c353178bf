"""SIGTERM and Ctrl-C: before training they stop at once, while it runs at the end of a step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """A signal that was obeyed; no `Exception`, so that it ends a sweep, too."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def stop_now(number: int) -> None:
    """Obey a signal where it arrives."""
    message = "interrupted with no training under way: nothing was cut off, nothing is lost"
    raise Interrupted(number, message)


def interruption(error: BaseException | None) -> Interrupted | None:
    """Return the signal behind an error: it may have broken what a library was just doing."""
    while error:
        if isinstance(error, Interrupted):
            return error
        error = error.__context__
    return None


@contextmanager
def handling(handler: Callable[[int], None]) -> Iterator[None]:
    """Give SIGTERM and SIGINT to `handler` while the block runs."""
    if threading.current_thread() is not threading.main_thread():  # Python allows no other
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {n: signal.signal(n, lambda number, _: handler(number)) for n in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
