"""A user's mistakes: each is one line, and each kind has its exit code."""

import sys


class UserError(Exception):
    """A mistake that the person at the keyboard can fix; printed as one line, no traceback."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """Be one line in a notebook, too, which calls this if it is there."""
        return [f"error: {self}"]


class ConfigError(UserError):
    """A setting with a wrong name or value."""

    exit_code = 2


class DivergedError(UserError):
    """A loss or gradient that is not finite."""

    exit_code = 3


class DataError(UserError):
    """Data that is missing or cannot be used."""

    exit_code = 4


class CheckpointError(UserError):
    """A run folder or checkpoint that cannot be read or written."""

    exit_code = 5


def warn(message: str) -> None:
    """Print what a run goes on without."""
    print(f"warning: {message}", file=sys.stderr)


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or of what caused it; its type where it has no words."""
    lines = str(error.__cause__ or error).strip().split("\n")
    return lines[0] or type(error).__name__


def check_setting(name: str, value: object, is_allowed: bool, allowed: str) -> None:
    """Raise a ValueError that names the setting, what is allowed and what came instead."""
    if not is_allowed:
        raise ValueError(f"{name} must be {allowed}, got {value}")
