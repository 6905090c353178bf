"""The command line, and `train`, which is the same for Python."""

from training.cli.main import train

__all__ = ["train"]
