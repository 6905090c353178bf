"""Train an n-gram language model of Shakespeare with a chosen loss: `train-ngram`."""

import signal


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the rest loads: no traceback
    from training.cli.main import main

    main("ngram")


if __name__ == "__main__":
    main()
