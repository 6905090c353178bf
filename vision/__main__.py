"""Train an image classifier with a chosen loss: `train-vision`."""

import signal


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the rest loads: no traceback
    from training.cli.main import main

    main("vision")


if __name__ == "__main__":
    main()
