"""What the small scripts share: arguments, and one line with an exit code for a user's mistake."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from training.cli.screen import keep_printing
from training.errors import ConfigError, UserError
from training.run.untrusted import printable


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake in one line, without printing the usage."""

    def add_trust(self) -> None:
        """Add `--trust`, for a script that builds the classes which a run folder names."""
        what = "a package of your own that the run's settings may name; may be repeated"
        self.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help=what)

    def error(self, message: str) -> NoReturn:
        """Raise the mistake, so that `run_script` prints it."""
        raise ConfigError(message)


def run_script(main: Callable[[], None]) -> None:
    """Call `main`; print a user's mistake as one line and exit with its code.

    A file or folder that cannot be read or written is such a mistake, too. Ctrl-C prints nothing.
    """
    keep_printing()
    try:
        main()
    except KeyboardInterrupt as stop:
        sys.exit(getattr(stop, "exit_code", 130))
    except (UserError, OSError) as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, UserError) else ConfigError.exit_code)
