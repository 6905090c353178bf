"""Train a task, known by name or by the path of its primary config: `python -m training TASK`."""

import signal


def main(task: str = "") -> None:
    """Run the command line; without a task, its first word is one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the rest loads: no traceback
    from training.cli.main import main

    main(task)


if __name__ == "__main__":
    main()
