"""The command line, and `train` for Python: `run = train("vision", "loss=focal", "debug=smoke")`."""

from training.cli.main import train

__all__ = ["train"]
