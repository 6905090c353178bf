"""A user's mistakes: each is one line, and each kind has its exit code."""


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


def check_setting(name: str, value: object, is_allowed: bool, allowed: str) -> None:
    """Raise a ValueError that names the setting, what is allowed and what came instead."""
    if not is_allowed:
        raise ValueError(f"{name} must be {allowed}, got {value}")
