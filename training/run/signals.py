"""SIGTERM and Ctrl-C.

Before training they stop the command at once; during training, at the end of the step or of the
evaluation under way.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """A signal that was obeyed.

    It derives from KeyboardInterrupt because Hydra and `run_job` catch `Exception`, and go on.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def stop_now(number: int) -> None:
    """Obey a signal where it arrives."""
    message = "interrupted with no training under way: nothing was cut off, nothing is lost"
    raise Interrupted(number, message)


def interruption(error: BaseException | None) -> Interrupted | None:
    """Return the signal behind an error, if there is one.

    A library that a signal broke into may raise an error of its own instead, so the contexts of the
    error are searched.
    """
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
