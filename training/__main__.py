"""Train a task, known by name or by the path of its primary config: `python -m training TASK`."""

import signal


def main() -> None:
    """Run the command line; its first word is the task."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the rest loads: no traceback
    from training.cli.main import main

    main()


if __name__ == "__main__":
    main()
