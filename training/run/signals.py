"""SIGTERM, Ctrl-C, and SIGHUP, which comes when a terminal is closed.

Before training they stop the command at once; during training, at the end of the step or of the
evaluation under way.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import cast


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


def obeyed() -> set[signal.Signals]:
    """Return the signals that stop a run; SIGHUP is none where `nohup` has it ignored.

    Windows does not know SIGHUP.
    """
    numbers = {signal.SIGTERM, signal.SIGINT}
    hangup = getattr(signal, "SIGHUP", None)
    if hangup and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.add(hangup)
    return numbers


@contextmanager
def handling(handler: Callable[[int], None]) -> Iterator[None]:
    """Give the signals to `handler` while the block runs, also where they are held back."""
    if threading.current_thread() is not threading.main_thread():  # Python allows no other
        yield
        return
    before = {n: signal.signal(n, lambda number, _: handler(number)) for n in obeyed()}
    try:
        with _mask("SIG_UNBLOCK"):
            yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _mask(how: str) -> Iterator[None]:
    """Hold the signals back, or not, while the block runs; Windows has nothing of the kind."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(getattr(signal, how), obeyed())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def passed_on(came: list[int]) -> Iterator[None]:
    """Pass signals on to the workers of a parallel sweep while the block runs; add them to `came`.

    They are held back here and in the workers, which inherit that: a worker takes none before its
    first job (after it `in_a_job` keeps it alive), and others while it is at one.
    """
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # now: it would let signals through where it starts
    numbers, over = obeyed(), threading.Event()

    def pass_on() -> None:
        number = signal.sigwait(numbers)
        while not over.is_set():  # again and again, since each job that is left has to be told
            came[:] = [number]
            for worker in multiprocessing.active_children():
                with suppress(ProcessLookupError):
                    os.kill(cast(int, worker.pid), number)
            over.wait(0.2)

    with _mask("SIG_BLOCK"):
        thread = threading.Thread(target=pass_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.is_alive():
                signal.pthread_kill(cast(int, thread.ident), signal.SIGTERM)  # ends its wait
            thread.join()


def in_a_job(work: Callable[[], None]) -> None:
    """Obey signals while a worker does the work of a job; one between two jobs does nothing.

    It comes again in the next job. Holding it back would not do: threads that a job has started
    would take it, and all would end. Nor is it raised here: that would end the jobs of the other
    workers before they have saved.
    """
    for number in obeyed():
        signal.signal(number, lambda *_: None)
    try:
        with handling(stop_now):
            work()
    except (Interrupted, Exception) as error:
        if not interruption(error):  # a library that is interrupted may raise an error of its own
            raise
