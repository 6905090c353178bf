"""Hydra 1.3.8 and 1.4, called in one way."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hydra
from omegaconf import OmegaConf

IS_BEFORE_1_4 = hydra.__version__.startswith("1.3.")
VERSION_BASE = {"version_base": "1.3"} if IS_BEFORE_1_4 else {}  # 1.4 warns where it is given
# two names of one function: OmegaConf 2.3 has the second for another, 2.4 warns of the first
register_resolver: Callable[..., None] = (
    OmegaConf.register_new_resolver if IS_BEFORE_1_4 else OmegaConf.register_resolver
)


@contextmanager
def help_that_is_no_text() -> Iterator[None]:
    """Let argparse take the help of hydra-core 1.3.8, an object that becomes a text when printed.

    Only Python 3.14 needs this: its argparse looks for a "%" in the help of each argument, which
    this object refuses (Hydra's issue 3121). Other versions of Python, and Hydra 1.4, do without.
    """
    formatter = argparse.HelpFormatter
    get_help = formatter._get_help_string

    def get_text(self: argparse.HelpFormatter, action: argparse.Action) -> str:
        return str(get_help(self, action))

    formatter._get_help_string = get_text  # type: ignore[method-assign]
    try:
        yield
    finally:
        formatter._get_help_string = get_help  # type: ignore[method-assign]
